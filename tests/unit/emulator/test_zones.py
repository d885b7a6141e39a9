# SPDX-License-Identifier: Apache-2.0
"""Zones as the kernel has them, and the tools zoneadm and prctl."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from smartos_emulator import node as node_module
from smartos_emulator import zoneroot, zones
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, payload, run, uuid

U = uuid(1)


@pytest.fixture(name="node")
def _node(tmp_path: pathlib.Path) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path) as node:
        vm_node.add_images(node)
        create(node, payload(max_physical_memory=256))
        yield node


def test_paths_stay_inside(tmp_path: pathlib.Path) -> None:
    top = tmp_path / "zone"
    (top / "etc").mkdir(parents=True)
    os.symlink("/../../etc", top / "up")
    os.symlink("../../../../outside", top / "etc" / "out")
    os.symlink("loop", top / "loop")
    root = zoneroot.Root(top)
    assert root.host("../../x") == top / "x"
    assert root.host("/up/passwd") == top / "etc" / "passwd"
    assert root.host("/etc/out/y") == top / "outside" / "y"
    assert root.host("/etc/out", follow=False) == top / "etc" / "out"
    with pytest.raises(OSError, match="symbolic links"):
        root.host("/loop")


def test_boot_and_halt(node: node_module.Node) -> None:
    with pytest.raises(zones.ZoneError, match="zone is already booted"):
        node.zones.boot(U)
    zone = node.zones.get(U)
    assert zone is not None
    first = zone.id
    node.zones.halt(U)
    assert (zone.state, zone.id, zone.pid) == ("installed", None, None)
    with pytest.raises(zones.ZoneError, match="zone is already halted"):
        node.zones.halt(U)
    node.zones.boot(U)
    assert zone.id == (first or 0) + 1


def test_scripts_of_guests(node: node_module.Node) -> None:
    with pytest.raises(ValueError, match="guests have no mood"):
        node.zones.script(U, mood="bad")
    with pytest.raises(ValueError, match="provision is one of"):
        node.zones.script(U, provision="perhaps")
    node.zones.script("*", shutdown="ignore")
    assert node.zones.behaviour(U, "shutdown", "normal") == "ignore"
    node.zones.script(U, shutdown="normal")
    assert node.zones.behaviour(U, "shutdown", "ignore") == "normal"


def test_zoneadm_list(node: node_module.Node) -> None:
    create(node, payload(2, autoboot=False))
    path = f"/zones/{U}"
    assert run(node, "zoneadm", "list").out == f"global\n{U}\n"
    parsable = run(node, "zoneadm", "list", "-pc").out.splitlines()
    assert parsable == [
        "0:global:running:/::liveimg:shared:0",
        f"1:{U}:running:{path}:{U}:joyent:excl:1",
        f"-:{uuid(2)}:installed:/zones/{uuid(2)}:{uuid(2)}:joyent:excl:2",
    ]
    assert run(node, "zoneadm", "-z", U, "list", "-p").out == parsable[1] + "\n"
    head, _, row, _ = run(node, "zoneadm", "list", "-icv").out.splitlines()
    assert head == f"{'ID':>4} {'NAME':16} {'STATUS':10} {'PATH':30} {'BRAND':8} {'IP':6}"
    assert row == f"   1 {U:16} running    {path:30} joyent   excl  "


def test_zoneadm(node: node_module.Node) -> None:
    ran = run(node, "zoneadm", "-z", U, "boot")
    assert (ran.status, ran.err) == (0, f"zone '{U}': zone is already booted\n")
    assert run(node, "zoneadm", "-u", U, "reboot", "-X").status == 0
    assert run(node, "zoneadm", "-z", U, "shutdown", "-r").status == 0
    assert run(node, "zoneadm", "-z", U, "halt").status == 0
    assert get(node, U)["state"] == "stopped"
    ran = run(node, "zoneadm", "-z", U, "halt")
    assert (ran.status, ran.err) == (0, f"zone '{U}': zone is already halted\n")
    ran = run(node, "zoneadm", "-z", U, "reboot")
    assert (ran.status, ran.err) == (1, f"zoneadm: zone '{U}': not running\n")
    assert run(node, "zoneadm", "-z", U, "boot").status == 0
    assert get(node, U)["state"] == "running"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["-z", "none", "boot"], 1, "zoneadm: none: No such zone configured\n"),
        (["boot"], 1, "zoneadm: no zone specified\n"),
        (
            ["-z", "global", "halt"],
            1,
            "zoneadm: zone 'global': halt operation is invalid for the global zone.\n",
        ),
        (["list", "-pv"], 1, "zoneadm: list -p and -v are mutually exclusive.\n"),
        (
            ["-z", U, "install"],
            1,
            "zoneadm: install: not part of this emulated node; vmadm does it\n",
        ),
    ],
)
def test_zoneadm_refusals(node: node_module.Node, words: list[str], status: int, text: str) -> None:
    ran = run(node, "zoneadm", *words)
    assert (ran.status, ran.out, ran.err) == (status, "", text)


def test_zoneadm_usage(node: node_module.Node) -> None:
    assert run(node, "zoneadm").status == 2
    assert run(node, "zoneadm", "frob").err.startswith("usage:\tzoneadm help\n")
    assert run(node, "zoneadm", "help").status == 0
    assert run(node, "zoneadm", "-z", U, "boot", "-q").status == 2


def test_prctl_shows(node: node_module.Node) -> None:
    lines = run(node, "prctl", "-n", "zone.max-physical-memory", "-i", "zone", U).out
    assert lines.splitlines() == [
        f"zone: 1: {U}",
        "NAME    PRIVILEGE       VALUE    FLAG   ACTION                       RECIPIENT",
        "zone.max-physical-memory",
        "        privileged       256MB      -   deny                                 -",
        "        system          16.0EB    max   deny                                 -",
    ]
    parsable = run(node, "prctl", "-P", "-t", "privileged", "-i", "zone", U).out
    assert "zone.max-lwps privileged 2000 - deny -\n" in parsable
    assert "system" not in parsable


def test_prctl_sets(node: node_module.Node) -> None:
    setting = ["-n", "zone.cpu-cap", "-t", "privileged", "-i", "zone", U]
    ran = run(node, "prctl", "-r", "-v", "150", *setting)
    assert ran.status == 1
    assert ran.err.endswith("prctl: no matching resource control to replace\n\n")
    assert run(node, "prctl", "-s", "-v", "150", *setting).status == 0
    assert run(node, "prctl", "-s", "-v", "150", *setting).status == 1
    assert run(node, "prctl", "-r", "-v", "250", *setting).status == 0
    shown = run(node, "prctl", "-P", *setting).out
    assert shown.splitlines()[1:] == ["zone.cpu-cap privileged 250 - deny -"]
    assert run(node, "prctl", "-x", *setting).status == 0
    assert run(node, "prctl", "-x", *setting).status == 1


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["-i", "zone"], 2, "prctl: no arguments specified\n"),
        (["-r", "-v", "1", "-i", "zone", U], 2, "prctl: -n is required with"),
        (["-n", "zone.none", "-s", "-v", "1", "-i", "zone", U], 2, "prctl: failed to get resource"),
        (["-n", "zone.cpu-cap", "-s", "-v", "x", "-i", "zone", U], 2, "prctl: invalid -v value"),
        (["-i", "zone", "none"], 1, "prctl: none: unknown zone\n\n"),
        (["123"], 1, "prctl: only -i zone is part of this emulated node\n"),
    ],
)
def test_prctl_refusals(node: node_module.Node, words: list[str], status: int, text: str) -> None:
    ran = run(node, "prctl", *words)
    assert ran.status == status
    assert ran.err.startswith(text)


def test_prctl_of_a_halted_zone(node: node_module.Node) -> None:
    node.zones.halt(U)
    ran = run(node, "prctl", "-i", "zone", U)
    assert ran.err == (f"prctl: {U}: No controllable process found in task, project, or zone.\n\n")


@pytest.mark.parametrize("outcome", ["success", "error"])
def test_the_guest_runs_an_operator_script(node: node_module.Node, outcome: str) -> None:
    run(node, "vmadm", "stop", U)
    node.zones.script(U, prepare=outcome)
    node.vms.update(U, {"set_internal_metadata": {"operator-script": "exit 0"}})
    assert run(node, "vmadm", "start", U).status == 0
    assert node.vms.wait_state(U, "stopped", 6000)
    assert get(node, U)["customer_metadata"] == {"prepare-image:state": outcome}
