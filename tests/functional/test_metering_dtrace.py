# SPDX-License-Identifier: Apache-2.0
"""What D scripts count on a node: within the stated bound of the truth, and audited by kstat."""

import pathlib
from collections.abc import Iterator

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from ceilometer_plugin import conf as meters_conf
from tests import waits
from tests.functional import metered


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[metered.Metered]:
    options = {"scripts": meters_conf.DEFAULT_SCRIPTS, "dtrace_period": 1}
    with metered.Metered(tmp_path, "--speed", "20", **options) as world:
        world.poll()
        first = world.create("first")
        name = "smartos.disk.read.operations"
        waits.until(lambda: name in world.poll()[first], "the consumer tells")
        yield world


def test_latencies_are_counted_by_zone(world: metered.Metered) -> None:
    uuid = world.create("web", nics=[world.nic()])
    world.load(uuid, "disk_read=20000000", "disk_read_ops=2000", "net_rx=1000000")
    name = "smartos.disk.read.operations"
    waits.until(lambda: world.poll()[uuid].get(name, 0) > 10_000, "many reads are counted")
    web = world.poll()[uuid]
    below = [web[f"smartos.disk.read.below.{16 * 8**n}us"] for n in range(7)]
    assert below == sorted(below)
    assert 0 < below[-1] <= web[name]
    assert web["smartos.network.external.incoming.bytes"] >= 0
    assert "smartos.syscalls" not in web
    # at rest, both have counted the same: the zone is younger than the consumer
    world.load(uuid, "disk_read=0", "disk_read_ops=0")
    truth = "smartos.disk.physical.reads"
    waits.until(lambda: (now := world.poll()[uuid])[name] == now[truth], "DTrace to agree")


def test_a_probe_that_a_platform_lacks_is_no_zero(tmp_path: pathlib.Path) -> None:
    options = {"scripts": ["zone_io", "zone_throttle"], "dtrace_period": 1}
    lacks = ("--no-probe", "sdt:::zfs-zone-latency")
    with metered.Metered(tmp_path, "--speed", "20", *lacks, **options) as world:
        world.poll()
        uuid = world.create("web")
        has = "smartos.zfs.throttle.below.16us"
        waits.until(lambda: has in world.poll()[uuid], "the other script tells")
        assert "smartos.disk.read.operations" not in world.poll()[uuid]


def test_what_dtrace_loses_is_a_meter_and_marks_its_samples(world: metered.Metered) -> None:
    uuid = world.create("web")
    name = "smartos.disk.read.operations"
    waits.until(lambda: name in world.poll()[uuid], "a frame of it")
    text = "dtrace: 12 aggregation drops on CPU 0\n"
    directory = str(world.node.directory)
    world.node.command("fault", directory, "add", "dtrace", "say", "--stderr", text)
    marked: list[str] = []

    def is_marked() -> bool:
        found = world.samples()
        marked[:] = [
            each.resource_metadata["quality"]
            for each in found
            if (each.resource_id, each.name) == (uuid, name)
        ]
        exact = [
            each.resource_metadata["quality"]
            for each in found
            if (each.resource_id, each.name) == (uuid, "cpu")
        ]
        assert exact[-1] == "exact"
        return marked[-1].startswith("drops:")

    waits.until(is_marked, "the samples are marked")
    rows = [row for row in world.poll().values() if "smartos.node.dtrace.drops" in row]
    assert rows[0]["smartos.node.dtrace.drops"] >= 12


def test_a_consumer_that_dies_is_started_anew_and_totals_go_on(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.load(uuid, "disk_read_ops=2000")
    name = "smartos.disk.read.operations"
    waits.until(lambda: world.poll()[uuid].get(name, 0) > 1000, "many reads are counted")
    before = world.poll()[uuid][name]
    directory = str(world.node.directory)
    world.node.command("fault", directory, "add", "dtrace", "die", "--count", "1")

    def restarts() -> float:
        found = world.poll()
        assert found[uuid].get(name, before) >= before
        return next(
            row["smartos.node.dtrace.restarts"]
            for row in found.values()
            if "smartos.node.dtrace.restarts" in row
        )

    waits.until(restarts, "it to be started anew")
    waits.until(lambda: world.poll()[uuid][name] > before, "totals to go on")
