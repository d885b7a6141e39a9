# SPDX-License-Identifier: Apache-2.0
"""The VM that comes of a normalized payload."""

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

_SEED_DISK_MIB = 16
_SEED_BLOCK_SIZE = 512


def prepare(payload: Vm) -> Vm:
    """The payload with what create decides first: paths, the seed disk, the primary nic."""
    payload = copy.deepcopy(payload)
    brand = properties.BRANDS[payload["brand"]]
    payload["zfs_filesystem"] = f"{payload['zpool']}/{payload['zonename']}"
    payload["zonepath"] = f"/{payload['zfs_filesystem']}"
    seeded = brand.name == "bhyve" and _wants_seed(payload)
    if seeded:
        _add_seed(payload)
    disks = payload.get("add_disks", [])
    disk_config.name_new(disks, [], brand.name, payload["uuid"], payload["zpool"])
    if seeded:
        payload["internal_metadata"]["cloudinit_nocloud_path"] = disks[-1]["path"]
    nics = payload.get("add_nics", [])
    if nics and not any(js.truthy(nic.get("primary")) for nic in nics):
        nics[0]["primary"] = True
    return payload


def _wants_seed(payload: Vm) -> bool:
    metadata = zone_config.flat(payload.get("internal_metadata"))
    return (
        metadata.get("cloudinit_datasource") == "nocloud"
        and not metadata.get("cloudinit_nocloud_path")
        and "zfs_filesystem" not in (payload.get("add_disks") or [{}])[-1]
    )


def _add_seed(payload: Vm) -> None:
    """The small disk that cloud-init reads, and the room it takes."""
    seed = {
        "size": _SEED_DISK_MIB,
        "model": "virtio",
        "boot": False,
        "media": "disk",
        "block_size": _SEED_BLOCK_SIZE,
        "cloudinit_datasource": "nocloud",
    }
    payload.setdefault("add_disks", []).append(seed)
    if "flexible_disk_size" in payload:
        payload["flexible_disk_size"] += _SEED_DISK_MIB
    elif js.number(payload.get("quota") or 0) < 1:
        payload["quota"] = 1


def vm_object(payload: Vm, environment: environment.Environment) -> Vm:
    """The object of the VM right after its creation: installed, never booted."""
    payload = prepare(payload)
    brand = properties.BRANDS[payload["brand"]]
    vm: Vm = {
        "zonename": payload["zonename"],
        "autoboot": False,
        "brand": brand.name,
        "v": payload.get("v", 1),
        "create_timestamp": payload.get("create_timestamp") or environment.timestamp(),
    }
    if "image_uuid" in payload:
        vm["image_uuid"] = payload["image_uuid"]
    zone_config.configure(vm, payload, brand)
    vm["nics"] = nic_config.configure([], payload, brand)
    resources.configure(vm, payload, brand)
    if js.truthy(payload.get("delegate_dataset")):
        vm["datasets"] = [f"{payload['zfs_filesystem']}/data"]
    elif "datasets" in payload:
        vm["datasets"] = list(payload["datasets"])
    return zone_config.arrange(vm | _facts(payload, brand) | _datasets(payload))


def _facts(payload: Vm, brand: properties.Brand) -> Vm:
    facts = {
        "uuid": payload["uuid"],
        "zone_state": "installed",
        "zonepath": payload["zonepath"],
        "hvm": brand.hvm,
        "zoneid": None,
        "state": "stopped",
    }
    for name in ("customer_metadata", "internal_metadata", "routes", "tags"):
        facts[name] = zone_config.flat(payload.get(name))
    if not payload.get("resolvers"):
        facts["resolvers"] = []
    if payload.get("firewall_enabled") is not True:
        facts["firewall_enabled"] = False
    return facts


def _datasets(payload: Vm) -> Vm:
    """What the VM's datasets tell."""
    facts = {
        "quota": payload["quota"],
        "zfs_root_recsize": payload.get("zfs_root_recsize", properties.DEFAULT_RECSIZE),
        "zfs_filesystem": payload["zfs_filesystem"],
        "zpool": payload["zpool"],
        "snapshots": [],
    }
    if js.truthy(payload.get("indestructible_zoneroot")):
        facts["indestructible_zoneroot"] = True
    for name in ("zfs_filesystem_limit", "zfs_snapshot_limit"):
        if payload.get(name, "none") != "none":
            facts[name] = js.number(payload[name])
    parts = ("root", "data") if js.truthy(payload.get("delegate_dataset")) else ("root",)
    for part in parts:
        if payload.get(f"zfs_{part}_compression", "off") != "off":
            facts[f"zfs_{part}_compression"] = payload[f"zfs_{part}_compression"]
    if "data" in parts:
        facts["zfs_data_recsize"] = payload.get("zfs_data_recsize", properties.DEFAULT_RECSIZE)
        if js.truthy(payload.get("indestructible_delegated")):
            facts["indestructible_delegated"] = True
    if isinstance(payload.get("flexible_disk_size"), int | float):
        sizes = [disk_config.size(disk) for disk in payload.get("add_disks", [])]
        facts["free_space"] = payload["flexible_disk_size"] - sum(sizes)
    return facts
