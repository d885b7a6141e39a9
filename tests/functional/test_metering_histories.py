# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a zone, its node and the agent: totals equal what the kernel counted."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_smartos import readings
from tests import waits
from tests.functional import metered

STEPS = st.sampled_from(
    ("poll", "load", "load", "read", "reboot", "stop", "node", "agent", "twice", "unseen")
)


@pytest.fixture(scope="module")
def shared() -> Iterator[metered.Metered]:
    with tempfile.TemporaryDirectory() as folder:
        with metered.Metered(pathlib.Path(folder), "--speed", "100") as world:
            world.poll()
            yield world


@dataclasses.dataclass
class Truth:
    """What one guest has used at the last reading of each of its boots."""

    world: metered.Metered
    uuid: str
    over: list[readings.Reading]
    rate: int = 1

    def read(self) -> None:
        """The kernel's counters now, which the metering gets as well."""
        self.now = self.world.leave(self.uuid)

    def ends(self) -> None:
        """The boot is over, and its last reading was taken."""
        self.over.append(self.now)

    def used(self, module: str, *statistics: str) -> int:
        return sum(metered.used(each, module, *statistics) for each in self.over)


def happen(step: str, truth: Truth) -> None:
    world, uuid = truth.world, truth.uuid
    if step == "poll":
        world.poll()
    elif step == "load":
        truth.rate = truth.rate * 7 % 11 or 1
        world.load(uuid, f"cpu=0.{truth.rate}", f"net_rx={truth.rate * 12345}", "disk_write=77777")
    elif step == "read":
        truth.read()
    elif step == "twice":
        # a reading whose removal from the spool was lost
        truth.read()
        world.poll()
        world.spool.put(truth.now)
    elif step == "agent":
        # it was killed: what it had not committed is gone
        world.metering.close()
        world.begin()
    elif step in ("reboot", "stop", "unseen"):
        truth.read()
        truth.ends()
        world.gz.vmadm.stop(uuid, force=True)
        if step == "stop":
            world.poll()
        world.gz.vmadm.start(uuid)
        if step != "unseen":
            world.poll()
    elif step == "node":
        truth.read()
        truth.ends()
        world.node.command("reboot", str(world.node.directory))
        waits.until(lambda: world.vm(uuid).state == "running", "the node to be up again")


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=8))
def test_no_history_makes_a_total_wrong(shared: metered.Metered, steps: list[str]) -> None:
    world = shared
    uuid = world.create("guest", nics=[world.nic()], autoboot=True)
    truth = Truth(world, uuid, [])
    shown = 0.0
    try:
        for step in steps:
            happen(step, truth)
            seen = world.poll().get(uuid, {}).get("cpu", shown)
            assert seen >= shown, f"a total went back at {step}"
            shown = seen
        truth.read()
        truth.ends()
    finally:
        world.gz.vmadm.delete(uuid)
    waits.until(lambda: "power.state" not in world.poll().get(uuid, {}), "the guest to be gone")
    found = world.poll()
    assert found[uuid]["cpu"] == truth.used("zones", "nsec_user", "nsec_sys")
    assert found[uuid]["smartos.cpu.wait"] == truth.used("zones", "nsec_waitrq")
    assert found[uuid]["smartos.metering.anomalies"] == 0
    root, wire = found[f"{uuid}-root"], found[f"instance-guest-{uuid}-net0"]
    assert root["disk.device.write.bytes"] == truth.used("zone_vfs", "nwritten")
    assert wire["network.incoming.bytes"] == truth.used("link", "rbytes64")
    with contextlib.suppress(KeyError):
        # its last samples are given so often, and then no more
        for _ in range(3):
            world.poll()[uuid]
        pytest.fail("the samples of a guest that is gone go on")
