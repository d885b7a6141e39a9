# SPDX-License-Identifier: Apache-2.0
"""A transport that notes the commands it carries, and spoils one of them."""

import contextlib
import dataclasses
import enum
import io
import pathlib
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from nova_smartos.smartos import errors, transport
from smartos_emulator import client

MARK = "injected fault"

_OPERAND = re.compile(r"^(?:-|[0-9a-f]{8}-|.*[/=@{])")


class Kind(enum.StrEnum):
    """What happens to a command."""

    FAILS = "fails"
    FAILS_AFTER = "fails after its effect"
    HANGS = "hangs"
    HANGS_AFTER = "hangs after its effect"
    REFUSED = "connection refused"
    CUT_INPUT = "connection cut in its input"
    CUT_OUTPUT = "connection cut in its output"
    STATUS_LOST = "exit status lost"
    DIES = "killed by a signal"
    DIES_AFTER = "killed by a signal after its effect"
    GARBAGE = "garbage and exit status 0"
    KILLED = "nova-compute killed before"
    KILLED_AFTER = "nova-compute killed after"
    REBOOT = "node reboots before"
    REBOOT_AFTER = "node reboots after"
    FULL = "pool full"


KILLS = frozenset({Kind.KILLED, Kind.KILLED_AFTER})
REBOOTS = frozenset({Kind.REBOOT, Kind.REBOOT_AFTER})
#: Of these the command itself has nothing to say.
MUTE = frozenset({Kind.GARBAGE, Kind.DIES, Kind.DIES_AFTER, Kind.FULL})


class Killed(BaseException):
    """nova-compute ends here: nothing may catch this."""


@dataclasses.dataclass(frozen=True, order=True)
class Step:
    """The n-th command of its kind in an operation."""

    command: str
    number: int

    def __str__(self) -> str:
        return f"{self.command} #{self.number}"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Which command is spoilt, and how."""

    step: Step
    kind: Kind


def mark(step: Step) -> str:
    """What an error of this step says, so that a case can tell which error is the one shown."""
    return f"{MARK} in {step}"


def named(argv: tuple[str, ...]) -> str:
    """A command without its operands: `vmadm create`, `zfs list`, `dd`."""
    if argv[0] == "kstat" and any(word.startswith("cpu_info:") for word in argv):
        # not the reading of a zone's counters
        return "kstat cpu_info"
    words = [argv[0]]
    for word in argv[1:]:
        if _OPERAND.match(word) or len(words) == 2:
            break
        words.append(word)
    return " ".join(words)


class Direct(transport.Local):
    """Carries commands to an emulated node's own door: a process less for each of them.

    What is streamed may be killed, which takes a process.
    """

    def __init__(self, directory: pathlib.Path, tool_path: str) -> None:
        super().__init__(tool_path=tool_path)
        self._directory = directory

    def run(self, command: transport.Command) -> transport.Result:
        if command.terminal or not _is_of_node(command.argv):
            return super().run(command)
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(command.stdin)
            for each in streams:
                each.seek(0)
            given, said, told = (each.fileno() for each in streams)
            seconds = self.timeouts.seconds(command)
            try:
                status = client.call(
                    self._directory, [*command.argv], (given, said, told), seconds=seconds
                )
            except TimeoutError:
                raise errors.OutcomeUnknown("timed out", argv=command.argv) from None
            # the node has moved the place at which they are read
            texts = [_read(each) for each in streams[1:]]
        return transport.Result(command.argv, status, *texts, secrets=command.secrets)


def _is_of_node(argv: Sequence[str]) -> bool:
    """Whether the node's tool is meant, of those that the host has, too."""
    words = [word.partition("=")[2] or word for word in argv[1:]]
    shared = argv[0] in client.SHARED_WITH_HOST
    return not shared or any(client.is_of_node(word) for word in words)


def _read(stream: BinaryIO) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "surrogateescape")


@dataclasses.dataclass(frozen=True)
class Door:
    """The way to a node: `act` holds what that itself does, "reboot" and "full"."""

    inner: transport.Transport
    act: Callable[[str], None]
    #: stands before the names of its commands
    where: str = ""


class Faulty:
    """Carries the commands of the thread that operates, and those of others unharmed."""

    def __init__(self, inner: transport.Transport, act: Callable[[str], None]) -> None:
        self._door = Door(inner, act)
        self._thread: int | None = None
        self._operator = threading.get_ident()
        self._counts: Counter[str] = Counter()
        self._dead = False
        self._step = Step("", 0)
        #: called before each command of the operation
        self.between: Callable[[], None] = lambda: None
        self.steps: list[Step] = []
        self.has_input: dict[Step, bool] = {}
        self.faults: list[Fault] = []
        self.fired: list[Fault] = []

    @contextlib.contextmanager
    def operating(self, *faults: Fault) -> Iterator[None]:
        """What this thread does now is an operation, with these faults in it."""
        self.faults, self.fired = [*faults], []
        self.steps, self.has_input, self._counts = [], {}, Counter()
        self._thread = self._operator = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None

    def revive(self) -> None:
        """Another nova-compute begins."""
        self._dead = False

    def beside(self, inner: transport.Transport, act: Callable[[str], None], where: str) -> Any:
        """Carries the commands of the same nova-compute to another node."""
        return _Beside(self, Door(inner, act, where))

    def run(self, command: transport.Command, door: Door | None = None) -> transport.Result:
        """Run to the end, spoilt or not."""
        door = door or self._door
        with self._spoiling(command, bool(command.stdin), door) as kind:
            if kind is None:
                return door.inner.run(command)
            try:
                return self._spoilt(command, kind, door)
            except _Over as over:
                return over.result

    @contextlib.contextmanager
    def stream(self, command: transport.Command, door: Door | None = None) -> Iterator[Any]:
        """Start a command, spoilt or not."""
        door = door or self._door
        reads = command.argv[0] == "dd" or command.argv[:2] == ("zfs", "receive")
        with self._spoiling(command, reads, door) as kind:
            with contextlib.ExitStack() as stack:
                yield self._streamed(stack, command, kind, door)

    def close(self) -> None:
        self._door.inner.close()

    @contextlib.contextmanager
    def _spoiling(
        self, command: transport.Command, has_input: bool, door: Door
    ) -> Iterator[Kind | None]:
        if self._dead:
            # a thread of its own ends without a word
            raise Killed if threading.get_ident() == self._operator else SystemExit
        yield self._taken(command, has_input, door)

    def _taken(self, command: transport.Command, has_input: bool, door: Door) -> Kind | None:
        if threading.get_ident() != self._thread:
            return None
        self.between()
        name = door.where + named(command.argv)
        self._counts[name] += 1
        self._step = step = Step(name, self._counts[name])
        self.steps.append(step)
        self.has_input[step] = has_input
        for fault in self.faults:
            if fault.step == step:
                self.faults.remove(fault)
                self.fired.append(fault)
                return fault.kind
        return None

    def _spoilt(self, command: transport.Command, kind: Kind, door: Door) -> transport.Result:
        self._before(command, kind, door)
        if kind is Kind.CUT_INPUT:
            half = dataclasses.replace(command, stdin=command.stdin[: len(command.stdin) // 2])
            door.inner.run(half)
            raise self._unknown(command, "the connection broke while it read")
        result = door.inner.run(command)
        return self._after(command, kind, result, door)

    def _before(self, command: transport.Command, kind: Kind, door: Door) -> None:
        """All that keeps a command from running; returns when it is to run."""
        if kind is Kind.FAILS:
            raise _Over(self._failed(command))
        if kind is Kind.DIES:
            raise _Over(transport.Result(command.argv, -9))
        if kind is Kind.HANGS:
            raise self._unknown(command, "timed out")
        if kind is Kind.REFUSED:
            raise errors.NotStarted(f"{mark(self._step)}: refused", argv=command.argv)
        if kind is Kind.KILLED:
            self._die()
        if kind is Kind.REBOOT:
            door.act("reboot")
            raise self._unknown(command, "the connection was lost")
        if kind is Kind.FULL:
            door.act("full")

    def _after(
        self, command: transport.Command, kind: Kind, result: transport.Result, door: Door
    ) -> transport.Result:
        if kind is Kind.FAILS_AFTER:
            return self._failed(command)
        if kind is Kind.DIES_AFTER:
            return transport.Result(command.argv, -9)
        if kind in (Kind.HANGS_AFTER, Kind.STATUS_LOST, Kind.CUT_OUTPUT):
            raise self._unknown(command, kind.value)
        if kind is Kind.GARBAGE:
            return transport.Result(command.argv, 0, '\x00{"gar', "ble\x1b[2J")
        if kind is Kind.KILLED_AFTER:
            self._die()
        if kind is Kind.REBOOT_AFTER:
            door.act("reboot")
            raise self._unknown(command, "the connection was lost")
        return result

    def _streamed(
        self, stack: contextlib.ExitStack, command: transport.Command, kind: Kind | None, door: Door
    ) -> Any:
        if kind is None:
            return stack.enter_context(door.inner.stream(command))
        try:
            self._before(command, kind, door)
        except _Over as over:
            return _Ended(over.result)
        process = stack.enter_context(door.inner.stream(command))
        broken, step = self._unknown(command, kind.value), self._step

        def after(result: transport.Result) -> transport.Result:
            # other commands may have run while this one streamed
            self._step = step
            return self._after(command, kind, result, door)

        return _Spoilt(process, kind, after, broken)

    def _failed(self, command: transport.Command) -> transport.Result:
        return transport.Result(command.argv, 1, "", f"{mark(self._step)}\n")

    def _unknown(self, command: transport.Command, how: str) -> errors.OutcomeUnknown:
        return errors.OutcomeUnknown(f"{mark(self._step)}: {how}", argv=command.argv)

    def _die(self) -> None:
        self._dead = True
        raise Killed


class _Beside:
    """The same faults on the way to another node."""

    def __init__(self, faulty: Faulty, door: Door) -> None:
        self._faulty = faulty
        self._door = door

    def run(self, command: transport.Command) -> transport.Result:
        return self._faulty.run(command, self._door)

    def stream(self, command: transport.Command) -> Any:
        return self._faulty.stream(command, self._door)

    def close(self) -> None:
        self._door.inner.close()


class _Over(Exception):
    """The command is over before it ran."""

    def __init__(self, result: transport.Result) -> None:
        super().__init__()
        self.result = result


class _Ended:
    """A streamed command that is over already."""

    def __init__(self, result: transport.Result) -> None:
        self._result = result
        self.stdin = io.BytesIO()
        self.stdout = io.BytesIO()

    def close_stdin(self) -> None:
        """Nobody reads it."""

    def kill(self) -> None:
        """It is over."""

    def wait(self) -> transport.Result:
        return self._result


class _Spoilt:
    """A streamed command that goes wrong in the middle, or at its end."""

    def __init__(
        self,
        process: transport.Process,
        kind: Kind,
        after: Callable[[transport.Result], transport.Result],
        broken: errors.OutcomeUnknown,
    ) -> None:
        self._process = process
        self._broken = broken
        self._kind = kind
        self._after = after
        cut_input = kind is Kind.CUT_INPUT
        self.stdin: Any = _Cut(process.stdin, self._break) if cut_input else process.stdin
        cut_output = kind is Kind.CUT_OUTPUT
        self.stdout: Any = _Cut(process.stdout, self._break) if cut_output else process.stdout

    def _break(self) -> None:
        self._process.kill()
        raise self._broken

    def close_stdin(self) -> None:
        if self._kind is Kind.CUT_INPUT:
            self._break()
        self._process.close_stdin()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> transport.Result:
        return self._after(self._process.wait())


class _Cut:
    """A stream that carries one piece."""

    def __init__(self, stream: BinaryIO, end: Callable[[], None]) -> None:
        self._stream = stream
        self._end = end
        self._pieces = 0

    def write(self, data: Any) -> int:
        self._pieces += 1
        if self._pieces > 1:
            self._end()
        return self._stream.write(bytes(data)[: max(1, len(data) // 2)]) and len(data)

    def read(self, size: int = -1) -> bytes:
        self._pieces += 1
        if self._pieces > 1:
            self._end()
        return self._stream.read(min(size, 1024) if size > 0 else 1024)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
