# SPDX-License-Identifier: Apache-2.0
"""Displays of the emulated node: RFB as clients speak it, and where vmadmd listens."""

import contextlib
import json
import pathlib
import socket
import struct
from collections.abc import Iterator

import pytest

from smartos_emulator import des, unix
from smartos_emulator import node as node_module
from tests import waits
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, hardware, payload, run, uuid

OPEN, SHUT, KVM, ADDED = uuid(1), uuid(2), uuid(3), uuid(4)
SECONDS = 30
FRAMEBUFFER = "-s 30:0,fbuf,vga=off,unix=/tmp/vm.vnc -s 30:1,xhci,tablet"


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        shut = {"autoboot": True, "vnc_port": -1}
        create(node, hardware(1, "bhyve", autoboot=True, vnc_password="secret12", hostname="box"))
        create(node, hardware(2, "bhyve", **shut))
        create(node, hardware(3, "kvm", **shut))
        create(node, hardware(4, "bhyve", **shut, bhyve_extra_opts=FRAMEBUFFER))
        create(node, payload(5))
        yield node


def path(node: node_module.Node, name: str) -> pathlib.Path:
    return node.path(f"/zones/{name}/root/tmp/vm.vnc")


def facts(node: node_module.Node, name: str) -> dict[str, int | str]:
    found: dict[str, int | str] = json.loads(run(node, "vmadm", "info", name, "vnc").out)["vnc"]
    return found


class Viewer:
    """A client."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        self.socket = connection
        self.stream = connection.makefile("rb")

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def read(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.stream.read(struct.calcsize(form)))

    def agree(self, password: str = "", version: bytes = b"RFB 003.008\n") -> int:
        assert self.stream.read(12) == b"RFB 003.008\n"
        self.socket.sendall(version)
        if version == b"RFB 003.003\n":
            (kind,) = self.read("!I")
        else:
            (_, kind) = self.read("!BB")
            self.socket.sendall(bytes([kind]))
        if kind == 2:
            self.socket.sendall(des.vnc_response(password, self.stream.read(16)))
        if kind == 2 or version == b"RFB 003.008\n":
            return self.read("!I")[0]
        return 0

    def start(self) -> str:
        """Begin; the name of the desktop."""
        self.socket.sendall(b"\1")
        width, height, bits, _, _, _, _, _, _, _, _, _, length = self.read("!HHBBBBHHHBBB3xI")
        assert (width, height, bits) == (640, 400, 32)
        return self.stream.read(length).decode()

    def ask(self, *, incremental: bool) -> None:
        self.socket.sendall(struct.pack("!BBHHHH", 3, incremental, 0, 0, 640, 400))

    def update(self, size: int = 4) -> list[tuple[int, bytes]]:
        """The rows that are told of."""
        kind, count = self.read("!BxH")
        assert kind == 0
        rows = []
        for _ in range(count):
            _, top, width, height, encoding = self.read("!HHHHi")
            assert encoding == 0
            rows.append((top, self.stream.read(width * height * size)))
        return rows

    def press(self, *keys: int) -> None:
        for key in keys:
            self.socket.sendall(struct.pack("!BBxxI", 4, 1, key) + struct.pack("!BBxxI", 4, 0, key))


@contextlib.contextmanager
def viewing(connection: socket.socket) -> Iterator[Viewer]:
    with contextlib.closing(Viewer(connection)) as viewer:
        yield viewer


def test_where_displays_are(node: node_module.Node) -> None:
    assert path(node, OPEN).is_socket()
    assert not path(node, SHUT).exists()
    assert path(node, KVM).is_socket()
    assert path(node, ADDED).is_socket()
    assert facts(node, OPEN)["password"] == "secret12"
    assert facts(node, SHUT) == facts(node, KVM) == facts(node, ADDED) == {}


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"])
def test_versions(node: node_module.Node, version: bytes) -> None:
    with viewing(unix.connect(path(node, ADDED))) as viewer:
        assert viewer.agree(version=version) == 0
        assert viewer.start() == "z4"


def test_the_picture_is_the_console(node: node_module.Node) -> None:
    with viewing(unix.connect(path(node, ADDED))) as viewer:
        viewer.agree()
        viewer.start()
        viewer.ask(incremental=False)
        first = viewer.update()
        assert [top for top, _ in first] == list(range(0, 400, 16))
        assert len({first[0][1][at : at + 4] for at in range(0, len(first[0][1]), 4)}) == 2
        viewer.ask(incremental=True)
        until_login(node)
        viewer.press(*b"root", 0xFF0D, *b"echo hi!", 0xFF08, 0xFF0D)
        changed: dict[int, bytes] = {}
        # it may be on the screen by now, and then the first update has it
        while not changed or "hi" not in screen(node):
            changed |= dict(viewer.update())
            viewer.ask(incremental=True)
        assert set(changed) < {top for top, _ in first}


def until_login(node: node_module.Node) -> None:
    waits.until(lambda: "login:" in screen(node), "the prompt", SECONDS)


def screen(node: node_module.Node) -> list[str]:
    shown = node.consoles.get(ADDED).terminal.screen.rows()
    return " ".join(row.strip() for row, _ in shown).split()


def test_a_client_chooses_its_pixels(node: node_module.Node) -> None:
    with viewing(unix.connect(path(node, ADDED))) as viewer:
        viewer.agree()
        viewer.start()
        narrow = struct.pack("!BBBBHHHBBB3x", 16, 16, 1, 1, 31, 63, 31, 11, 5, 0)
        viewer.socket.sendall(b"\0\0\0\0" + narrow + struct.pack("!BxHi", 2, 1, 0))
        viewer.socket.sendall(struct.pack("!BBHH", 5, 0, 1, 1) + struct.pack("!B3xI", 6, 2) + b"ab")
        viewer.ask(incremental=False)
        paper = viewer.update(2)[-1][1][:2]
        assert struct.unpack("!H", paper)[0] == (0x10 * 31 // 255) << 11 | (
            0x18 * 63 // 255
        ) << 5 | (0x28 * 31 // 255)


@pytest.mark.parametrize(("password", "result"), [("secret12", 0), ("secret13", 1), ("", 1)])
def test_a_password(node: node_module.Node, password: str, result: int) -> None:
    found = facts(node, OPEN)
    with viewing(socket.create_connection((str(found["host"]), int(found["port"])))) as viewer:
        assert viewer.agree(password) == result
        if result:
            (length,) = viewer.read("!I")
            assert viewer.stream.read(length) == b"Authentication failed"
            assert viewer.stream.read(1) == b""
        else:
            assert viewer.start() == "z1"


def test_vmadmd_moves_and_closes_its_port(node: node_module.Node) -> None:
    before = facts(node, OPEN)
    with viewing(socket.create_connection((str(before["host"]), int(before["port"])))) as viewer:
        viewer.agree("secret12")
        assert run(node, "vmadm", "update", OPEN, "vnc_port=-1").status == 0
        assert facts(node, OPEN) == {}
        assert viewer.stream.read(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(before["host"]), int(before["port"])))
    assert run(node, "vmadm", "update", OPEN, "vnc_port=0").status == 0
    assert "port" in facts(node, OPEN)


def test_a_display_ends_with_its_machine(node: node_module.Node) -> None:
    with viewing(unix.connect(path(node, KVM))) as viewer:
        viewer.agree()
        viewer.start()
        assert run(node, "vmadm", "stop", KVM, "-F").status == 0
        assert viewer.stream.read() == b""
    assert not path(node, KVM).exists()


def test_des_as_its_standard_has_it() -> None:
    key, text = bytes.fromhex("133457799bbcdff1"), bytes.fromhex("0123456789abcdef")
    assert des.encrypt(key, text).hex() == "85e813540f0ab405"
