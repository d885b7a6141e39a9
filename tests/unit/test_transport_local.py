# SPDX-License-Identifier: Apache-2.0
"""The local transport, on tools that every POSIX system has."""

import logging
import math
import os
import pathlib
import signal
import threading
import time
from typing import Any

import pytest

from nova_smartos.smartos import errors, transport
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import process

HOSTILE = [
    "",
    " ",
    "-rf",
    "--",
    "it's",
    '"quoted"',
    "a\nb\r\tc",
    "$(touch /tmp/never)",
    "`id`",
    "a;b|c&d>e",
    "*?[a-z]{1,2}~",
    "\\n",
    "ünïcode ☃ 𝄞",
    "\udcff\udc80",
    "\x1b[31m",
    "!history",
    "x" * 50_000,
]


@pytest.fixture
def local() -> transport.Local:
    return transport.Local()


def shell(script: str, *arguments: str, **options: Any) -> transport.Command:
    return transport.Command(("sh", "-c", script, "sh", *arguments), **options)


def test_output_and_exit_status_come_back(local: transport.Local) -> None:
    result = local.run(shell("echo out; echo err >&2; exit 3"))
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)
    assert result.argv[0] == "sh"
    assert 0 < result.seconds < 30


def test_hostile_arguments_arrive_as_they_are(local: transport.Local) -> None:
    result = local.run(transport.Command(("printf", r"%s\0", *HOSTILE)))
    assert result.stdout.split("\0")[:-1] == HOSTILE


def test_input_of_any_size_arrives(local: transport.Local) -> None:
    for size in (0, 1, 5_000, 3_000_000):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        result = local.run(transport.Command(("cat",), stdin=data))
        assert result.stdout.encode("utf-8", "surrogateescape") == data


def test_a_tool_need_not_read_its_input(local: transport.Local) -> None:
    assert local.run(shell("exec true", stdin=b"x" * 1_000_000)).returncode == 0


def test_the_environment_is_clean(local: transport.Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("OS_PASSWORD", "x")
    seen = local.run(transport.Command(("env",))).stdout.splitlines()
    names = {line.partition("=")[0] for line in seen}
    assert names <= {"LC_ALL", "PATH", "HOME", "PWD", "SHLVL", "_"}
    assert "LC_ALL=C" in seen


def test_tool_path_is_searched_first(tmp_path: pathlib.Path) -> None:
    tool = tmp_path / "vmadm"
    tool.write_text('#!/bin/sh\necho "mine $1"\n')
    tool.chmod(0o755)
    local = transport.Local(tool_path=f"/nonexistent:{tmp_path}")
    assert local.run(transport.Command(("vmadm", "list"))).stdout == "mine list\n"


def test_pfexec_is_put_in_front(tmp_path: pathlib.Path) -> None:
    pfexec = tmp_path / "pfexec"
    pfexec.write_text('#!/bin/sh\necho "as root: $*"\n')
    pfexec.chmod(0o755)
    local = transport.Local(tool_path=str(tmp_path), pfexec=True)
    assert local.run(transport.Command(("vmadm", "list"))).stdout == "as root: vmadm list\n"


def test_another_users_command_hears_the_end_of_its_input(
    local: transport.Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what pfexec has started with other privileges takes no signal from us
    def denied(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with local.stream(transport.Command(("sh", "-c", "echo here; cat; echo over"))) as process:
        assert process.stdout.readline() == b"here\n"
        monkeypatch.setattr(os, "killpg", denied)
        process.kill()
        assert process.stdout.read() == b"over\n"


def test_a_missing_tool_was_not_started(local: transport.Local) -> None:
    with pytest.raises(errors.NotStarted, match="there is no no-such-tool in /") as caught:
        local.run(transport.Command(("no-such-tool", "list")))
    assert not caught.value.retryable
    assert caught.value.argv == ("no-such-tool", "list")


def test_a_file_that_cannot_be_executed_was_not_started(tmp_path: pathlib.Path) -> None:
    (tmp_path / "vmadm").write_text("no program\n")
    (tmp_path / "vmadm").chmod(0o755)
    with pytest.raises(errors.NotStarted, match="cannot start it"):
        transport.Local(tool_path=str(tmp_path)).run(transport.Command(("vmadm",)))


def test_a_signal_is_a_negative_returncode(local: transport.Local) -> None:
    assert local.run(shell("kill -ABRT $$")).returncode == -signal.SIGABRT
    assert local.run(shell("exit 134")).returncode == -signal.SIGABRT
    assert local.run(shell("exit 255")).returncode == 255


def test_a_timeout_ends_the_whole_process_group(
    local: transport.Local, tmp_path: pathlib.Path
) -> None:
    pids = tmp_path / "pids"
    script = 'echo $$ > "$1"; sleep 1000 & echo $! >> "$1"; wait'
    with pytest.raises(errors.OutcomeUnknown, match="timed out: 2 s"):
        local.run(shell(script, str(pids), seconds=2))
    for pid in map(int, pids.read_text().split()):
        assert_gone(pid)


def test_nobody_waits_for_a_child_that_was_left_behind(local: transport.Local) -> None:
    start = time.monotonic()
    result = local.run(shell("sleep 20 & echo $!; exit 4"))
    assert time.monotonic() - start < 15
    assert result.returncode == 4
    os.kill(int(result.stdout), signal.SIGKILL)


@pytest.mark.parametrize("stream", [1, 2])
def test_too_much_output_ends_the_tool(
    local: transport.Local, monkeypatch: pytest.MonkeyPatch, stream: int
) -> None:
    monkeypatch.setattr(commands, "MAX_STDOUT_BYTES", 100_000)
    monkeypatch.setattr(commands, "MAX_STDERR_BYTES", 100_000)
    with pytest.raises(errors.OutputError, match="too much on standard"):
        local.run(shell(f"exec cat /dev/zero >&{stream}"))


def test_a_stream_goes_both_ways(local: transport.Local) -> None:
    with local.stream(transport.Command(("cat",), stdin=b"first\n")) as running:
        assert running.stdout.readline() == b"first\n"
        running.stdin.write(b"second\nthird\n")
        assert running.stdout.readline() == b"second\n"
        running.close_stdin()
        assert running.stdout.read() == b"third\n"
        assert running.wait().returncode == 0


def test_a_stream_keeps_the_head_of_stderr(
    local: transport.Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_STDERR_BYTES", 10)
    with local.stream(shell("head -c 1000000 /dev/zero >&2; echo end; exit 5")) as running:
        assert running.stdout.read() == b"end\n"
        result = running.wait()
    assert (result.returncode, result.stderr) == (5, "\0" * 10)


def test_waiting_throws_the_rest_of_the_output_away(local: transport.Local) -> None:
    with local.stream(shell("head -c 1000000 /dev/zero; exit 6")) as running:
        assert running.wait().returncode == 6


def test_a_stream_that_stands_still_times_out() -> None:
    local = transport.Local(timeouts=transport.Timeouts(stream_idle=2.0))
    script = "for i in 1 2 3; do sleep 0.8; echo $i; done; exec sleep 1000"
    with local.stream(shell(script)) as running:
        got = [running.stdout.readline() for _ in range(3)]
        assert got == [b"1\n", b"2\n", b"3\n"]
        with pytest.raises(errors.OutcomeUnknown, match=r"nothing moved for 2 s"):
            running.stdout.read()


def test_writing_to_a_stream_that_ended_is_a_broken_pipe(local: transport.Local) -> None:
    with local.stream(shell("exec true")) as running:
        assert running.stdout.read() == b""
        with pytest.raises(BrokenPipeError):
            for _ in range(100):
                running.stdin.write(b"x" * 100_000)


def test_leaving_a_stream_ends_the_tool(local: transport.Local) -> None:
    with local.stream(shell("echo $$; exec sleep 1000")) as running:
        pid = int(running.stdout.readline())
    assert_gone(pid)


def test_an_endless_stream_can_be_ended_by_another_thread(local: transport.Local) -> None:
    with local.stream(shell("echo on; exec sleep 1000", seconds=math.inf)) as running:
        assert running.stdout.readline() == b"on\n"
        thread = threading.Timer(0.1, running.kill)
        thread.start()
        assert running.stdout.read() == b""
        assert running.wait().returncode == -signal.SIGKILL
        thread.join()


def test_a_stream_holds_little_memory(local: transport.Local) -> None:
    chunk = bytes(2**20)
    with local.stream(transport.Command(("cat",))) as running:
        writer = threading.Thread(target=feed, args=(running, chunk, 200))
        writer.start()
        total = 0
        before = resident()
        most = before
        while piece := running.stdout.read(2**20):
            total += len(piece)
            most = max(most, resident())
        writer.join()
    assert total == 200 * 2**20
    assert most - before < 64 * 2**20


def test_one_debug_line_a_command(local: transport.Local, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nova_smartos")
    local.run(shell("exit 3", "a\nb", stdin=b"secret-7", secrets=("secret-7",)))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("local: sh -c 'exit 3' sh 'a\\nb': rc 3, ")
    assert "secret-7" not in caplog.text


def test_unknown_signals_have_a_number_too() -> None:
    assert process.signal_number("KILL") == 9
    assert process.signal_number("SIG@openssh.com") == signal.SIGHUP


def feed(running: transport.Process, chunk: bytes, times: int) -> None:
    for _ in range(times):
        running.stdin.write(chunk)
    running.close_stdin()


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def assert_gone(pid: int) -> None:
    """A killed process may take a moment to go; a zombie of somebody else's is gone."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
    raise AssertionError(f"process {pid} still runs")
