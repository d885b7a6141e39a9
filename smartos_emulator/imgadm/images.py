# SPDX-License-Identifier: Apache-2.0
"""The images of a node: which are installed, who uses them, and who may change them."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from smartos_emulator.imgadm import database, errors
from smartos_emulator.storage import errors as storage_errors

if TYPE_CHECKING:
    from smartos_emulator import node as node_module

Info = database.Info
Log = Callable[[str], None]

DEFAULT_POOL = "zones"

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# What an image can be cloned to: pool/uuid, pool/uuid-diskN (kvm) or pool/uuid/diskN (bhyve).
_VM_DATASET = re.compile(rf"[a-zA-Z][a-zA-Z._-]*/{_UUID}([-/]disk\d+)?")
_IMAGE_DATASET = re.compile(rf"([a-zA-Z][a-zA-Z._-]*)/({_UUID})")


class Images:
    """`node.images`."""

    def __init__(self, node: "node_module.Node") -> None:
        self.node = node
        self.database = database.Database(node)
        self._locked: set[str] = set()
        self._released = threading.Condition()

    def get(self, uuid: str, zpool: str = DEFAULT_POOL) -> Info | None:
        """What the data base knows of an image, the quick way that vmadm asks."""
        info = self.database.load(zpool, uuid)
        return None if len(info["manifest"]) == 1 else info

    def installed(self, uuid: str, zpool: str = DEFAULT_POOL) -> Info | None:
        """An image that is there, the way `imgadm get` asks."""
        if not self.node.storage.exists(f"{zpool}/{uuid}"):
            return None
        return self.database.load(zpool, uuid)

    def all(self) -> list[Info]:
        """Every installed image with the datasets that are its clones."""
        # Asked first, for whoever holds the storage's lock must not want another one.
        roots = {vm.get("zonepath") for vm in self.node.vms.all()}
        with self.node.storage.lock:
            datasets = self._datasets()
            names = list(self._image_names(datasets, roots))
        users: dict[str, list[str]] = {}
        for name, origin in datasets.items():
            if origin:
                users.setdefault(origin.partition("@")[0], []).append(name)
        infos = []
        for name in names:
            pool, _, uuid = name.partition("/")
            clones = users.get(name, [])
            info = self.database.load(pool, uuid)
            infos.append({**info, "cloneNames": clones, "clones": len(clones)})
        return infos

    def children(self, name: str) -> tuple[list[str], list[str]]:
        """What lies below a dataset (datasets and snapshots), and the clones of its snapshots."""
        storage = self.node.storage
        with storage.lock:
            below = storage.children(name)
            snapshots = [one for one in below if one.startswith(f"{name}@")]
            clones = sorted(clone for one in snapshots for clone in storage.clones(one))
        return snapshots + [one for one in below if one not in snapshots], clones

    def delete(self, uuid: str, zpool: str = DEFAULT_POOL, *, checked: bool = False) -> None:
        """Remove an image that nothing uses."""
        name = f"{zpool}/{uuid}"
        if not checked:
            self._check_unused(uuid, zpool)
        try:
            self.node.storage.destroy(name, recursive=True)
        except storage_errors.StorageError as error:
            raise errors.internal(
                f'error deleting image "{uuid}":\n\tcommand: /usr/sbin/zfs destroy -r {name}\n'
                f"\texit status: 1\n\tstdout:\n\n\tstderr:\n{str(error).strip()}"
            ) from None
        self.database.delete(zpool, uuid)

    @contextlib.contextmanager
    def import_locks(self, uuids: list[str], log: Log) -> Iterator[None]:
        """Hold the import locks of some images, taken in the order given."""
        held: list[str] = []
        try:
            for uuid in uuids:
                self._lock(uuid, log)
                held.append(uuid)
            yield
        finally:
            with self._released:
                self._locked.difference_update(held)
                self._released.notify_all()

    def _lock(self, uuid: str, log: Log) -> None:
        if self._try_lock(uuid, 1):
            return
        log(f"Waiting for image {uuid} import lock")
        while not self._try_lock(uuid, 60):
            pass

    def _try_lock(self, uuid: str, seconds: float) -> bool:
        with self._released:
            free = self.node.clock.wait(self._released, lambda: uuid not in self._locked, seconds)
            if free:
                self._locked.add(uuid)
            return free

    def _check_unused(self, uuid: str, zpool: str) -> None:
        if not self.installed(uuid, zpool):
            raise errors.image_not_installed(zpool, uuid)
        _, clones = self.children(f"{zpool}/{uuid}")
        if not clones:
            return
        more = f" and {len(clones) - 1} others..." if len(clones) > 1 else ""
        message = f'image "{uuid}" has dependent clones: {clones[0]}{more}'
        raise errors.ImgadmError("ImageHasDependentClones", message)

    def _datasets(self) -> dict[str, str | None]:
        """The origin of each dataset that may be an image or made of one, in zfs list's order."""
        storage = self.node.storage
        found: dict[str, str | None] = {}
        for pool in sorted(self.node.config.pools):
            for name in sorted(storage.children(pool, kinds={"filesystem", "volume"})):
                if _VM_DATASET.fullmatch(name):
                    found[name] = storage.origin(name)
        return found

    def _image_names(
        self, datasets: dict[str, str | None], roots: set[str | None]
    ) -> Iterator[str]:
        for name, origin in datasets.items():
            if not _IMAGE_DATASET.fullmatch(name) or f"/{name}" in roots:
                continue
            cloned = (origin or "").endswith("@final")
            if cloned and not self.node.storage.exists(f"{name}@final"):
                continue
            if not self._ignored(name):
                yield name

    def _ignored(self, name: str) -> bool:
        return self.node.storage.get(name, "imgadm:ignore") in ("true", "yes")
