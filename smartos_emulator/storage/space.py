# SPDX-License-Identifier: Apache-2.0
"""Who uses how much: ZFS's own sums over shared extents, quotas and reservations."""

import dataclasses
import errno
import os
import time
from collections.abc import Sequence

from smartos_emulator.storage import model, mounts, names, properties, scan, units, views

# A list of a thousand filesystems must not look at every file of all of them each time, and a
# question about one must not look at all the others.
_LOOK_SECONDS = 0.15
_LOOK_AROUND_SECONDS = 0.01
_SLOP_SHIFT = 5
_MIN_SLOP = 128 << 20
_MAX_SLOP = 128 << 30


@dataclasses.dataclass(frozen=True)
class Usage:
    """The space properties of one dataset, in bytes."""

    referenced: int
    by_dataset: int
    by_snapshots: int
    by_children: int
    by_refreservation: int

    @property
    def used(self) -> int:
        return self.by_dataset + self.by_snapshots + self.by_children + self.by_refreservation


class Space(mounts.Mounts):
    """Adds the accounts to the tree."""

    _looked: dict[int, float]

    def value(self, dataset: model.Dataset, prop: str) -> int:
        """A local number such as quota; 0 when it is not set."""
        text = dataset.props.get(prop) or dataset.received.get(prop) or "0"
        return 0 if text == "none" else int(text)

    # Looking at the files

    def refresh(self, dataset: model.Dataset, *, exact: bool = False) -> None:
        """Bring the live view up to date with the files behind it; exact for a snapshot to come."""
        with self.lock:
            if dataset.inconsistent or self.datasets.get(dataset.name) is not dataset:
                return
            scanner = scan.Scanner(
                self.views,
                dataset.view,
                compress=self._compresses(dataset),
                exact=exact or bool(dataset.snapshots) or dataset.origin is not None,
            )
            if dataset.kind == "volume":
                device = self.device(dataset.name)
                if not device.exists():
                    return
                scanner.volume(str(device))
            else:
                scanner.tree(str(self.files(dataset)), self.mount_folders())
            self._looked[dataset.oid] = time.monotonic()
            if scanner.changed:
                self.set_view(dataset, self.views.changed(scanner.items))
                self.commit(dataset)

    def look(self, *wanted: model.Dataset) -> None:
        """Refresh these, then some of the others, the stalest first, as time allows."""
        with self.lock:
            first = set(wanted)
            rest = [ds for ds in self.datasets.values() if ds not in first]
            self._look_at(wanted, _LOOK_SECONDS)
            self._look_at(rest, _LOOK_AROUND_SECONDS)

    def _look_at(self, datasets: Sequence[model.Dataset], seconds: float) -> None:
        end = time.monotonic() + seconds
        for dataset in sorted(datasets, key=lambda ds: self._looked.get(ds.oid, 0.0)):
            self.refresh(dataset)
            if time.monotonic() > end:
                return

    def set_view(self, dataset: model.Dataset, view: views.View) -> None:
        """Replace the live view."""
        old = dataset.view
        dataset.view = view
        self.touched(dataset)
        self.retire(dataset, old)

    def retire(self, dataset: model.Dataset, view: views.View) -> None:
        """Forget a view that a dataset had, once that is written down, if it was the last to."""
        others: list[model.Node] = [dataset, *dataset.snapshots.values(), dataset.origin or dataset]
        if all(one.view is not view for one in others):
            self.retired.append(view.vid)

    def touched(self, dataset: model.Dataset) -> None:
        """Forget cached sums of a dataset, its clones and all ancestors."""
        for clone in (dataset, *self.clones_of(dataset)):
            clone.own = None
            for node in self.up(clone):
                node.used = None

    def _compresses(self, dataset: model.Dataset) -> bool:
        return self.inherited(dataset, "compression") != "off"

    def inherited(self, dataset: model.Dataset, prop: str) -> str:
        """The value in force of a property that children inherit."""
        for node in self.up(dataset):
            text = node.props.get(prop, node.received.get(prop))
            if text is not None:
                return text
        return properties.TABLE[prop].default

    # Sums

    def own(self, dataset: model.Dataset) -> tuple[int, int, int]:
        """(by dataset, by snapshots, unique to the live view)."""
        if dataset.own is None:
            dataset.own = self._own(dataset)
        return dataset.own

    def _own(self, dataset: model.Dataset) -> tuple[int, int, int]:
        origin = dataset.origin.view.extents if dataset.origin else {}
        head = dataset.view.extents
        by_dataset = sum(ext.size for num, ext in head.items() if num not in origin)
        frozen: dict[int, int] = {}
        for snap in dataset.snapshots.values():
            for number, ext in snap.view.extents.items():
                if number not in head and number not in origin:
                    frozen[number] = ext.size
        previous = dataset.previous
        unique = dataset.view.beyond(previous.view if previous else None)
        return by_dataset, sum(frozen.values()), unique

    def usage(self, dataset: model.Dataset) -> Usage:
        by_dataset, by_snapshots, unique = self.own(dataset)
        by_children = sum(
            max(self.used(child), self.value(child, "reservation"))
            for child in map(self.datasets.__getitem__, dataset.children)
        )
        held = max(self.value(dataset, "refreservation") - unique, 0)
        return Usage(dataset.view.size, by_dataset, by_snapshots, by_children, held)

    def used(self, dataset: model.Dataset) -> int:
        if dataset.used is None:
            dataset.used = self.usage(dataset).used
        return dataset.used

    def snapshot_used(self, snap: model.Snapshot) -> int:
        """What only this snapshot keeps: in neither neighbour."""
        line = list(snap.dataset.snapshots.values())
        place = line.index(snap)
        before = line[place - 1] if place else snap.dataset.origin
        after = line[place + 1].view if place + 1 < len(line) else snap.dataset.view
        if after is snap.view:
            return 0
        known = before.view.extents if before else {}
        later = after.extents
        return sum(
            ext.size
            for num, ext in snap.view.extents.items()
            if num not in known and num not in later
        )

    def written(self, node: model.Node) -> int:
        if isinstance(node, model.Dataset):
            return self.own(node)[2]
        line = list(node.dataset.snapshots.values())
        place = line.index(node)
        before = line[place - 1] if place else node.dataset.origin
        return node.view.beyond(before.view if before else None)

    def logical_used(self, dataset: model.Dataset) -> int:
        origin = dataset.origin.view.extents if dataset.origin else {}
        seen = dict(dataset.view.extents)
        for snap in dataset.snapshots.values():
            seen.update(snap.view.extents)
        mine = sum(ext.logical for num, ext in seen.items() if num not in origin)
        return mine + sum(self.logical_used(self.datasets[name]) for name in dataset.children)

    # Room

    def pool_size(self, pool: str) -> int:
        return int(self._meta["pools"][pool]["size"])

    def allocated(self, pool: str) -> int:
        """Every extent of the pool once, and what a test put there to fill it."""
        total = sum(sum(self.own(ds)[:2]) for ds in self.walk(self.datasets[pool]))
        return total + self.ballast(pool)

    def ballast(self, pool: str) -> int:
        return int(self._meta["pools"][pool].get("ballast", 0))

    def capacity(self, pool: str) -> int:
        """What datasets may use: ZFS keeps a part of the pool for itself."""
        size = self.pool_size(pool)
        slop = min(max(size >> _SLOP_SHIFT, min(size >> 1, _MIN_SLOP)), _MAX_SLOP)
        return max(size - slop - self.ballast(pool), 0)

    def room(self, dataset: model.Dataset) -> tuple[int, int]:
        """(bytes that the dataset and its ancestors leave, the errno when there are none)."""
        used = self.used(dataset)
        parent = names.parent(dataset.name)
        quota, reason = self.value(dataset, "quota"), errno.EDQUOT
        if parent is None:
            capacity = self.capacity(dataset.name)
            if not quota or capacity <= quota:
                quota, reason = capacity, errno.ENOSPC
            return max(quota - used, 0), reason
        above, above_reason = self.room(self.datasets[parent])
        above += max(self.value(dataset, "reservation") - used, 0)
        if quota and max(quota - used, 0) < above:
            return max(quota - used, 0), reason
        return above, above_reason

    def available(self, dataset: model.Dataset) -> int:
        return self._room_in(dataset)[0]

    def _room_in(self, dataset: model.Dataset) -> tuple[int, int]:
        room, reason = self.room(dataset)
        room += max(self.value(dataset, "refreservation") - self.own(dataset)[2], 0)
        quota = self.value(dataset, "refquota")
        if quota and max(quota - dataset.view.size, 0) < room:
            return max(quota - dataset.view.size, 0), errno.EDQUOT
        return room, reason

    def _overdrawn(self, dataset: model.Dataset) -> int | None:
        """The errno of a write that took the dataset past a limit."""
        refquota = self.value(dataset, "refquota")
        if refquota and dataset.view.size > refquota:
            return errno.EDQUOT
        for node in self.up(dataset):
            quota = self.value(node, "quota")
            if quota and self.used(node) > quota:
                return errno.EDQUOT
            if names.parent(node.name) is None and self.used(node) > self.capacity(node.name):
                return errno.ENOSPC
        return None

    def charge(self, name: str) -> None:
        """After a write: account for it; OSError ENOSPC or EDQUOT when it does not fit."""
        with self.lock:
            dataset = self.dataset(name)
            self.refresh(dataset)
            reason = self._overdrawn(dataset)
        if reason is not None:
            raise OSError(reason, os.strerror(reason), name)

    def check(self, name: str, size: int) -> None:
        """Before a write of so many bytes: OSError ENOSPC or EDQUOT when they do not fit."""
        with self.lock:
            dataset = self.dataset(name)
            self.refresh(dataset)
            room, reason = self._room_in(dataset)
        if size > room:
            raise OSError(reason, os.strerror(reason), name)

    def write(self, name: str, size: int, *, overwrite: bool = False) -> None:
        """Book so many bytes as written without any file, for scripted load and virtual disks."""
        with self.lock:
            if not overwrite:
                self.check(name, size)
            dataset = self.dataset(name)
            items = dict(dataset.view.items)
            if overwrite:
                _drop_booked(items, size)
            logical = views.sectors(size)
            extent = self.views.extent(logical, logical)
            items[f"{scan.BOOKED}{extent.number}"] = views.Item((size, 0), (extent,))
            self.set_view(dataset, self.views.changed(items))
            self.commit(dataset)

    def fill(self, pool: str, full: bool) -> None:
        """Take all free space of a pool away, or give it back."""
        with self.lock:
            entry = self._meta["pools"][pool]
            entry["ballast"] = 0
            if full:
                entry["ballast"] = max(self.capacity(pool) - self.used(self.datasets[pool]), 0)
            self.commit()

    def reservation_fits(self, dataset: model.Dataset, more: int) -> bool:
        """Whether the ancestors can hold so many bytes more for this dataset."""
        return more <= self.room(dataset)[0]

    def auto_reservation(self, dataset: model.Dataset, volsize: int) -> int:
        copies = int(self.inherited(dataset, "copies"))
        block = int(dataset.props.get("volblocksize", "8192"))
        return units.volume_reservation(volsize, block, copies)


def _drop_booked(items: dict[str, views.Item], size: int) -> None:
    for key in [key for key in items if key.startswith(scan.BOOKED)]:
        if size <= 0:
            return
        size -= items[key].stamp[0]
        del items[key]
