# SPDX-License-Identifier: Apache-2.0
"""The launcher's optional sets, and the files for operators that one of them reads."""

import configparser
import pathlib
import re
import stat
from typing import Any

import pytest
import yaml

from ceilometer_plugin import meters
from gate import __main__ as gate_main
from gate.cloud import call, commands, files, install, model, telemetry, volumes

ETC = install.ROOT / "etc"


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> model.Cloud:
    return model.Cloud.plan(
        tmp_path / "cloud",
        sets=frozenset({"telemetry", "volumes"}),
        nodes=[model.Node("node1", "ssh"), model.Node("node2", "local")],
        speed="20",
        networks={"public": "external"},
    )


@pytest.fixture
def written(cloud: model.Cloud) -> pathlib.Path:
    files.write(cloud)
    telemetry.write(cloud)
    volumes.write(cloud)
    return cloud.base / "etc"


def test_their_files_with_the_password_are_their_owners_alone(
    cloud: model.Cloud, written: pathlib.Path
) -> None:
    secret = {
        str(path.relative_to(written)): stat.S_IMODE(path.stat().st_mode)
        for path in written.rglob("*")
        if path.is_file() and cloud.password in path.read_text()
    }
    assert {
        "ceilometer/ceilometer.conf",
        "cinder/cinder.conf",
        "cloudkitty/cloudkitty.conf",
        "gnocchi/gnocchi.conf",
    } <= set(secret)
    assert set(secret.values()) == {0o600}


def test_one_polling_agent_knows_every_node(written: pathlib.Path) -> None:
    said = _conf(written / "ceilometer/ceilometer.conf")["smartos_meters"]["nodes"]
    assert said.split(",") == [f"{name}:{written}/nova-smartos/{name}.conf" for name in _NODES]


def test_what_metering_keeps_lies_in_the_clouds_folder(
    cloud: model.Cloud, written: pathlib.Path
) -> None:
    def spool() -> str | None:
        path = files.compute(cloud, cloud.nodes[0], {"connection": "local"})
        return _conf(path)["smartos"].get("spool_directory")

    ledger = _conf(written / "ceilometer/ceilometer.conf")["smartos_meters"]["ledger"]
    assert pathlib.Path(ledger).parent.is_dir()
    assert ledger.startswith(f"{cloud.base}/") and str(spool()).startswith(f"{cloud.base}/")
    cloud.sets = frozenset()
    assert spool() is None


def test_nova_tells_what_happens_only_where_somebody_listens(
    cloud: model.Cloud, written: pathlib.Path
) -> None:
    def told() -> tuple[str, str]:
        conf = _conf(written / "nova/nova.conf")
        notifications = conf["notifications"]["notification_format"]
        return conf["oslo_messaging_notifications"]["driver"], notifications

    assert told() == ("messagingv2", "both")
    cloud.sets = frozenset({"bench"})
    files.write(cloud)
    assert told() == ("messagingv2", "versioned")
    cloud.sets = frozenset()
    files.write(cloud)
    assert told()[0] == "noop"


def test_an_hour_of_etc_is_short_here(written: pathlib.Path) -> None:
    for folder, hour in ((ETC, 3600), (written, telemetry.HOUR)):
        billed = _yaml(folder / "cloudkitty/metrics.yml")["metrics"].values()
        assert {each["extra_args"]["force_granularity"] for each in billed} == {hour}
        kept = _yaml(folder / "ceilometer/gnocchi_resources.yaml")["archive_policies"]
        for policy in kept:
            assert hour in [_seconds(each["granularity"]) for each in policy["definition"]]
    assert _conf(written / "cloudkitty/cloudkitty.conf")["collect"]["period"] == str(telemetry.HOUR)
    slow, fast = (
        _yaml(folder / "ceilometer/polling.yaml")["sources"][0]["interval"]
        for folder in (ETC, written)
    )
    assert (slow, fast) == (300, 10)


@pytest.mark.parametrize("place", ["etc", "cloud"])
def test_what_is_billed_is_kept_so_that_the_bill_is_right(
    place: str, written: pathlib.Path
) -> None:
    """A counter's growth, in buckets that there are, to which late samples still count."""
    folder = ETC if place == "etc" else written
    resources = _yaml(folder / "ceilometer/gnocchi_resources.yaml")
    policies = {each["name"]: each for each in resources["archive_policies"]}
    billed = _yaml(folder / "cloudkitty/metrics.yml")["metrics"]
    assert "cpu" in billed
    for name, metric in billed.items():
        how = metric["extra_args"]
        (resource,) = (
            each
            for each in resources["resources"]
            if name in each["metrics"] and each["resource_type"] == how["resource_type"]
        )
        options = resource["metrics"][name] or {}
        policy = policies[options.get("archive_policy_name", resources["archive_policy_default"])]
        assert how["aggregation_method"] in policy["aggregation_methods"]
        assert policy["back_window"] > 0
        assert how["force_granularity"] in [
            _seconds(each["granularity"]) for each in policy["definition"]
        ]


def test_every_meter_is_kept_by_its_resource_and_as_what_it_is() -> None:
    """Gnocchi's publisher drops the others, with one line in its log."""
    found = _yaml(ETC / "ceilometer/gnocchi_resources.yaml")
    kept = {
        (each["resource_type"], name, (options or {}).get("archive_policy_name"))
        for each in found["resources"]
        for name, options in each["metrics"].items()
    }
    policies = {"cumulative": "smartos-counter", "delta": "smartos-delta", "gauge": None}
    assert {
        (each.resource, each.name, policies[each.type]) for each in meters.METERS
    } - kept == set()
    assert found["archive_policy_default"] == "smartos-gauge"
    assert set(policies.values()) - {each["name"] for each in found["archive_policies"]} == {None}


def test_no_policy_is_overridden(written: pathlib.Path) -> None:
    for folder in (ETC, written):
        sinks = _yaml(folder / "ceilometer/pipeline.yaml")["sinks"]
        urls = [url for sink in sinks for url in sink["publishers"]]
        assert urls and not [url for url in urls if "archive_policy" in url]


def test_gnocchi_knows_a_server_from_its_boot_on(written: pathlib.Path) -> None:
    """CloudKitty rates none that was gone before Gnocchi knew it."""
    for folder in (ETC, written):
        pipeline = _yaml(folder / "ceilometer/event_pipeline.yaml")
        heard = {event for source in pipeline["sources"] for event in source["events"]}
        resources = _yaml(folder / "ceilometer/gnocchi_resources.yaml")["resources"]
        (instance,) = (each for each in resources if each["resource_type"] == "instance")
        assert heard == {instance["event_create"], instance["event_delete"]}
        urls = [url for sink in pipeline["sinks"] for url in sink["publishers"]]
        assert urls == ["gnocchi://"]


def test_status_expects_what_a_set_brings(cloud: model.Cloud) -> None:
    with_sets = set(commands.expected(cloud))
    cloud.sets = frozenset({"gate"})
    assert with_sets - set(commands.expected(cloud)) == {
        "ceilometer-notification",
        "ceilometer-polling",
        "cinder",
        "cinder-scheduler",
        "cinder-volume",
        "cloudkitty",
        "cloudkitty-processor",
        "gnocchi",
        "gnocchi-metricd",
    }


@pytest.mark.parametrize(
    ("words", "clouds"),
    [
        ([], [("consoles", [*gate_main.SUITES])]),
        (["telemetry"], [("telemetry", ["telemetry"])]),
        (["stories"], [("consoles", ["stories"])]),
        (["stories", "telemetry"], [("consoles", ["stories"]), ("telemetry", ["telemetry"])]),
    ],
)
def test_the_suite_of_meters_has_a_cloud_of_its_own(
    words: list[str],
    clouds: list[tuple[str, list[str]]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(gate_main, "FOLDER", tmp_path)
    monkeypatch.setattr(call, "run", lambda words, *_, **__: ran.append(words) or 0)
    assert gate_main._run(gate_main._parser().parse_args(words)) == 0
    steps = iter(ran)
    for set_, suites in clouds:
        up, run, down = next(steps), next(steps), next(steps)
        assert up[up.index("up") :][:4] == ["up", "--fresh", "--with", set_]
        assert run[run.index("gate.suites") + 1 :] == suites
        assert down[-1] == "down"
    assert list(steps) == []


def test_what_a_set_requires_is_pinned() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", install.CONSTRAINTS.read_text(), re.MULTILINE))
    sets = frozenset({"gate", "telemetry", "volumes"})
    paths = install.requirements(sets)
    assert len(paths) == 1 + len(sets)
    for path in paths:
        lines = [line for line in path.read_text().splitlines() if line[0] != "#"]
        assert {re.split(r"[\[<]", line)[0] for line in lines} <= pinned


_NODES = ("node1", "node2")


def _conf(path: pathlib.Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(path)
    return found


def _seconds(span: str) -> int:
    number, unit = span.split()
    return int(number) * {"second": 1, "minute": 60, "hour": 3600}[unit.removesuffix("s")]


def _yaml(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text())
