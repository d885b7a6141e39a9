# SPDX-License-Identifier: Apache-2.0
"""The consumer with the shipped scripts on an emulated node: it counts what kstats count."""

import collections
import json
import uuid
from collections.abc import Iterator

import pytest

import dtrace_scripts
from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import program
from nova_smartos.smartos import node
from tests import emulated, waits

SPEED = 20
LOAD = ("disk_read_ops=300", "disk_read=2000000", "disk_write_ops=200", "disk_write=1500000")
NAMES = ("zone_io", "zone_vfs", "zone_final", "zone_tcp")


@pytest.fixture(scope="module")
def emulator() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode("--speed", str(SPEED), "--no-probe", "tcp:::send") as up:
        yield up


def created(emulator: emulated.EmulatedNode) -> str:
    """A zone under load; its uuid."""
    made = str(uuid.uuid4())
    shape = {
        **{"brand": "joyent-minimal", "uuid": made, "alias": "nst-traced"},
        **{"image_uuid": emulator.image("minimal"), "max_physical_memory": 256, "quota": 5},
    }
    emulator.tool("vmadm", "create", payload=json.dumps(shape))
    emulator.command("load", str(emulator.directory), made, *LOAD)
    return made


def test_what_all_runs_counted_of_a_zones_whole_life(emulator: emulated.EmulatedNode) -> None:
    scripts = {name: dtrace_scripts.path(name).read_text() for name in NAMES}
    runs: dict[tuple[str, consumer.Key], int] = collections.defaultdict(int)
    finals: list[consumer.Final] = []

    def take() -> set[str]:
        """Take what there is, as a ledger does; the runs seen so far."""
        for frame in [*made.ended(), *made.frames().values()]:
            for key, value in frame.values.items():
                place = (frame.run, (frame.script, *key))
                runs[place] = max(runs[place], value)
        finals.extend(made.finals())
        return {run for run, _ in runs}

    def total(*key: str) -> int:
        return sum(value for (_, counted), value in runs.items() if counted == key)

    with node.Node.local(tool_path=emulator.tools) as gz:
        made = program.Program(
            *(gz, "node1", scripts), period_seconds=1, window_seconds=120, lead_seconds=116
        )
        made.start()
        try:
            waits.until(made.frames)
            zone = created(emulator)
            # two hand-overs while the zone works
            before = len(take())
            waits.until(lambda: len(take()) >= before + 2)
            emulator.tool("vmadm", "stop", zone, "-F")
            stopped = gz.kstat.read([])[0].snaptime_ns
            waits.until(lambda: take() and finals)
            waits.until(lambda: all(f.hrtime_ns > stopped for f in made.frames().values()))
            take()
        finally:
            made.close()
    assert (dict(made.drops), made.restarts) == ({}, 0)
    assert made.unsupported == {"zone_tcp": "there is no probe tcp:::send"}
    (final,) = finals
    assert final.zonename == zone
    assert final.counters["reads"] > 0 and final.counters["writes"] > 0
    assert total("zone_vfs", "ops", zone, "fop_read") == final.counters["reads"]
    assert total("zone_vfs", "ops", zone, "fop_write") == final.counters["writes"]
    assert total("zone_vfs", "ns", zone, "fop_read") == final.counters["rlentime_raw"]
    assert total("zone_final", "zones") == 1
