# SPDX-License-Identifier: Apache-2.0
"""What metering costs: 1,000 zones with all meters in a cycle, and memory over 1,000 cycles.

The node's answers are those of an emulated one with a single zone, multiplied, with counters that
grow, so that what is measured is our part alone: reading the answers and frames, the ledger on the
disk, and making the samples. Ceilometer's own part, publishing them, stands beside it.
"""

import contextlib
import dataclasses
import gc
import io
import itertools
import json
import os
import pathlib
import queue
import re
import statistics
import tempfile
import time
import typing
import uuid

from ceilometer.publisher import utils as publisher_utils
from oslo_config import cfg

from bench import nodes, report
from ceilometer_plugin import conf as meters_conf
from ceilometer_plugin import metering, meters
from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import node, transport

ZONES = 1000
#: Cycles that are timed, each with all its samples.
TIMED = 10
#: For memory: so many cycles of so many zones, after so many until every cache is full.
CYCLES, FEWER_ZONES, WARM = 1000, 50, 100

_MARK = {
    "version": 1,
    "host": "node1",
    "name": "instance-0000000a",
    "display_name": "web",
    "project_id": "9" * 32,
    "user_id": "8" * 32,
    "image_ref": "7" * 32,
    "created_at": "",
    "flavor": {
        "id": "1", "name": "tiny", "vcpus": 1, "ram": 64, "disk": 1, "ephemeral": 0, "swap": 0
    },
}  # fmt: skip
# Counters of the zone that grow from cycle to cycle.
_GROWING = re.compile(r'("(?:nsec_\w+|nread|nwritten|[ro]bytes64|snaptime)": )(\d+)')
_FIRST_ZONE_ID = 100
# of the node's clock, from cycle to cycle: an hour, after which one run of DTrace takes over from
# another, is 60 cycles
_STEP_NS = 60 * 10**9
# of samples that the polling agent sends together, where its configuration says nothing else
_BATCH = 50
# What a script tells of a zone in each frame, with how many buckets.
_FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "zone_io": (("ops|{}|1", "ops|{}|2", "us|{}|1", "us|{}|2"), ("us|{}|1", "us|{}|2")),
    "zone_throttle": (("ops|{}|1", "us|{}|1"), ("us|{}",)),
    "zone_capwait": (("waits|{}", "ns|{}"), ("ns|{}",)),
    "zone_net": (("bytes|{}|external|in", "bytes|{}|external|out", "packets|{}|external|in",
                  "packets|{}|external|out"), ()),
    "zone_tcp": (("retransmits|{}|external",), ()),
}  # fmt: skip
_BUCKETS = 12


class Many:
    """A transport to a node whose one zone is many."""

    def __init__(self, gz: node.Node, vm_uuid: str, count: int) -> None:
        self.commands: list[str] = []
        #: what answering took, which is the node's work and not ours
        self.seconds = 0.0
        #: how many dtrace processes were started, and those that run
        self.runs = 0
        self._tracing: list[_Tracing] = []
        self._gz, self._vm_uuid = gz, vm_uuid
        self._uuids = [str(uuid.UUID(int=number + 2**96)) for number in range(count)]
        self._vm = json.loads(self._ask("vmadm", "get", vm_uuid))
        self._answers: dict[tuple[str, ...], str] = {}
        self._cycle = 0
        snapped = self._ask("kstat", "-p", "zones:0::snaptime").split()[-1]
        self._since_ns = int(float(snapped) * 10**9)

    def run(self, command: transport.Command) -> transport.Result:
        """Answer as the node would."""
        begin = time.thread_time()
        self.commands.append(command.argv[0])
        if command.argv not in self._answers:
            self._answers[command.argv] = self._ask(*command.argv)
        text = self._answers[command.argv]
        if "unix:0:system_misc:boot_time" in command.argv:
            text = self._kstats(text)
        elif command.argv[0] == "zfs":
            text = self._datasets(text)
        self.seconds += time.thread_time() - begin
        return transport.Result(command.argv, 0, text, "")

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> typing.Iterator[transport.Process]:
        """The event stream, which tells of all VMs and then of nothing, or dtrace."""
        lines = _Lines(queue.SimpleQueue())
        process = _Running(lines)
        if command.argv[0] == "vmadm":
            lines.left.put(self._ready())
        else:
            # PERIOD FROM UNTIL are its last words
            since = max(0, int(command.argv[-2]) - self._since_ns) // _STEP_NS
            self._tracing.append(_Tracing(lines, since))
            self.runs += 1
        try:
            yield typing.cast(transport.Process, process)
        finally:
            process.kill()
            self._tracing = [each for each in self._tracing if each.lines is not lines]

    def close(self) -> None:
        """Nothing is open."""

    def frame(self) -> int:
        """Put a frame of every script into the output of each dtrace; its hrtime."""
        begin = time.thread_time()
        self._cycle += 1
        now = self._since_ns + self._cycle * _STEP_NS
        for tracing in self._tracing:
            for line in self._frame(tracing, now):
                tracing.lines.left.put(f"{line}\n".encode())
        self.seconds += time.thread_time() - begin
        return now

    def _frame(self, tracing: "_Tracing", now: int) -> list[str]:
        out = []
        passed = self._cycle - tracing.since
        if not tracing.begun:
            tracing.begun = True
            out += [f"H|{script}|1|{now - 10**9}|{time.time_ns()}" for script in _FRAMES]
        for script, (values, distributions) in _FRAMES.items():
            out.append(f"S|{script}|{now}|{time.time_ns()}")
            for zone in range(_FIRST_ZONE_ID, _FIRST_ZONE_ID + len(self._uuids)):
                out += [f"A|{script}|{key.format(zone)}|{passed * 1000}" for key in values]
                for key in distributions:
                    out += [f"Q|{script}|{key.format(zone)}|", "", _HISTOGRAM[0]]
                    out += [row.format(passed * 7) for row in _HISTOGRAM[1:]] + [""]
            out.append(f"E|{script}")
        return out

    def _ask(self, *argv: str) -> str:
        return self._gz.transport.run(transport.Command(argv)).stdout

    def _ready(self) -> bytes:
        text = json.dumps(self._vm)
        vms = {each: json.loads(text.replace(self._vm_uuid, each)) for each in self._uuids}
        event = {"type": "ready", "date": "2026-01-01T00:00:00.000Z", "uuid": str(uuid.UUID(int=1))}
        return json.dumps(event | {"vms": vms}).encode() + b"\n"

    def _kstats(self, text: str) -> str:
        """The zone's kstats for each, with counters that have grown."""
        found = re.split(r"(?<=\n\}),?(?=\{)", text.strip("[]\n"))
        passed = self._cycle * _STEP_NS // 10**9

        def grown(match: re.Match[str]) -> str:
            # times are in seconds, what is counted in nanoseconds or bytes
            if match[1] == '"snaptime": ':
                # that of the frames, and not of when the emulated node was asked
                return f"{match[1]}{self._since_ns // 10**9 + passed}"
            return f"{match[1]}{int(match[2]) + passed * 10**9}"

        zone_id, cut = str(self._vm["zoneid"]), self._vm_uuid[:30]
        # TCP's names no zone
        own = (self._vm_uuid, f'"module": "tcp",\n\t"instance": {zone_id},')
        ours = [_GROWING.sub(grown, one) for one in found if any(word in one for word in own)]
        # the node's own is the last that kstat prints
        rest = [one for one in found if '"system_misc"' in one]
        numbered = re.compile(rf"(?<=[z_]){zone_id}(?=[_\"])")
        out = []
        for number, each in enumerate(self._uuids, _FIRST_ZONE_ID):
            for one in ours:
                one = one.replace(self._vm_uuid, each).replace(cut, each[:30])
                one = one.replace(f'"instance": {zone_id},', f'"instance": {number},')
                out.append(numbered.sub(str(number), one))
        return f"[{','.join(out + rest)}]\n"

    def _datasets(self, text: str) -> str:
        (line,) = [row for row in text.splitlines() if row.startswith(f"zones/{self._vm_uuid}\t")]
        return "".join(f"{line.replace(self._vm_uuid, each)}\n" for each in self._uuids)


# as dtrace draws one
_HISTOGRAM = [
    "           value  ------------- Distribution ------------- count    ",
    "               1 |                                         0        ",
    *(f"{2**n:16d} |@@@                                      {{:<9}}" for n in range(1, _BUCKETS)),
    f"{2**_BUCKETS:16d} |                                         0        ",
]


@dataclasses.dataclass
class _Tracing:
    """A dtrace that runs, and the cycle from which it counts."""

    lines: "_Lines"
    since: int
    begun: bool = False


class _Lines(io.RawIOBase):
    """The output of a command that goes on."""

    def __init__(self, left: "queue.SimpleQueue[bytes]") -> None:
        super().__init__()
        self.left = left

    def readline(self, size: int | None = -1, /) -> bytes:
        return self.left.get()


class _Running:
    """A command that goes on until it is ended."""

    def __init__(self, lines: _Lines) -> None:
        self.stdin = io.BytesIO()
        self.stdout = lines

    def close_stdin(self) -> None:
        """It reads no more."""

    def kill(self) -> None:
        """End it."""
        self.stdout.left.put(b"")

    def take_stderr(self) -> str:
        """It says nothing there."""
        return ""

    def wait(self) -> transport.Result:
        """How it ended."""
        return transport.Result((), 0, "", "")


class Metered:
    """The plugin's part of a polling agent, on such a node."""

    def __init__(self, many: Many, folder: pathlib.Path) -> None:
        self._many = many
        conf = cfg.ConfigOpts()
        meters_conf.register(conf)
        conf([])
        conf.set_override("ledger", str(folder / f"ledger-{id(many)}"), meters_conf.GROUP)
        conf.set_override("space_interval", 10**6, meters_conf.GROUP)
        real = smartos_conf.connect
        smartos_conf.connect = lambda conf: node.Node(typing.cast(transport.Transport, many))
        try:
            self.metering = metering.Metering(conf)
        finally:
            smartos_conf.connect = real

    def cycle(self) -> typing.Iterator[list[typing.Any]]:
        """A frame, a cycle, and its samples, in batches as the polling agent takes them."""
        now = self._many.frame()
        for source in self.metering._sources:
            assert source.dtrace is not None
            # the consumer reads beside the cycle
            while any(frame.hrtime_ns < now for frame in source.dtrace.frames().values()):
                time.sleep(0.001)
        cycle = self.metering.cycle()
        for meter in meters.METERS:
            samples = iter(cycle.samples(meter))
            while batch := list(itertools.islice(samples, _BATCH)):
                yield batch

    def cycle_alone(self) -> None:
        """A cycle whose samples nobody publishes."""
        for _ in self.cycle():
            pass


def run(found: report.Report) -> None:
    """Measure cycles, commands and memory."""
    with nodes.up("--speed", "100") as directory, tempfile.TemporaryDirectory() as name:
        vm_uuid, folder = _zone(directory), pathlib.Path(name)
        with node.Node.local(tool_path=str(directory / "bin")) as gz:
            _time(found, Many(gz, vm_uuid, ZONES), folder)
            _memory(found, Many(gz, vm_uuid, FEWER_ZONES), folder)


def _time(found: report.Report, many: Many, folder: pathlib.Path) -> None:
    metered = Metered(many, folder)
    metered.cycle_alone()
    metered.cycle_alone()
    ours: list[float] = []
    publishing: list[float] = []
    commands = len(many.commands)
    count = 0
    for _ in range(TIMED):
        begin, answering, published = time.process_time(), many.seconds, 0.0
        count = 0
        for samples in metered.cycle():
            count += len(samples)
            since = time.process_time()
            for each in samples:
                publisher_utils.meter_message_from_counter(each, "secret")
            published += time.process_time() - since
        ours.append(time.process_time() - begin - published - (many.seconds - answering))
        publishing.append(published)
    ran = (len(many.commands) - commands) / TIMED
    metered.metering.close()
    found.series[f"our part of a cycle, {ZONES} zones (s)"] = ours
    found.series["Ceilometer's messages of it (s)"] = publishing
    found.figure("samples_per_cycle", count, f"of {ZONES} zones")
    found.figure("cpu_s_per_cycle", statistics.median(ours), "our part, median", "<= 2")
    found.figure("publish_s_per_cycle", statistics.median(publishing), "Ceilometer's, as many")
    found.figure("node_commands", ran, "a cycle, of any number of zones", "<= 1")


def _memory(found: report.Report, many: Many, folder: pathlib.Path) -> None:
    metered = Metered(many, folder)
    for _ in range(WARM):
        metered.cycle_alone()
    sizes = [_rss_mib()]
    for cycle in range(CYCLES):
        metered.cycle_alone()
        if cycle % 100 == 99:
            sizes.append(_rss_mib())
    metered.metering.close()
    found.series[f"memory over {CYCLES} cycles of {FEWER_ZONES} zones (MiB)"] = sizes
    growth = max(sizes) - sizes[0]
    found.figure("rss_growth_mib", growth, f"over {CYCLES} cycles, {FEWER_ZONES} zones", "<= 8")
    found.figure("dtrace_runs", many.runs, "of which each took over from the one before", ">= 16")


def _rss_mib() -> float:
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def _zone(directory: pathlib.Path) -> str:
    payload = {
        "brand": "joyent-minimal",
        "image_uuid": nodes.install_image(directory, "minimal"),
        "max_physical_memory": 64,
        "quota": 1,
        "cpu_cap": 100,
        "nics": [{"mac": "02:00:00:00:00:01", "nic_tag": "admin", "ips": ["10.9.0.1/24"]}],
        "internal_metadata": {"nova:instance": json.dumps(_MARK)},
    }
    return nodes.create(directory, payload)
