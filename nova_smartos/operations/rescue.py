# SPDX-License-Identifier: Apache-2.0
"""Rescue: the same server on another root, with its own at hand.

A virtual machine gets the rescue image as a disk that it boots from, beside its own disks. A zone
has one root, so a stand-in does its work: a zone made of the rescue image, with the nics of the
first and its root mounted at BROKEN_ROOT. What is needed for the way back is written down in
internal_metadata before anything is changed, and every step of it may be repeated.
"""

import json
import uuid as uuid_module
from collections.abc import Mapping
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.network import model
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances
from oslo_log import log

from nova_smartos import readings
from nova_smartos.operations import guest, image, metering, watch
from nova_smartos.smartos import errors, node, spans, vms
from nova_smartos.translate import identity, manifest, metadata, nic, payload, specs

LOG = log.getLogger(__name__)

#: Where a stand-in has the root that it is to mend.
BROKEN_ROOT = "/mnt/rescue"

_NAMESPACE = uuid_module.UUID("5a6e1c1c-6d0f-4b52-9a0c-2f7b1f2f9d10")
# A stand-in is not there to stay.
_HELD = frozenset({"indestructible_delegated", "indestructible_zoneroot"})
_NO_MORE_DISKS: Mapping[str, Any] = {"ephemerals": [], "swap": None}


@spans.step
def rescue(
    gz: node.Node,
    known: watch.Watch,
    images: image.Images,
    context: nova_context.RequestContext,
    instance: instances.Instance,
    image_meta: image_metas.ImageMeta,
    *,
    network_info: model.NetworkInfo,
    password: str,
    nic_tags: Mapping[str, str],
) -> None:
    """Boot the server from the image; Nova has powered it off."""
    vm = known.get(instance.uuid, fresh=True)
    properties = images.properties(context, image_meta)
    kind = images.kind(image_meta, properties)
    told = metadata.guest(
        instance, image_meta, admin_password=password, network_info=network_info, hvm=vm.hvm
    )
    if vm.hvm:
        if kind != "zvol":
            raise _unfit(image_meta, f"a VM of brand {vm.brand} needs an image of a disk to boot")
        if manifest.is_medium(image_meta):
            raise _unfit(image_meta, "it is a medium to install from: a rescue boots from a disk")
        if vm.brand == "kvm" and payload.has_medium(vm) and len(vm.disks) >= payload.IDE_PLACES:
            raise _unfit(image_meta, "with the medium in its drive the VM has no room for a disk")
        base = images.ensure(context, image_meta, properties)
        try:
            _boot_from(gz, known, vm, base, told)
        except errors.SmartOSError:
            _undo_boot(gz, known, vm.uuid)
            raise
        return
    wanted = specs.resolve(instance.flavor, image_meta, properties, kind)
    if wanted.hvm:
        raise _unfit(image_meta, "a zone is rescued from an image of a zone")
    network = payload.wired(
        wanted, nic.network(network_info, brand=wanted.brand, nic_tags=nic_tags)
    )
    base = images.ensure(context, image_meta, properties)
    document = payload.create(
        instance, wanted, base, network, told, {}, block_device_info=_NO_MORE_DISKS
    )
    _stand_in(gz, known, vm, document)


def end(gz: node.Node, known: watch.Watch, vm: vms.Vm) -> None:
    """Take away what a rescue has added, of one that failed as well; the VM is down then.

    Of a zone's nics, which its stand-in had, whoever boots the zone takes care.
    """
    if vm.hvm:
        _boot_from_own(gz, known, vm)
    else:
        remove_stand_in(gz, known, vm.uuid)


def remove_stand_in(gz: node.Node, known: watch.Watch, uuid: str) -> None:
    """Delete the zone that stands in for a VM, if one does."""
    other = known.vms().get(stand_in(uuid))
    if other is None:
        return
    if identity.stands_in_for(other) is None:
        # while a VM comes or goes, events tell of it without its metadata
        try:
            other = known.get(other.uuid, fresh=True)
        except errors.NotFound:
            return
    if identity.stands_in_for(other) != uuid and not identity.is_stillborn(other):
        raise errors.InvalidState(f"VM {other.uuid} is not the stand-in of {uuid}", code="Foreign")
    metering.final_reading(gz, other, readings.DELETION)
    try:
        gz.vmadm.delete(other.uuid)
    except errors.NotFound:
        LOG.info("The stand-in of VM %s was gone already", uuid)


def acting(known: watch.Watch, uuid: str) -> str:
    """The uuid of the VM whose guest the user now sees: the stand-in's, where there is one."""
    other = stand_in(uuid)
    return other if other in known.vms() else uuid


def stand_in(uuid: str) -> str:
    """The uuid of the zone that stands in for a VM while it is rescued."""
    return str(uuid_module.uuid5(_NAMESPACE, uuid))


# zones


def _stand_in(gz: node.Node, known: watch.Watch, vm: vms.Vm, document: Mapping[str, Any]) -> None:
    remove_stand_in(gz, known, vm.uuid)
    made = {
        **{key: value for key, value in document.items() if key not in _HELD},
        "uuid": stand_in(vm.uuid),
        "internal_metadata": {
            **document["internal_metadata"],
            **identity.stand_in_mark(vm.uuid),
        },
        "filesystems": [
            *document.get("filesystems", ()),
            {
                "type": "lofs",
                "source": f"{vm.zonepath}/root",
                "target": BROKEN_ROOT,
                "options": ["nodevices"],
            },
        ],
    }
    # two VMs with the same address would be a conflict
    if vm.nics:
        gz.vmadm.update(vm.uuid, {"remove_nics": [each.mac for each in vm.nics]})
    try:
        gz.vmadm.create(made)
        guest.check_provisioned(gz, made["uuid"])
    except (errors.SmartOSError, exception.NovaException):
        _undo(gz, known, vm)
        raise


def _undo(gz: node.Node, known: watch.Watch, vm: vms.Vm) -> None:
    try:
        known.get(stand_in(vm.uuid), fresh=True)
    except errors.SmartOSError as error:
        LOG.info("No stand-in is left of a failed rescue: %s", error)
    try:
        remove_stand_in(gz, known, vm.uuid)
        if vm.nics:
            gz.vmadm.update(vm.uuid, {"add_nics": vm.document["nics"]})
    except errors.SmartOSError:
        LOG.exception("VM %s: unrescue mends what is left of a failed rescue", vm.uuid)


# virtual machines


def _boot_from(
    gz: node.Node, known: watch.Watch, vm: vms.Vm, base: payload.Image, told: metadata.Guest
) -> None:
    record = _record(vm)
    if record is None:
        own = next((disk for disk in vm.disks if disk.boot), None)
        if own is None:
            raise errors.InvalidState(f"VM {vm.uuid} has no disk that it boots from", code="Disk")
        record = {
            "path": own.path,
            "pci_slot": own.pci_slot,
            "flexible_disk_size": vm.flexible_disk_size_mib,
            "metadata": {key: vm.internal_metadata.get(key) for key in told.internal_metadata},
        }
        gz.vmadm.update(vm.uuid, {"set_internal_metadata": {identity.RESCUED: json.dumps(record)}})
    else:
        # an attempt that came to no end
        vm = _own_disk_first(gz, known, vm, record)
    own = next(disk for disk in vm.disks if disk.path == record["path"])
    demoted: dict[str, Any] = {"path": own.path, "boot": False}
    added: dict[str, Any] = {"image_uuid": base.uuid, "boot": True, "model": own.model}
    update: dict[str, Any] = {"set_internal_metadata": dict(told.internal_metadata)}
    if own.pci_slot:
        # the firmware boots from the first slot that has a disk
        demoted["pci_slot"] = _free_slot(vm, own.pci_slot)
        added["pci_slot"] = own.pci_slot
    if vm.flexible_disk_size_mib:
        update["flexible_disk_size"] = vm.flexible_disk_size_mib + (base.size_mib or 0)
    gz.vmadm.update(vm.uuid, {"update_disks": [demoted], **update})
    gz.vmadm.update(vm.uuid, {"add_disks": [added]})
    with known.changing(vm.uuid, lambda now: now is not None and now.state == vms.State.RUNNING):
        gz.vmadm.start(vm.uuid)


def _undo_boot(gz: node.Node, known: watch.Watch, uuid: str) -> None:
    """Undo: whatever stops this must not hide why there is something to undo."""
    try:
        _boot_from_own(gz, known, known.get(uuid, fresh=True))
    except errors.SmartOSError:
        LOG.exception("VM %s: a stop, or a hard reboot, mends what a failed rescue has left", uuid)


def _boot_from_own(gz: node.Node, known: watch.Watch, vm: vms.Vm) -> None:
    record = _record(vm)
    if record is None:
        # it was never rescued, or is back already
        return
    if vm.state != vms.State.STOPPED:
        metering.final_reading(gz, vm, "stop")
        with known.changing(vm.uuid, lambda now: now is not None and now.zoneid is None):
            gz.vmadm.stop(vm.uuid, force=True)
    _own_disk_first(gz, known, vm, record)
    before: Mapping[str, Any] = record["metadata"]
    update = {
        "set_internal_metadata": {key: text for key, text in before.items() if text is not None},
        "remove_internal_metadata": [
            identity.RESCUED,
            *(key for key, text in before.items() if text is None),
        ],
    }
    gz.vmadm.update(vm.uuid, update)


def _own_disk_first(
    gz: node.Node, known: watch.Watch, vm: vms.Vm, record: Mapping[str, Any]
) -> vms.Vm:
    rescuers = [disk.path for disk in vm.disks if disk.boot and disk.path != record["path"]]
    if rescuers:
        gz.vmadm.update(vm.uuid, {"remove_disks": rescuers})
    promoted = {"path": record["path"], "boot": True}
    if record["pci_slot"]:
        promoted["pci_slot"] = record["pci_slot"]
    update: dict[str, Any] = {"update_disks": [promoted]}
    if record["flexible_disk_size"]:
        update["flexible_disk_size"] = record["flexible_disk_size"]
    gz.vmadm.update(vm.uuid, update)
    return known.get(vm.uuid, fresh=True)


def _free_slot(vm: vms.Vm, slot: str) -> str:
    taken = {disk.pci_slot for disk in vm.disks}
    bus, device, _ = slot.split(":")
    slots = (f"{bus}:{device}:{function}" for function in range(1, 8))
    free = next((each for each in slots if each not in taken), None)
    if free is None:
        raise errors.InvalidState(f"VM {vm.uuid} has no slot for one more disk", code="Disk")
    return free


def _record(vm: vms.Vm) -> dict[str, Any] | None:
    text = vm.internal_metadata.get(identity.RESCUED)
    return json.loads(text) if text else None


def _unfit(image_meta: image_metas.ImageMeta, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=image_meta.id, reason=reason)
