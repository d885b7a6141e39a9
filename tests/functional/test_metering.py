# SPDX-License-Identifier: Apache-2.0
"""Meters of an emulated node: exact through everything that happens to a zone and to the agent."""

import io
import json
import pathlib
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from oslo_utils import timeutils

from ceilometer_plugin import samples
from ceilometer_plugin.cmd import meter
from nova_smartos import readings
from nova_smartos.translate import identity
from tests import waits
from tests.functional import metered

CPU = ("nsec_user", "nsec_sys")


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[metered.Metered]:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        world.poll()
        yield world


def test_a_guest_has_ceilometers_meters(world: metered.Metered) -> None:
    nic = world.nic()
    port = {f"nova:port:{nic['mac']}": metered.PORT}
    uuid = world.create("web", nics=[nic], internal_metadata={**metered.mark("web"), **port})
    world.load(uuid, "cpu=1", "net_rx=1000000")
    world.poll()
    found = world.poll()
    web = found[uuid]
    assert web["cpu"] > 0
    assert (web["vcpus"], web["memory"], web["disk.root.size"], web["power.state"]) == (1, 64, 1, 1)
    assert 0 < web["memory.usage"] <= web["memory.available"] == 64
    # what datasets take is asked beside the cycles
    disk = f"{uuid}-root"
    waits.until(lambda: "disk.device.capacity" in world.poll()[disk], "its disk is looked at")
    disk = world.poll()[disk]
    assert disk["disk.device.capacity"] == 2**30
    assert 0 < disk["disk.device.usage"] <= disk["disk.device.allocation"]
    assert disk["disk.device.write.bytes"] > 0
    wire = found[f"instance-web-{uuid}-tap{metered.PORT[:11]}"]
    assert wire["network.incoming.bytes"] > wire["network.incoming.bytes.delta"] > 0
    assert wire["network.incoming.bytes.rate"] > 0
    told = world.metadata("cpu")[uuid]
    assert (told["display_name"], told["flavor"]["name"], told["quality"]) == (
        "web", "tiny", "exact"
    )  # fmt: skip
    assert told["cpu_number"] == 1
    assert "cpu_number" not in world.metadata("memory.usage")[uuid]


def test_vms_that_are_not_novas_have_no_meters(world: metered.Metered) -> None:
    theirs = world.create("theirs", ours=False)
    ours = world.create("ours")
    found = world.poll()
    assert ours in found
    assert not [resource for resource in found if theirs in resource]


def test_a_final_reading_makes_a_reboot_exact(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.load(uuid, "cpu=1")
    world.poll()
    last = world.leave(uuid, "reboot")
    world.gz.vmadm.reboot(uuid)
    now = world.leave(uuid)
    found = world.poll()
    truth = metered.used(last, "zones", *CPU)
    assert found[uuid]["cpu"] >= truth + metered.used(now, "zones", *CPU)
    world.gz.vmadm.stop(uuid, force=True)
    waits.until(lambda: world.poll()[uuid]["power.state"] == 5, "the VM shows as shut off")
    assert not list(world.spool.readings())


def test_totals_are_exact_to_the_nanosecond_and_the_byte(world: metered.Metered) -> None:
    uuid = world.create("web", nics=[world.nic()])
    world.load(uuid, "cpu=1", "net_rx=1000000", "disk_write=1000000")
    boots = []
    for reason in ("reboot", "stop"):
        world.poll()
        boots.append(world.leave(uuid, reason))
        world.gz.vmadm.stop(uuid, force=True)
        world.gz.vmadm.start(uuid)
    boots.append(world.leave(uuid, "deletion"))
    world.delete(uuid)
    found = world.poll()
    assert found[uuid]["cpu"] == sum(metered.used(boot, "zones", *CPU) for boot in boots)
    wire = found[f"instance-web-{uuid}-net0"]
    assert wire["network.incoming.bytes"] == sum(
        metered.used(boot, "link", "rbytes64") for boot in boots
    )
    written = sum(metered.used(boot, "zone_vfs", "nwritten") for boot in boots)
    assert found[f"{uuid}-root"]["disk.device.write.bytes"] == written


def test_an_instance_that_lived_between_two_polls_is_metered(world: metered.Metered) -> None:
    uuid = world.create("brief")
    world.load(uuid, "cpu=1")
    last = world.leave(uuid, "deletion")
    world.delete(uuid)
    found = world.poll()
    assert found[uuid]["cpu"] == metered.used(last, "zones", *CPU)
    assert "power.state" not in found[uuid]


def test_a_stopped_one_that_goes_is_not_told_of_an_earlier_moment(world: metered.Metered) -> None:
    uuid = world.create("idle")
    world.load(uuid, "cpu=1")
    world.leave(uuid)
    world.gz.vmadm.stop(uuid, force=True)
    before = [each.timestamp for each in world.samples() if each.resource_id == uuid]
    world.delete(uuid)
    after = [each.timestamp for each in world.samples() if each.resource_id == uuid]
    assert after
    assert max(before) <= min(after)


def test_the_first_sample_of_a_total_comes_with_a_zero(world: metered.Metered) -> None:
    uuid = world.create("brief")
    world.load(uuid, "cpu=1")
    last = world.leave(uuid, "deletion")
    world.delete(uuid)
    given = [
        [each for each in world.samples() if (each.name, each.resource_id) == ("cpu", uuid)]
        for _ in range(2)
    ]
    used = metered.used(last, "zones", *CPU)
    assert [[each.volume for each in cycle] for cycle in given] == [[0, used], [used]]
    born, now = (timeutils.parse_isotime(each.timestamp) for each in given[0])
    assert born < now
    assert given[1][0].timestamp == given[0][1].timestamp
    assert {each.project_id for cycle in given for each in cycle} == {metered.PROJECT}


def test_a_first_sample_that_a_crash_has_swallowed_is_given_again(world: metered.Metered) -> None:
    """The agent dies with its samples, after they were made durable and before they are out."""
    uuid = world.create("brief")
    world.load(uuid, "cpu=1")

    def given() -> list[tuple[float, str]]:
        ours = [each for each in world.samples() if (each.name, each.resource_id) == ("cpu", uuid)]
        return [(each.volume, each.timestamp) for each in ours]

    lost = given()
    world.metering.close()
    world.begin()
    again, later = given(), given()
    # of the same moment, so that it does no harm where the first got out after all
    assert again[0] == lost[0] and again[0][0] == 0
    assert lost[1][0] < again[1][0] < later[0][0]
    assert len(later) == 1


def test_after_a_long_time_the_last_total_is_told_again(
    world: metered.Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a moment before the new one: Gnocchi counts no growth over an hour without samples."""
    uuid = world.create("away")
    world.load(uuid, "cpu=1")

    def cpu() -> list[samples.Sample]:
        return [each for each in world.samples() if (each.name, each.resource_id) == ("cpu", uuid)]

    cpu()
    before = cpu()
    assert len(before) == 1
    monkeypatch.setattr(samples, "LONG_NS", 0)
    world.metering.close()
    world.begin()
    old, new = cpu()
    assert old.volume == before[0].volume < new.volume
    passed = timeutils.parse_isotime(new.timestamp) - timeutils.parse_isotime(old.timestamp)
    assert passed.total_seconds() == 1e-6


def test_the_last_samples_of_a_deleted_instance_end(world: metered.Metered) -> None:
    uuid = world.create("brief")
    world.poll()
    world.delete(uuid)
    given = [uuid in world.poll() for _ in range(5)]
    assert given == [True, True, True, False, False]


def test_an_agent_that_was_killed_goes_on_where_it_was(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.load(uuid, "cpu=1")
    before = world.poll()[uuid]["cpu"]
    world.metering.close()
    world.leave(uuid, "reboot")
    world.gz.vmadm.reboot(uuid)
    world.begin()
    after = world.poll()[uuid]["cpu"]
    assert after > before


def test_a_reboot_that_nobody_saw_is_a_gap(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.poll()
    assert world.poll()[uuid]["smartos.metering.gap"] == 0
    world.gz.vmadm.reboot(uuid)
    found = world.poll()[uuid]
    assert found["smartos.metering.gap"] > 0


def test_a_deletion_with_a_final_reading_leaves_no_gap(world: metered.Metered) -> None:
    uuid = world.create("web")
    world.poll()
    world.leave(uuid, readings.DELETION)
    world.delete(uuid)
    last = [each for each in world.samples() if each.resource_id == uuid]
    assert {each.volume for each in last if each.name == "smartos.metering.gap"} == {0}
    assert {each.resource_metadata["quality"] for each in last} == {"exact"}


def test_a_rescued_guest_has_its_traffic_once(world: metered.Metered) -> None:
    uuid = world.create("web", nics=[world.nic()])
    world.load(uuid, "net_rx=1000000")
    marks = {**metered.mark("web"), **identity.stand_in_mark(uuid)}
    world.create("stand-in", internal_metadata=marks, autoboot=False)
    wire = f"instance-web-{uuid}-net0"
    name = "network.incoming.bytes"
    world.poll()
    before = world.poll()[wire][name]
    now = waits.until(
        lambda: (found := world.poll()[wire])[name] > before and found, "something to come in"
    )
    assert now[f"{name}.delta"] > 0
    assert now[f"{name}.rate"] > 0


def test_what_ran_before_the_ledger_counts_from_its_first_reading(tmp_path: pathlib.Path) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        uuid = world.create("old")
        world.load(uuid, "cpu=1")
        first = world.poll()[uuid]["cpu"]
        assert first == 0
        assert world.poll()[uuid]["cpu"] > 0
        assert world.metadata("cpu")[uuid]["quality"] == "partial"


def test_a_final_reading_of_what_ran_before_the_ledger_bills_nothing(
    tmp_path: pathlib.Path,
) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        uuid = world.create("old")
        world.load(uuid, "cpu=1")
        first = world.leave(uuid)
        last = world.leave(uuid, readings.DELETION)
        world.delete(uuid)
        found = world.poll()[uuid]
        # from its first reading on it counts, as if a poll had read it
        used = metered.used(last, "zones", *CPU) - metered.used(first, "zones", *CPU)
        assert found["cpu"] == used > 0
        assert world.metadata("cpu")[uuid]["quality"] == "partial"


def test_a_final_reading_of_a_node_that_no_poll_has_reached_counts_whole(
    tmp_path: pathlib.Path,
) -> None:
    with metered.Metered(tmp_path, "--speed", "1") as world:
        directory = str(world.node.directory)
        world.node.command("fault", directory, "add", "kstat", "fail")
        world.poll()
        world.node.command("fault", directory, "clear")
        uuid = world.create("brief")
        last = world.leave(uuid, readings.DELETION)
        world.delete(uuid)
        assert world.poll()[uuid]["cpu"] == metered.used(last, "zones", *CPU) > 0


def test_a_final_reading_of_a_boot_that_no_poll_has_seen_counts_whole(
    tmp_path: pathlib.Path,
) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        early = world.create("early")

        def at() -> int:
            return readings.read(world.gz, world.vm(early), "look").kstats[0].snaptime_ns

        # the next boot will have been up for less when its guest begins
        waits.until(lambda: at() > 300 * 10**9, "the node to have run for a while")
        world.poll()
        uuid = world.create("web", autoboot=True)
        world.poll()
        before = world.leave(uuid)
        world.node.command("reboot", str(world.node.directory))
        waits.until(lambda: world.vm(uuid).state == "running", "the node to be up again")
        last = world.leave(uuid, readings.DELETION)
        assert last.kstats[0].crtime_ns < 300 * 10**9
        world.delete(uuid)
        used = [metered.used(each, "zones", *CPU) for each in (before, last)]
        assert world.poll()[uuid]["cpu"] == sum(used)
        assert world.metadata("cpu").get(uuid, {}).get("quality", "exact") == "exact"


def test_the_root_disk_is_the_flavors_whatever_the_ephemeral_one_is(
    world: metered.Metered,
) -> None:
    mark = json.loads(metered.mark("web")[identity.KEY])
    mark["flavor"] |= {"disk": 10, "ephemeral": 20}
    uuid = world.create("web", internal_metadata={identity.KEY: json.dumps(mark)})
    found = world.poll()[uuid]
    assert (found["disk.root.size"], found["disk.ephemeral.size"]) == (10, 20)
    assert world.metadata("vcpus")[uuid]["root_gb"] == 10


def test_tcp_is_metered_by_zone(world: metered.Metered) -> None:
    uuid = world.create("web", nics=[world.nic()])
    world.load(uuid, "tcp_retransmits=500")
    name = "smartos.tcp.retransmits"
    waits.until(lambda: world.poll()[uuid].get(name, 0) > 0, "retransmits")
    last = world.leave(uuid, readings.DELETION)
    world.delete(uuid)
    assert world.poll()[uuid][name] == metered.used(last, "tcp", "retransSegs")


# smartos-meter


@pytest.fixture
def agent_conf(world: metered.Metered, tmp_path: pathlib.Path) -> str:
    path = tmp_path / "agent.conf"
    path.write_text(f"[smartos]\ntool_path = {world.node.tools}\n")
    return str(path)


def test_a_terminal_shows_what_guests_do(
    world: metered.Metered, agent_conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    busy, idle = world.create("busy"), world.create("idle")
    world.load(busy, "cpu=1")
    argv = ["--config-file", agent_conf, "--once", "--interval", "0.5"]
    assert meter.main(argv) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["INSTANCE", "STATE", "CPU"]
    assert (first.split()[:2], second.split()[:2]) == (["busy", "running"], ["idle", "running"])
    assert float(first.split()[2]) > float(second.split()[2])
    assert meter.main([*argv, "idle"]) == 0
    assert "busy" not in capsys.readouterr().out
    assert meter.main(["--config-file", agent_conf, "--json", idle]) == 0
    rows = {row["meter"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cpu"]["volume"] > 0
    assert (rows["memory"]["volume"], rows["memory"]["unit"]) == (64, "MiB")
    assert list(world.spool.readings()) == []


class Terminal(io.StringIO):
    """Somebody who looks at two tables, and presses Ctrl-C."""

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        if self.getvalue().count("INSTANCE") == 2:
            raise KeyboardInterrupt


def test_a_terminal_shows_it_again_and_again(
    world: metered.Metered, agent_conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create("web")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert meter.main(["--config-file", agent_conf, "--interval", "0.1"]) == 0
    blank, *tables = terminal.getvalue().split("\x1b[H\x1b[2J")
    assert blank == ""
    assert [table.splitlines()[1].split()[:2] for table in tables] == [["web", "running"]] * 2


def test_an_instance_that_is_not_there_is_said(
    agent_conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert meter.main(["--config-file", agent_conf, "--once", "nobody"]) == 1
    assert "no instance nobody" in capsys.readouterr().err


def test_a_reading_that_cannot_be_removed_is_said_and_counts_once(
    world: metered.Metered, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uuid = world.create("web")
    world.load(uuid, "cpu=1")
    last = world.leave(uuid)
    world.gz.vmadm.stop(uuid, force=True)

    def refuse(spool: readings.Spool, reading: readings.Reading) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(readings.Spool, "remove", refuse)
    for _ in range(2):
        assert world.poll()[uuid]["cpu"] == metered.used(last, "zones", *CPU)
    assert f"{last.id} cannot be removed" in caplog.text


def test_dtrace_is_waited_for(
    world: metered.Metered, agent_conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.create("web")
    argv = ["--config-file", agent_conf, "--interval", "0.2", "--dtrace"]
    assert meter.main([*argv, "--json"]) == 0
    told = {row["meter"] for row in json.loads(capsys.readouterr().out)}
    assert {"cpu", "smartos.disk.read.operations"} <= told
    with pytest.raises(SystemExit):
        meter.main(argv)
    assert "--dtrace needs --json" in capsys.readouterr().err
