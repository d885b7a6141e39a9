# SPDX-License-Identifier: Apache-2.0
"""The table of meters: what each one is called, where it comes from, and how exact it is.

Names, units, types and resources are Ceilometer's where its libvirt pollsters have the meter too;
what only SmartOS tells begins with "smartos.". Pollsters, entry points, documents and what the
ledger keeps are made from this table.
"""

import dataclasses
import functools
from collections.abc import Iterator

from ceilometer_plugin import ledger

CUMULATIVE, DELTA, GAUGE = "cumulative", "delta", "gauge"

#: What a sample is about, which is also the type of its resource in Gnocchi.
INSTANCE = "instance"
NIC = "instance_network_interface"
DISK = "instance_disk"
NODE = "nova_compute"

ZONES = ("joyent", "joyent-minimal", "lx")
HVM = ("bhyve", "kvm")
ALL = (*ZONES, *HVM)

EXACT = "exact: the kernel's own counter"
LEVEL = "what it is at the moment of the reading"
SET = "what the flavor or the VM says"
PROBES = (
    "no event is lost but those reported by smartos.node.dtrace.drops, and those of the time that "
    "smartos.node.dtrace.down tells of, up to a frame longer; at a hand-over between two consumers "
    "one event for each CPU; of a zone that ended between two polls all, if no final reading tells "
    "of it; of one whose id another zone had before the next poll, what came since the last"
)


@dataclasses.dataclass(frozen=True)
class Counter:
    """The sum of statistics of one kstat, divided; of a counter that wraps after 32 bits if so."""

    kstat: str
    statistics: tuple[str, ...]
    divisor: int = 1
    narrow: bool = False

    @property
    def origin(self) -> str:
        """The ledger's source of it."""
        return self.kstat

    def __str__(self) -> str:
        sum_ = " + ".join(f"{self.kstat}:{statistic}" for statistic in self.statistics)
        return f"kstat {sum_}" + (f", / {self.divisor}" if self.divisor > 1 else "")


@dataclasses.dataclass(frozen=True)
class Level:
    """A statistic as it stands, divided."""

    kstat: str
    statistic: str
    divisor: int = 1

    def __str__(self) -> str:
        over = f", / {self.divisor}" if self.divisor > 1 else ""
        return f"kstat {self.kstat}:{self.statistic}{over}"


@dataclasses.dataclass(frozen=True)
class Probes:
    """A number that a D script counts, for the keys that follow the zone's; "*" sums over all."""

    script: str
    value: str
    keys: tuple[str, ...] = ()

    @functools.cached_property
    def number(self) -> str:
        """What the ledger calls it."""
        return "|".join((self.value, *self.keys))

    @functools.cached_property
    def origin(self) -> str:
        """The ledger's source of it."""
        return f"{ledger.PROBED}{self.script}"

    def __str__(self) -> str:
        return f"DTrace {self.script}.d {'|'.join((self.value, *self.keys))}"


@dataclasses.dataclass(frozen=True)
class Below:
    """How many events of a D script's distribution lie below a power of two."""

    script: str
    value: str
    bound: int
    keys: tuple[str, ...] = ()

    @functools.cached_property
    def number(self) -> str:
        """What the ledger calls it."""
        return f"{'|'.join((self.value, *self.keys))}<{self.bound}"

    @functools.cached_property
    def origin(self) -> str:
        """The ledger's source of it."""
        return f"{ledger.PROBED}{self.script}"

    def __str__(self) -> str:
        return f"DTrace {self.script}.d, distribution of {'|'.join((self.value, *self.keys))}"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """What a D script counted, over what the kernel counted of the same in the same time."""

    probes: Probes
    kernel: Counter

    def __str__(self) -> str:
        return f"{self.probes} over {self.kernel}"


@dataclasses.dataclass(frozen=True)
class Said:
    """What VM and flavor say."""

    what: str

    def __str__(self) -> str:
        return self.what


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What ZFS says of a dataset, every few minutes."""

    what: str

    def __str__(self) -> str:
        return f"zfs {self.what}"


@dataclasses.dataclass(frozen=True)
class Derived:
    """Made from another meter: how much more it is than at the reading before."""

    meter: str
    per_second: bool

    def __str__(self) -> str:
        return f"{self.meter}, its difference{' a second' if self.per_second else ''}"


@dataclasses.dataclass(frozen=True)
class Own:
    """What metering says of itself."""

    what: str

    def __str__(self) -> str:
        return "the plugin's ledger"


#: What grows from a beginning on.
Counted = Counter | Probes | Below
Source = Counter | Level | Probes | Below | Ratio | Said | Dataset | Derived | Own


@dataclasses.dataclass(frozen=True)
class Meter:
    """A row of the table."""

    name: str
    unit: str
    type: str
    source: Source
    bound: str
    resource: str = INSTANCE
    brands: tuple[str, ...] = ALL
    note: str = ""

    @property
    def attribute(self) -> str:
        """What its pollster is called in Python."""
        return self.name.replace(".", "_")


def _counters() -> Iterator[Meter]:
    """What the kernel counts, and can be billed."""
    rows: tuple[tuple[str, str, str, Counter, tuple[str, ...], str], ...] = (
        ("cpu", "ns", INSTANCE, Counter("zones", ("nsec_user", "nsec_sys")), ALL,
         "what its threads ran; libvirt's also charges for waiting"),
        ("memory.swap.in", "MiB", INSTANCE, Counter("memory_cap", ("anonpgin",), 256), ZONES, ""),
        ("network.incoming.bytes", "B", NIC, Counter("link", ("rbytes64",)), ALL, ""),
        ("network.outgoing.bytes", "B", NIC, Counter("link", ("obytes64",)), ALL, ""),
        ("network.incoming.packets", "packet", NIC, Counter("link", ("ipackets64",)), ALL, ""),
        ("network.outgoing.packets", "packet", NIC, Counter("link", ("opackets64",)), ALL, ""),
        ("network.incoming.packets.drop", "packet", NIC,
         Counter("link", ("norcvbuf",), narrow=True), ALL, "for want of a receive buffer"),
        ("network.outgoing.packets.drop", "packet", NIC,
         Counter("link", ("noxmtbuf",), narrow=True), ALL, "for want of a transmit buffer"),
        ("network.incoming.packets.error", "packet", NIC,
         Counter("link", ("ierrors",), narrow=True), ALL, ""),
        ("network.outgoing.packets.error", "packet", NIC,
         Counter("link", ("oerrors",), narrow=True), ALL, ""),
        ("disk.device.read.bytes", "B", DISK, Counter("zone_vfs", ("nread",)), ZONES,
         "what its programs read, whether or not a disk was needed"),
        ("disk.device.write.bytes", "B", DISK, Counter("zone_vfs", ("nwritten",)), ZONES,
         "what its programs wrote: which zone a physical write is for, ZFS does not keep"),
        ("disk.device.read.requests", "request", DISK, Counter("zone_vfs", ("reads",)), ZONES, ""),
        ("disk.device.write.requests", "request", DISK, Counter("zone_vfs", ("writes",)), ZONES,
         ""),
        ("disk.device.read.latency", "ns", DISK, Counter("zone_vfs", ("rlentime",)), ZONES,
         "summed over all reads"),
        ("disk.device.write.latency", "ns", DISK, Counter("zone_vfs", ("wlentime",)), ZONES,
         "summed over all writes"),
        ("smartos.cpu.wait", "ns", INSTANCE, Counter("zones", ("nsec_waitrq",)), ALL,
         "threads ready to run, and not running"),
        ("smartos.cpu.cap.above", "s", INSTANCE, Counter("caps.cpucaps", ("above_sec",)), ALL,
         "time above the CPU cap"),
        ("smartos.cpu.cap.above.base", "s", INSTANCE,
         Counter("caps.cpucaps", ("above_base_sec",)), ALL, "time above the baseline: bursts"),
        ("smartos.memory.alloc.failures", "failure", INSTANCE,
         Counter("memory_cap", ("anon_alloc_fail",)), ALL, "at the cap of memory"),
        ("smartos.memory.cap.exceeded", "time", INSTANCE, Counter("memory_cap", ("nover",)), ALL,
         ""),
        ("smartos.disk.physical.read.bytes", "B", INSTANCE, Counter("zone_zfs", ("nread",)), ALL,
         "what came from disks"),
        ("smartos.disk.physical.reads", "operation", INSTANCE, Counter("zone_zfs", ("reads",)),
         ALL, ""),
        ("smartos.zfs.throttle.count", "operation", INSTANCE,
         Counter("zone_vfs", ("delay_cnt",)), ALL, "held up in favour of other zones"),
        ("smartos.zfs.throttle.time", "us", INSTANCE, Counter("zone_vfs", ("delay_time",)), ALL,
         ""),
        *((f"smartos.vfs.slow.{name}", "operation", INSTANCE,
           Counter("zone_vfs", (f"{name}_ops",)), ZONES, f"of {name} and more")
          for name in ("10ms", "100ms", "1s", "10s")),
        ("smartos.tcp.retransmits", "segment", INSTANCE,
         Counter("tcp", ("retransSegs",), narrow=True), ZONES, ""),
        ("smartos.tcp.listen.drops", "connection", INSTANCE,
         Counter("tcp", ("listenDrop", "listenDropQ0"), narrow=True), ZONES, ""),
        ("smartos.tcp.connections.opened", "connection", INSTANCE,
         Counter("tcp", ("activeOpens", "passiveOpens"), narrow=True), ZONES, ""),
    )  # fmt: skip
    for name, unit, resource, source, brands, note in rows:
        yield Meter(name, unit, CUMULATIVE, source, EXACT, resource, brands, note)


def _levels() -> Iterator[Meter]:
    """What holds at the moment of a reading."""
    mib = 2**20
    yield Meter("vcpus", "vcpu", GAUGE, Said("vcpus of the flavor"), SET)
    yield Meter("memory", "MiB", GAUGE, Said("memory of the VM"), SET)
    note = "Ceilometer's own takes the ephemeral disk off it, which is none of it"
    yield Meter("disk.root.size", "GiB", GAUGE, Said("root disk of the flavor"), SET, note=note)
    yield Meter("disk.ephemeral.size", "GiB", GAUGE, Said("ephemeral disk of the flavor"), SET)
    note = "libvirt's numbers: 1 running, 5 shut off"
    yield Meter("power.state", "", GAUGE, Said("state of the VM"), LEVEL, note=note)
    for name, source, brands, note in (
        ("memory.usage", Level("memory_cap", "rss", mib), ZONES, ""),
        ("memory.available", Level("memory_cap", "physcap", mib), ZONES, "the cap"),
        ("memory.resident", Level("memory_cap", "rss", mib), ALL, "of an HVM: what it costs the "
         "node, not what its guest uses"),
    ):  # fmt: skip
        yield Meter(name, "MiB", GAUGE, source, LEVEL, brands=brands, note=note)
    for name, unit, source in (
        ("smartos.processes", "process", Level("caps.nprocs", "usage")),
        ("smartos.memory.locked", "B", Level("caps.lockedmem", "usage")),
        ("smartos.memory.swap", "B", Level("memory_cap", "swap")),
        ("smartos.tcp.connections", "connection", Level("tcp", "currEstab")),
    ):
        brands = ZONES if name.startswith("smartos.tcp") else ALL
        yield Meter(name, unit, GAUGE, source, LEVEL, brands=brands)
    for name, unit, what, note in (
        ("disk.device.capacity", "B", "quota or volsize", "what the guest may have"),
        ("disk.device.allocation", "B", "used", "what the pool has given, reservations included"),
        ("disk.device.usage", "B", "usedbydataset + usedbysnapshots", "what is stored"),
        ("smartos.disk.snapshots", "B", "usedbysnapshots", ""),
        ("smartos.disk.logical", "B", "logicalused", "before compression"),
        ("smartos.disk.compression", "ratio", "compressratio", ""),
    ):
        yield Meter(name, unit, GAUGE, Dataset(what), LEVEL, DISK, note=note)


def _derived() -> Iterator[Meter]:
    for way in ("incoming", "outgoing"):
        of = f"network.{way}.bytes"
        note = "one that is lost on its way is lost: bill the cumulative meter"
        yield Meter(f"{of}.delta", "B", DELTA, Derived(of, False), EXACT, NIC, note=note)
        note = "over the time since the reading before"
        yield Meter(f"{of}.rate", "B/s", GAUGE, Derived(of, True), EXACT, NIC, note=note)


def _probed() -> Iterator[Meter]:
    """What only DTrace tells: distributions, and who was at the other end."""

    def row(name: str, unit: str, source: Source, brands: tuple[str, ...] = ALL) -> Meter:
        return Meter(name, unit, CUMULATIVE, source, PROBES, brands=brands)

    # a latency's bounds in microseconds, its names in what people read
    for way, type_ in (("read", "1"), ("write", "2")):
        name = f"smartos.disk.{way}"
        yield row(f"{name}.operations", "operation", Probes("zone_io", "ops", (type_,)))
        yield row(f"{name}.time", "us", Probes("zone_io", "us", (type_,)))
        for bound in _BOUNDS_US:
            below = Below("zone_io", "us", bound, (type_,))
            yield row(f"{name}.below.{bound}us", "operation", below)
    for bound in _BOUNDS_US:
        below = Below("zone_throttle", "us", bound)
        yield row(f"smartos.zfs.throttle.below.{bound}us", "operation", below)
    yield row("smartos.cpu.cap.waits", "wait", Probes("zone_capwait", "waits"))
    yield row("smartos.cpu.cap.wait", "ns", Probes("zone_capwait", "ns"))
    for bound in _BOUNDS_US:
        below = Below("zone_capwait", "ns", bound << 10)
        yield row(f"smartos.cpu.cap.below.{bound << 10}ns", "wait", below)
    for class_ in ("internal", "external", "ipv6"):
        for way, direction in (("incoming", "in"), ("outgoing", "out")):
            for unit, value in (("B", "bytes"), ("packet", "packets")):
                source = Probes("zone_net", value, (class_, direction))
                yield row(f"smartos.network.{class_}.{way}.{value}", unit, source, ZONES)
        source = Probes("zone_tcp", "retransmits", (class_,))
        yield row(f"smartos.tcp.retransmits.{class_}", "segment", source, ZONES)
    yield row("smartos.cpu.waits", "wait", Probes("zone_runq", "waits"))
    for bound in _BOUNDS_US:
        below = Below("zone_runq", "ns", bound << 10)
        yield row(f"smartos.cpu.waits.below.{bound << 10}ns", "wait", below)
    for way in ("read", "write"):
        name, function = f"smartos.vfs.{way}", f"fop_{way}"
        yield row(f"{name}.operations", "operation", Probes("zone_vfs", "ops", (function,)), ZONES)
        for bound in _BOUNDS_US:
            below = Below("zone_vfs", "ns", bound << 10, (function,))
            yield row(f"{name}.below.{bound << 10}ns", "operation", below, ZONES)
    yield row("smartos.cpu.bursts", "burst", Probes("zone_cpu", "bursts"))
    for bound in _BOUNDS_US:
        below = Below("zone_cpu", "ns", bound << 10)
        yield row(f"smartos.cpu.bursts.below.{bound << 10}ns", "burst", below)
    yield row("smartos.syscalls", "call", Probes("zone_syscall", "calls"), ZONES)
    yield row("smartos.syscalls.failed", "call", Probes("zone_syscall", "errors", ("*",)), ZONES)


# of 16 µs to 4 s, each eight times the one before; a distribution's buckets are powers of two
_BOUNDS_US = tuple(16 * 8**n for n in range(7))


def _audits() -> Iterator[Meter]:
    for name, source in (
        (
            "throttle",
            Ratio(Probes("zone_throttle", "us", ("*",)), Counter("zone_vfs", ("delay_time",))),
        ),
        (
            "retransmits",
            Ratio(
                Probes("zone_tcp", "retransmits", ("*",)),
                Counter("tcp", ("retransSegs",), narrow=True),
            ),
        ),
        ("cpu", Ratio(Probes("zone_cpu", "ns"), Counter("zones", ("nsec_user", "nsec_sys")))),
        ("cpu.wait", Ratio(Probes("zone_runq", "ns"), Counter("zones", ("nsec_waitrq",)))),
    ):
        yield Meter(
            f"smartos.audit.{name}", "ratio", GAUGE, source,
            "1 where DTrace saw all; two readings apart by one frame",
            note="of all zones together; of cpu.wait less where a CPU cap binds, which the kernel "
            "counts as waiting too",
            resource=NODE,
        )  # fmt: skip


def _own() -> Iterator[Meter]:
    for name, unit, what, resource, note in (
        ("smartos.metering.gap", "ns", "gap", INSTANCE,
         "between the last reading of a boot and its end: what was used then is not in any total"),
        ("smartos.metering.anomalies", "anomaly", "anomalies", INSTANCE,
         "a counter that went back without a reason; its total stands still meanwhile"),
        ("smartos.node.collections.failed", "collection", "failed", NODE,
         "cycles without a reading of this node"),
        ("smartos.node.readings.failed", "reading", "finals_failed", NODE,
         "final readings that nova-compute could not take or keep, or that cannot be read"),
        ("smartos.node.ledger.failed", "cycle", "ledger_failed", NODE,
         "cycles whose readings could not be made durable, and gave no samples"),
        ("smartos.node.dtrace.drops", "drop", "drops", NODE, "what DTrace says it lost"),
        ("smartos.node.dtrace.restarts", "restart", "restarts", NODE, "of the consumer"),
        ("smartos.node.dtrace.down", "ns", "down", NODE,
         "without a consumer whose window is open: what happened then is in no meter from DTrace"),
    ):  # fmt: skip
        # a late final reading makes a gap smaller
        type_ = GAUGE if what == "gap" else CUMULATIVE
        yield Meter(name, unit, type_, Own(what), "itself the bound", resource, note=note)


METERS = tuple(
    meter for part in (_counters, _levels, _derived, _probed, _audits, _own) for meter in part()
)
BY_NAME = {meter.name: meter for meter in METERS}

#: Meters of Ceilometer's libvirt pollsters that have no truthful source on SmartOS, and why.
NEVER = {
    "memory.swap.out": "no zone's pages going out are counted",
    "perf.cache.misses": "SmartOS shows no zone's performance counters",
    "perf.cache.references": "SmartOS shows no zone's performance counters",
    "perf.cpu.cycles": "SmartOS shows no zone's performance counters",
    "perf.instructions": "SmartOS shows no zone's performance counters",
}
