# SPDX-License-Identifier: Apache-2.0
"""Where meters go: Gnocchi and CloudKitty's invoice, Prometheus and Grafana, and the page on it."""

import collections
import dataclasses
import datetime
import fractions
import importlib.metadata
import itertools
import json
import pathlib
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import yaml

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ceilometer.polling import prom_exporter
    from ceilometer.publisher import gnocchi

from ceilometer_plugin import ledger, meters, samples
from doc import dashboard

ROOT = pathlib.Path(__file__).parent.parent.parent
RULES = ROOT / "etc/prometheus/smartos-meters.rules.yml"
PAGE = ROOT / "doc/source/admin/metering.rst"
HOUR = 3600
US = 10**6
#: A full hour.
START = 1_800_000_000 // HOUR * HOUR
UUID = "5f0f6e2e-60a5-4c0c-8f0e-3d0cf7a4f3b5"
MAC = "02:00:00:00:00:01"
OWNER = {
    "host": "node1",
    "name": "instance-00000001",
    "display_name": "web",
    "project_id": "9" * 32,
    "user_id": "8" * 32,
    "image_ref": "",
    "brand": "joyent",
    "flavor": {"id": "1", "name": "tiny", "vcpus": 1, "ram": 64, "disk": 1, "ephemeral": 0},
}
#: What the ledger reads of a zone, by source and nic.
COUNTED = {
    ("zones", ""): ("nsec_user", "nsec_sys"),
    ("zone_vfs", ""): ("nread", "nwritten", "reads", "writes"),
    ("link", MAC): ("rbytes64", "obytes64"),
    ("dtrace.zone_net", ""): ("bytes|external|in", "bytes|external|out"),
}

_Yaml = Mapping[str, Any]


def _yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


RESOURCES: _Yaml = _yaml("etc/ceilometer/gnocchi_resources.yaml")
BILLED: _Yaml = _yaml("etc/cloudkitty/metrics.yml")["metrics"]


# Gnocchi's resources


def _definitions(path: pathlib.Path) -> list[gnocchi.ResourcesDefinition]:
    found = yaml.safe_load(path.read_text())
    default = found["archive_policy_default"]
    return [gnocchi.ResourcesDefinition(each, default, None, {}) for each in found["resources"]]


def test_ceilometer_takes_the_resources_and_no_meter_is_missing() -> None:
    definitions = _definitions(ROOT / "etc/ceilometer/gnocchi_resources.yaml")
    kept = {
        name: (each.cfg["resource_type"], options["archive_policy_name"])
        for each in definitions
        for name, options in each.metrics.items()
    }
    policies = {
        meters.CUMULATIVE: "smartos-counter",
        meters.DELTA: "smartos-delta",
        meters.GAUGE: "smartos-gauge",
    }
    for meter in meters.METERS:
        assert kept[meter.name] == (meter.resource, policies[meter.type]), meter.name
    # what is named twice is kept once, by the last
    assert len(kept) == sum(len(each.metrics) for each in definitions)
    assert set(policies.values()) == {each["name"] for each in RESOURCES["archive_policies"]}


def test_nothing_of_ceilometers_own_resources_is_lost() -> None:
    """Other hypervisors may be in the cloud, and other services are."""
    stock = pathlib.Path(gnocchi.__file__).parent / "data/gnocchi_resources.yaml"
    ours = {each["resource_type"]: each for each in RESOURCES["resources"]}
    theirs = yaml.safe_load(stock.read_text())["resources"]
    assert len(theirs) > 15
    for each in theirs:
        kind = each["resource_type"]
        found = ours[kind]
        assert set(each["metrics"]) <= set(found["metrics"]), kind
        rest = {name: told for name, told in each.items() if name != "metrics"}
        if kind == meters.INSTANCE:
            # the last reading is taken after delete.start
            assert rest.pop("event_delete") == "compute.instance.delete.start"
            assert found["event_delete"] == "compute.instance.delete.end"
        assert rest.items() <= found.items(), kind


def test_samples_have_the_attributes_of_their_resources() -> None:
    """Gnocchi refuses a resource without those that it must have."""
    definitions = {
        each.cfg["resource_type"]: each
        for each in _definitions(ROOT / "etc/ceilometer/gnocchi_resources.yaml")
    }
    found = {kind: each.sample_attributes(_a_sample_of(kind)) for kind, each in _kinds(definitions)}
    assert found[meters.INSTANCE].items() >= {
        "host": "node1", "display_name": "web", "flavor_id": "1", "flavor_name": "tiny",
    }.items()  # fmt: skip
    assert found[meters.DISK] == {"name": "root", "instance_id": UUID}
    assert found[meters.NIC]["instance_id"] == UUID and found[meters.NIC]["name"]
    assert found[meters.NODE] == {"host_name": "node1"}


def _kinds(definitions: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(kind, definitions[kind]) for kind in sorted({each.resource for each in meters.METERS})]


# an invoice


@dataclasses.dataclass
class Kept:
    """One metric, kept as Gnocchi 4.7 keeps it; times are in microseconds.

    What is beyond back_window is dropped. Growth is counted between two samples of which the
    earlier one lies in the same bucket or in the one before.
    """

    policy: _Yaml
    points: dict[int, float] = dataclasses.field(default_factory=dict)
    #: by seconds of granularity, method and beginning of the bucket
    buckets: dict[tuple[int, str, int], float] = dataclasses.field(default_factory=dict)

    def take(self, batch: Mapping[int, float]) -> None:
        """What metricd does with new measures."""
        methods = self.policy["aggregation_methods"]
        spans = [_seconds(each["granularity"]) for each in self.policy["definition"]]
        block = max(spans) * US
        back = block * (self.policy["back_window"] + any(map(_rate, methods)))
        fresh = batch
        if self.points:
            first = max(self.points) // block * block - back
            fresh = {at: value for at, value in batch.items() if at >= first}
        self.points = dict(sorted({**self.points, **fresh}.items()))
        since = max(min(self.points), min(batch))
        for span in spans:
            self._aggregate(span, since // (span * US) * span * US, methods)
        first = max(self.points) // block * block - back
        self.points = {at: value for at, value in self.points.items() if at >= first}

    def _aggregate(self, seconds: int, start: int, methods: Iterable[str]) -> None:
        span = seconds * US
        levels = [(at, value) for at, value in self.points.items() if at >= start]
        near = [(at, value) for at, value in self.points.items() if at >= start - span]
        growth = [
            (at, value - before)
            for (_, before), (at, value) in zip(near, near[1:], strict=False)
            if at >= start
        ]
        for method in methods:
            found = collections.defaultdict(list)
            for at, value in growth if _rate(method) else levels:
                found[at // span * seconds].append(value)
            for bucket, values in found.items():
                done = _METHODS[method.removeprefix("rate:")](values)
                self.buckets[seconds, method, bucket] = done


_METHODS = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "last": lambda values: values[-1],
    "max": max,
}


def _rate(method: str) -> bool:
    return method.startswith("rate:")


def _seconds(text: str) -> int:
    number, unit = text.split()
    return int(number) * {"minute": 60, "hour": HOUR, "day": 24 * HOUR}[unit.removesuffix("s")]


class Cloud:
    """Gnocchi, and a CloudKitty that rates each hour once, `wait` hours after its end."""

    def __init__(self, wait: int = 2) -> None:
        self._wait = wait
        self._metrics: dict[tuple[str, str], Kept] = {}
        self.invoice: dict[str, fractions.Fraction] = collections.defaultdict(fractions.Fraction)

    def run(self, deliveries: Iterable[tuple[int, Sequence[samples.Sample]]]) -> None:
        """Samples as they arrive, each batch at a second, until all is rated."""
        rated = START
        arriving = sorted(deliveries, key=lambda each: each[0])
        end = arriving[-1][0] + (self._wait + 2) * HOUR
        for second, batch in [*arriving, (end, ())]:
            while rated + (1 + self._wait) * HOUR <= second:
                self._rate(rated)
                rated += HOUR
            self._take(batch)

    def _take(self, batch: Sequence[samples.Sample]) -> None:
        found: dict[tuple[str, str], dict[int, float]] = collections.defaultdict(dict)
        for each in batch:
            at = datetime.datetime.fromisoformat(each.timestamp)
            stamp = (at - datetime.datetime.fromtimestamp(0, datetime.UTC)) // _MICROSECOND
            found[each.name, each.resource_id][stamp] = float(each.volume)
        for (name, resource), points in found.items():
            if (name, resource) not in self._metrics:
                self._metrics[name, resource] = Kept(_policy(name))
            self._metrics[name, resource].take(points)

    def _rate(self, hour: int) -> None:
        for name, metric in BILLED.items():
            how = metric["extra_args"]
            for (of, _), kept in self._metrics.items():
                if of != name:
                    continue
                # grouped by resource, of which there is one in each: aggregated again, it is itself
                key = (how["force_granularity"], how["aggregation_method"], hour)
                volume = fractions.Fraction(kept.buckets.get(key, 0))
                self.invoice[name] += volume * fractions.Fraction(metric.get("factor", 1))


_MICROSECOND = datetime.timedelta(microseconds=1)


def _policy(name: str) -> _Yaml:
    policies: dict[str, _Yaml] = {each["name"]: each for each in RESOURCES["archive_policies"]}
    (options,) = [
        each["metrics"][name] or {} for each in RESOURCES["resources"] if name in each["metrics"]
    ]
    return policies[options.get("archive_policy_name", RESOURCES["archive_policy_default"])]


class Life:
    """An instance on a node whose counters are scripted, and the samples that are given of it."""

    def __init__(self) -> None:
        self.second = START + 600
        self.truth: dict[str, int] = collections.defaultdict(int)
        self.account = ledger.Account(UUID, owner=dict(OWNER))
        self.account.resources[MAC] = {"interface": "net0", "port": None}
        self._given: tuple[int, samples.Totals | None] = (self.second, None)
        self._boot()

    def _boot(self) -> None:
        self._born = self.second
        self._counters = {key: dict.fromkeys(names, 0) for key, names in COUNTED.items()}

    def run(self, seconds: int, use: int) -> None:
        """It runs, and uses that much of everything, and a little more of each."""
        self.second += seconds
        for counters in self._counters.values():
            for more, name in enumerate(counters):
                counters[name] += use + more
                self.truth[name] += use + more

    def read(self) -> None:
        """A reading: in a cycle, or the last one that the driver takes."""
        for (source, resource), values in self._counters.items():
            self.account.note(
                ledger.Reading(
                    key=f"node/{source}/{resource}/{self._born}",
                    resource=resource,
                    source=source,
                    vm=UUID,
                    node="node",
                    boot=1,
                    born_ns=self._born * 10**9,
                    read_ns=self.second * 10**9,
                    wall_ns=self.second * 10**9,
                    values=dict(values),
                )
            )

    def reboot(self) -> None:
        """Its counters begin anew; the driver has read them before."""
        self.read()
        self.second += 1
        self._boot()

    def samples(self) -> list[samples.Sample]:
        """What the plugin gives of it now."""
        self.account.bear(self.account.read_ns)
        births = dict(self.account.births)
        self.account.announce()
        totals = self.account.totals()
        long = (self.second - self._given[0]) * 10**9 > samples.LONG_NS
        given = self._given[1] if long else None
        self._given = self.second, totals
        view = samples.View(
            account=self.account,
            totals=totals,
            given=given,
            member=None,
            zone=None,
            usage={},
            moved={},
            births=births,
            scripts=None,
            wall_ns=self.account.read_ns,
            quality="exact",
            probed_quality="exact",
        )
        given = [samples.of_instances(meters.BY_NAME[name], [view]) for name in BILLED]
        return list(itertools.chain.from_iterable(given))

    def owed(self) -> dict[str, fractions.Fraction]:
        """What an invoice should say."""
        names = {
            "cpu": ("nsec_user", "nsec_sys"),
            "network.incoming.bytes": ("rbytes64",),
            "network.outgoing.bytes": ("obytes64",),
            "smartos.network.external.incoming.bytes": ("bytes|external|in",),
            "smartos.network.external.outgoing.bytes": ("bytes|external|out",),
            "disk.device.read.bytes": ("nread",),
            "disk.device.write.bytes": ("nwritten",),
            "disk.device.read.requests": ("reads",),
            "disk.device.write.requests": ("writes",),
        }
        units = {"cpu-hour": HOUR * 10**9, "GiB": 2**30, "request": 1}
        return {
            meter: fractions.Fraction(sum(self.truth[each] for each in of))
            / units[BILLED[meter]["unit"]]
            for meter, of in names.items()
        }


_Step = tuple[str, int, int, int]


def _deliveries(life: Life, steps: Sequence[_Step]) -> list[tuple[int, list[samples.Sample]]]:
    found = []
    for what, seconds, use, late in steps:
        life.run(seconds, use)
        if what == "reboot":
            life.reboot()
        else:
            life.read()
            found.append((life.second + late, life.samples()))
    # it is deleted between two polls: the driver reads it, the next cycles tell
    life.run(100, 7)
    life.read()
    found += [(life.second + 200 + late, life.samples()) for late in (0, 300, 600)]
    return found


_STEP = st.tuples(
    st.sampled_from(["poll", "poll", "poll", "reboot"]),
    # the node may be away for hours
    st.one_of(st.integers(1, 1700), st.integers(1, 20_000)),
    st.integers(0, 10**12),
    # before CloudKitty rates the hour
    st.integers(0, 2 * HOUR),
)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(_STEP, min_size=1, max_size=40))
@hypothesis.example([("poll", 300, 7, 0), ("poll", 20_000, 10**12, 0), ("poll", 300, 5, 0)])
@hypothesis.example([("poll", 3500, 10**12, 0), ("reboot", 10, 5, 0), ("poll", 3000, 9, 7000)])
def test_the_invoice_is_what_was_used(steps: list[_Step]) -> None:
    """From the first second, through reboots, hours away, late samples and an unseen deletion."""
    life, cloud = Life(), Cloud()
    cloud.run(_deliveries(life, steps))
    owed = life.owed()
    assert set(owed) == {name for name in BILLED if meters.BY_NAME[name].type == meters.CUMULATIVE}
    assert cloud.invoice == owed


def test_aggregations_that_bill_wrong_would_be_seen() -> None:
    """The policy and the method that Ceilometer and CloudKitty have by default."""
    life = Life()
    deliveries = _deliveries(life, [("poll", 300, 90, 0)] * 12)
    kept = Kept({**_policy("cpu"), "aggregation_methods": ["rate:sum", "mean", "max"]})
    for _, batch in deliveries:
        for each in batch:
            if each.name == "cpu":
                at = int(datetime.datetime.fromisoformat(each.timestamp).timestamp()) * US
                kept.take({at: each.volume})
    truth = sum(life.truth[name] for name in ("nsec_user", "nsec_sys"))
    sums = collections.Counter[str]()
    for (seconds, method, _), value in kept.buckets.items():
        if seconds == HOUR:
            sums[method] += int(value)
    assert sums["rate:sum"] == truth
    assert sums["mean"] != truth != sums["max"]


def test_gnocchi_forgets_what_lies_beyond_its_back_window() -> None:
    kept = Kept(_policy("cpu"))
    for hour in (0, 1, 30):
        kept.take({hour * HOUR * US: float(hour)})
    before = dict(kept.buckets)
    kept.take({2 * HOUR * US: 2.0})
    assert kept.buckets == before
    kept.take({29 * HOUR * US: 29.0})
    assert kept.buckets[HOUR, "rate:sum", 30 * HOUR] == 1


def test_gnocchi_counts_no_growth_over_an_hour_without_a_sample() -> None:
    """Of a node that was away: a sample of the old total just before the new one mends it."""
    away, anchored = Kept(_policy("cpu")), Kept(_policy("cpu"))
    for kept in (away, anchored):
        kept.take({0: 0.0})
        kept.take({600 * US: 10.0})
    back = 3 * HOUR * US + 600 * US
    away.take({back: 500.0})
    anchored.take({back - 1: 10.0, back: 500.0})
    assert (HOUR, "rate:sum", 3 * HOUR) not in away.buckets
    assert anchored.buckets[HOUR, "rate:sum", 3 * HOUR] == 490


def test_an_hour_of_a_level_that_is_begun_counts_whole() -> None:
    kept = Kept(_policy("memory"))
    how = BILLED["memory"]
    # 2048 MiB from 0:30, 4096 from 1:30 to 1:45
    for minute in range(30, 105, 5):
        kept.take({minute * 60 * US: 2048.0 if minute < 90 else 4096.0})
    hours = [
        fractions.Fraction(kept.buckets[HOUR, how["extra_args"]["aggregation_method"], at])
        * fractions.Fraction(how["factor"])
        for at in (0, HOUR)
    ]
    assert hours == [2, pytest.approx(fractions.Fraction(6 * 2 + 3 * 4, 9))]


def test_what_is_billed_is_of_the_table_and_in_its_unit() -> None:
    units = {
        ("ns", "cpu-hour"): fractions.Fraction(1, HOUR * 10**9),
        ("B", "GiB"): fractions.Fraction(1, 2**30),
        ("MiB", "GiB-hour"): fractions.Fraction(1, 2**10),
    }
    for name, metric in BILLED.items():
        meter = meters.BY_NAME[name]
        how = metric["extra_args"]
        assert how["resource_type"] == meter.resource
        assert fractions.Fraction(metric.get("factor", 1)) == units.get(
            (meter.unit, metric["unit"]), 1
        )
        methods = (how["aggregation_method"], how["re_aggregation_method"])
        counter = meter.type == meters.CUMULATIVE
        assert methods == (("rate:sum", "sum") if counter else ("mean", "mean"))
        # by resource, so that what is aggregated again is one series
        assert metric["groupby"] == ["id", "project_id"]
        attributes = {
            attribute
            for each in RESOURCES["resources"]
            if each["resource_type"] == meter.resource
            for attribute in each["attributes"]
        }
        assert set(metric["metadata"]) <= attributes


# Prometheus and Grafana


def _a_sample_of(kind: str) -> samples.Sample:
    if kind == meters.NODE:
        (meter, *_) = [each for each in meters.METERS if each.resource == kind]
        return samples.of_node(meter, UUID, "node1", 1, START * 10**9)
    life = Life()
    life.run(10, 5)
    life.read()
    return next(each for each in life.samples() if meters.BY_NAME[each.name].resource == kind)


_EXPORTED = {"ceilometer_" + each.name.replace(".", "_"): each for each in meters.METERS}
_METRIC = re.compile(r"\bceilometer_\w+")


def _labels(metric: str) -> set[str]:
    """What Ceilometer's exporter labels a metric with."""
    meter = _EXPORTED[metric]
    sample = _a_sample_of(meter.resource)
    sample.name, sample.unit = meter.name, meter.unit
    said = {
        "counter_name": sample.name,
        "counter_unit": sample.unit,
        "resource_id": sample.resource_id,
        "project_id": sample.project_id,
        "user_id": sample.user_id,
        "resource_metadata": sample.resource_metadata,
    }
    return set(prom_exporter._gen_labels(said)["keys"])


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_are_on_metrics_that_are_exported() -> None:
    assert len({rule["alert"] for rule in _rules()}) == len(_rules())
    for rule in _rules():
        names = _METRIC.findall(rule["expr"])
        assert names and set(names) <= set(_EXPORTED), rule["alert"]
        _balanced(rule["expr"])
        told = " ".join(rule["annotations"].values())
        wanted = set(re.findall(r"\$labels\.(\w+)", told))
        for name in names:
            assert wanted <= _labels(name), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_only_what_never_falls_is_taken_for_a_counter() -> None:
    queries = [rule["expr"] for rule in _rules()]
    panels = json.loads(dashboard.PATH.read_text())["panels"]
    queries += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    taken = {
        (function, name)
        for query in queries
        for function, name in re.findall(r"\b(increase|rate|delta)\((ceilometer_\w+)", query)
    }
    assert taken
    for function, name in taken:
        falls = _EXPORTED[name].type != meters.CUMULATIVE
        assert (function == "delta") == falls, (function, name)


def test_whatever_metering_says_of_itself_has_an_alert() -> None:
    alerted = {name for rule in _rules() for name in _METRIC.findall(rule["expr"])}
    own = {
        name
        for name, meter in _EXPORTED.items()
        if isinstance(meter.source, (meters.Own, meters.Ratio))
    }
    assert own <= alerted


def test_the_dashboard_shows_metrics_that_are_exported() -> None:
    board = json.loads(dashboard.PATH.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["type"] for panel in panels} == {"timeseries", "heatmap"}
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = _METRIC.findall(target["expr"])
            assert names and set(names) <= set(_EXPORTED), panel["title"]
            _balanced(target["expr"])
            for name in names:
                said = re.findall(r"(\w+)=~", target["expr"])
                assert set(said) <= _labels(name)
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    places = {
        (x, y)
        for at in (panel["gridPos"] for panel in board["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    }
    assert len(places) == sum(
        panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in board["panels"]
    )


def test_the_heat_map_has_every_bound_of_the_distribution() -> None:
    board = json.loads(dashboard.PATH.read_text())
    (panel,) = [panel for panel in board["panels"] if panel["type"] == "heatmap"]
    (target,) = panel["targets"]
    assert target["format"] == "heatmap"
    shown = re.findall(r'(ceilometer_\w+)\{[^}]*\}\[\w+\]\)\), "le", "([^"]+)"', target["expr"])
    bounds = {
        name: f"{meter.source.bound / 1e6:g}"
        for name, meter in _EXPORTED.items()
        if isinstance(meter.source, meters.Below) and meter.name.startswith("smartos.disk.read.")
    }
    assert dict(shown) == {**bounds, "ceilometer_smartos_disk_read_operations": "+Inf"}
    finite = [float(bound) for _, bound in shown[:-1]]
    assert finite == sorted(finite)


def test_the_dashboard_finds_instances() -> None:
    """Its variable picks the uuid and the name out of what Prometheus answers."""
    (variable,) = [
        each
        for each in json.loads(dashboard.PATH.read_text())["templating"]["list"]
        if each["type"] == "query"
    ]
    pattern = re.compile(variable["regex"].strip("/").replace("(?<", "(?P<"))
    assert {"resource", "resource_name"} <= _labels("ceilometer_cpu")
    # labels in the order of the alphabet
    answer = (
        f'ceilometer_cpu{{project="9",publisher="ceilometer",resource="{UUID}",'
        'resource_name="web:instance-00000001",type="cpu"} 7 1800000000000'
    )
    found = pattern.search(answer)
    assert found and found.groupdict() == {"value": UUID, "text": "web:instance-00000001"}


def _balanced(expression: str) -> None:
    depth = []
    for character in re.sub(r'"[^"]*"', '""', expression):
        if character in "([{":
            depth.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}":
            assert depth and depth.pop() == character, expression
    assert not depth, expression


# the page


def _commands() -> list[list[str]]:
    """Every `openstack metric` command of the page."""
    text = PAGE.read_text()
    joined = re.sub(r"\\\n\s*", " ", text)
    quoted = re.findall(r"``(openstack metric [^`]+)``", re.sub(r"\s*\n\s+", " ", joined))
    typed = re.findall(r"^\s+[$#] (openstack metric .+)$", joined, re.M)
    return [shlex.split(each)[1:] for each in [*quoted, *typed]]


def _options(words: Sequence[str]) -> Iterator[Any]:
    """What gnocchiclient makes of a command; its parser ends the test at a mistake."""
    points = {
        tuple(re.split("[_ ]", point.name)): point
        for point in importlib.metadata.entry_points(group="openstack.metric.v1")
    }
    length = max(size for size in range(1, len(words) + 1) if tuple(words[:size]) in points)
    command = points[tuple(words[:length])].load()(None, None)
    yield command.get_parser("openstack").parse_args(list(words[length:]))


def test_the_commands_of_the_page_are_ones() -> None:
    commands = _commands()
    assert len(commands) >= 6
    for words in commands:
        for options in _options(words):
            _of_the_table(options)


def _of_the_table(options: Any) -> None:
    """Names of meters, types of resources and aggregations are those that there are."""
    kinds = {each["resource_type"] for each in RESOURCES["resources"]}
    told = vars(options)
    # "generic" is any
    assert told.get("resource_type") in (None, "generic", *kinds)
    metric = told.get("metric")
    for name in [metric] if isinstance(metric, str) else metric or ():
        if not re.fullmatch("[0-9A-Z_-]+", name):
            assert name in meters.BY_NAME
    operations = " ".join(told.get("operations") or ()) if "operations" in told else ""
    for name, method in re.findall(r"\(metric (\S+) ([\w:]+)\)", operations):
        assert method in _policy(name)["aggregation_methods"]
    method = told.get("aggregation")
    if method is not None and isinstance(metric, str) and metric in meters.BY_NAME:
        assert method in _policy(metric)["aggregation_methods"]


def test_each_retired_command_has_a_successor() -> None:
    text = PAGE.read_text()
    for retired in ("meter-list", "sample-list", "statistics", "resource-list"):
        assert f"``ceilometer {retired}" in text


def test_every_meter_that_the_page_names_is_one() -> None:
    named = set(re.findall(r"``((?:smartos|disk|network|memory)\.[a-z0-9.]+)``", PAGE.read_text()))
    assert named
    assert named <= set(meters.BY_NAME) | set(meters.NEVER)
