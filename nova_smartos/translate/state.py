# SPDX-License-Identifier: Apache-2.0
"""What the state of a VM means to Nova: power states and lifecycle transitions.

=============  ===========  ==========================================================
vmadm's state  power state  why
=============  ===========  ==========================================================
running        RUNNING      PAUSED for a kvm guest whose monitor says that it stands still
stopping       RUNNING      a kvm guest that was asked to go down still computes
ready          RUNNING      the zone is on its way up, no guest yet
shutting_down  RUNNING      on its way down, or half of a reboot: not yet a shutdown
down           RUNNING      as before; the node still holds the zone's memory
stopped        SHUTDOWN
failed         CRASHED      the guest did not provision itself; vmadm keeps it halted
provisioning   NOSTATE      Nova's own work, or a rebuild's: nothing to correct
receiving      NOSTATE      the same of a migration
others         NOSTATE      configured, incomplete, mounted, unknown, a newer platform's
=============  ===========  ==========================================================

Of NOSTATE Nova only takes notice, while it answers SHUTDOWN and CRASHED with a stop.
"""

from nova.compute import power_state
from nova.virt import event, hardware

from nova_smartos.smartos import vms

_POWER = {
    vms.State.DOWN: power_state.RUNNING,
    vms.State.FAILED: power_state.CRASHED,
    vms.State.READY: power_state.RUNNING,
    vms.State.RUNNING: power_state.RUNNING,
    vms.State.SHUTTING_DOWN: power_state.RUNNING,
    vms.State.STOPPED: power_state.SHUTDOWN,
    vms.State.STOPPING: power_state.RUNNING,
}
_OFF = (power_state.CRASHED, power_state.SHUTDOWN)


def info(vm: vms.Vm, *, paused: bool = False) -> hardware.InstanceInfo:
    """What Nova's get_info answers."""
    return hardware.InstanceInfo(state=power(vm, paused=paused))


def power(vm: vms.Vm, *, paused: bool = False) -> int:
    """Nova's power state; vmadm does not know of `paused`."""
    state: int = _POWER.get(vm.state, power_state.NOSTATE)  # type: ignore[call-overload]
    return int(power_state.PAUSED) if paused and state == power_state.RUNNING else state


def is_off(vm: vms.Vm) -> bool:
    """Whether nothing of the VM runs."""
    return power(vm) in _OFF


def is_running(vm: vms.Vm) -> bool:
    """Whether the VM is up, not merely on its way."""
    return vm.state == vms.State.RUNNING


def transition(old: vms.Vm | None, new: vms.Vm | None) -> int | None:
    """The lifecycle event for a change that Nova has not asked for, None where there is none.

    A VM that comes up for the first time is Nova's own doing, and of one that is gone Nova's
    events cannot tell: its periodic look finds out.
    """
    if old is None or new is None:
        return None
    before, after = power(old), power(new)
    if before == power_state.RUNNING and after in _OFF:
        return int(event.EVENT_LIFECYCLE_STOPPED)
    if before in _OFF and after == power_state.RUNNING:
        return int(event.EVENT_LIFECYCLE_STARTED)
    return None
