# SPDX-License-Identifier: Apache-2.0
"""The volumes behind the disks of hardware VMs, and how much of the pool their zone may take."""

import contextlib
import typing

from smartos_emulator import storage
from smartos_emulator.storage import units
from smartos_emulator.vmadm import failures, record

Disk = dict[str, typing.Any]

MIB = record.MIB
GIB = record.GIB
_DEFAULT_QUOTA = 1


@contextlib.contextmanager
def as_program() -> typing.Iterator[None]:
    """What storage refuses is what a run of zfs would have printed."""
    try:
        yield
    except storage.StorageError as error:
        raise failures.command_failed(f"{error}\n") from None


@contextlib.contextmanager
def as_text() -> typing.Iterator[None]:
    """What storage refuses is said in its own words: some callers take only those."""
    try:
        yield
    except storage.StorageError as error:
        raise failures.VmError(str(error)) from None


def name_of(disk: Disk) -> str:
    """The volume of a disk whose path is known."""
    path: str = disk["path"]
    return path.removeprefix(record.ZVOL)


def is_ours(disk: Disk) -> bool:
    """Whether vmadm makes a volume for the disk."""
    return disk.get("media") != "cdrom" and not disk.get("nocreate")


def make_all(store: storage.Storage, parent: str, disks: list[Disk]) -> None:
    """Make the volumes of new disks; when one fails, none stays."""
    made: list[Disk] = []
    try:
        for disk in filter(is_ours, disks):
            made.append(disk)
            make(store, parent, disk)
    except failures.VmError:
        for disk in made:
            remove(store, name_of(disk))
        raise


def make(store: storage.Storage, parent: str, disk: Disk) -> None:
    """Make one volume: empty, or a clone of an image's."""
    size = (disk["size"] if "size" in disk else disk["image_size"]) * MIB
    with as_program():
        overhead = _overhead(store, disk, size)
        with _room(store, parent, name_of(disk), overhead):
            if "image_uuid" in disk:
                _clone(store, disk)
            else:
                _create(store, disk, size)


def _reservation(disk: Disk) -> str:
    return f"{disk['refreservation']}M" if "refreservation" in disk else "auto"


def _clone(store: storage.Storage, disk: Disk) -> None:
    image = f"{disk.get('zpool', 'zones')}/{disk['image_uuid']}"
    snapshot = f"{image}@final"
    if not store.exists(snapshot):
        snapshot = f"{image}@{disk.get('uuid')}"
        store.snapshot(snapshot)
    properties = {key: str(disk[key]) for key in ("compression",) if key in disk}
    if "size" in disk:
        properties["volsize"] = str(disk["size"] * MIB)
    properties["refreservation"] = _reservation(disk)
    store.clone(snapshot, name_of(disk), properties=properties)


def _create(store: storage.Storage, disk: Disk, size: int) -> None:
    properties = {"volblocksize": str(disk.get("block_size", 8192))}
    if "compression" in disk:
        properties["compression"] = disk["compression"]
    if "refreservation" in disk:
        properties["refreservation"] = _reservation(disk)
    store.create(name_of(disk), properties=properties, volume_bytes=size)


def _overhead(store: storage.Storage, disk: Disk, size: int) -> int:
    """What a volume's own bookkeeping reserves beyond its size."""
    if "refreservation" in disk:
        return 0
    block = int(disk.get("block_size", 8192))
    if "image_uuid" in disk:
        image = f"{disk.get('zpool', 'zones')}/{disk['image_uuid']}"
        block = store.number(image, "volblocksize")
    return units.volume_reservation(size, block) - size


@contextlib.contextmanager
def _room(store: storage.Storage, parent: str, volume: str, more: int) -> typing.Iterator[None]:
    """Let the zone's quota and reservation follow a change below it by `more` bytes."""
    quota = 0
    if volume.startswith(f"{parent}/") and more:
        quota = store.number(parent, "quota")
    if quota and more > 0:
        _set_room(store, parent, quota + more)
    try:
        yield
    except storage.StorageError:
        if quota and more > 0:
            _set_room(store, parent, quota)
        raise
    if quota and more < 0:
        _set_room(store, parent, quota + more)


def _set_room(store: storage.Storage, parent: str, size: int) -> None:
    grows = size > store.number(parent, "quota")
    for prop in ("quota", "reservation") if grows else ("reservation", "quota"):
        store.set(parent, prop, str(size))


def resize(store: storage.Storage, parent: str, disk: Disk, size: int, shrink: bool) -> None:
    """Give a volume another size, in MiB."""
    if disk["size"] > size and not shrink:
        raise failures.VmError(
            "cannot resize disk: new size must be greater than current size. "
            f"({disk['size']} > {size})"
        )
    if disk["size"] == size:
        return
    name = name_of(disk)
    with as_program():
        reserved = store.number(name, "refreservation") - store.number(name, "volsize")
        block = store.number(name, "volblocksize")
        overhead = units.volume_reservation(size * MIB, block) - size * MIB
        with _room(store, parent, name, overhead - reserved):
            store.set(name, "volsize", str(size * MIB))


def remove(store: storage.Storage, name: str) -> None:
    """Destroy a volume, its snapshots, and the snapshot it came from unless that is an image's."""
    if not store.exists(name):
        return
    with as_program():
        origin = store.origin(name)
        store.destroy(name, recursive=True)
        if origin and not origin.endswith("@final") and store.exists(origin):
            store.destroy(origin, recursive=True)


def set_quota(
    store: storage.Storage, brand: str, name: str, quota: int, flexible: int | None
) -> None:
    """Set what a VM's quota stands for; bhyve's does not count its disks."""
    with as_text():
        if brand == "bhyve":
            _set_bhyve_quota(store, name, quota, flexible)
        else:
            store.set(name, "quota", f"{quota}G" if int(quota) else "none")


def _set_bhyve_quota(store: storage.Storage, name: str, quota: int, flexible: int | None) -> None:
    own = max(_DEFAULT_QUOTA, quota) * GIB
    store.set(name, "refreservation", "none")
    store.set(name, "refquota", str(own))
    volumes = store.children(name, kinds={"volume"})
    for volume in volumes:
        store.set(volume, "refreservation", "auto")
    total = own + sum(store.number(volume, "refreservation") for volume in volumes)
    if flexible:
        total += flexible * MIB - sum(store.number(volume, "volsize") for volume in volumes)
    total = max(total, quota * GIB)
    _set_room(store, name, total)
    store.set(name, "refreservation", str(max(0, own - MIB)))
