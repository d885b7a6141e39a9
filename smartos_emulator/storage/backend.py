# SPDX-License-Identifier: Apache-2.0
"""The storage of one node: its pools, and what a fresh SmartOS pool holds."""

import datetime
import pathlib
from typing import Any, Protocol

from smartos_emulator.storage import errors, model, names, receiving

MIB = 1 << 20
_DEFAULT_POOL_BYTES = 512 << 30
_DEFAULT_MEMORY_MIB = 32768
_DUMP_MIB = 1024
_PAGE = 4096
_POOL_SETTINGS: dict[str, tuple[str, ...]] = {
    "autoexpand": ("on", "off"),
    "autoreplace": ("on", "off"),
    "autotrim": ("off", "on"),
    "bootfs": (),
    "cachefile": (),
    "comment": (),
    "delegation": ("on", "off"),
    "failmode": ("wait", "continue", "panic"),
    "listsnapshots": ("on", "off"),
    "multihost": ("on", "off"),
}


class _Config(Protocol):
    @property
    def pools(self) -> dict[str, int]: ...
    @property
    def memory_mib(self) -> int: ...


class _Clock(Protocol):
    def now(self) -> datetime.datetime: ...


class _Node(Protocol):
    dir: pathlib.Path
    root: pathlib.Path

    @property
    def config(self) -> _Config: ...
    @property
    def clock(self) -> _Clock: ...


class Storage(receiving.Receiving):
    """Pools and datasets as plain folders and sparse files; every public call is thread-safe."""

    def __init__(
        self,
        node: "Any | pathlib.Path",
        *,
        pools: dict[str, int] | None = None,
        memory_mib: int | None = None,
    ) -> None:
        if isinstance(node, pathlib.Path):
            directory, root, now = node, node / "root", _wall_clock
        else:
            directory, root, now = node.dir, node.root, node.clock.now
            pools = dict(node.config.pools) if pools is None else pools
            memory_mib = node.config.memory_mib if memory_mib is None else memory_mib
        self._looked: dict[int, float] = {}
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root, directory / "state" / "storage", now)
        self.link_devices()
        self.find_mounted()
        self._open_pools(pools or {"zones": _DEFAULT_POOL_BYTES}, memory_mib or _DEFAULT_MEMORY_MIB)

    def _open_pools(self, pools: dict[str, int], memory_mib: int) -> None:
        with self.lock:
            for name, size in pools.items():
                if name not in self._meta["pools"]:
                    self._create_pool(name, size)
            if "zones" in pools and "zones/config" not in self.datasets:
                self._lay_out(memory_mib)
            self.drop_unfinished()
            self._remount()

    def _create_pool(self, name: str, size: int) -> None:
        if why := names.pool_fault(name):
            raise errors.StorageError(f"cannot create '{name}'", why)
        self._meta["pools"][name] = {
            "size": size,
            "guid": self.new_guid(),
            "creation": self.seconds(),
        }
        dataset = model.Dataset(
            self.next_oid(),
            name,
            "filesystem",
            self.new_guid(),
            1,
            self.seconds(),
            self.views.fresh("filesystem"),
        )
        self._materialize(dataset)
        self._index(dataset)
        self._adopt(dataset)
        self.commit(dataset)

    def _adopt(self, dataset: model.Dataset) -> None:
        """Mount over a folder that may hold files already: they become the dataset's."""
        place = self.place(dataset)
        if place is None:
            return
        place.mkdir(parents=True, exist_ok=True)
        self.data_path(dataset).rmdir()
        dataset.mounted = True
        self._shown[str(place)] = dataset

    def _lay_out(self, memory_mib: int) -> None:
        """What the installer of SmartOS makes in a new pool, in its order."""
        self.set_many("zones", {"atime": "off"})
        device = {
            "logbias": "throughput",
            "sync": "always",
            "primarycache": "metadata",
            "secondarycache": "none",
            "volblocksize": str(_PAGE),
        }
        self._lay_out_volume("zones/dump", _DUMP_MIB * MIB, {"checksum": "noparity", **device})
        self._lay_out_folder("zones/config", {"mountpoint": "legacy"})
        self._lay_out_folder("zones/usbkey", {"mountpoint": "legacy"})
        self._lay_out_folder(
            "zones/cores",
            {"quota": "10g", "compression": "gzip", "mountpoint": "/zones/global/cores"},
        )
        self._lay_out_folder("zones/opt", {"mountpoint": "legacy"})
        self._lay_out_folder("zones/var", {"mountpoint": "legacy"})
        self._lay_out_volume("zones/swap", memory_mib * MIB, device)
        self._lay_out_folder(
            "zones/archive", {"compression": "lzjb", "mountpoint": "/zones/archive"}
        )

    def _lay_out_volume(self, name: str, size: int, props: dict[str, str]) -> None:
        # A pool too small for a real node still makes a node: its swap takes no room.
        sparse = size * 8 > self.capacity(names.pool(name))
        self.create(name, volume_bytes=size, properties=props, sparse=sparse)

    def _lay_out_folder(self, name: str, props: dict[str, str]) -> None:
        parsed = self._parsed(props, "filesystem", f"cannot create '{name}'", new=True)
        dataset = self._new(name, "filesystem", parsed, f"cannot create '{name}'")
        self._materialize(dataset)
        self._publish(dataset)
        self._adopt(dataset)
        self.commit(dataset)
        self.tell("create", name)

    def _remount(self) -> None:
        """Put every mounted filesystem where it belongs: a crash may have come between."""
        for dataset in self.datasets.values():
            place = self.place(dataset) if dataset.kind == "filesystem" else None
            data = self.data_path(dataset)
            if dataset.kind != "filesystem":
                continue
            if dataset.mounted and place is not None and not place.is_dir():
                dataset.mounted = False
                self._shown.pop(str(place), None)
                data.mkdir(parents=True, exist_ok=True)
                if self.mountable(dataset):
                    self.mount(dataset)
            elif dataset.mounted and data.is_dir():
                self._settle(dataset, data)
            elif not dataset.mounted:
                data.mkdir(parents=True, exist_ok=True)

    def _settle(self, dataset: model.Dataset, data: pathlib.Path) -> None:
        """The books say mounted, but the files were taken away: show them again."""
        place = self.place(dataset)
        assert place is not None
        if any(data.iterdir()) and not any(place.iterdir()):
            dataset.mounted = False
            self._shown.pop(str(place), None)
            self.mount(dataset)

    def pool_fact(self, name: str, fact: str) -> int:
        """ "size", "guid" or "creation" of a pool."""
        with self.lock:
            return int(self._meta["pools"][name][fact])

    def pool_setting(self, name: str, prop: str) -> str:
        """What was set with zpool set, or nothing."""
        with self.lock:
            return str(self._meta["pools"][name].get("props", {}).get(prop, ""))

    def set_pool(self, name: str, prop: str, value: str) -> None:
        """zpool set prop=value name"""
        doing = f"cannot set property for '{name}'"
        choices = _POOL_SETTINGS.get(prop)
        if choices is None:
            raise errors.StorageError(doing, f"invalid property '{prop}'")
        if choices and value not in choices:
            raise errors.StorageError(doing, f"'{prop}' must be one of '{' | '.join(choices)}'")
        with self.lock:
            self._meta["pools"][name].setdefault("props", {})[prop] = value
            self.commit()

    def set(self, name: str, prop: str, value: str) -> None:
        """zfs set prop=value name"""
        self.set_many(name, {prop: value})


def _wall_clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
