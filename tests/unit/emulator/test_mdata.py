# SPDX-License-Identifier: Apache-2.0
"""The metadata agent: its two protocols, on the sockets of guests."""

import base64
import binascii
import json
import pathlib
import socket
from collections.abc import Iterator

import pytest

from smartos_emulator import node as node_module
from smartos_emulator import unix
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, payload, run, uuid

U, MACHINE = uuid(1), uuid(2)
SECONDS = 30


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        create(
            node,
            payload(
                1,
                hostname="web",
                customer_metadata={"k": "one\n.two", "n": 7},
                internal_metadata={"admin_pw": "secret", "ours:x": "read", "hidden": "not"},
                internal_metadata_namespaces=["ours"],
            ),
        )
        machine = {"brand": "bhyve", "ram": 256, "vcpus": 1, "uuid": MACHINE, "autoboot": True}
        disk = {"image_uuid": vm_node.DISK, "boot": True, "model": "virtio"}
        create(node, {**machine, "disks": [disk], "customer_metadata": {"k": "machine"}})
        yield node


class Client:
    """A guest that asks."""

    def __init__(self, path: pathlib.Path) -> None:
        self.socket = unix.connect(path)
        self.socket.settimeout(SECONDS)
        self.lines = self.socket.makefile("rb")

    def ask(self, line: str) -> str:
        self.socket.sendall(line.encode() + b"\n")
        return self.lines.readline().decode()

    def framed(self, command: str, *words: str) -> tuple[str, str]:
        """Ask in version 2; the status and what was said."""
        coded = base64.b64encode(" ".join(words).encode()).decode()
        body = f"0badcafe {command} {coded}".rstrip()
        check = binascii.crc32(body.encode())
        answer = self.ask(f"V2 {len(body)} {check:08x} {body}")
        version, length, checksum, rest = answer.rstrip("\n").split(" ", 3)
        assert version == "V2" and int(length) == len(rest)
        assert checksum == f"{binascii.crc32(rest.encode()):08x}"
        request, status, *said = rest.split(" ")
        assert request == "0badcafe"
        return status, base64.b64decode(said[0]).decode() if said else ""

    def put(self, key: str, value: str) -> tuple[str, str]:
        coded = [base64.b64encode(each.encode()).decode() for each in (key, value)]
        return self.framed("PUT", *coded)


@pytest.fixture(name="zone")
def _zone(node: node_module.Node) -> Iterator[Client]:
    client = Client(node.path(f"/var/zonecontrol/{U}/metadata.sock"))
    yield client
    client.lines.close()
    client.socket.close()


def test_version_1(zone: Client) -> None:
    assert zone.ask("") == "invalid command\n"
    assert zone.ask("GET") == "invalid command\n"
    assert zone.ask("GET none") == "NOTFOUND\n"
    assert zone.ask("FROB x") == "FAILURE\n"
    assert zone.ask("PUT a b") == "FAILURE\n"
    assert zone.ask("GET k") == "SUCCESS\n"
    assert [zone.lines.readline() for _ in range(3)] == [b"one\n", b"..two\n", b".\n"]
    assert zone.ask("NEGOTIATE V9") == "FAILURE\n"
    assert zone.ask("NEGOTIATE V2") == "V2_OK\n"


def test_version_2_reads(zone: Client) -> None:
    assert zone.framed("GET", "k") == ("SUCCESS", "one\n.two")
    assert zone.framed("GET", "n") == ("SUCCESS", "7")
    assert zone.framed("GET", "none") == ("NOTFOUND", "")
    assert zone.framed("GET", "sdc:uuid") == ("SUCCESS", U)
    assert zone.framed("GET", "sdc:hostname") == ("SUCCESS", "web")
    assert zone.framed("GET", "sdc:tags") == ("FAILURE", "")
    assert json.loads(zone.framed("GET", "sdc:nics")[1]) == []
    assert zone.framed("GET", "admin_pw") == ("SUCCESS", "secret")
    assert zone.framed("GET", "ours:x") == ("SUCCESS", "read")
    assert zone.framed("GET", "hidden") == ("NOTFOUND", "")
    assert set(zone.framed("KEYS")[1].split("\n")) >= {"k", "n", "admin_pw", "ours:x"}
    assert "hidden" not in zone.framed("KEYS")[1]


def test_version_2_writes(node: node_module.Node, zone: Client) -> None:
    assert zone.put("new", "é\n") == ("SUCCESS", "OK")
    assert get(node, U)["customer_metadata"]["new"] == "é\n"
    assert zone.framed("DELETE", "new") == ("SUCCESS", "OK")
    assert "new" not in get(node, U)["customer_metadata"]
    assert zone.put("root_pw", "x") == ("SUCCESS", "OK")
    assert get(node, U)["internal_metadata"]["root_pw"] == "x"


@pytest.mark.parametrize(("key", "space"), [("sdc:uuid", "sdc"), ("ours:x", "ours")])
def test_what_a_guest_must_not_write(zone: Client, key: str, space: str) -> None:
    refusal = ("FAILURE", f'Cannot update the "{space}" Namespace.')
    assert zone.put(key, "x") == refusal
    assert zone.framed("DELETE", key) == refusal


def test_a_damaged_frame_has_no_answer(zone: Client) -> None:
    for frame in ("V2 x", "V2 3 00000000 0 KEYS", "V2 99 ea1d0ea5 0badcafe KEYS"):
        zone.socket.sendall(frame.encode() + b"\n")
    assert zone.ask("NEGOTIATE V2") == "V2_OK\n"


def test_a_machine_asks_on_its_serial_line(node: node_module.Node) -> None:
    path = node.path(f"/zones/{MACHINE}/root/tmp/vm.ttyb")
    client = Client(path)
    assert client.framed("GET", "k") == ("SUCCESS", "machine")
    run(node, "vmadm", "stop", MACHINE, "-F")
    assert client.lines.readline() == b""
    client.lines.close()
    client.socket.close()
    assert not path.exists()
    with pytest.raises(OSError):
        unix.connect(path)


def test_the_socket_is_there_again_after_a_reboot(node: node_module.Node) -> None:
    assert run(node, "vmadm", "reboot", U, "-F").status == 0
    client = Client(node.path(f"/var/zonecontrol/{U}/metadata.sock"))
    assert client.ask("NEGOTIATE V2") == "V2_OK\n"
    client.lines.close()
    client.socket.shutdown(socket.SHUT_RDWR)
    client.socket.close()
