# SPDX-License-Identifier: Apache-2.0
"""The way in for console proxies: who is let in, and how sessions end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nova_smartos.smartos import errors, transport
from nova_smartos.smartos.transport import relay

SECONDS = 30


class Echo:
    """A command that says what it hears; `mute` hears nothing, `loud` speaks without end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.killed = threading.Event()
        self._ours, theirs = socket.socketpair()
        self._theirs = theirs
        self.stdin = self._ours.makefile("wb", 0)
        self.stdout = theirs.makefile("rb")

    def read(self, size: int) -> bytes:
        if self.kind == "loud":
            return b"" if self.killed.is_set() else b"x" * size
        return self._theirs.recv(size)

    def close_stdin(self) -> None:
        """Nothing."""

    def kill(self) -> None:
        self.killed.set()
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def wait(self) -> transport.Result:
        return transport.Result((), 0)

    def close(self) -> None:
        self.stdin.close()
        self.stdout.close()
        self._ours.close()
        self._theirs.close()


class Admit:
    """Opens what the path is called, and remembers."""

    def __init__(self) -> None:
        self.opened: list[Echo] = []
        self.ends: list[Callable[[], None]] = []
        self.closed = threading.Semaphore(0)

    @contextlib.contextmanager
    def __call__(self, path: str, end: Callable[[], None]) -> Iterator[transport.Process]:
        if path == "/refused":
            raise transport.Refused("403 Forbidden")
        if path == "/broken":
            raise errors.NotStarted("the node is away")
        if path == "/bug":
            raise ZeroDivisionError
        echo = Echo(path[1:])
        self.opened.append(echo)
        self.ends.append(end)
        try:
            yield echo
        finally:
            echo.close()
            self.closed.release()


@pytest.fixture(name="admit")
def _admit() -> Admit:
    return Admit()


@pytest.fixture(name="listener")
def _listener(admit: Admit) -> Iterator[transport.Listener]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = transport.Listener("127.0.0.1", range(port, port + 50), admit)
        assert listener.port != port
        with contextlib.closing(listener):
            yield listener


@contextlib.contextmanager
def client(listener: transport.Listener, hello: str = "") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", listener.port), SECONDS) as connection:
        connection.sendall(hello.encode())
        yield connection


def said(connection: socket.socket, wanted: bytes) -> None:
    data = b""
    while not data.endswith(wanted):
        # one at a time: what comes after it is for whoever asks next
        more = connection.recv(1)
        assert more, data
        data += more


def test_bytes_go_both_ways(listener: transport.Listener, admit: Admit) -> None:
    with client(listener, "CONNECT /echo HTTP/1.1\r\n\r\nearly") as connection:
        said(connection, b"HTTP/1.1 200 OK\r\n\r\n")
        said(connection, b"early")
        connection.sendall(bytes(range(256)))
        said(connection, bytes(range(256))[-10:])
    assert admit.closed.acquire(timeout=SECONDS)
    assert admit.opened[0].killed.is_set()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/refused", b"403 Forbidden"), ("/broken", b"503 Service Unavailable")],
)
def test_refusals(listener: transport.Listener, admit: Admit, path: str, status: bytes) -> None:
    with client(listener, f"CONNECT {path} HTTP/1.1\r\n\r\n") as connection:
        said(connection, b"HTTP/1.1 " + status + b"\r\n\r\n")
        assert connection.recv(10) == b""
    assert not admit.opened


@pytest.mark.parametrize("hello", ["CONNECT /bug HTTP/1.1\r\n\r\n", "x" * 5000])
def test_nothing_is_said_to_what_is_no_proxy(
    listener: transport.Listener, admit: Admit, hello: str
) -> None:
    with client(listener, hello) as connection:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
    assert not admit.opened


@pytest.mark.parametrize("hello", ["GET / HTTP/1.1\r\n\r\n", "CONNECT echo HTTP/1.1\r\n\r\n"])
def test_what_names_no_path_leads_to_the_empty_one(
    listener: transport.Listener, admit: Admit, hello: str
) -> None:
    with client(listener, hello) as connection:
        said(connection, b"HTTP/1.1 200")
    assert admit.opened[0].kind == ""


def test_who_says_nothing_is_sent_away(
    listener: transport.Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HELLO_SECONDS", 0.2)
    with client(listener) as connection:
        assert connection.recv(10) == b""


def test_those_who_say_nothing_keep_nobody_out_for_long(
    listener: transport.Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "HELLO_SECONDS", 0.5)
    with contextlib.ExitStack() as stack:
        for _ in range(relay.MOST_NEWCOMERS + 5):
            stack.enter_context(client(listener))
        end = time.monotonic() + SECONDS
        while True:
            with client(listener, "CONNECT /echo HTTP/1.1\r\n\r\n") as connection:
                with contextlib.suppress(ConnectionResetError):
                    if connection.recv(100).startswith(b"HTTP/1.1 200"):
                        return
            assert time.monotonic() < end
            time.sleep(0.05)


def test_who_does_not_read_loses_the_session(
    listener: transport.Listener, admit: Admit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SLOW_SECONDS", 0.3)
    with client(listener, "CONNECT /loud HTTP/1.1\r\n\r\n"):
        assert admit.closed.acquire(timeout=SECONDS)
    assert admit.opened[0].killed.is_set()


def test_a_session_is_ended_from_outside(listener: transport.Listener, admit: Admit) -> None:
    with client(listener, "CONNECT /echo HTTP/1.1\r\n\r\n") as connection:
        said(connection, b"200 OK\r\n\r\n")
        admit.ends[0]()
        assert connection.recv(10) == b""
    assert admit.closed.acquire(timeout=SECONDS)


def test_the_end_of_the_command_ends_the_session(
    listener: transport.Listener, admit: Admit
) -> None:
    with client(listener, "CONNECT /echo HTTP/1.1\r\n\r\n") as connection:
        said(connection, b"200 OK\r\n\r\n")
        admit.opened[0].kill()
        assert connection.recv(10) == b""


def test_close_ends_all(admit: Admit) -> None:
    listener = transport.Listener("127.0.0.1", [0], admit)
    with client(listener, "CONNECT /echo HTTP/1.1\r\n\r\n") as connection:
        said(connection, b"200 OK\r\n\r\n")
        listener.close()
        assert connection.recv(10) == b""
    with pytest.raises(ConnectionRefusedError):
        with client(listener):
            pass
    assert not [each for each in threading.enumerate() if each.name.startswith("console")]


def test_no_free_port(admit: Admit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(transport.NoFreePort):
            transport.Listener("127.0.0.1", [taken.getsockname()[1]], admit)
