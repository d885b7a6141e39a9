# SPDX-License-Identifier: Apache-2.0
"""What is made from the table of meters: a document, the entry points, Gnocchi's resources."""

import pathlib
import re
from collections.abc import Iterable

from ceilometer_plugin import meters
from doc import tables

ROOT = pathlib.Path(__file__).parent.parent
PATH = ROOT / "doc" / "source" / "admin" / "meters.rst"
SETUP = ROOT / "setup.cfg"
RESOURCES = ROOT / "etc" / "ceilometer" / "gnocchi_resources.yaml"

_POINTS = re.compile(r"(?<=^ceilometer\.poll\.smartos =\n)(?:    .*\n)*", re.M)
_METRICS = re.compile(
    r"(^  - resource_type: (?P<type>\w+)\n(?:(?!  - ).*\n)*?      # those of the table.*\n)"
    r"(?:      .*\n)*",
    re.M,
)
_POLICIES = {
    meters.CUMULATIVE: " {archive_policy_name: smartos-counter}",
    meters.DELTA: " {archive_policy_name: smartos-delta}",
    # the default
    meters.GAUGE: "",
}
_INTRODUCTION = """\
======
Meters
======

.. Written by `make gendocs` from ceilometer_plugin/meters.py

What a polling agent gives with ``--polling-namespaces smartos``. Names, units, types and resources
are those of Ceilometer's libvirt pollsters where those have the meter, too. A meter of a brand that
is not named has no truthful source there, and gives no samples; nor does one whose D script the
platform does not support, or that is not switched on (``[smartos_meters] scripts``).
"""
_SECTIONS: tuple[tuple[str, str, tuple[type, ...]], ...] = (
    (
        "From the kernel's own counters",
        "These can be billed. A total is the sum over all boots of the instance, on all nodes of "
        "one agent, and never decreases. What is used between the last reading before a zone ends "
        "and its end is in no total: ``smartos.metering.gap`` is that time.",
        (meters.Counter,),
    ),
    (
        "How things stand",
        "",
        (meters.Level, meters.Said, meters.Dataset, meters.Derived),
    ),
    (
        "From DTrace",
        f"What only DTrace tells. Error bound: {meters.PROBES}. A meter *below* a bound counts "
        "the events that took less.",
        (meters.Probes, meters.Below),
    ),
    (
        "Of metering itself",
        "Every gap and every loss is a meter, and marks the samples that it touches: their "
        "metadata has ``quality``, which is *exact*, *partial* (some use was before the ledger), "
        "*gap:Nms* or *drops:N*.",
        (meters.Ratio, meters.Own),
    ),
)


def document() -> str:
    """The whole document."""
    parts = [_INTRODUCTION]
    for title, text, kinds in _SECTIONS:
        found = [meter for meter in meters.METERS if isinstance(meter.source, kinds)]
        parts += [f"\n{title}\n{'-' * len(title)}\n"]
        parts += ["\n" + tables.paragraph(text)] if text else []
        parts += ["\n" + tables.table(_HEAD, map(_row, found))]
    title = "Never"
    parts += [f"\n{title}\n{'-' * len(title)}\n\n"]
    parts += ["What Ceilometer's libvirt pollsters have, and SmartOS does not tell:\n\n"]
    parts += [tables.table(("Meter", "Why"), sorted(meters.NEVER.items()))]
    return "".join(parts)


def entry_points() -> str:
    """The lines of setup.cfg that name the pollsters."""
    found = sorted(meters.METERS, key=lambda meter: meter.name)
    return "".join(
        f"    {meter.name} = ceilometer_plugin.pollsters:{meter.attribute}\n" for meter in found
    )


def setup(text: str) -> str:
    """setup.cfg with the entry points of the table."""
    return _POINTS.sub(lambda _: entry_points(), text, count=1)


def resources(text: str) -> str:
    """gnocchi_resources.yaml with the meters of the table, each under its type of resource."""
    return _METRICS.sub(lambda found: found[1] + _metrics(found["type"]), text)


def _metrics(resource: str) -> str:
    return "".join(
        f"      {meter.name}:{_POLICIES[meter.type]}\n"
        for meter in meters.METERS
        if meter.resource == resource
    )


_HEAD = ("Meter", "Unit", "Type", "Resource", "Brands", "Source and error")


def _row(meter: meters.Meter) -> tuple[str, ...]:
    source = [str(meter.source)]
    if not isinstance(meter.source, (meters.Probes, meters.Below)):
        source.append(meter.bound)
    if meter.note:
        source.append(meter.note)
    return (
        f"``{meter.name}``",
        meter.unit or "(none)",
        meter.type,
        meter.resource.removeprefix("instance_").replace("_", " "),
        _brands(meter.brands),
        "; ".join(source),
    )


def _brands(brands: Iterable[str]) -> str:
    known = {meters.ALL: "all", meters.ZONES: "zones", meters.HVM: "HVM"}
    return known[tuple(brands)]


def write() -> None:
    """Write all three."""
    PATH.write_text(document())
    SETUP.write_text(setup(SETUP.read_text()))
    RESOURCES.write_text(resources(RESOURCES.read_text()))


if __name__ == "__main__":
    write()
