# SPDX-License-Identifier: Apache-2.0
"""The datasets of a node's pools: finding them, keeping them, telling others that they changed."""

import contextlib
import datetime
import functools
import itertools
import os
import pathlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from smartos_emulator.storage import content, errors, journal, model, names, views

Listener = Callable[[str, str], None]
_EXTENTS_A_RUN = 10**12


class BookLock:
    """A re-entrant lock; what is to be told is told when its holder lets go of it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._owner = 0
        self._pending: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        pending: list[Callable[[], None]] = []
        if not self._depth:
            self._owner = 0
            pending, self._pending = self._pending, []
        self._lock.release()
        for call in pending:
            call()

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call now, or as soon as this thread has let go."""
        if self._owner == threading.get_ident():
            self._pending.append(call)
        else:
            call()


class Tree:
    """Datasets by name. `lock` guards the books only, never a copy or a stream."""

    def __init__(
        self,
        root: pathlib.Path,
        state: pathlib.Path,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self.lock = BookLock()
        self.root = root
        self.state = state
        self._now = now
        self._listeners: list[Listener] = []
        self._random = random.SystemRandom()
        for folder in ("data", "snapshots", "receiving", "restoring"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        self.views = views.Store(state / "views")
        self.datasets: dict[str, model.Dataset] = {}
        self.by_guid: dict[int, set[model.Snapshot]] = {}
        self._reserved: set[str] = set()
        self.retired: list[int] = []
        self._discarded = itertools.count()
        self._journal = journal.Journal(state)
        self._meta: dict[str, Any] = {"oid": 100, "txg": 4, "extents": 0, "pools": {}}
        self._load()

    def close(self) -> None:
        self._journal.close()

    # Keeping

    def _load(self) -> None:
        records = self._journal.records
        self._meta.update(records.get("meta", {}))
        self._meta["extents"] += _EXTENTS_A_RUN
        self.views.number_from(self._meta["extents"])
        self._journal.commit({"meta": dict(self._meta)})
        loaded = [(self._dataset(rec), rec) for key, rec in records.items() if key != "meta"]
        snapshots = {snap.oid: snap for ds, _ in loaded for snap in ds.snapshots.values()}
        for dataset, record in sorted(loaded, key=lambda pair: pair[0].name):
            self._index(dataset)
            if record["origin"]:
                dataset.origin = snapshots[record["origin"]]
                dataset.origin.clones.add(dataset)
        self._sweep(snapshots.values())

    def _dataset(self, record: dict[str, Any]) -> model.Dataset:
        fields = {
            key: record[key]
            for key in (
                "oid",
                "name",
                "kind",
                "guid",
                "txg",
                "creation",
                "props",
                "received",
                "mounted",
                "inconsistent",
                "partial",
            )
        }
        dataset = model.Dataset(view=self.views.get(record["view"]), **fields)
        for snap in record["snapshots"]:
            rest = {key: value for key, value in snap.items() if key != "view"}
            view = self.views.get(snap["view"])
            dataset.snapshots[snap["short"]] = model.Snapshot(dataset=dataset, view=view, **rest)
        return dataset

    def _index(self, dataset: model.Dataset) -> None:
        self.datasets[dataset.name] = dataset
        parent = names.parent(dataset.name)
        if parent is not None:
            self.datasets[parent].children.add(dataset.name)
        for snap in dataset.snapshots.values():
            self.by_guid.setdefault(snap.guid, set()).add(snap)

    def _unindex(self, dataset: model.Dataset) -> None:
        del self.datasets[dataset.name]
        parent = names.parent(dataset.name)
        if parent is not None:
            self.datasets[parent].children.discard(dataset.name)

    def _sweep(self, snapshots: Iterable[model.Snapshot]) -> None:
        """Remove what a crash left between the files and the books."""
        snaps = list(snapshots)
        used = {snap.view.vid for snap in snaps}
        used |= {ds.view.vid for ds in self.datasets.values()}
        self.views.prune(used)
        keep = {str(snap.oid) for snap in snaps}
        heads = {str(ds.oid) for ds in self.datasets.values()}
        partial = {str(ds.oid) for ds in self.datasets.values() if ds.partial}
        for folder, known in (
            ("snapshots", keep),
            ("data", heads),
            ("receiving", partial),
            ("restoring", set[str]()),
        ):
            for path in (self.state / folder).iterdir():
                if path.name not in known:
                    content.remove(path)

    def commit(self, *changed: model.Dataset, drop: Iterable[model.Dataset] = ()) -> None:
        """Write these datasets to disk in one step."""
        put: dict[str, Any] = {str(dataset.oid): dataset.to_json() for dataset in changed}
        put["meta"] = dict(self._meta)
        self._journal.commit(put, tuple(str(dataset.oid) for dataset in drop))
        while self.retired:
            self.views.forget(self.retired.pop())

    def next_oid(self) -> int:
        self._meta["oid"] += 1
        return int(self._meta["oid"])

    def next_txg(self) -> int:
        self._meta["txg"] += 1
        return int(self._meta["txg"])

    def new_guid(self) -> int:
        return self._random.getrandbits(64) | 1

    def seconds(self) -> int:
        return int(self._now().timestamp())

    # Finding

    def dataset(self, name: str, doing: str = "open") -> model.Dataset:
        found = self.datasets.get(name)
        if found is None:
            raise errors.missing(name, doing)
        return found

    def snap(self, name: str, doing: str = "open") -> model.Snapshot:
        head, short = names.split(name)
        dataset = self.datasets.get(head)
        if dataset is None or short not in dataset.snapshots:
            raise errors.missing(name, doing)
        return dataset.snapshots[short]

    def find(self, name: str, doing: str = "open") -> model.Node:
        """The dataset or snapshot of this name."""
        return self.snap(name, doing) if names.is_snapshot(name) else self.dataset(name, doing)

    def exists(self, name: str) -> bool:
        with self.lock:
            head, short = names.split(name)
            dataset = self.datasets.get(head)
            return dataset is not None and (short is None or short in dataset.snapshots)

    def walk(self, top: model.Dataset) -> Iterator[model.Dataset]:
        """The dataset and everything below it, parents first, in order of name."""
        yield top
        for child in sorted(top.children):
            yield from self.walk(self.datasets[child])

    def up(self, dataset: model.Dataset) -> Iterator[model.Dataset]:
        """The dataset and its ancestors."""
        here: str | None = dataset.name
        while here is not None:
            yield self.datasets[here]
            here = names.parent(here)

    def clones_of(self, dataset: model.Dataset) -> list[model.Dataset]:
        found = [clone for snap in dataset.snapshots.values() for clone in snap.clones]
        return sorted(found, key=lambda clone: clone.name)

    # Telling

    def subscribe(self, callback: Listener) -> None:
        """Call back with (kind, name) after each change, on the thread that made it."""
        self._listeners.append(callback)

    def tell(self, kind: str, name: str) -> None:
        for listener in list(self._listeners):
            self.lock.afterwards(functools.partial(listener, kind, name))

    # Working outside the lock

    @contextlib.contextmanager
    def reserve(self, *wanted: str, why: str) -> Iterator[None]:
        """Keep names from being made by anybody else while their content is copied."""
        with self.lock:
            for name in wanted:
                if name in self._reserved:
                    raise errors.StorageError(why, "dataset is busy")
            self._reserved.update(wanted)
        try:
            yield
        finally:
            with self.lock:
                self._reserved.difference_update(wanted)

    @contextlib.contextmanager
    def pin(self, *nodes: model.Node) -> Iterator[None]:
        """Keep datasets or snapshots from being destroyed while somebody reads them."""
        with self.lock:
            for node in nodes:
                node.pins += 1
        try:
            yield
        finally:
            with self.lock:
                for node in nodes:
                    node.pins -= 1

    # Paths

    def discard(self, path: pathlib.Path) -> None:
        """Take files away at once, and remove them when the lock is free again."""
        trash = self.state / "restoring" / f"{path.name}.{next(self._discarded)}"
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        self.lock.afterwards(functools.partial(content.remove, trash))

    def snapshot_path(self, snap: model.Snapshot) -> pathlib.Path:
        return self.state / "snapshots" / str(snap.oid)

    def data_path(self, dataset: model.Dataset) -> pathlib.Path:
        """Where an unmounted filesystem's files are."""
        return self.state / "data" / str(dataset.oid)

    def device(self, name: str) -> pathlib.Path:
        """The file behind a volume, at its own device path."""
        return self.root / "dev" / "zvol" / "rdsk" / name

    def link_devices(self) -> None:
        """/dev/zvol/dsk and rdsk show the same volumes."""
        folder = self.root / "dev" / "zvol"
        (folder / "rdsk").mkdir(parents=True, exist_ok=True)
        if not (folder / "dsk").is_symlink():
            os.symlink("rdsk", folder / "dsk")
