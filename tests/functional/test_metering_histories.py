# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a zone, its node and the agent: totals equal what the kernel counted."""

import dataclasses
import pathlib
import tempfile
import time
import uuid as uuids
from collections.abc import Iterator

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ceilometer_plugin import ledger, metering
from nova_smartos import readings
from tests import waits
from tests.functional import metered, test_metering_nodes

CPU = ("nsec_user", "nsec_sys")
#: What happens before there is a ledger, and after.
EARLY = st.sampled_from(("load", "read", "reboot", "node", "move"))
STEPS = st.sampled_from(
    ("poll", "poll", "load", "read", "reboot", "stop", "node", "agent", "kill", "twice", "move")
)


@pytest.fixture(scope="module")
def shared() -> Iterator[test_metering_nodes.Two]:
    with tempfile.TemporaryDirectory() as folder:
        with test_metering_nodes.Two(pathlib.Path(folder)) as both:
            yield both


@dataclasses.dataclass
class Truth:
    """What one guest has used in each of its boots."""

    both: test_metering_nodes.Two
    uuid: str
    #: whether there is no ledger yet
    early: bool
    at: int = 0
    rate: int = 1
    kills: int = 0
    shown: float = 0.0
    now: readings.Reading | None = None
    #: of a boot that began before the ledger: the first reading, from which on it counts
    first: readings.Reading | None = None
    #: the last reading of each boot that is over, and that first one
    over: list[tuple[readings.Reading | None, readings.Reading]] = dataclasses.field(
        default_factory=list
    )

    @property
    def node(self) -> metered.Metered:
        """Where it is."""
        return self.both.nodes[self.at]

    def read(self) -> readings.Reading:
        """The kernel's counters now, which the metering gets as well."""
        self.now = self.node.leave(self.uuid)
        if self.early and self.first is None:
            self.first = self.now
        return self.now

    def ends(self) -> None:
        """The boot is about to end, and its last reading is taken."""
        last = self.read()
        self.over.append((self.first, last))
        self.first = None

    def poll(self) -> None:
        """A cycle, in which no total goes back."""
        seen = self.both.poll().get(self.uuid, {}).get("cpu", self.shown)
        assert seen >= self.shown, "a total went back"
        self.shown = seen

    def used(self, module: str, *statistics: str) -> int:
        return sum(
            metered.used(last, module, *statistics)
            - (metered.used(first, module, *statistics) if first else 0)
            for first, last in self.over
        )


def happen(step: str, truth: Truth) -> None:
    world, uuid = truth.node, truth.uuid
    if step == "poll":
        truth.poll()
    elif step == "load":
        truth.rate = truth.rate * 7 % 11 or 1
        world.load(uuid, f"cpu=0.{truth.rate}", f"net_rx={truth.rate * 12345}", "disk_write=77777")
    elif step == "read":
        truth.read()
    elif step == "twice":
        # a reading whose removal from the spool was lost
        last = truth.read()
        truth.poll()
        world.spool.put(last)
    elif step == "agent":
        truth.both.metering.close()
        truth.both.begin("a", "b")
    elif step == "kill":
        die(truth)
    elif step in ("reboot", "stop"):
        truth.ends()
        world.gz.vmadm.stop(uuid, force=True)
        if step == "stop":
            truth.poll()
        world.gz.vmadm.start(uuid)
    elif step == "node":
        truth.ends()
        # no node boots twice in a second
        waits.until(lambda: time.time() > truth.over[-1][1].boot + 1, "the clock to go on")
        world.node.command("reboot", str(world.node.directory))
        waits.until(lambda: world.vm(uuid).state == "running", "the node to be up again")
    elif step == "move":
        truth.ends()
        world.delete(uuid)
        truth.at = 1 - truth.at
        create(truth)


def die(truth: Truth) -> None:
    """The agent dies in a cycle: before it has committed, or before it has emptied the spool."""
    moments = ((ledger.Ledger, "commit"), (metering.Metering, "_forget_taken"))
    where, what = moments[truth.kills % 2]
    truth.kills += 1

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, what, killed)
        with pytest.raises(KeyboardInterrupt):
            truth.both.poll()
    # which writes nothing
    truth.both.metering.close()
    truth.both.begin("a", "b")


def create(truth: Truth) -> None:
    world = truth.node
    world.create("guest", uuid=truth.uuid, nics=[world.nic()], autoboot=True)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(early=st.lists(EARLY, max_size=3), steps=st.lists(STEPS, max_size=8))
def test_no_history_makes_a_total_wrong(
    shared: test_metering_nodes.Two, early: list[str], steps: list[str]
) -> None:
    uuid = str(uuids.uuid4())
    truth = Truth(shared, uuid, early=bool(early))
    create(truth)
    try:
        if early:
            for step in early:
                happen(step, truth)
            truth.read()
            shared.metering.close()
            shared.forget()
            shared.begin("a", "b")
            truth.poll()
            truth.early = False
        for step in steps:
            happen(step, truth)
        truth.ends()
    finally:
        truth.node.delete(uuid)
    found = shared.poll()
    assert found[uuid]["cpu"] == truth.used("zones", *CPU) >= truth.shown
    assert found[uuid]["smartos.cpu.wait"] == truth.used("zones", "nsec_waitrq")
    assert found[uuid]["smartos.metering.anomalies"] == 0
    root, wire = found[f"{uuid}-root"], found[f"instance-guest-{uuid}-net0"]
    assert root["disk.device.write.bytes"] == truth.used("zone_vfs", "nwritten")
    assert wire["network.incoming.bytes"] == truth.used("link", "rbytes64")
