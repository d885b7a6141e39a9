# SPDX-License-Identifier: Apache-2.0
"""zlogin and the programs of the simulated guest."""

import json
import os
import pathlib
import shlex
from collections.abc import Iterator

import pytest

from smartos_emulator import node as node_module
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, payload, run, uuid

U, STOPPED = uuid(1), uuid(2)


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        metadata = {"customer_metadata": {"user-script": "echo hi"}, "hostname": "web"}
        create(node, payload(1, **metadata, internal_metadata={"admin_pw": "secret"}))
        create(node, payload(2, autoboot=False))
        yield node


def guest(node: node_module.Node, *words: str, stdin: str | bytes = b"") -> vm_node.Ran:
    return run(node, "zlogin", U, *words, stdin=stdin)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["none", "true"], 1, "zlogin: zone 'none' unknown\n"),
        (["global", "true"], 1, "zlogin: 'zlogin' not applicable to the global zone\n"),
        (
            [STOPPED, "true"],
            1,
            f"zlogin: login allowed only to running zones ({STOPPED} is 'installed').\n",
        ),
        ([U, "frobnicate"], 127, "ksh: line 1: exec: frobnicate: not found\n"),
    ],
)
def test_refusals(node: node_module.Node, words: list[str], status: int, text: str) -> None:
    ran = run(node, "zlogin", *words)
    assert (ran.status, ran.out, ran.err) == (status, "", text)


def test_usage(node: node_module.Node) -> None:
    assert run(node, "zlogin").err.startswith("usage: zlogin ")
    assert run(node, "zlogin", "-C", U, "true").status == 2
    assert run(node, "zlogin", "-n", U).status == 2


def test_files(node: node_module.Node) -> None:
    assert guest(node, "mkdir", "-p", "/a/b").status == 0
    assert guest(node, "tee", "/a/b/c", stdin="text").out == "text"
    assert guest(node, "cat", "/a/b/c").out == "text"
    assert guest(node, "ls", "/a/b").out == "c\n"
    assert guest(node, "ls", "-l", "/a/b").out.endswith("4 c\n")
    assert guest(node, "mv", "/a/b/c", "/a/d").status == 0
    assert guest(node, "rm", "/a/b").err == "rm: /a/b is a directory\n"
    assert guest(node, "rm", "-rf", "/a").status == 0
    assert guest(node, "cat", "/a/d").err == "cat: /a/d: No such file or directory\n"


def test_dd(node: node_module.Node) -> None:
    ran = guest(node, "/usr/bin/dd", "of=/big", "bs=1k", stdin=b"x" * 2500)
    assert (ran.status, ran.err) == (0, "2+1 records in\n2+1 records out\n")
    ran = guest(node, "dd", "if=/big", "bs=1k", "count=1")
    assert ran.out == "x" * 1024
    assert guest(node, "dd", "what=1").status == 2


def test_nobody_leaves_the_root(node: node_module.Node, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("outside")
    os.symlink(tmp_path / "secret", node.zones.root(U) / "link")
    assert guest(node, "cat", "/link").status == 1
    assert guest(node, "cat", f"../../../../../..{tmp_path}/secret").status == 1
    guest(node, "tee", "/link", stdin="inside")
    assert (tmp_path / "secret").read_text() == "outside"


def test_a_shell_of_sorts(node: node_module.Node) -> None:
    ran = guest(node, "sh", "-c", "'echo one > /f && echo two >> /f; cat < /f; exit 3'")
    assert (ran.status, ran.out) == (3, "one\ntwo\n")
    assert guest(node, "false || echo 'a  b'; false && echo c").out == "a  b\n"
    assert guest(node, stdin="echo from\necho stdin\n").out == "from\nstdin\n"
    assert guest(node, "cat /f | wc").err == "sh: `|' is not emulated\n"


def test_a_full_pool(node: node_module.Node) -> None:
    node.storage.fill("zones", True)
    try:
        ran = guest(node, "dd", "if=/dev/zero", "of=/much", "bs=64k", "count=4")
        assert (ran.status, ran.err) == (1, "dd: No space left on device\n")
        ran = guest(node, "mdata-put", "k", "v")
        assert (ran.status, ran.err) == (1, "mdata-put: ENOSPC, write\n")
    finally:
        node.storage.fill("zones", False)


def test_metadata(node: node_module.Node) -> None:
    assert guest(node, "mdata-list").out == "user-script\nadmin_pw\n"
    assert guest(node, "mdata-get", "user-script").out == "echo hi\n"
    assert guest(node, "mdata-get", "none").err == "No metadata for 'none'\n"
    assert guest(node, "mdata-put", "k", "v").status == 0
    assert get(node, U)["customer_metadata"]["k"] == "v"
    assert guest(node, "mdata-put", "long", stdin="from stdin").status == 0
    assert guest(node, "mdata-get", "long").out == "from stdin\n"
    assert guest(node, "mdata-delete", "k").status == 0
    assert guest(node, "mdata-get", "admin_pw").out == "secret\n"
    assert guest(node, "mdata-get", "sdc:uuid").out == f"{U}\n"
    assert guest(node, "mdata-get", "sdc:hostname").out == "web\n"
    assert json.loads(guest(node, "mdata-get", "sdc:nics").out) == []


def test_who_and_where(node: node_module.Node) -> None:
    assert guest(node, "hostname").out == "web\n"
    assert guest(node, "uname", "-a").out == (
        f"SunOS web 5.11 joyent_{node.config.platform} i86pc i386 i86pc\n"
    )
    assert guest(node, "id").out == "uid=0(root) gid=0(root)\n"
    assert "svc:/milestone/multi-user:default" in guest(node, "svcs").out
    assert guest(node, "mount", "-F", "tmpfs", "-o", "remount,size=9m", "/tmp").status == 0


def test_a_guest_goes_down_by_itself(node: node_module.Node) -> None:
    create(node, payload(3))
    assert run(node, "zlogin", uuid(3), "reboot").status == 0
    assert node.vms.wait(lambda: (node.vms.get(uuid(3)) or {}).get("zoneid") == 3, 6000)
    assert node.vms.wait_state(uuid(3), "running", 6000)
    assert run(node, "zlogin", uuid(3), "shutdown", "-y", "-g", "0", "-i", "5").status == 0
    assert node.vms.wait_state(uuid(3), "stopped", 6000)
    assert get(node, uuid(3))["autoboot"] is True


def test_the_console_wants_a_terminal(node: node_module.Node) -> None:
    ran = run(node, "zlogin", "-C", U)
    assert (ran.status, ran.out) == (1, f"[Connected to zone '{U}' console]\n")
    assert "raw mode" in ran.err
    assert run(node, "zlogin", "-Q", "-C", U).out == ""
    assert run(node, "vmadm", "console", U).status == 0


@pytest.mark.parametrize(
    ("words", "status", "out"),
    [
        (["echo one; echo two"], 0, "one\ntwo\n"),
        (["echo", "'a;  b'", "#c"], 0, "a;  b\n"),
        (["echo", "a#b", '"c \\$d"', "e\\ f"], 0, "a#b c $d e f\n"),
        (["echo", "'$(id)'", "'`id`'", "'*'"], 0, "$(id) `id` *\n"),
        (["ls /none 2>/dev/null || echo gone"], 0, "gone\n"),
        (["ls /none 2>&1"], 1, "ls: /none: No such file or directory\n"),
        (["exit", "3"], 3, ""),
        ([""], 0, ""),
    ],
)
def test_a_shell_reads_the_words(
    node: node_module.Node, words: list[str], status: int, out: str
) -> None:
    ran = guest(node, *words)
    assert (ran.status, ran.out) == (status, out)


def test_quoted_words_reach_the_program_as_they_were(node: node_module.Node) -> None:
    name = "/a b\n'c' $(d)"
    assert guest(node, "tee", shlex.quote(name), stdin="text").status == 0
    assert guest(node, "cat", shlex.quote(name)).out == "text"
    assert (node.zones.root(U) / name[1:]).read_text() == "text"


@pytest.mark.parametrize(
    "text",
    ["echo $HOME", "echo `id`", 'echo "$(id)"', "ls /*", "A=1 id", "for a in b", "a &", "(id)"],
)
def test_what_the_shell_cannot_do_it_refuses(node: node_module.Node, text: str) -> None:
    ran = guest(node, f"touch /was; {text}")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.endswith(" is not emulated\n")
    assert not (node.zones.root(U) / "was").exists()


@pytest.mark.parametrize("text", ["echo 'a", "cat <", "echo >; id", "exit much"])
def test_broken_scripts(node: node_module.Node, text: str) -> None:
    ran = guest(node, text)
    assert ran.status == 2
    assert ran.err.startswith("sh: syntax error: ")


def test_what_a_zone_runs_on_is_busy(node: node_module.Node) -> None:
    ran = run(node, "zfs", "destroy", f"zones/{U}")
    assert (ran.status, ran.err) == (1, f"cannot unmount '/zones/{U}': Device busy\n")
    assert run(node, "zfs", "rename", f"zones/{U}", "zones/other").status == 1
    assert get(node, U)["zfs_filesystem"] == f"zones/{U}"
