# SPDX-License-Identifier: Apache-2.0
"""The connections to one node, and the one queue in which commands wait for a channel."""

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import connection as connections

LOG = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 3.0


class _Ticket:
    """A command's place in the queue."""

    def __init__(self, patience: float) -> None:
        #: until when it puts up with failing attempts to connect
        self.patient_until = time.monotonic() + patience
        self.error: errors.NotStarted | None = None


class Pool:
    """Opens connections when the queue needs them, up to a number."""

    def __init__(
        self, connect: Callable[[], connections.Connection], *, most: int, patience: float
    ) -> None:
        """Use `connect` to open at most `most`; wait `patience` seconds for a node that is away."""
        self._connect = connect
        self._most = most
        self._patience = patience
        self._open: list[connections.Connection] = []
        self._queue: collections.deque[_Ticket] = collections.deque()
        self._opening = False
        self._not_before = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def attempt(self) -> connections.Connection | None:
        """A free place on a connection that is open, if nobody waits for one. Never waits."""
        with self._changed:
            if self._closed or self._queue or (connection := self._free()) is None:
                return None
            connection.busy += 1
            return connection

    def acquire(self, seconds: float) -> connections.Connection:
        """Wait in the queue for a free place on any connection; give it back with release()."""
        ticket = _Ticket(self._patience)
        until = time.monotonic() + seconds
        with self._changed:
            self._queue.append(ticket)
            try:
                return self._wait(ticket, until)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def release(self, connection: connections.Connection) -> None:
        """Give a place back."""
        with self._changed:
            connection.busy -= 1
            self._sweep()
            self._changed.notify_all()

    def refused(self, connection: connections.Connection) -> None:
        """Give a place back that the server did not grant: it allows what is open now, no more."""
        with self._changed:
            connection.busy -= 1
            connection.capacity = min(connection.capacity, connection.busy)
            connection.retired = connection.retired or connection.capacity < 1
            self._sweep()
            self._changed.notify_all()

    def retire(self, connection: connections.Connection) -> None:
        """Start nothing more on a connection; it is closed when its last command ends."""
        with self._changed:
            connection.retired = True

    def close(self) -> None:
        """Close every connection and fail whoever waits."""
        with self._changed:
            self._closed = True
            closing, self._open = self._open, []
            self._changed.notify_all()
        for connection in closing:
            connection.close()

    def abandon(self) -> None:
        """Forget connections that another process uses. Takes no lock: see SSH's fork handling."""
        for connection in self._open:
            connection.abandon()

    def _wait(self, ticket: _Ticket, until: float) -> connections.Connection:
        while True:
            if self._closed:
                raise _closed()
            if ticket.error is not None:
                raise ticket.error
            if self._queue[0] is ticket and (connection := self._free()) is not None:
                connection.busy += 1
                return connection
            self._open_another()
            if not self._changed.wait(max(0.0, until - time.monotonic())):
                raise errors.NotStarted("every channel to the node is busy")

    def _free(self) -> connections.Connection | None:
        self._sweep()
        free = [c for c in self._open if c.usable and c.busy < c.capacity]
        return min(free, key=lambda c: c.busy, default=None)

    def _sweep(self) -> None:
        for connection in [c for c in self._open if not c.usable and not c.busy]:
            self._open.remove(connection)
            # closing waits for paramiko's thread, and we hold the lock
            threading.Thread(target=connection.close, name="ssh-close", daemon=True).start()

    def _open_another(self) -> None:
        usable = sum(c.usable for c in self._open)
        if self._opening or self._closed or usable >= self._most or self._free() is not None:
            return
        if usable and time.monotonic() < self._not_before:
            return
        connecting = threading.Thread(target=self._open_for_queue, name="ssh-connect", daemon=True)
        try:
            connecting.start()
        except RuntimeError as error:
            raise errors.NotStarted(f"connecting failed: {error}") from error
        self._opening = True

    def _open_for_queue(self) -> None:
        """Connect until it works or nobody waits. One thread at a time does this."""
        for pause in _pauses():
            try:
                connection = self._connect()
            except errors.NotStarted as error:
                if not self._failed(error, pause):
                    return
            except Exception as error:
                # a bug, or a system out of threads: who waits must hear of it, or would hang
                broken = errors.NotStarted(f"connecting failed: {error!r}", retryable=False)
                broken.__cause__ = error
                self._failed(broken, 0)
                return
            else:
                self._opened(connection)
                return

    def _opened(self, connection: connections.Connection) -> None:
        with self._changed:
            self._opening = False
            if not self._closed:
                self._open.append(connection)
                self._changed.notify_all()
                return
        connection.close()

    def _failed(self, error: errors.NotStarted, pause: float) -> bool:
        """Tell those whose patience ended; return whether to try again, after the pause."""
        with self._changed:
            LOG.debug("%s", error)
            if not any(c.usable for c in self._open):
                self._fail_impatient(error, pause)
            if error.retryable and self._queue and not self._closed:
                self._changed.wait_for(lambda: self._closed, pause)
            again = error.retryable and bool(self._queue) and not self._closed
            self._opening = again
            self._not_before = time.monotonic() + LONGEST_PAUSE
            self._changed.notify_all()
            return again

    def _fail_impatient(self, error: errors.NotStarted, pause: float) -> None:
        next_try = time.monotonic() + pause
        for ticket in self._queue:
            if not error.retryable or ticket.patient_until < next_try:
                ticket.error = _copy(error)
        self._changed.notify_all()


def _closed() -> errors.NotStarted:
    return errors.NotStarted("the transport was closed", retryable=False)


def _copy(error: errors.NotStarted) -> errors.NotStarted:
    # each waiter raises its own, since a traceback grows where an error is raised
    copy = errors.NotStarted(error.message, retryable=error.retryable)
    copy.__cause__ = error.__cause__
    return copy


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(LONGEST_PAUSE, pause * 2)
