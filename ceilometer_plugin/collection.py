# SPDX-License-Identifier: Apache-2.0
"""One node, read once a cycle: one kstat command for all its zones, and DTrace's newest frames."""

import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ceilometer_plugin import conf as meters_conf
from ceilometer_plugin import consumer, ledger, meters, roster
from nova_smartos import readings
from nova_smartos.smartos import errors, kstat, zfs

LOG = logging.getLogger(__name__)

#: The kstats that the table wants of each zone, and the module that each is of.
_CAPS = ("cpucaps", "lockedmem", "nprocs")
_SELECTORS = (
    *map(kstat.Selector, ("caps", "link", "memory_cap", "tcp", "zone_vfs", "zone_zfs", "zones")),
    readings.BOOT,
)
_ROSTER_SECONDS = 10.0
# After so many periods without a frame, nothing is told of what a script counts.
_OLD_PERIODS = 4

_NONE: frozenset[str] = frozenset()
#: By source: what the table wants of a kstat, and what of that wraps after 32 bits.
COUNTED: dict[str, tuple[str, ...]] = {}
NARROW: dict[str, frozenset[str]] = {}
for _meter in meters.METERS:
    _source = _meter.source
    _counter = _source.kernel if isinstance(_source, meters.Ratio) else _source
    if isinstance(_counter, meters.Counter):
        _of, _names = _counter.kstat, _counter.statistics
        COUNTED[_of] = tuple(dict.fromkeys((*COUNTED.get(_of, ()), *_names)))
        if _counter.narrow:
            NARROW[_of] = NARROW.get(_of, _NONE) | frozenset(_names)


@dataclasses.dataclass(frozen=True)
class Zone:
    """What was read of one zone."""

    member: roster.Member
    #: by the name that the table has for each
    kstats: Mapping[str, readings.Counters]
    #: those of its nics, by interface
    links: Mapping[str, readings.Counters]


@dataclasses.dataclass(frozen=True)
class Lost:
    """What DTrace did not count: since the agent began, or since it was last asked."""

    drops: int = 0
    restarts: int = 0
    down_ns: int = 0

    def plus(self, other: "Lost") -> "Lost":
        """Both together."""
        return Lost(
            self.drops + other.drops, self.restarts + other.restarts, self.down_ns + other.down_ns
        )


@dataclasses.dataclass(frozen=True)
class Collected:
    """What was read of a node."""

    server_uuid: str
    wall_ns: int
    #: when it was read, by the node's clock since its boot, and which boot that was
    read_ns: int
    boot: int
    members: Mapping[str, roster.Member]
    zones: Mapping[str, Zone]
    #: when each zone id began to mean which zone
    zone_ids: Mapping[int, tuple[str, int]]
    usage: Mapping[str, zfs.Usage]
    frames: Sequence[consumer.Frame]
    #: what zones that went away had counted
    finals: Sequence[consumer.Final] = ()
    #: those scripts of which there is a frame that is young enough
    scripts: frozenset[str] = frozenset()
    lost: Lost = Lost()


class Source:
    """One node that is read again and again, each time in a thread, never twice at once."""

    def __init__(
        self,
        place: meters_conf.Place,
        dtrace: consumer.Consumer | None,
        space_interval: float,
        dtrace_period: float,
    ) -> None:
        self.place = place
        self.dtrace = dtrace
        self.roster = roster.Roster(place.node)
        self.failed = 0
        self._lost = Lost()
        self._space_interval = space_interval
        self._old_ns = int(_OLD_PERIODS * dtrace_period * 10**9)
        self._space_read = float("-inf")
        self._usage: dict[str, zfs.Usage] = {}
        self._executor = concurrent.futures.ThreadPoolExecutor(1, f"smartos-{place.name}")
        self._space = concurrent.futures.ThreadPoolExecutor(1, f"smartos-space-{place.name}")
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to follow the node."""
        self.roster.start()
        if self.dtrace is not None:
            self.dtrace.start()

    def stop(self) -> None:
        """Let go of the node."""
        self.roster.stop()
        if self.dtrace is not None:
            self.dtrace.close()
        for executor in (self._executor, self._space):
            executor.shutdown(wait=False, cancel_futures=True)
        self.place.node.close()

    def take_lost(self, collected: Collected) -> Lost:
        """What DTrace lost between the collection that this was last asked of and this one."""
        before, self._lost = self._lost, collected.lost
        return Lost(
            self._lost.drops - before.drops,
            self._lost.restarts - before.restarts,
            self._lost.down_ns - before.down_ns,
        )

    def take_failed(self) -> int:
        """How many cycles gave nothing since this was last asked."""
        failed, self.failed = self.failed, 0
        return failed

    def begin(self) -> "concurrent.futures.Future[Collected]":
        """Read the node now; what comes of it is in the future."""
        return self._executor.submit(self._collect)

    def _collect(self) -> Collected:
        members = self.roster.members(_ROSTER_SECONDS)
        if members is None:
            raise errors.NotStarted("the node does not tell of its VMs")
        self._look_at_space()
        found = self.place.node.kstat.read(_SELECTORS)
        wall = time.time_ns()
        dtrace = self.dtrace
        # what has ended first: a newer run is another epoch
        frames = [] if dtrace is None else [*dtrace.ended(), *dtrace.frames().values()]
        with self._lock:
            usage = dict(self._usage)
        read_ns = max((each.snaptime_ns for each in found), default=0)
        young = {each.script for each in frames if each.hrtime_ns > read_ns - self._old_ns}
        return Collected(
            server_uuid=self.roster.server_uuid,
            wall_ns=wall,
            read_ns=read_ns,
            boot=readings.boot_of(found),
            members=members,
            zones=_zones(members, found),
            zone_ids=_zone_ids(found),
            usage=usage,
            frames=frames,
            finals=[] if dtrace is None else dtrace.finals(),
            scripts=frozenset(young),
            lost=Lost() if dtrace is None else _lost(dtrace),
        )

    def _look_at_space(self) -> None:
        """Ask what datasets take, beside the cycle; what was known before serves meanwhile."""
        now = time.monotonic()
        if now - self._space_read < self._space_interval:
            return
        first = not self._usage
        self._space_read = now
        asked = self._space.submit(self._read_space)
        if first:
            asked.result()

    def _read_space(self) -> None:
        try:
            usage = {each.name: each for each in self.place.node.zfs.usage()}
        except errors.SmartOSError as error:
            LOG.warning("Node %s does not tell what datasets take: %s", self.place.name, error)
            usage = {}
        with self._lock:
            self._usage = usage


def readings_of(
    found: Iterable[readings.Counters],
    member: roster.Member,
    node: str,
    boot: int,
    wall_ns: int,
    *,
    since_ns: int,
) -> Iterator[ledger.Reading]:
    """Kstats of one zone for the ledger.

    What began before `since_ns` counts from its first reading.
    """
    macs = {nic.interface: nic.mac for nic in member.nics}
    for each in found:
        source, resource = source_of(each.module, each.name), ""
        if source == "link":
            interface = interface_of(each)
            if interface not in macs:
                continue
            resource = macs[interface]
        counted = COUNTED.get(source or "")
        if counted is None or source is None:
            continue
        yield ledger.Reading(
            key=f"{life_of(node, boot, source, each.instance)}{each.name}/{each.crtime_ns}",
            resource=resource,
            source=source,
            vm=member.vm_uuid,
            node=node,
            boot=boot,
            born_ns=each.crtime_ns,
            read_ns=each.snaptime_ns,
            wall_ns=wall_ns,
            values={name: each.numbers[name] for name in counted if name in each.numbers},
            narrow=NARROW.get(source, _NONE),
            start={} if each.crtime_ns >= since_ns else None,
        )


def life_of(node: str, boot: int, source: str, zoneid: int) -> str:
    """What the keys begin with of the readings of a zone's kstat."""
    return f"{node}/{boot}/{source}/{zoneid}/"


def interface_of(link: readings.Counters) -> str:
    """The nic that a zone's link is, which the kernel names after the zone's id."""
    return link.name.partition("_")[2] or link.name


def source_of(module: str, name: str) -> str | None:
    """What the table calls a kstat; None for those that it does not know."""
    if module == "caps":
        kind = name.partition("_zone_")[0]
        return f"caps.{kind}" if kind in _CAPS else None
    if module == readings.TCP:
        return module if name == readings.TCP else None
    return module


def _lost(dtrace: consumer.Consumer) -> Lost:
    return Lost(sum(dtrace.drops.values()), dtrace.restarts, dtrace.down_ns)


def _zones(
    members: Mapping[str, roster.Member], found: Sequence[kstat.Instance]
) -> dict[str, Zone]:
    kstats: dict[str, dict[str, readings.Counters]] = {}
    links: dict[str, dict[str, readings.Counters]] = {}
    names = {zone_id: zonename for zone_id, (zonename, _) in _zone_ids(found).items()}
    for each in found:
        # its kernel counts TCP by stack, which has the id of its zone, and names none
        zonename = names.get(each.instance) if each.module == readings.TCP else each.zonename
        if zonename is None and each.module == ledger.GAPS_OF:
            where = f"{each.module}:{each.instance}:{each.name}"
            raise errors.OutputError(f"kstat {where} names no zone")
        if zonename is None or zonename not in members:
            continue
        source = source_of(each.module, each.name)
        if source == "link":
            counters = readings.Counters.of(each)
            links.setdefault(zonename, {})[interface_of(counters)] = counters
        elif source is not None:
            kstats.setdefault(zonename, {})[source] = readings.Counters.of(each)
    return {
        zonename: Zone(members[zonename], each, links.get(zonename, {}))
        for zonename, each in kstats.items()
        if ledger.GAPS_OF in each
    }


def _zone_ids(found: Iterable[kstat.Instance]) -> dict[int, tuple[str, int]]:
    return {
        each.instance: (each.zonename or "", each.crtime_ns or 0)
        for each in found
        if each.module == ledger.GAPS_OF
    }
