# SPDX-License-Identifier: Apache-2.0
"""What D scripts count on a node: within the stated bound of the truth, and audited by kstat."""

import ctypes.util
import pathlib
from collections.abc import Iterator

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from oslo_config import cfg

from ceilometer_plugin import conf as meters_conf
from nova_smartos import conf as smartos_conf
from nova_smartos import readings
from tests import waits
from tests.functional import metered

# what a guest that does nothing is loaded with
AT_REST = (
    *("disk_write=0", "disk_write_ops=0", "disk_read=0", "disk_read_ops=0"),
    *("net_rx=0", "net_tx=0", "net_rx_packets=0", "net_tx_packets=0"),
)
_HEADERS = 34


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[metered.Metered]:
    # polls follow one another faster than frames: the last samples must wait for one
    options = {"scripts": meters_conf.DEFAULT_SCRIPTS, "dtrace_period": 5, "final_cycles": 10**6}
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
    has = {name, "smartos.network.external.incoming.bytes"}
    # on a busy machine frames of a fast node may be too old for a sample
    web = waits.until(
        lambda: has <= (now := world.poll()[uuid]).keys() and now, "a frame that is young"
    )
    below = [web[f"smartos.disk.read.below.{16 * 8**n}us"] for n in range(7)]
    assert below == sorted(below)
    assert 0 < below[-1] <= web[name]
    assert "smartos.syscalls" not in web
    # at rest, both have counted the same: the zone is younger than the consumer
    world.load(uuid, *AT_REST)
    truth = "smartos.disk.physical.reads"
    waits.until(lambda: (now := world.poll()[uuid]).get(name) == now[truth], "DTrace to agree")
    packets, size = (f"network.incoming.{what}" for what in ("packets", "bytes"))

    def agree() -> bool:
        found = world.poll()
        web, wire = found[uuid], found[f"instance-web-{uuid}-net0"]
        seen = [
            (web[f"smartos.network.{way}.incoming.packets"],
             web[f"smartos.network.{way}.incoming.bytes"])
            for way in ("internal", "external", "ipv6")
            if f"smartos.network.{way}.incoming.bytes" in web
        ]  # fmt: skip
        # a frame has an Ethernet header, and here one of IP for each packet, that IP does not count
        told = (wire[packets], wire[size] - _HEADERS * wire[packets])
        return len(seen) == 3 and told[0] > 0 and told == tuple(map(sum, zip(*seen, strict=True)))

    waits.until(agree, "DTrace to have seen what the link has")


def test_what_a_guest_did_until_it_was_deleted_is_in_its_total(world: metered.Metered) -> None:
    name, truth = "smartos.disk.read.operations", "smartos.disk.physical.reads"
    polled = world.create("polled")
    waits.until(lambda: name in world.poll().get(polled, {}), "a frame of it")
    brief = world.create("brief")
    for uuid in (polled, brief):
        world.load(uuid, "disk_read_ops=2000")
    # of frames that nobody polls
    waits.until(lambda: _used(world, brief, "zone_zfs", "reads") > 5000, "many reads")
    for uuid in (polled, brief):
        world.load(uuid, *AT_REST)
        world.leave(uuid, readings.DELETION)
        world.gz.vmadm.delete(uuid)
    left = {polled, brief}

    def agree() -> bool:
        found = world.poll()
        rows = {uuid: found[uuid] for uuid in left & found.keys()}
        left.difference_update(uuid for uuid, row in rows.items() if row.get(name) == row[truth])
        return not left

    waits.until(agree, "DTrace to agree, in one of the last samples")


def test_where_both_count_the_ratio_is_one(world: metered.Metered) -> None:
    uuid = world.create("web", nics=[world.nic()])
    world.poll()
    world.load(uuid, "disk_delays=2000", "tcp_retransmits=500")
    names = {"smartos.audit.throttle", "smartos.audit.retransmits"}

    def told() -> list[float]:
        found = world.poll()
        if found[uuid].get("smartos.tcp.retransmits", 0) < 5000:
            return []
        return [row[name] for row in found.values() for name in names & row.keys()]

    # one side is read a frame before the other
    waits.until(
        lambda: len(ratios := told()) == 2 and all(abs(each - 1) < 0.05 for each in ratios),
        "DTrace and kstat to agree",
    )


def test_a_probe_that_a_platform_lacks_is_no_zero(tmp_path: pathlib.Path) -> None:
    options = {"scripts": ["zone_io", "zone_throttle"], "dtrace_period": 1}
    lacks = ("--no-probe", "sdt:::zfs-zone-latency")
    with metered.Metered(tmp_path, "--speed", "20", *lacks, **options) as world:
        world.poll()
        uuid = world.create("web")
        has = "smartos.zfs.throttle.below.16us"
        waits.until(lambda: has in world.poll()[uuid], "the other script tells")
        assert "smartos.disk.read.operations" not in world.poll()[uuid]


def test_libdtrace_that_is_not_there_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    options = {"scripts": ["zone_io"], "consumer": meters_conf.LIBRARY}
    with metered.Metered(tmp_path, "--speed", "20", **options) as world:
        world.poll()
        uuid = world.create("web")
        before = _told(world, "smartos.node.dtrace.down")
        waits.until(lambda: "libdtrace" in caplog.text, "the log to tell")
        assert _told(world, "smartos.node.dtrace.down") > before
        found = world.poll()[uuid]
        assert "cpu" in found and "smartos.disk.read.operations" not in found


def test_libdtrace_counts_on_no_other_machine() -> None:
    conf = cfg.ConfigOpts()
    meters_conf.register(conf)
    conf([])
    conf.set_override("node_address", "192.0.2.7", group=smartos_conf.GROUP)
    assert not meters_conf.places(conf)[0].local
    conf.set_override("consumer", meters_conf.LIBRARY, group=meters_conf.GROUP)
    with pytest.raises(cfg.Error, match=r"not on 192\.0\.2\.7"):
        meters_conf.places(conf)


def test_what_dtrace_loses_is_a_meter_and_marks_its_samples(world: metered.Metered) -> None:
    uuid = world.create("web")
    name = "smartos.disk.read.operations"
    waits.until(lambda: name in world.poll()[uuid], "a frame of it")
    text = "dtrace: 12 aggregation drops on CPU 0\n"
    directory = str(world.node.directory)
    world.node.command("fault", directory, "add", "dtrace", "say", "--stderr", text)

    def is_marked() -> bool:
        found = world.samples()
        marked = [
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
        return any(each.startswith("drops:") for each in marked)

    waits.until(is_marked, "the samples are marked")
    assert _told(world, "smartos.node.dtrace.drops") >= 12


def test_what_dtrace_loses_while_its_node_is_away_marks_the_samples_after(
    world: metered.Metered,
) -> None:
    uuid = world.create("web")
    name = "smartos.disk.read.operations"
    waits.until(lambda: name in world.poll()[uuid], "a frame of it")
    assert _qualities(world, uuid, name) <= {"exact", "partial"}
    directory = str(world.node.directory)
    world.node.command("fault", directory, "add", "kstat", "fail")
    assert uuid not in world.poll()
    text = "dtrace: 12 aggregation drops on CPU 0\n"
    world.node.command(
        *("fault", directory, "add", "dtrace", "say", "--stderr", text, "--count", "1")
    )
    (source,) = world.metering._sources
    assert source.dtrace is not None
    waits.until(lambda: sum(source.dtrace.drops.values()) and uuid not in world.poll(), "a drop")
    world.node.command("fault", directory, "clear")
    found = waits.until(lambda: _qualities(world, uuid, name), "the node to be back")
    assert found == {"drops:12"}
    assert _told(world, "smartos.node.dtrace.drops") == 12
    waits.until(lambda: _qualities(world, uuid, name) == {"exact"}, "what is lost once to be told")


def test_a_consumer_that_dies_is_started_anew_and_totals_go_on(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.load(uuid, "disk_read_ops=2000")
    name = "smartos.disk.read.operations"
    before = waits.until(
        lambda: (now := world.poll()[uuid].get(name, 0)) > 1000 and now, "many reads are counted"
    )

    def told(what: str) -> float:
        found = world.poll()
        assert found[uuid].get(name, before) >= before
        return next(row[what] for row in found.values() if what in row)

    down = told("smartos.node.dtrace.down")
    waits.until(lambda: _qualities(world, uuid, name) == {"exact"}, "its start to be told")
    directory = str(world.node.directory)
    world.node.command("fault", directory, "add", "dtrace", "die", "--count", "1")
    waits.until(lambda: told("smartos.node.dtrace.restarts"), "it to be started anew")
    # a second is the shortest pause before it is started anew
    waits.until(lambda: told("smartos.node.dtrace.down") >= down + 10**9, "that to be told")
    waits.until(
        lambda: any(each.startswith("gap:") for each in _qualities(world, uuid, name)),
        "a sample that is marked",
    )
    waits.until(lambda: world.poll()[uuid].get(name, 0) > before, "totals to go on")


def test_what_a_guest_wrote_until_it_rebooted_by_itself_is_in_its_total(
    tmp_path: pathlib.Path,
) -> None:
    options = {"scripts": ["zone_final"], "dtrace_period": 5}
    with metered.Metered(tmp_path, "--speed", "20", **options) as world:
        world.poll()
        uuid = world.create("web")
        world.load(uuid, "disk_write=20000000", "disk_write_ops=2000")
        root, name = f"{uuid}-root", "disk.device.write.bytes"
        first = world.poll()[root][name]
        waits.until(lambda: _probes_run(world), "the consumer to run")
        waits.until(lambda: _written(world, uuid) > first, "it to write more")
        world.load(uuid, *AT_REST)
        # no reading of ours, and none of the driver's
        truth = _written(world, uuid)
        world.gz.vmadm.reboot(uuid)
        waits.until(lambda: world.poll()[root][name] >= truth, "its end to be told")
        found = world.poll()
        assert found[root][name] == truth + _written(world, uuid)
        assert found[uuid]["smartos.metering.gap"] > 0
        assert found[uuid]["smartos.metering.anomalies"] == 0


def _written(world: metered.Metered, uuid: str) -> int:
    """What the node's kernel has counted."""
    return _used(world, uuid, "zone_vfs", "nwritten")


def _used(world: metered.Metered, uuid: str, module: str, statistic: str) -> int:
    return metered.used(readings.read(world.gz, world.vm(uuid), "look"), module, statistic)


def _told(world: metered.Metered, name: str) -> float:
    """What the node's own meter says."""
    (found,) = [row[name] for row in world.poll().values() if name in row]
    return found


def _qualities(world: metered.Metered, uuid: str, name: str) -> set[str]:
    """One cycle: how good the samples of a meter are."""
    return {
        each.resource_metadata["quality"]
        for each in world.samples()
        if (each.resource_id, each.name) == (uuid, name)
    }


def _probes_run(world: metered.Metered) -> bool:
    (source,) = world.metering._sources
    return source.dtrace is not None and source.dtrace.failure is None
