# SPDX-License-Identifier: Apache-2.0
"""Commands as processes of this machine: the service runs on the node, or on an emulated one."""

import contextlib
import errno
import io
import logging
import os
import selectors
import signal
import subprocess
import threading
import tty
from collections.abc import Sequence

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import process

LOG = logging.getLogger(__name__)

#: Where SmartOS keeps its tools, and operators theirs, for a service whose PATH lacks them.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/opt/custom/bin"
# A killed process ends at once, unless the kernel or another user holds it.
_REAP_SECONDS = 5.0


class Local(process.Base):
    """Runs commands on this machine, with an environment of their own."""

    def __init__(
        self,
        *,
        tool_path: str | None = None,
        pfexec: bool = False,
        timeouts: commands.Timeouts | None = None,
    ) -> None:
        """Prefix commands with pfexec if asked; look in the folders of `tool_path` first."""
        super().__init__("local", timeouts)
        self._tool_path = tool_path
        self._prefix = ["pfexec"] if pfexec else []

    def close(self) -> None:
        """Nothing is kept open between commands."""

    def environment(self) -> dict[str, str]:
        """Return the whole environment that commands get."""
        own = os.environ.get("PATH", "")
        path = ":".join(filter(None, [self._tool_path, own, SYSTEM_PATH]))
        return {"LC_ALL": "C", "PATH": path, "HOME": os.environ.get("HOME", "/")}

    def _start(self, command: commands.Command, limit: process.Limit) -> process.Running:
        argv = [*(word.encode() for word in self._prefix), *command.encoded()]
        try:
            return _LocalProcess(argv, self.environment(), command, limit)
        except FileNotFoundError:
            tool = os.fsdecode(argv[0])
            message = f"there is no {tool} in {self.environment()['PATH']}"
            raise errors.NotStarted(message, argv=command.argv, retryable=False) from None
        except OSError as error:
            raise errors.NotStarted(
                f"cannot start it: {error.strerror}", argv=command.argv, retryable=False
            ) from error


class _LocalProcess(process.Running):
    # Popen's own pipes are not used: eventlet, where Nova still runs on it, makes them block.

    def __init__(
        self,
        argv: Sequence[bytes],
        environment: dict[str, str],
        command: commands.Command,
        limit: process.Limit,
    ) -> None:
        super().__init__(command, limit)
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stderr, self._err = _pipe(theirs, ours, "rb")
            if command.terminal:
                stdin, self._in, self._out = _terminal(theirs, ours)
                stdout = stderr = stdin
            else:
                stdin, self._in = _pipe(theirs, ours, "wb")
                stdout, self._out = _pipe(theirs, ours, "rb")
            self._popen = subprocess.Popen(
                argv,
                cwd="/",
                env=environment,
                start_new_session=True,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
            ours.pop_all()
        self._err_reader = threading.Thread(target=self._keep_stderr, daemon=True)
        self._err_reader.start()

    def read(self, size: int) -> bytes:
        self.limit.moved()
        while True:
            try:
                chunk = self._out.read(size)
            except OSError as error:
                # how a terminal says that nobody is left on its other side
                if error.errno != errno.EIO:
                    raise
                return b""
            if chunk is not None:
                self.limit.moved()
                self.received += len(chunk)
                return chunk
            if not self._ready(self._out) and self._popen.poll() is not None:
                return b""

    def write(self, data: memoryview) -> int:
        self.limit.moved()
        while True:
            if self.command.terminal and self._popen.poll() is not None:
                # a terminal takes bytes, and then none for ever, with nobody on its other side
                raise BrokenPipeError("the command ended")
            try:
                written = self._in.write(data[: process.CHUNK])
                waits = written is None and self._ready(self._in)
            except ValueError:
                raise BrokenPipeError("standard input is closed") from None
            if written is not None:
                self.limit.moved()
                return written
            if not waits and self._popen.poll() is not None:
                raise BrokenPipeError("the command ended")

    def close_stdin(self) -> None:
        self._in.close()

    def finish(self) -> int:
        self.limit.moved()
        while self._popen.poll() is None:
            left = self.limit.left()
            if not left:
                raise self.timed_out()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(min(left, process.ORPHAN_SECONDS))
        self._err_reader.join(process.ORPHAN_SECONDS)
        return self._popen.returncode

    def kill(self) -> None:
        if self._popen.returncode is None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            except PermissionError:
                # another user's since it went through pfexec: the end of its input may end it
                self.close_stdin()

    def dispose(self) -> None:
        if self._popen.poll() is None:
            self.kill()
            self._reap()
        if self.feeder is not None:
            self.feeder.join(_REAP_SECONDS)
        self._in.close()
        self._out.close()

    def _reap(self) -> None:
        try:
            self._popen.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            LOG.warning("%s (process %d) does not end", self.command.tool, self._popen.pid)

    def _keep_stderr(self) -> None:
        with self._err:
            while (chunk := self._err.read(process.CHUNK)) != b"":
                if chunk is None:
                    _wait(self._err, None)
                    continue
                self.limit.moved()
                self.keep_stderr(chunk)

    def _ready(self, pipe: io.FileIO) -> bool:
        """Wait for a pipe; False when that took a while, for the caller to look around."""
        left = self.limit.left()
        if not left:
            raise self.timed_out()
        return _wait(pipe, min(left, process.ORPHAN_SECONDS))


def _pipe(
    theirs: contextlib.ExitStack, ours: contextlib.ExitStack, mode: str
) -> tuple[io.FileIO, io.FileIO]:
    """Make a pipe; return the end for the command, then ours, opened with `mode`."""
    read_end, write_end = (
        io.FileIO(fd, mode) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
    )
    own, other = (read_end, write_end) if mode == "rb" else (write_end, read_end)
    os.set_blocking(own.fileno(), False)
    ours.callback(own.close)
    theirs.callback(other.close)
    return other, own


def _terminal(
    theirs: contextlib.ExitStack, ours: contextlib.ExitStack
) -> tuple[io.FileIO, io.FileIO, io.FileIO]:
    """Make a terminal; return the command's side, then ours to write to and to read from."""
    own, other = os.openpty()
    tty.setraw(other)
    # apart, since one may be closed while the other is in use
    sides = (io.FileIO(other, "r+"), io.FileIO(os.dup(own), "wb"), io.FileIO(own, "rb"))
    theirs.callback(sides[0].close)
    for side in sides[1:]:
        os.set_blocking(side.fileno(), False)
        ours.callback(side.close)
    return sides


def _wait(pipe: io.FileIO, seconds: float | None) -> bool:
    direction = selectors.EVENT_WRITE if pipe.writable() else selectors.EVENT_READ
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, direction)
        return bool(selector.select(seconds))
