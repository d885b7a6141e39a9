# SPDX-License-Identifier: Apache-2.0
"""Consoles of the emulated node: who is connected, what is logged, what a guest answers."""

import contextlib
import json
import os
import pathlib
import select
import subprocess
import tty
from collections.abc import Callable, Iterator

import pytest

from smartos_emulator import node as node_module
from smartos_emulator import unix
from tests import emulated, waits
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, hardware, payload, run, uuid

U, KVM, BHYVE = uuid(1), uuid(2), uuid(3)
SECONDS = 30


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        create(node, payload(1, hostname="web"))
        create(node, hardware(2, "kvm", autoboot=True, hostname="machine"))
        create(node, hardware(3, "bhyve", autoboot=True, vnc_port=-1))
        yield node


def log(node: node_module.Node, name: str) -> list[dict[str, str]]:
    text = run(node, "tail", "-c", "1000000", f"/zones/{name}/logs/console.log").out
    return [json.loads(line) for line in text.splitlines()]


def shown(node: node_module.Node, name: str) -> str:
    return "".join(each["msg"] for each in log(node, name) if each["stream"] == "console")


def test_what_is_shown_is_logged_whole_lines_only(node: node_module.Node) -> None:
    console = node.consoles.get(U)
    waits.until(lambda: "login" in "".join(row for row, _ in console.terminal.screen.rows()))
    console.terminal.type(b"root\r")
    console.terminal.type(b'echo "a \xe9\tb"\r')
    assert "web login: root\r\n" in shown(node, U)
    assert shown(node, U).endswith('[root@web ~]# echo "a b"\r\na b\r\n')
    assert "SunOS" in log(node, U)[1]["msg"]
    assert log(node, U)[0]["stream"] == "logfile"
    assert (node.path(f"/zones/{U}/logs/console.log").stat().st_mode & 0o777) == 0o600
    console.terminal.type(b"exit\r")


def test_the_log_survives_a_reboot(node: node_module.Node) -> None:
    before = shown(node, U)
    assert run(node, "vmadm", "reboot", U, "-F").status == 0
    waits.until(lambda: shown(node, U).count("SunOS") == before.count("SunOS") + 1)
    assert shown(node, U).startswith(before)


def test_kvm_has_no_log_and_loses_what_nobody_reads(node: node_module.Node) -> None:
    ran = run(node, "tail", "-c", "10", f"/zones/{KVM}/logs/console.log")
    assert (ran.status, ran.err) == (
        1,
        f"tail: /zones/{KVM}/logs/console.log: No such file or directory\n",
    )
    path = node.path(f"/zones/{KVM}/root/tmp/vm.console")
    with contextlib.closing(unix.connect(path)) as line:
        line.settimeout(SECONDS)
        line.sendall(b"root\rhostname\r")
        assert read_until(line.recv, b"\r\nmachine\r\n")
        # the next one waits until this one leaves
        second = unix.connect(path)
        second.settimeout(SECONDS)
        second.sendall(b"cat /etc/passwd\r")
        assert not select.select([second], [], [], 0.2)[0]
    assert b"cat: command not found" in read_until(second.recv, b"not found")
    second.close()


def read_until(recv: Callable[[int], bytes], wanted: bytes) -> bytes:
    said = b""
    while wanted not in said:
        data = recv(4096)
        assert data, said
        said += data
    return said


def test_a_slow_client_loses_and_delays_nobody(node: node_module.Node) -> None:
    console = node.consoles.get(BHYVE)
    client = console.connect(7)
    for _ in range(10000):
        console.terminal.show("x\n")
    assert client.next() == b"x\r\n"
    console.disconnect(client)


@pytest.fixture(name="outside", scope="module")
def _outside() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode("--speed", "40") as node:
        zone = {"brand": "joyent", "uuid": U, "image_uuid": node.image("zone"), "hostname": "web"}
        node.tool("vmadm", "create", payload=json.dumps(zone))
        yield node


class Terminal:
    """A tool on a terminal of its own."""

    def __init__(self, node: emulated.EmulatedNode, *words: str) -> None:
        self.end, other = os.openpty()
        tty.setraw(other)
        argv = [f"{node.tools}/{words[0]}", *words[1:]]
        self.process = subprocess.Popen(argv, stdin=other, stdout=other, stderr=other)
        os.close(other)

    def type(self, data: bytes) -> None:
        os.write(self.end, data)

    def read(self, wanted: bytes) -> bytes:
        return read_until(self._recv, wanted)

    def _recv(self, size: int) -> bytes:
        assert select.select([self.end], [], [], SECONDS)[0]
        return os.read(self.end, size)

    def close(self) -> int:
        status = self.process.wait(SECONDS)
        os.close(self.end)
        return status


def test_zlogin_on_a_terminal(outside: emulated.EmulatedNode) -> None:
    console = Terminal(outside, "zlogin", "-C", U)
    console.read(f"[Connected to zone '{U}' console]".encode())
    console.type(b"root\recho hello\r")
    assert b"\r\nhello\r\n" in console.read(b"\r\nhello\r\n")
    busy = Terminal(outside, "zlogin", "-C", U)
    busy.read(b"zlogin: Console is already in use by process ID ")
    assert busy.close() == 1
    outside.tool("vmadm", "reboot", U)
    console.read(b"[NOTICE: Zone booting up]")
    console.read(b"web login: ")
    console.type(b"\r~.")
    console.read(b"console closed]")
    assert console.close() == 0


def test_without_an_escape_and_to_the_end_of_the_zone(outside: emulated.EmulatedNode) -> None:
    console = Terminal(outside, "zlogin", "-Q", "-E", "-C", U)
    console.type(b"root\r")
    console.read(b"]# ")
    console.type(b"\r~.\r")
    console.read(b"~.: not found")
    outside.tool("vmadm", "delete", U)
    console.read(b"[NOTICE: Zone is being uninstalled.  Disconnecting...]")
    assert console.close() == 0


@pytest.mark.parametrize("words", [(), ("-c", "x", "/zones/f"), ("-n", "1", "/zones/f")])
def test_tail_is_small(node: node_module.Node, words: tuple[str, ...]) -> None:
    assert run(node, "tail", *words).status == 1


def test_tail_of_other_files_is_the_hosts(
    outside: emulated.EmulatedNode, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "f").write_text("one\ntwo\n")
    assert outside.tool("tail", "-n", "1", str(tmp_path / "f")) == "two\n"
