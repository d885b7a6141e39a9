# SPDX-License-Identifier: Apache-2.0
"""Making and removing datasets."""

from smartos_emulator.storage import errors, model, names, settings, units

_NEW_DATASET = 24 * 1024


class Changes(settings.Settings):
    """Adds create and destroy."""

    # Creating

    def create(
        self,
        name: str,
        *,
        properties: settings.Props | None = None,
        volume_bytes: int | None = None,
        sparse: bool = False,
        parents: bool = False,
        mounted: bool = True,
    ) -> None:
        """zfs create [-p] [-s] [-V size] [-o prop=value] name"""
        doing = f"cannot create '{name}'"
        kind = "filesystem" if volume_bytes is None else "volume"
        with self.lock:
            self.check_new(name, doing, parents=parents)
            if parents:
                self._create_ancestors(name)
            parsed = self._parsed(properties or {}, kind, doing, new=True)
            if volume_bytes is not None:
                _volume_properties(parsed, volume_bytes, doing)
                if sparse:
                    parsed.setdefault("refreservation", "0")
                else:
                    parsed.setdefault("refreservation", "auto")
            dataset = self._new(name, kind, parsed, doing)
            self._materialize(dataset)
            self._publish(dataset)
        self.tell("create", name)
        if mounted:
            self.mount_new(dataset)

    def checked(self, props: settings.Props, kind: str, doing: str) -> dict[str, str]:
        """Properties for a new dataset in full, or the refusal."""
        return self._parsed(props, kind, doing, new=True)

    def check_new(self, name: str, doing: str, *, parents: bool = False) -> None:
        """Refuse a name that is malformed, has no place, or exists."""
        if why := names.fault(name):
            raise errors.StorageError(doing, why)
        if name.count("/") >= 50:
            raise errors.StorageError(doing, "maximum name nesting depth exceeded")
        self.check_parent(name, doing, parents=parents)
        if name in self.datasets:
            raise errors.StorageError(doing, "dataset already exists")
        if name in self._reserved:
            raise errors.StorageError(doing, "dataset is busy")

    def check_parent(self, name: str, doing: str, *, parents: bool = False) -> None:
        parent = names.parent(name)
        if parent is None:
            raise errors.StorageError(doing, "missing dataset name")
        if names.pool(name) not in self.datasets:
            raise errors.StorageError(doing, f"no such pool '{names.pool(name)}'")
        while parents and parent not in self.datasets:
            parent = names.parent(parent) or names.pool(name)
        above = self.datasets.get(parent)
        if above is None:
            raise errors.StorageError(doing, "parent does not exist")
        if above.kind != "filesystem":
            raise errors.StorageError(doing, "parent is not a filesystem")

    def _create_ancestors(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for count in range(2, len(parts) + 1):
            ancestor = "/".join(parts[:count])
            if ancestor not in self.datasets:
                self.create(ancestor)

    def _new(
        self,
        name: str,
        kind: str,
        props: dict[str, str],
        doing: str,
        origin: model.Snapshot | None = None,
    ) -> model.Dataset:
        """A dataset that is not in the books yet; refused when there is no room for it."""
        view = self.views.changed(origin.view.items) if origin else self.views.fresh(kind)
        dataset = model.Dataset(
            self.next_oid(),
            name,
            kind,
            self.new_guid(),
            self.next_txg(),
            self.seconds(),
            view,
            props,
            origin=origin,
        )
        above = self.datasets[names.parent(name) or ""]
        if props.get("refreservation") == "auto":
            props["refreservation"] = str(self._auto_for_new(dataset, above))
        held = max(int(props.get("refreservation", "0")), int(props.get("reservation", "0")))
        if max(held, _NEW_DATASET) > self.room(above)[0]:
            raise errors.StorageError(doing, "out of space")
        return dataset

    def _auto_for_new(self, dataset: model.Dataset, above: model.Dataset) -> int:
        copies = int(dataset.props.get("copies") or self.inherited(above, "copies"))
        block = int(dataset.props.get("volblocksize", "8192"))
        return units.volume_reservation(int(dataset.props["volsize"]), block, copies)

    def _materialize(self, dataset: model.Dataset) -> None:
        """Make the empty files behind a new dataset."""
        if dataset.kind == "filesystem":
            self.data_path(dataset).mkdir(parents=True, exist_ok=True)
            return
        device = self.device(dataset.name)
        device.parent.mkdir(parents=True, exist_ok=True)
        with open(device, "ab") as file:
            file.truncate(int(dataset.props["volsize"]))

    def _publish(self, *fresh: model.Dataset) -> None:
        for dataset in fresh:
            self._index(dataset)
            if dataset.origin:
                dataset.origin.clones.add(dataset)
            self.touched(dataset)
        self.commit(*fresh)

    def mount_new(self, dataset: model.Dataset) -> None:
        """Mount what zfs mounts by itself after creating it."""
        with self.lock:
            if self.datasets.get(dataset.name) is dataset and self.automatic(dataset):
                self.mount(dataset)
                self.commit(dataset)

    def mount_created(self, name: str) -> None:
        """The same for a name, which may be gone again."""
        with self.lock:
            dataset = self.datasets.get(name)
            if dataset is not None and not dataset.mounted:
                self.mount_new(dataset)

    # Destroying

    def destroy(
        self, name: str, *, recursive: bool = False, dependents: bool = False, defer: bool = False
    ) -> None:
        """zfs destroy [-r] [-R] [-d] name, of a dataset or a snapshot"""
        with self.lock:
            gone = self.destroy_plan(name, recursive=recursive, dependents=dependents, defer=defer)
            told = [node.name for node in gone]
            self._destroy_all(gone, defer=defer)
        for one in told:
            self.tell("destroy", one)

    def destroy_plan(
        self, name: str, *, recursive: bool, dependents: bool, defer: bool = False
    ) -> list[model.Node]:
        """What destroy would remove, in its order; StorageError when it would refuse."""
        recursive = recursive or dependents
        node = self.find(name) if not names.is_snapshot(name) else None
        if node is None:
            return self._snapshot_plan(
                name, recursive=recursive, dependents=dependents, defer=defer
            )
        assert isinstance(node, model.Dataset)
        if names.parent(node.name) is None and not recursive:
            raise errors.StorageError(
                f"cannot destroy '{name}': operation does not apply to pools\n"
                f"use 'zfs destroy -r {name}' to destroy all datasets in the pool\n"
                f"use 'zpool destroy {name}' to destroy the pool itself"
            )
        below: list[model.Node] = []
        self._dependents(node, below, set())
        self._refuse_dependents(node, below, recursive=recursive, dependents=dependents)
        if names.parent(node.name) is None:
            return below
        return [*below, node]

    def _snapshot_plan(
        self, name: str, *, recursive: bool, dependents: bool, defer: bool
    ) -> list[model.Node]:
        head, short = names.split(name)
        top = self.dataset(head)
        tops = list(self.walk(top)) if recursive else [top]
        snaps = [ds.snapshots[short] for ds in tops if short in ds.snapshots]
        if not snaps or (not recursive and short not in top.snapshots):
            raise errors.StorageError(
                "could not find any snapshots to destroy; check snapshot names."
            )
        plan: list[model.Node] = []
        seen: set[model.Node] = set()
        for snap in snaps:
            clones: list[model.Node] = []
            self._dependents(snap, clones, seen)
            if not dependents and not defer:
                self._refuse_dependents(snap, clones, recursive=recursive, dependents=False)
            plan += clones if dependents else []
            plan.append(snap)
        return plan

    def _dependents(self, node: model.Node, found: list[model.Node], seen: set[model.Node]) -> None:
        """Everything that lives on this node, deepest first."""
        if isinstance(node, model.Snapshot):
            below: list[model.Node] = sorted(node.clones, key=lambda clone: clone.name)
        else:
            below = [self.datasets[child] for child in sorted(node.children)]
            below += node.snapshots.values()
        for one in below:
            if one in seen:
                continue
            seen.add(one)
            self._dependents(one, found, seen)
            found.append(one)

    def _refuse_dependents(
        self, node: model.Node, below: list[model.Node], *, recursive: bool, dependents: bool
    ) -> None:
        inner = [one for one in below if one.name.startswith((f"{node.name}/", f"{node.name}@"))]
        outer = [one for one in below if one not in inner]
        if inner and not recursive:
            raise errors.StorageError(_listed(node, "children", "-r", inner))
        if outer and not dependents:
            raise errors.StorageError(_listed(node, "dependent clones", "-R", outer))

    def _destroy_all(self, gone: list[model.Node], *, defer: bool) -> None:
        doomed = set(gone)
        for node in gone:
            self._refuse_busy(node, doomed, defer=defer)
        for node in gone:
            if isinstance(node, model.Snapshot):
                self._destroy_snapshot(node, doomed, defer=defer)
            else:
                self._destroy_dataset(node)

    def _refuse_busy(self, node: model.Node, doomed: set[model.Node], *, defer: bool) -> None:
        busy = node.pins > 0 or node.name in self._reserved
        if isinstance(node, model.Snapshot):
            if busy or (node.holds and not defer):
                raise errors.StorageError(f"cannot destroy snapshot {node.name}", "dataset is busy")
        elif busy:
            raise errors.StorageError(f"cannot destroy '{node.name}'", "dataset is busy")
        else:
            self.refuse_in_use(node)

    def _destroy_snapshot(
        self, snap: model.Snapshot, doomed: set[model.Node], *, defer: bool
    ) -> None:
        if defer and (snap.holds or snap.clones - doomed):
            snap.deferred = True
            self.commit(snap.dataset)
            return
        dataset = snap.dataset
        if dataset in doomed:
            return
        del dataset.snapshots[snap.short]
        self.by_guid[snap.guid].discard(snap)
        self.retire(dataset, snap.view)
        self.touched(dataset)
        self.commit(dataset)
        self.discard(self.snapshot_path(snap))

    def _destroy_dataset(self, dataset: model.Dataset) -> None:
        self.unmount(dataset)
        self.empty_place(dataset)
        for snap in dataset.snapshots.values():
            self.by_guid[snap.guid].discard(snap)
        seen = {snap.view.vid for snap in dataset.snapshots.values()} | {dataset.view.vid}
        shared = {dataset.origin.view.vid} if dataset.origin else set[int]()
        self.retired += seen - shared
        for node in self.up(dataset):
            node.used = None
        self._unindex(dataset)
        origin = dataset.origin
        if origin:
            origin.clones.discard(dataset)
        self.commit(drop=[dataset])
        self.remove_files(dataset)
        if origin and origin.deferred and not origin.clones and not origin.holds:
            self._destroy_snapshot(origin, set(), defer=False)


def _listed(node: model.Node, what: str, flag: str, found: list[model.Node]) -> str:
    lines = [
        f"cannot destroy '{node.name}': {node.kind} has {what}",
        f"use '{flag}' to destroy the following datasets:",
    ]
    return "\n".join(lines + [one.name for one in found])


def _volume_properties(parsed: dict[str, str], size: int, doing: str) -> None:
    block = int(parsed.setdefault("volblocksize", "8192"))
    if not size:
        raise errors.StorageError(doing, "volume size cannot be zero")
    if size % block:
        raise errors.StorageError(doing, "volume size must be a multiple of volume block size")
    parsed["volsize"] = str(size)
