# SPDX-License-Identifier: Apache-2.0
"""Where filesystems show in the node's tree: mounting moves a folder into place."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Set

from smartos_emulator.storage import errors, model, names, tree

# What SmartOS mounts by itself at boot, its mountpoint property being "legacy".
_AT_BOOT = {"config": "/etc/zones", "opt": "/opt", "usbkey": "/usbkey", "var": "/var"}


class Mounts(tree.Tree):
    """Adds places to the datasets."""

    _shown: dict[str, model.Dataset]
    # Set by whoever runs zones: whether something running holds on to a dataset.
    in_use: Callable[[str], bool] = staticmethod(lambda name: False)

    def refuse_in_use(self, dataset: model.Dataset) -> None:
        """Refuse what would need to unmount, or take away, what a running zone has open."""
        for node in self.walk(dataset):
            if not self.in_use(node.name):
                continue
            if node.kind == "volume":
                raise errors.StorageError(f"cannot destroy '{node.name}'", "dataset is busy")
            raise errors.StorageError(f"cannot unmount '{self.mountpoint(node)}'", "Device busy")

    def find_mounted(self) -> None:
        """Note what is mounted, once the books are read."""
        self._shown = {}
        for dataset in self.datasets.values():
            if dataset.mounted and (place := self.place(dataset)) is not None:
                self._shown[str(place)] = dataset

    def mountpoint(self, dataset: model.Dataset) -> str:
        """The mountpoint property in force, inherited ones made from the name."""
        for node in self.up(dataset):
            text = node.props.get("mountpoint", node.received.get("mountpoint"))
            if text is not None:
                rest = dataset.name[len(node.name) :]
                return text if text in ("none", "legacy") else (text.rstrip("/") + rest) or "/"
        return f"/{dataset.name}"

    def place(self, dataset: model.Dataset) -> pathlib.Path | None:
        """Where it shows when mounted, on the host; None when it is not to be mounted at all."""
        point = self.mountpoint(dataset)
        if point == "legacy":
            pool, _, rest = dataset.name.partition("/")
            point = _AT_BOOT.get(rest, "none") if pool == "zones" else "none"
        # No mountpoint, whoever sent it, leads out of the node's tree.
        inside = os.path.normpath(f"/{point}").lstrip("/")
        return None if point == "none" else self.root / inside

    def files(self, dataset: model.Dataset) -> pathlib.Path:
        """The folder with the live files."""
        place = self.place(dataset) if dataset.mounted else None
        return place if place is not None else self.data_path(dataset)

    def mounted_at(self) -> Mapping[str, model.Dataset]:
        """Mounted filesystems by the folder they are shown at."""
        return self._shown

    def dataset_at(self, path: pathlib.Path) -> str | None:
        """The filesystem that a path of this machine lies in; None outside all."""
        for folder in (path, *path.parents):
            if (dataset := self._shown.get(str(folder))) is not None:
                return dataset.name
        return None

    def mount_folders(self) -> Set[str]:
        """Every mounted filesystem's folder, so that a look at its parent leaves it out."""
        return self._shown.keys()

    def automatic(self, dataset: model.Dataset) -> bool:
        """Whether zfs mounts it without being asked."""
        return (
            dataset.kind == "filesystem"
            and self._text(dataset, "canmount", "on") == "on"
            and self.mountable(dataset)
        )

    def mountable(self, dataset: model.Dataset) -> bool:
        """Whether it may be mounted at all in the global zone."""
        return (
            not dataset.inconsistent
            and self._text(dataset, "canmount", "on") != "off"
            and self._zoned(dataset) == "off"
            and self.place(dataset) is not None
        )

    def _text(self, dataset: model.Dataset, prop: str, default: str) -> str:
        return dataset.props.get(prop, dataset.received.get(prop, default))

    def _zoned(self, dataset: model.Dataset) -> str:
        for node in self.up(dataset):
            if (text := node.props.get("zoned", node.received.get("zoned"))) is not None:
                return text
        return "off"

    def mount(self, dataset: model.Dataset) -> None:
        """Show the files at the mountpoint; StorageError when something else is there."""
        place = self.place(dataset)
        if place is None or dataset.mounted:
            return
        if place.is_dir() and os.listdir(place):
            point = f"/{place.relative_to(self.root)}"
            raise errors.StorageError(f"cannot mount '{point}'", "directory is not empty")
        place.parent.mkdir(parents=True, exist_ok=True)
        source = self.data_path(dataset)
        # rename() replaces an empty folder in one step.
        os.rename(source, place)
        dataset.mounted = True
        self._shown[str(place)] = dataset

    def unmount(self, dataset: model.Dataset) -> list[model.Dataset]:
        """Take the files away, those of filesystems mounted below it first; what was taken."""
        if not dataset.mounted:
            return []
        place = self.place(dataset)
        assert place is not None
        taken = [*self._mounted_below(place), dataset]
        if any(one.pins for one in taken):
            raise errors.StorageError(
                f"cannot unmount '/{place.relative_to(self.root)}'", "Device busy"
            )
        for other in taken:
            self._take_away(other)
        return taken

    def _mounted_below(self, place: pathlib.Path) -> list[model.Dataset]:
        """Deepest first."""
        prefix = f"{place}/"
        inner = [path for path in self._shown if path.startswith(prefix)]
        return [self._shown[path] for path in sorted(inner, key=len, reverse=True)]

    def _take_away(self, dataset: model.Dataset) -> None:
        place = self.place(dataset)
        assert place is not None
        os.rename(place, self.data_path(dataset))
        dataset.mounted = False
        del self._shown[str(place)]

    @contextlib.contextmanager
    def moving(self, *datasets: model.Dataset) -> Iterator[None]:
        """Unmount these and all below them, let names or places change, mount them again."""
        with self.lock:
            affected = [ds for top in datasets for ds in self._affected(top)]
            was = [ds for ds in dict.fromkeys(affected) if ds.mounted]
            for dataset in reversed(was):
                self.unmount(dataset)
            try:
                yield
            finally:
                for dataset in was:
                    if dataset.name in self.datasets and self.mountable(dataset):
                        self.mount(dataset)

    def _affected(self, top: model.Dataset) -> Iterator[model.Dataset]:
        yield from self.walk(top)
        place = self.place(top) if top.mounted else None
        if place is not None:
            yield from reversed(self._mounted_below(place))

    def empty_place(self, dataset: model.Dataset) -> None:
        """Remove the folder that an unmounted filesystem was shown at, when nothing is in it."""
        place = self.place(dataset)
        if place is not None and not dataset.mounted:
            self.drop_empty(place)

    def drop_empty(self, place: pathlib.Path) -> None:
        if str(place) not in self._shown and place.is_dir() and not os.listdir(place):
            place.rmdir()

    def remove_files(self, dataset: model.Dataset) -> None:
        """Remove everything that belongs to a dataset that the books have forgotten."""
        self.discard(self.data_path(dataset))
        self.discard(self.state / "receiving" / str(dataset.oid))
        if dataset.kind == "volume":
            self.discard(self.device(dataset.name))
            self._drop_device_folder(names.parent(dataset.name))
        for snap in dataset.snapshots.values():
            self.discard(self.snapshot_path(snap))

    def _drop_device_folder(self, name: str | None) -> None:
        while name:
            try:
                self.device(name).rmdir()
            except OSError:
                return
            name = names.parent(name)
