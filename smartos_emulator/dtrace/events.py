# SPDX-License-Identifier: Apache-2.0
"""What happens on the node, as probes see it: events that add up to the kstats.

Each source follows one counter of a zone's meter. From what it counted between two moments it
makes events, many alike in one. They lie at the start of that time, so that a window's edge, where
the time is cut, has all before it on the one side and all after on the other. A weight below zero
takes back: a packet that a frame cut has grown since.
"""

import collections.abc
import functools
import ipaddress
import itertools
import random
import typing

from smartos_emulator import metrics
from smartos_emulator.dtrace import builtins, machine, probes, types
from smartos_emulator.metrics import meter

_HEADERS = 14 + 20
_KERNEL_BASE = 0xFFFFFE00_00000000
_KERNEL_TEXT = 0xFFFFFFFF_FB800000 - (1 << 64)
_USER_TEXT = 0x401000
_PROGRAMS = ("node", "nginx", "postgres", "java", "python3", "redis-server")
# what a system call is, and how it ends: the n-th as its largest divisor says
_CALLS = (
    (1, "read", 0),
    (4, "write", 0),
    (16, "ioctl", 0),
    (64, "stat", 2),
    (256, "lwp_park", 62),
    (1024, "open", 13),
)
_CALLS_A_PROCESS = 2_000
READ, WRITE = 1, 2

Struct = dict[str, typing.Any]


def make(struct: str, **values: typing.Any) -> Struct:
    """A structure; what is not given is zero, or empty."""
    return _blank(struct) | values


@functools.cache
def _blank(struct: str) -> Struct:
    found: Struct = {"@": 0}
    for name, text in types.STRUCTS[struct].items():
        kind = types.find(text)
        found[name] = "" if kind and kind.is_string else builtins.NULL if "*" in text else 0
    return found


class Actor:
    """A thread of a zone, on whose behalf things happen."""

    def __init__(self, zone: metrics.Watched, seed: int, cpus: int) -> None:
        dice = random.Random(f"{seed}/{zone.name}/{zone.id}")
        base = _KERNEL_BASE + zone.id * 0x10000
        self.zone = zone.name
        self.tid = zone.id * 16 + 1
        self.cpu = zone.id % cpus
        self.pid = 0 if zone.id == 0 else 4000 + zone.id * 7
        self.execname = "sched" if zone.id == 0 else dice.choice(_PROGRAMS)
        if zone.hvm:
            self.execname = "bhyve"
        address = {"@": base}
        self.kernel_zone = make("zone_t", **address, zone_id=zone.id, zone_name=zone.name)
        self.process = make(
            "psinfo_t",
            **{"@": base + 0x1000},
            pr_addr=base + 0x1000,
            pr_pid=self.pid,
            pr_fname=self.execname,
            pr_psargs=self.execname,
            pr_zoneid=zone.id,
            pr_nlwp=1,
        )
        self.thread = make("lwpsinfo_t", **{"@": base + 0x2000}, pr_addr=base + 0x2000, pr_lwpid=1)
        self.processor = make("cpuinfo_t", **{"@": base + 0x3000}, cpu_id=self.cpu)
        owner = make("proc_t", **{"@": base + 0x1000}, p_zone=self.kernel_zone)
        self.kernel_thread = make("kthread_t", **{"@": base + 0x2000}, t_procp=owner, t_tid=1)
        self.connection = make("csinfo_t", **{"@": base + 0x4000}, cs_zoneid=zone.id)
        self.packet = make("pktinfo_t", **{"@": base + 0x5000})
        self.own_address = zone.address or f"10.88.{zone.id >> 8 & 255}.{zone.id & 255}"
        #: Whom it talks to: inside and outside.
        self.remotes = (
            f"10.{dice.randint(0, 255)}.{dice.randint(0, 255)}.{dice.randint(1, 254)}",
            f"203.0.113.{dice.randint(1, 254)}",
        )


class Zone:
    """A zone with what each source has seen of it."""

    def __init__(self, watched: metrics.Watched, actor: Actor, at: int) -> None:
        self.id = watched.id
        self.watched = watched
        self.meter = watched.meter
        self.pace = watched.pace
        self.actor = actor
        self.at = at
        #: Numbers of the sources, and what packets between two ends say of themselves.
        self.seen: dict[int, int] = {}
        self.infos: dict[tuple[int, ...], tuple[Struct, ...]] = {}


class Source:
    """Makes the events of some probes."""

    #: Provider and name of each of its probes.
    names: tuple[tuple[str, str], ...] = ()
    #: Whether its threads are the zone's own, or the kernel's.
    in_zone = True

    def __init__(self, load: "Load") -> None:
        self._load = load
        #: Where in what a zone has seen this source's numbers begin.
        self.base = load.room()
        self._machine = load.machine
        self._event = load.machine.event
        self._start = self._end = 0

    def probe(self, provider: str, name: str, function: str = "") -> probes.Probe | None:
        """The probe, if something is to be done at it."""
        for each in self._load.enabled:
            if (each.provider, each.name) == (provider, name) and function in ("", each.function):
                return each
        return None

    @classmethod
    def wanted(cls, enabled: list[probes.Probe]) -> bool:
        return any((each.provider, each.name) in cls.names for each in enabled)

    def begin(self, zone: Zone) -> None:
        """Note where a zone stands from which on events count."""

    def flush(self, zone: Zone, start: int, end: int) -> None:
        """Make the events of a zone that happened between two moments."""
        self._start, self._end = start, end
        self.emit(zone)

    def emit(self, zone: Zone) -> None:
        raise NotImplementedError

    def finish(self, start: int, end: int) -> None:
        """Make those events that no single zone's time has brought about."""

    def _single(self, probe: probes.Probe | None, weight: int) -> None:
        """Events that take no time."""
        if probe is not None and weight:
            self._event.at = self._start
            self._machine.fire(probe, weight)

    def _pair(
        self, first: probes.Probe | None, last: probes.Probe | None, took: int, weight: int
    ) -> None:
        """Events with a beginning and an end, within the time if it is long enough."""
        end = max(self._start, min(self._end - 1, self._start + took))
        event = self._event
        if first is not None:
            event.at = end - took
            self._machine.fire(first, weight)
        if last is not None:
            event.at = end
            self._machine.fire(last, weight)


class Counted(Source):
    """A source that follows whole numbers, each under a name of its own."""

    def counts(self, zone: Zone) -> tuple[int, ...]:
        raise NotImplementedError

    def begin(self, zone: Zone) -> None:
        for place, count in enumerate(self.counts(zone)):
            zone.seen[self.base + place] = count

    def grown(self, zone: Zone) -> list[tuple[int, int]]:
        """Each number before and now."""
        found = []
        for place, count in enumerate(self.counts(zone)):
            key = self.base + place
            found.append((zone.seen[key], count))
            zone.seen[key] = count
        return found


class Disk(Counted):
    """ZFS's physical reads and writes; writes that nobody waits for are the global zone's."""

    names = (("sdt", "zfs-zone-latency"),)
    in_zone = False

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._done = self.probe(*self.names[0])
        self._written = load.watch.written
        self._later = 0

    def counts(self, zone: Zone) -> tuple[int, ...]:
        counts = zone.meter
        return (
            counts.count("disk_read_ops"),
            counts.part("disk_write_ops"),
            counts.count("disk_write_ops"),
        )

    def emit(self, zone: Zone) -> None:
        reads, waited, written = self.grown(zone)
        self._operations(zone.id, READ, zone.pace.disk_read.between(*reads))
        if zone.id == 0:
            self._later += written[1] - written[0]
            return
        self._later += written[1] - written[0] - (waited[1] - waited[0])
        self._operations(zone.id, WRITE, zone.pace.disk_write.between(*waited))

    def finish(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        before, self._written = self._written, self._written + self._later
        self._later = 0
        pace = self._load.pace_of_kernel
        self._operations(0, WRITE, pace.disk_write.between(before, self._written))

    def _operations(self, zoneid: int, kind: int, found: list[tuple[int, int]]) -> None:
        for weight, took in found:
            self._event.args = (zoneid, kind, took)
            self._single(self._done, weight)


class Delay(Counted):
    """What the I/O throttle makes zones wait."""

    names = (("sdt", "zfs-zone-wait"),)

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._probe = self.probe(*self.names[0])

    def counts(self, zone: Zone) -> tuple[int, ...]:
        return (zone.meter.count("disk_delays"),)

    def emit(self, zone: Zone) -> None:
        ((before, now),) = self.grown(zone)
        for weight, took in zone.pace.delay.between(before, now):
            # logical writes wait most, then reads, then writes
            kind = {zone.pace.delay.base: 2, zone.pace.delay.base * 3: 0}.get(took, 1)
            self._event.args = (zone.id, kind, took)
            self._single(self._probe, weight)


class Spent(Source):
    """A source that follows time: it is cut into pieces of one length, and a rest."""

    first: tuple[str, str]
    last: tuple[str, str]

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._first, self._last = self.probe(*self.first), self.probe(*self.last)

    def spent(self, zone: Zone) -> int:
        raise NotImplementedError

    def piece(self, pace: meter.Pace) -> int:
        raise NotImplementedError

    def begin(self, zone: Zone) -> None:
        zone.seen[self.base] = self.spent(zone)

    def emit(self, zone: Zone) -> None:
        spent = self.spent(zone)
        grown = spent - zone.seen[self.base]
        if grown <= 0:
            return
        zone.seen[self.base] = spent
        piece = self.piece(zone.pace)
        number, rest = divmod(grown, piece)
        actor = zone.actor
        self._event.typed = (actor.thread, actor.process, actor.processor)
        self._event.args = (actor.thread["@"], actor.process["@"], actor.processor["@"])
        if number:
            self._pair(self._first, self._last, piece, number)
        if rest:
            self._pair(self._first, self._last, rest, 1)


class Running(Spent):
    """Time on processors."""

    first, last = ("sched", "on-cpu"), ("sched", "off-cpu")
    names = (first, last)

    def spent(self, zone: Zone) -> int:
        return zone.meter.nanoseconds("cpu")

    def piece(self, pace: meter.Pace) -> int:
        return pace.burst


class Queued(Spent):
    """Time on run queues: what nsec_waitrq has but for waits for the cap."""

    first, last = ("sched", "enqueue"), ("sched", "dequeue")
    names = (first, last)

    def spent(self, zone: Zone) -> int:
        return zone.meter.nanoseconds("cpu_wait") - zone.meter.nanoseconds("cap_wait")

    def piece(self, pace: meter.Pace) -> int:
        return pace.wait


class Capped(Spent):
    """Time that the CPU cap made threads wait."""

    first, last = ("sched", "cpucaps-sleep"), ("sched", "cpucaps-wakeup")
    names = (first, last)

    def spent(self, zone: Zone) -> int:
        return zone.meter.nanoseconds("cap_wait")

    def piece(self, pace: meter.Pace) -> int:
        return pace.capped


class Files(Counted):
    """Reads and writes of files, which an HVM guest does not make."""

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._probes = [
            (self.probe("fbt", "entry", name), self.probe("fbt", "return", name))
            for name in ("fop_read", "fop_write")
        ]

    @classmethod
    def wanted(cls, enabled: list[probes.Probe]) -> bool:
        return any(each.function in ("fop_read", "fop_write") for each in enabled)

    def counts(self, zone: Zone) -> tuple[int, ...]:
        if zone.watched.hvm:
            return (0, 0)
        return (zone.meter.count("disk_read_ops"), zone.meter.count("disk_write_ops"))

    def emit(self, zone: Zone) -> None:
        self._event.args = (zone.actor.thread["@"] + 0x100, 0, 0)
        paces = (zone.pace.vfs_read, zone.pace.vfs_write)
        for (first, last), steps, grown in zip(self._probes, paces, self.grown(zone), strict=True):
            if first or last:
                for weight, took in steps.between(*grown):
                    self._pair(first, last, took, weight)


class Calls(Counted):
    """System calls, and the processes that come and go among them."""

    names = (
        *(("syscall", "entry"), ("syscall", "return")),
        *(("proc", "create"), ("proc", "exec-success"), ("proc", "exit")),
    )

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._calls = [
            (
                *(self.probe("syscall", "entry", name), self.probe("syscall", "return", name)),
                *(error, 3_000 * divisor),
            )
            for divisor, name, error in _CALLS
        ]
        # the value of a step is the place of its call
        places = enumerate(divisor for divisor, *_ in _CALLS)
        self._steps = meter.Steps(1, tuple((divisor, place) for place, divisor in places))
        self._processes = [self.probe("proc", name) for name in ("create", "exec-success", "exit")]

    def counts(self, zone: Zone) -> tuple[int, ...]:
        return (zone.meter.syscalls(),)

    def emit(self, zone: Zone) -> None:
        ((before, now),) = self.grown(zone)
        event = self._event
        for weight, place in self._steps.between(before, now):
            entry, back, error, took = self._calls[place]
            if entry is None and back is None:
                continue
            event.args = (3, _USER_TEXT, 4096)
            self._pair(entry, None, took, weight)
            event.errno, event.args = error, ((-1, -1, 0) if error else (0, 0, 0))
            self._pair(None, back, 0, weight)
            event.errno = 0
        processes = now // _CALLS_A_PROCESS - before // _CALLS_A_PROCESS
        for probe, given in zip(self._processes, (zone.actor.process, None, 1), strict=True):
            event.typed, event.args = (given,), (1, 0, 0)
            self._single(probe, processes)


class Packets(Source):
    """What IP carries: the bytes of the zone's link less the headers of its packets."""

    names = (("ip", "send"), ("ip", "receive"))

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._ways = [
            (self.probe("ip", "send"), "net_tx", True),
            (self.probe("ip", "receive"), "net_rx", False),
        ]

    def begin(self, zone: Zone) -> None:
        for _, key, _ in self._ways:
            for inside in (0, 1):
                packets, payload = self._counts(zone, key, inside)
                zone.seen[self._place(key, inside)] = packets
                zone.seen[self._place(key, inside) + 1] = payload

    def _place(self, key: str, inside: int) -> int:
        return self.base + 4 * (key == "net_tx") + 2 * inside

    def _counts(self, zone: Zone, key: str, inside: int) -> tuple[int, int]:
        counts = zone.meter
        size, packets = counts.part(key), counts.part(f"{key}_packets")
        if not inside:
            size, packets = counts.count(key) - size, counts.count(f"{key}_packets") - packets
        return packets, size - _HEADERS * packets

    def emit(self, zone: Zone) -> None:
        if zone.watched.hvm or not zone.watched.links:
            return
        for probe, key, out in self._ways:
            if probe is not None:
                for inside in (0, 1):
                    self._emit_way(zone, probe, key, out, inside)

    def _emit_way(self, zone: Zone, probe: probes.Probe, key: str, out: bool, inside: int) -> None:
        place = self._place(key, inside)
        packets, payload = self._counts(zone, key, inside)
        number, size = packets - zone.seen[place], payload - zone.seen[place + 1]
        last = zone.seen.get(place + 8)
        if number == 0:
            if size == 0 or last is None:
                return
            # no packet came to an end; the one before was cut by a frame, and it has grown
            found = [(1, last + size), (-1, last)]
        elif size < 0:
            return
        else:
            each, rest = divmod(size, number)
            found = [(number - rest, each), (rest, each + 1)]
        zone.seen[place + 8] = found[0][1]
        zone.seen[place], zone.seen[place + 1] = packets, payload
        infos = self._information(zone, out, inside)
        event = self._event
        event.args, event.typed = (zone.actor.packet["@"], 0, 0), infos
        for weight, length in found:
            infos[2]["ip_plength"] = length
            infos[4]["ipv4_length"] = length + 20
            self._single(probe, weight)

    def _information(self, zone: Zone, out: bool, inside: int) -> tuple[Struct, ...]:
        key = (self.base, out, inside)
        if key not in zone.infos:
            zone.infos[key] = _addressed(zone, out, inside)
        return zone.infos[key]


def _addressed(zone: Zone, out: bool, inside: int) -> tuple[Struct, ...]:
    """What a packet's translators say of it."""
    actor = zone.actor
    remote = actor.remotes[0 if inside else 1]
    source, target = (actor.own_address, remote) if out else (remote, actor.own_address)
    version4 = make(
        "ipv4info_t",
        **{"@": actor.packet["@"] + 16},
        ipv4_ver=4,
        ipv4_ihl=20,
        ipv4_ttl=64,
        ipv4_protocol=6,
        ipv4_protostr="TCP",
        ipv4_src=_network_order(source),
        ipv4_dst=_network_order(target),
        ipv4_saddr=source,
        ipv4_daddr=target,
    )
    interface = make(
        "ifinfo_t", **{"@": actor.packet["@"] + 32}, if_name="net0", if_ipstack=zone.id
    )
    info = make(
        "ipinfo_t",
        **{"@": actor.packet["@"] + 48},
        ip_ver=4,
        ip_saddr=source,
        ip_daddr=target,
    )
    return (actor.packet, actor.connection, info, interface, version4, builtins.NULL)


def _network_order(address: str) -> int:
    """An address as the processor reads it from a packet."""
    try:
        return int.from_bytes(ipaddress.IPv4Address(address).packed, "little")
    except ipaddress.AddressValueError:
        return 0


class Segments(Source):
    """TCP's segments and connections: those of a timer are the kernel's."""

    names = (
        *(("tcp", name) for name in ("send", "receive", "connect-established")),
        ("tcp", "accept-established"),
        *(("mib", name) for name in ("tcpRetransSegs", "tcpActiveOpens", "tcpPassiveOpens")),
    )

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        tcp = {name: self.probe("tcp", name) for provider, name in self.names if provider == "tcp"}
        mib = {name: self.probe("mib", name) for provider, name in self.names if provider == "mib"}
        self._out, self._in = tcp["send"], tcp["receive"]
        self._opened = (tcp["connect-established"], tcp["accept-established"])
        self._counted = mib

    def begin(self, zone: Zone) -> None:
        for place, count in enumerate(self._counts(zone)):
            zone.seen[self.base + place] = count

    def _counts(self, zone: Zone) -> tuple[int, ...]:
        counts = zone.meter
        found = []
        for key in ("net_tx_packets", "net_rx_packets", "tcp_retransmits"):
            inside = counts.part(key)
            found += [counts.count(key) - inside, inside]
        opens = counts.count("tcp_opens")
        return (*found, opens // 2, opens - opens // 2)

    def emit(self, zone: Zone) -> None:
        if zone.watched.hvm:
            return
        now = self._counts(zone)
        grown = [count - zone.seen[self.base + place] for place, count in enumerate(now)]
        for place, count in enumerate(now):
            zone.seen[self.base + place] = count
        for inside in (0, 1):
            self._segments(zone, self._out, True, inside, 0, grown[inside])
            self._segments(zone, self._in, False, inside, 0, grown[2 + inside])
        for place, name in enumerate(("tcpActiveOpens", "tcpPassiveOpens")):
            self._segments(zone, self._opened[place], place == 0, 1, 0, grown[6 + place])
            self._event.args = (1, 0, 0)
            self._single(self._counted[name], grown[6 + place])
        if grown[4] or grown[5]:
            self._load.speak_for(self._load.kernel)
            for inside in (0, 1):
                self._segments(zone, self._out, True, inside, 1, grown[4 + inside])
            self._event.args = (1, 0, 0)
            self._single(self._counted["tcpRetransSegs"], grown[4] + grown[5])
            self._load.speak_for(zone.actor)

    def _segments(
        self,
        zone: Zone,
        probe: probes.Probe | None,
        out: bool,
        inside: int,
        again: int,
        weight: int,
    ) -> None:
        if probe is None or not weight:
            return
        key = (self.base, out, inside, again)
        if key not in zone.infos:
            packet, connection, info, *_ = _addressed(zone, out, inside)
            remote = zone.actor.remotes[0 if inside else 1]
            state = make(
                "tcpsinfo_t",
                **{"@": packet["@"] + 64},
                tcps_laddr=zone.actor.own_address,
                tcps_raddr=remote,
                tcps_lport=443,
                tcps_rport=40001,
                tcps_retransmit=again,
            )
            header = make("tcpinfo_t", **{"@": packet["@"] + 80}, tcp_sport=443, tcp_dport=40001)
            zone.infos[key] = (packet, connection, info | {"ip_plength": 1448}, state, header)
        self._event.typed, self._event.args = zone.infos[key], (zone.actor.packet["@"], 0, 0)
        self._single(probe, weight)


class Samples(Source):
    """Who is on a processor when a profile's interrupt comes."""

    def __init__(self, load: "Load") -> None:
        super().__init__(load)
        self._sampled = [each for each in load.enabled if each.name.startswith("profile-")]
        self._taken = dict.fromkeys(self._sampled, 0)

    @classmethod
    def wanted(cls, enabled: list[probes.Probe]) -> bool:
        return any(each.provider == "profile" and each.name[0] == "p" for each in enabled)

    def begin(self, zone: Zone) -> None:
        user, kernel = zone.meter.cpu_time()
        zone.seen[self.base], zone.seen[self.base + 1] = user, kernel

    def emit(self, zone: Zone) -> None:
        times = zone.meter.cpu_time()
        for place, (now, text) in enumerate(zip(times, (_USER_TEXT, _KERNEL_TEXT), strict=True)):
            before = zone.seen[self.base + place]
            zone.seen[self.base + place] = now
            self._event.args = (0, text, 0) if place == 0 else (text, 0, 0)
            for probe in self._sampled:
                weight = now // probe.interval - before // probe.interval
                self._taken[probe] += weight
                self._single(probe, weight)

    def finish(self, start: int, end: int) -> None:
        """The rest of the time processors were idle."""
        self._start, self._end = start, end
        cpus = self._load.cpus
        self._event.args = (_KERNEL_TEXT, 0, 0)
        for probe in self._sampled:
            whole = end * cpus // probe.interval - start * cpus // probe.interval
            idle = whole - self._taken[probe]
            self._taken[probe] = min(0, idle) * -1
            self._single(probe, max(0, idle))


_SOURCES: tuple[type[Source], ...] = (
    *(Running, Queued, Capped, Files, Calls, Packets, Segments, Delay, Samples, Disk),
)


class Load:
    """All zones' events, in the order of time."""

    def __init__(self, on: machine.Machine, watch: metrics.Watch, seed: int, cpus: int) -> None:
        self.machine = on
        self.watch = watch
        self.cpus = cpus
        self.enabled = on.enabled()
        self.at = watch.at
        self._seed = seed
        chosen = [source for source in _SOURCES if source.wanted(self.enabled)]
        self._rooms = itertools.count(0, 16)
        self._sources = [source(self) for source in chosen]
        self._zones: dict[int, Zone] = {}
        for watched in watch.zones:
            self._add(watched, watch.at)
        self.kernel = self._zones[0].actor
        self.pace_of_kernel = self._zones[0].pace
        self.speak_for(self.kernel)
        deleting = [each for each in self.enabled if each.function == "zone_kstat_delete"]
        self._deleting = sorted(deleting, key=lambda each: each.name)

    def _add(self, watched: metrics.Watched, at: int) -> None:
        zone = Zone(watched, Actor(watched, self._seed, self.cpus), at)
        self._zones[watched.id] = zone
        for source in self._sources:
            source.begin(zone)

    def room(self) -> int:
        """Room for sixteen numbers in what zones have seen."""
        return next(self._rooms)

    def speak_for(self, actor: Actor) -> None:
        """Let what follows happen in a thread of this one."""
        event = self.machine.event
        event.zone, event.execname = actor.zone, actor.execname
        event.pid, event.tid, event.cpu = actor.pid, actor.tid, actor.cpu
        event.curpsinfo, event.curlwpsinfo = actor.process, actor.thread
        event.curcpu, event.curthread = actor.processor, actor.kernel_thread

    def advance(self, to: int, bounds: collections.abc.Iterable[int]) -> None:
        """Make all events up to a moment; time is cut where a window may begin or end."""
        if to <= self.at:
            return
        cuts = sorted({bound for bound in bounds if self.at < bound < to})
        for cut in (*cuts, to):
            while self.watch.changes and self.watch.changes[0].at <= cut:
                self._take(self.watch.changes.popleft())
            for zone in self._zones.values():
                self._flush(zone, cut)
            self.speak_for(self.kernel)
            for source in self._sources:
                source.finish(self.at, cut)
            self.at = cut

    def _flush(self, zone: Zone, to: int) -> None:
        start, zone.at = zone.at, to
        zone.meter.advance(to)
        self.speak_for(zone.actor)
        for source in self._sources:
            if not source.in_zone:
                self.speak_for(self.kernel)
            source.flush(zone, start, to)

    def _take(self, change: metrics.Change) -> None:
        if change.arrived is not None:
            # its counters began with it, and so do its events
            self._add(change.arrived, change.at)
            return
        zone = self._zones[change.zoneid]
        self._flush(zone, change.at)
        if change.kind == "halt":
            self._delete(zone, change.at)
            return
        zone.meter.change(change.at, change.profile, change.cpus, change.capped)

    def _delete(self, zone: Zone, at: int) -> None:
        """A zone's kstats are deleted, with what they hold last."""
        del self._zones[zone.id]
        if not self._deleting:
            return
        event = self.machine.event
        kernel_zone = zone.actor.kernel_zone | _last(zone)
        event.structures[kernel_zone["@"]] = kernel_zone
        self.speak_for(self.kernel)
        event.execname, event.at = "zoneadmd", at
        event.args, event.typed = (kernel_zone["@"], 0, 0), (kernel_zone,)
        for probe in self._deleting:
            self.machine.fire(probe)
        del event.structures[kernel_zone["@"]]


def _last(zone: Zone) -> Struct:
    """What a zone_t holds of a zone's counters; the clock ticks in nanoseconds."""
    user, system = zone.meter.cpu_time()
    hvm = zone.watched.hvm
    count = (lambda _: 0) if hvm else zone.meter.count
    reads, writes = count("disk_read_ops"), count("disk_write_ops")
    files = make(
        "kstat_io_t",
        nread=count("disk_read"),
        nwritten=count("disk_write"),
        reads=reads,
        writes=writes,
        rlentime=zone.pace.vfs_read.total(reads),
        wlentime=zone.pace.vfs_write.total(writes),
    )
    return {
        "zone_utime": user,
        "zone_stime": system,
        "zone_wtime": zone.meter.nanoseconds("cpu_wait"),
        "zone_vfs_rwstats": files,
    }
