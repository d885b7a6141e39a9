# SPDX-License-Identifier: Apache-2.0
"""What a running command says on standard error, heard while it runs, locally and over SSH."""

import contextlib
from collections.abc import Iterator

import pytest

from nova_smartos.smartos import transport
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import process
from tests import waits
from tests.unit import sshd


@pytest.fixture(params=["local", "ssh"])
def carrier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[transport.Transport]:
    with contextlib.ExitStack() as stack:
        if request.param == "local":
            yield transport.Local()
            return
        server = stack.enter_context(sshd.Server(tmp_path_factory.mktemp("sshd")))
        yield stack.enter_context(contextlib.closing(server.connect()))


def shell(script: str) -> transport.Command:
    return transport.Command(("sh", "-c", script), timeout=transport.Timeout.STREAM)


def test_lines_are_heard_once_and_whole(carrier: transport.Transport) -> None:
    script = "printf 'one\\ntw' >&2; echo a; read x; printf 'o\\nthree\\n' >&2; echo b; read x"
    with carrier.stream(shell(f"{script}; echo four >&2; exit 3")) as running:
        heard = ""

        def listen() -> str:
            nonlocal heard
            heard += running.take_stderr()
            return heard

        assert running.stdout.readline() == b"a\n"
        waits.until(lambda: listen() == "one\n")
        running.stdin.write(b"\n")
        assert running.stdout.readline() == b"b\n"
        waits.until(lambda: listen() == "one\ntwo\nthree\n")
        result = running.wait()
    # what was taken is not in the result any more
    assert (result.stderr, result.returncode) == ("four\n", 3)


def test_taking_makes_room(carrier: transport.Transport) -> None:
    line = "x" * 99
    often = commands.MAX_STDERR_BYTES // 100
    script = f"while echo a; do yes {line} | head -n {often} >&2; read x || exit 0; done"
    with carrier.stream(shell(script)) as running:
        for _ in range(3):
            assert running.stdout.readline() == b"a\n"
            heard = ""
            while len(heard) < 100 * often:
                heard += waits.until(running.take_stderr)
            assert heard == f"{line}\n" * often
            running.stdin.write(b"\n")
        result = running.wait()
    assert (result.returncode, len(result.stderr)) == (0, 100 * often)


def test_a_part_of_a_line_is_left() -> None:
    kept = process.Capped(10)
    kept.add(b"a\nb")
    assert (kept.take_lines(), kept.take_lines(), kept.text()) == ("a\n", "", "b")
    kept.add(b"c\n" + b"d" * 10)
    assert kept.overflow
    assert (kept.take_lines(), kept.text()) == ("bc\n", "d" * 7)


def test_a_command_over_ssh_that_never_stops_printing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its reader gets free, also where the server does not pass signals on."""
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as server:
        with contextlib.closing(server.connect()) as carrier:
            script = "trap '' TERM HUP; while :; do echo x; done"
            with carrier.stream(shell(script)) as running:
                assert running.stdout.readline() == b"x\n"
                running.kill()
                with contextlib.suppress(Exception):
                    running.wait()
            assert carrier.run(transport.Command(("echo", "again"))).stdout == "again\n"
