# SPDX-License-Identifier: Apache-2.0
"""Cold migration, and resize to another node: what a server is before, it is there."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

FILE = "/root/nst-file"


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(moves=True) as cloud:
        cloud.add_compute("compute2")
        yield cloud


def host(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    return str(cloud.show(server)["OS-EXT-SRV-ATTR:host"])


def other(here: str) -> str:
    return "compute2" if here == "compute1" else "compute1"


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
    cloud.wait(server, "VERIFY_RESIZE")
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
    cloud.wait(server, "VERIFY_RESIZE")
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


KINDS = {
    "zone": ("zone", {}, {}),
    "delegated": ("zone", {"ephemeral": 1}, {}),
    "lx": ("lx", {}, {}),
    "bhyve": ("disk", {"disk": 1, "ephemeral": 1, "swap": 64}, {}),
    "kvm": ("disk", {"disk": 1, "ephemeral": 1, "specs": {"smartos:brand": "kvm"}}, {}),
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
        node.tool("zfs", "create", f"zones/{server['id']}/data/own")
    before = cloud.vm(server, source)
    volumes = [disk["zfs_filesystem"] for disk in before.get("disks", [])]
    for volume in volumes:
        node.tool("dd", f"of=/dev/zvol/rdsk/{volume}", payload=f"{volume} holds this".ljust(512))
    cloud.act(server, "migrate")
    cloud.wait(server, "VERIFY_RESIZE")
    target = host(cloud, server)
    after = cloud.vm(server, target)
    assert lasting(after) == lasting(before)
    assert internal(after) == internal(before)
    for volume in volumes:
        told = cloud.nodes[target].tool("dd", f"if=/dev/zvol/rdsk/{volume}", "bs=512", "count=1")
        assert told.strip() == f"{volume} holds this"
    left = [each for each in named(cloud, server, source) if "nova-move" not in each]
    assert named(cloud, server, target) == left
    cloud.act(server, "revertResize")
    cloud.wait(server)
    again = cloud.vm(server, source)
    assert lasting(again) == lasting(before)
    assert internal(again) == internal(before)
    assert not [each for each in named(cloud, server, source) if "nova-move" in each]
    cloud.delete(server)
    assert [named(cloud, server, each) for each in cloud.nodes] == [[], []]
