# SPDX-License-Identifier: Apache-2.0
"""A zone's configuration as a VM object shows it: its attributes, its limits, their order."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import properties

Vm = dict[str, Any]

_ZONE = ("zonename", "autoboot", "brand", "limit_priv", "fs_allowed")
_LIMITS = (
    "cpu_shares",
    "zfs_io_priority",
    "max_lwps",
    "max_msg_ids",
    "max_sem_ids",
    "max_shm_ids",
    "max_shm_memory",
    "max_physical_memory",
    "max_locked_memory",
    "max_swap",
    "cpu_cap",
)
_RESOURCES = ("nics", "device", "disks", "pci_devices", "filesystems", "datasets")
FACTS = (
    "uuid",
    "zone_state",
    "zonepath",
    "hvm",
    "zoneid",
    "zonedid",
    "last_modified",
    "exit_status",
    "exit_timestamp",
)
# In the order in which vmadm writes them
_ATTRIBUTES = (
    "billing_id",
    "owner_uuid",
    "package_name",
    "package_version",
    "tmpfs",
    "hostname",
    "dns_domain",
    "do_not_inventory",
    "docker",
    "archive_on_delete",
    "firewall_enabled",
    "restart_init",
    "init_name",
    "disk_driver",
    "nic_driver",
    "maintain_resolvers",
    "kernel_version",
    "zlog_max_size",
    "resolvers",
    "internal_metadata_namespaces",
)
_HVM_ATTRIBUTES = ("ram",)
_BHYVE_ATTRIBUTES = ("com1", "com2", "bootrom", "bhyve_extra_opts", "zlog_mode", "zlog_name")
_LAST_ATTRIBUTES = (
    "vcpus",
    "boot",
    "cpu_type",
    "vga",
    "vnc_port",
    "spice_port",
    "virtio_txtimer",
    "virtio_txburst",
    "flexible_disk_size",
    "vnc_password",
    "spice_password",
    "spice_opts",
    "qemu_opts",
    "qemu_extra_opts",
)
# Kept in base64, so that blanks are not nothing
_ENCODED = (
    "alias",
    "vnc_password",
    "spice_password",
    "spice_opts",
    "qemu_opts",
    "qemu_extra_opts",
)
COMPUTED = (
    "server_uuid",
    "datacenter_name",
    "platform_buildstamp",
    "state",
    "boot_timestamp",
    "init_restarts",
    "pid",
    "customer_metadata",
    "internal_metadata",
    "routes",
    "tags",
    "indestructible_zoneroot",
    "quota",
    "zfs_root_compression",
    "zfs_root_recsize",
    "zfs_filesystem_limit",
    "zfs_snapshot_limit",
    "zfs_filesystem",
    "zpool",
    "indestructible_delegated",
    "zfs_data_compression",
    "zfs_data_recsize",
    "snapshots",
    "free_space",
    "missing",
)


def arrange(vm: Vm) -> Vm:
    """The object in vmadm's order: attributes stay as they are, all else has its place."""
    unset = [name for name in ("resolvers", "firewall_enabled") if _is_only_shown(vm, name)]
    tail = (*FACTS, *unset, *COMPUTED)
    placed = {*_ZONE, *_LIMITS, *_RESOURCES, *tail}
    attributes = [name for name in vm if name not in placed]
    order = (*_ZONE, *attributes, *_LIMITS, *_RESOURCES, *tail)
    return {name: vm[name] for name in order if name in vm}


def _is_only_shown(vm: Vm, name: str) -> bool:
    """Whether the object has a value that its configuration does not have."""
    empty = {"resolvers": [], "firewall_enabled": False}
    return name in vm and name in empty and vm[name] == empty[name]


def flat(value: Any) -> Vm:
    """The entries of what is given as an object, be it an array or nothing at all."""
    return {key: js.get(value, key) for key in js.keys(value)}


def configure(vm: Vm, payload: Vm, brand: properties.Brand) -> None:
    """Set what a payload has of attributes and limits in a VM object."""
    _set_limits(vm, payload)
    if "autoboot" in payload:
        vm["autoboot"] = js.truthy(payload["autoboot"])
    for name in _ATTRIBUTES:
        _set_attribute(vm, payload, name)
    _set_docker_log(vm, payload)
    _set_attribute(vm, payload, "alias")
    if brand.hvm:
        for name in _HVM_ATTRIBUTES:
            _set_attribute(vm, payload, name)
    if brand.name == "bhyve":
        _set_bhyve(vm, payload)
    for name in _LAST_ATTRIBUTES:
        _set_attribute(vm, payload, name)
    if "fs_allowed" in payload:
        _put(vm, "fs_allowed", js.text(payload["fs_allowed"]) or None)


def _set_limits(vm: Vm, payload: Vm) -> None:
    if "limit_priv" in payload:
        vm["limit_priv"] = js.text(payload["limit_priv"])
    for name in _LIMITS:
        if name not in payload:
            continue
        value = payload[name]
        if value is js.UNDEFINED or (name == "cpu_cap" and not value):
            vm.pop(name, None)
        else:
            vm[name] = value


def _set_attribute(vm: Vm, payload: Vm, name: str) -> None:
    if name in payload:
        _put(vm, name, _stored(name, payload[name]))


def _stored(name: str, value: Any) -> Any:
    """The value as it comes back from the configuration; None when it is not kept there."""
    entry = properties.PROPERTIES.get(name)
    if entry and entry.type == "boolean":
        return None if value is entry.default or not isinstance(value, bool) else value
    if value == 0 and entry and entry.keep_zero and not isinstance(value, bool):
        return 0
    shown = js.text(value)
    if not js.truthy(value) or not (shown if name in _ENCODED else js.trim(shown)):
        return None
    if entry and entry.type == "integer":
        return js.number(value)
    return js.text(value).split(",") if entry and entry.type == "list" else js.text(value)


def _put(vm: Vm, name: str, value: Any) -> None:
    if _is_only_shown(vm, name):
        # a new value goes behind the attributes that are there
        del vm[name]
    if value is None:
        vm.pop(name, None)
    else:
        vm[name] = value


def _set_bhyve(vm: Vm, payload: Vm) -> None:
    # both ports come back to their defaults whenever a change names neither
    if "com1" not in payload and "com2" not in payload:
        payload = payload | {"com1": "/dev/zconsole", "com2": "socket,/tmp/vm.ttyb"}
    payload = payload | {"zlog_mode": "g--", "zlog_name": "platform.log"}
    for name in _BHYVE_ATTRIBUTES:
        _set_attribute(vm, payload, name)


def _set_docker_log(vm: Vm, payload: Vm) -> None:
    """Where a docker container's output goes."""
    if not js.truthy(js.get(payload, "docker")) and not vm.get("docker"):
        return
    driver = _metadata(vm, payload, "docker:logdriver", "json-file")
    terminal = "t" if js.truthy(_metadata(vm, payload, "docker:tty", False)) else "-"
    outside = "-" if driver == "none" else "g"
    inside = "-" if driver in ("none", "json-file") else "n"
    mode = f"{outside}{terminal}{inside}"
    if vm.get("zlog_mode") != mode:
        vm.pop("zlog_mode", None)
        vm.pop("app_svc_dependent", None)
        vm["zlog_mode"] = mode
        if inside == "n":
            vm["app_svc_dependent"] = True


def _metadata(vm: Vm, payload: Vm, key: str, default: Any) -> Any:
    for source in ("set_internal_metadata", "internal_metadata"):
        if source in payload and js.own(payload[source], key):
            return js.get(payload[source], key)
    if key == "docker:logdriver" and key in payload.get("remove_internal_metadata", []):
        return default
    return vm.get("internal_metadata", {}).get(key, default)
