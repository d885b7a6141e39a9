# SPDX-License-Identifier: Apache-2.0
"""Connections that break at any byte of a command's life: did it run or not?

A proxy in front of a real sshd lets a number of bytes through and then hangs up (or just goes
quiet). The command leaves a mark, so that a wrong "never ran" is found out.
"""

import contextlib
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from nova_smartos.smartos import errors, transport
from nova_smartos.smartos.transport import connection
from tests import waits
from tests.unit import sshd

WAIT = 20.0
#: Every how many bytes to cut; EVERY_BYTE=1 in the environment tries them all (minutes).
STEP = 1 if os.environ.get("EVERY_BYTE") else 61
TO_SERVER, TO_CLIENT = 0, 1


class Proxy:
    """Forwards connections to a port; cuts all of them after a number of bytes one way."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.passed = [0, 0]
        self._cut_at: list[int | None] = [None, None]
        self._quiet = self._final = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.hang_up()
        for thread in self._threads:
            thread.join(WAIT)

    def arm(self, way: int, count: int, *, quiet: bool = False, final: bool = True) -> None:
        """Cut after `count` more bytes; `final`: also let no connection in after that."""
        with self._lock:
            self._cut_at[way] = self.passed[way] + count
            self._quiet, self._final = quiet, final

    def refuse(self) -> None:
        """Let no more connections in."""
        # shutdown, since closing does not wake the thread that accepts, and that thread closes
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Close every connection."""
        with self._lock:
            closing, self._sockets = self._sockets, []
        for sock in closing:
            with contextlib.suppress(OSError):  # the other side may be faster
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                self._join(client)

    def _join(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target), timeout=WAIT)
        server.settimeout(None)
        with self._lock:
            self._sockets += [client, server]
        for way, (source, sink) in enumerate([(client, server), (server, client)]):
            thread = threading.Thread(target=self._pump, args=(source, sink, way), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: int) -> None:
        with source:
            while True:
                try:
                    chunk = source.recv(65536)
                    if not chunk or not self._pass(sink, chunk, way):
                        break
                except OSError:
                    break
            for sock in (source, sink):
                with contextlib.suppress(OSError):  # gone already
                    sock.shutdown(socket.SHUT_RDWR)

    def _pass(self, sink: socket.socket, chunk: bytes, way: int) -> bool:
        with self._lock:
            cut_at = self._cut_at[way]
            room = len(chunk) if cut_at is None else cut_at - self.passed[way]
            self.passed[way] += len(chunk)
        sink.sendall(chunk[: max(0, room)])
        if len(chunk) < room or cut_at is None:
            return True
        if self._final:
            self.refuse()
        if self._quiet:
            return True
        self._cut_at[way] = None
        self.hang_up()
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def connect(server: sshd.Server, proxy: Proxy, retry_seconds: float = 0.0) -> transport.SSH:
    known_hosts = server.directory / f"known_hosts-{proxy.port}"
    known_hosts.write_text(server.known_line(proxy.port))
    return server.connect(
        port=proxy.port, known_hosts_file=known_hosts, retry_seconds=retry_seconds
    )


def marking(mark: pathlib.Path, seconds: float | None = None) -> transport.Command:
    """Return a command that leaves a line in a file, reads its input, and prints something."""
    script = 'echo ran >> "$1"; cat; echo done >&2; exit 3'
    return transport.Command(("sh", "-c", script, "sh", str(mark)), stdin=b"in", seconds=seconds)


def outcome(ssh: transport.SSH, command: transport.Command) -> str:
    """Return what the toolkit says became of the command."""
    try:
        result = ssh.run(command)
    except errors.TransportError as error:
        assert error.argv == command.argv
        return type(error).__name__
    assert (result.returncode, result.stdout, result.stderr) == (3, "in", "done\n")
    return "Result"


def bytes_of_life(server: sshd.Server, mark: pathlib.Path) -> tuple[list[int], list[int]]:
    """Return how many bytes pass each way for a connection, and for a command after that."""
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy)
        ssh.run(transport.Command(("true",)))
        before = list(proxy.passed)
        assert outcome(ssh, marking(mark)) == "Result"
        after = list(proxy.passed)
        ssh.close()
    return before, [end - start for start, end in zip(before, after, strict=True)]


def wait_for_silence(server: sshd.Server) -> None:
    """Wait until no command runs on the server any more."""
    assert server._process is not None
    pid = server._process.pid
    waits.until(lambda: not sshd.descendants(pid))


@pytest.mark.parametrize("way", [TO_SERVER, TO_CLIENT])
def test_a_cut_during_a_command_is_judged_right(
    server: sshd.Server, tmp_path: pathlib.Path, way: int
) -> None:
    _, life = bytes_of_life(server, tmp_path / "whole")
    said = {}
    for count in [*range(0, life[way] + 1, STEP), life[way] + 10_000]:
        with Proxy(server.port) as proxy:
            ssh = connect(server, proxy)
            ssh.run(transport.Command(("true",)))
            proxy.arm(way, count)
            said[count] = outcome(ssh, marking(tmp_path / str(count)))
            ssh.close()
    wait_for_silence(server)
    for count, word in said.items():
        ran = (tmp_path / str(count)).exists()
        assert not (word == "NotStarted" and ran), f"it ran, cut after {count}"
        assert not (word == "Result" and not ran), f"it did not run, cut after {count}"
    order = list(dict.fromkeys(said.values()))
    assert order == ["NotStarted", "OutcomeUnknown", "Result"], said


@pytest.mark.parametrize("way", [TO_SERVER, TO_CLIENT])
def test_a_cut_while_connecting_means_not_started(
    server: sshd.Server, tmp_path: pathlib.Path, way: int
) -> None:
    connecting, _ = bytes_of_life(server, tmp_path / "whole")
    # `true` ran on it too; its channel is the last part
    for count in range(0, connecting[way] // 2, connecting[way] // 2 // 8):
        with Proxy(server.port) as proxy:
            proxy.arm(way, count)
            ssh = connect(server, proxy)
            assert outcome(ssh, marking(tmp_path / str(count))) == "NotStarted"
            ssh.close()
    wait_for_silence(server)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("way", [TO_SERVER, TO_CLIENT])
def test_what_never_ran_is_tried_again_and_runs_once(
    server: sshd.Server, tmp_path: pathlib.Path, way: int
) -> None:
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy, retry_seconds=WAIT)
        proxy.arm(way, 1000, final=False)
        assert outcome(ssh, marking(tmp_path / "handshake")) == "Result"
        proxy.arm(way, 5, final=False)
        assert outcome(ssh, marking(tmp_path / "channel")) == "Result"
        ssh.close()
    for name in ("handshake", "channel"):
        assert (tmp_path / name).read_text() == "ran\n"


@pytest.mark.parametrize("way", [TO_SERVER, TO_CLIENT])
def test_a_connection_that_goes_quiet_is_judged_right(
    server: sshd.Server, tmp_path: pathlib.Path, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHANNEL_SECONDS", 1.5)
    _, life = bytes_of_life(server, tmp_path / "whole")
    said = {}
    for count in (0, life[way] * 2 // 3):
        with Proxy(server.port) as proxy:
            ssh = connect(server, proxy)
            ssh.run(transport.Command(("true",)))
            proxy.arm(way, count, quiet=True)
            said[count] = outcome(ssh, marking(tmp_path / str(count), seconds=2))
            ssh.close()
    assert list(said.values()) == ["NotStarted", "OutcomeUnknown"]
    wait_for_silence(server)
    assert not (tmp_path / "0").exists()


def test_a_stream_that_is_cut_does_not_look_complete(server: sshd.Server) -> None:
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy)
        ssh.run(transport.Command(("true",)))
        proxy.arm(TO_CLIENT, 1_000_000)
        command = transport.Command(("head", "-c", "4000000", "/dev/zero"))
        with ssh.stream(command) as running:
            with pytest.raises(errors.OutcomeUnknown, match="the connection broke"):
                while running.stdout.read(100_000):
                    pass
            with pytest.raises(errors.OutcomeUnknown):
                running.wait()
        ssh.close()


def test_a_stream_that_is_cut_while_writing_is_no_broken_pipe(server: sshd.Server) -> None:
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy)
        ssh.run(transport.Command(("true",)))
        proxy.arm(TO_SERVER, 1_000_000)
        with (
            ssh.stream(transport.Command(("wc", "-c"))) as running,
            pytest.raises(errors.OutcomeUnknown, match="the connection broke"),
        ):
            while True:
                running.stdin.write(bytes(100_000))
        ssh.close()


def test_every_command_of_a_connection_learns_of_its_end(server: sshd.Server) -> None:
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy)
        ssh.run(transport.Command(("true",)))
        said: list[str] = []
        command = transport.Command(("sleep", "10"))
        threads = [
            threading.Thread(target=lambda: said.append(outcome(ssh, command))) for _ in range(5)
        ]
        with ssh.stream(transport.Command(("cat",), stdin=b"x\n")) as running:
            for thread in threads:
                thread.start()
            assert running.stdout.readline() == b"x\n"
            waits.until(lambda: len(sleepers(server)) == len(threads))
            proxy.refuse()
            proxy.hang_up()
            with pytest.raises(errors.OutcomeUnknown):
                running.stdout.read()
        for thread in threads:
            thread.join(WAIT)
        ssh.close()
    assert said == ["OutcomeUnknown"] * len(threads)


def sleepers(server: sshd.Server) -> list[int]:
    """Return the processes that the server runs as "sleep"."""
    assert server._process is not None
    names = {}
    for pid in sshd.descendants(server._process.pid):
        try:
            names[pid] = pathlib.Path(f"/proc/{pid}/comm").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid, name in names.items() if name == "sleep\n"]


def test_a_stream_without_a_limit_notices_that_the_server_is_gone(
    server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", 0.2)
    endless = transport.Command(("sleep", "60"), seconds=float("inf"))
    with Proxy(server.port) as proxy:
        ssh = connect(server, proxy)
        with ssh.stream(endless) as running:
            watchdog = threading.Timer(WAIT, proxy.hang_up)
            watchdog.start()
            started = time.monotonic()
            # its system still acknowledges bytes, as that of a server which hangs
            proxy.arm(TO_CLIENT, 0, quiet=True)
            with pytest.raises(errors.OutcomeUnknown, match="broke"):
                running.stdout.read(1)
            assert time.monotonic() - started < WAIT / 2
            watchdog.cancel()
        ssh.close()
