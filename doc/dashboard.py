# SPDX-License-Identifier: Apache-2.0
"""The dashboard for Grafana, of the table's meters as Ceilometer exports them: `make gendocs`."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ceilometer_plugin import meters

PATH = pathlib.Path(__file__).parent.parent / "etc" / "grafana" / "smartos-meters.json"

# three polls of 300 s
_WINDOW = "15m"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF_INSTANCE = '{resource=~"$instance"}'
# a nic's and a disk's resource contain the uuid of the instance
_OF_PART = '{resource=~".*$instance.*"}'

Targets = Sequence[tuple[str, str]]


def document() -> str:
    """The whole dashboard."""
    panels = [
        _row("Instances"),
        _graph("CPU, wait and CPU cap, of one CPU", "percentunit", [
            (f"{_rate('cpu')} / 1e9", "{{resource_name}} runs"),
            (f"{_rate('smartos.cpu.wait')} / 1e9", "{{resource_name}} waits"),
            (f"{_rate('smartos.cpu.cap.above')}", "{{resource_name}} above its cap"),
        ]),
        _graph("Memory", "mbytes", [
            (_name("memory.resident") + _OF_INSTANCE, "{{resource_name}} resident"),
            (_name("memory") + _OF_INSTANCE, "{{resource_name}} may have"),
        ]),
        _graph("Network, every nic", "Bps", [
            (_rate("network.incoming.bytes"), "{{resource_name}} in"),
            (f"-{_rate('network.outgoing.bytes')}", "{{resource_name}} out"),
        ]),
        _graph("Network, inside and outside", "Bps", [
            (f"{sign}{_rate(f'smartos.network.{side}.{way}.bytes')}",
             f"{{{{resource_name}}}} {side} {way}")
            for side in ("internal", "external", "ipv6")
            for sign, way in (("", "incoming"), ("-", "outgoing"))
        ]),
        _graph("What programs read and write", "Bps", [
            (_rate("disk.device.read.bytes"), "{{resource_name}} reads"),
            (f"-{_rate('disk.device.write.bytes')}", "{{resource_name}} writes"),
        ]),
        _graph("Held up by the throttle of ZFS", "percentunit", [
            (f"{_rate('smartos.zfs.throttle.time')} / 1e6", "{{resource_name}}"),
        ]),
        _heat_map("How long reads from disk take", _latencies("smartos.disk.read")),
        _graph("Reads from disk: the slowest", "s", [
            (f"histogram_quantile({quantile}, {_latencies('smartos.disk.read')})", f"{quantile}")
            for quantile in (0.5, 0.99)
        ]),
        _row("Nodes"),
        _graph("Cycles without a reading", "short", _by_node("smartos.node.collections.failed")),
        _graph("Losses", "short", [
            *_by_node("smartos.node.dtrace.drops", " drops"),
            *_by_node("smartos.node.dtrace.restarts", " restarts"),
            *_by_node("smartos.node.readings.failed", " final readings"),
            *_by_node("smartos.node.ledger.failed", " cycles of the ledger"),
        ]),
        _graph("DTrace over kstat: 1 is agreement", "short", [
            (_name(meter.name), f"{{{{resource_name}}}} {meter.name.rpartition('audit.')[2]}")
            for meter in meters.METERS if isinstance(meter.source, meters.Ratio)
        ]),
        _graph("Time of which nothing is known", "ns", [
            (f"delta({_name('smartos.metering.gap')}{_OF_INSTANCE}[1h])", "{{resource_name}}"),
            (f"increase({_name('smartos.node.dtrace.down')}[1h])", "{{resource_name}} DTrace"),
        ]),
    ]  # fmt: skip
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    _place(panels)
    dashboard = {
        "uid": "smartos-meters",
        "title": "SmartOS meters",
        "tags": ["openstack", "smartos"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_DATA_SOURCE, _INSTANCE]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


_DATA_SOURCE = {
    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
}  # fmt: skip
_INSTANCE = {
    "name": "instance",
    "label": "Instance",
    "type": "query",
    "datasource": _SOURCE,
    "query": {"query": "query_result(ceilometer_cpu)", "refId": "instance"},
    "regex": '/,resource="(?<value>[^"]+)",resource_name="(?<text>[^"]+)"/',
    "multi": True,
    "refresh": 2,
    "sort": 1,
}


def _name(meter: str) -> str:
    """What Ceilometer's exporter calls a meter of the table."""
    return "ceilometer_" + meters.BY_NAME[meter].name.replace(".", "_")


def _rate(meter: str) -> str:
    """How much of a total there is a second: it never decreases, whatever type it is said to be."""
    of = _OF_INSTANCE if meters.BY_NAME[meter].resource == meters.INSTANCE else _OF_PART
    return f"rate({_name(meter)}{of}[{_WINDOW}])"


def _latencies(prefix: str) -> str:
    """The meters below each bound, as the buckets of a histogram of Prometheus."""
    bounds = {
        meter.source.bound: meter.name
        for meter in meters.METERS
        if isinstance(meter.source, meters.Below) and meter.name.startswith(f"{prefix}.below.")
    }
    buckets = [(f"{bound / 1e6:g}", name) for bound, name in sorted(bounds.items())]
    return " or ".join(
        f'label_replace(sum({_rate(name)}), "le", "{bound}", "", "")'
        for bound, name in [*buckets, ("+Inf", f"{prefix}.operations")]
    )


def _by_node(meter: str, what: str = "") -> Targets:
    return [(f"increase({_name(meter)}[1h])", "{{resource_name}}" + what)]


def _row(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _graph(title: str, unit: str, targets: Targets) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": expr,
             "legendFormat": legend}
            for at, (expr, legend) in enumerate(targets)
        ],
    }  # fmt: skip


def _heat_map(title: str, expr: str) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "title": title,
        "datasource": _SOURCE,
        # before Grafana 9
        "dataFormat": "tsbuckets",
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
            "yAxis": {"axisPlacement": "left", "unit": "s"},
        },
        "fieldConfig": {"defaults": {}, "overrides": []},
        # Grafana takes each bucket from the one above it: they are cumulative
        "targets": [
            {"refId": "A", "datasource": _SOURCE, "expr": expr, "format": "heatmap",
             "legendFormat": "{{le}}"},
        ],
    }  # fmt: skip


def _place(panels: Sequence[dict[str, Any]]) -> None:
    """Two a line, below the title of their row."""
    x = y = 0
    for panel in panels:
        row = panel["type"] == "row"
        if x and row:
            x, y = 0, y + 8
        panel["gridPos"] = {"x": x, "y": y, "w": 24 if row else 12, "h": 1 if row else 8}
        if row:
            y += 1
        else:
            x, y = (12, y) if x == 0 else (0, y + 8)


def write() -> None:
    """Write it."""
    PATH.write_text(document())


if __name__ == "__main__":
    write()
