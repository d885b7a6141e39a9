# SPDX-License-Identifier: Apache-2.0
"""One change at a time on a VM.

Nova serialises some of its operations on an instance, and vmadm locks only some of its own: two
starts, or a stop beside a delete, race on the node.
"""

import contextlib
import threading
from collections.abc import Iterator

from nova_smartos.smartos import spans


class Locks:
    """A lock a VM, made when it is wanted and forgotten when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}

    def held(self) -> frozenset[str]:
        """The VMs that somebody changes, or waits to change, at this moment."""
        with self._guard:
            return frozenset(self._locks)

    @contextlib.contextmanager
    def attempt(self, uuid: str) -> Iterator[bool]:
        """Hold the VM if nobody else does; whether it is held. Never waits."""
        with self._counted(uuid) as lock:
            held = lock.acquire(blocking=False)
            try:
                yield held
            finally:
                if held:
                    lock.release()

    @contextlib.contextmanager
    def hold(self, uuid: str) -> Iterator[None]:
        """Wait until nobody else changes the VM; the same thread may hold it more than once.

        Whoever holds it runs node commands, and each of those has an end.
        """
        with self._counted(uuid) as lock:
            if not lock.acquire(blocking=False):
                with spans.span("wait for the VM's lock", "wait"):
                    lock.acquire()
            try:
                yield
            finally:
                lock.release()

    @contextlib.contextmanager
    def _counted(self, uuid: str) -> Iterator[threading.RLock]:
        with self._guard:
            lock, users = self._locks.get(uuid, (threading.RLock(), 0))
            self._locks[uuid] = (lock, users + 1)
        try:
            yield lock
        finally:
            with self._guard:
                lock, users = self._locks[uuid]
                if users == 1:
                    del self._locks[uuid]
                else:
                    self._locks[uuid] = (lock, users - 1)
