# SPDX-License-Identifier: Apache-2.0
"""Meters as a table (meters.yaml) and their samples, read for all zones of a node at once."""

import dataclasses
import importlib.resources
from collections.abc import Iterable

import yaml

from nova_smartos.smartos import errors, kstat, node

GLOBAL_ZONE = "global"


@dataclasses.dataclass(frozen=True)
class Meter:
    """What is read, and what Ceilometer calls it."""

    name: str
    type: str
    unit: str
    module: str
    statistics: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A meter's value for one zone.

    `resource_id` is the vm's uuid. Values count from `since_ns`, when the zone booted; both times
    are of the node's own clock, which starts at its boot.
    """

    name: str
    type: str
    unit: str
    volume: int
    resource_id: str
    taken_ns: int
    since_ns: int | None


def load() -> list[Meter]:
    """The table of meters."""
    text = importlib.resources.files(__package__).joinpath("meters.yaml").read_text()
    return [Meter(**row | {"statistics": tuple(row["statistics"])}) for row in yaml.safe_load(text)]


def read(gz: node.Node, meters: Iterable[Meter]) -> list[Sample]:
    """Samples of these meters for every zone but the global one, by one command on the node."""
    wanted = list(meters)
    modules = sorted({meter.module for meter in wanted})
    found = gz.kstat.read(kstat.Selector(module=module) for module in modules) if modules else []
    tenants = [each for each in found if _zone(each) != GLOBAL_ZONE]
    return [
        _sample(meter, each) for meter in wanted for each in tenants if each.module == meter.module
    ]


def _sample(meter: Meter, found: kstat.Instance) -> Sample:
    return Sample(
        name=meter.name,
        type=meter.type,
        unit=meter.unit,
        volume=sum(found.number(statistic) for statistic in meter.statistics),
        resource_id=_zone(found),
        taken_ns=found.snaptime_ns,
        since_ns=found.crtime_ns,
    )


def _zone(found: kstat.Instance) -> str:
    """The zone's whole name: the kstat's own name is cut after 30 characters."""
    if found.zonename is None:
        where = f"{found.module}:{found.instance}:{found.name}"
        raise errors.OutputError(f"kstat {where} names no zone")
    return found.zonename
