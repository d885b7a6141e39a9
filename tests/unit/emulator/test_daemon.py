# SPDX-License-Identifier: Apache-2.0
"""The daemon and its thin client: streams, exit statuses, signals, faults."""

import contextlib
import dataclasses
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import types

import pytest

from smartos_emulator import call as call_module
from smartos_emulator import client, clock, control, daemon, faults, tools
from tests import waits

SECONDS = 20


@dataclasses.dataclass
class BareNode:
    """As much of a node as the daemon itself touches."""

    dir: pathlib.Path
    clock: clock.Clock
    faults: faults.Faults

    def halt(self):
        self.clock.stopping.set()

    def host_path(self, path):
        return pathlib.Path(path)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """A function that serves a tool's `main` and returns the daemon."""
    running = contextlib.ExitStack()

    def start(main, directory=tmp_path):
        module = types.ModuleType("smartos_emulator.tools.probe")
        module.main = main
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(tools, "NAMES", ("probe",))
        node = BareNode(directory, clock.Clock(1000), faults.Faults(1))
        served = daemon.Daemon(node)
        thread = threading.Thread(target=served.run)
        thread.start()
        running.callback(thread.join, SECONDS)
        running.callback(served.stop)
        return served

    with running:
        yield start


def run(directory, *argv, stdin=b"", **options):
    """Run a tool through the client, as the node's bin folder does."""
    code = (
        "import sys; from smartos_emulator import client;"
        "client.end(client.call(sys.argv[1], sys.argv[2:]))"
    )
    words = [sys.executable, "-c", code, str(directory), *argv]
    return subprocess.run(words, input=stdin, capture_output=True, timeout=SECONDS, **options)


def test_streams_arguments_and_status_pass_through(serve, tmp_path):
    def main(call):
        call.out(" ".join(call.argv) + "\n")
        call.stdout.write(call.read_stdin().upper())
        call.err("complaint")
        return 3

    serve(main)
    done = run(tmp_path, "probe", "a b", "$(x)", "\udcff", stdin=b"input")
    assert done.stdout == b"probe a b $(x) \xff\nINPUT"
    assert done.stderr == b"complaint"
    assert done.returncode == 3


def test_the_working_directory_and_environment_are_the_clients(serve, tmp_path):
    serve(lambda call: call.out(f"{call.cwd} {call.env['COLOUR']}") or 0)
    environment = {**os.environ, "COLOUR": "red=1", "PYTHONPATH": os.getcwd()}
    done = run(tmp_path, "probe", cwd="/usr", env=environment)
    assert done.stdout == b"/usr red=1"


@pytest.mark.parametrize(
    ("end", "status", "stderr"),
    [
        (call_module.Exit(2, "usage\n"), 2, b"usage\n"),
        (call_module.Abort("Uncaught TypeError: x"), -signal.SIGABRT, b"Uncaught TypeError: x\n"),
        (BrokenPipeError(), -signal.SIGPIPE, b""),
        (call_module.Cancelled(), -signal.SIGKILL, b""),
    ],
)
def test_every_way_to_end(serve, tmp_path, end, status, stderr):
    def main(call):
        raise end

    serve(main)
    done = run(tmp_path, "probe")
    assert (done.returncode, done.stderr) == (status, stderr)


def test_a_bug_of_the_emulator_is_loud(serve, tmp_path):
    serve(lambda call: {}["missing"])
    done = run(tmp_path, "probe")
    assert done.returncode == client.EMULATOR_ERROR
    assert b"internal error in probe" in done.stderr
    assert b"KeyError" in done.stderr


def test_an_unknown_tool_is_not_found(serve, tmp_path):
    serve(lambda call: 0)
    done = run(tmp_path, "frob")
    assert (done.returncode, done.stderr) == (127, b"frob: not found\n")


def test_no_node_is_said_so(tmp_path):
    done = run(tmp_path, "probe")
    assert done.returncode == client.NODE_DOWN
    assert b"no node is up in" in done.stderr


def test_a_long_path_is_no_obstacle(serve, tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    serve(lambda call: 7, deep)
    assert run(deep, "probe").returncode == 7


def test_a_killed_client_ends_the_run(serve, tmp_path):
    started, ended = threading.Event(), threading.Event()

    def main(call):
        started.set()
        try:
            call.node.clock.sleep(3600 * 1000)
        except call_module.Cancelled:
            ended.set()
            raise
        return 0

    serve(main)
    code = "import sys; from smartos_emulator import client; client.call(sys.argv[1], ['probe'])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    assert started.wait(SECONDS)
    process.kill()
    process.wait(SECONDS)
    assert ended.wait(SECONDS)


def test_a_connection_lasts_for_as_long_as_its_run(serve, tmp_path):
    """Else its number is the next client's, and the answer is sent to that one."""
    begun, end = threading.Event(), threading.Event()
    calls = []

    def main(call):
        if call.argv[1:] == ["other"]:
            return 0
        calls.append(call)
        begun.set()
        end.wait(SECONDS)
        return 0

    served = serve(main)
    connection = client._connect(tmp_path)
    with connection, open(os.devnull) as nothing:
        client._hand_over(connection, ["probe"], (nothing.fileno(),) * 3)
        assert begun.wait(SECONDS)
        ((held, _),) = served._calls.items()
    assert calls[0].cancelled.wait(SECONDS)
    # which is answered when the daemon is done with the first
    assert run(tmp_path, "probe", "other").returncode == 0
    assert held.fileno() >= 0
    end.set()
    waits.until(lambda: held.fileno() < 0, "the connection to be closed")


def test_a_killed_client_ends_a_write_that_nobody_reads(serve, tmp_path):
    ended = threading.Event()

    def main(call):
        try:
            while True:
                call.stdout.write(b"x" * 65536)
        except call_module.Cancelled:
            ended.set()
            raise

    serve(main)
    reading, writing = os.pipe()
    code = "import sys; from smartos_emulator import client; client.call(sys.argv[1], ['probe'])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=writing)
    try:
        assert select.select([reading], [], [], SECONDS)[0]
        process.kill()
        process.wait(SECONDS)
        assert ended.wait(SECONDS)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_stopping_node_kills_what_runs(serve, tmp_path):
    started = threading.Event()

    def main(call):
        started.set()
        call.node.clock.sleep(3600 * 1000)
        return 0

    served = serve(main)
    results = []
    caller = threading.Thread(target=lambda: results.append(run(tmp_path, "probe")))
    caller.start()
    assert started.wait(SECONDS)
    served.stop()
    caller.join(SECONDS)
    assert results[0].returncode == -signal.SIGKILL


def test_malformed_requests_do_not_stop_the_daemon(serve, tmp_path):
    serve(lambda call: 0)
    for junk in (b"", b"x", b"\0\0\0\1z", b"\xff\xff\xff\xff" + b"z" * 10):
        with client._connect(tmp_path) as connection:
            connection.sendall(junk)
            connection.shutdown(1)
    assert run(tmp_path, "probe").returncode == 0


def test_faults_meet_the_runs_they_name(serve, tmp_path):
    effects = []

    def main(call):
        effects.append(call.argv[1])
        call.out("0123456789")
        return 0

    node = serve(main).node
    node.faults.add("fail", "probe", match="^a", status=9, stderr="spoiled", count=1)
    first, second, other = (run(tmp_path, "probe", word) for word in ("a", "a", "b"))
    assert (first.returncode, first.stderr) == (9, b"spoiled")
    assert (second.returncode, other.stdout) == (0, b"0123456789")
    assert effects == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "status", "stdout", "effect"),
    [
        ("truncate", 0, b"0123", True),
        ("die-before", -signal.SIGKILL, b"", False),
        ("die-after", -signal.SIGKILL, b"", True),
        ("slow", 0, b"0123456789", True),
    ],
)
def test_fault_kinds(serve, tmp_path, kind, status, stdout, effect):
    effects = []

    def main(call):
        effects.append(1)
        call.out("0123456789")
        return 0

    node = serve(main).node
    node.faults.add(kind, "*", bytes=4, seconds=1)
    done = run(tmp_path, "probe")
    assert (done.returncode, done.stdout, bool(effects)) == (status, stdout, effect)


def test_a_hanging_tool_goes_on_when_the_fault_is_cleared(serve, tmp_path):
    node = serve(lambda call: 5).node
    fault = node.faults.add("hang", "probe")
    results = []
    caller = threading.Thread(target=lambda: results.append(run(tmp_path, "probe")))
    caller.start()
    node.faults.clear(fault.id)
    caller.join(SECONDS)
    assert results[0].returncode == 5
    assert node.faults.list() == []


def test_control_is_never_spoiled(serve, tmp_path):
    served = serve(lambda call: 0)
    fault = served.node.faults.add("fail", "*")
    assert run(tmp_path, control.NAME, "fault-clear", f'{{"number": {fault.id}}}').returncode == 0
    assert served.node.faults.list() == []


def test_a_bad_fault_is_refused(serve, tmp_path):
    serve(lambda call: 0)
    done = run(tmp_path, control.NAME, "fault-add", '{"kind": "melt", "tool": "vmadm"}')
    assert done.returncode == 1
    assert b"melt" in done.stderr
