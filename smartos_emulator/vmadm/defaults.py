# SPDX-License-Identifier: Apache-2.0
"""What a new VM gets without asking."""

import random
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import disks, memory, properties

_NOBODY = "00000000-0000-0000-0000-000000000000"
_FIRST = {
    "owner_uuid": _NOBODY,
    "autoboot": True,
    "brand": "joyent",
    "zpool": "zones",
    "dns_domain": "local",
    "cpu_shares": 100,
    "zfs_io_priority": 100,
    "max_lwps": 2000,
    "ram": 256,
}
_MOST_SHARES = 65535
_BHYVE_QUOTA = 1
_QUOTA = 10
_UUID_LENGTH = 36


def apply(payload: Any) -> properties.Brand:
    """Fill in the defaults of create; its brand."""
    for name, value in _FIRST.items():
        if not js.own(payload, name):
            js.put(payload, name, value)
    if js.less(_MOST_SHARES, js.get(payload, "cpu_shares")):
        payload["cpu_shares"] = _MOST_SHARES
    brand = properties.BRANDS.get(js.text(js.get(payload, "brand")))
    if brand is None:
        raise js.JavaScriptError("Cannot read property 'features' of undefined")
    memory.complete(payload, {}, brand)
    if "vcpus" in properties.allowed(brand.name):
        payload.setdefault("vcpus", 1)
    payload.setdefault("limit_priv", list(brand.limit_priv))
    payload.setdefault("quota", _BHYVE_QUOTA if payload["brand"] == "bhyve" else _QUOTA)
    payload.setdefault("billing_id", _NOBODY)
    _apply_drivers(payload)
    return brand


def _apply_drivers(payload: dict[str, Any]) -> None:
    """Disks and nics without a model get the driver named for all of them."""
    array = "add_disks" if "add_disks" in payload else "disks"
    for disk in _members(payload, array):
        if not js.own(disk, "model") and "disk_driver" in payload:
            js.put(disk, "model", payload["disk_driver"])
        if not js.own(disk, "media"):
            js.put(disk, "media", "disk")
    array = "add_nics" if "add_nics" in payload else "nics"
    for nic in _members(payload, array):
        if not js.own(nic, "model") and "nic_driver" in payload:
            js.put(nic, "model", payload["nic_driver"])


def _members(payload: dict[str, Any], array: str) -> list[Any]:
    value = payload.get(array, [])
    return [js.get(value, key) for key in js.keys(value)]


def apply_docker(
    payload: dict[str, Any],
    vm: dict[str, Any] | None,
    brand: properties.Brand,
    source: random.Random,
) -> None:
    """What makes a VM a docker container: its metadata namespace, its init and its id."""
    _reserve_namespace(payload, vm or {})
    if not (vm and vm.get("restart_init") is False) and payload.get("restart_init") is not False:
        payload["restart_init"] = False
    named = js.truthy((vm or {}).get("init_name")) or js.truthy(js.get(payload, "init_name"))
    if not named and brand.dockerinit:
        payload["init_name"] = brand.dockerinit
    if js.truthy((vm or {}).get("internal_metadata", {}).get("docker:id")):
        return
    uuid = vm["uuid"] if vm else payload["uuid"]
    if len(js.text(uuid)) != _UUID_LENGTH:
        raise js.JavaScriptError("undefined (true) is required")
    docker_id = (js.text(uuid) + disks.new_uuid(source)).replace("-", "")
    metadata = "set_internal_metadata" if vm else "internal_metadata"
    if not js.truthy(js.get(payload, metadata)):
        payload[metadata] = {"docker:id": docker_id}
    elif not js.truthy(js.get(payload[metadata], "docker:id")):
        js.put(payload[metadata], "docker:id", docker_id)


def _reserve_namespace(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    if "docker" in vm.get("internal_metadata_namespaces", []):
        return
    if "internal_metadata_namespaces" not in payload:
        payload["internal_metadata_namespaces"] = ["docker"]
        return
    namespaces = payload["internal_metadata_namespaces"]
    js.require_method(namespaces, "indexOf")
    if js.index_of(namespaces, "docker") == -1:
        js.require_method(namespaces, "push")
        namespaces.append("docker")
