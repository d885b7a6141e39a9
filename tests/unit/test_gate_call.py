# SPDX-License-Identifier: Apache-2.0
"""How the gate's commands are called: alone in their folder, and ended in order by any signal."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gate.cloud import call, install
from tests import waits

# says what it does, and when it ends in order
WAITER = """
import signal, sys, time
# a run of these tests in a shell's background ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from gate.cloud import call
call.end_as_by_ctrl_c()
try:
    print("begun", flush=True)
    time.sleep(600)
finally:
    print("ends", flush=True)
    if "slowly" in sys.argv:
        sys.stdin.readline()
    print("ended", flush=True)
"""
# a gate whose smartos-cloud is a stub
GATE = """
import pathlib, sys
from gate import __main__ as gate
from gate.cloud import install
install.ROOT = pathlib.Path(sys.argv[1])
gate.FOLDER = install.ROOT / "build/gate"
sys.exit(gate.main(["stories"]))
"""
STUB = """#!/bin/sh
trap 'echo ended >> {log}; exit 1' TERM
echo "$3" >> {log}
[ "$3" = down ] && exit
while :; do sleep 0.1; done
"""


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", *words],
        cwd=install.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """What a stub of smartos-cloud was told and did, in a folder that stands for the checkout."""
    path = tmp_path / "log"
    stub = tmp_path / "gate/smartos-cloud"
    stub.parent.mkdir()
    stub.write_text(STUB.format(log=path))
    stub.chmod(0o755)
    yield path


def said(log: pathlib.Path) -> list[str]:
    return log.read_text().split() if log.is_file() else []


def test_a_second_one_is_told_who_is_there(tmp_path: pathlib.Path) -> None:
    with call.alone(tmp_path / "cloud"):
        with pytest.raises(call.Busy, match=f"process {os.getpid()} is at work in {tmp_path}"):
            with call.alone(tmp_path / "cloud"):
                pass
        with call.alone(tmp_path / "another"):
            pass
    with call.alone(tmp_path / "cloud"):
        pass
    assert not list(tmp_path.iterdir())


def test_who_was_killed_keeps_nobody_out(tmp_path: pathlib.Path) -> None:
    script = "import pathlib, sys, time\nfrom gate.cloud import call\n"
    script += "with call.alone(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    holder = start(script, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline()
    with pytest.raises(call.Busy, match=f"process {holder.pid} "):
        with call.alone(tmp_path):
            pass
    holder.kill()
    with call.alone(tmp_path, patience=waits.SECONDS):
        pass
    holder.communicate()


def test_who_has_patience_says_for_whom_it_waits(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with call.alone(tmp_path), pytest.raises(call.Busy):
        with call.alone(tmp_path, patience=0.2):
            pass
    assert capsys.readouterr().err == f"Waiting: process {os.getpid()} is at work in {tmp_path}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_signal_ends_in_order(number: signal.Signals) -> None:
    process = start(WAITER, "slowly")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.stdout.readline() == "ends\n"
    # as when it went to the whole group, and make handed it on
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate("go on\n", timeout=waits.SECONDS)
    assert (out, err.splitlines()[-1]) == ("ended\n", "KeyboardInterrupt")


def test_what_nohup_ignores_stays_ignored() -> None:
    ignored = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('here')"
    script = WAITER.replace("time.sleep(600)", f"exec({ignored!r})")
    process = start(script, "nohup")
    out, err = process.communicate(timeout=waits.SECONDS)
    assert (out.split(), err) == (["begun", "here", "ends", "ended"], "")


def test_what_it_runs_ends_with_it_even_when_killed(tmp_path: pathlib.Path) -> None:
    child = [sys.executable, "-c", WAITER]
    out = tmp_path / "out"
    script = "import sys\nfrom gate.cloud import call\n"
    script += "call.run(sys.argv[2:], stdout=open(sys.argv[1], 'w'), stderr=-3)"
    parent = start(script, str(out), *child)
    waits.until(lambda: out.is_file() and "begun" in out.read_text())
    parent.kill()
    parent.communicate()
    waits.until(lambda: "ended" in out.read_text())


def test_nothing_foreign_is_left_of_an_environment() -> None:
    given = {"PATH": "/bin", "OS_CLOUD": "x", "http_proxy": "x", "NO_PROXY": "x", "OSTYPE": "linux"}
    call.clean(given)
    assert given == {"PATH": "/bin", "OSTYPE": "linux"}


def test_a_gate_that_is_ended_takes_its_cloud_along(
    tmp_path: pathlib.Path, log: pathlib.Path
) -> None:
    gate = start(GATE, str(tmp_path))
    waits.until(lambda: said(log) == ["up"])
    second = start(GATE, str(tmp_path))
    out, err = second.communicate(timeout=waits.SECONDS)
    folder = tmp_path / "build/gate"
    assert err == f"gate: process {gate.pid} is at work in {folder}: end it first\n"
    assert (second.returncode, out, said(log)) == (1, "", ["up"])
    gate.terminate()
    gate.communicate(timeout=waits.SECONDS)
    assert gate.returncode == 130
    assert said(log) == ["up", "ended", "down"]


def test_a_gate_that_is_killed_ends_what_it_runs(tmp_path: pathlib.Path, log: pathlib.Path) -> None:
    gate = start(GATE, str(tmp_path))
    waits.until(lambda: said(log) == ["up"])
    gate.kill()
    gate.communicate(timeout=waits.SECONDS)
    waits.until(lambda: said(log) == ["up", "ended"])
