# SPDX-License-Identifier: Apache-2.0
"""Snapshots and what is made of them: clones, rollback, promotion, holds, and new names."""

import contextlib
import os
import pathlib
from collections.abc import Iterable

from smartos_emulator.storage import changes, content, errors, model, names, settings

# Three blocks of 16 KiB, each kept three times
_SNAPSHOT_BYTES = 9 << 14


class Snapshots(changes.Changes):
    """Adds snapshot, clone, rollback, promote, rename and holds."""

    def snapshot(
        self, name: str, *, recursive: bool = False, properties: settings.Props | None = None
    ) -> None:
        """zfs snapshot [-r] [-o prop=value] name"""
        self.snapshot_many([name], recursive=recursive, properties=properties)

    def snapshot_many(
        self,
        wanted: Iterable[str],
        *,
        recursive: bool = False,
        properties: settings.Props | None = None,
    ) -> None:
        """Several snapshots: all are made, or none."""
        doing = "cannot create snapshots "
        with contextlib.ExitStack() as claims:
            with self.lock:
                plan = [one for name in wanted for one in self._snapshot_tops(name, recursive)]
                props = self._parsed(properties or {}, "snapshot", doing, new=True)
                for dataset, short in plan:
                    self._check_snapshot(dataset, short)
                self._check_pools(plan, doing)
                fresh = [self._prepare(dataset, short, props) for dataset, short in plan]
                claims.enter_context(self.reserve(*(snap.name for snap in fresh), why=doing))
                claims.enter_context(self.pin(*(snap.dataset for snap in fresh)))
            for snap in fresh:
                self._freeze(snap)
            with self.lock:
                self._publish_snapshots(fresh)
        for snap in fresh:
            self.tell("snapshot", snap.name)

    def _publish_snapshots(self, fresh: list[model.Snapshot]) -> None:
        for snap in fresh:
            snap.dataset.snapshots[snap.short] = snap
            self.by_guid.setdefault(snap.guid, set()).add(snap)
            self.touched(snap.dataset)
        self.commit(*{snap.dataset: None for snap in fresh})

    def _snapshot_tops(self, name: str, recursive: bool) -> list[tuple[model.Dataset, str]]:
        doing = f"cannot create snapshot '{name}'"
        if why := names.fault(name, snapshot=True):
            raise errors.StorageError(doing, why)
        head, short = names.split(name)
        top = self.dataset(head)
        assert short is not None
        return [(ds, short) for ds in (self.walk(top) if recursive else [top])]

    def _check_snapshot(self, dataset: model.Dataset, short: str) -> None:
        doing = f"cannot create snapshot '{dataset.name}@{short}'"
        if short in dataset.snapshots:
            raise errors.StorageError(doing, "dataset already exists")
        if dataset.inconsistent or {dataset.name, f"{dataset.name}@{short}"} & self._reserved:
            raise errors.StorageError(doing, "dataset is busy")
        self.refresh(dataset, exact=True)
        reserved = min(self.own(dataset)[2], self.value(dataset, "refreservation"))
        if reserved > self.room(dataset)[0]:
            raise errors.StorageError(doing, "out of space")

    def _check_pools(self, plan: list[tuple[model.Dataset, str]], doing: str) -> None:
        """ZFS wants to be sure of room for what it writes down about each snapshot."""
        pools = [names.pool(dataset.name) for dataset, _ in plan]
        for pool in set(pools):
            size = pools.count(pool) * _SNAPSHOT_BYTES
            if self.used(self.datasets[pool]) + size > self.capacity(pool):
                raise errors.StorageError(doing, "out of space")

    def _prepare(self, dataset: model.Dataset, short: str, props: dict[str, str]) -> model.Snapshot:
        kept = dict(props)
        if dataset.kind == "volume":
            kept["volsize"] = dataset.props["volsize"]
        return model.Snapshot(
            self.next_oid(),
            dataset,
            short,
            self.new_guid(),
            self.next_txg(),
            self.seconds(),
            dataset.view,
            kept,
        )

    def _freeze(self, snap: model.Snapshot) -> None:
        """Copy the live content."""
        dataset, target = snap.dataset, self.snapshot_path(snap)
        if dataset.kind == "volume":
            content.copy_volume(self.device(dataset.name), target, int(snap.props["volsize"]))
        else:
            content.copy_tree(self.files(dataset), target, frozenset(self.mount_folders()))

    # Clones

    def clone(
        self,
        snapshot: str,
        name: str,
        *,
        properties: settings.Props | None = None,
        parents: bool = False,
        mounted: bool = True,
    ) -> None:
        """zfs clone [-p] [-o prop=value] snapshot name"""
        doing = f"cannot create '{name}'"
        with contextlib.ExitStack() as claims:
            with self.lock:
                source = self.snap(snapshot)
                if names.pool(name) != names.pool(snapshot) and names.pool(name) in self.datasets:
                    raise errors.StorageError(doing, "source and target pools differ")
                self.check_new(name, doing, parents=parents)
                if parents:
                    self._create_ancestors(name)
                props = self._clone_properties(source, properties or {}, doing)
                dataset = self._new(name, source.dataset.kind, props, doing, source)
                claims.enter_context(self.reserve(name, why=doing))
                claims.enter_context(self.pin(source, self.datasets[names.parent(name) or ""]))
            self._clone_content(source, dataset)
            with self.lock:
                self._publish(dataset)
        self.tell("create", name)
        if mounted:
            self.mount_new(dataset)

    def _clone_properties(
        self, source: model.Snapshot, given: settings.Props, doing: str
    ) -> dict[str, str]:
        kind = source.dataset.kind
        if kind != "volume":
            return self._parsed(given, kind, doing, new=True)
        # The block size is the image's; asking for one of its own has no effect.
        props = self._parsed(given, kind, doing, new=True)
        props["volblocksize"] = source.dataset.props.get("volblocksize", "8192")
        props.setdefault("volsize", source.props["volsize"])
        if int(props["volsize"]) % int(props["volblocksize"]):
            raise errors.StorageError(doing, "volume size must be a multiple of volume block size")
        return props

    def _clone_content(self, source: model.Snapshot, dataset: model.Dataset) -> None:
        if dataset.kind == "filesystem":
            content.copy_tree(self.snapshot_path(source), self.data_path(dataset))
            return
        device = self.device(dataset.name)
        device.parent.mkdir(parents=True, exist_ok=True)
        content.copy_volume(self.snapshot_path(source), device, int(dataset.props["volsize"]))

    # Rollback

    def rollback(
        self, snapshot: str, *, destroy_newer: bool = False, destroy_clones: bool = False
    ) -> None:
        """zfs rollback [-r] [-R] snapshot"""
        doing = f"cannot rollback '{names.split(snapshot)[0]}'"
        with self.lock:
            snap = self.snap(snapshot)
            self.rollback_plan(snap, destroy_newer=destroy_newer, destroy_clones=destroy_clones)
            ready = self.state / "restoring" / str(self.next_oid())
        with self.pin(snap):
            self._thaw(snap, ready)
        with self.lock:
            newer = self.rollback_plan(
                snap, destroy_newer=destroy_newer, destroy_clones=destroy_clones
            )
            if snap.dataset.pins or snap.dataset.name in self._reserved:
                raise errors.StorageError(doing, "dataset is busy")
            for one in reversed(newer):
                self.destroy(one.name, dependents=destroy_clones)
            self._restore(snap, ready)
        self.tell("rollback", snapshot)

    def _thaw(self, snap: model.Snapshot, target: pathlib.Path) -> None:
        """Copy a snapshot's content to where it can become the live one in one step."""
        if snap.dataset.kind == "volume":
            content.copy_volume(self.snapshot_path(snap), target, int(snap.props["volsize"]))
        else:
            content.copy_tree(self.snapshot_path(snap), target)

    def rollback_plan(
        self, snap: model.Snapshot, *, destroy_newer: bool, destroy_clones: bool
    ) -> list[model.Snapshot]:
        """The newer snapshots that would go; StorageError when they stand in the way."""
        doing = f"cannot rollback to '{snap.name}'"
        line = list(snap.dataset.snapshots.values())
        newer = line[line.index(snap) + 1 :]
        if newer and not (destroy_newer or destroy_clones):
            raise errors.StorageError(
                "\n".join(
                    [
                        f"{doing}: more recent snapshots or bookmarks exist",
                        "use '-r' to force deletion of the following snapshots and bookmarks:",
                        *(one.name for one in newer),
                    ]
                )
            )
        cloned = [
            clone.name
            for one in newer
            for clone in sorted(one.clones, key=lambda clone: clone.name)
        ]
        if cloned and not destroy_clones:
            raise errors.StorageError(
                "\n".join(
                    [
                        f"{doing}: clones of previous snapshots exist",
                        "use '-R' to force deletion of the following clones and dependents:",
                        *cloned,
                    ]
                )
            )
        return newer

    def _restore(self, snap: model.Snapshot, ready: pathlib.Path) -> None:
        dataset = snap.dataset
        with self.moving(dataset):
            self.swap_in(dataset, ready)
        if dataset.kind == "volume":
            dataset.props["volsize"] = snap.props["volsize"]
        self.set_view(dataset, self.views.changed(snap.view.items))
        self.commit(dataset)

    def swap_in(self, dataset: model.Dataset, path: pathlib.Path) -> None:
        """What lies at path becomes the live content of an unmounted dataset."""
        place = self.device(dataset.name) if dataset.kind == "volume" else self.data_path(dataset)
        self.discard(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, place)

    # Promotion

    def promote(self, name: str) -> None:
        """zfs promote name"""
        doing = f"cannot promote '{name}'"
        with self.lock:
            clone = self.dataset(name)
            if clone.origin is None:
                raise errors.StorageError(doing, "not a cloned filesystem")
            origin, old = clone.origin, clone.origin.dataset
            line = list(old.snapshots.values())
            moved = line[: line.index(origin) + 1]
            for snap in moved:
                if snap.short in clone.snapshots:
                    raise errors.StorageError(
                        doing, f"conflicting snapshot '{snap.short}' from parent '{old.name}'"
                    )
            self.refresh(old)
            self.refresh(clone)
            for snap in moved:
                del old.snapshots[snap.short]
                snap.dataset = clone
            clone.snapshots = {**{snap.short: snap for snap in moved}, **clone.snapshots}
            clone.origin, old.origin = old.origin, origin
            origin.clones.discard(clone)
            origin.clones.add(old)
            if clone.origin:
                clone.origin.clones.discard(old)
                clone.origin.clones.add(clone)
            self.touched(clone)
            self.touched(old)
            self.commit(clone, old)
        self.tell("promote", name)

    # Names

    def rename(self, old: str, new: str, *, recursive: bool = False, parents: bool = False) -> None:
        """zfs rename [-r] [-p] old new"""
        with self.lock:
            if names.is_snapshot(old):
                self._rename_snapshot(old, new, recursive=recursive)
            else:
                self._rename_dataset(self.dataset(old), new, parents=parents)
        self.tell("rename", new)

    def _rename_snapshot(self, old: str, new: str, *, recursive: bool) -> None:
        head, short = names.split(old)
        target_head, target = names.split(new)
        self.snap(old)
        doing = f"cannot rename to '{new}'"
        if target is None:
            target_head, target = head, new
        if target_head and target_head != head:
            raise errors.StorageError(doing, "snapshots must be part of same dataset")
        if why := names.fault(f"{head}@{target}", snapshot=True):
            raise errors.StorageError(doing, why)
        top = self.datasets[head]
        affected = [ds for ds in (self.walk(top) if recursive else [top]) if short in ds.snapshots]
        for dataset in affected:
            if target in dataset.snapshots:
                raise errors.StorageError(
                    f"cannot rename '{dataset.name}@{short}'", "dataset already exists"
                )
        for dataset in affected:
            line = list(dataset.snapshots.values())
            dataset.snapshots[short or ""].short = target
            dataset.snapshots = {snap.short: snap for snap in line}
        self.commit(*affected)

    def _rename_dataset(self, dataset: model.Dataset, new: str, *, parents: bool) -> None:
        self._check_rename(dataset, new, parents=parents)
        tree = list(self.walk(dataset))
        old = dataset.name
        places = [self.place(ds) for ds in tree]
        with self.moving(dataset):
            for above in self.up(dataset):
                above.used = None
            devices = [(ds, self.device(ds.name)) for ds in tree if ds.kind == "volume"]
            for ds in reversed(tree):
                self._unindex(ds)
            for ds in tree:
                ds.name = new + ds.name[len(old) :]
                ds.children = {new + child[len(old) :] for child in ds.children}
                self._index(ds)
                self.touched(ds)
            for ds, device in devices:
                self._move_device(ds, device)
        for place in reversed(places):
            if place is not None:
                self.drop_empty(place)
        self.commit(*tree)

    def _check_rename(self, dataset: model.Dataset, new: str, *, parents: bool) -> None:
        old, doing = dataset.name, f"cannot rename '{dataset.name}'"
        if why := names.fault(new):
            raise errors.StorageError(f"cannot rename to '{new}'", why)
        self.check_parent(new, f"cannot create '{new}'", parents=parents)
        if names.pool(new) != names.pool(old):
            raise errors.StorageError(
                f"cannot rename to '{new}'", "datasets must be within same pool"
            )
        if names.below(new, old) and new != old:
            raise errors.StorageError(
                f"cannot rename to '{new}'",
                "New dataset name cannot be a descendant of current dataset name",
            )
        if new in self.datasets:
            raise errors.StorageError(doing, "dataset already exists")
        if any(ds.pins or ds.name in self._reserved for ds in self.walk(dataset)):
            raise errors.StorageError(doing, "dataset is busy")
        self.refuse_in_use(dataset)
        if parents:
            self._create_ancestors(new)

    def _move_device(self, dataset: model.Dataset, old: pathlib.Path) -> None:
        device = self.device(dataset.name)
        device.parent.mkdir(parents=True, exist_ok=True)
        old.rename(device)
        if not any(old.parent.iterdir()):
            old.parent.rmdir()

    # Holds

    def hold(self, tag: str, snapshots: Iterable[str], *, recursive: bool = False) -> None:
        """zfs hold [-r] tag snapshot …"""
        with self.lock:
            for snap in self._held(snapshots, recursive=recursive):
                if tag in snap.holds:
                    raise errors.StorageError(
                        f"cannot hold snapshot '{snap.name}'", "tag already exists on this dataset"
                    )
                snap.holds[tag] = self.seconds()
                self.commit(snap.dataset)

    def release(self, tag: str, snapshots: Iterable[str], *, recursive: bool = False) -> None:
        """zfs release [-r] tag snapshot …"""
        with self.lock:
            for snap in self._held(snapshots, recursive=recursive):
                if tag not in snap.holds:
                    raise errors.StorageError(
                        f"cannot release hold from snapshot '{snap.name}'",
                        "no such tag on this dataset",
                    )
                del snap.holds[tag]
                if snap.deferred and not snap.holds and not snap.clones:
                    self._destroy_snapshot(snap, set(), defer=False)
                else:
                    self.commit(snap.dataset)

    def holds(self, snapshot: str) -> dict[str, int]:
        """Tags with the time each was set."""
        with self.lock:
            return dict(self.snap(snapshot).holds)

    def same_snapshots(self, name: str, *, recursive: bool) -> list[model.Snapshot]:
        """The snapshot, and with recursive its namesakes below."""
        with self.lock:
            return self._held([name], recursive=recursive)

    def _held(self, snapshots: Iterable[str], *, recursive: bool) -> list[model.Snapshot]:
        found = []
        for name in snapshots:
            head, short = names.split(name)
            top = self.dataset(head)
            tops = list(self.walk(top)) if recursive else [top]
            matching = [ds.snapshots[short] for ds in tops if short in ds.snapshots]
            if not matching:
                raise errors.missing(name)
            found += matching
        return found
