# SPDX-License-Identifier: Apache-2.0
"""One run of a tool as the daemon sees it: its arguments, its streams, its end."""

import dataclasses
import io
import os
import pathlib
import re
import select
import signal
import stat
import threading
import typing

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

_local = threading.local()
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/self)/fd/(\d+)")


class Exit(Exception):
    """The tool ends with `status`, having printed `stderr` as it stands."""

    def __init__(self, status: int, stderr: str = "") -> None:
        super().__init__(status, stderr)
        self.status = status
        self.stderr = stderr


class Abort(Exception):
    """An uncaught JavaScript exception: printed on stderr, then the process dies by SIGABRT."""


class Cancelled(Exception):
    """The client is gone: the run ends where it stands, as a killed process would."""


def current() -> "Call | None":
    """The call that this thread serves, if any."""
    return getattr(_local, "call", None)


@dataclasses.dataclass
class Call:
    """A tool's run. Streams are the client's own file descriptors."""

    argv: list[str]
    node: "node_module.Node"
    env: dict[str, str]
    cwd: str
    stdin: typing.BinaryIO
    stdout: typing.BinaryIO
    stderr: typing.BinaryIO
    pid: int = 0
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    #: The signals that the client passed on, for tools that end in their own way.
    signals: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def on_descriptors(
        cls,
        argv: list[str],
        node: "node_module.Node",
        env: dict[str, str],
        cwd: str,
        descriptors: tuple[int, int, int],
        pid: int = 0,
    ) -> "Call":
        """A call over the file descriptors that a client passed."""
        cancelled = threading.Event()
        stdin = io.BufferedReader(_Input(descriptors[0], cancelled), 1 << 16)
        stdout = typing.cast(typing.BinaryIO, _Output(descriptors[1], cancelled))
        stderr = typing.cast(typing.BinaryIO, _Output(descriptors[2], cancelled))
        return cls(argv, node, env, cwd, stdin, stdout, stderr, pid, cancelled)

    def serve(self, main: typing.Callable[["Call"], int]) -> int:
        """Run the tool; the exit status, negative for a death by signal."""
        _local.call = self
        try:
            return main(self)
        except Exit as end:
            self.err(end.stderr)
            return end.status
        except Abort as crash:
            self.err(f"{crash}\n")
            return -signal.SIGABRT
        except BrokenPipeError:
            return -signal.SIGPIPE
        finally:
            _local.call = None

    def close(self) -> None:
        """Close the client's descriptors on our side."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()

    def out(self, text: str) -> None:
        """Write `text` to stdout as it stands."""
        self.stdout.write(text.encode("utf-8", "surrogateescape"))

    def err(self, text: str) -> None:
        """Write `text` to stderr as it stands."""
        self.stderr.write(text.encode("utf-8", "surrogateescape"))

    def read_stdin(self) -> bytes:
        """All of stdin."""
        return self.stdin.read()

    def stdin_is_tty(self) -> bool:
        return self.stdin.isatty()

    def stdout_is_tty(self) -> bool:
        return self.stdout.isatty()

    def host_path(self, path: str) -> pathlib.Path:
        """Where a path named on the tool's command line lies on this machine."""
        if path in ("-", "/dev/stdin", "/dev/fd/0"):
            return pathlib.Path(f"/proc/self/fd/{self.stdin.fileno()}")
        if self.pid and (found := _DESCRIPTOR.fullmatch(path)):
            return pathlib.Path(f"/proc/{self.pid}/fd/{found[1]}")
        return self.node.host_path(os.path.join(self.cwd, path))

    def open_path(self, path: str, mode: str = "rb") -> typing.IO[typing.Any]:
        """Open a file named on the tool's command line."""
        return open(self.host_path(path), mode)


class _Input(io.RawIOBase):
    """A reader that wakes up when the client dies, whoever holds the other end."""

    def __init__(self, descriptor: int, cancelled: threading.Event) -> None:
        self._descriptor = descriptor
        self._cancelled = cancelled
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def readinto(self, buffer: typing.Any) -> int:
        while not self._poll.poll(200):
            if self._cancelled.is_set():
                raise Cancelled
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class _Output(io.RawIOBase):
    """An unbuffered writer that writes everything it is given, or wakes up when the client dies."""

    def __init__(self, descriptor: int, cancelled: threading.Event) -> None:
        self._descriptor = _without_blocking(descriptor)
        self._cancelled = cancelled
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: typing.Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += os.write(self._descriptor, view[done:])
            except BlockingIOError:
                self._wait_for_room()
        return done

    def _wait_for_room(self) -> None:
        while not self._poll.poll(200):
            if self._cancelled.is_set():
                raise Cancelled

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _without_blocking(descriptor: int) -> int:
    """A pipe opened anew, so that only our end does not block; anything else as it is."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    try:
        anew = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        # nobody reads: a write will say so
        return descriptor
    os.close(descriptor)
    return anew
