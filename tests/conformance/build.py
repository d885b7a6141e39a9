# SPDX-License-Identifier: Apache-2.0
"""Making a VM that looks like a recorded one, whether a payload or a vm object tells of it."""

import copy
import re
import subprocess
import typing

from tests.conformance import world

Vm = dict[str, typing.Any]

# What a vm object shows and a payload cannot say, or says in another way.
_SHOWN_ONLY = {
    *("boot_timestamp", "create_timestamp", "datasets", "device", "exit_status", "exit_timestamp"),
    *("free_space", "hvm", "init_restarts", "last_modified", "pid", "platform_buildstamp"),
    *("server_uuid", "snapshots", "state", "transition_expire", "transition_to", "v", "type"),
    *("zfs_filesystem", "zlog_mode", "zlog_name", "zone_state", "zonedid", "zoneid", "zonename"),
    *("zonepath", "failed", "provisioning"),
}
_DISK_DEFAULTS = {"compression": "off", "block_size": 8192}
_DISK_SHOWN_ONLY = ("path", "zfs_filesystem", "refreservation")
# what only creation sets, or what has its place whenever it is set
_AT_CREATION = {
    *("uuid", "brand", "image_uuid", "zpool", "nics", "disks", "datasets", "delegate_dataset"),
    *("autoboot", "tags", "routes", "customer_metadata", "internal_metadata", "quota"),
}
_FILLER_MAC = "02:08:20:ff:ff:"
_VOLUMES = "/dev/zvol/rdsk/"
_SEED_PATH = "cloudinit_nocloud_path"
# what `vmadm receive` takes for a broken bundle, so that it leaves what has come
_GARBAGE = b"?" * 512


def make(node: world.World, vm: Vm, state: str | None = None) -> None:
    """Create `vm` and bring it to its state."""
    state = state or state_of(vm)
    payload, added = _disks_apart(payload_of(vm), vm)
    if is_shown(vm):
        payload["nics"] = _nics_in_place(payload.get("nics") or [])
    moved = bool(added) or len(payload.get("disks") or ()) > len(vm.get("disks") or ())
    # disks change while the VM is stopped only
    payload["autoboot"] = not moved and (state in ("running", "failed") or "exit_timestamp" in vm)
    later = _create(node, vm, payload, state)
    for key in later:
        node.must("vmadm", "update", vm["uuid"], document={key: vm[key]})
    for disk in added:
        node.must("vmadm", "update", vm["uuid"], document={"add_disks": [disk]})
    _remove_fillers(node, vm)
    for snapshot in reversed(vm.get("snapshots", ())):
        node.must("vmadm", "create-snapshot", vm["uuid"], snapshot["name"])
    _power(node, vm, state)


def payload_of(vm: Vm) -> Vm:
    """What `vmadm create` is told to make a VM that looks like `vm`."""
    payload = {key: value for key, value in copy.deepcopy(vm).items() if key not in _SHOWN_ONLY}
    if is_shown(vm) and vm["brand"] not in ("kvm", "bhyve"):
        payload["delegate_dataset"] = bool(vm.get("datasets"))
    for nic in payload.get("nics") or ():
        nic.pop("gateway", None)
    seed = (payload.get("internal_metadata") or {}).pop(_SEED_PATH, None)
    if "disks" in payload and is_shown(vm):
        kept = [disk for disk in payload["disks"] if disk.get("path") != seed]
        payload["disks"] = [_disk_payload(disk) for disk in kept]
    return payload


def state_of(vm: Vm) -> str:
    """The state that a vm object shows, or that a payload leads to."""
    return str(vm.get("state") or ("stopped" if vm.get("autoboot") is False else "running"))


def late_keys(shown: Vm, built: Vm) -> list[str]:
    """The keys that were set after `shown` was created: they stand behind their usual place."""
    place = {key: number for number, key in enumerate(built)}
    common = [key for key in shown if key in place]
    return [
        key
        for number, key in enumerate(common)
        if any(place[other] > place[key] for other in common[:number])
    ]


def is_shown(vm: Vm) -> bool:
    """Whether this is a vm object, and not the payload of one."""
    return "zonename" in vm


def _disk_payload(disk: Vm) -> Vm:
    if not disk["path"].startswith(_VOLUMES):
        return disk
    defaults = {key for key, value in _DISK_DEFAULTS.items() if disk.get(key) == value}
    kept = {k: v for k, v in disk.items() if k not in _DISK_SHOWN_ONLY and k not in defaults}
    if "image_uuid" in kept and kept.get("size") == kept.get("image_size"):
        kept.pop("size", None)
    return kept


def _disks_apart(payload: Vm, vm: Vm) -> tuple[Vm, list[Vm]]:
    """The payload with the disks that creation makes, and those that an update added.

    Creation gives each disk a medium, an update does not. Where a disk was removed, one that
    fills its place is made first, so that the next ones get their numbers.
    """
    paths = [disk.get("path", "") for disk in payload.get("disks") or ()]
    if not is_shown(vm) or not paths or any(paths):
        return payload, []
    slots: dict[int, Vm] = {}
    seed = (vm.get("internal_metadata") or {}).get(_SEED_PATH)
    shown = [disk for disk in vm["disks"] if disk["path"] != seed]
    for disk, plain in zip(shown, payload["disks"], strict=False):
        slots[_number(disk["path"])] = plain
    used = {disk.get("pci_slot") for disk in slots.values()}
    row = [slots.get(number) or _filler(number, used) for number in range(max(slots) + 1)]
    cut = next((at for at, disk in enumerate(row) if "media" not in disk), len(row))
    return {**payload, "disks": row[:cut]}, row[cut:]


def _filler(number: int, used: set[typing.Any]) -> Vm:
    slot = f"0:4:{number}"
    filler = {"size": 1, "model": "virtio", "media": "disk", "boot": False}
    return filler if used == {None} or slot in used else {**filler, "pci_slot": slot}


def _number(path: str) -> int:
    found = re.search(r"disk(\d+)$", path)
    return int(found[1]) if found else 0


def _wanted_paths(vm: Vm) -> set[str]:
    return {disk["path"] for disk in vm.get("disks") or () if "path" in disk}


def _nics_in_place(nics: list[Vm]) -> list[Vm]:
    """The nics, and others where some were removed, so that each gets its interface."""
    slots = {int(re.sub(r"\D", "", nic.get("interface", "")) or 0): nic for nic in nics}
    if len(slots) < len(nics):
        return nics
    filler = {"nic_tag": "admin", "ips": ["dhcp"]}
    return [
        slots.get(number) or {**filler, "mac": f"{_FILLER_MAC}{number:02x}"}
        for number in range(max(slots, default=-1) + 1)
    ]


def _remove_fillers(node: world.World, vm: Vm) -> None:
    """Take away what was made to fill a place."""
    here = (node.vm(vm["uuid"]) or {}) if is_shown(vm) else {}
    disks = [disk["path"] for disk in here.get("disks", ())]
    macs = [nic["mac"] for nic in here.get("nics", ())]
    changes = {
        "remove_disks": [path for path in disks if path not in _wanted_paths(vm)],
        "remove_nics": [mac for mac in macs if mac.startswith(_FILLER_MAC)],
    }
    if any(changes.values()):
        document = {key: value for key, value in changes.items() if value}
        node.must("vmadm", "update", vm["uuid"], document=document)


def _create(node: world.World, vm: Vm, payload: Vm, state: str) -> list[str]:
    """Create the VM; the keys that are still to be set, for they were set later."""
    if state == "failed":
        node.fault("guest", vm["uuid"], "provision=never")
        node.run("vmadm", "create", document=payload)
        return []
    node.must("vmadm", "create", document=payload)
    built = (node.vm(vm["uuid"]) or {}) if is_shown(vm) else {}
    later = [key for key in late_keys(vm, built) if key in payload.keys() - _AT_CREATION]
    if later:
        node.remove_vm(vm["uuid"])
        for key in later:
            del payload[key]
        node.must("vmadm", "create", document=payload)
    return later


def _power(node: world.World, vm: Vm, state: str) -> None:
    """Bring a VM that was just made to its state, with the autoboot that it shows."""
    uuid = vm["uuid"]
    if state == "receiving":
        return receiving(node, uuid)
    here = node.vm(uuid) or {}
    was_up = "exit_timestamp" in here or here.get("state") == "running"
    if here.get("state") == "stopped" and (
        state == "running" or ("exit_timestamp" in vm and not was_up)
    ):
        node.must("vmadm", "start", uuid)
    if (node.vm(uuid) or {}).get("state") == "running" and state == "stopped":
        node.must("vmadm", "stop", uuid, *(["-F"] if vm.get("exit_status") else []))
    for _ in range(vm.get("init_restarts", 0)):
        node.must("vmadm", "kill", "-s", "KILL", uuid)
    wanted = vm.get("autoboot", state == "running")
    if is_shown(vm) and (node.vm(uuid) or {}).get("autoboot") != wanted:
        node.must("vmadm", "update", uuid, document={"autoboot": wanted})


def bundle(node: world.World, uuid: str) -> bytes:
    """What `vmadm send` writes of a VM, which is deleted then."""
    with subprocess.Popen([f"{node.node.tools}/vmadm", "send", uuid], **_QUIET) as sending:
        content: bytes = sending.communicate(timeout=world.SECONDS)[0]
    node.remove_vm(uuid)
    return content


def receiving(node: world.World, uuid: str) -> None:
    """Have a VM received but not installed: its bundle breaks off after the last dataset."""
    content = bundle(node, uuid)
    with subprocess.Popen([f"{node.node.tools}/vmadm", "receive"], **_QUIET) as process:
        process.communicate(content + _GARBAGE, timeout=world.SECONDS)


_QUIET: dict[str, typing.Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.DEVNULL,
}
