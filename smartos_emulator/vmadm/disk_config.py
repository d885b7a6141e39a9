# SPDX-License-Identifier: Apache-2.0
"""The disks and passed-through devices of a VM as its configuration keeps them."""

import re
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import properties

Disk = dict[str, Any]

ZVOL = "/dev/zvol/rdsk/"
_BLOCK_SIZE = 8192
_ORDER = (
    "path",
    "boot",
    "model",
    "media",
    "image_size",
    "image_uuid",
    "pci_slot",
    "uuid",
    "notrim",
    "guest_block_size",
)
_DATASET = ("zfs_filesystem", "zpool", "size", "compression", "refreservation", "block_size")


def name_new(added: list[Disk], present: list[Disk], brand: str, uuid: str, zpool: str) -> None:
    """Give each disk that gets a volume its pool, dataset and path, on the first free number."""
    separator = "/disk" if brand == "bhyve" else "-disk"
    used = {
        int(found.group(1))
        for disk in present
        if (found := re.fullmatch(f".*{separator}([0-9]+)", disk["path"]))
    }
    for disk in added:
        if disk.get("media") == "cdrom" or js.truthy(disk.get("nocreate")):
            continue
        number = next(free for free in range(len(used) + 1) if free not in used)
        used.add(number)
        disk.setdefault("zpool", zpool)
        disk["zfs_filesystem"] = f"{disk['zpool']}/{uuid}{separator}{number}"
        disk["path"] = f"{ZVOL}{disk['zfs_filesystem']}"


def configure(present: list[Disk], payload: dict[str, Any]) -> list[Disk]:
    """The disks after a payload's additions, changes and removals."""
    changes = _by_path(payload.get("update_disks", []))
    removed = payload.get("remove_disks", [])
    kept = [disk for disk in present if disk["path"] not in changes]
    anew = [_changed(disk, changes[disk["path"]]) for disk in present if disk["path"] in changes]
    disks = kept + anew + [_object(disk) for disk in payload.get("add_disks", [])]
    return sorted((disk for disk in disks if disk["path"] not in removed), key=_place)


def _by_path(changes: list[Disk]) -> dict[str, Disk]:
    return {js.text(js.get(change, "path")): change for change in changes}


def _place(disk: Disk) -> int:
    found = re.fullmatch(r".*[-/]disk([0-9]+)", disk["path"])
    return int(found.group(1)) if found else 0


def _changed(disk: Disk, change: Disk) -> Disk:
    taken = (*properties.updatable("disks"), "size", "compression", "refreservation")
    return _object(disk | {name: change[name] for name in taken if name in change})


def _object(disk: Disk) -> Disk:
    """A disk in the form and order that its configuration and its volume give back."""
    made = {name: disk[name] for name in _ORDER if name in disk}
    made["path"] = js.text(js.get(disk, "path"))
    made["boot"] = js.truthy(disk.get("boot"))
    if "image_size" in made:
        made["image_size"] = js.number(made["image_size"])
    if "zfs_filesystem" not in disk:
        made["missing"] = True
    else:
        made |= _volume(disk)
    return {name: made[name] for name in (*_ORDER, *_DATASET, "missing") if name in made}


def _volume(disk: Disk) -> Disk:
    return {
        "zfs_filesystem": disk["zfs_filesystem"],
        "zpool": disk["zpool"],
        "size": size(disk),
        "compression": disk.get("compression", "off"),
        "refreservation": disk.get("refreservation", size(disk)),
        "block_size": js.number(disk.get("block_size", _BLOCK_SIZE)),
    }


def configure_pci(present: list[Disk], payload: dict[str, Any]) -> list[Disk]:
    """The passed-through devices after a payload's additions, changes and removals."""
    changes = _by_path(payload.get("update_pci_devices", []))
    removed = payload.get("remove_pci_devices", [])
    devices = [device for device in present if device["path"] not in changes]
    for device in present:
        if device["path"] in changes:
            slot = changes[device["path"]].get("pci_slot", device["pci_slot"])
            devices.append(device | {"pci_slot": slot})
    for device in payload.get("add_pci_devices", []):
        devices.append(
            {"path": device["path"], "model": "passthru", "pci_slot": device["pci_slot"]}
        )
    return [device for device in devices if device["path"] not in removed]


def size(disk: Disk) -> Any:
    """The size of a disk's volume in MiB; 0 without one."""
    return js.number(disk.get("size", disk.get("image_size", 0)))
