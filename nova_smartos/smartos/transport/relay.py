# SPDX-License-Identifier: Apache-2.0
"""A way in for Nova's console proxies: a port that passes bytes on to a command on a node.

Who connects must first send CONNECT and a path, as those proxies do for a console that has one;
whoever made the listener says what the path leads to, and nothing else does.
"""

import contextlib
import errno
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import command as commands

LOG = logging.getLogger(__name__)

#: How long a newcomer may take to say where he wants to go, and how many may be at that at once.
HELLO_SECONDS = 10.0
MOST_NEWCOMERS = 32
#: A client that takes no byte for so long loses its session: the guest must not wait for it.
SLOW_SECONDS = 15.0

_HELLO = re.compile(rb"CONNECT (/[A-Za-z0-9/_.-]*) HTTP/1\.[01]")
_END = b"\r\n\r\n"
_LONGEST_HELLO = 2048
_PAUSE = 0.1
_BACKLOG = 64
_CLOSE_SECONDS = 5.0
_CHUNK = 65536


class NoFreePort(Exception):
    """Each port of the range is taken."""


class Refused(Exception):
    """The path leads nowhere, or not now; `status` is what HTTP calls that."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Admit(Protocol):
    """Says what a path leads to: a command, which ends with the context.

    Calling `end` ends the session, at any time and from any thread. Raises Refused.
    """

    def __call__(
        self, path: str, end: Callable[[], None]
    ) -> contextlib.AbstractContextManager[commands.Process]: ...


class Listener:
    """One port, until close()."""

    def __init__(self, address: str, ports: Iterable[int], admit: Admit) -> None:
        """Listen at the first port that is free, or raise NoFreePort; OSError for the address."""
        self._admit = admit
        self._newcomers = threading.BoundedSemaphore(MOST_NEWCOMERS)
        self._lock = threading.Lock()
        self._sessions: set[_Session] = set()
        self._closing = threading.Event()
        self._socket = _listen(address, ports)
        self.address, self.port = address, int(self._socket.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, name="console", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Let nobody in any more, and end every session."""
        self._closing.set()
        # wakes who waits in accept(), which close() alone does not
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._accepting.join(_CLOSE_SECONDS)
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.end()
        for session in sessions:
            session.thread.join(_CLOSE_SECONDS)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError as error:
                # the client was gone again, or this process has no more files for now
                if not self._closing.wait(_PAUSE):
                    LOG.warning("a console client was not let in: %s", error)
                continue
            if not self._newcomers.acquire(blocking=False):
                LOG.warning("a console client was turned away: too many come at once")
                client.close()
                continue
            session = _Session(client, self._serve)
            with self._lock:
                self._sessions.add(session)
            session.thread.start()

    def _serve(self, session: "_Session") -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(session.client.close)
                try:
                    begun = self._begin(session, stack)
                finally:
                    self._newcomers.release()
                if begun:
                    session.join()
        except (OSError, errors.SmartOSError) as error:
            LOG.debug("a console session ended: %s", error)
        except Exception:
            LOG.exception("a console session failed")
        finally:
            with self._lock:
                self._sessions.discard(session)

    def _begin(self, session: "_Session", stack: contextlib.ExitStack) -> bool:
        path = session.hear()
        try:
            session.process = stack.enter_context(self._admit(path, session.end))
        except Refused as refusal:
            session.answer(refusal.status)
        except errors.SmartOSError as error:
            LOG.warning("a console cannot be reached: %s", error)
            session.answer("503 Service Unavailable")
        else:
            session.answer("200 OK")
            return True
        return False


class _Session:
    """One client, and the command that he is connected with."""

    def __init__(self, client: socket.socket, serve: "Callable[[_Session], None]") -> None:
        self.client = client
        self.process: commands.Process | None = None
        self.thread = threading.Thread(target=serve, args=(self,), name="console", daemon=True)
        self._early = b""
        client.settimeout(HELLO_SECONDS)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def end(self) -> None:
        """Whatever waits for either side goes on, and finds that it is over."""
        # the client may be gone already
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)
        if self.process is not None:
            self.process.kill()

    def hear(self) -> str:
        """The path that the client wants."""
        until = time.monotonic() + HELLO_SECONDS
        said = b""
        while _END not in said:
            data = self.client.recv(_LONGEST_HELLO)
            if not data or len(said) > _LONGEST_HELLO or time.monotonic() > until:
                raise ConnectionAbortedError("the client did not say where it wants to go")
            said += data
        hello, _, self._early = said.partition(_END)
        found = _HELLO.match(hello)
        return found[1].decode() if found else ""

    def answer(self, status: str) -> None:
        self.client.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

    def join(self) -> None:
        """Pass on what both sides say until one of them ends."""
        assert self.process is not None
        self.client.settimeout(SLOW_SECONDS)
        back = threading.Thread(target=self._pass_back, name="console-out", daemon=True)
        back.start()
        try:
            data = self._early
            while True:
                self.process.stdin.write(data)
                data = self._next()
                if not data:
                    return
        finally:
            self.end()
            back.join()

    def _next(self) -> bytes:
        while True:
            try:
                return self.client.recv(_CHUNK)
            except TimeoutError:
                # who only looks says nothing
                continue

    def _pass_back(self) -> None:
        assert self.process is not None
        try:
            while data := self.process.read(_CHUNK):
                view = memoryview(data)
                while view:
                    view = view[self.client.send(view) :]
        except (OSError, errors.SmartOSError) as error:
            LOG.debug("a console session ended: %s", error)
        finally:
            self.end()


def _listen(address: str, ports: Iterable[int]) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(
        address, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    for port in ports:
        try:
            return socket.create_server((where[0], port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise NoFreePort(address)
