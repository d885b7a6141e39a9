# SPDX-License-Identifier: Apache-2.0
"""The kstats of a zone."""

import collections.abc
import dataclasses
import typing

from smartos_emulator import network
from smartos_emulator.metrics import kstat, meter

Record = dict[str, typing.Any]

HVM = ("bhyve", "kvm")
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class ZoneView:
    """A zone at one moment."""

    id: int
    name: str
    pace: meter.Pace
    meter: meter.Meter
    now: int
    booted: int
    record: Record
    links: collections.abc.Sequence[network.Link] = ()
    pid: int = 1
    # what ZFS writes for other zones when it likes: operations and bytes
    for_others: tuple[int, int] = (0, 0)

    def make(
        self, module: str, name: str, class_: str, data: dict[str, kstat.Value], instance: int = -1
    ) -> kstat.Kstat:
        """A kstat of this zone that tells the zone's whole name."""
        number = self.id if instance < 0 else instance
        values = {**data, "zonename": self.name}
        start = self.meter.start
        return kstat.Kstat(module, number, kstat.cut(name), class_, start, self.now, values)

    @property
    def is_hvm(self) -> bool:
        return self.record.get("brand") in HVM


def of_zone(zone: ZoneView) -> list[kstat.Kstat]:
    """All of a zone's kstats."""
    return [
        zone.make("zones", zone.name, "zone_misc", _misc(zone)),
        zone.make("memory_cap", zone.name, "zone_memory_cap", _memory(zone)),
        *_caps(zone),
        zone.make("zone_vfs", zone.name, "zone_vfs", _vfs(zone)),
        zone.make("zone_zfs", zone.name, "zone_zfs", _zfs(zone)),
        *_links(zone),
        # the kernel's TCP knows stacks, which are numbered like their zones, and names none
        kstat.Kstat("tcp", zone.id, "tcp", "mib2", zone.meter.start, zone.now, _tcp(zone)),
    ]


def _misc(zone: ZoneView) -> dict[str, kstat.Value]:
    user, system = zone.meter.cpu_time()
    one, five, fifteen = zone.meter.averages()
    failures = ("cap", "misc", "noproc", "nomem")
    return {
        "avenrun_1min": one,
        "avenrun_5min": five,
        "avenrun_15min": fifteen,
        "boot_time": zone.booted,
        **{f"forkfail_{reason}": 0 for reason in failures},
        "init_pid": zone.pid,
        "init_restarts": 0,
        "nested_interp": 0,
        "nsec_sys": system,
        "nsec_user": user,
        "nsec_waitrq": zone.meter.nanoseconds("cpu_wait"),
        "run_queue": zone.meter.rate("cpu_wait") // meter.MICRO,
    }


def memory(zone: ZoneView) -> tuple[int, int]:
    """Resident memory and its cap, in bytes."""
    cap = zone.record.get("max_physical_memory")
    limit = int(cap) * MIB if cap else kstat.UINT64_MAX
    used = zone.meter.level("memory")
    if zone.is_hvm:
        # The guest's memory is touched from the start.
        used = max(used, int(zone.record.get("ram", 0)) * MIB)
    return min(used, limit), limit


def _memory(zone: ZoneView) -> dict[str, kstat.Value]:
    resident, limit = memory(zone)
    swap_cap = zone.record.get("max_swap")
    swap_limit = int(swap_cap) * MIB if swap_cap else kstat.UINT64_MAX
    over = int(zone.meter.level("memory") > limit)
    return {
        "anon_alloc_fail": 0,
        "anonpgin": 0,
        "execpgin": 0,
        "fspgin": zone.meter.count("disk_read_ops") // 16,
        "n_pf_throttle": 0,
        "n_pf_throttle_usec": 0,
        "nover": over,
        "pagedout": max(0, zone.meter.level("memory") - limit),
        "pgpgin": zone.meter.count("disk_read_ops") // 16,
        "physcap": limit,
        "rss": resident,
        "swap": min(zone.meter.level("swap"), swap_limit),
        "swapcap": swap_limit,
    }


def _caps(zone: ZoneView) -> collections.abc.Iterator[kstat.Kstat]:
    """The CPU cap, where there is one, and the resource controls that every zone has."""
    cap = zone.record.get("cpu_cap")
    if cap:
        yield zone.make("caps", f"cpucaps_zone_{zone.id}", "zone_caps", _cpu_cap(zone, int(cap)))
    if zone.id == 0:
        return
    resident, _ = memory(zone)
    locked = zone.record.get("max_locked_memory")
    swap = zone.record.get("max_swap")
    controls = (
        ("lockedmem", resident if zone.is_hvm else 0, int(locked or 0) * MIB),
        ("nprocs", 1 if zone.is_hvm else 20, int(zone.record.get("max_lwps", 2000))),
        ("swapresv", zone.meter.level("swap"), int(swap or 0) * MIB),
    )
    for name, usage, value in controls:
        limit = value or kstat.UINT64_MAX
        data: dict[str, kstat.Value] = {"usage": min(usage, limit), "value": limit}
        yield zone.make("caps", f"{name}_zone_{zone.id}", "zone_caps", data)


def _cpu_cap(zone: ZoneView, cap: int) -> dict[str, kstat.Value]:
    above = zone.meter.above // meter.NANO
    return {
        "above_base_sec": 0,
        "above_sec": above,
        "baseline": 0,
        "below_sec": (zone.now - zone.meter.start) // meter.NANO - above,
        "burst_limit_sec": 0,
        "bursting_sec": 0,
        "effective": cap,
        "maxusage": zone.meter.busiest * 100 // meter.MICRO,
        "nwait": zone.meter.rate("cpu_wait") // meter.MICRO,
        "usage": zone.meter.rate("cpu") * 100 // meter.MICRO,
        "value": cap,
    }


def _vfs(zone: ZoneView) -> dict[str, kstat.Value]:
    count, pace = zone.meter.count, zone.pace
    # What an HVM guest reads and writes goes past the file systems.
    reads, written = (0, 0) if zone.is_hvm else (count("disk_read_ops"), count("disk_write_ops"))
    *_, some_reads, few_reads = pace.vfs_read.counts(reads)
    *_, some_writes, few_writes = pace.vfs_write.counts(written)
    read_time, write_time = pace.vfs_read.total(reads), pace.vfs_write.total(written)
    return {
        "100ms_ops": few_reads + few_writes,
        "10ms_ops": some_reads + some_writes,
        "10s_ops": 0,
        "1s_ops": 0,
        "delay_cnt": count("disk_delays"),
        "delay_time": pace.delay.total(count("disk_delays")),
        "nread": 0 if zone.is_hvm else count("disk_read"),
        "nwritten": 0 if zone.is_hvm else count("disk_write"),
        "rcnt": 0,
        "reads": reads,
        "rlentime": read_time,
        "rtime": read_time * 11 // 12,
        "wcnt": 0,
        "wlentime": write_time,
        "writes": written,
        "wtime": write_time * 20 // 21,
    }


def _zfs(zone: ZoneView) -> dict[str, kstat.Value]:
    """What the disks did for a zone: of its writes those that it waited for."""
    count = zone.meter.count
    operations, size = zone.for_others
    writes = zone.meter.part("disk_write_ops") + operations
    return {
        "nread": count("disk_read"),
        "nwritten": zone.meter.part("disk_write") + size,
        "reads": count("disk_read_ops"),
        "waittime": (count("disk_read_ops") + writes) * 9_000,
        "writes": writes,
    }


def _links(zone: ZoneView) -> collections.abc.Iterator[kstat.Kstat]:
    """The zone's traffic runs over its first link."""
    for place, link in enumerate(zone.links):
        traffic = Traffic.of(zone.meter) if place == 0 else Traffic()
        yield zone.make("link", link.kernel_name, "net", link_data(link, traffic), instance=0)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What went over a link: bytes and packets in and out."""

    rbytes: int = 0
    obytes: int = 0
    ipackets: int = 0
    opackets: int = 0

    @classmethod
    def of(cls, counts: meter.Meter) -> "Traffic":
        return cls(
            counts.count("net_rx"),
            counts.count("net_tx"),
            counts.count("net_rx_packets"),
            counts.count("net_tx_packets"),
        )

    def plus(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.rbytes + other.rbytes,
            self.obytes + other.obytes,
            self.ipackets + other.ipackets,
            self.opackets + other.opackets,
        )


def link_data(link: network.Link, traffic: Traffic) -> dict[str, kstat.Value]:
    """The statistics of a link; the short ones wrap."""
    quiet = "brdcstrcv brdcstxmt collisions ierrors multircv multixmt norcvbuf noxmtbuf oerrors"
    return {
        **dict.fromkeys(quiet.split(), 0),
        "ifspeed": link.speed * 10**6,
        "ipackets": kstat.uint32(traffic.ipackets),
        "ipackets64": traffic.ipackets,
        "link_duplex": 2,
        "link_state": 1,
        "obytes": kstat.uint32(traffic.obytes),
        "obytes64": traffic.obytes,
        "opackets": kstat.uint32(traffic.opackets),
        "opackets64": traffic.opackets,
        "rbytes": kstat.uint32(traffic.rbytes),
        "rbytes64": traffic.rbytes,
        "unknowns": 0,
    }


def _tcp(zone: ZoneView) -> dict[str, kstat.Value]:
    # the connections of an HVM guest are its own affair
    count = (lambda _: 0) if zone.is_hvm else zone.meter.count
    opens = count("tcp_opens")
    none = (
        "attemptFails estabResets halfOpenDrop inDupAck inUnorderSegs listenDrop listenDropQ0"
        " outRsts rtoAlgorithm timKeepalive timKeepaliveDrop timRetrans timRetransDrop"
    )
    return {
        **dict.fromkeys(none.split(), 0),
        "activeOpens": opens // 2,
        "currEstab": min(opens, 3),
        "inSegs": count("net_rx_packets"),
        "maxConn": -1,
        "outSegs": count("net_tx_packets"),
        "passiveOpens": opens - opens // 2,
        "retransBytes": count("tcp_retransmits") * 1448,
        "retransSegs": count("tcp_retransmits"),
        "rtoMax": 60000,
        "rtoMin": 400,
    }
