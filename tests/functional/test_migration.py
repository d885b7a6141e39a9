# SPDX-License-Identifier: Apache-2.0
"""Cold migration, and resize to another node: what a server is before, it is there."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from nova import context as nova_context

from nova_smartos import conf as smartos_conf
from nova_smartos.operations import move, transfer
from tests import direct as operators
from tests import waits
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

FILE = "/root/nst-file"
PS = ("-z", "global", "-o", "pid,args")


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(transfer, "FIRST_PAUSE", 0.05)
        # however busy the machine is, a VM that runs is copied once
        patch.setattr(move, "SHORT_SECONDS", 300.0)
        cloud = stack.enter_context(cloud_module.Cloud(moves=True))
        cloud.add_compute("compute2")
        yield cloud


def host(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    return str(cloud.show(server)["OS-EXT-SRV-ATTR:host"])


def other(here: str) -> str:
    return "compute2" if here == "compute1" else "compute1"


def moved(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> None:
    """Wait for the end of a move: of some seventy commands, where two processors do all else."""
    cloud.wait(server, "VERIFY_RESIZE", seconds=180)


def put(cloud: cloud_module.Cloud, server: Mapping[str, Any], text: str) -> None:
    """Write a file in a zone."""
    cloud.nodes[host(cloud, server)].tool("zlogin", server["id"], "dd", f"of={FILE}", payload=text)


def held(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    return cloud.nodes[host(cloud, server)].tool("zlogin", server["id"], "cat", FILE)


def test_a_zone_moves_and_stays(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    before = cloud.vm(server, source)
    put(cloud, server, "kept")
    cloud.act(server, "migrate")
    moved(cloud, server)
    target = host(cloud, server)
    assert target == other(source)
    assert held(cloud, server) == "kept"
    left, vm = cloud.vm(server, source), cloud.vm(server, target)
    assert (left["state"], left["autoboot"]) == ("stopped", False)
    assert (vm["state"], vm["autoboot"]) == ("running", True)
    assert [nic["mac"] for nic in vm["nics"]] == [nic["mac"] for nic in before["nics"]]
    cloud.act(server, "confirmResize")
    cloud.wait(server)
    assert server["id"] not in cloud.vms(source)
    cloud.delete(server)


def test_a_zone_moves_and_comes_back(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    put(cloud, server, "before")
    cloud.act(server, "migrate")
    moved(cloud, server)
    target = host(cloud, server)
    put(cloud, server, "after")
    cloud.act(server, "revertResize")
    cloud.wait(server)
    assert host(cloud, server) == source
    assert held(cloud, server) == "before"
    assert server["id"] not in cloud.vms(target)
    cloud.delete(server)


#: What differs by itself, or by where it is.
PASSING = {
    "boot_timestamp",
    "create_timestamp",
    "exit_status",
    "exit_timestamp",
    "internal_metadata",
    "last_modified",
    "pid",
    "server_uuid",
    "zonedid",
    "zoneid",
}


def lasting(vm: Mapping[str, Any]) -> dict[str, Any]:
    """What a move must not change; how a snapshot is laid out, and so its size, it may."""
    kept = {key: value for key, value in vm.items() if key not in PASSING}
    kept["snapshots"] = [(each["name"], each["created_at"]) for each in vm["snapshots"]]
    return kept


def internal(vm: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of it beside who drives it, and what vmadm looks up again."""
    return {key: value for key, value in vm["internal_metadata"].items() if "instance" not in key}


def named(cloud: cloud_module.Cloud, server: Mapping[str, Any], host: str) -> list[str]:
    """The datasets and snapshots on a node that have the server's name."""
    listed = cloud.nodes[host].tool("zfs", "list", "-H", "-o", "name", "-t", "all")
    return sorted(each for each in listed.split("\n") if server["id"] in each)


def settings(cloud: cloud_module.Cloud, server: Mapping[str, Any], host: str) -> Any:
    """What the server's datasets on a node do not inherit."""
    words = ("get", "-Hp", "-o", "property,value", "-s", "local,received", "all")
    names = [each for each in named(cloud, server, host) if "@" not in each]
    told = {name: cloud.nodes[host].tool("zfs", *words, name).splitlines() for name in names}
    # that which is the default may be said or not
    defaults = {"canmount\ton", "reservation\t0"}
    return {name: set(lines) - defaults for name, lines in told.items()}


KINDS = {
    "zone": ("zone", {}, {}),
    "delegated": ("zone", {"ephemeral": 1}, {"config_drive": True}),
    "lx": ("lx", {}, {}),
    "bhyve": ("disk", {"disk": 1, "ephemeral": 1, "swap": 64}, {"config_drive": True}),
    "kvm": ("disk", {"disk": 1, "ephemeral": 1, "specs": {"smartos:brand": "kvm"}}, {}),
    "installed": ("iso", {"disk": 1}, {"config_drive": True}),
}


@pytest.mark.parametrize("name", KINDS)
def test_all_of_it_moves(cloud: cloud_module.Cloud, name: str) -> None:
    kind, flavor, more = KINDS[name]
    server = cloud.boot(
        kind, flavor=cloud.flavor(**flavor), networks=[{"port": cloud.port()}], **more
    )
    source = host(cloud, server)
    node = cloud.nodes[source]
    if name == "zone":
        node.tool("vmadm", "create-snapshot", server["id"], "kept")
    if name == "delegated":
        # as its own zone would; from outside only one that is down can be told
        cloud.act(server, "os-stop")
        cloud.wait(server, "SHUTOFF")
        data = f"zones/{server['id']}/data"
        node.tool("zfs", "create", "-o", "canmount=noauto", f"{data}/own")
        node.tool("zfs", "create", "-V", "8M", f"{data}/disk")
        node.tool("zfs", "set", "zoned=off", data)
        node.tool("zfs", "set", "mountpoint=/srv", "quota=10M", "its:own=a b", f"{data}/own")
        node.tool("zfs", "set", "zoned=on", data)
        cloud.act(server, "os-start")
        cloud.wait(server)
    had = settings(cloud, server, source)
    before = cloud.vm(server, source)
    volumes = [disk["zfs_filesystem"] for disk in before.get("disks", [])]
    for volume in volumes:
        node.tool("dd", f"of=/dev/zvol/rdsk/{volume}", payload=f"{volume} holds this".ljust(512))
    cloud.act(server, "migrate")
    moved(cloud, server)
    target = host(cloud, server)
    after = cloud.vm(server, target)
    assert lasting(after) == lasting(before)
    assert internal(after) == internal(before)
    for volume in volumes:
        told = cloud.nodes[target].tool("dd", f"if=/dev/zvol/rdsk/{volume}", "bs=512", "count=1")
        assert told.strip() == f"{volume} holds this"
    left = [each for each in named(cloud, server, source) if "nova-move" not in each]
    assert named(cloud, server, target) == left
    assert settings(cloud, server, target) == had
    cloud.act(server, "revertResize")
    cloud.wait(server)
    assert settings(cloud, server, source) == had
    again = cloud.vm(server, source)
    assert lasting(again) == lasting(before)
    assert internal(again) == internal(before)
    assert not [each for each in named(cloud, server, source) if "nova-move" in each]
    cloud.delete(server)
    assert [named(cloud, server, each) for each in cloud.nodes] == [[], []]


def test_an_image_that_only_a_move_names_stays_for_the_next(cloud: cloud_module.Cloud) -> None:
    """Each node brought the image itself, so the disk comes whole and is nobody's clone."""
    image = cloud.image("disk", nst_brought="twice")
    servers = [cloud.boot(image=image, availability_zone=f"nova:{each}") for each in cloud.computes]
    cloud.delete(servers.pop())
    cloud.act(servers[0], "migrate")
    moved(cloud, servers[0])
    cloud.act(servers[0], "confirmResize")
    cloud.wait(servers[0])
    target = host(cloud, servers[0])
    volume = cloud.vm(servers[0], target)["disks"][0]["zfs_filesystem"]
    told = cloud.nodes[target].tool("zfs", "get", "-H", "-o", "value", "origin", volume)
    assert told.strip() == "-"
    cloud.services.flags(remove_unused_original_minimum_age_seconds=0, group="image_cache")
    for compute in cloud.computes.values():
        compute.manager._run_image_cache_manager_pass(nova_context.get_admin_context())
    cloud.act(servers[0], "migrate")
    moved(cloud, servers[0])
    assert host(cloud, servers[0]) == other(target)
    cloud.delete(servers[0])


@pytest.mark.parametrize("name", ["zone", "bhyve"])
def test_it_goes_straight_from_node_to_node(
    cloud: cloud_module.Cloud, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where operators let the nodes reach each other."""
    server = cloud.boot(KINDS[name][0], flavor=cloud.flavor(disk=1))
    source = host(cloud, server)
    operators.let(cloud.nodes[source], cloud.nodes[other(source)])
    node = cloud.nodes[source]
    monkeypatch.setitem(cloud._options, "direct_moves", True)
    # as it is behind SSH
    found = f"{node.tools}:{node.directory}/root/opt/custom/bin"
    monkeypatch.setitem(cloud._options, "tool_path", found)
    cloud.restart_compute(source)
    relayed: list[str] = []
    zfs = cloud.computes[source].manager.driver._node.zfs
    sent = zfs.sent

    def relay(words: Sequence[str]) -> Any:
        relayed.extend(words)
        return sent(words)

    monkeypatch.setattr(zfs, "sent", relay)
    before = cloud.vm(server, source)
    cloud.act(server, "migrate")
    moved(cloud, server)
    assert lasting(cloud.vm(server, other(source))) == lasting(before)
    assert not [word for word in relayed if server["id"] in word]
    monkeypatch.undo()
    cloud.restart_compute(source)
    cloud.delete(server)


@pytest.mark.parametrize("name", ["zone", "bhyve"])
def test_another_flavor_may_be_elsewhere(cloud: cloud_module.Cloud, name: str) -> None:
    kind = "zone" if name == "zone" else "disk"
    server = cloud.boot(kind, flavor=cloud.flavor(disk=1), networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    cloud.act(server, "resize", {"flavorRef": cloud.flavor(vcpus=2, ram=512, disk=2)})
    moved(cloud, server)
    vm = cloud.vm(server, host(cloud, server))
    assert host(cloud, server) == other(source)
    sizes = [disk["size"] for disk in vm.get("disks", [])] or [vm["quota"] * 1024]
    assert (vm["max_physical_memory"] >= 512, sizes) == (True, [2048])
    cloud.act(server, "confirmResize")
    cloud.wait(server)
    assert server["id"] not in cloud.vms(source)
    cloud.delete(server)


def test_a_smaller_flavor_takes_a_zone_whose_data_fit(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(flavor=cloud.flavor(disk=2, ephemeral=2))
    source = host(cloud, server)
    put(cloud, server, "kept")
    cloud.act(server, "resize", {"flavorRef": cloud.flavor(disk=2, ephemeral=1)})
    moved(cloud, server)
    assert cloud.vm(server, host(cloud, server))["quota"] == 3
    assert held(cloud, server) == "kept"
    cloud.act(server, "revertResize")
    cloud.wait(server)
    assert (host(cloud, server), cloud.vm(server, source)["quota"]) == (source, 4)
    cloud.delete(server)


@pytest.mark.parametrize("when", ["before", "while it moves"])
def test_a_smaller_flavor_for_which_a_zone_uses_too_much(
    cloud: cloud_module.Cloud, when: str
) -> None:
    server = cloud.boot(flavor=cloud.flavor(disk=2, ephemeral=2))
    source = host(cloud, server)
    smaller = {"flavorRef": cloud.flavor(disk=2, ephemeral=1)}

    def take(where: str) -> None:
        own = f"zones/{server['id']}"
        cloud.nodes[where].tool("zfs", "set", "refreservation=3.5G", own)

    if when == "before":
        take(source)
        cloud.act(server, "resize", smaller)
    else:
        with spoilt(cloud, source, "vmadm", "hang", "^stop"):
            cloud.act(server, "resize", smaller)
            waits.until(lambda: met(cloud, source), "the first copy to be there")
            take(other(source))
    stays(cloud, server, source)
    shown = cloud.show(server)
    assert (cloud.vm(server, source)["quota"], shown["flavor"]["ephemeral"]) == (4, 2)
    cloud.delete(server)


def test_a_smaller_flavor_for_a_virtual_machine(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("disk", flavor=cloud.flavor(disk=1, ephemeral=2))
    source = host(cloud, server)
    cloud.act(server, "resize", {"flavorRef": cloud.flavor(disk=1, ephemeral=1)})
    stays(cloud, server, source)
    cloud.delete(server)


# What goes wrong


@contextlib.contextmanager
def spoilt(
    cloud: cloud_module.Cloud, where: str, tool: str, kind: str, match: str, *more: str
) -> Iterator[None]:
    """The first run of a tool goes wrong on a node, as it must come to."""
    node = cloud.nodes[where]
    words = ("--match", match, "--count", "1", "--stderr", "the node is ill\n", *more)
    node.command("fault", str(node.directory), "add", tool, kind, *words)
    try:
        yield
        assert met(cloud, where) == 1
    finally:
        node.command("fault", str(node.directory), "clear")


def met(cloud: cloud_module.Cloud, where: str) -> int:
    node = cloud.nodes[where]
    return int(json.loads(node.command("fault", str(node.directory), "list"))[0]["met"])


def failed(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> None:
    """Wait until a move was given up."""

    def told() -> bool:
        path = f"/servers/{server['id']}/os-instance-actions"
        last = cloud.api.api_get(path).body["instanceActions"][0]
        events = cloud.api.api_get(f"{path}/{last['request_id']}").body["instanceAction"]["events"]
        return any(event["result"] == "Error" for event in events)

    cloud.until(told, "the move to fail")
    cloud.wait(server)


def stays(cloud: cloud_module.Cloud, server: Mapping[str, Any], source: str) -> None:
    """Wait until a move was given up; the server is as it was, and nothing of it elsewhere."""
    failed(cloud, server)
    assert cloud.wait(server)["OS-EXT-SRV-ATTR:host"] == source
    vm = cloud.vm(server, source)
    assert (vm["state"], vm["autoboot"]) == ("running", True)
    assert "nova:moved" not in vm["internal_metadata"]
    assert not [each for each in named(cloud, server, source) if "nova-move" in each]
    assert named(cloud, server, other(source)) == []


@pytest.mark.parametrize("kind", ["lose-before", "die-after"])
def test_a_link_that_breaks_costs_nothing_but_time(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot()
    source = host(cloud, server)
    put(cloud, server, "kept")
    with spoilt(cloud, other(source), "zfs", kind, "^receive"):
        cloud.act(server, "migrate")
        moved(cloud, server)
    assert (host(cloud, server), held(cloud, server)) == (other(source), "kept")
    cloud.delete(server)
    assert [named(cloud, server, each) for each in cloud.nodes] == [[], []]


@pytest.mark.parametrize(
    ("tool", "match", "where"),
    [("zfs", "^snapshot", "source"), ("vmadm", "^stop", "source"), ("vmadm", "^receive", "target")],
)
def test_a_move_that_fails_leaves_all_as_it_was(
    cloud: cloud_module.Cloud, tool: str, match: str, where: str
) -> None:
    server = cloud.boot()
    source = host(cloud, server)
    with spoilt(cloud, source if where == "source" else other(source), tool, "fail", match):
        cloud.act(server, "migrate")
        stays(cloud, server, source)
    cloud.delete(server)


def test_what_a_failed_move_leaves_goes_when_nova_compute_starts(
    cloud: cloud_module.Cloud,
) -> None:
    server = cloud.boot(flavor=cloud.flavor(disk=1))
    source = host(cloud, server)
    node = cloud.nodes[source]
    own = f"zones/{server['id']}"
    with spoilt(cloud, source, "vmadm", "fail", "^stop"):
        more = ("--match", "^destroy", "--count", "1", "--stderr", "the node is ill\n")
        node.command("fault", str(node.directory), "add", "zfs", "fail", *more)
        cloud.act(server, "migrate")
        failed(cloud, server)
    assert [each for each in named(cloud, server, source) if "nova-move" in each]
    assert node.tool("zfs", "get", "-Hp", "-o", "value", "quota", own).strip() == "0"
    cloud.restart_compute(source)
    assert not [each for each in named(cloud, server, source) if "nova-move" in each]
    quota = node.tool("zfs", "get", "-Hp", "-o", "value", "quota", own).strip()
    assert quota == str(cloud.vm(server, source)["quota"] * 2**30)
    assert node.tool("zfs", "get", "-H", "-o", "value", "nova:quota", own).strip() == "-"
    cloud.delete(server)


def test_a_full_pool_refuses_a_server(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot()
    source = host(cloud, server)
    node = cloud.nodes[other(source)]
    node.command("fault", str(node.directory), "disk", "full")
    try:
        cloud.act(server, "migrate")
        stays(cloud, server, source)
    finally:
        node.command("fault", str(node.directory), "disk", "free")
    cloud.delete(server)


def test_a_node_that_is_not_known_gets_nothing(
    cloud: cloud_module.Cloud, tmp_path: pathlib.Path
) -> None:
    server = cloud.boot()
    source = host(cloud, server)
    nobody = tmp_path / "known_hosts"
    nobody.write_text("")
    known = cloud_module.CONF.smartos.known_hosts_file
    cloud_module.CONF.set_override("known_hosts_file", str(nobody), smartos_conf.GROUP)
    try:
        cloud.act(server, "migrate")
        stays(cloud, server, source)
    finally:
        cloud_module.CONF.set_override("known_hosts_file", known, smartos_conf.GROUP)
    cloud.delete(server)


def test_a_deletion_ends_a_move(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot()
    target = other(host(cloud, server))
    with spoilt(cloud, target, "zfs", "hang", "^receive"):
        cloud.act(server, "migrate")
        waits.until(lambda: met(cloud, target), "the copy to begin")
        cloud.api.delete_server(server["id"])
        source = cloud.nodes[other(target)]
        waits.until(lambda: "zfs send" not in source.tool("ps", *PS), "the stream to end")
    # only now the node's own command goes on, with what had come to it
    cloud.gone(server)
    assert [named(cloud, server, each) for each in cloud.nodes] == [[], []]


def test_a_server_that_does_not_start_there_is_there_all_the_same(
    cloud: cloud_module.Cloud,
) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    put(cloud, server, "kept")
    with spoilt(cloud, other(source), "vmadm", "fail", "^update"):
        cloud.act(server, "migrate")
        cloud.wait(server, "ERROR")
    assert host(cloud, server) == other(source)
    left = cloud.vm(server, source)
    assert (left["state"], left["autoboot"]) == ("stopped", False)
    cloud.act(server, "os-resetState", {"state": "active"})
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server)
    assert held(cloud, server) == "kept"
    assert len(cloud.vm(server, other(source))["nics"]) == 1
    cloud.delete(server)
    cloud.nodes[source].tool("vmadm", "delete", server["id"])
