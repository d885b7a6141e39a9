# SPDX-License-Identifier: Apache-2.0
"""Samples: what the ledger, a node's kstats and ZFS say, under Ceilometer's names."""

import dataclasses
import datetime
import hashlib
import itertools
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ceilometer import sample

from ceilometer_plugin import collection, ledger, meters, roster
from nova_smartos.smartos import zfs

Volume = int | float
_Row = tuple[str, Volume]

_SERIES = str(uuid.uuid4())[8:]
_numbers = itertools.count()


class Sample(sample.Sample):  # type: ignore[misc]
    """A sample that keeps the time of its reading, and not that of the cycle it is given in."""

    def set_timestamp(self, timestamp: str) -> None:
        """What the polling agent would have it be."""


# libvirt's numbers, which are what consumers of power.state know
_RUNNING, _SHUT_OFF = 1, 5
_KSTAT_MAX = 2**64 - 1

#: Gnocchi counts how much a counter has grown between two samples of an hour, or of two hours that
#: follow one another, and not between others. So a total that was not told of for so long is told
#: of as it was then, too.
LONG_NS = 1800 * 10**9
#: By resource and source.
Totals = Mapping[tuple[str, str], Mapping[str, int]]


@dataclasses.dataclass(slots=True)
class View:
    """One instance at one cycle: what its samples are made of.

    A hundred times all views are gone through, so that each has at hand what every sample says.
    """

    account: ledger.Account
    #: its totals when they were made durable
    totals: Totals
    #: None once it is gone
    member: roster.Member | None
    #: None where its zone does not run
    zone: collection.Zone | None
    usage: Mapping[str, zfs.Usage]
    #: by nic: what came in and went out since the cycle before, and in how long
    moved: Mapping[str, tuple[int, int, int]]
    #: by resource and source, where this is their first sample: the moment of the zero before it
    births: Mapping[tuple[str, str], int]
    #: the D scripts that count now; None where that is no question
    scripts: frozenset[str] | None
    wall_ns: int
    #: what is to be known of its totals
    quality: str
    #: and of what DTrace counted
    probed_quality: str
    #: the totals that were given last, where that is long ago
    given: Totals | None = None
    uuid: str = dataclasses.field(init=False)
    brand: str = dataclasses.field(init=False)
    timestamp: str = dataclasses.field(init=False)
    user_id: str = dataclasses.field(init=False)
    project_id: str = dataclasses.field(init=False)
    #: what Ceilometer's own pollsters say of an instance, and how good the numbers are
    metadata: dict[str, Any] = dataclasses.field(init=False)
    #: with what libvirt's sample of CPU time has besides
    cpu_metadata: dict[str, Any] = dataclasses.field(init=False)
    probed_metadata: dict[str, Any] = dataclasses.field(init=False)
    _resources: dict[str, tuple[str, dict[str, Any]]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        owner = self.account.owner
        self.uuid = self.account.uuid
        self.brand = str(owner["brand"])
        self.timestamp = _text(self.wall_ns)
        self.user_id, self.project_id = owner["user_id"], owner["project_id"]
        self.metadata = self._metadata()
        self.cpu_metadata = {**self.metadata, "cpu_number": self.metadata["vcpus"]}
        self.probed_metadata = {**self.metadata, "quality": self.probed_quality}
        self._resources = {}

    def _metadata(self) -> dict[str, Any]:
        owner = self.account.owner
        flavor = dict(owner["flavor"])
        host = owner["host"]
        image = {"id": owner["image_ref"]} if owner["image_ref"] else None
        running = self.member is not None and self.member.running
        return {
            "display_name": owner["display_name"],
            "name": owner["name"],
            "instance_id": self.uuid,
            "instance_type": flavor["name"],
            # as Nova's API makes it
            "host": hashlib.sha224((self.project_id + host).encode()).hexdigest(),
            "instance_host": host,
            "flavor": flavor,
            "status": "active" if running else "shutoff" if self.member else "deleted",
            "state": "active" if running else "stopped" if self.member else "deleted",
            "task_state": "",
            "image": image,
            "image_ref": owner["image_ref"] or None,
            "image_ref_url": None,
            "vcpus": flavor["vcpus"],
            "memory_mb": flavor["ram"],
            "disk_gb": flavor["disk"],
            "ephemeral_gb": flavor["ephemeral"],
            # the driver's mark has root_gb there
            "root_gb": int(flavor["disk"]),
            "brand": self.brand,
            "quality": self.quality,
        }

    def resource(self, kind: str, name: str) -> tuple[str, dict[str, Any]]:
        """The id and the metadata of a nic or disk; where both may be, their names differ."""
        found = self._resources.get(name)
        if found is None:
            make = self._nic if kind == meters.NIC else self._disk
            found = self._resources[name] = make(name)
        return found

    def _nic(self, mac: str) -> tuple[str, dict[str, Any]]:
        told = self.account.resources.get(mac, {})
        port, interface = told.get("port"), told.get("interface", "")
        # what libvirt's would be called
        name = f"tap{port[:11]}" if port else interface
        more = {
            "name": name,
            "vnic_name": name,
            "mac": mac,
            "fref": None,
            "parameters": {"interfaceid": port, "bridge": None},
            "interface": interface,
        }
        id_ = f"{self.account.owner['name']}-{self.uuid}-{name}"
        return id_, {**self.metadata, **more}

    def _disk(self, device: str) -> tuple[str, dict[str, Any]]:
        return f"{self.uuid}-{device}", {**self.metadata, "disk_name": device}


#: The volumes of a meter, by nic or disk.
_Reader = Callable[[View], Sequence[_Row]]


def of_instances(meter: meters.Meter, views: Iterable[View]) -> Iterator[Sample]:
    """The samples of one meter; none for an instance where it has no truthful answer.

    The first of a total comes with another of zero: whoever bills the differences between samples
    would never see what was used before the first. One after a long time comes with another of what
    was given last. Either is told of a moment before.
    """
    kind = type(meter.source)
    rows_of = _READERS[kind](meter)
    whole, brands = meter.resource == meters.INSTANCE, meter.brands
    origin = meter.source.origin if isinstance(meter.source, meters.Counted) else None
    said = "probed_metadata" if kind in _PROBED else _METADATA.get(meter.name, "metadata")
    metadata_of = operator.attrgetter(said)
    for view in views:
        if view.brand not in brands:
            continue
        if origin and view.given is not None:
            moment = view.wall_ns - ledger.MOMENT_NS
            before = dataclasses.replace(
                view, totals=view.given, given=None, births={}, wall_ns=moment
            )
            yield from of_instances(meter, [before])
        for name, volume in rows_of(view):
            if whole:
                id_, metadata = view.uuid, metadata_of(view)
            else:
                id_, metadata = view.resource(meter.resource, name)
            if origin and view.births:
                place = name if meter.resource == meters.NIC else ""
                born_ns = view.births.get((place, origin))
                if born_ns is not None:
                    owner = view.user_id, view.project_id
                    yield _made(meter, 0, *owner, id_, _text(born_ns), metadata)
            yield _made(meter, volume, view.user_id, view.project_id, id_, view.timestamp, metadata)


def of_node(meter: meters.Meter, uuid: str, name: str, volume: Volume, wall_ns: int) -> Sample:
    """A sample of a node itself, which belongs to nobody."""
    return _made(meter, volume, None, None, uuid, _text(wall_ns), {"name": name, "host": name})


def _made(
    meter: meters.Meter,
    volume: Volume,
    user_id: str | None,
    project_id: str | None,
    resource_id: str,
    timestamp: str,
    metadata: dict[str, Any],
) -> Sample:
    return Sample(
        meter.name,
        meter.type,
        meter.unit,
        volume,
        user_id,
        project_id,
        resource_id,
        timestamp,
        metadata,
        # uuid1(), which Ceilometer would make, takes longer than all the rest
        id=f"{next(_numbers) & 0xFFFFFFFF:08x}{_SERIES}",
    )


def _counter(meter: meters.Meter) -> _Reader:
    source = meter.source
    assert isinstance(source, meters.Counter)
    kstat, divisor = source.kstat, source.divisor
    first, *more = source.statistics

    def sum_of(sums: Mapping[str, int]) -> Volume | None:
        total = sums.get(first)
        for name in more:
            value = sums.get(name)
            total = None if total is None or value is None else total + value
        # None: this platform does not count it
        return total if total is None or divisor == 1 else total / divisor

    def of_nics(view: View) -> Sequence[_Row]:
        found = [(mac, sum_of(sums)) for (mac, of), sums in view.totals.items() if of == kstat]
        return [(mac, total) for mac, total in found if total is not None]

    place = ("", kstat)
    # a zone's reads and writes are those of all its file systems, and told of its root
    name = "root" if meter.resource == meters.DISK else ""

    def of_zone(view: View) -> Sequence[_Row]:
        sums = view.totals.get(place)
        total = None if sums is None else sum_of(sums)
        return () if total is None else [(name, total)]

    return of_nics if meter.resource == meters.NIC else of_zone


def _probes(meter: meters.Meter) -> _Reader:
    source = meter.source
    assert isinstance(source, (meters.Probes, meters.Below))
    script, place, number = source.script, ("", source.origin), source.number

    def read(view: View) -> Sequence[_Row]:
        if view.scripts is not None and script not in view.scripts:
            # what has not been counted is not zero
            return ()
        sums = view.totals.get(place)
        total = None if sums is None else sums.get(number)
        return () if total is None else [("", total)]

    return read


def _level(meter: meters.Meter) -> _Reader:
    source = meter.source
    assert isinstance(source, meters.Level)
    kstat, statistic, divisor = source.kstat, source.statistic, source.divisor

    def read(view: View) -> Sequence[_Row]:
        found = view.zone.kstats.get(kstat) if view.zone else None
        value = found.numbers.get(statistic) if found else None
        # without a cap it is as large as can be
        if value is None or value >= _KSTAT_MAX:
            return ()
        return [("", value if divisor == 1 else value / divisor)]

    return read


_SAID: Mapping[str, Callable[[roster.Member, Mapping[str, Any]], Volume | None]] = {
    "disk.ephemeral.size": lambda member, flavor: int(flavor["ephemeral"]),
    "disk.root.size": lambda member, flavor: int(flavor["disk"]),
    "memory": lambda member, flavor: member.memory_mib,
    "power.state": lambda member, flavor: _RUNNING if member.running else _SHUT_OFF,
    "vcpus": lambda member, flavor: int(flavor["vcpus"]),
}


def _said(meter: meters.Meter) -> _Reader:
    said = _SAID[meter.name]

    def read(view: View) -> Sequence[_Row]:
        if view.member is None:
            return ()
        volume = said(view.member, view.account.owner["flavor"])
        return () if volume is None else [("", volume)]

    return read


_DATASET: Mapping[str, Callable[[zfs.Usage], Volume | None]] = {
    "disk.device.capacity": lambda usage: usage.quota_bytes or usage.volsize_bytes,
    "disk.device.allocation": operator.attrgetter("used_bytes"),
    "disk.device.usage": lambda usage: usage.used_by_dataset_bytes + usage.used_by_snapshots_bytes,
    "smartos.disk.snapshots": operator.attrgetter("used_by_snapshots_bytes"),
    "smartos.disk.logical": operator.attrgetter("logical_bytes"),
    "smartos.disk.compression": operator.attrgetter("compression_ratio"),
}


def _dataset(meter: meters.Meter) -> _Reader:
    volume = _DATASET[meter.name]

    def read(view: View) -> Sequence[_Row]:
        if view.member is None:
            return ()
        found = [
            (device, volume(view.usage[dataset]))
            for device, dataset in view.member.datasets.items()
            if dataset in view.usage
        ]
        return [(device, value) for device, value in found if value is not None]

    return read


def _derived(meter: meters.Meter) -> _Reader:
    source = meter.source
    assert isinstance(source, meters.Derived)
    way = 1 if source.meter == "network.outgoing.bytes" else 0

    def rates(view: View) -> Sequence[_Row]:
        moved = view.moved.items()
        return [(mac, each[way] * 10**9 / each[2]) for mac, each in moved if each[2]]

    def differences(view: View) -> Sequence[_Row]:
        return [(mac, each[way]) for mac, each in view.moved.items()]

    return rates if source.per_second else differences


def _own(meter: meters.Meter) -> _Reader:
    source = meter.source
    assert isinstance(source, meters.Own)
    said = operator.attrgetter("gap_ns" if source.what == "gap" else "anomalies")
    return lambda view: [("", said(view.account))]


_PROBED = frozenset({meters.Below, meters.Probes})
#: Of a meter that says more than the others.
_METADATA = {"cpu": "cpu_metadata"}
#: By kind of source: what reads a meter's volumes from a view, made once for all views.
_READERS: Mapping[type, Callable[[meters.Meter], _Reader]] = {
    meters.Below: _probes,
    meters.Counter: _counter,
    meters.Dataset: _dataset,
    meters.Derived: _derived,
    meters.Level: _level,
    meters.Own: _own,
    meters.Probes: _probes,
    meters.Said: _said,
}


def _text(wall_ns: int) -> str:
    moment = datetime.datetime.fromtimestamp(wall_ns // 10**9, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns % 10**9 // 1000:06}+00:00"
