# SPDX-License-Identifier: Apache-2.0
"""Resize: the VM stays what it is, and has what its new flavor says.

Zones go on running. A virtual machine is down while it changes. Disks never shrink: a revert takes
back everything but disks that have grown, since only the guest knows what it keeps at their end.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.network import model
from nova.objects import flavor as flavors
from nova.objects import instance as instances
from nova.objects import migration as migrations
from nova.virt import driver
from oslo_log import log

from nova_smartos.operations import watch
from nova_smartos.smartos import errors, node, spans, vms
from nova_smartos.translate import errors as faults
from nova_smartos.translate import identity, nic, payload, specs

LOG = log.getLogger(__name__)


@spans.step
def begin(
    known: watch.Watch,
    instance: instances.Instance,
    flavor: flavors.Flavor,
    block_device_info: Mapping[str, Any] | None,
    *,
    stop: Callable[[], None],
) -> None:
    """Refuse what cannot be before anything has changed; then bring a virtual machine down."""
    try:
        with faults.translated(instance.uuid):
            vm = known.get(instance.uuid, fresh=True)
            check(vm, instance, flavor, block_device_info)
    except exception.NovaException as error:
        # as Nova wants it from those who have done nothing yet: the instance is as it was
        raise exception.InstanceFaultRollback(error) from error
    if vm.hvm:
        stop()


def check(
    vm: vms.Vm,
    instance: instances.Instance,
    flavor: flavors.Flavor,
    block_device_info: Mapping[str, Any] | None,
    *,
    moves: bool = False,
) -> int | None:
    """Refuse a flavor that the VM cannot have.

    A zone that moves may have less than before, if its data fit into what is returned: what
    stays behind has it all, for a revert. The disks of a virtual machine are as large as it says.
    """
    smaller = _smaller(instance.flavor, flavor)
    if smaller and (vm.hvm or not moves):
        raise exception.ResizeError(reason=f"disks do not shrink: {smaller}")
    wanted = _wanted(vm, instance, flavor)
    listed = _listed(block_device_info)
    updates = payload.resized(vm, wanted, flavor, block_device_info=listed)
    payload.volumes(vm, wanted, flavor, block_device_info=listed)
    return int(updates[0]["quota"]) if smaller else None


@spans.step
def change(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    flavor: flavors.Flavor,
    *,
    network_info: model.NetworkInfo,
    block_device_info: Mapping[str, Any] | None,
    nic_tags: Mapping[str, str],
    stop: Callable[[], None],
    keep_grown: bool = False,
) -> vms.Vm:
    """Give the VM what a flavor says; disks that are larger stay so, if that is wanted."""
    vm = known.get(instance.uuid, fresh=True)
    if vm.hvm and vm.state != vms.State.STOPPED:
        stop()
    wanted = _wanted(vm, instance, flavor)
    disks: dict[str, Any] = {
        "block_device_info": _listed(block_device_info),
        "keep_grown": keep_grown,
    }
    network = nic.network(
        network_info, brand=vm.brand, model=wanted.values.get("nic_model"), nic_tags=nic_tags
    )

    def update_all(vm: vms.Vm) -> vms.Vm:
        updates = payload.resized(vm, wanted, flavor, **disks)
        # together with the disks, for it tells which of them is swap
        updates[-1 if vm.hvm else 0]["set_internal_metadata"] = identity.mark(instance, flavor)
        nics = nic.differences(vm, payload.wired(wanted, network))
        # first, for it is what may find no room
        for dataset, size_bytes in payload.volumes(vm, wanted, flavor, **disks).items():
            gz.zfs.set(dataset, {"volsize": str(size_bytes)})
        for update in [*updates, *([nics] if nics else [])]:
            gz.vmadm.update(vm.uuid, update)
        now = known.get(vm.uuid, fresh=True)
        missing = [name for update in updates for name in payload.untaken(now, update)]
        if missing:
            raise errors.OutputError(f"vmadm update has not taken {', '.join(sorted(missing))}")
        if short := payload.volumes(now, wanted, flavor, **disks):
            raise errors.OutputError(f"zfs set has not made {', '.join(sorted(short))} larger")
        return now

    with known.changing(vm.uuid):
        try:
            return update_all(vm)
        except errors.OutcomeUnknown as error:
            # vmadm lets one update wait for another; whatever the first did need not be done again
            LOG.warning("VM %s: %s; once more", vm.uuid, error)
            try:
                return update_all(known.get(vm.uuid, fresh=True))
            except errors.SmartOSError as again:
                raise error from again


@spans.step
def finish(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    *,
    network_info: model.NetworkInfo,
    block_device_info: Mapping[str, Any] | None,
    nic_tags: Mapping[str, str],
    stop: Callable[[], None],
) -> vms.Vm:
    """Give the VM what its new flavor says; when that fails, what the old one said."""
    change_to = functools.partial(
        change,
        gz,
        known,
        instance,
        network_info=network_info,
        block_device_info=block_device_info,
        nic_tags=nic_tags,
        stop=stop,
    )
    try:
        return change_to(instance.flavor)
    except (errors.SmartOSError, exception.NovaException):
        try:
            change_to(instance.old_flavor, keep_grown=True)
        except (errors.SmartOSError, exception.NovaException):
            # it must not hide why there is something to undo
            LOG.exception("The VM has neither flavor whole", instance=instance)
        raise


def in_place(context: nova_context.RequestContext, instance: instances.Instance) -> bool:
    """Whether the migration that is under way leads back to the host that it comes from."""
    return instance.migration_context is not None and stays(migration(context, instance))


def migration(
    context: nova_context.RequestContext, instance: instances.Instance
) -> migrations.Migration:
    """The migration that is under way."""
    moves = instance.migration_context
    if moves is None:
        raise faults.Refused("Nova has begun no migration of it")
    return migrations.Migration.get_by_id_and_instance(context, moves.migration_id, instance.uuid)


def stays(migration: migrations.Migration) -> bool:
    """Whether a migration leads back to the host that it comes from."""
    return bool(migration.source_compute == migration.dest_compute)


def _smaller(old: flavors.Flavor, new: flavors.Flavor) -> str:
    """Which of a flavor's disks are smaller than the other's, in words."""
    names = [name for name in ("root_gb", "ephemeral_gb") if new[name] < old[name]]
    return ", ".join(f"{name} is {old[name]}, the new flavor's {new[name]}" for name in names)


def _listed(block_device_info: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Nova's list of disks, unless there is only what a flavor itself has.

    Nova does not bring the size in its list in line with the new flavor.
    """
    if len(driver.block_device_info_get_ephemerals(block_device_info) or []) < 2:
        return None
    return block_device_info


def _wanted(vm: vms.Vm, instance: instances.Instance, flavor: flavors.Flavor) -> specs.Specs:
    properties = specs.image_properties(instance)
    return specs.resolve(flavor, instance.image_meta, properties, _type(vm))


def _type(vm: vms.Vm) -> str:
    """What kind of image the VM was made of, which is there even when Glance's is gone."""
    if vm.hvm:
        return "zvol"
    return "lx-dataset" if vm.brand == "lx" else "zone-dataset"
