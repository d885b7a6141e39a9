# SPDX-License-Identifier: Apache-2.0
"""What a normalized update makes of a VM object."""

import copy
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import (
    disk_config,
    environment,
    nic_config,
    properties,
    resources,
    zone_config,
)

Vm = dict[str, Any]

_METADATA = ("customer_metadata", "internal_metadata", "tags", "routes")
_LIVE_LIMITS = {
    "cpu_shares": ("zone.cpu-shares", 1),
    "zfs_io_priority": ("zone.zfs-io-priority", 1),
    "max_lwps": ("zone.max-lwps", 1),
    "max_msg_ids": ("zone.max-msg-ids", 1),
    "max_physical_memory": ("zone.max-physical-memory", 1 << 20),
    "max_shm_memory": ("zone.max-shm-memory", 1 << 20),
    "max_sem_ids": ("zone.max-sem-ids", 1),
    "max_shm_ids": ("zone.max-shm-ids", 1),
    "max_locked_memory": ("zone.max-locked-memory", 1 << 20),
    "max_swap": ("zone.max-swap", 1 << 20),
    "cpu_cap": ("zone.cpu-cap", 1),
}


def require_known(vm: Vm, changes: Vm) -> None:
    """Raise what vmadm dies of when a change names a disk that is not there."""
    paths = [disk.get("path") for disk in vm.get("disks", [])]
    for change in changes.get("update_disks", []):
        if js.text(js.get(change, "path")) not in paths:
            raise js.JavaScriptError("index (number) is required")


def prepare(vm: Vm, changes: Vm) -> Vm:
    """The changes with a path for each new disk, as the volumes need it."""
    changes = copy.deepcopy(changes)
    added = changes.get("add_disks", [])
    present = vm.get("disks", [])
    disk_config.name_new(added, present, vm["brand"], vm["uuid"], vm.get("zpool", "zones"))
    return changes


def apply(vm: Vm, changes: Vm, environment: environment.Environment) -> Vm:
    """The object after an update, as `vmadm get` shows it at once."""
    brand = properties.BRANDS[vm["brand"]]
    changes = prepare(vm, changes)
    vm = copy.deepcopy(vm)
    for name in _METADATA:
        _change_metadata(vm, changes, name)
    zone_config.configure(vm, changes, brand)
    vm["nics"] = nic_config.configure(vm.get("nics", []), changes, brand)
    resources.configure(vm, changes, brand)
    _change_datasets(vm, changes)
    vm.setdefault("resolvers", [])
    vm.setdefault("firewall_enabled", False)
    return zone_config.arrange(vm)


def _change_metadata(vm: Vm, changes: Vm, name: str) -> None:
    removed = changes.get(f"remove_{name}", [])
    kept = {
        key: value for key, value in zone_config.flat(vm.get(name)).items() if key not in removed
    }
    vm[name] = kept | zone_config.flat(changes.get(f"set_{name}"))


def _change_datasets(vm: Vm, changes: Vm) -> None:
    if "quota" in changes:
        vm["quota"] = changes["quota"]
    delegated = f"{vm.get('zfs_filesystem')}/data" in vm.get("datasets", [])
    parts = {"zoneroot": "root", "delegated": "data"} if delegated else {"zoneroot": "root"}
    for place, part in parts.items():
        recsize = changes.get(f"zfs_{part}_recsize", js.UNDEFINED)
        if recsize is not js.UNDEFINED:
            vm[f"zfs_{part}_recsize"] = recsize
        _change_unless(vm, changes, f"zfs_{part}_compression", "off")
        if f"indestructible_{place}" in changes:
            _change_unless(vm, changes, f"indestructible_{place}", False)
    for name in ("zfs_filesystem_limit", "zfs_snapshot_limit"):
        _change_unless(vm, changes, name, "none")
    if "flexible_disk_size" in vm and vm["brand"] == "bhyve":
        vm["free_space"] = vm["flexible_disk_size"] - sum(map(disk_config.size, vm["disks"]))
    else:
        vm.pop("free_space", None)


def _change_unless(vm: Vm, changes: Vm, name: str, usual: Any) -> None:
    """Take over a setting that is only shown when it is not the usual one."""
    if name not in changes:
        return
    if changes[name] == usual:
        vm.pop(name, None)
    else:
        vm[name] = changes[name]


def live_limits(vm: Vm, changes: Vm) -> dict[str, int]:
    """The resource controls that change in a running zone at once; 0 removes one."""
    if not properties.BRANDS[vm["brand"]].live_rctls:
        return {}
    return {
        control: int(js.number(changes[name]) * factor)
        for name, (control, factor) in _LIVE_LIMITS.items()
        if name in changes and not js.is_nan(changes[name])
    }
