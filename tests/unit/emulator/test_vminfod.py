# SPDX-License-Identifier: Apache-2.0
"""vminfod: how it sees differences, its HTTP service, and the events that vmadm prints."""

import http.client
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from smartos_emulator import events
from smartos_emulator import node as node_module
from smartos_emulator.vmadm import stream as stream_module
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, payload, run, uuid

U = uuid(1)


@pytest.fixture(name="node")
def _node(tmp_path: pathlib.Path) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path) as node:
        vm_node.add_images(node)
        yield node


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", "changed", 1, 2)]),
        ({"a": 1}, {}, [("a", "removed", 1, None)]),
        ({}, {"a": [1]}, [("a", "added", None, [1])]),
        ({"a": None}, {"a": 4}, [("a", "changed", None, 4)]),
        ({"a": True}, {"a": 1}, [("a", "changed", True, 1)]),
        ({"t": {"x": 1}}, {"t": {"x": 2}}, [("t.x", "changed", 1, 2)]),
        ({"t": {"a.b": 1}}, {"t": {}}, [("t[a.b]", "removed", 1, None)]),
        ({"t": {"a[b": 1}}, {"t": {}}, [("t[a\\[b]", "removed", 1, None)]),
        ({"l": [1, 2]}, {"l": [2, 1]}, []),
        ({"l": [1]}, {"l": [2]}, [("l.*", "removed", 1, None), ("l.*", "added", None, 2)]),
        (
            {"nics": [{"mac": "m", "ip": "a"}]},
            {"nics": [{"mac": "m", "ip": "b"}]},
            [("nics.*.ip", "changed", "a", "b")],
        ),
        (
            {"x": {"nics": [{"mac": "m", "ip": "a"}]}},
            {"x": {"nics": []}},
            [("x.nics.*", "removed", {"mac": "m", "ip": "a"}, None)],
        ),
    ],
)
def test_changes(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    found = events.changes(old, new)
    assert [
        (one["prettyPath"], one["action"], one.get("oldValue"), one.get("newValue"))
        for one in found
    ] == expected


def test_a_changed_member_is_named_by_its_identity() -> None:
    (change,) = events.changes(
        {"disks": [{"path": "/p", "size": 1}]}, {"disks": [{"path": "/p", "size": 2}]}
    )
    assert change["ident"] == "/p"
    assert change["path"] == ["disks", None, "size"]


def ask(node: node_module.Node, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", node.vms.vminfod_port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_http(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    assert ask(node, "/ping") == (200, '{"ping":"pong"}')
    assert json.loads(ask(node, "/status")[1])["numVms"] == 1
    assert "fswatcher" in json.loads(ask(node, "/status?full=true")[1])
    vm = vm_node.get(node, U)
    assert json.loads(ask(node, "/vms")[1]) == [vm]
    assert json.loads(ask(node, f"/vms/{U}")[1]) == vm
    assert ask(node, "/vms/none") == (404, "VM Not Found: none")
    assert ask(node, "/other") == (404, "Unsupported URL Path")
    assert ask(node, "/ping", "POST") == (400, "")


def test_the_stream_of_events(node: node_module.Node) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.vms.vminfod_port, timeout=10)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    ready = json.loads(answer.readline())
    assert (ready["type"], ready["vms"]) == ("ready", "[]")
    create(node, payload(autoboot=False))
    made = json.loads(answer.readline())
    assert (made["type"], made["uuid"]) == ("create", U)
    assert (made["vm"]["state"], made["vm"]["zone_state"]) == ("configured", "configured")
    assert "quota" not in made["vm"]
    run(node, "vmadm", "delete", U)
    kinds: list[str] = []
    while not kinds or kinds[-1] != "delete":
        kinds.append(json.loads(answer.readline())["type"])
    assert set(kinds) == {"modify", "delete"}
    connection.close()


def test_a_create_shows_first_as_provisioning(node: node_module.Node) -> None:
    stream = node.events.subscribe()
    create(node, payload())
    first = stream.get(5)
    assert first is not None
    assert first["type"] == "create"
    assert (first["vm"]["state"], first["vm"]["zone_state"]) == ("provisioning", "configured")
    changed: list[tuple[str, Any]] = []
    while ("transition_expire", None) not in changed:
        event = stream.get(5)
        assert event is not None
        changed += [(each["prettyPath"], each.get("newValue")) for each in event["changes"]]
    # two changes that come at once show as one: the order is sure, each step is not
    zone_states = [value for path, value in changed if path == "zone_state"]
    order = ["incomplete", "installed", "ready", "running"]
    assert zone_states == sorted(set(zone_states), key=order.index)
    assert zone_states[-1] == "running"


def test_what_zfs_does_is_seen(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    stream = node.events.subscribe()
    assert run(node, "zfs", "set", "quota=3g", f"zones/{U}").status == 0
    assert vm_node.get(node, U)["quota"] == 3
    event = stream.get(5)
    assert event is not None
    assert event["changes"][0]["prettyPath"] == "quota"


def follow(node: node_module.Node, *words: str, until: str) -> list[str]:
    """The lines of `vmadm events` while a VM is made and deleted."""
    ran: list[vm_node.Ran] = []
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        done = threading.Event()
        real = stream_module._lines

        def keep(event: dict[str, Any], full: bool, as_json: bool) -> str:
            text = real(event, full, as_json)
            lines.append(text)
            if event["type"] == until:
                done.set()
            return text

        patch.setattr(stream_module, "_lines", keep)
        thread = threading.Thread(
            target=lambda: ran.append(run(node, "vmadm", "events", *words)), daemon=True
        )
        listening = len(node.events._streams)
        thread.start()
        while len(node.events._streams) == listening:
            pass
        create(node, payload(autoboot=False))
        run(node, "vmadm", "delete", U)
        assert done.wait(10)
        node.vms.set_vminfod(False)
        thread.join(10)
    assert ran[0].out == ran[0].out[: -len("".join(lines))] + "".join(lines)
    return ran[0].out.splitlines()


def test_events_as_text(node: node_module.Node) -> None:
    lines = follow(node, "-r", until="delete")
    assert lines[0].endswith("Z] ready")
    assert lines[1].endswith("Z] c0ffee00 z1 create")
    assert any(
        line.endswith("z1 modify: provisioning removed :: true -> undefined") for line in lines
    )
    assert lines[-1].endswith("c0ffee00 - delete")


def test_events_as_json(node: node_module.Node) -> None:
    events_seen = [json.loads(line) for line in follow(node, "-jr", until="delete")]
    assert events_seen[0]["vms"] == {}
    assert events_seen[1]["vm"]["uuid"] == U
    assert events_seen[-1]["type"] == "delete"


def test_without_vminfod_other_tools_know_no_vm_either(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    run(node, "fwadm", "add", stdin='{"rule": "FROM any TO all vms ALLOW tcp PORT 1"}')
    node.vms.set_vminfod(False)
    wanted = '{"global": true, "rule": "FROM any TO all vms ALLOW tcp PORT 2"}'
    for words in (["add"], ["status", uuid(1)], ["vms", uuid(1)]):
        ran = run(node, "fwadm", *words, stdin=wanted)
        assert (ran.status, ran.err) == (1, "connect ECONNREFUSED\n")
    assert run(node, "fwadm", "list").status == 0
    ran = run(node, "nictagadm", "vms", "admin")
    assert (ran.out, ran.err) == ("", "connect ECONNREFUSED\n")
    ran = run(node, "imgadm", "create", uuid(1), "name=a", "version=1.0.0")
    assert (ran.status, ran.err) == (
        1,
        f'imgadm create: error (VmNotFound): vm "{uuid(1)}" was not found\n',
    )
