# SPDX-License-Identifier: Apache-2.0
"""ps: the tools that run on a node, as the kernel keeps their command lines."""

import subprocess
import time

import pytest

from tests import emulated

WORDS = ("-z", "global", "-o", "pid,args")
NODE = "/usr/node/bin/node --abort_on_uncaught_exception"


@pytest.fixture(scope="module")
def node():
    with emulated.EmulatedNode() as found:
        yield found


def test_a_tool_shows_while_it_runs(node):
    tool = [f"{node.tools}/vmadm", "events", "-jr"]
    with subprocess.Popen(tool, stdout=subprocess.PIPE) as events:
        events.stdout.readline()
        heading, *rows = node.tool("ps", *WORDS).splitlines()
        assert heading == "  PID COMMAND"
        assert f"{events.pid:>5} {NODE} /usr/vm/sbin/vmadm events -jr" in rows
        assert any(row.endswith(f" ps {' '.join(WORDS)}") for row in rows)
        events.kill()
    end = time.monotonic() + emulated.SECONDS
    while "vmadm" in node.tool("ps", *WORDS):
        assert time.monotonic() < end


def test_a_long_command_line_is_cut(node):
    node.command("fault", str(node.directory), "add", "vmadm", "hang")
    uuid = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
    with subprocess.Popen([f"{node.tools}/vmadm", "delete", uuid]) as hanging:
        end = time.monotonic() + emulated.SECONDS
        while "vmadm" not in (shown := node.tool("ps", *WORDS)):
            assert time.monotonic() < end
        (row,) = (line for line in shown.splitlines() if "vmadm" in line)
        assert row.removeprefix(f"{hanging.pid:>5} ") == f"{NODE} /usr/vm/sbin/vmadm delete 6a1f"
        hanging.kill()
    node.command("fault", str(node.directory), "clear")


@pytest.mark.parametrize("words", [(), ("-ef",), ("-z", "global")])
def test_what_it_does_not_know_it_says(node, words):
    done = subprocess.run([f"{node.tools}/ps", *words], capture_output=True, text=True)
    assert done.returncode == 1 and "emulated ps" in done.stderr
