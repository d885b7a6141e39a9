# SPDX-License-Identifier: Apache-2.0
"""Samples: what the ledger, a node's kstats and ZFS say, under Ceilometer's names."""

import dataclasses
import datetime
import functools
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


@dataclasses.dataclass(frozen=True)
class View:
    """One instance at one cycle: what its samples are made of."""

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

    @functools.cached_property
    def timestamp(self) -> str:
        return _text(self.wall_ns)

    @functools.cached_property
    def brand(self) -> str:
        return str(self.account.owner.get("brand", ""))

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What Ceilometer's own pollsters say of an instance, and how good the numbers are."""
        owner, uuid = self.account.owner, self.account.uuid
        flavor = dict(owner["flavor"])
        project, host = owner["project_id"], owner["host"]
        image = {"id": owner["image_ref"]} if owner["image_ref"] else None
        running = self.member is not None and self.member.running
        return {
            "display_name": owner["display_name"],
            "name": owner["name"],
            "instance_id": uuid,
            "instance_type": flavor["name"],
            # as Nova's API makes it
            "host": hashlib.sha224((project + host).encode()).hexdigest(),
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

    @functools.cached_property
    def cpu_metadata(self) -> dict[str, Any]:
        """With what libvirt's sample of CPU time has besides."""
        return {**self.metadata, "cpu_number": self.metadata["vcpus"]}

    @functools.cached_property
    def probed_metadata(self) -> dict[str, Any]:
        return {**self.metadata, "quality": self.probed_quality}

    def resource(self, kind: str, name: str) -> tuple[str, dict[str, Any]]:
        """The id and the metadata of a nic or disk."""
        key = f"{kind}/{name}"
        found = self._resources.get(key)
        if found is None:
            make = self._nic if kind == meters.NIC else self._disk
            found = self._resources[key] = make(name)
        return found

    @functools.cached_property
    def _resources(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {}

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
        id_ = f"{self.account.owner['name']}-{self.account.uuid}-{name}"
        return id_, {**self.metadata, **more}

    def _disk(self, device: str) -> tuple[str, dict[str, Any]]:
        return f"{self.account.uuid}-{device}", {**self.metadata, "disk_name": device}


def of_instances(meter: meters.Meter, views: Iterable[View]) -> Iterator[Sample]:
    """The samples of one meter; none for an instance where it has no truthful answer.

    The first of a total comes with another of zero: whoever bills the differences between samples
    would never see what was used before the first. One after a long time comes with another of what
    was given last. Either is told of a moment before.
    """
    kind, volumes = type(meter.source), _VOLUMES[type(meter.source)]
    origin = meter.source.origin if isinstance(meter.source, meters.Counted) else None
    said = "probed_metadata" if kind in _PROBED else _METADATA.get(meter.name, "metadata")
    metadata_of = operator.attrgetter(said)
    for view in views:
        if view.brand not in meter.brands:
            continue
        if origin and view.given is not None:
            moment = view.wall_ns - ledger.MOMENT_NS
            before = dataclasses.replace(
                view, totals=view.given, given=None, births={}, wall_ns=moment
            )
            yield from of_instances(meter, [before])
        for name, volume in volumes(meter, view):
            if meter.resource == meters.INSTANCE:
                id_, metadata = view.account.uuid, metadata_of(view)
            else:
                id_, metadata = view.resource(meter.resource, name)
            if origin and view.births:
                place = name if meter.resource == meters.NIC else ""
                born_ns = view.births.get((place, origin))
                if born_ns is not None:
                    yield _made(meter, view.account.owner, id_, metadata, 0, _text(born_ns))
            yield _made(meter, view.account.owner, id_, metadata, volume, view.timestamp)


def of_node(meter: meters.Meter, uuid: str, name: str, volume: Volume, wall_ns: int) -> Sample:
    """A sample of a node itself, which belongs to nobody."""
    nobody = {"user_id": None, "project_id": None}
    return _made(meter, nobody, uuid, {"name": name, "host": name}, volume, _text(wall_ns))


def _made(
    meter: meters.Meter,
    owner: Mapping[str, Any],
    resource_id: str,
    metadata: dict[str, Any],
    volume: Volume,
    timestamp: str,
) -> Sample:
    return Sample(
        meter.name,
        meter.type,
        meter.unit,
        volume,
        owner["user_id"],
        owner["project_id"],
        resource_id,
        timestamp,
        metadata,
        # uuid1(), which Ceilometer would make, takes longer than all the rest
        id=f"{next(_numbers) & 0xFFFFFFFF:08x}{_SERIES}",
    )


def _counter(meter: meters.Meter, view: View) -> Sequence[_Row]:
    source = meter.source
    assert isinstance(source, meters.Counter)
    if meter.resource == meters.NIC:
        places = [resource for resource, of in view.totals if of == source.kstat]
        return [(mac, total) for mac in places if (total := _sum(view, mac, source)) is not None]
    total = _sum(view, "", source)
    # a zone's reads and writes are those of all its file systems, and told of its root
    return () if total is None else [("root" if meter.resource == meters.DISK else "", total)]


def _sum(view: View, place: str, source: meters.Counter) -> Volume | None:
    sums = view.totals.get((place, source.kstat))
    if sums is None:
        return None
    try:
        total = sum([sums[name] for name in source.statistics])
    except KeyError:
        # this platform does not count it
        return None
    return total if source.divisor == 1 else total / source.divisor


def _probes(meter: meters.Meter, view: View) -> Sequence[_Row]:
    source = meter.source
    assert isinstance(source, (meters.Probes, meters.Below))
    if view.scripts is not None and source.script not in view.scripts:
        # what has not been counted is not zero
        return ()
    sums = view.totals.get(("", source.origin))
    total = None if sums is None else sums.get(source.number)
    return () if total is None else [("", total)]


def _level(meter: meters.Meter, view: View) -> Sequence[_Row]:
    source = meter.source
    assert isinstance(source, meters.Level)
    found = view.zone.kstats.get(source.kstat) if view.zone else None
    value = found.numbers.get(source.statistic) if found else None
    # without a cap it is as large as can be
    if value is None or value >= _KSTAT_MAX:
        return ()
    return [("", value if source.divisor == 1 else value / source.divisor)]


_SAID: Mapping[str, Callable[[roster.Member, Mapping[str, Any]], Volume | None]] = {
    "disk.ephemeral.size": lambda member, flavor: int(flavor["ephemeral"]),
    "disk.root.size": lambda member, flavor: int(flavor["disk"]),
    "memory": lambda member, flavor: member.memory_mib,
    "power.state": lambda member, flavor: _RUNNING if member.running else _SHUT_OFF,
    "vcpus": lambda member, flavor: int(flavor["vcpus"]),
}


def _said(meter: meters.Meter, view: View) -> Sequence[_Row]:
    if view.member is None:
        return ()
    volume = _SAID[meter.name](view.member, view.account.owner["flavor"])
    return () if volume is None else [("", volume)]


_DATASET: Mapping[str, Callable[[zfs.Usage], Volume | None]] = {
    "disk.device.capacity": lambda usage: usage.quota_bytes or usage.volsize_bytes,
    "disk.device.allocation": operator.attrgetter("used_bytes"),
    "disk.device.usage": lambda usage: usage.used_by_dataset_bytes + usage.used_by_snapshots_bytes,
    "smartos.disk.snapshots": operator.attrgetter("used_by_snapshots_bytes"),
    "smartos.disk.logical": operator.attrgetter("logical_bytes"),
    "smartos.disk.compression": operator.attrgetter("compression_ratio"),
}


def _dataset(meter: meters.Meter, view: View) -> Sequence[_Row]:
    if view.member is None:
        return ()
    volume = _DATASET[meter.name]
    found = [
        (device, volume(view.usage[dataset]))
        for device, dataset in view.member.datasets.items()
        if dataset in view.usage
    ]
    return [(device, value) for device, value in found if value is not None]


def _derived(meter: meters.Meter, view: View) -> Sequence[_Row]:
    source = meter.source
    assert isinstance(source, meters.Derived)
    way = 1 if source.meter == "network.outgoing.bytes" else 0
    if source.per_second:
        return [
            (mac, moved[way] * 10**9 / moved[2]) for mac, moved in view.moved.items() if moved[2]
        ]
    return [(mac, moved[way]) for mac, moved in view.moved.items()]


def _own(meter: meters.Meter, view: View) -> Sequence[_Row]:
    source = meter.source
    assert isinstance(source, meters.Own)
    account = view.account
    return [("", account.gap_ns if source.what == "gap" else account.anomalies)]


_PROBED = frozenset({meters.Below, meters.Probes})
#: Of a meter that says more than the others.
_METADATA = {"cpu": "cpu_metadata"}
_VOLUMES: Mapping[type, Callable[[meters.Meter, View], Sequence[_Row]]] = {
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
