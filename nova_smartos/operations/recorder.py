# SPDX-License-Identifier: Apache-2.0
"""The consoles of kvm VMs: QEMU takes one client and keeps no log, so that client is us.

What a console shows is kept in memory, up to a size, for as long as nova-compute runs; who opens
the console hears and types through the same connection.
"""

import contextlib
import io
import queue
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from oslo_log import log

from nova_smartos.smartos import errors, transport

LOG = log.getLogger(__name__)

#: What is kept of a console.
KEPT_BYTES = 256 * 1024

_CHUNK = 65536
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_JOIN_SECONDS = 5.0
# Pieces that a client may be behind before he is cut off.
_BEHIND = 256
_TURN_SECONDS = 0.5

Open = Callable[[], contextlib.AbstractContextManager[transport.Process]]


class Recorder:
    """One console, from when its VM is up until stop()."""

    def __init__(
        self, uuid: str, open_: Open, is_up: Callable[[], bool], before: bytes = b""
    ) -> None:
        """Follow it while `is_up` says so; `before` is what it has shown until now."""
        self._uuid = uuid
        self._open = open_
        self._is_up = is_up
        self._lock = threading.Condition()
        self._kept = bytearray(before)
        self._process: transport.Process | None = None
        self._clients: list[Client] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="kvm-console", daemon=True)
        self._thread.start()

    @property
    def following(self) -> bool:
        return not self._stopping.is_set()

    def shown(self) -> bytes:
        """The last that the console has shown."""
        with self._lock:
            return bytes(self._kept)

    @contextlib.contextmanager
    def joined(self) -> Iterator[transport.Process]:
        """Hear what is shown from now on, and type. InvalidState: the console is not there."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._process is not None, _JOIN_SECONDS):
                raise errors.InvalidState("the console is not connected", code="NoSocket")
            assert self._process is not None
            client = Client(self._process.stdin)
            self._clients.append(client)
        try:
            yield client
        finally:
            with self._lock:
                if client in self._clients:
                    self._clients.remove(client)

    def stop(self, *, wait: bool = True) -> None:
        """Let go of the console."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.kill()
        if wait:
            self._thread.join(_JOIN_SECONDS)

    def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while self._goes_on():
            try:
                with self._open() as process:
                    with self._lock:
                        self._process = process
                        self._lock.notify_all()
                    if self._stopping.is_set():
                        return
                    while data := process.read(_CHUNK):
                        pause = _FIRST_PAUSE
                        self._heard(data)
            except (OSError, errors.SmartOSError) as error:
                LOG.debug("The console of %s is away: %s", self._uuid, error)
            except Exception:
                LOG.exception("The console of %s is not recorded", self._uuid)
                return
            finally:
                self._hang_up()
            self._stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _goes_on(self) -> bool:
        if not self._stopping.is_set() and not self._is_up():
            self._stopping.set()
        return not self._stopping.is_set()

    def _heard(self, data: bytes) -> None:
        with self._lock:
            self._kept += data
            del self._kept[:-KEPT_BYTES]
            self._clients = [client for client in self._clients if client.hear(data)]

    def _hang_up(self) -> None:
        with self._lock:
            self._process = None
            clients, self._clients = self._clients, []
        for client in clients:
            client.kill()


class Client:
    """One who listens; to him it is a command that runs."""

    def __init__(self, stdin: BinaryIO) -> None:
        self.stdin = stdin
        self.stdout = cast(BinaryIO, io.BytesIO())
        self._waiting: queue.Queue[bytes] = queue.Queue(_BEHIND)
        self._over = threading.Event()

    def hear(self, data: bytes) -> bool:
        """Take more; False for one who is too slow, and cut off."""
        try:
            self._waiting.put_nowait(data)
        except queue.Full:
            self.kill()
            return False
        return True

    def read(self, size: int) -> bytes:
        """What comes next, whatever its size."""
        while not self._over.is_set():
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=_TURN_SECONDS)
        return b""

    def close_stdin(self) -> None:
        """Nothing: others type there, too."""

    def kill(self) -> None:
        self._over.set()

    def take_stderr(self) -> str:
        return ""

    def wait(self) -> transport.Result:
        return transport.Result((), 0)
