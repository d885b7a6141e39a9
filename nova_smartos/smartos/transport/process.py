# SPDX-License-Identifier: Apache-2.0
"""A command on its way: its time limit, its streams, and running it to the end.

What a local process and a command behind SSH have in common is here; the two differ in how bytes
move and how an end is noticed.
"""

import abc
import contextlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, cast

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import trace

CHUNK = 65536
#: Input up to this size fits in any pipe, so that writing it cannot block.
INLINE_INPUT_BYTES = 4096
#: A tool may leave a child behind that keeps its streams open; nobody waits for that child.
ORPHAN_SECONDS = 1.0

# Numbers that Linux and illumos share, so that 128+n of a remote shell means the same here.
_SHELL_SIGNALS = {1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 14, 15}


class Limit:
    """How long a command may take, or with `idle`, how long nothing may move."""

    def __init__(self, seconds: float, *, idle: bool = False) -> None:
        self.seconds = seconds
        self.idle = idle
        self._since = time.monotonic()

    def moved(self) -> None:
        """Note that bytes moved, or that the caller only now asks for some."""
        if self.idle:
            self._since = time.monotonic()

    def restart(self) -> None:
        """Begin now: waiting for a connection is not the command's time."""
        self._since = time.monotonic()

    def left(self) -> float:
        """Return the seconds that are left, 0 when none are."""
        return max(0.0, self._since + self.seconds - time.monotonic())

    def __str__(self) -> str:
        return f"nothing moved for {self.seconds:g} s" if self.idle else f"{self.seconds:g} s"


class Capped:
    """Output that is kept up to a size; `overflow` tells that there was more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._lock = threading.Lock()
        self.overflow = False

    def add(self, chunk: bytes) -> None:
        """Keep what still fits of `chunk`."""
        with self._lock:
            room = self._limit - len(self._kept)
            self._kept += chunk[:room]
            self.overflow = self.overflow or len(chunk) > room

    def take_lines(self) -> str:
        """Return the whole lines that were kept, and forget them: there is room again."""
        with self._lock:
            end = self._kept.rfind(b"\n") + 1
            lines = self._kept[:end]
            del self._kept[:end]
        return lines.decode("utf-8", "surrogateescape")

    def text(self) -> str:
        """Return what is kept, bytes that are not UTF-8 as surrogates."""
        with self._lock:
            return self._kept.decode("utf-8", "surrogateescape")


class Running(abc.ABC):
    """A started command; see command.Process for what its user may rely on."""

    def __init__(self, command: commands.Command, limit: Limit) -> None:
        self.command = command
        self.limit = limit
        self.stderr = Capped(commands.MAX_STDERR_BYTES)
        self.returncode: int | None = None
        #: bytes that went to its standard input, and came from its standard output
        self.sent = self.received = 0
        #: whether output that cannot be kept is an error
        self.whole = False
        #: writes the input, where that is too much to be written at once
        self.feeder: threading.Thread | None = None
        self._started = time.monotonic()
        self._stdin = _Input(self)
        self._stdout = io.BufferedReader(_Output(self), CHUNK)

    @abc.abstractmethod
    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of standard output as soon as there are any, b"" at its end."""

    @abc.abstractmethod
    def write(self, data: memoryview) -> int:
        """Write a part of `data` to standard input; return how much."""

    @abc.abstractmethod
    def close_stdin(self) -> None:
        """Let the command see the end of its input. Doing it twice does no harm."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End the command; reads and writes of other threads end soon after. Never blocks long."""

    @abc.abstractmethod
    def dispose(self) -> None:
        """Give everything back, ending the command first if it still runs."""

    @abc.abstractmethod
    def finish(self) -> int:
        """Wait for the exit status once standard output is at its end."""

    @property
    def stdin(self) -> BinaryIO:
        return cast(BinaryIO, self._stdin)

    @property
    def stdout(self) -> BinaryIO:
        return cast(BinaryIO, self._stdout)

    def keep_stderr(self, chunk: bytes) -> None:
        """Keep a piece of standard error, or end a command whose whole output is wanted."""
        self.stderr.add(chunk)
        if self.whole and self.stderr.overflow:
            self.kill()

    def take_stderr(self) -> str:
        return self.stderr.take_lines()

    def wait(self) -> commands.Result:
        """Close the input, throw away what is left of the output, return how it ended."""
        self.close_stdin()
        while self.read(CHUNK):
            pass
        return self.result("", self.finish())

    def result(self, stdout: str, returncode: int) -> commands.Result:
        """Return the result, also noting it for the log."""
        self.returncode = signalled(returncode)
        return commands.Result(
            argv=self.command.argv,
            returncode=self.returncode,
            stdout=stdout,
            stderr=self.stderr.text(),
            seconds=time.monotonic() - self._started,
            secrets=self.command.secrets,
        )

    def check_overflow(self, stdout: Capped) -> None:
        """Raise if the command printed more than is kept; it is ended by then."""
        for what, kept in (("output", stdout), ("error", self.stderr)):
            if kept.overflow:
                message = f"too much on standard {what}; ended it"
                raise errors.OutputError(message, argv=self.command.argv)

    def timed_out(self) -> errors.OutcomeUnknown:
        """Return the error of a command that took too long."""
        return errors.OutcomeUnknown(f"timed out: {self.limit}", argv=self.command.argv)


class Base(abc.ABC):
    """What the transports share: run and stream on top of starting a command."""

    def __init__(self, name: str, timeouts: commands.Timeouts | None) -> None:
        self.name = name
        self.timeouts = timeouts or commands.Timeouts()

    def run(self, command: commands.Command) -> commands.Result:
        """Run a command to its end; a non-zero exit is a Result too."""
        with trace.observed(self.name, command) as seen:
            running = self._start(command, Limit(self.timeouts.seconds(command)))
            with contextlib.closing(_Disposable(running, seen)):
                result = exchange(running)
                seen.returncode = result.returncode
                return result

    @contextlib.contextmanager
    def stream(self, command: commands.Command) -> Iterator[commands.Process]:
        """Start a command and give its streams; leaving the context ends it."""
        with trace.observed(self.name, command) as seen:
            seconds = self.timeouts.stream_idle if command.seconds is None else command.seconds
            running = self._start(command, Limit(seconds, idle=True))
            with contextlib.closing(_Disposable(running, seen)):
                write_all(running, command.stdin)
                yield running
                seen.returncode = running.returncode

    @abc.abstractmethod
    def _start(self, command: commands.Command, limit: Limit) -> Running:
        """Start a command, or raise NotStarted."""


def exchange(running: Running) -> commands.Result:
    """Give a command its whole input, take its whole output, and wait for its end."""
    running.whole = True
    _feed(running)
    stdout = Capped(commands.MAX_STDOUT_BYTES)
    try:
        while not stdout.overflow and (chunk := running.read(CHUNK)):
            stdout.add(chunk)
        running.check_overflow(stdout)
        returncode = running.finish()
    finally:
        # ended for that reason, which says more than how it ended
        running.check_overflow(stdout)
    return running.result(stdout.text(), returncode)


def signalled(returncode: int) -> int:
    """Return a returncode with a shell's 128+n as the signal -n that it stands for."""
    return 128 - returncode if returncode - 128 in _SHELL_SIGNALS else returncode


def signal_number(name: str) -> int:
    """Return the number of a signal from its SSH name ("KILL"), SIGHUP's for an unknown one."""
    return getattr(signal, "SIG" + name, signal.SIGHUP)


def write_all(running: Running, data: bytes) -> None:
    """Write all of `data`; raises BrokenPipeError when the command stops listening."""
    view = memoryview(data)
    while view:
        written = running.write(view)
        running.sent += written
        view = view[written:]


def _feed(running: Running) -> None:
    if len(running.command.stdin) <= INLINE_INPUT_BYTES:
        _feed_all(running)
    else:
        running.feeder = threading.Thread(target=_feed_all, args=(running,), daemon=True)
        running.feeder.start()


def _feed_all(running: Running) -> None:
    # A tool may end without reading its input: its exit status says why. Every other error meets
    # whoever reads the output, too.
    with contextlib.suppress(BrokenPipeError, errors.SmartOSError):
        write_all(running, running.command.stdin)
        running.close_stdin()


class _Disposable:
    """Lets contextlib.closing end a command, and note how much went through it."""

    def __init__(self, running: Running, seen: trace.Seen) -> None:
        self._running = running
        self._seen = seen

    def close(self) -> None:
        self._seen.sent, self._seen.received = self._running.sent, self._running.received
        self._running.dispose()


class _Input(io.RawIOBase):
    """Standard input of a running command as a file; write() takes everything."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        write_all(self._running, cast(bytes, data))
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._running.close_stdin()


class _Output(io.RawIOBase):
    """Standard output of a running command as a file."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self._running.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)
