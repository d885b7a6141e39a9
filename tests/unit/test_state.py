# SPDX-License-Identifier: Apache-2.0
"""What vmadm's states mean to Nova."""

import itertools

import pytest
from nova.compute import power_state
from nova.virt import event

from nova_smartos.smartos import vms
from nova_smartos.translate import state

UUID = "11111111-2222-4333-8444-555555555555"
POWER = {
    "configured": power_state.NOSTATE,
    "down": power_state.RUNNING,
    "failed": power_state.CRASHED,
    "incomplete": power_state.NOSTATE,
    "mounted": power_state.NOSTATE,
    "provisioning": power_state.NOSTATE,
    "ready": power_state.RUNNING,
    "receiving": power_state.NOSTATE,
    "running": power_state.RUNNING,
    "shutting_down": power_state.RUNNING,
    "stopped": power_state.SHUTDOWN,
    "stopping": power_state.RUNNING,
    "a newer platform's": power_state.NOSTATE,
    "unknown": power_state.NOSTATE,
}


def a_vm(shown: str, brand: str = "joyent") -> vms.Vm:
    return vms.Vm(uuid=UUID, brand=brand, state=shown, zone_state="running")


@pytest.mark.parametrize(("shown", "power"), [*POWER.items()])
def test_power(shown: str, power: int) -> None:
    assert state.info(a_vm(shown)).state == power


def test_every_state_of_vmadm_has_a_meaning() -> None:
    assert {str(each) for each in vms.State} <= POWER.keys()


def test_only_a_vm_that_is_up_can_stand_still() -> None:
    assert state.power(a_vm("running", "kvm"), paused=True) == power_state.PAUSED
    assert state.power(a_vm("stopped", "kvm"), paused=True) == power_state.SHUTDOWN


@pytest.mark.parametrize(("old", "new"), [*itertools.product(POWER, repeat=2)])
def test_transition(old: str, new: str) -> None:
    """Nova hears of what goes down and of what comes up again, and of nothing in between."""
    off = {power_state.SHUTDOWN, power_state.CRASHED}
    before, after = POWER[old], POWER[new]
    expected = None
    if before == power_state.RUNNING and after in off:
        expected = event.EVENT_LIFECYCLE_STOPPED
    elif before in off and after == power_state.RUNNING:
        expected = event.EVENT_LIFECYCLE_STARTED
    assert state.transition(a_vm(old), a_vm(new)) == expected


def test_a_vm_that_appears_or_goes_is_no_event() -> None:
    assert state.transition(None, a_vm("running")) is None
    assert state.transition(a_vm("running"), None) is None
