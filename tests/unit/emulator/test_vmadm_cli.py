# SPDX-License-Identifier: Apache-2.0
"""vmadm's command line: options, usage, listing and the texts of what it does not find."""

import json
import pathlib
from collections.abc import Iterator

import pytest

from smartos_emulator import node as node_module
from smartos_emulator.vmadm import nopt
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import payload, run, uuid

NOBODY = "deadbeef-0000-4000-8000-000000000000"


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        small = payload(1, alias="alpha", max_physical_memory=128, tags={"role": "db", "n": 3})
        vm_node.create(node, small)
        nic = {"nic_tag": "admin", "ips": ["10.3.0.4/24"], "mac": "02:00:00:00:00:0a"}
        large = payload(2, alias="beta", max_physical_memory=1024, nics=[nic])
        vm_node.create(node, {**large, "autoboot": False})
        yield node


@pytest.mark.parametrize(
    ("words", "options", "remain"),
    [
        (["-F", "x"], {"force": True}, ["x"]),
        (["-t", "5", "x"], {"timeout": 5}, ["x"]),
        (["-t", "soon", "x"], {}, ["x"]),
        (["--force=false"], {"force": False}, []),
        (["--no-force", "x"], {"force": False}, ["x"]),
        (["--tim", "3"], {"timeout": 3}, []),
        (["-Z", "x"], {"Z": "x"}, []),
        (["-Z"], {"Z": True}, []),
        (["-9", "x"], {"9": "x"}, []),
        (["-vF"], {"verbose": True, "force": True}, []),
        (["a", "--", "-F"], {}, ["a", "-F"]),
        (["--odd", "12"], {"odd": 12}, []),
    ],
)
def test_options(words: list[str], options: dict[str, object], remain: list[str]) -> None:
    types: nopt.Types = {
        "force": (nopt.BOOLEAN,),
        "timeout": (nopt.NUMBER,),
        "verbose": (nopt.BOOLEAN,),
    }
    shorts = {"F": ["--force", "true"], "t": ["--timeout"], "v": ["--verbose", "true"]}
    assert nopt.parse(words, types, shorts) == nopt.Parsed(options, remain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], ""),
        (["-h"], ""),
        (["help"], ""),
        (["frob"], 'Invalid command: "frob".'),
        (["get"], "Invalid or missing UUID for get"),
        (["halt", "short"], "Invalid or missing UUID for stop"),
        (["create-snapshot", NOBODY], 'Wrong number of parameters to "create-snapshot"'),
        (["sysrq", NOBODY, "boo"], "Invalid sysrq type: boo"),
        (["start", NOBODY, "speed=11"], "Invalid argument to start: speed"),
        (["start", NOBODY, "disk=x"], "Parameter to disk must be: path,model"),
        (["kill", "-9", "nobody"], 'Unexpected args: ["9"]'),
        (["validate"], "Will not validate without a valid action."),
        (["validate", "update"], "Will not validate without a valid action and brand."),
    ],
)
def test_usage(node: node_module.Node, words: list[str], message: str) -> None:
    ran = run(node, "vmadm", *words)
    first = f"{message}\n" if message else ""
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"{first}Usage: /usr/sbin/vmadm <command> [options]\n\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["get"], f"zoneadm: {NOBODY}: No such zone configured"),
        (["json"], f"zoneadm: {NOBODY}: No such zone configured"),
        (["start"], f"Unable to start VM {NOBODY}: bad statusCode: 404"),
        (["stop"], f"VM {NOBODY} not found"),
        (["delete"], f"Failed to delete VM {NOBODY}: VM {NOBODY} not found"),
        (["reboot"], "bad statusCode: 404"),
        (["kill"], "bad statusCode: 404"),
        (["console"], "bad statusCode: 404"),
        (["send"], "bad statusCode: 404"),
        (["info"], f"Unable to get VM info for VM {NOBODY}: bad statusCode: 404"),
        (["install"], f"ENOENT, open '/etc/zones/{NOBODY}-receiving.json'"),
        (["events"], f"VM {NOBODY} not found"),
    ],
)
def test_the_ways_not_to_find_a_vm(node: node_module.Node, words: list[str], text: str) -> None:
    ran = run(node, "vmadm", *words, NOBODY)
    assert (ran.status, ran.out, ran.err) == (1, "", f"{text}\n")


def test_force_stop_and_update_do_not_find_it_either(node: node_module.Node) -> None:
    assert run(node, "vmadm", "stop", "-F", NOBODY).err == "bad statusCode: 404\n"
    assert run(node, "vmadm", "update", NOBODY, "alias=x").err == f"VM {NOBODY} not found\n"


def test_payload_files(node: node_module.Node, tmp_path: pathlib.Path) -> None:
    ran = run(node, "vmadm", "create", "-f", str(tmp_path / "none"))
    assert (ran.status, ran.err) == (1, f"File: {tmp_path}/none does not exist.\n")
    ran = run(node, "vmadm", "create", "-f", str(tmp_path))
    expected = f'Error reading: {tmp_path} {{"errno":28,"code":"EISDIR"}}\n'
    assert (ran.status, ran.err) == (1, expected)
    ran = run(node, "vmadm", "create", stdin="")
    assert ran.err == "Invalid JSON payload: Unexpected end of input\n"


def test_list(node: node_module.Node) -> None:
    head = "UUID                                  TYPE  RAM      STATE             ALIAS\n"
    first = f"{uuid(1)}  OS    128      running           alpha\n"
    second = f"{uuid(2)}  OS    1024     stopped           beta\n"
    assert run(node, "vmadm", "list").out == head + first + second
    assert run(node, "vmadm", "list", "-Z").out == head + first + second
    assert run(node, "vmadm", "list", "-H", "-s", "-ram").out == second + first
    assert run(node, "vmadm", "list", "-H", "alias=~^B").out == second
    assert run(node, "vmadm", "list", "-H", "tags.n=3").out == first


def test_list_columns(node: node_module.Node) -> None:
    ran = run(node, "vmadm", "list", "-p", "-o", "alias,autoboot,nics.0.ip,zoneid")
    assert ran.out == "alpha:true::1\nbeta::10.3.0.4:\n"
    ran = run(node, "vmadm", "list", "-o", "alias,autoboot,nics.0.ip")
    assert ran.out.splitlines() == [
        "ALIAS       AUTOBOOT  NICS.0.IP",
        "alpha       true      -",
        "beta        -         10.3.0.4",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["list", "-o", "alias,x"], "invalid order field: x"),
        (["list", "-s", "-x"], "invalid sort field: -x"),
        (["list", "x=1"], 'Invalid filter key: "x"'),
        (["list", "-o", "nics.*.ip"], 'Invalid order key: "nics.*.ip"'),
        (["lookup", "x=1"], 'Invalid lookup key: "x"'),
        (["lookup", "-o", "uuid"], "Cannot specify -o without -j"),
        (["lookup", "-1"], "Requested unique lookup but found 2 results."),
    ],
)
def test_bad_questions(node: node_module.Node, words: list[str], text: str) -> None:
    ran = run(node, "vmadm", *words)
    assert (ran.status, ran.out, ran.err) == (1, "", f"{text}\n")


def test_lookup(node: node_module.Node) -> None:
    assert run(node, "vmadm", "lookup", "alias=beta").out == f"{uuid(2)}\n"
    assert run(node, "vmadm", "lookup", "nics.*.mac=2:0:0:0:0:a").out == f"{uuid(2)}\n"
    assert run(node, "vmadm", "lookup", "alias=gamma").out == ""
    assert run(node, "vmadm", "lookup", "-j", "alias=gamma").out == "[]\n"
    some = json.loads(run(node, "vmadm", "lookup", "-j", "-o", "alias,type,ram").out)
    assert some == [
        {"alias": "alpha", "type": "OS", "ram": 128},
        {"alias": "beta", "type": "OS", "ram": 1024},
    ]
    whole = json.loads(run(node, "vmadm", "lookup", "-j", "alias=alpha").out)
    assert whole == [{**vm_node.get(node, uuid(1)), "type": "OS", "ram": 128}]


def test_validate(node: node_module.Node) -> None:
    good = json.dumps(payload(9))
    ran = run(node, "vmadm", "validate", "create", stdin=good)
    assert (ran.status, ran.err) == (0, "VALID 'create' payload for joyent brand VMs.\n")
    ran = run(node, "vmadm", "validate", "update", "joyent", stdin='{"quota":"much"}')
    assert (ran.status, json.loads(ran.err)["bad_values"]) == (1, ["quota"])


def test_a_crash_of_the_javascript(node: node_module.Node) -> None:
    ran = run(node, "vmadm", "create", stdin='{"brand":"none"}')
    assert ran.status == -6
    assert ran.err.startswith("Uncaught TypeError: Cannot read property 'features' of undefined")


def test_vminfod_down(node: node_module.Node) -> None:
    node.vms.set_vminfod(False)
    try:
        refused = "connect ECONNREFUSED\n"
        assert run(node, "vmadm", "list").err == refused
        ran = run(node, "vmadm", "start", uuid(2))
        assert ran.err == f"Unable to start VM {uuid(2)}: {refused}"
        assert run(node, "vmadm", "create", stdin=json.dumps(payload(5))).err == refused
    finally:
        node.vms.set_vminfod(True)
    assert run(node, "vmadm", "list").status == 0
