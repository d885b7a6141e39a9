# SPDX-License-Identifier: Apache-2.0
"""The smartos-emulator command: nodes up and down, what a reboot keeps, several side by side."""

import json
import os
import pathlib
import select
import shlex
import subprocess
import sys

import pytest

from smartos_emulator import cli, client, tools
from tests import emulated, waits

SECONDS = 60


@pytest.fixture(scope="module")
def node():
    with emulated.EmulatedNode("--name", "nst", "--cpus", "4", "--memory", "8G") as up:
        yield up


def run(*words, **options):
    """Run smartos-emulator."""
    code = "from smartos_emulator import cli; cli.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        **options,
    )


def test_the_options_show_in_the_node(node):
    facts = node.facts()
    assert (facts["config"]["name"], facts["config"]["cpus"]) == ("nst", 4)
    assert facts["config"]["memory_mib"] == 8192
    assert node.tool("hostname") == "nst\n"
    assert json.loads(node.tool("sysinfo"))["CPU Total Cores"] == 4


def test_every_tool_is_an_executable(node):
    expected = {*tools.NAMES, "pfexec"}
    assert set(os.listdir(node.tools)) == expected
    assert all(os.access(f"{node.tools}/{name}", os.X_OK) for name in expected)


def test_pfexec_runs_a_tool(node):
    path = f"{node.tools}:{os.environ['PATH']}"
    done = subprocess.run(
        ["pfexec", "hostname"], env={"PATH": path}, capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stdout == b"nst\n"


@pytest.mark.parametrize("name", tools.NAMES)
def test_no_tool_fails_inside_the_emulator(node, name):
    done = subprocess.run(
        [f"{node.tools}/{name}", "--nst-no-such-option"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode != client.EMULATOR_ERROR, done.stderr.decode()


def test_exec_passes_streams_and_status_through(node):
    done = run("exec", str(node.directory), "--", "vmadm", "create", input=b"{bad")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Invalid JSON payload: Unexpected token b\n"


def test_env_makes_the_tools_first(node):
    said = run("env", str(node.directory)).stdout.decode()
    shell = f"{said}\ncommand -v vmadm"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=SECONDS, check=True)
    assert done.stdout.decode() == f"{node.tools}/vmadm\n"


def test_env_of_a_path_with_blanks():
    quoted = shlex.quote("/a b/bin")
    assert f"export PATH={quoted}" in run("env", "/a b").stdout.decode()


def test_the_hosts_own_rm_still_works_where_the_tools_are_first(node, tmp_path):
    victim = tmp_path / "folder"
    victim.mkdir()
    path = f"{node.tools}:{os.environ['PATH']}"
    subprocess.run(["rm", "-r", str(victim)], env={"PATH": path}, timeout=SECONDS, check=True)
    assert not victim.exists()


def test_dd_and_rm_reach_the_nodes_tree(node):
    target = "/zones/nst-file"
    node.tool("dd", f"of={target}", payload="kept")
    assert (node.directory / "root/zones/nst-file").read_text() == "kept"
    assert not pathlib.Path(target).exists()
    node.tool("rm", target)
    assert not (node.directory / "root/zones/nst-file").exists()


def test_up_twice_is_refused(node):
    done = run("up", str(node.directory))
    assert done.returncode == 1
    assert b"a node is already up" in done.stderr


@pytest.mark.parametrize("words", [["down"], ["reboot"], ["status"], ["fault", "DIR", "list"]])
def test_no_node_is_said_so(tmp_path, words):
    words = [str(tmp_path) if word == "DIR" else word for word in words]
    done = run(*words, *([] if len(words) > 1 else [str(tmp_path)]))
    assert done.returncode == 1
    assert b"no node is up in" in done.stderr


@pytest.mark.parametrize("words", [["--memory", "much"], ["--ssh", "22"], ["--pool", "tank"]])
def test_bad_options_are_refused(tmp_path, words):
    done = run("up", str(tmp_path / "node"), *words)
    assert done.returncode != 0
    assert words[1].encode() in done.stderr
    assert not (tmp_path / "node" / "run").exists()


def test_sizes():
    assert [cli._size(text) for text in ("1", "2K", "3M", "4GiB", "5T")] == [
        *(1, 2 << 10, 3 << 20, 4 << 30, 5 << 40)
    ]


def test_a_reboot_keeps_what_a_real_one_keeps():
    with emulated.EmulatedNode("--speed", "100") as node:
        image = node.image("zone")
        states = {}
        for alias in ("runs", "stopped"):
            payload = {"brand": "joyent-minimal", "image_uuid": image, "alias": alias}
            node.tool("vmadm", "create", payload=json.dumps(payload))
        (stopped,) = node.tool("vmadm", "lookup", "alias=stopped").split()
        node.tool("vmadm", "stop", stopped)
        (node.directory / "root/tmp/lost").write_text("x")
        (node.directory / "root/usbkey/kept").write_text("x")
        before = node.facts()
        node.command("reboot", str(node.directory))
        assert node.facts()["config"] == before["config"]
        assert node.facts()["pid"] != before["pid"]
        waits.until(lambda: not node.facts()["booting"], "the VMs to boot")
        for vm in json.loads(node.tool("vmadm", "lookup", "-j")):
            states[vm["alias"]] = vm["state"]
        assert states == {"runs": "running", "stopped": "stopped"}
        assert not (node.directory / "root/tmp/lost").exists()
        assert (node.directory / "root/usbkey/kept").exists()


def test_nodes_side_by_side_do_not_meet():
    with emulated.EmulatedNode() as one, emulated.EmulatedNode() as other:
        one.image("zone")
        assert len(json.loads(one.tool("imgadm", "list", "-j"))) == 1
        assert json.loads(other.tool("imgadm", "list", "-j")) == []
        assert one.facts()["config"]["uuid"] != other.facts()["config"]["uuid"]
        assert one.facts()["vminfod"]["port"] != other.facts()["vminfod"]["port"]


def test_a_killed_daemon_leaves_a_node_that_comes_up_again():
    with emulated.EmulatedNode("--ssh", "127.0.0.1:0") as node:
        node.image("zone")
        pid = node.facts()["pid"]
        end = os.pidfd_open(pid)
        os.kill(pid, 9)
        assert select.select([end], [], [], SECONDS)[0]
        os.close(end)
        node.command("up", str(node.directory))
        assert len(json.loads(node.tool("imgadm", "list", "-j"))) == 1


def test_clearing_all_faults_heals_the_node(node):
    fault = ("fault", str(node.directory))
    node.command(*fault, "vminfod", "down")
    node.command(*fault, "disk", "full")
    node.command(*fault, "add", "zfs", "fail")
    assert node.facts()["vminfod"]["up"] is False
    node.command(*fault, "clear")
    assert node.facts()["faults"] == []
    assert node.facts()["vminfod"]["up"] is True
    node.tool("zfs", "create", "zones/nst-healed")
    node.tool("zfs", "destroy", "zones/nst-healed")


def test_load_moves_the_counters_of_a_vm(node):
    image = node.image("zone")
    payload = {"brand": "joyent-minimal", "image_uuid": image, "alias": "loaded"}
    node.tool("vmadm", "create", payload=json.dumps(payload))
    (vm,) = node.tool("vmadm", "lookup", "alias=loaded").split()
    node.command("load", str(node.directory), vm, "cpu=0.5")
    done = run("load", str(node.directory), vm, "nonsense=1")
    assert done.returncode == 1
    assert b"nonsense" in done.stderr


def test_doctor_tries_each_feature():
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["daemon"]["state"] == "real"
    assert findings["hvm"]["state"] == "simulated"
    assert all(each["state"] in ("real", "simulated", "unavailable") for each in findings.values())
