# SPDX-License-Identifier: Apache-2.0
"""What is rated is what the node has counted: the whole chain, from kstat to CloudKitty."""

import datetime
import fractions
import json
import pathlib
import re
import shlex
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from gate.cloud import install, model, processes, services, telemetry
from gate.stories import people, test_meters

#: Where the node's kernel counts what a meter tells.
KSTATS = {
    "cpu": ("zones", "nsec_user", "nsec_sys"),
    "network.incoming.bytes": ("link", "rbytes64"),
    "network.outgoing.bytes": ("link", "obytes64"),
    "disk.device.read.bytes": ("zone_vfs", "nread"),
    "disk.device.write.bytes": ("zone_vfs", "nwritten"),
}
BUSY = ("cpu=1", "net_rx=2e7", "net_tx=1e7", "disk_read=1e7", "disk_write=2e7")
#: So that what a guest has used stands still.
QUIET = tuple(f"{word.partition('=')[0]}=0" for word in BUSY)
# enough to be seen on an invoice
_ENOUGH_NS = 30 * 10**9
# CloudKitty keeps five decimals of what it rates in a period
_ROUNDED = fractions.Fraction(1, 200_000)
# CloudKitty sees no nic and no disk in a period that was over before Gnocchi had their first
# sample. Guests are told to be quiet as soon as they are up: what they did until then is less.
_UNSEEN_BYTES = 2**20
_AGENT = "ceilometer-polling"
# how long samples may take to Gnocchi, and periods to be rated, on a machine that is busy
_SECONDS = 300.0
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Counts = dict[str, int]


@pytest.fixture
def metered(emulated: model.Cloud) -> Iterator[model.Cloud]:
    """The cloud, if it has the set telemetry; its polling agent runs afterwards."""
    if "telemetry" not in emulated.sets:
        pytest.skip("needs a cloud with telemetry: make gate ARGS=telemetry")
    yield emulated
    if not agent(emulated):
        telemetry.polling(emulated)


def test_what_is_rated_is_what_the_node_has_counted(
    metered: model.Cloud, admin: people.Person, tenants: people.Tenants, tmp_path: pathlib.Path
) -> None:
    anna, bob = tenants.add("anna"), tenants.add("bob", "10.21.0.0/24")
    hers, his = tenants.project(anna), tenants.project(bob)
    for project in (hers, his):
        telemetry.rate(metered, project)

    # lives and dies while the polling agent is dead
    people.until(lambda: exported(metered), "the agent to have polled")
    kill(metered)
    brief = bob.boot()
    truths = {brief.id: work(metered, admin, brief)}
    bob.delete(brief)
    telemetry.polling(metered)
    people.until(
        lambda: brief.id in exported(metered).get("ceilometer_cpu", ()), "its last samples"
    )
    labels_are_right(exported(metered), {brief.id: his})

    # is rebooted, and read from beside
    server = anna.boot()
    first = work(metered, admin, server)
    anna.compute.reboot_server(server, "HARD")
    anna.wait(server)
    second = work(metered, admin, server)
    truths[server.id] = {name: first[name] + second[name] for name in KSTATS}
    rows = test_meters.meters(metered, tmp_path, server)
    assert {row["meter"]: row["volume"] for row in rows if row["meter"] in KSTATS} == second
    people.until(lambda: server.id in exported(metered)["ceilometer_cpu"], "its series")
    labels_are_right(exported(metered), {server.id: hers, brief.id: his})
    anna.delete(server)

    kept = {uuid: measured(metered, admin, uuid, truth) for uuid, truth in truths.items()}
    successors_answer(metered, server.id, hers)
    for name, resource in kept[server.id].items():
        is_rated(metered, admin, name, resource, hers, truths[server.id][name])
    # of a nic or disk that lived so short, CloudKitty may not know
    is_rated(metered, admin, "cpu", brief.id, his, truths[brief.id]["cpu"])
    people.until(
        lambda: (
            not [
                resource
                for series in exported(metered).values()
                for resource in series
                if any(uuid in resource for uuid in truths)
            ]
        ),
        "the series of those that are gone to end",
    )


def work(cloud: model.Cloud, admin: people.Person, server: Any) -> Counts:
    """Give a guest load until it has used enough; what the node has counted of it at rest."""
    host = admin.compute.get_server(server.id).hypervisor_hostname
    people.emulator(cloud, "load", host, server.id, *BUSY)
    people.until(lambda: counted(cloud, host, server.id)["cpu"] > _ENOUGH_NS, "much CPU")
    people.emulator(cloud, "load", host, server.id, *QUIET)
    return counted(cloud, host, server.id)


def counted(cloud: model.Cloud, host: str, uuid: str) -> Counts:
    """What the node's kernel has counted of a zone since that booted."""
    modules = sorted({module for module, *_ in KSTATS.values()})
    words = ["--", "kstat", "-j", *(f"{module}:::" for module in modules)]
    found = json.loads(people.emulator(cloud, "exec", host, *words))
    ours = [each for each in found if each["data"]["zonename"] == uuid]
    return {
        meter: sum(
            each["data"][name] for each in ours if each["module"] == module for name in names
        )
        for meter, (module, *names) in KSTATS.items()
    }


def agent(cloud: model.Cloud) -> list[processes.Process]:
    """What there is of the polling agent."""
    return [each for each in processes.running(cloud.base) if each.service == _AGENT]


def kill(cloud: model.Cloud) -> None:
    """End the polling agent at whatever it does."""
    for each in agent(cloud):
        processes.kill(each, signal.SIGKILL)
    people.until(lambda: not agent(cloud), "the agent to be dead")


def exported(cloud: model.Cloud) -> dict[str, dict[str, dict[str, str]]]:
    """What Prometheus would read: by metric and resource, the labels."""
    with urllib.request.urlopen(cloud.url(_AGENT, "/metrics"), timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line in lines:
        if line.startswith("ceilometer_"):
            name, _, rest = line.partition("{")
            labels = dict(_LABEL.findall(rest.rpartition("} ")[0]))
            found.setdefault(name, {})[labels["resource"]] = labels
    return found


def labels_are_right(
    found: Mapping[str, Mapping[str, Mapping[str, str]]], projects: Mapping[str, str]
) -> None:
    """Each series has its owner's project, and all of a metric have the same labels."""
    for metric, series in found.items():
        assert len({frozenset(labels) for labels in series.values()}) == 1, metric
        for resource, labels in series.items():
            for uuid, project in projects.items():
                if uuid in resource:
                    assert labels["project"] == project, (metric, resource)


def measured(cloud: model.Cloud, admin: people.Person, uuid: str, truth: Counts) -> dict[str, str]:
    """Once Gnocchi has all of the truth, and no more: its resource of each meter."""
    found: dict[str, tuple[str, str]] = {}

    def all_there() -> bool:
        for kind, key in (
            ("instance", "id"),
            ("instance_network_interface", "instance_id"),
            ("instance_disk", "instance_id"),
        ):
            where = cloud.url("gnocchi", f"/v1/search/resource/{kind}")
            answer = admin.connection.session.post(where, json={"=": {key: uuid}})
            for each in answer.json():
                found.update({name: (each["id"], id_) for name, id_ in each["metrics"].items()})
        return found.keys() >= truth.keys() and all(
            max(values("max", name), default=-1) >= truth[name] for name in truth
        )

    def values(aggregation: str, name: str) -> list[float]:
        words = {"aggregation": aggregation, "granularity": telemetry.HOUR, "refresh": "true"}
        where = cloud.url("gnocchi", f"/v1/metric/{found[name][1]}/measures")
        answer = admin.connection.session.get(where, params=words)
        return [value for _, _, value in answer.json()]

    people.until(all_there, f"Gnocchi to have all that {uuid} has used", _SECONDS)
    assert {name: max(values("max", name)) for name in truth} == truth
    assert {name: sum(values("rate:sum", name)) for name in truth} == truth
    return {name: found[name][0] for name in truth}


def is_rated(
    cloud: model.Cloud, admin: people.Person, name: str, resource: str, owner: str, truth: int
) -> None:
    """What CloudKitty has rated of a meter is the truth, in its unit."""
    metrics = yaml.safe_load((install.ROOT / "etc/cloudkitty/metrics.yml").read_text())["metrics"]
    factor = fractions.Fraction(metrics[name]["factor"])
    wanted = truth * factor

    def bound(found: list[fractions.Fraction]) -> fractions.Fraction:
        return len(found) * _ROUNDED + (0 if name == "cpu" else _UNSEEN_BYTES * factor)

    def told() -> list[fractions.Fraction] | None:
        found = rated(cloud, admin, name, resource, owner)
        return found if sum(found) + bound(found) >= wanted else None

    what = f"{name} of {resource} to be rated as {float(wanted)}"
    found = people.until(told, what, _SECONDS)
    assert found is not None
    assert abs(sum(found) - wanted) <= bound(found), (name, float(sum(found)), float(wanted))


def rated(
    cloud: model.Cloud, admin: people.Person, name: str, resource: str, owner: str
) -> list[fractions.Fraction]:
    """The quantities of each period of the last hour."""
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    words = {
        "tenant_id": owner,
        "resource_type": name,
        "begin": f"{now - hour:%Y-%m-%dT%H:%M:%S}",
        "end": f"{now + hour:%Y-%m-%dT%H:%M:%S}",
    }
    where = cloud.url("cloudkitty", "/v1/storage/dataframes")
    frames = admin.connection.session.get(where, params=words).json()["dataframes"]
    return [
        fractions.Fraction(str(each["volume"]))
        for frame in frames
        for each in frame["resources"]
        if (each["service"], each["desc"]["id"]) == (name, resource)
    ]


def successors_answer(cloud: model.Cloud, uuid: str, project: str) -> None:
    """Each command that the page for operators gives for one of the retired client's."""
    page = (install.ROOT / "doc/source/admin/metering.rst").read_text()
    commands = re.findall(r"``(openstack metric [^`]+)``", re.sub(r"\s*\n\s+", " ", page))
    assert len(commands) >= 8
    for command in commands:
        command = command.replace("project_id='ID'", f"project_id='{project}'").replace("ID", uuid)
        command = re.sub(
            r"(?<=--granularity )\d+", lambda span: str(int(span[0]) // telemetry.HASTE), command
        )
        words = [*shlex.split(command), "-f", "json"]
        answer = services.command(cloud, "successors", words, cloud.environment)
        assert json.loads(answer), command
