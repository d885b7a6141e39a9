# SPDX-License-Identifier: Apache-2.0
"""Power: what Nova's user asked for is what the node does, also after its next boot.

vmadm's start sets autoboot and its stop clears it, also of a VM that is down already, which keeps
the node in step with Nova. Each step is idempotent: a failure, or an answer that got lost, counts
only after a look at the VM.
"""

import time
from collections.abc import Callable

from nova import exception
from nova.objects import instance as instances
from nova.virt import hardware
from oslo_log import log

from nova_smartos.operations import metering, watch
from nova_smartos.smartos import errors, node, spans, vms
from nova_smartos.translate import errors as faults
from nova_smartos.translate import state

LOG = log.getLogger(__name__)

# How long a VM may need that is on its way up or down by somebody else's doing, and how long a
# command may go on whose connection broke.
_WAY_SECONDS = 60.0
# A node that boots brings up a VM that was to boot with it although that has changed since.
_BOOT_SECONDS = 5.0
# Between two looks at what such a command does.
_LOOK_SECONDS = 2.0
# What a zone's guest gets for a clean shutdown; vmadm knows no other time for it.
_ZONE_STOP_SECONDS = 60
# And for a reboot.
_REBOOT_SECONDS = 180.0


def info(gz: node.Node, known: watch.Watch, uuid: str, *, fresh: bool) -> hardware.InstanceInfo:
    """The VM's power state: from memory, or asked of the node [1, for a kvm that runs 2].

    vmadm does not show that a guest stands still, its monitor does.
    """
    vm = known.get(uuid, fresh=fresh, echo=True)
    if fresh and vm.brand == "kvm" and state.is_running(vm):
        known.note_paused(vm.uuid, _stands_still(gz, vm.uuid))
    return state.info(vm, paused=known.paused(vm.uuid))


@spans.step
def start(
    gz: node.Node, known: watch.Watch, instance: instances.Instance, *, uuid: str | None = None
) -> None:
    """Boot the VM unless it runs, and let it come up with the node [1].

    It is the instance's own unless `uuid` names the one that acts for it.
    """
    _start(gz, known, uuid or instance.uuid, exception.InstancePowerOnFailure)


@spans.step
def stop(gz: node.Node, known: watch.Watch, instance: instances.Instance, seconds: int = 0) -> None:
    """Bring the VM down, and keep it so when the node boots [1].

    Its guest has so many seconds to end cleanly, none with 0. For zones vmadm has a time of its
    own, a minute. An HVM is asked once: asking again would not be another question.
    """
    _stop(gz, known, instance.uuid, seconds, exception.InstancePowerOffFailure)


@spans.step
def reboot(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    *,
    hard: bool,
    seconds: int,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Down and up again: asking the guest first unless `hard`, and then whatever it does.

    `prepare` changes what only a VM that is down can have changed; with it every reboot is a stop
    and a start.
    """
    if not hard and prepare is None and _reboot_zone(gz, known, instance.uuid):
        return
    failure = exception.InstanceRebootFailure
    _stop(gz, known, instance.uuid, 0 if hard else seconds, failure)
    if prepare is not None:
        prepare()
    _start(gz, known, instance.uuid, failure)


@spans.step
def crash_dump(gz: node.Node, known: watch.Watch, instance: instances.Instance) -> None:
    """Send the guest an NMI; what it does with that is its own setting."""
    if not known.get(instance.uuid).hvm:
        raise faults.Refused(
            "a zone has no kernel of its own that could dump: "
            "only instances with hardware virtualization take a crash dump"
        )
    try:
        gz.vmadm.sysrq(instance.uuid, "nmi")
    except errors.InvalidState as error:
        raise exception.InstanceNotRunning(instance_id=instance.uuid) from error


@spans.step
def pause(gz: node.Node, known: watch.Watch, instance: instances.Instance) -> None:
    """Let the guest stand still; only kvm's monitor can."""
    _stand_still(gz, known, instance.uuid, True)


@spans.step
def unpause(gz: node.Node, known: watch.Watch, instance: instances.Instance) -> None:
    """Let the guest go on."""
    _stand_still(gz, known, instance.uuid, False)


# Steps


def _stand_still(gz: node.Node, known: watch.Watch, uuid: str, still: bool) -> None:
    vm = known.get(uuid)
    if vm.brand != "kvm" or vm.zonepath is None:
        raise faults.Refused(f"a guest of brand {vm.brand} cannot be paused, only one of kvm can")
    try:
        (gz.qmp.stop if still else gz.qmp.cont)(vm.zonepath)
    except errors.NotStarted:
        raise
    except errors.SmartOSError as error:
        if isinstance(error, errors.InvalidState):
            raise exception.InstanceNotRunning(instance_id=uuid) from error
        if not _is_so(gz, uuid, still):
            raise
        LOG.warning("done nevertheless: %s", error)
    known.note_paused(uuid, still)


def _is_so(gz: node.Node, uuid: str, still: bool) -> bool:
    try:
        return _stands_still(gz, uuid) is still
    except errors.SmartOSError as error:
        # the first error is the one that tells
        LOG.warning("cannot see what became of it: %s", error)
        return False


def _stands_still(gz: node.Node, uuid: str) -> bool:
    try:
        status = gz.vmadm.info(uuid, "status").get("status", {})
    except errors.InvalidState:
        # it has just gone down, of which the stream will tell
        return False
    return status.get("running") is False


def _start(
    gz: node.Node, known: watch.Watch, uuid: str, failure: type[exception.NovaException]
) -> None:
    def act() -> None:
        try:
            started = gz.vmadm.start(uuid)
        except errors.InvalidState:
            # it is on its way down, of itself or by a command whose answer was lost, of which the
            # stream may not have told
            known.get(uuid, fresh=True)
            vm = known.wait(uuid, _is_at_rest, _WAY_SECONDS)
            if vm is None or vm.state != vms.State.STOPPED:
                raise
            started = gz.vmadm.start(uuid)
        if not started and not known.get(uuid).autoboot:
            gz.vmadm.update(uuid, {"autoboot": True})

    with known.changing(uuid, _is_up):
        _bring(gz, known, uuid, act, _is_up_for_good, failure, _WAY_SECONDS)


def _stop(
    gz: node.Node,
    known: watch.Watch,
    uuid: str,
    seconds: int,
    failure: type[exception.NovaException],
) -> None:
    vm = known.get(uuid)

    def act() -> None:
        if seconds and gz.vmadm.stop(uuid, seconds=seconds if vm.hvm else None):
            return
        if not seconds and gz.vmadm.stop(uuid, force=True):
            return
        # vmadm calls it a success when there was nothing to stop: also on the way up or down
        now = known.get(uuid)
        if not state.is_off(now):
            now = known.get(uuid, fresh=True)
        if not state.is_off(now):
            gz.vmadm.stop(uuid, force=True)
        if not seconds or not state.is_off(now):
            # -F leaves autoboot alone when there was nothing to stop
            gz.vmadm.stop(uuid)
        if state.is_running(vm) and vm.autoboot:
            # perhaps it went down with its node, which is just bringing it up again
            up = known.wait(uuid, lambda vm: not _is_down(vm), _BOOT_SECONDS)
            if not _is_down(up):
                gz.vmadm.stop(uuid, force=True)

    patience = _WAY_SECONDS + (seconds if vm.hvm else _ZONE_STOP_SECONDS)
    metering.final_reading(gz, vm, "stop")
    with known.changing(uuid, _is_down):
        _bring(gz, known, uuid, act, _is_down_for_good, failure, patience)


def _reboot_zone(gz: node.Node, known: watch.Watch, uuid: str) -> bool:
    """Reboot a zone in one go, which never shows as a shutdown; False when it cannot be.

    For an HVM vmadm's reboot is a stop and a start as well, in which bhyve's guest has 10 s. A zone
    that would not come up with the node is stopped and started: an earlier reboot may have ended
    half-way, and only a start mends that.
    """
    vm = known.get(uuid)
    if vm.hvm or not state.is_running(vm) or not vm.autoboot:
        return False
    failure = exception.InstanceRebootFailure

    def again(now: vms.Vm | None) -> bool:
        return now is not None and _is_up(now) and now.zoneid != vm.zoneid

    def act() -> None:
        gz.vmadm.reboot(uuid)

    metering.final_reading(gz, vm, "reboot")
    try:
        with known.changing(uuid, again):
            _bring(gz, known, uuid, act, again, failure, _REBOOT_SECONDS)
    except errors.NotFound:
        raise
    except (errors.ToolError, failure) as error:
        LOG.warning("the guest did not reboot, so it is stopped and started: %s", error)
        return False
    return True


def _bring(
    gz: node.Node,
    known: watch.Watch,
    uuid: str,
    act: Callable[[], None],
    reached: Callable[[vms.Vm | None], bool],
    failure: type[exception.NovaException],
    patience: float,
) -> None:
    """Do it; what then fails has failed only if the VM is not where it was to be brought."""
    try:
        act()
    except (errors.NotFound, errors.NotStarted):
        raise
    except errors.SmartOSError as error:
        lost = isinstance(error, errors.OutcomeUnknown)
        if _reached(gz, known, uuid, reached, patience if lost else 0.0):
            LOG.warning("done nevertheless: %s", error)
        elif isinstance(error, errors.InvalidState):
            raise failure(reason=str(error)) from error
        else:
            raise


def _reached(
    gz: node.Node,
    known: watch.Watch,
    uuid: str,
    reached: Callable[[vms.Vm | None], bool],
    patience: float,
) -> bool:
    """Whether it was done; for a while also by a command that goes on without us."""
    end = time.monotonic() + patience
    try:
        while True:
            # in this order, for it may end in between
            goes_on = time.monotonic() < end and any(each.changes for each in gz.ps.list())
            if reached(known.get(uuid, fresh=True)):
                return True
            if not goes_on:
                return False
            known.wait(uuid, reached, _LOOK_SECONDS)
    except errors.NotFound:
        return False
    except errors.SmartOSError as error:
        # the first error is the one that tells
        LOG.warning("cannot see what became of it: %s", error)
        return False


def _is_at_rest(vm: vms.Vm | None) -> bool:
    return vm is None or state.is_off(vm) or state.is_running(vm)


def _is_down(vm: vms.Vm | None) -> bool:
    return vm is None or state.is_off(vm)


def _is_down_for_good(vm: vms.Vm | None) -> bool:
    return vm is not None and state.is_off(vm) and not vm.autoboot


def _is_up(vm: vms.Vm | None) -> bool:
    return vm is not None and state.is_running(vm)


def _is_up_for_good(vm: vms.Vm | None) -> bool:
    return _is_up(vm) and vm is not None and vm.autoboot
