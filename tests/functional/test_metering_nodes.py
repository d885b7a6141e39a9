# SPDX-License-Identifier: Apache-2.0
"""Several nodes under one agent: none waits for another, and instances move between them."""

import dataclasses
import functools
import json
import pathlib
import sqlite3
import uuid as uuids
from collections.abc import Iterator
from typing import Any

import fixtures
import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from oslo_config import cfg

from ceilometer_plugin import collection, ledger, metering, meters
from ceilometer_plugin import conf as meters_conf
from nova_smartos.translate import identity
from tests import waits
from tests.functional import metered

CPU = ("nsec_user", "nsec_sys")
FAILED = "smartos.node.collections.failed"


class Two(fixtures.Fixture):
    """Two nodes, each as its nova-compute's configuration names it."""

    def __init__(self, directory: pathlib.Path, **options: Any) -> None:
        super().__init__()
        self._directory = directory
        self._options = options

    def _setUp(self) -> None:
        self.nodes = []
        self._files: dict[str, str] = {}
        for name in ("a", "b"):
            folder = self._directory / name
            folder.mkdir()
            world = self.useFixture(metered.Metered(folder, "--speed", "100"))
            world.sources = functools.partial(self._sources, name)
            self.nodes.append(world)
            path = folder / "nova-compute.conf"
            path.write_text(
                f"[DEFAULT]\ncompute_driver = smartos.SmartOSDriver\n[smartos]\n"
                f"tool_path = {world.node.tools}\nspool_directory = {world.spool.directory}\n"
            )
            self._files[name] = str(path)
        self.begin(*self._files)
        self.addCleanup(self._end)
        names = {world.node.facts()["config"]["uuid"] for world in self.nodes}
        waits.until(lambda: names <= self.poll().keys(), "both nodes to answer")

    def _sources(self, name: str) -> list[collection.Source]:
        return [each for each in self.metering._sources if each.place.name == name]

    def _end(self) -> None:
        self.metering.close()

    def begin(self, *names: str) -> None:
        """Start the polling agent's part, with some of the nodes."""
        files = {name: self._files[name] for name in names}
        conf = cfg.ConfigOpts()
        meters_conf.register(conf)
        conf([])
        options = {"nodes": files, "ledger": f"{self._directory}/both", "scripts": []}
        for name, value in {**options, **self._options}.items():
            conf.set_override(name, value, group=meters_conf.GROUP)
        self.metering = metering.Metering(conf)

    def forget(self) -> None:
        """Remove the ledger, which nobody has open."""
        for path in self._directory.glob("both*"):
            path.unlink()

    def accounts(self) -> set[str]:
        """Whom the ledger on the disk knows."""
        self.metering.close()
        book = ledger.Ledger(self._directory / "both")
        found = set(book.accounts)
        book.close()
        return found

    def poll(self) -> dict[str, dict[str, float]]:
        """One cycle over both."""
        cycle = self.metering.cycle()
        found: dict[str, dict[str, float]] = {}
        for meter in meters.METERS:
            for each in cycle.samples(meter):
                found.setdefault(each.resource_id, {})[each.name] = each.volume
        return found


@pytest.fixture
def both(tmp_path: pathlib.Path) -> Iterator[Two]:
    with Two(tmp_path) as both:
        yield both


def test_a_node_that_hangs_delays_no_other_and_loses_nothing(tmp_path: pathlib.Path) -> None:
    with Two(tmp_path, collect_timeout=2) as both:
        first, second = both.nodes
        slow, quick = first.create("slow"), second.create("quick")
        first.load(slow, "cpu=1")
        before = waits.until(
            lambda: {slow, quick} <= (found := both.poll()).keys() and found, "both to be metered"
        )
        directory = str(first.node.directory)
        first.node.command("fault", directory, "add", "kstat", "hang")
        found = both.poll()
        assert quick in found
        assert slow not in found
        failed = [
            row[FAILED] - before[name][FAILED] for name, row in found.items() if FAILED in row
        ]
        assert sorted(failed) == [0, 1]
        first.node.command("fault", directory, "clear")
        waits.until(lambda: slow in both.poll(), "it is back")
        now = first.leave(slow)
        assert both.poll()[slow]["cpu"] >= metered.used(now, "zones", *CPU) > before[slow]["cpu"]


def test_a_node_that_speaks_nonsense_stops_no_other(both: Two) -> None:
    first, second = both.nodes
    there = second.create("quick")
    directory = str(first.node.directory)
    words = ("--status", "0", "--stdout", "[{}]")
    first.node.command("fault", directory, "add", "kstat", "fail", *words)
    found = both.poll()
    assert there in found
    assert sorted(row[FAILED] for row in found.values() if FAILED in row) == [0, 1]


def test_a_mark_that_lacks_something_stops_no_other(
    both: Two, caplog: pytest.LogCaptureFixture
) -> None:
    (first, _) = both.nodes
    told = json.loads(metered.mark("odd")[identity.KEY])
    del told["flavor"]["ram"]
    odd = first.create("odd", heard=False, internal_metadata={identity.KEY: json.dumps(told)})
    there = first.create("even")
    found = waits.until(lambda: (again := both.poll()) and there in again and again, "the other")
    assert "cpu" in found[there]
    assert odd not in found
    assert [each for each in caplog.messages if odd in each and "ram" in each]


def test_an_instance_that_moves_keeps_its_total(both: Two) -> None:
    first, second = both.nodes
    uuid = str(uuids.uuid4())
    first.create("web", uuid=uuid)
    first.load(uuid, "cpu=1")
    before = both.poll()[uuid]["cpu"]
    there = first.leave(uuid, "migration")
    first.delete(uuid)
    second.create("web", uuid=uuid)
    second.load(uuid, "cpu=1")
    here = second.leave(uuid, "deletion")
    second.delete(uuid)
    total = both.poll()[uuid]["cpu"]
    assert total == sum(metered.used(each, "zones", *CPU) for each in (there, here)) > before


def test_a_resized_instance_has_the_flavor_of_the_node_that_it_is_on(both: Two) -> None:
    first, second = both.nodes
    uuid = str(uuids.uuid4())
    mark = json.loads(metered.mark("web")[identity.KEY])
    mark["flavor"] |= {"vcpus": 8, "name": "big"}
    new = {identity.KEY: json.dumps(mark)}
    moved = {identity.MOVED: json.dumps({"migration": "m", "host": "h"})}
    first.create("web", uuid=uuid, internal_metadata=new)
    waits.until(lambda: both.poll().get(uuid, {}).get("vcpus") == 8, "it to be metered")

    def told() -> tuple[float, str]:
        cycle = both.metering.cycle()
        (size,) = [
            each for each in cycle.samples(meters.BY_NAME["vcpus"]) if each.resource_id == uuid
        ]
        return size.volume, size.resource_metadata["instance_type"]

    # the node that is read last has what it was, until Nova's user confirms
    second.create("web", uuid=uuid, internal_metadata=metered.mark("web") | moved)
    second.leave(uuid, "stop")
    second.gz.vmadm.stop(uuid, force=True)
    assert told() == (8, "big")
    first.gz.vmadm.stop(uuid, force=True)
    waits.until(lambda: both.poll()[uuid]["power.state"] == 5, "both to be down")
    assert told() == (8, "big")
    # nor does a node that does not answer change it back
    directory = str(first.node.directory)
    first.node.command("fault", directory, "add", "kstat", "fail")
    assert uuid not in both.poll()
    first.node.command("fault", directory, "clear")
    assert told() == (8, "big")


def test_a_node_that_is_taken_out_and_comes_back_keeps_its_totals(
    both: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = both.nodes
    there, stays = first.create("there"), second.create("stays")
    first.load(there, "cpu=1")
    waits.until(lambda: {there, stays} <= both.poll().keys(), "both to be metered")
    before = both.poll()[there]["cpu"]
    both.metering.close()
    both.begin("b")
    for _ in range(2):
        found = both.poll()
        # it may well live, so nobody tells that it is gone
        assert stays in found and there not in found
    both.metering.close()
    both.begin("a", "b")
    found = waits.until(lambda: (again := both.poll()) and there in again and again, "it is back")
    assert found[there]["smartos.metering.gap"] == 0
    now = first.leave(there)
    total = both.poll()[there]["cpu"]
    assert total >= metered.used(now, "zones", *CPU) > before

    monkeypatch.setattr(metering, "_FORGET_NS", 0)
    both.metering.close()
    both.begin("b")
    both.poll()
    assert both.accounts() == {stays}


def test_a_full_disk_under_the_ledger_gives_no_samples_and_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        world.poll()
        uuid = world.create("web")
        world.load(uuid, "cpu=1")
        commit = ledger.Ledger.commit

        def full(*arguments: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(ledger.Ledger, "commit", full)
        last = world.leave(uuid, "stop")
        world.gz.vmadm.stop(uuid, force=True)
        assert not [resource for resource in world.poll() if uuid in resource]
        assert "database or disk is full" in caplog.text
        assert len(list(world.spool.readings())) == 1
        monkeypatch.setattr(ledger.Ledger, "commit", commit)
        found = world.poll()
        assert found[uuid]["cpu"] == metered.used(last, "zones", *CPU)
        (failed,) = [row["smartos.node.ledger.failed"] for row in found.values() if FAILED in row]
        assert failed == 1
        assert not list(world.spool.readings())


def test_failed_final_readings_are_a_meter(tmp_path: pathlib.Path) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        world.poll()
        uuid = world.create("web")
        reading = world.leave(uuid)
        world.spool.put(dataclasses.replace(reading, id="9.json", failed=3))
        world.poll()
        rows = [row for row in world.poll().values() if FAILED in row]
        assert [row["smartos.node.readings.failed"] for row in rows] == [3]


def test_what_is_no_reading_is_counted_once(tmp_path: pathlib.Path) -> None:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        world.poll()
        world.leave(world.create("web"))
        (world.spool.directory / "1.json").write_text("{")

        def failed() -> float:
            rows = [row for row in world.poll().values() if FAILED in row]
            return rows[0]["smartos.node.readings.failed"]

        assert [failed(), failed()] == [1, 1]
        (world.spool.directory / "2.json").write_text("[]")
        assert failed() == 2
        # nor anew after a restart
        world.metering.close()
        world.begin()
        assert failed() == 2
        assert sorted(path.name for path in world.spool.directory.iterdir()) == ["1.json", "2.json"]
