# SPDX-License-Identifier: Apache-2.0
"""Faults on demand: any tool can fail, hang, be slow, be cut short, die or lose its connection."""

import contextlib
import dataclasses
import enum
import itertools
import random
import re
import signal
import threading
import typing
from collections.abc import Sequence

from smartos_emulator import call as call_module


class Kind(enum.StrEnum):
    """What a fault does to a run of a tool."""

    FAIL = "fail"  # the tool does not run: status, stdout and stderr are the fault's
    HANG = "hang"  # it never answers, until the fault is cleared or the client goes
    SLOW = "slow"  # it waits, then runs
    TRUNCATE = "truncate"  # it runs, and its standard output ends after so many bytes
    DIE_BEFORE = "die-before"  # killed before any effect
    DIE_AFTER = "die-after"  # killed after the effect, before a word of output
    LOSE_BEFORE = "lose-before"  # its SSH connection is cut before any effect
    LOSE_AFTER = "lose-after"  # its SSH connection is cut after the effect
    # These meet a tool that runs on, as dtrace does, in its midst:
    SAY = "say"  # it prints the fault's stderr, and goes on
    STALL = "stall"  # it prints no more until the fault is cleared
    DIE = "die"  # it prints the fault's stderr and ends; killed, if the status is 0


MIDWAY = (Kind.SAY, Kind.STALL, Kind.DIE)


@dataclasses.dataclass
class Fault:
    """One fault: which runs it meets, and what it does to them."""

    id: int
    kind: Kind
    tool: str
    match: str = ""
    count: int = 0
    probability: float = 1.0
    status: int = 1
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    bytes: int = 0
    met: int = 0
    cleared: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)

    def meets(self, argv: Sequence[str], draw: random.Random) -> bool:
        """Whether this run of a tool is one to spoil."""
        if self.tool not in ("*", argv[0]) or (self.count and self.met >= self.count):
            return False
        if not re.search(self.match, " ".join(argv[1:])):
            return False
        return draw.random() < self.probability

    def to_json(self) -> dict[str, typing.Any]:
        names = (field.name for field in dataclasses.fields(self) if field.name != "cleared")
        return {name: getattr(self, name) for name in names}


Main = typing.Callable[[call_module.Call], int]


class Faults:
    """The faults of a node. They are not kept: a node comes up sound."""

    def __init__(self, seed: int) -> None:
        self._faults: list[Fault] = []
        self._numbers = itertools.count(1)
        self._draw = random.Random(seed)
        self._lock = threading.Lock()

    def add(self, kind: str, tool: str, **options: typing.Any) -> Fault:
        """Make a fault; the next run of a tool that it meets feels it."""
        fault = Fault(next(self._numbers), Kind(kind), tool, **options)
        re.compile(fault.match)
        with self._lock:
            self._faults.append(fault)
        return fault

    def list(self) -> list[Fault]:
        with self._lock:
            return [*self._faults]

    def clear(self, number: int | None = None) -> int:
        """Take one fault away, or all; how many went. Runs that hang on them go on."""
        with self._lock:
            gone = [fault for fault in self._faults if number in (None, fault.id)]
            self._faults = [fault for fault in self._faults if fault not in gone]
        for fault in gone:
            fault.cleared.set()
        return len(gone)

    def run(self, call: call_module.Call, main: Main) -> int:
        """Run a tool, spoiled by the first fault that meets it."""
        fault = self._meet(call.argv, midway=False)
        return main(call) if fault is None else _EFFECTS[fault.kind](fault, call, main)

    def strike(self, argv: Sequence[str]) -> Fault | None:
        """The fault that meets a tool which runs, now."""
        return self._meet(argv, midway=True) if self._faults else None

    def _meet(self, argv: Sequence[str], *, midway: bool) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if (fault.kind in MIDWAY) == midway and fault.meets(argv, self._draw):
                    fault.met += 1
                    return fault
        return None


def _fail(fault: Fault, call: call_module.Call, _main: Main) -> int:
    call.out(fault.stdout)
    call.err(fault.stderr)
    return fault.status


def _hang(fault: Fault, call: call_module.Call, main: Main) -> int:
    while not fault.cleared.wait(0.05):
        if call.cancelled.is_set() or call.node.clock.stopping.is_set() or call.signals:
            raise call_module.Cancelled
    return main(call)


def _slow(fault: Fault, call: call_module.Call, main: Main) -> int:
    call.node.clock.sleep(fault.seconds)
    return main(call)


def _truncate(fault: Fault, call: call_module.Call, main: Main) -> int:
    stdout = call.stdout
    call.stdout = typing.cast(typing.BinaryIO, _Cut(stdout, fault.bytes))
    try:
        return main(call)
    finally:
        call.stdout = stdout


def _die_before(_fault: Fault, _call: call_module.Call, _main: Main) -> int:
    return -signal.SIGKILL


def _die_after(_fault: Fault, call: call_module.Call, main: Main) -> int:
    _unheard(call, main)
    return -signal.SIGKILL


def _lose_before(_fault: Fault, call: call_module.Call, _main: Main) -> int:
    call.node.cut_connection(call.pid)
    return -signal.SIGKILL


def _lose_after(_fault: Fault, call: call_module.Call, main: Main) -> int:
    _unheard(call, main)
    call.node.cut_connection(call.pid)
    return -signal.SIGKILL


_EFFECTS: dict[Kind, typing.Callable[[Fault, call_module.Call, Main], int]] = {
    Kind.FAIL: _fail,
    Kind.HANG: _hang,
    Kind.SLOW: _slow,
    Kind.TRUNCATE: _truncate,
    Kind.DIE_BEFORE: _die_before,
    Kind.DIE_AFTER: _die_after,
    Kind.LOSE_BEFORE: _lose_before,
    Kind.LOSE_AFTER: _lose_after,
}


class _Cut:
    """A stream that takes everything and passes on the first bytes only."""

    def __init__(self, stream: typing.BinaryIO, room: int) -> None:
        self._stream = stream
        self._room = room

    def write(self, data: bytes) -> int:
        self._stream.write(data[: self._room])
        self._room -= min(self._room, len(data))
        return len(data)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._stream, name)


def _unheard(call: call_module.Call, main: Main) -> None:
    """Run a tool for its effect alone."""
    stdout, stderr = call.stdout, call.stderr
    call.stdout = typing.cast(typing.BinaryIO, _Cut(stdout, 0))
    call.stderr = typing.cast(typing.BinaryIO, _Cut(stderr, 0))
    try:
        with contextlib.suppress(call_module.Exit, call_module.Abort):
            main(call)
    finally:
        call.stdout, call.stderr = stdout, stderr
