# SPDX-License-Identifier: Apache-2.0
"""The SSH transport against a real OpenSSH server with its default session limits."""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import logging
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from paramiko import common

from nova_smartos.smartos import errors, transport
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import connection, process, session
from tests import traces, waits
from tests.unit import sshd

HOSTILE = [
    "",
    " ",
    "-rf",
    "it's",
    "'",
    '"quoted"',
    "a\nb\r\tc",
    "$(touch /tmp/never)",
    "${HOME}",
    "`id`",
    "a;b|c&d>e<f",
    "*?[a-z]{1,2}~",
    "~root",
    "\\n\\",
    "ünïcode ☃ 𝄞",
    "\udcff\udc80",
    "\x1b[31m\x7f",
    "!history",
    "#no comment",
    "x" * 50_000,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.Server(tmp_path_factory.mktemp("sshd"), ["MaxSessions 10"]) as running:
        yield running


@pytest.fixture(scope="module")
def node(server: sshd.Server) -> Iterator[transport.SSH]:
    ssh = server.connect()
    yield ssh
    ssh.close()


@pytest.fixture
def own(server: sshd.Server) -> Iterator["Factory"]:
    with Factory(server) as factory:
        yield factory


class Factory:
    """Makes transports that are closed at the end of the test."""

    def __init__(self, server: sshd.Server) -> None:
        self._server = server
        self._made: list[transport.SSH] = []

    def __call__(self, **options: Any) -> transport.SSH:
        self._made.append(self._server.connect(**options))
        return self._made[-1]

    def __enter__(self) -> "Factory":
        return self

    def __exit__(self, *_: object) -> None:
        for ssh in self._made:
            ssh.close()


def shell(script: str, *arguments: str, **options: Any) -> transport.Command:
    return transport.Command(("sh", "-c", script, "sh", *arguments), **options)


def test_a_command_may_end_while_keys_are_exchanged(own: Factory) -> None:
    ssh = own()
    ssh.run(transport.Command(("true",)))
    (opened,) = ssh._pool._open
    # after whatever the server says, paramiko calls for new keys, and the server goes on talking
    opened.wire.packetizer.REKEY_BYTES = 1
    began = time.monotonic()
    for _ in range(10):
        done = ssh.run(transport.Command(("head", "-c", "100000", "/dev/zero")))
        assert (done.returncode, len(done.stdout)) == (0, 100000)
    assert opened.wire.session_id != opened.wire.H
    assert time.monotonic() - began < opened.wire.clear_to_send_timeout


def test_nothing_follows_the_end_of_a_command(own: Factory) -> None:
    ssh = own()
    ssh.run(transport.Command(("true",)))
    (opened,) = ssh._pool._open
    channel = opened.open_channel()
    # our thread is about to say that there is no more input, as paramiko's says that all is over
    said = channel._send_eof()
    channel.close()
    channel.transport._send_user_message(said)
    # the server ends a connection, with all commands on it, when it hears of a channel that is gone
    assert ssh.run(transport.Command(("echo", "here"))).stdout == "here\n"
    assert opened.wire.is_active()


def test_output_and_exit_status_come_back(node: transport.SSH) -> None:
    result = node.run(shell("echo out; echo err >&2; exit 3"))
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)


def test_hostile_arguments_arrive_as_they_are(node: transport.SSH) -> None:
    result = node.run(transport.Command(("printf", r"%s\0", *HOSTILE)))
    assert result.stdout.split("\0")[:-1] == HOSTILE


def test_the_line_is_built_for_a_shell(server: sshd.Server, own: "Factory") -> None:
    command = transport.Command(("vmadm", "get", "it's"))
    assert own().command_line(command) == (
        b'LC_ALL=C PATH="$PATH":/usr/sbin:/usr/bin:/sbin:/bin:/opt/custom/bin '
        b"vmadm get 'it'\"'\"'s'"
    )
    ssh = own(user="admin", pfexec=None, tool_path="/my tools:/b")
    assert ssh.command_line(command).startswith(
        b"LC_ALL=C PATH='/my tools:/b':\"$PATH\":/usr/sbin:/usr/bin:/sbin:/bin:/opt/custom/bin "
        b"pfexec vmadm get"
    )


def test_tool_path_is_searched_first(own: "Factory", tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "it's; $(here)"
    folder.mkdir()
    (folder / "vmadm").write_text('#!/bin/sh\necho "mine $1 $LC_ALL"\n')
    (folder / "vmadm").chmod(0o755)
    result = own(tool_path=str(folder)).run(transport.Command(("vmadm", "list")))
    assert result.stdout == "mine list C\n"


def test_a_missing_tool_was_not_started(node: transport.SSH) -> None:
    with pytest.raises(errors.NotStarted, match="not found") as caught:
        node.run(transport.Command(("no-such-tool", "list")))
    assert not caught.value.retryable


def test_status_127_of_a_tool_is_its_own(node: transport.SSH) -> None:
    assert node.run(shell("echo other: not found >&2; exit 127")).returncode == 127


def test_a_signal_is_a_negative_returncode(node: transport.SSH) -> None:
    assert node.run(shell("kill -ABRT $$")).returncode == -signal.SIGABRT
    assert node.run(shell("kill -KILL $$")).returncode == -signal.SIGKILL
    assert node.run(shell("sh -c 'kill -KILL $$'; exit $?")).returncode == -signal.SIGKILL


def test_a_mebibyte_of_input_arrives(node: transport.SSH) -> None:
    data = bytes(range(256)) * 4096
    result = node.run(transport.Command(("cat",), stdin=data))
    assert result.stdout.encode("utf-8", "surrogateescape") == data


def test_a_tool_need_not_read_its_input(node: transport.SSH) -> None:
    assert node.run(shell("exit 7", stdin=b"x" * 8_000_000)).returncode == 7


def test_forty_commands_at_once(own: "Factory", tmp_path: pathlib.Path) -> None:
    ssh = own()
    # none ends before every channel is in use: a connection that is idle may be replaced
    script = """
        echo "$SSH_CONNECTION" >"$2/$1.new" && mv "$2/$1.new" "$2/$1.runs"
        until [ -e "$2/go" ]; do sleep 0.1; done
        echo "$1"
    """
    with concurrent.futures.ThreadPoolExecutor(40) as threads:
        commands_ = [shell(script, str(i), str(tmp_path)) for i in range(40)]
        ended = [threads.submit(ssh.run, command) for command in commands_]
        try:
            waits.until(lambda: len(list(tmp_path.glob("*.runs"))) >= 4 * connection.CHANNELS)
            ports = [path.read_text().split()[1] for path in tmp_path.glob("*.runs")]
        finally:
            (tmp_path / "go").touch()
    assert [int(future.result().stdout) for future in ended] == list(range(40))
    assert set(collections.Counter(ports).values()) == {connection.CHANNELS}


def test_a_long_command_does_not_delay_short_ones(own: "Factory") -> None:
    ssh = own(max_connections=1)
    with contextlib.ExitStack() as stack:
        long = [stack.enter_context(ssh.stream(transport.Command(("cat",)))) for _ in range(7)]
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(20) as threads:
            short = list(threads.map(ssh.run, [shell("exit 0")] * 30))
        assert [result.returncode for result in short] == [0] * 30
        assert time.monotonic() - start < 20
        assert [running.wait().returncode for running in long] == [0] * 7


def test_a_missing_host_key_is_refused(own: "Factory", tmp_path: pathlib.Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    ssh = own(known_hosts_file=known_hosts)
    with pytest.raises(errors.NotStarted, match="does not hold it.*ssh-keyscan") as caught:
        ssh.run(shell("exit 0"))
    assert caught.value.argv[0] == "sh" and not caught.value.retryable
    assert not known_hosts.exists()


def test_a_changed_host_key_is_refused(
    server: sshd.Server, own: "Factory", tmp_path: pathlib.Path
) -> None:
    sshd.keygen(tmp_path / "other")
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    before = known_hosts.read_text()
    with pytest.raises(errors.NotStarted, match="CHANGED"):
        own(known_hosts_file=known_hosts).run(shell("exit 0"))
    assert known_hosts.read_text() == before


def test_a_key_that_is_not_accepted_is_named(own: "Factory", tmp_path: pathlib.Path) -> None:
    sshd.keygen(tmp_path / "stranger")
    start = time.monotonic()
    with pytest.raises(errors.NotStarted, match=r"does not accept .*stranger") as caught:
        own(key_file=tmp_path / "stranger", retry_seconds=60).run(shell("exit 0"))
    assert not caught.value.retryable
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_cannot_be_read_is_named(
    own: "Factory", tmp_path: pathlib.Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(errors.NotStarted, match=f"cannot read the key {tmp_path}/key"):
        own(key_file=tmp_path / "key").run(shell("exit 0"))


def test_the_agent_is_asked_when_there_is_no_key_file(
    own: "Factory", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(errors.NotStarted, match="the agent holds no key"):
        own(key_file=None).run(shell("exit 0"))


def test_a_key_of_the_agent_is_good(
    server: sshd.Server, own: "Factory", tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent(server.key_file, tmp_path) as socket_path:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        assert own(key_file=None).run(shell("exit 3")).returncode == 3


def test_small_packets_are_sent_at_once(own: "Factory") -> None:
    ssh = own()
    ssh.run(shell("exit 0"))
    sock = ssh._pool._open[0].wire.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    "patience", [{"retry_seconds": 0.5}, {"retry_seconds": None, "connect_timeout": 0.5}]
)
def test_a_node_that_is_not_there_is_tried_for_a_while(
    own: "Factory", patience: dict[str, Any]
) -> None:
    start = time.monotonic()
    with pytest.raises(errors.NotStarted, match="cannot connect to .*[Rr]efused") as caught:
        own(port=sshd.free_port(), **patience).run(shell("exit 0"))
    assert caught.value.retryable
    assert 0.2 < time.monotonic() - start < 9


def test_a_timeout_is_an_unknown_outcome(own: "Factory") -> None:
    ssh = own()
    with pytest.raises(errors.OutcomeUnknown, match=r"timed out: 0\.3 s"):
        ssh.run(shell("exec sleep 3", seconds=0.3))
    assert ssh.run(shell("exit 0")).returncode == 0


@pytest.mark.parametrize("stream", [1, 2])
def test_too_much_output_ends_the_command(
    own: "Factory", monkeypatch: pytest.MonkeyPatch, stream: int
) -> None:
    monkeypatch.setattr(commands, "MAX_STDOUT_BYTES", 100_000)
    monkeypatch.setattr(commands, "MAX_STDERR_BYTES", 100_000)
    with pytest.raises(errors.OutputError, match="too much on standard"):
        own().run(shell(f"exec cat /dev/zero >&{stream}"))


def test_nobody_waits_for_a_child_that_was_left_behind(node: transport.SSH) -> None:
    start = time.monotonic()
    result = node.run(shell("sleep 20 & echo $!; exit 4"))
    assert time.monotonic() - start < 15
    assert result.returncode == 4
    os.kill(int(result.stdout), signal.SIGKILL)


def test_a_stream_goes_both_ways(node: transport.SSH) -> None:
    with node.stream(transport.Command(("cat",), stdin=b"first\n")) as running:
        assert running.stdout.readline() == b"first\n"
        running.stdin.write(b"second\nthird\n")
        assert running.stdout.readline() == b"second\n"
        running.close_stdin()
        assert running.stdout.read() == b"third\n"
        assert running.wait().returncode == 0


def test_one_write_of_any_size_arrives_in_order(node: transport.SSH) -> None:
    data = random.Random(7).randbytes(3 * session.WRITE_BYTES + 1)
    command = transport.Command(("sha256sum",), timeout=transport.Timeout.STREAM)
    with node.stream(command) as running:
        running.stdin.write(data)
        running.close_stdin()
        assert running.stdout.read().split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert running.wait().returncode == 0


def test_nothing_is_written_to_an_input_that_was_closed(node: transport.SSH) -> None:
    with node.stream(transport.Command(("cat",), timeout=transport.Timeout.STREAM)) as running:
        running.close_stdin()
        with pytest.raises(BrokenPipeError):
            running.stdin.write(bytes(10))


def test_a_stream_keeps_stderr_and_status(node: transport.SSH) -> None:
    with node.stream(shell("head -c 3000000 /dev/zero >&2; echo end; exit 5")) as running:
        result = running.wait()
    assert (result.returncode, len(result.stderr)) == (5, commands.MAX_STDERR_BYTES)


def test_a_stream_that_stands_still_times_out(own: "Factory") -> None:
    ssh = own(timeouts=transport.Timeouts(stream_idle=2.0))
    script = "for i in 1 2 3; do sleep 0.8; echo $i; done; exec sleep 6"
    with ssh.stream(shell(script)) as running:
        got = [running.stdout.readline() for _ in range(3)]
        assert got == [b"1\n", b"2\n", b"3\n"]
        with pytest.raises(errors.OutcomeUnknown, match="nothing moved for"):
            running.stdout.read()


def test_an_endless_stream_can_be_ended_by_another_thread(own: "Factory") -> None:
    with own().stream(shell("echo on; exec sleep 3")) as running:
        assert running.stdout.readline() == b"on\n"
        thread = threading.Timer(0.1, running.kill)
        thread.start()
        assert running.stdout.read() == b""
        thread.join()


def test_streams_hold_little_memory_even_while_keys_change(
    tmp_path: pathlib.Path,
) -> None:
    mebibytes = 200
    with sshd.Server(tmp_path, ["RekeyLimit 48M"]) as server:
        ssh = server.connect()
        ssh.run(shell("exit 0"))
        before = resident()
        with ssh.stream(shell("wc -c")) as running:
            chunk = bytes(2**20)
            for _ in range(mebibytes):
                running.stdin.write(chunk)
            running.close_stdin()
            assert int(running.stdout.read()) == mebibytes * 2**20
            assert running.wait().returncode == 0
        grown = resident() - before
        with ssh.stream(transport.Command(("head", "-c", f"{mebibytes}M", "/dev/zero"))) as running:
            total = 0
            while piece := running.stdout.read(2**18):
                total += len(piece)
            assert running.wait().returncode == 0
        ssh.close()
    assert total == mebibytes * 2**20
    assert max(grown, resident() - before) < 64 * 2**20


def test_secrets_stay_out_of_log_error_and_process_list(
    own: "Factory", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter22-" + "x" * 8
    script = "cat; tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$$/environ; exit 1"
    result = own().run(shell(script, stdin=secret.encode(), secrets=(secret,)))
    assert result.stdout.count(secret) == 1
    error = errors.ToolError.from_result(result)
    assert secret not in f"{error} {error!r} {result!r} {vars(error)} {caplog.text}"


def test_the_trace_tells_of_connecting_and_of_a_wait_for_a_channel(
    own: "Factory", tmp_path: pathlib.Path
) -> None:
    ssh = own(max_connections=1)
    with traces.into(tmp_path / "trace.json") as path:
        with contextlib.ExitStack() as held, concurrent.futures.ThreadPoolExecutor(1) as one_more:
            for _ in range(connection.CHANNELS):
                held.enter_context(ssh.stream(transport.Command(("cat",))))
            waiting = one_more.submit(ssh.run, shell("exit 3"))
            waits.until(lambda: ssh._pool._queue, "it to stand in the queue")
            held.close()
            waiting.result(sshd.WAIT)
    found = traces.spans(path)
    # the first command waits until there is a connection, the last until there is room on it
    assert [each["cat"] for each in found].count("wait") == 2
    assert [each["cat"] for each in found].count("connection") == 1
    last = [each for each in found if each["name"] == "sh"]
    assert [each["args"]["returncode"] for each in last] == [3]
    assert "@127.0.0.1:" in last[0]["args"]["node"]
    waited = [each for each in found if traces.within(each, last[0]) and each is not last[0]]
    assert [each["name"] for each in waited] == ["wait for a channel"]


def test_one_debug_line_a_command(own: "Factory", caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nova_smartos")
    own().run(shell("exit 3"))
    assert [": sh -c 'exit 3' sh: rc 3, " in message for message in caplog.messages] == [True]


# Python (3.12) and eventlet warn of what this test is about: a fork of a process with threads
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(own: "Factory") -> None:
    ssh = own()
    mine = ssh.run(shell("echo $SSH_CONNECTION")).stdout
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            theirs = ssh.run(shell("echo $SSH_CONNECTION")).stdout
            os.write(write_end, theirs.encode())
            ssh.close()
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        theirs = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert theirs and theirs != mine
    assert ssh.run(shell("echo $SSH_CONNECTION")).stdout == mine


def test_refused_channels_are_retried_on_another_connection(tmp_path: pathlib.Path) -> None:
    with sshd.Server(tmp_path, ["MaxSessions 2"]) as server:
        ssh = server.connect()
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            results = list(threads.map(ssh.run, [shell("sleep 0.1")] * 16))
        ssh.close()
    assert [result.returncode for result in results] == [0] * 16


def test_refused_connections_are_retried(tmp_path: pathlib.Path) -> None:
    with sshd.Server(tmp_path, ["MaxStartups 1:100:1"]) as server:
        nodes = [server.connect(retry_seconds=30) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            results = list(threads.map(lambda ssh: ssh.run(shell("exit 0")), nodes))
        for ssh in nodes:
            ssh.close()
    assert [result.returncode for result in results] == [0] * 6


def test_a_server_killed_in_the_middle_leaves_the_outcome_unknown(tmp_path: pathlib.Path) -> None:
    with sshd.Server(tmp_path) as server:
        ssh = server.connect(retry_seconds=0.2)
        with ssh.stream(shell("echo on; exec sleep 3")) as running:
            assert running.stdout.readline() == b"on\n"
            server.stop()
            with pytest.raises(errors.OutcomeUnknown, match="the connection broke"):
                running.stdout.read()
        with pytest.raises(errors.NotStarted):
            ssh.run(shell("exit 0"))
        server.start()
        assert ssh.run(shell("exit 0")).returncode == 0
        ssh.close()


def test_old_algorithms_are_refused(tmp_path: pathlib.Path) -> None:
    with sshd.Server(tmp_path, ["KexAlgorithms diffie-hellman-group14-sha1"]) as server:
        ssh = server.connect()
        with pytest.raises(errors.NotStarted, match="no modern algorithm") as caught:
            ssh.run(shell("exit 0"))
        assert not caught.value.retryable
        ssh.close()


def test_only_modern_algorithms_are_offered(node: transport.SSH) -> None:
    offered = " ".join(
        itertools.chain(connection.KEX, connection.CIPHERS, connection.MACS, connection.HOST_KEYS)
    )
    for old in ("sha1 ", "md5", "cbc", "3des", "ssh-rsa", "group1-", "group14", "arcfour"):
        assert old not in offered + " "


def test_closing_is_not_the_end(own: "Factory") -> None:
    ssh = own()
    first = ssh.run(shell("echo $SSH_CONNECTION")).stdout
    ssh.close()
    assert ssh.run(shell("echo $SSH_CONNECTION")).stdout != first


@contextlib.contextmanager
def agent(key: pathlib.Path, directory: pathlib.Path) -> Iterator[str]:
    """Run an SSH agent that holds a key; give its socket."""
    path = str(directory / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        waits.until(pathlib.Path(path).is_socket)
        environment = {**os.environ, "SSH_AUTH_SOCK": path}
        add = ["ssh-add", "-q", str(key)]
        waits.until(lambda: subprocess.run(add, env=environment, timeout=20).returncode == 0)
        yield path
    finally:
        process.terminate()
        process.wait(20)


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_waits_for_no_lock_of_its_parent(own: "Factory") -> None:
    with own().stream(shell("cat")) as running:
        # what another thread of the parent may be doing at that moment
        with running._channel.lock:  # type: ignore[attr-defined]
            child = os.fork()
            if child == 0:
                os._exit(0)
        try:
            waits.until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        except AssertionError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        running.stdin.write(b"still here")
        running.close_stdin()
        assert running.stdout.read() == b"still here"


def test_a_guest_cannot_say_that_its_command_never_ran(
    own: "Factory", tmp_path: pathlib.Path
) -> None:
    (tmp_path / "zlogin").write_text("#!/bin/sh\necho 'sh: zlogin: not found' >&2\nexit 127\n")
    (tmp_path / "zlogin").chmod(0o755)
    assert own(tool_path=str(tmp_path)).run(transport.Command(("zlogin", "x"))).returncode == 127


def test_a_key_that_others_may_read_is_not_used(own: "Factory", tmp_path: pathlib.Path) -> None:
    key = tmp_path / "key"
    sshd.keygen(key)
    key.chmod(0o640)
    with pytest.raises(errors.NotStarted, match="chmod 600") as caught:
        own(key_file=key).run(shell("exit 0"))
    assert not caught.value.retryable


class SilentWire:
    """A connection on which the server closes the channel in place of an answer."""

    def __init__(self) -> None:
        self.watchers: dict[int, connection.Watcher] = {}

    def is_active(self) -> bool:
        return True

    def send_request(self, channel: Any, name: str, value: object, *, reply: bool) -> None:
        for watcher in self.watchers.values():
            watcher.handled(common.MSG_CHANNEL_CLOSE)


class SilentChannel:
    chanid = 0

    def settimeout(self, seconds: float) -> None:
        """Nothing blocks here."""


def test_a_channel_closed_in_place_of_an_answer_is_not_waited_for() -> None:
    limit = process.Limit(10.0)
    running = session.Session(
        shell("exit 0"),
        limit,
        cast(Any, None),
        connection.Connection(cast(Any, SilentWire())),
        cast(Any, SilentChannel()),
    )
    with pytest.raises(errors.OutcomeUnknown, match="closed the channel"):
        running.execute(b"exit 0")
    assert limit.left() > 5
