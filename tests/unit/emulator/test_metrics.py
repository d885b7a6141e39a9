# SPDX-License-Identifier: Apache-2.0
"""Counters: exact, seeded, never shrinking, and new when a zone boots."""

import pytest

from smartos_emulator.metrics import kstat, meter
from tests.unit.emulator import metrics_node

NAME = metrics_node.ONE[:30]


@pytest.fixture
def node(tmp_path):
    return metrics_node.Node(tmp_path)


def test_counters_are_the_integral_of_the_load(node):
    node.start(1)
    node.metrics.load(metrics_node.ONE, cpu=0.5, net_rx=1000, disk_write=8192)
    node.clock.seconds += 10
    node.metrics.load(metrics_node.ONE, cpu=2, net_rx=0)
    node.clock.seconds += 3
    misc = node.kstat("zones", NAME).data
    assert misc["nsec_user"] + misc["nsec_sys"] == 11 * 10**9
    assert misc["nsec_sys"] * 100 == 30 * 11 * 10**9
    assert node.kstat("link", "z1_net0").data["rbytes64"] == 10_000
    assert node.kstat("zone_vfs", NAME).data["nwritten"] == 13 * 8192
    assert node.kstat("zone_vfs", NAME).data["writes"] == 13


def test_idle_zones_follow_the_seed(node, tmp_path):
    other = metrics_node.Node(tmp_path / "other")
    stranger = metrics_node.Node(tmp_path / "stranger", seed=8)
    seen = []
    for each in (node, other, stranger):
        each.start(1)
        each.clock.seconds += 1000
        seen.append(each.kstat("zones", NAME).data["nsec_user"])
    assert seen[0] == seen[1] > 0
    assert seen[0] != seen[2]


def test_a_boot_begins_anew(node):
    vm = node.start(1)
    node.clock.seconds += 50
    before = node.kstat("zones", NAME)
    node.halt(vm, 1)
    assert not [each for each in node.metrics.read() if each.data.get("zonename") == vm["uuid"]]
    node.start(2)
    after = node.kstat("zones", NAME)
    assert (before.instance, after.instance) == (1, 2)
    assert after.crtime == after.snaptime == 150 * 10**9
    assert after.data["nsec_user"] == 0 < before.data["nsec_user"]


def test_nothing_shrinks(node):
    """Whatever zones do: what counters are called counters never goes back."""
    gauges = {"usage", "rss", "swap", "nover", "pagedout", "freemem", "size", "currEstab"}
    gauges |= {"nproc", "maxConn", "pagesfree", "nwait", "run_queue", "availrmem"}
    vm = node.start(1, cpu_cap=100)
    last = {}
    for step in range(40):
        if step == 20:
            node.halt(vm, 1)
        if step == 25:
            vm = node.start(2, cpu_cap=100)
        if step % 7 == 3:
            node.metrics.load(metrics_node.ONE, cpu=step % 5, net_tx=step * 100.0, disk_read=step)
        node.clock.seconds += 0.7
        for each in node.metrics.read():
            for name, value in each.data.items():
                key = (each.module, each.instance, each.name, name)
                if isinstance(value, int) and name not in gauges and "avenrun" not in name:
                    assert value >= last.get(key, value), key
                    last[key] = value
            assert each.snaptime == node.metrics.hrtime() >= each.crtime


def test_processors_add_up(node):
    node.start(1)
    node.start(2, metrics_node.TWO)
    for uuid in (metrics_node.ONE, metrics_node.TWO):
        node.metrics.load(uuid, cpu=100)
    node.clock.seconds += 100
    every = [node.kstat("cpu", "sys", number).data for number in range(4)]
    busy = sum(each["cpu_nsec_user"] + each["cpu_nsec_kernel"] for each in every)
    idle = sum(each["cpu_nsec_idle"] for each in every)
    assert abs(busy + idle - 4 * 200 * 10**9) < 100
    # Two greedy zones for 100 of 200 seconds; each alone would fill the machine.
    assert node.kstat("zones", NAME, 1).data["nsec_waitrq"] >= 96 * 100 * 10**9


def test_caps(node):
    vm = node.start(1, cpu_cap=150)
    node.metrics.load(metrics_node.ONE, cpu=3)
    node.clock.seconds += 20
    cap = node.kstat("caps", "cpucaps_zone_1").data
    assert (cap["value"], cap["usage"], cap["maxusage"], cap["above_sec"]) == (150, 150, 150, 20)
    vm["cpu_cap"] = 50
    assert node.kstat("caps", "cpucaps_zone_1").data["usage"] == 50
    del vm["cpu_cap"]
    names = [each.name for each in node.metrics.read() if each.module == "caps"]
    assert names == ["lockedmem_zone_1", "nprocs_zone_1", "swapresv_zone_1"]


def test_memory(node):
    node.start(1)
    node.metrics.load(metrics_node.ONE, memory=300 << 20, swap=64 << 20)
    data = node.kstat("memory_cap", NAME).data
    assert data["rss"] == data["physcap"] == 256 << 20
    assert (data["swap"], data["swapcap"]) == (64 << 20, 512 << 20)
    assert data["pagedout"] == 44 << 20
    assert node.kstat("memory_cap", "global").data["physcap"] == kstat.UINT64_MAX


def test_hvm_guests_hide_their_disks(node):
    node.start(1, brand="bhyve", ram=1024, max_physical_memory=2048, vcpus=2)
    node.metrics.load(metrics_node.ONE, disk_read=1 << 20, cpu=9)
    node.clock.seconds += 8
    assert node.kstat("zone_vfs", NAME).data["nread"] == 0
    assert node.kstat("zone_zfs", NAME).data["nread"] == 8 << 20
    assert node.kstat("memory_cap", NAME).data["rss"] == 1 << 30
    misc = node.kstat("zones", NAME).data
    assert misc["nsec_user"] + misc["nsec_sys"] == 2 * 8 * 10**9


def test_the_physical_link_carries_the_vnics(node):
    vm = node.start(1)
    node.metrics.load(metrics_node.ONE, net_rx=500)
    node.clock.seconds += 4
    assert node.kstat("link", "e1000g1").data["rbytes64"] == 2000
    node.halt(vm, 1)
    node.clock.seconds += 4
    assert node.kstat("link", "e1000g1").data["rbytes64"] == 2000
    assert node.kstat("link", "e1000g0").data["rbytes64"] == 0


def test_short_counters_wrap(node):
    node.start(1)
    node.metrics.load(metrics_node.ONE, net_tx=2**31)
    node.clock.seconds += 3
    data = node.kstat("link", "z1_net0").data
    assert (data["obytes64"], data["obytes"]) == (3 * 2**31, 2**31)


def test_a_load_outlives_the_daemon(node):
    node.metrics.load(metrics_node.ONE, cpu=1)
    again = metrics_node.Node(node.dir)
    again.start(1)
    again.clock.seconds += 5
    data = again.kstat("zones", NAME).data
    assert data["nsec_user"] + data["nsec_sys"] == 5 * 10**9


def test_wrong_loads_are_refused(node):
    with pytest.raises(ValueError, match="no such load: colour"):
        node.metrics.load(metrics_node.ONE, colour=1)
    with pytest.raises(ValueError, match="negative"):
        node.metrics.load(metrics_node.ONE, cpu=-1)


def test_load_averages_settle():
    counts = meter.Meter(0, meter.idle(1, "x") | {"cpu": 2.0, "cpu_wait": 0.0}, cpus=4)
    counts.advance(3600 * meter.NANO)
    assert counts.averages()[0] == 512
    assert counts.averages()[2] == 502
