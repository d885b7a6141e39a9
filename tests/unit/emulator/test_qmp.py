# SPDX-License-Identifier: Apache-2.0
"""kvm's monitor: its conversation, and what standing still means to the rest of the node."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from smartos_emulator import node as node_module
from smartos_emulator import unix
from tests.unit.emulator import vm_node

NEGOTIATE = '{"execute": "qmp_capabilities"}'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        vm_node.create(node, vm_node.hardware(1, "kvm", autoboot=True))
        vm_node.create(node, vm_node.hardware(2, "bhyve", autoboot=True))
        yield node


def path(number: int = 1) -> str:
    return f"/zones/{vm_node.uuid(number)}/root/tmp/vm.qmp"


def ask(node: node_module.Node, *said: str, end: str = "\n") -> list[dict[str, Any]]:
    """What the monitor answers, the greeting left out."""
    ran = vm_node.run(node, "nc", "-U", path(), stdin="".join(each + end for each in said))
    assert ran.status == 0
    greeting, *answers = [json.loads(line) for line in ran.out.splitlines()]
    assert greeting["QMP"]["version"]["qemu"] == {"micro": 1, "minor": 14, "major": 0}
    return answers


@pytest.mark.parametrize("end", ["\n", "", " \r\n"])
def test_a_conversation(node: node_module.Node, end: str) -> None:
    answers = ask(node, NEGOTIATE, '{"execute": "query-status", "id": "a"}', end=end)
    status = {"status": "running", "running": True, "singlestep": False, "hwsetup": True}
    assert answers == [{"return": {}}, {"return": status, "id": "a"}]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (['{"execute": "stop"}'], "CommandNotFound"),
        ([NEGOTIATE, NEGOTIATE], "CommandNotFound"),
        ([NEGOTIATE, '{"execute": "dance"}'], "CommandNotFound"),
        (["nonsense"], "JSONParsing"),
        (["{}"], "QMPBadInputObject"),
        (["[]"], "QMPBadInputObject"),
    ],
)
def test_what_it_refuses(node: node_module.Node, said: list[str], kind: str) -> None:
    assert ask(node, *said)[-1]["error"]["class"] == kind
    assert not node.zones.stands_still(vm_node.uuid(1))


def test_it_stands_still_and_goes_on(node: node_module.Node) -> None:
    for order, event, running in (("stop", "STOP", False), ("cont", "RESUME", True)):
        for events in ([event], []):
            answers = ask(node, NEGOTIATE, json.dumps({"execute": order, "id": 7}))
            assert [each["event"] for each in answers[1:-1]] == events
            assert answers[-1] == {"return": {}, "id": 7}
        ran = vm_node.run(node, "vmadm", "info", vm_node.uuid(1), "status")
        assert json.loads(ran.out)["status"]["running"] is running
        assert vm_node.get(node, vm_node.uuid(1))["state"] == "running"


def test_the_power_button(node: node_module.Node) -> None:
    """It is pressed in vain while the guest stands still; the socket goes with QEMU."""
    zone = node.zones.get(vm_node.uuid(1))
    assert zone is not None
    host = node.host_path(path())
    ask(node, NEGOTIATE, '{"execute": "stop"}', '{"execute": "system_powerdown"}')
    assert not node.zones.wait(zone.name, lambda: zone.state != "running", 60)
    ask(node, NEGOTIATE, '{"execute": "cont"}', '{"execute": "system_powerdown"}')
    assert node.zones.wait(zone.name, lambda: zone.state == "installed", 3000)
    assert not host.exists()
    assert vm_node.run(node, "nc", "-U", path()).status == 1
    assert vm_node.run(node, "vmadm", "start", zone.name).status == 0
    assert host.is_socket()


def test_a_reset_does_not_let_it_go_on(node: node_module.Node) -> None:
    ask(node, NEGOTIATE, '{"execute": "stop"}', '{"execute": "system_reset"}')
    assert node.zones.stands_still(vm_node.uuid(1))
    ask(node, NEGOTIATE, '{"execute": "cont"}')


def test_other_brands_have_none(node: node_module.Node) -> None:
    assert vm_node.run(node, "nc", "-U", path(2)).status == 1
    assert not node.host_path(path(2)).exists()


@pytest.mark.parametrize("words", [(), ("-U",), ("-l", "1"), ("-U", "a", "b")])
def test_usage(node: node_module.Node, words: tuple[str, ...]) -> None:
    ran = vm_node.run(node, "nc", *words)
    assert (ran.status, ran.err) == (1, "usage: nc -U path\n")


def test_ls_tells_what_it_is(node: node_module.Node) -> None:
    folder = path().rpartition("/")[0]
    (node.host_path(folder) / "link").symlink_to("/etc")
    ran = vm_node.run(node, "ls", "-ldn", path(), folder, f"{folder}/link")
    assert [line[0] for line in ran.out.splitlines()] == ["d", "l", "s"]
    assert ran.out.splitlines()[1].endswith(f" {folder}/link -> /etc")
    missing = vm_node.run(node, "ls", "-ldn", f"{folder}/none")
    said = f"{folder}/none: No such file or directory\n"
    assert (missing.status, missing.out, missing.err) == (2, "", said)


def test_paths_longer_than_a_socket_takes(tmp_path: pathlib.Path) -> None:
    long = tmp_path / ("x" * 100) / "y" / "socket"
    with unix.listen(long) as listener, unix.connect(long) as mine:
        theirs, _ = listener.accept()
        with theirs:
            mine.sendall(b"hello")
            assert theirs.recv(5) == b"hello"
    with pytest.raises(OSError):
        unix.connect(long.with_name("none"))
