# SPDX-License-Identifier: Apache-2.0
"""One command behind SSH, on a channel of its own."""

import contextlib
import re
import threading
from collections.abc import Iterator

import paramiko
from paramiko import common

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import connection as connections
from nova_smartos.smartos.transport import pool as pools
from nova_smartos.smartos.transport import process

#: The most that is written before somebody looks whether the command still listens: full packets.
WRITE_BYTES = 8 * connections.DATA_BYTES
# How long a command that we end may take to confirm it.
KILL_SECONDS = 0.5
# What a shell exits with when it does not find the tool.
_NOT_FOUND = 127
# Tools whose exit status and words are those of a guest, which may say anything.
_GUESTS = {"zlogin"}


class Session(process.Running, connections.Watcher):
    """A command, from the request to run it to its exit status."""

    def __init__(
        self,
        command: commands.Command,
        limit: process.Limit,
        pool: pools.Pool,
        connection: connections.Connection,
        channel: paramiko.Channel,
    ) -> None:
        super().__init__(command, limit)
        self._pool = pool
        self._connection = connection
        self._channel = channel
        self._changed = threading.Condition()
        self._draining = threading.Lock()
        self._accepted = self._refused = self._eof = self._closed = False
        self._lost = self._killed = self._disposed = False
        self._exit: int | None = None
        self._question: int | None = None
        connection.wire.watchers[channel.chanid] = self
        channel.settimeout(0.0)

    # what paramiko's thread tells

    def heard(self, kind: int, message: paramiko.Message) -> None:
        with self._changed:
            self.limit.moved()
            if kind == common.MSG_CHANNEL_SUCCESS:
                self._accepted = True
            elif kind == common.MSG_CHANNEL_FAILURE:
                self._refused = True
            elif kind == common.MSG_CHANNEL_REQUEST:
                self._heard_request(message)

    def handled(self, kind: int) -> None:
        with self._changed:
            # not earlier: data that came before must be readable by now
            if kind in (common.MSG_CHANNEL_EOF, common.MSG_CHANNEL_CLOSE):
                self._eof = True
                self._closed = self._closed or kind == common.MSG_CHANNEL_CLOSE
            self._changed.notify_all()

    def lost(self) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def _heard_request(self, message: paramiko.Message) -> None:
        name = message.get_text()
        message.get_boolean()
        if name == "exit-status":
            self._exit = message.get_int()
        elif name == "exit-signal":
            self._exit = -process.signal_number(message.get_text())

    # what the command's user asks for

    def execute(self, line: bytes) -> None:
        """Ask the server to run a line. Once that is sent, the command may have run."""
        wire = self._connection.wire
        if not wire.is_active():
            raise errors.NotStarted("the connection broke", argv=self.command.argv)
        with self._breaking():
            if self.command.terminal:
                wire.request_terminal(self._channel)
            wire.send_request(self._channel, "exec", line, reply=True)
        with self._changed:
            while not (self._accepted or self._refused):
                self._check_connection()
                if self._closed:
                    raise self._unknown("the server closed the channel without an answer")
                self._sleep()
        if self._refused:
            raise errors.NotStarted(
                "the server refuses to run commands", argv=self.command.argv, retryable=False
            )

    def read(self, size: int) -> bytes:
        self.limit.moved()
        while True:
            self._drain()
            with self._changed:
                # a command that we cannot signal may go on printing until its channel closes
                if self._killed:
                    return b""
                if self._channel.recv_ready():
                    break
                if self._eof:
                    return b""
                self._check_connection()
                silent = not self._sleep()
            self._check_orphan(silent)
        with self._breaking():
            chunk = self._channel.recv(size)
        self.received += len(chunk)
        return chunk

    def write(self, data: memoryview) -> int:
        self.limit.moved()
        while True:
            self._drain()
            with self._changed:
                self._check_listening()
                self._check_connection()
                if self._channel.send_ready():
                    break
                self._sleep()
        sent = 0
        with self._breaking(writing=True):
            # what is checked above takes as long as a packet: not before each of them
            while sent < min(len(data), WRITE_BYTES) and self._channel.send_ready():
                packet = bytes(data[sent : sent + connections.DATA_BYTES])
                went = self._channel.send(packet)
                if not went:
                    # the input was closed from here: the next look tells
                    break
                sent += went
        return sent

    def close_stdin(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._breaking(writing=True):
            self._channel.shutdown_write()

    def finish(self) -> int:
        self.limit.moved()
        with self._changed:
            while self._exit is None:
                self._check_connection()
                if self._closed:
                    raise self._unknown("the server closed the channel without an exit status")
                if not self._killed:
                    self._sleep()
                elif not self._changed.wait_for(self._gone, KILL_SECONDS):
                    raise self._unknown("it was ended from here")
            returncode = self._exit
        self._drain()
        self._check_found(returncode)
        return returncode

    def kill(self) -> None:
        with self._changed:
            if self._closed or self._lost or self._killed:
                return
            self._killed = True
            self._changed.notify_all()
        # a thread, since a connection that does not move would hold us
        threading.Thread(target=self._signal, daemon=True).start()

    def take_stderr(self) -> str:
        self._drain()
        return super().take_stderr()

    def dispose(self) -> None:
        if self._disposed:
            return
        self._disposed = True
        if self._exit is None:
            self.kill()
            with self._changed:
                gone = self._changed.wait_for(self._gone, KILL_SECONDS)
            if not gone:
                # it still counts for the server, which so has less room than we think
                self._pool.retire(self._connection)
        self._close()
        self._pool.release(self._connection)

    # how

    def _gone(self) -> bool:
        return self._exit is not None or self._closed or self._lost

    def _check_connection(self) -> None:
        if self._lost or not self._connection.wire.is_active():
            raise self._unknown("the connection broke")

    def _check_listening(self) -> None:
        if self._gone() or self._killed or self._channel.eof_sent:
            if self._lost:
                raise self._unknown("the connection broke")
            raise BrokenPipeError("the command does not read any more")

    def _check_orphan(self, silent: bool) -> None:
        """Stop waiting for output that a child of the ended command keeps open.

        Silence alone may be the network's: what the command printed has arrived once a question
        asked after its end is answered.
        """
        if not silent or self._exit is None:
            self._question = None
        elif self._question is None:
            with self._breaking():
                self._question = self._connection.wire.ask()
        elif self._connection.wire.answers >= self._question:
            self._eof = True

    def _check_found(self, returncode: int) -> None:
        if returncode != _NOT_FOUND or self.command.tool in _GUESTS:
            return
        text = self.stderr.text().rstrip()
        for tool in ("pfexec", self.command.tool):
            if re.search(rf"(^|[\s/]){re.escape(tool)}: (command )?not found$", text):
                raise errors.NotStarted(text, argv=self.command.argv, retryable=False)

    def _unknown(self, reason: str) -> errors.OutcomeUnknown:
        return errors.OutcomeUnknown(reason, argv=self.command.argv)

    def _sleep(self) -> bool:
        """Wait for news, holding the lock; False when there were none for a while."""
        left = self.limit.left()
        if not left:
            raise self.timed_out()
        return self._changed.wait(min(left, process.ORPHAN_SECONDS))

    def _drain(self) -> None:
        with self._draining, self._breaking():
            while self._channel.recv_stderr_ready():
                self.keep_stderr(self._channel.recv_stderr(process.CHUNK))

    @contextlib.contextmanager
    def _breaking(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what paramiko raises on a broken connection into what we raise."""
        try:
            yield
        except (OSError, EOFError, paramiko.SSHException) as error:
            if writing and self._closed:
                raise BrokenPipeError("the command ended") from error
            raise self._unknown(f"the connection broke: {error}") from error

    def _signal(self) -> None:
        # Best effort: a server may ignore it, or be gone; dispose() sees whether it helped.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._connection.wire.send_request(self._channel, "signal", "KILL", reply=False)
            self._channel.shutdown_write()

    def _close(self) -> None:
        self._connection.wire.watchers.pop(self._channel.chanid, None)
        if self._closed or self._lost:
            self._channel.close()
        else:
            threading.Thread(target=self._close_channel, daemon=True).start()

    def _close_channel(self) -> None:
        # the connection may break at any time; the next command notices
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
