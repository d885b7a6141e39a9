# SPDX-License-Identifier: Apache-2.0
"""The snapshots of VMs, as vmadm names and keeps them."""

import contextlib
import re
import typing

from smartos_emulator.vmadm import failures, power, record, volumes

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

_LONGEST = 64
_NAME = re.compile(r"[a-zA-Z0-9\-_.:%]+")
_SECONDS = 0.2


def create(vms: "lifecycle.Vms", uuid: str, name: str) -> None:
    """Take a snapshot of a VM, running or not."""
    _check_name(name)
    with vms.lock(uuid):
        vm = vms.find(uuid)
        _check_brand(vm)
        if vm.get("datasets"):
            raise failures.VmError("Cannot currently snapshot zones that have datasets")
        if "zfs_filesystem" not in vm:
            raise failures.VmError("vmobj missing zfs_filesystem, cannot create snapshot")
        if _has(vm, name):
            raise failures.VmError(f'snapshot with name "{name}" already exists.')
        vms.node.clock.sleep(_SECONDS)
        with _side_by_side(), volumes.as_program():
            vms.node.storage.snapshot(
                f"{vm['zfs_filesystem']}@vmsnap-{name}", recursive=vm["brand"] == "bhyve"
            )
        if vm["brand"] != "bhyve" and vm["zone_state"] == "running":
            _mount(vms, uuid, name)
        _touch(vms, uuid)


def delete(vms: "lifecycle.Vms", uuid: str, name: str) -> None:
    """Destroy a snapshot of a VM."""
    _check_name(name)
    with vms.lock(uuid):
        vm = vms.find(uuid)
        _check_brand(vm)
        _need(vm, name)
        if vm["brand"] != "bhyve":
            _unmount(vms, uuid, name)
        vms.node.clock.sleep(_SECONDS)
        with _side_by_side(), volumes.as_program():
            vms.node.storage.destroy(
                f"{vm['zfs_filesystem']}@vmsnap-{name}", recursive=vm["brand"] == "bhyve"
            )
        _touch(vms, uuid)


def rollback(vms: "lifecycle.Vms", uuid: str, name: str) -> None:
    """Take a VM back to a snapshot and start it, whether it was up or not."""
    _check_name(name)
    vm = vms.load(uuid)
    _check_brand(vm)
    _need(vm, name)
    if vm["state"] != "stopped":
        power.stop(vms, uuid, force=True)
    store = vms.node.storage
    with volumes.as_program():
        for snapshot in _parts(vms, vm, name):
            store.rollback(snapshot, destroy_newer=True)
    power.start(vms, uuid)


def _parts(vms: "lifecycle.Vms", vm: Vm, name: str) -> list[str]:
    """The ZFS snapshots that make up a VM's; bhyve's are looked for in the pool `zones` only."""
    if vm["brand"] != "bhyve":
        return [f"{vm['zfs_filesystem']}@vmsnap-{name}"]
    with volumes.as_program():
        found = vms.node.storage.children(f"zones/{vm['uuid']}", kinds={"snapshot"})
    return [one for one in found if one.partition("@")[2] == f"vmsnap-{name}"]


def _check_name(name: str) -> None:
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise failures.VmError("Invalid snapshot name")


def _check_brand(vm: Vm) -> None:
    if vm["brand"] == "kvm":
        raise failures.VmError("snapshots for kvm VMs currently unsupported")


def _has(vm: Vm, name: str) -> bool:
    return any(snapshot["name"] == name for snapshot in vm.get("snapshots", []))


def _need(vm: Vm, name: str) -> None:
    if not _has(vm, name):
        raise failures.VmError(f'No snapshot named "{name}" for {vm["uuid"]}')


@contextlib.contextmanager
def _side_by_side() -> typing.Iterator[None]:
    try:
        yield
    except failures.VmError as error:
        raise failures.several(error) from None


def _mount(vms: "lifecycle.Vms", uuid: str, name: str) -> None:
    """Show the snapshot at /checkpoints in the running zone."""
    vms.node.zones.inside(uuid).host(f"/checkpoints/{name}").mkdir(parents=True, exist_ok=True)
    if (zone := vms.node.zones.get(uuid)) is not None:
        zone.checkpoints.add(name)


def _unmount(vms: "lifecycle.Vms", uuid: str, name: str) -> None:
    if (zone := vms.node.zones.get(uuid)) is not None:
        zone.checkpoints.discard(name)
    with contextlib.suppress(OSError):
        vms.node.zones.inside(uuid).host(f"/checkpoints/{name}").rmdir()


def _touch(vms: "lifecycle.Vms", uuid: str) -> None:
    kept: record.Record | None = vms.records.get(uuid)
    if kept is not None:
        vms.records.save(kept)
