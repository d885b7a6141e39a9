# SPDX-License-Identifier: Apache-2.0
"""Launch, rebuild and end of a VM.

vmadm's failure does not mean that nothing was made, nor its success that the guest is well: a
failed launch removes what the node then shows, a successful one asks the guest.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.compute import task_states
from nova.network import model
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances
from oslo_log import log

from nova_smartos.operations import guest, image, interface, metering, removal, watch
from nova_smartos.smartos import errors, node, spans, vmadm, vms
from nova_smartos.translate import identity, manifest, metadata, nic, payload, specs

LOG = log.getLogger(__name__)

# A lost connection does not end the vmadm that it carried: how long it may need to show what it
# makes, or that it has deleted.
APPEAR_SECONDS = 30.0
# Between two looks whether it still works.
LOOK_SECONDS = 2.0
#: Brands whose root vmadm replaces.
REPROVISIONED = frozenset({"bhyve", "joyent", "joyent-minimal", "lx"})
# States that a VM reaches when it is whole, and has its mark if it is Nova's.
_AT_WORK = frozenset({vms.State.RUNNING, vms.State.STOPPED})
_UNFINISHED = frozenset({vms.State.CONFIGURED, vms.State.INCOMPLETE, vms.State.PROVISIONING})


class NotBegun(errors.NotStarted):
    """The node did not answer before the VM was asked for: there is none."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A launch that has been thought through: nothing of it has touched the node yet."""

    wanted: specs.Specs
    properties: Mapping[str, str]
    network: nic.Network
    guest: metadata.Guest
    #: what says that the VM is Nova's
    mark: Mapping[str, str]
    #: whether the guest is installed from its image
    from_medium: bool


@spans.step
def plan(
    images: image.Images,
    instance: instances.Instance,
    image_meta: image_metas.ImageMeta,
    *,
    injected_files: Sequence[tuple[str, Any]],
    admin_password: str | None,
    network_info: model.NetworkInfo,
    nic_tags: Mapping[str, str],
    host: str,
    properties: Mapping[str, str] | None = None,
) -> Plan:
    """What to make; all that cannot be is refused here, before anything is made.

    `properties` are the image's, if those that the instance keeps are another one's.
    """
    if properties is None:
        properties = specs.image_properties(instance)
    kind = images.kind(image_meta, properties)
    wanted = specs.resolve(instance.flavor, image_meta, properties, kind)
    network = nic.network(
        network_info,
        brand=wanted.brand,
        model=wanted.values.get("nic_model"),
        nic_tags=nic_tags,
    )
    for sentence in network.unsaid:
        LOG.warning("%s", sentence, instance=instance)
    told = guest.prepared(
        instance,
        image_meta,
        admin_password=admin_password,
        injected_files=injected_files,
        network_info=network_info,
        hvm=wanted.hvm,
    )
    mark = identity.mark(instance, host=host)
    from_medium = manifest.is_medium(image_meta)
    return Plan(wanted, properties, network, told, mark, from_medium)


@spans.step
def spawn(
    gz: node.Node,
    known: watch.Watch,
    images: image.Images,
    virtapi: Any,
    context: nova_context.RequestContext,
    instance: instances.Instance,
    image_meta: image_metas.ImageMeta,
    planned: Plan,
    *,
    network_info: model.NetworkInfo,
    block_device_info: Mapping[str, Any] | None,
    power_on: bool,
) -> None:
    """Make the VM, wait for its guest and its ports; a VM that is not well is removed again."""

    boots_later = planned.guest.drive is not None
    # whether there may be anything beside the VM, which vmadm does not make
    beside = planned.guest.tree is not None

    def create() -> Mapping[str, Any]:
        nonlocal beside
        base = images.ensure(
            context,
            image_meta,
            planned.properties,
            trusted_certs=instance.trusted_certs,
            largest_gib=instance.flavor.root_gb if planned.wanted.hvm else 0,
            check_wanted=functools.partial(_check_wanted, instance),
        )
        document = payload.create(
            instance,
            planned.wanted,
            base,
            planned.network,
            planned.guest,
            planned.mark,
            block_device_info=block_device_info,
            autoboot=power_on and not boots_later,
        )
        try:
            if planned.from_medium:
                _insert(gz, instance.uuid, base)
                beside = True
            _create(gz, known, document)
        except errors.InvalidPayload as error:
            if error.code == "Image":
                images.forget(base.uuid)
            raise
        return document

    as_wanted = _is_running if power_on else _is_stopped
    with contextlib.ExitStack() as undo, known.changing(instance.uuid, as_wanted):
        undo.callback(_remove, gz, known, instance.uuid, planned)
        with interface.plugged(virtapi, instance, network_info, boots=power_on):
            try:
                if planned.guest.tree is not None:
                    guest.place_tree(gz, planned.guest.tree)
                try:
                    document = create()
                except errors.InvalidPayload as error:
                    if error.code != "Image":
                        raise
                    # somebody has deleted it behind our back
                    document = create()
            except errors.AlreadyExists:
                # another attempt's, which may be under way: not ours to remove
                undo.pop_all()
                raise
            except errors.NotStarted as error:
                if beside:
                    raise
                undo.pop_all()
                raise NotBegun(error.message, argv=error.argv, retryable=error.retryable) from error
            if planned.guest.drive is not None:
                guest.place_drive(gz, document, planned.guest.drive)
                if power_on:
                    gz.vmadm.start(instance.uuid)
            if power_on and not planned.wanted.hvm:
                guest.check_provisioned(gz, instance.uuid)
        undo.pop_all()


@spans.step
def ready_to_rebuild(
    images: image.Images,
    context: nova_context.RequestContext,
    instance: instances.Instance,
    image_meta: image_metas.ImageMeta,
    planned: Plan,
    block_device_info: Mapping[str, Any] | None,
) -> payload.Image:
    """The image of a rebuild, on the node and fit for the VM: before anything of it is lost."""
    base = images.ensure(
        context,
        image_meta,
        planned.properties,
        trusted_certs=instance.trusted_certs,
        largest_gib=instance.flavor.root_gb if planned.wanted.hvm else 0,
        check_wanted=functools.partial(_check_wanted, instance),
    )
    payload.check_size(instance.flavor, planned.wanted, base)
    payload.check_medium(
        instance.flavor, planned.wanted, base, planned.guest, block_device_info=block_device_info
    )
    return base


def refuse_to_preserve(known: watch.Watch, instance: instances.Instance, planned: Plan) -> None:
    """Refuse a rebuild that cannot keep ephemeral data."""
    vm = known.get(instance.uuid, fresh=True)
    if planned.from_medium or payload.has_medium(vm):
        LOG.warning("With a medium nothing is kept", instance=instance)
    elif vm.brand == planned.wanted.brand and vm.brand in REPROVISIONED:
        if not vm.indestructible_zoneroot:
            return
        LOG.warning("vmadm does not replace a root that is indestructible", instance=instance)
    else:
        LOG.warning(
            "A VM of brand %s cannot become one of brand %s and keep its data",
            vm.brand,
            planned.wanted.brand,
            instance=instance,
        )
    raise exception.PreserveEphemeralNotSupported


@spans.step
def reprovision(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    planned: Plan,
    base: payload.Image,
) -> None:
    """Replace the root, and tell the new guest what it is to know; nics and data stay [3, or 5].

    bhyve's new root is as small as its image, with nothing reserved for it (VM.js,
    reprovisionBhyve): it gets the old one's size before the guest boots.
    """
    vm = known.get(instance.uuid)
    root = payload.root_volume(vm, instance.flavor)
    name = vm.zfs_filesystem if root is None else root.name
    if name is None:
        raise errors.InvalidState(f"VM {vm.uuid} has no root to replace", code="Dataset")
    # vmadm boots the new guest only of a VM that is to come up with the node
    told = {**metadata.changes(vm, planned.guest), "autoboot": root is None}
    told["set_internal_metadata"] = {
        **told.get("set_internal_metadata", {}),
        **planned.mark,
    }
    with known.changing(vm.uuid, _is_running):
        gz.vmadm.update(vm.uuid, told)
        if planned.guest.tree is not None:
            guest.place_tree(gz, planned.guest.tree)
        if root is not None and not root.is_whole:
            # an attempt has ended half-way, and vmadm takes no image larger than what it left
            gz.zfs.set(root.name, root.properties)
        old = gz.zfs.get(name, "guid")
        metering.final_reading(gz, vm, "rebuild")
        try:
            gz.vmadm.reprovision(vm.uuid, base.uuid)
        except errors.OutcomeUnknown as error:
            boots = root is None
            if not _is_reprovisioned(gz, known, error, vm.uuid, name, old, boots=boots):
                raise
        if root is not None:
            gz.zfs.set(root.name, root.properties)
            gz.vmadm.start(vm.uuid)
        if not vm.hvm:
            guest.check_provisioned(gz, vm.uuid)


@spans.step
def destroy(gz: node.Node, known: watch.Watch, instance: instances.Instance) -> None:
    """Delete the VM and what is its own. One that is gone is success, one not Nova's an error."""
    uuid = instance.uuid
    try:
        vm = known.get(uuid)
        if identity.of(vm) is None:
            # while a VM comes or goes, events tell of it without its metadata
            vm = known.get(uuid, fresh=True)
    except errors.NotFound:
        LOG.info("There is no VM to delete", instance=instance)
        # an attempt may have come to its end half-way
        guest.remove_tree(gz, uuid)
        removal.eject(gz, uuid)
        return
    if identity.of(vm) is None and not identity.is_stillborn(vm):
        raise errors.InvalidState(
            f"VM {uuid} does not carry Nova's mark, so Nova does not delete it", code="Foreign"
        )
    with known.changing(uuid, lambda left: left is None):
        _delete(gz, known, vm)


def _check_wanted(instance: instances.Instance) -> None:
    """An image may take long to come, and its user may lose patience: then Nova's delete waits."""
    context = nova_context.get_admin_context()
    try:
        found = instances.Instance.get_by_uuid(context, instance.uuid, expected_attrs=[])
        now = found.task_state
    except exception.InstanceNotFound:
        now = task_states.DELETING
    if now in (task_states.DELETING, task_states.SOFT_DELETING):
        raise exception.UnexpectedDeletingTaskStateError(
            instance_uuid=instance.uuid,
            expected={"task_state": [instance.task_state]},
            actual={"task_state": now},
        )


def _create(gz: node.Node, known: watch.Watch, document: Mapping[str, Any]) -> None:
    uuid = document["uuid"]
    try:
        gz.vmadm.create(document)
    except errors.OutcomeUnknown as error:
        wanted = vms.State.RUNNING if document["autoboot"] else vms.State.STOPPED
        if _outcome(known, error, uuid, lambda vm: vm is not None, APPEAR_SECONDS) is None:
            raise
        seconds = vmadm.PROVISION_SECONDS + APPEAR_SECONDS
        vm = _outcome(known, error, uuid, _is_made, seconds)
        if vm is None or vm.state != wanted:
            raise


def _is_reprovisioned(
    gz: node.Node,
    known: watch.Watch,
    error: errors.OutcomeUnknown,
    uuid: str,
    root: str,
    old: Mapping[str, str | None],
    *,
    boots: bool,
) -> bool:
    """Whether the VM has a new root, once the vmadm that goes on without us has come to its end.

    Its image does not tell, which may be the old one, nor does a boot, which may be the node's.
    """
    LOG.warning("VM %s: %s; looking what becomes of it", uuid, error)
    end = time.monotonic() + vmadm.PROVISION_SECONDS
    try:
        while time.monotonic() < end and any(each.changes for each in gz.ps.list()):
            time.sleep(LOOK_SECONDS)
        if gz.zfs.get(root, "guid") == old:
            return False
        if boots:
            return _is_running(known.wait(uuid, _is_made, vmadm.PROVISION_SECONDS))
        return _is_stopped(known.get(uuid, fresh=True))
    except errors.SmartOSError as another:
        raise error from another


def _delete(gz: node.Node, known: watch.Watch, vm: vms.Vm) -> None:
    try:
        removal.remove(gz, vm)
    except errors.OutcomeUnknown as error:
        left = _outcome(known, error, vm.uuid, lambda left: left is None, APPEAR_SECONDS)
        if left is not None:
            raise
        try:
            guest.remove_drive(gz, vm)
        except errors.SmartOSError as again:
            raise error from again


def _outcome(
    known: watch.Watch,
    error: errors.OutcomeUnknown,
    uuid: str,
    wanted: Callable[[vms.Vm | None], bool],
    seconds: float,
) -> vms.Vm | None:
    """What has become of a VM after a lost command: its error stands if nobody can tell."""
    LOG.warning("VM %s: %s; looking what becomes of it", uuid, error)
    try:
        return known.wait(uuid, wanted, seconds)
    except errors.SmartOSError as another:
        raise error from another


def _is_running(vm: vms.Vm | None) -> bool:
    return vm is not None and vm.state == vms.State.RUNNING


def _is_stopped(vm: vms.Vm | None) -> bool:
    return vm is not None and vm.state == vms.State.STOPPED


def _is_made(vm: vms.Vm | None) -> bool:
    return vm is not None and vm.state not in _UNFINISHED


def _insert(gz: node.Node, uuid: str, base: payload.Image) -> None:
    """Give the VM that is to be a medium of its own, which vmadm then finds there."""
    volume, origin = payload.medium_volume(uuid), f"{image.POOL}/{base.uuid}@final"
    try:
        gz.zfs.clone(origin, volume)
    except errors.NotFound as error:
        raise errors.InvalidPayload(error.message, argv=error.argv, code="Image") from error
    except (errors.AlreadyExists, errors.OutcomeUnknown) as error:
        # another attempt's is as good, or this one's
        try:
            found = gz.zfs.get(volume, "origin")["origin"]
        except errors.SmartOSError as another:
            raise error from another
        if found != origin:
            raise


def _remove(gz: node.Node, known: watch.Watch, uuid: str, planned: Plan) -> None:
    """Undo a launch: whatever stops this must not hide why there is something to undo."""
    try:
        vm = _looked_up(known, uuid)
        if vm is not None and identity.of(vm) is None and vm.state in _AT_WORK:
            LOG.error("VM %s is not Nova's: it stays", uuid)
            return
        if vm is not None:
            _delete(gz, known, vm)
        # which a VM that is half made does not tell of
        if planned.guest.tree is not None:
            guest.remove_tree(gz, uuid)
        if planned.from_medium:
            removal.eject(gz, uuid)
    except errors.SmartOSError:
        LOG.exception("VM %s is left of a failed launch: its deletion comes back to it", uuid)


def _looked_up(known: watch.Watch, uuid: str) -> vms.Vm | None:
    try:
        return known.get(uuid, fresh=True)
    except errors.NotFound:
        return None
