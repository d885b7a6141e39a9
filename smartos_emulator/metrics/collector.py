# SPDX-License-Identifier: Apache-2.0
"""The kernel statistics of a node: which zones count, at which rates, and since when."""

import collections
import collections.abc
import dataclasses
import threading
import typing

from smartos_emulator import network
from smartos_emulator.metrics import kstat, machine_tables, meter, zone_tables

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Record = dict[str, typing.Any]

GLOBAL = "global"
_GLOBAL_LOAD = {"memory": float(600 << 20), "swap": float(700 << 20)}


@dataclasses.dataclass
class _Zone:
    id: int
    name: str
    uuid: str
    record: Record
    booted: int
    pace: meter.Pace
    meter: meter.Meter
    links: bool = False

    @property
    def is_hvm(self) -> bool:
        return self.record.get("brand") in zone_tables.HVM


@dataclasses.dataclass(frozen=True)
class Change:
    """What happened to a zone: it came, it does something else, or it went."""

    at: int
    zoneid: int
    kind: str
    arrived: "Watched | None" = None
    profile: dict[str, float] = dataclasses.field(default_factory=dict)
    cpus: float = 0.0
    capped: bool = False


@dataclasses.dataclass
class Watched:
    """A zone as one who watches follows it, with a meter that is that one's own."""

    id: int
    name: str
    hvm: bool
    links: bool
    address: str
    pace: meter.Pace
    meter: meter.Meter


class Watch:
    """The zones from one moment on, and each change in the order in which it came."""

    def __init__(self, metrics: "Metrics", at: int, zones: list[Watched], written: int) -> None:
        self._metrics = metrics
        self.at = at
        self.zones = zones
        #: What ZFS had written for the zones, in operations.
        self.written = written
        self.changes: collections.deque[Change] = collections.deque()

    def close(self) -> None:
        self._metrics.forget(self)


class Metrics:
    """Counters of one node and its zones; a zone's begin anew when it boots."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.RLock()
        self._loads = node.state_file("loads")
        self._zones: dict[int, _Zone] = {}
        self._past = _Past()
        self._watches: list[Watch] = []
        counts = meter.Meter(0, self._profile(GLOBAL), node.config.cpus)
        pace = meter.Pace(node.config.seed, GLOBAL)
        self._zones[0] = _Zone(0, GLOBAL, GLOBAL, {}, self.boot_time(), pace, counts)

    # -- what others tell --

    def boot(self, vm: Record, zoneid: int) -> None:
        """A zone is up: its counters begin."""
        with self._lock:
            uuid = vm["uuid"]
            booted = int(self._node.clock.now().timestamp())
            cpus, capped = self._cpus(vm)
            now = self.hrtime()
            counts = meter.Meter(now, self._profile(uuid), cpus, capped)
            pace = meter.Pace(self._node.config.seed, uuid)
            links = bool(self._node.network.zone_links(vm["zonename"]))
            zone = _Zone(zoneid, vm["zonename"], uuid, vm, booted, pace, counts, links)
            self._zones[zoneid] = zone
            for watch in self._watches:
                watch.changes.append(Change(now, zoneid, "boot", _watched(zone)))

    def halt(self, zoneid: int) -> None:
        """A zone is gone, and its counters with it; the machine keeps what was done."""
        with self._lock:
            zone = self._zones.pop(zoneid, None)
            if zone is None:
                return
            now = self.hrtime()
            zone.meter.advance(now)
            for watch in self._watches:
                watch.changes.append(Change(now, zoneid, "halt"))
            links = self._node.network.zone_links(zone.name)
            self._past.add(zone.meter, links[0].over[0] if links else "-")

    def load(self, uuid: str, **rates: float) -> None:
        """Script what a VM does from now on; a rate that is not given stays as it was."""
        unknown = sorted(set(rates) - set(meter.KEYS))
        if unknown:
            raise ValueError(f"no such load: {', '.join(unknown)} ({', '.join(meter.KEYS)})")
        if any(value < 0 for value in rates.values()):
            raise ValueError("a load cannot be negative")
        if any(rates.get(share, 0) > 1 for share in meter.SHARES):
            raise ValueError(f"{' and '.join(meter.SHARES)} are parts of one")
        with self._lock:
            loads = self._loads.load({})
            loads[uuid] = {**loads.get(uuid, {}), **rates}
            self._loads.save(loads)
            for zone in self._zones.values():
                if zone.uuid == uuid:
                    self._change(zone, self.hrtime())

    def _change(self, zone: _Zone, now: int) -> None:
        """A zone has another load, or other limits."""
        profile, (cpus, capped) = self._profile(zone.uuid), self._cpus(zone.record)
        zone.meter.change(now, profile, cpus, capped)
        change = Change(now, zone.id, "change", None, profile, cpus, capped)
        for watch in self._watches:
            watch.changes.append(change)

    def _profile(self, uuid: str) -> dict[str, float]:
        scripted: dict[str, float] = self._loads.load({}).get(uuid, {})
        usual = meter.idle(self._node.config.seed, uuid)
        return usual | (_GLOBAL_LOAD if uuid == GLOBAL else {}) | scripted

    def _cpus(self, record: Record) -> tuple[float, bool]:
        """How many processors a zone can keep busy, and whether its cap says so."""
        limits = [float(self._node.config.cpus)]
        if record.get("vcpus"):
            limits.append(float(record["vcpus"]))
        cap = int(record.get("cpu_cap") or 0) / 100
        return (cap, True) if cap and cap < min(limits) else (min(limits), False)

    # -- who watches --

    def watch(self) -> Watch:
        """The zones as they are now, and from now on what changes."""
        with self._lock:
            now = self.hrtime()
            self._follow_caps(now)
            written = self._for_others()[0] + self._zones[0].meter.part("disk_write_ops")
            zones = [_watched(zone) for zone in self._zones.values()]
            watch = Watch(self, now, zones, written)
            self._watches.append(watch)
            return watch

    def forget(self, watch: Watch) -> None:
        with self._lock:
            self._watches.remove(watch)

    def settle(self) -> int:
        """Take over what changed; the moment up to which each watch knows all."""
        with self._lock:
            now = self.hrtime()
            self._follow_caps(now)
            return now

    # -- what is read --

    def hrtime(self) -> int:
        """Nanoseconds of node time since the node booted."""
        return int(self._node.clock.monotonic() * meter.NANO)

    def boot_time(self) -> int:
        """When the node booted, in seconds of the epoch."""
        return int(self._node.clock.booted.timestamp())

    def read(self) -> list[kstat.Kstat]:
        """Every kstat of the node, all of one moment."""
        with self._lock:
            now = self.hrtime()
            self._follow_caps(now)
            views = [self._view(zone, now) for zone in self._zones.values()]
            views[0] = dataclasses.replace(views[0], for_others=self._for_others())
            found = machine_tables.of_machine(self._machine(views, now))
            for view in views:
                found += zone_tables.of_zone(view)
            return found + self._own_links(views, now)

    def zone(self, zoneid: int) -> meter.Meter | None:
        """The counters of a zone as they stand now."""
        with self._lock:
            zone = self._zones.get(zoneid)
            if zone is None:
                return None
            zone.meter.advance(self.hrtime())
            return zone.meter

    def averages(self) -> tuple[float, ...]:
        """The node's load averages of 1, 5 and 15 minutes."""
        with self._lock:
            now = self.hrtime()
            views = [self._view(zone, now) for zone in self._zones.values()]
            return tuple(sum(v.meter.averages()[at] for v in views) / 256 for at in range(3))

    def _follow_caps(self, now: int) -> None:
        """Take over what vmadm has changed in running zones."""
        records = {vm["uuid"]: vm for vm in self._node.vms.all()}
        for zone in self._zones.values():
            zone.record = records.get(zone.uuid, zone.record)
            if self._cpus(zone.record) != (zone.meter.cpus, zone.meter.capped):
                self._change(zone, now)
            zone.meter.advance(now)

    def _for_others(self) -> tuple[int, int]:
        """What ZFS wrote later, of its own accord: operations and bytes of all zones so far."""
        keys = ("disk_write_ops", "disk_write")
        operations, size = (
            sum(zone.meter.count(key) - zone.meter.part(key) for zone in self._zones.values())
            for key in keys
        )
        return self._past.written[0] + operations, self._past.written[1] + size

    def _view(self, zone: _Zone, now: int) -> zone_tables.ZoneView:
        zone.meter.advance(now)
        return zone_tables.ZoneView(
            zone.id,
            zone.name,
            zone.pace,
            zone.meter,
            now,
            zone.booted,
            zone.record,
            self._node.network.zone_links(zone.name),
            int(zone.record.get("pid") or 1),
        )

    def _machine(
        self, views: collections.abc.Sequence[zone_tables.ZoneView], now: int
    ) -> machine_tables.MachineView:
        cpus = self._node.config.cpus
        user, kernel = self._past.user, self._past.kernel
        for view in views:
            more_user, more_kernel = view.meter.cpu_time()
            user, kernel = user + more_user, kernel + more_kernel
        user, kernel = self._past.bounded(user, kernel, now * cpus)
        averages = tuple(sum(view.meter.averages()[at] for view in views) for at in range(3))
        return machine_tables.MachineView(
            now=now,
            booted=self.boot_time(),
            cpus=cpus,
            memory_mib=self._node.config.memory_mib,
            user_ns=user,
            kernel_ns=kernel,
            idle_ns=self._past.idle(now * cpus - user - kernel),
            averages=averages,
            reads=self._past.reads + sum(view.meter.count("disk_read_ops") for view in views),
            syscalls=self._past.syscalls + sum(view.meter.syscalls() for view in views),
            used=sum(zone_tables.memory(view)[0] for view in views),
            processes=80 + 20 * (len(views) - 1),
        )

    def _own_links(
        self, views: collections.abc.Sequence[zone_tables.ZoneView], now: int
    ) -> list[kstat.Kstat]:
        """The global zone's links carry what the vnics over them carry."""
        found = []
        for link in self._node.network.links(""):
            traffic = self._past.traffic.get(link.name, zone_tables.Traffic())
            for view in views:
                if view.links and view.links[0].over[0] == link.name:
                    traffic = traffic.plus(zone_tables.Traffic.of(view.meter))
            found.append(_own_link(link, traffic, now))
        return found


def _own_link(link: network.Link, traffic: zone_tables.Traffic, now: int) -> kstat.Kstat:
    data = {**zone_tables.link_data(link, traffic), "zonename": GLOBAL}
    return kstat.Kstat("link", 0, kstat.cut(link.name), "net", 0, now, data)


def _watched(zone: _Zone) -> Watched:
    address = next(
        (ip.split("/")[0] for nic in zone.record.get("nics", []) for ip in nic.get("ips", [])), ""
    )
    counts = zone.meter.clone()
    return Watched(zone.id, zone.name, zone.is_hvm, zone.links, address, zone.pace, counts)


class _Past:
    """What zones did that are gone, and what was shown already and must not shrink."""

    def __init__(self) -> None:
        self.user = self.kernel = self.reads = self.syscalls = 0
        self.written = (0, 0)
        self.traffic: dict[str, zone_tables.Traffic] = {}
        self._shown = (0, 0, 0)

    def add(self, counts: meter.Meter, link: str) -> None:
        user, kernel = counts.cpu_time()
        self.user += user
        self.kernel += kernel
        self.reads += counts.count("disk_read_ops")
        self.syscalls += counts.syscalls()
        operations, size = (
            counts.count(key) - counts.part(key) for key in ("disk_write_ops", "disk_write")
        )
        self.written = (self.written[0] + operations, self.written[1] + size)
        before = self.traffic.get(link, zone_tables.Traffic())
        self.traffic[link] = before.plus(zone_tables.Traffic.of(counts))

    def bounded(self, user: int, kernel: int, most: int) -> tuple[int, int]:
        """CPU time that zones were promised, cut to what the processors have."""
        total = user + kernel
        if total > most:
            user, kernel = user * most // total, kernel * most // total
        user, kernel = max(user, self._shown[0]), max(kernel, self._shown[1])
        self._shown = (user, kernel, self._shown[2])
        return user, kernel

    def idle(self, time: int) -> int:
        self._shown = (*self._shown[:2], max(time, self._shown[2]))
        return self._shown[2]
