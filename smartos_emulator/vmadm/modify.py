# SPDX-License-Identifier: Apache-2.0
"""vmadm update: what a change does to a VM at once, and what waits for its next boot."""

import typing

from smartos_emulator import js, zones
from smartos_emulator.vmadm import failures, normalize, provision, record, volumes
from smartos_emulator.vmadm import update as rules

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

_SECONDS = 0.3
_METADATA = ("customer_metadata", "internal_metadata", "tags", "routes")
_RESTARTED = ("maintain_resolvers", "routes", "set_routes", "remove_routes", "tmpfs")
_SPOOFING = (
    "allow_dhcp_spoofing",
    "allow_ip_spoofing",
    "allow_mac_spoofing",
    "allow_restricted_traffic",
    "allow_unfiltered_promisc",
    "allowed_dhcp_cids",
    "allowed_ips",
    "blocked_outgoing_ports",
    "dhcp_server",
    "ips",
)
_SETTINGS = (
    ("zfs_root_recsize", "", "recordsize"),
    ("zfs_filesystem_limit", "", "filesystem_limit"),
    ("zfs_snapshot_limit", "", "snapshot_limit"),
    ("zfs_data_recsize", "/data", "recordsize"),
    ("zfs_root_compression", "", "compression"),
    ("zfs_data_compression", "/data", "compression"),
)


def update(vms: "lifecycle.Vms", uuid: str, payload: typing.Any) -> None:
    """Change a VM. Errors of the payload come as they are, those of the work wrapped."""
    with vms.lock(uuid):
        vm = vms.find(uuid)
        changes = normalize.normalize(vms.environment, payload, vm)
        rules.require_known(vm, changes)
        changes = rules.prepare(vm, changes)
        try:
            _work(vms, vm, changes)
        except failures.VmError as error:
            raise failures.several(error) from None


def _work(vms: "lifecycle.Vms", vm: Vm, changes: Vm) -> None:
    store = vms.node.storage
    _remove_disks(vms, vm, changes)
    volumes.make_all(store, record.dataset(vm), changes.get("add_disks", []))
    new = rules.apply(vm, changes, vms.environment)
    if any(f"{verb}_{kind}" in changes for verb in ("set", "remove") for kind in _METADATA):
        vms.write_metadata(vm["uuid"], {kind: new[kind] for kind in _METADATA})
    _reconfigure(vms, vm["uuid"], new)
    vms.node.clock.sleep(_SECONDS)
    if vm["zone_state"] == "running":
        _change_running(vms, vm, new, changes)
        vms.node.displays.reload(vms.get(vm["uuid"]) or new)
    _change_datasets(vms, vm, changes)
    vms.node.firewall.vm_changed(vm, vms.get(vm["uuid"]) or new, vms.all())


def _remove_disks(vms: "lifecycle.Vms", vm: Vm, changes: Vm) -> None:
    for disk in vm.get("disks", []):
        gone = disk["path"] in changes.get("remove_disks", [])
        if gone and "missing" not in disk:
            volumes.remove(vms.node.storage, volumes.name_of(disk))


def _reconfigure(vms: "lifecycle.Vms", uuid: str, new: Vm) -> None:
    kept = vms.records.get(uuid)
    if kept is None:
        raise failures.command_failed(f"zonecfg: {uuid}: No such zone configured\n")
    kept.config = record.configuration(new)
    vms.records.save(kept)


def _change_running(vms: "lifecycle.Vms", vm: Vm, new: Vm, changes: Vm) -> None:
    """What a running zone feels without a boot: its limits, and how its nics are policed."""
    zone = vms.node.zones.get(vm["uuid"])
    if zone is None:
        return
    for control, value in rules.live_limits(vm, changes).items():
        set_limit(zone, control, value)
    policed = any(key in nic for nic in changes.get("update_nics", []) for key in _SPOOFING)
    if policed:
        vms.node.network.police(vms.get(vm["uuid"]) or new)
    if any(key in changes for key in _RESTARTED):
        vms.node.clock.sleep(_SECONDS)


def set_limit(zone: zones.Zone, control: str, value: int) -> None:
    """Set a resource control of a running zone; a CPU cap of 0 takes the cap away."""
    if control == "zone.cpu-cap" and value == 0:
        zone.rctls.pop(control, None)
    else:
        zone.rctls[control] = value


def _change_datasets(vms: "lifecycle.Vms", vm: Vm, changes: Vm) -> None:
    store = vms.node.storage
    name = record.dataset(vm)
    _change_disks(vms, vm, changes)
    _change_quota(vms, vm, changes)
    with volumes.as_text():
        for key, below, prop in _SETTINGS:
            if key in changes and changes[key] != vm.get(key) and store.exists(name + below):
                store.set(name + below, prop, js.text(changes[key]))
    with volumes.as_program():
        for key, below in (("zoneroot", ""), ("delegated", "/data")):
            wanted = changes.get(f"indestructible_{key}", js.UNDEFINED)
            if wanted is not js.UNDEFINED and store.exists(name + below):
                (provision.hold if js.truthy(wanted) else provision.release)(store, name + below)


def _change_disks(vms: "lifecycle.Vms", vm: Vm, changes: Vm) -> None:
    store = vms.node.storage
    present = {disk["path"]: disk for disk in vm.get("disks", [])}
    for change in changes.get("update_disks", []):
        disk = present[change["path"]]
        if "size" in change:
            shrink = js.truthy(change.get("dangerous_allow_shrink"))
            volumes.resize(store, record.dataset(vm), disk, change["size"], shrink)
        with volumes.as_program():
            if "compression" in change:
                store.set(volumes.name_of(disk), "compression", change["compression"])
            if "refreservation" in change:
                wanted = f"{change['refreservation']}M"
                store.set(volumes.name_of(disk), "refreservation", wanted)


def _change_quota(vms: "lifecycle.Vms", vm: Vm, changes: Vm) -> None:
    keys = ("quota", "flexible_disk_size")
    changed = [key for key in keys if key in changes and changes[key] != vm.get(key)]
    if changed:
        quota, flexible = (changes.get(key, vm.get(key)) for key in keys)
        volumes.set_quota(
            vms.node.storage, vm["brand"], record.dataset(vm), int(quota or 0), flexible
        )
