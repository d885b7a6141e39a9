# SPDX-License-Identifier: Apache-2.0
"""Unmodified Ceilometer: its polling agent, its bus and its notification agent, in this process."""

import collections
import json
import pathlib
import re
import socket
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import fixtures
import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ceilometer import messaging, notification, service
    from ceilometer.polling import manager, prom_exporter

from ceilometer_plugin import meters
from tests import openstack, waits
from tests.functional import metered

pytestmark = openstack.QUIET

LABEL = re.compile(r'(\w+)="([^"]*)"')
POLLING = """
sources:
  - name: smartos
    interval: 60
    meters: ["*"]
"""
PIPELINE = """
sources:
  - name: all
    meters: ["*"]
    sinks: [file]
sinks:
  - name: file
    publishers: ["file://{path}?json"]
"""


# a batch must hold all samples of a meter, where they are exported
CONFIGURATION = """
[DEFAULT]
transport_url = fake://
pipeline_cfg_file = {directory}/pipeline.yaml
[notification]
pipelines = meter
[polling]
cfg_file = {directory}/polling.yaml
pollsters_definitions_dirs =
batch_size = 10000
enable_prometheus_exporter = true
prometheus_listen_addresses = 127.0.0.1:{port}
[smartos]
tool_path = {tools}
spool_directory = {directory}/spool
[smartos_meters]
ledger = {directory}/agents-ledger.sqlite
scripts =
"""


class Ceilometer(fixtures.Fixture):
    """Both agents, and what comes out of them."""

    def __init__(self, world: metered.Metered, directory: pathlib.Path) -> None:
        super().__init__()
        self._world = world
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._published = directory / "samples"

    def _setUp(self) -> None:
        (self._directory / "polling.yaml").write_text(POLLING)
        (self._directory / "pipeline.yaml").write_text(PIPELINE.format(path=self._published))
        configuration = CONFIGURATION.format(
            directory=self._directory, port=self._port, tools=self._world.node.tools
        )
        (self._directory / "ceilometer.conf").write_text(configuration)
        conf = service.prepare_service([], [str(self._directory / "ceilometer.conf")])
        messaging.setup()
        listening = notification.NotificationService(0, conf)
        listening.run()
        self.addCleanup(listening.terminate)
        self.addCleanup(messaging.TRANSPORTS.clear)
        self.agent = manager.AgentManager(0, conf, ["smartos"])
        self.addCleanup(self._end)
        (self._task,) = manager.AgentManager.setup_polling_tasks(self._prepared()).values()

    def _prepared(self) -> manager.AgentManager:
        self.agent.polling_manager = manager.PollingManager(self.agent.conf)
        return self.agent

    def _end(self) -> None:
        for each in self.agent.discoveries:
            each.obj._metering.close()

    def poll(self) -> None:
        """One cycle of the agent."""
        self._task.poll_and_notify()

    def cpu(self) -> dict[str, dict[str, str]]:
        """What is exported of a meter after another cycle."""
        self.poll()
        return self.scraped()["ceilometer_cpu"]

    def scraped(self) -> dict[str, dict[str, dict[str, str]]]:
        """What Prometheus would read: by metric and resource, the labels and the value."""
        address = f"http://127.0.0.1:{self._port}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
        found: dict[str, dict[str, dict[str, str]]] = collections.defaultdict(dict)
        for line in text.splitlines():
            if line.startswith("ceilometer_"):
                name, _, rest = line.partition("{")
                labels, _, value = rest.rpartition("} ")
                told = {"value": value} | dict(LABEL.findall(labels))
                found[name][told["resource"]] = told
        return found

    def published(self, name: str, resource: str) -> list[dict[str, Any]]:
        """What has come through of one meter and resource, in the order of its times."""
        if not self._published.exists():
            return []
        lines = self._published.read_text().splitlines()
        found = [json.loads(line) for line in lines]
        ours = [each for each in found if (each["name"], each["resource_id"]) == (name, resource)]
        return sorted(ours, key=lambda each: str(each["timestamp"]))

    def wait(self, name: str, resource: str, count: int) -> list[dict[str, Any]]:
        """The same, once there are so many."""
        waits.until(
            lambda: len(self.published(name, resource)) >= count, f"{count} samples of {name}"
        )
        return self.published(name, resource)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[metered.Metered]:
    with metered.Metered(tmp_path, "--speed", "100") as world:
        yield world


def test_the_agent_has_a_pollster_a_meter() -> None:
    conf = service.prepare_service([], [])
    conf.set_override("enable_notifications", False, group="polling")
    agent = manager.AgentManager(0, conf, ["smartos"])
    assert sorted(each.name for each in agent.extensions) == sorted(meters.BY_NAME)


def test_the_published_total_is_the_truth_through_a_reboot_and_a_deletion(
    world: metered.Metered, tmp_path: pathlib.Path
) -> None:
    with Ceilometer(world, tmp_path) as ceilometer:
        ceilometer.poll()
        uuid = world.create("web")
        world.load(uuid, "cpu=1")
        ceilometer.poll()
        boots = [world.leave(uuid, "reboot")]
        world.gz.vmadm.reboot(uuid)
        ceilometer.poll()
        boots.append(world.leave(uuid, "deletion"))
        world.gz.vmadm.delete(uuid)
        ceilometer.poll()
        truth = sum(metered.used(boot, "zones", "nsec_user", "nsec_sys") for boot in boots)
        found = ceilometer.wait("cpu", uuid, 4)
        volumes = [each["volume"] for each in found]
        assert (volumes[0], volumes[-1]) == (0, truth)
        assert volumes == sorted(volumes)
        assert {each["project_id"] for each in found} == {metered.PROJECT}
        assert {each["resource_metadata"]["flavor"]["name"] for each in found} == {"tiny"}


def test_prometheus_labels_never_mix_and_a_deleted_guest_disappears(
    world: metered.Metered, tmp_path: pathlib.Path
) -> None:
    with Ceilometer(world, tmp_path) as ceilometer:
        uuids = [world.create(name, nics=[world.nic(n)]) for n, name in enumerate("ab", 1)]
        ceilometer.poll()
        ceilometer.poll()
        found = ceilometer.scraped()
        for uuid, name in zip(uuids, "ab", strict=True):
            told = found["ceilometer_cpu"][uuid]
            assert told["project"] == metered.PROJECT
            assert told["resource_name"] == f"{name}:instance-{name}"
            assert told["flavor_name"] == "tiny"
        for rows in found.values():
            assert len({frozenset(row) for row in rows.values()}) == 1
        world.gz.vmadm.delete(uuids[0])
        waits.until(lambda: uuids[0] not in ceilometer.cpu(), "the guest is gone")
        assert uuids[1] in ceilometer.cpu()


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """The exporter's registry is one for the process."""
    yield
    for metric in set(prom_exporter.CEILOMETER_REGISTRY._names_to_collectors.values()):
        prom_exporter.CEILOMETER_REGISTRY.unregister(metric)
