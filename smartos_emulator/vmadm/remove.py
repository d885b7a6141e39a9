# SPDX-License-Identifier: Apache-2.0
"""Deleting VMs, step by step: what was done stays done when a later step fails."""

import logging
import typing

from smartos_emulator import js, storage, zones
from smartos_emulator.vmadm import failures, record, volumes

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

LOG = logging.getLogger("smartos_emulator")

Vm = dict[str, typing.Any]

_UNINSTALL_SECONDS = 0.4


def delete(vms: "lifecycle.Vms", uuid: str) -> None:
    """Delete a VM in whatever state it is."""
    vm = vms.find(uuid)
    _check_destructible(vm)
    _check_volumes(vms, vm)
    vms.configure(uuid, autoboot=False)
    _halt(vms, uuid)
    if vm.get("archive_on_delete"):
        _archive(vms, vm)
    _uninstall(vms, vm)
    for disk in vm.get("disks", []):
        if "missing" not in disk:
            volumes.remove(vms.node.storage, volumes.name_of(disk))
    _unconfigure(vms, uuid)
    vms.records.receiving(uuid).delete()


def _check_destructible(vm: Vm) -> None:
    for key in ("indestructible_zoneroot", "indestructible_delegated"):
        if vm.get(key):
            raise failures.VmError(f"{key} is set, cannot delete")


def _check_volumes(vms: "lifecycle.Vms", vm: Vm) -> None:
    """Volumes that other VMs mount must stay."""
    prefix = f"{vm['zonepath']}/volumes/"
    ours = {source for source in _sources(vm) if source.startswith(prefix)}
    users = [
        other["uuid"]
        for other in (vms.all() if ours and not vm["hvm"] else [])
        if other["uuid"] != vm["uuid"] and ours & _sources(other)
    ]
    if users:
        raise failures.VmError(
            f"Unable to delete VM {vm['uuid']} the following VMs are sharing its volumes: "
            f"{js.dumps(users)}"
        )


def _sources(vm: Vm) -> set[str]:
    """What a VM mounts; a source may never have been given."""
    return {one["source"] for one in vm.get("filesystems", []) if "source" in one}


def _halt(vms: "lifecycle.Vms", uuid: str) -> None:
    try:
        vms.node.zones.halt(uuid)
    except zones.ZoneError as error:
        LOG.debug("not halted: %s", error)


def _archive(vms: "lifecycle.Vms", vm: Vm) -> None:
    """Keep the VM's object below /zones/archive."""
    folder = vms.node.path("/zones/archive") / vm["uuid"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vm.json").write_text(js.dumps(vm, 2), "utf-8", "surrogateescape")


def _uninstall(vms: "lifecycle.Vms", vm: Vm) -> None:
    """The brand's uninstall script; that it fails is only logged."""
    uuid = vm["uuid"]

    def work() -> None:
        vms.node.clock.sleep(_UNINSTALL_SECONDS)
        _destroy_datasets(vms.node.storage, record.dataset(vm))
        vms.node.zones.mark(uuid, "configured")

    if (zone := vms.node.zones.get(uuid)) is None or zone.state == "configured":
        return
    vms.node.zones.mark(uuid, "incomplete")
    try:
        vms.node.zones.perform(work)
    except (storage.StorageError, zones.ZoneError) as error:
        LOG.warning("%s was not uninstalled: %s", uuid, error)


def _destroy_datasets(store: storage.Storage, name: str) -> None:
    pool, _, uuid = name.partition("/")
    cores = f"{pool}/cores/{uuid}"
    if store.exists(cores):
        store.destroy(cores, recursive=True)
    if not store.exists(name):
        return
    origin = store.origin(name)
    store.destroy(name, recursive=True)
    if origin and not origin.endswith("@final") and store.exists(origin):
        store.destroy(origin)


def _unconfigure(vms: "lifecycle.Vms", uuid: str) -> None:
    try:
        vms.node.zones.unconfigure(uuid)
    except zones.ZoneError as error:
        raise failures.several(failures.command_failed(str(error))) from None
    vms.records.remove(uuid)
