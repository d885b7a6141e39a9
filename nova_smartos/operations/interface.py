# SPDX-License-Identifier: Apache-2.0
"""The nics of a VM: waiting for Neutron, attaching and detaching.

vmadm changes the nics of a running VM in its configuration only: the guest gets, or loses, the
device with its next boot. What a nic may send is changed at once, so one that is detached falls
silent then.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import nova.conf
from nova import exception
from nova.network import model
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances
from oslo_log import log

from nova_smartos.operations import watch
from nova_smartos.smartos import errors, node, spans, vms
from nova_smartos.translate import manifest, nic, payload, specs

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)

_PLUGGED = "network-vif-plugged"
# vmadm looks through a payload before it begins.
_NOTHING_DONE = (errors.InvalidPayload, errors.NotFound, errors.NotStarted)
# How long the event stream has to tell of a change before the node is asked, and how long an update
# may go on whose connection broke.
_ECHO_SECONDS = 0.5
SETTLE_SECONDS = 30.0


def asked(instance: instances.Instance, image_meta: image_metas.ImageMeta) -> specs.Specs:
    """What flavor and image ask for of an instance that exists."""
    properties = specs.image_properties(instance)
    kind = manifest.kind(image_meta, properties)
    return specs.resolve(instance.flavor, image_meta, properties, kind)


@spans.step
def attach(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    vif: model.VIF,
    *,
    wanted: specs.Specs,
    nic_tags: Mapping[str, str],
) -> None:
    """Give the VM a nic for the port [1], and look whether it has it [1].

    What the flavor gives to every nic, this one has as well.
    """
    vm = known.get(instance.uuid)
    with _refused(exception.InterfaceAttachFailed):
        added = network([vif], wanted=wanted, nic_tags=nic_tags).nics[0]
        del added["primary"]
        nic.check_room(vm, added)
        update = nic.attachment(vm, added, vif)
        if update is not None:
            try:
                _update(gz, known, vm.uuid, update, lambda now: nic.has(now, added))
            except _NOTHING_DONE:
                raise
            except errors.SmartOSError:
                _take_back(gz, vm.uuid, added["mac"], vm)
                raise
    for sentence in nic.unsaid([vif]):
        LOG.warning("%s", sentence, instance=instance)
    if vm.state == vms.State.RUNNING:
        LOG.info("Port %s: the guest has its nic after the next boot", vif["id"], instance=instance)


@spans.step
def detach(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    vif: model.VIF,
    others: Sequence[model.VIF],
    *,
    uuid: str | None = None,
) -> None:
    """Take the port's nic from the VM [1]; in a running one it is silenced before [1].

    One that is not there is success. The VM is the instance's own unless `uuid` names the one that
    acts for it.
    """
    mac = vif["address"].lower()
    uuid = uuid or instance.uuid
    vm = known.get(uuid)
    present = nic.by_mac(vm).get(mac)
    if present is None:
        vm = known.get(uuid, fresh=True)
        present = nic.by_mac(vm).get(mac)
    if present is None:
        LOG.warning("Port %s has no nic to detach", vif["id"], instance=instance)
        return
    running = vm.state == vms.State.RUNNING
    with _refused(exception.InterfaceDetachFailed), contextlib.ExitStack() as undo:
        if running and (silence := nic.silenced(present)) is not None:
            undo.callback(_give_back, gz, vm.uuid, present)
            gz.vmadm.update(vm.uuid, silence)
        update = nic.detachment(vm, mac, vif, others)
        _update(gz, known, vm.uuid, update, lambda now: now is None or mac not in nic.by_mac(now))
        undo.pop_all()
    if running:
        LOG.info(
            "Port %s: its nic is silent, and leaves the guest with the next boot",
            vif["id"],
            instance=instance,
        )


def network(
    network_info: Sequence[model.VIF] | None, *, wanted: specs.Specs, nic_tags: Mapping[str, str]
) -> nic.Network:
    """The network of a VM: what Neutron wants, with what the flavor gives to every nic."""
    made = nic.network(
        network_info,
        brand=wanted.brand,
        model=wanted.values.get("nic_model"),
        nic_tags=nic_tags,
    )
    return payload.wired(wanted, made)


@contextlib.contextmanager
def plugged(
    virtapi: Any,
    instance: instances.Instance,
    network_info: Sequence[model.VIF] | None,
    *,
    boots: bool = True,
) -> Iterator[None]:
    """Make the VM inside; at the end, wait until Neutron has wired the ports that are not yet.

    A VM that does not boot has no vnics, so nothing is awaited for it.
    """
    timeout = CONF.vif_plugging_timeout
    # a port whose state is not known is taken for wired, lest a stale cache costs the timeout
    ports = [vif["id"] for vif in network_info or () if vif.get("active", True) is False]
    if not (ports and boots and timeout):
        yield
        return
    events = [(_PLUGGED, port) for port in ports]
    made = False
    try:
        with (
            contextlib.ExitStack() as waiting,
            virtapi.wait_for_instance_event(
                instance, events, timeout=timeout, error_callback=_failed
            ),
        ):
            yield
            made = True
            waiting.enter_context(spans.span("wait for Neutron", "wait"))
    except exception.InstanceEventTimeout as error:
        if not made:
            raise
        reason = f"Neutron did not wire port {' or '.join(ports)} within {timeout} seconds"
        LOG.warning("%s", reason, instance=instance)
        if CONF.vif_plugging_is_fatal:
            raise exception.VirtualInterfaceCreateException(reason) from error


@spans.step
def repair(
    gz: node.Node, known: watch.Watch, instance: instances.Instance, wanted: nic.Network
) -> None:
    """Give a VM that is down the network that Nova wants for it, if it has another [0 or 1]."""
    vm = known.get(instance.uuid)
    if vm.nics and not wanted.nics:
        # Nova's record of an instance's ports is a cache, which has been lost before
        LOG.warning("Nova names no port for it; its nics stay", instance=instance)
        return
    update = nic.differences(vm, wanted)
    if update is not None:
        LOG.warning("Its network is not as Nova has it: %s", sorted(update), instance=instance)
        gz.vmadm.update(instance.uuid, update)


def _failed(event: str, instance: instances.Instance) -> bool:
    """Neutron says that a port failed: end the launch, or go on without the port."""
    reason = f"Neutron failed to wire a port: {event}"
    LOG.error("%s", reason, instance=instance)
    if CONF.vif_plugging_is_fatal:
        raise exception.VirtualInterfaceCreateException(reason)
    return True


def _give_back(gz: node.Node, uuid: str, present: vms.Nic) -> None:
    """Undo: whatever stops this must not hide why there is something to undo."""
    try:
        vm = gz.vmadm.get(uuid)
        if present.mac in {each.mac for each in vm.nics}:
            gz.vmadm.update(uuid, nic.restored(present))
    except errors.SmartOSError:
        LOG.exception("VM %s: nic %s stays silent until a hard reboot", uuid, present.mac)


@contextlib.contextmanager
def _refused(failure: type[exception.NovaException]) -> Iterator[None]:
    """What the payload cannot be, in the word that Nova has for it here."""
    try:
        yield
    except (errors.InvalidPayload, exception.VirtualInterfaceCreateException) as error:
        raise failure(str(error)) from error


def _take_back(gz: node.Node, uuid: str, mac: str, before: vms.Vm) -> None:
    """Undo: whatever stops this must not hide why there is something to undo."""
    if mac in nic.by_mac(before):
        return
    try:
        vm = gz.vmadm.get(uuid)
        if (half := nic.by_mac(vm).get(mac)) is not None:
            gz.vmadm.update(uuid, {"remove_nics": [half.mac]})
    except errors.SmartOSError:
        LOG.exception("VM %s: nic %s may be left over until a hard reboot", uuid, mac)


def _update(
    gz: node.Node,
    known: watch.Watch,
    uuid: str,
    update: Mapping[str, Any],
    done: Callable[[vms.Vm | None], bool],
) -> None:
    """Update the VM, and look: neither success nor failure of vmadm proves what became of it."""
    failure: errors.SmartOSError | None = None
    seconds = _ECHO_SECONDS
    try:
        gz.vmadm.update(uuid, update)
    except _NOTHING_DONE:
        raise
    except errors.OutcomeUnknown as error:
        failure, seconds = error, SETTLE_SECONDS
    except errors.SmartOSError as error:
        failure = error
    try:
        vm = known.wait(uuid, done, seconds)
    except errors.SmartOSError as error:
        raise failure or error from error
    if done(vm):
        if failure is not None:
            LOG.warning("VM %s is as it should be, in spite of: %s", uuid, failure)
        return
    raise failure or errors.OutputError(f"vmadm update: VM {uuid} did not take all of the update")
