# SPDX-License-Identifier: Apache-2.0
"""zfs receive: from a stream to datasets and snapshots."""

import contextlib
import errno
import os
import pathlib
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO

from smartos_emulator.storage import (
    accepting,
    arriving,
    content,
    errors,
    framing,
    model,
    names,
    scan,
    views,
)

_CHECK_BYTES = 4 << 20
# What a record that is well framed but means nothing ends in.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)


class Receiving(accepting.Accepting):
    """Adds receive."""

    def receive(
        self,
        name: str,
        source: BinaryIO,
        *,
        unmounted: bool = False,
        resumable: bool = False,
        force: bool = False,
        exclude: Collection[str] = (),
        set: Mapping[str, str] | None = None,
        tail: str = "",
        origin: str | None = None,
        dry_run: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> list[str]:
        """zfs receive; tail "d" or "e" appends a part of the sent name. The snapshots received."""
        wish = accepting.Wish(
            unmounted, resumable, force, tuple(exclude), dict(set or {}), origin, dry_run, progress
        )
        reader = framing.Reader(source)
        header = accepting.checked(reader.header())
        if not header.get("package"):
            return [
                self._receive_one(
                    accepting.destination(name, header["to"], tail),
                    header,
                    reader,
                    wish,
                    ancestors=bool(tail),
                )
            ]
        reader.skip()
        if names.is_snapshot(name):
            raise errors.StorageError(
                "cannot receive", "cannot specify snapshot name for multi-snapshot stream"
            )
        return self._receive_package(name, header, reader, wish, tail)

    def _receive_package(
        self,
        name: str,
        package: dict[str, Any],
        reader: framing.Reader,
        wish: accepting.Wish,
        tail: str,
    ) -> list[str]:
        top = names.split(accepting.destination(name, f"{package['top']}@x", tail))[0]
        if wish.force and package["replicate"] and package["from"] and not wish.dry_run:
            self._drop_vanished(top, package)
        received: list[str] = []
        while True:
            header = accepting.checked(reader.header())
            if header.get("finished"):
                reader.skip()
                return received
            inside = header["to"][len(package["top"]) :]
            where = top + inside
            if self._has_already(where, header["guid"]):
                reader.skip()
                continue
            received.append(self._receive_one(where, header, reader, wish, ancestors=bool(tail)))

    def _has_already(self, where: str, guid: int) -> bool:
        with self.lock:
            return self.exists(where) and self.snap(where).guid == guid

    def _drop_vanished(self, top: str, package: dict[str, Any]) -> None:
        """With -F: what the sender has no longer goes here too."""
        if not self.exists(top):
            return
        sent = {top + one["name"][len(package["top"]) :]: one for one in package["datasets"]}
        with self.lock:
            for dataset in reversed(list(self.walk(self.datasets[top]))):
                if dataset.name not in self.datasets:
                    continue
                known = sent.get(dataset.name)
                if known is None:
                    self.destroy(dataset.name, recursive=True)
                    continue
                guids = {*known["snapshots"].values()}
                for snap in list(dataset.snapshots.values()):
                    if snap.guid not in guids and not snap.clones:
                        self.destroy(snap.name)

    # One stream

    def _receive_one(
        self,
        where: str,
        header: dict[str, Any],
        reader: framing.Reader,
        wish: accepting.Wish,
        *,
        ancestors: bool,
    ) -> str:
        name, short = names.split(where)
        assert short is not None
        with contextlib.ExitStack() as claims:
            with self.lock:
                if why := names.fault(where, snapshot=True):
                    raise errors.StorageError("cannot receive", why)
                if ancestors:
                    self._create_ancestors(name)
                doing, base = self.check_target(name, short, header, wish)
                if not wish.dry_run:
                    target = self._target(name, short, header, wish, doing, base)
                    claims.enter_context(self.reserve(name, why=doing))
                    claims.enter_context(self.pin(*([base] if base else [])))
            if not wish.dry_run:
                return self._receive_into(target, header, reader, wish)
        _say(where, header, wish)
        reader.skip()
        return where

    def _receive_into(
        self,
        target: accepting.Target,
        header: dict[str, Any],
        reader: framing.Reader,
        wish: accepting.Wish,
    ) -> str:
        try:
            _say(f"{target.dataset.name}@{target.short}", header, wish)
            arrival = self._arrive(target, header, reader, wish)
            snap = self._arrived(target, header, arrival)
            with self.lock:
                self._complete(target, header, snap, wish)
        except BaseException:
            self._give_up(target)
            raise
        self.tell("receive", snap.name)
        return snap.name

    def _target(
        self,
        name: str,
        short: str,
        header: dict[str, Any],
        wish: accepting.Wish,
        doing: str,
        base: model.Snapshot | None,
    ) -> accepting.Target:
        dataset = self.datasets.get(name)
        if header["resume"]:
            assert dataset is not None
            return accepting.Target(
                dataset, short, dataset.inconsistent, base, doing, not wish.unmounted
            )
        if dataset is not None:
            self._refuse_inside(dataset, wish.set, "cannot receive")
        if dataset is not None and base is not None and base.dataset is dataset:
            self._roll_back_to(dataset, base, doing)
            target = accepting.Target(dataset, short, False, base, doing, dataset.mounted)
        elif dataset is not None:
            target = accepting.Target(dataset, short, False, base, doing, dataset.mounted)
        else:
            dataset = self._new_target(name, header, base, wish, doing)
            target = accepting.Target(dataset, short, True, base, doing, not wish.unmounted)
        self._start(target, header, wish)
        return target

    def _roll_back_to(self, dataset: model.Dataset, base: model.Snapshot, doing: str) -> None:
        line = list(dataset.snapshots.values())
        for newer in reversed(line[line.index(base) + 1 :]):
            if newer.clones or newer.holds or newer.pins:
                raise errors.StorageError(doing, "dataset is busy")
            self.destroy(newer.name)

    def _new_target(
        self,
        name: str,
        header: dict[str, Any],
        base: model.Snapshot | None,
        wish: accepting.Wish,
        doing: str,
    ) -> model.Dataset:
        kind = header["kind"]
        local = self._parsed(wish.set, kind, "cannot receive", new=True)
        self._refuse_inside(self.datasets.get(names.parent(name) or ""), local, "cannot receive")
        if kind == "volume":
            local = {"volblocksize": header["volblocksize"], "volsize": header["volsize"], **local}
        dataset = self._new(name, kind, local, doing, base)
        dataset.received = self.received_properties(header, wish)
        dataset.inconsistent = True
        self._materialize(dataset)
        self._publish(dataset)
        return dataset

    def _start(
        self, target: accepting.Target, header: dict[str, Any], wish: accepting.Wish
    ) -> None:
        """An empty place for the content; what the stream builds on is copied when it starts."""
        dataset = target.dataset
        arriving.discard(self._arriving(dataset))
        if wish.resumable:
            dataset.partial = {
                "guid": header["guid"],
                "from": header["from"],
                "to": header["to"],
                "object": 0,
                "offset": 0,
                "properties": bool(header["props"]),
                "token": "",
            }
            self._note(dataset, 0, 0)

    def _arriving(self, dataset: model.Dataset) -> pathlib.Path:
        return self.state / "receiving" / str(dataset.oid)

    def _note(self, dataset: model.Dataset, number: int, offset: int) -> None:
        with self.lock:
            assert dataset.partial is not None
            dataset.partial.update(object=number, offset=offset)
            state = {key: value for key, value in dataset.partial.items() if key != "token"}
            dataset.partial["token"] = framing.token(state)
            self.commit(dataset)

    def _arrive(
        self,
        target: accepting.Target,
        header: dict[str, Any],
        reader: framing.Reader,
        wish: accepting.Wish,
    ) -> arriving.Arrival:
        dataset, path = target.dataset, self._arriving(target.dataset)
        if header["resume"] and header["resume"] != [0, 0] and not path.exists():
            raise errors.StorageError(target.doing, "invalid backup stream")
        if not header["resume"] or not path.exists():
            self._lay_base(target, header)
        arrival = arriving.Arrival(path, dataset.kind)
        if header["resume"]:
            arrival.object, arrival.offset = header["resume"]
        try:
            self._apply(target, arrival, reader, wish)
            arrival.finish()
        except framing.Damaged:
            raise errors.StorageError(
                target.doing, self._incomplete(target, arrival, wish)
            ) from None
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise errors.StorageError(
                target.doing, "out of space" if full else "I/O error"
            ) from error
        except _NONSENSE as error:
            raise errors.StorageError(target.doing, "invalid backup stream") from error
        finally:
            if dataset.partial:
                self._note(dataset, arrival.object, arrival.offset)
            arrival.close()
        return arrival

    def _lay_base(self, target: accepting.Target, header: dict[str, Any]) -> None:
        path = self._arriving(target.dataset)
        if target.base is not None:
            with self.pin(target.base):
                self._thaw(target.base, path)
        elif target.dataset.kind == "volume":
            path.touch()
        else:
            path.mkdir()
        if target.dataset.kind == "volume":
            os.truncate(path, int(header["volsize"]))

    def _apply(
        self,
        target: accepting.Target,
        arrival: arriving.Arrival,
        reader: framing.Reader,
        wish: accepting.Wish,
    ) -> None:
        unchecked = arrived = 0
        for kind, payload in reader.records():
            size = arrival.apply(kind, payload)
            unchecked += size
            arrived += size
            if unchecked >= _CHECK_BYTES:
                unchecked = 0
                self._check_room(target, arrived)
                if target.dataset.partial:
                    self._note(target.dataset, arrival.object, arrival.offset)
        self._check_room(target, arrived)

    def _check_room(self, target: accepting.Target, arrived: int) -> None:
        with self.lock:
            room, reason = self._room_in(target.dataset)
        if arrived <= room:
            return
        if reason == errno.EDQUOT:
            raise errors.StorageError(
                target.doing, f"destination {target.dataset.name} space quota exceeded."
            )
        raise errors.StorageError(target.doing, "out of space")

    def _incomplete(
        self, target: accepting.Target, arrival: arriving.Arrival, wish: accepting.Wish
    ) -> str:
        if not target.dataset.partial:
            return "checksum mismatch or incomplete stream"
        self._note(target.dataset, arrival.object, arrival.offset)
        return (
            "checksum mismatch or incomplete stream.\n"
            "Partially received snapshot is saved.\n"
            "A resuming stream can be generated on the sending system by running:\n"
            f"    zfs send -t {target.dataset.partial['token']}"
        )

    def _give_up(self, target: accepting.Target) -> None:
        """Leave things as they were, except for what a resumable receive keeps."""
        dataset = target.dataset
        with self.lock:
            if dataset.partial is not None:
                return
            arriving.discard(self._arriving(dataset))
            if target.fresh and self.datasets.get(dataset.name) is dataset:
                self._destroy_dataset(dataset)

    # Putting it in place

    def _arrived(
        self, target: accepting.Target, header: dict[str, Any], arrival: arriving.Arrival
    ) -> model.Snapshot:
        """The snapshot with its files, not in the books yet."""
        view = self._arrived_view(target, arrival)
        with self.lock:
            snap = self._received_snapshot(target, header, view)
        if target.dataset.kind == "volume":
            content.copy_volume(arrival.path, self.snapshot_path(snap), int(header["volsize"]))
        else:
            content.copy_tree(arrival.path, self.snapshot_path(snap))
        return snap

    def _complete(
        self,
        target: accepting.Target,
        header: dict[str, Any],
        snap: model.Snapshot,
        wish: accepting.Wish,
    ) -> None:
        dataset = target.dataset
        if not target.fresh:
            dataset.received.update(self.received_properties(header, wish))
            dataset.props.update(self._parsed(wish.set, dataset.kind, "cannot receive", new=False))
        if dataset.kind == "volume":
            dataset.props["volsize"] = header["volsize"]
        dataset.inconsistent = False
        dataset.partial = None
        with self.moving(dataset):
            self.swap_in(dataset, self._arriving(dataset))
        dataset.snapshots[snap.short] = snap
        self.by_guid.setdefault(snap.guid, set()).add(snap)
        self.set_view(dataset, snap.view)
        self.commit(dataset)
        if target.fresh and target.mount:
            self.mount_new(dataset)

    def _arrived_view(self, target: accepting.Target, arrival: arriving.Arrival) -> views.View:
        dataset = target.dataset
        old = target.base.view if target.base else self.views.fresh(dataset.kind)
        scanner = scan.Scanner(self.views, old, compress=self._compresses(dataset))
        if dataset.kind == "volume":
            scanner.volume(str(arrival.path))
        else:
            scanner.tree(str(arrival.path), frozenset())
        for key in [key for key in scanner.items if key.startswith(scan.BOOKED)]:
            if int(key[1:]) not in arrival.booked:
                del scanner.items[key]
        for number, size in arrival.booked.items():
            key = f"{scan.BOOKED}{number}"
            if key not in scanner.items:
                extent = self.views.extent(views.sectors(size), views.sectors(size))
                scanner.items[key] = views.Item((size, 0), (extent,))
        return self.views.changed(scanner.items)

    def _received_snapshot(
        self, target: accepting.Target, header: dict[str, Any], view: views.View
    ) -> model.Snapshot:
        props: dict[str, str] = {}
        if target.dataset.kind == "volume":
            props["volsize"] = header["volsize"]
        return model.Snapshot(
            self.next_oid(),
            target.dataset,
            target.short,
            header["guid"],
            self.next_txg(),
            header["creation"],
            view,
            props,
            dict(header["snapshot_props"]),
        )

    # Interrupted receives

    def abort_receive(self, name: str) -> None:
        """zfs receive -A name"""
        with self.lock:
            dataset = self.datasets.get(name)
            if dataset is None or dataset.partial is None:
                raise errors.StorageError(
                    f"'{name}' does not have any resumable receive state to abort"
                )
            dataset.partial = None
            arriving.discard(self._arriving(dataset))
            if dataset.inconsistent:
                self._destroy_dataset(dataset)
            else:
                self.commit(dataset)

    def drop_unfinished(self) -> None:
        """After a crash: what was being received and cannot be resumed is as if never begun."""
        for dataset in [ds for ds in self.datasets.values() if ds.inconsistent]:
            if dataset.partial is None:
                self._destroy_dataset(dataset)


def _say(where: str, header: dict[str, Any], wish: accepting.Wish) -> None:
    if wish.progress:
        word = "would receive" if wish.dry_run else "receiving"
        what = "incremental" if header["from"] else "full"
        wish.progress(f"{word} {what} stream of {header['to']} into {where}\n")
