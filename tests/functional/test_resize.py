# SPDX-License-Identifier: Apache-2.0
"""Resize where the VM is: live for zones, with a boot for virtual machines; and the way back."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

# What differs by itself between two looks at a VM that was not changed.
PASSING = {"last_modified", "internal_metadata", "pid", "zoneid", "boot_timestamp", "exit_status"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(flags={"allow_resize_to_same_host": True}) as cloud:
        yield cloud


def resize(
    cloud: cloud_module.Cloud, server: Mapping[str, Any], **flavor: Any
) -> Mapping[str, Any]:
    """Ask for another flavor; the server once it waits for the user's word."""
    cloud.act(server, "resize", {"flavorRef": cloud.flavor(**flavor)})
    return cloud.wait(server, "VERIFY_RESIZE")


def lasting(vm: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in vm.items() if key not in PASSING}


def mark(vm: Mapping[str, Any]) -> Any:
    return json.loads(vm["internal_metadata"]["nova:instance"])["flavor"]


@pytest.mark.parametrize("kind", ["zone", "lx"])
def test_a_zone_grows_while_it_runs(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot(kind, flavor=cloud.flavor(vcpus=1, ram=256, disk=10))
    before = cloud.vm(server)
    resize(cloud, server, vcpus=2, ram=1024, disk=20, specs={"smartos:zfs_io_priority": "50"})
    vm = cloud.vm(server)
    assert (vm["cpu_cap"], vm["max_physical_memory"], vm["quota"]) == (200, 1024, 20)
    assert (vm["tmpfs"], vm["zfs_io_priority"]) == (1024, 50)
    assert mark(vm)["ram"] == 1024 and mark(vm)["vcpus"] == 2
    assert (vm["zoneid"], vm["pid"]) == (before["zoneid"], before["pid"]), "it was not booted"
    cloud.act(server, "confirmResize")
    cloud.wait(server)
    assert lasting(cloud.vm(server)) == lasting(vm)
    cloud.delete(server)


def test_a_revert_takes_everything_back(cloud: cloud_module.Cloud) -> None:
    port = cloud.port()
    server = cloud.boot(
        flavor=cloud.flavor(vcpus=1, ram=512, disk=10, specs={"smartos:max_lwps": "3000"}),
        networks=[{"port": port}],
    )
    before = cloud.vm(server)
    specs = {"smartos:fs_allowed": "ufs,pcfs", "quota:cpu_shares": "7"}
    resize(cloud, server, vcpus=4, ram=256, disk=30, specs=specs)
    assert lasting(cloud.vm(server)) != lasting(before)
    cloud.act(server, "revertResize")
    cloud.wait(server)
    after = cloud.vm(server)
    assert lasting(after) == lasting(before)
    assert (after["zoneid"], after["pid"]) == (before["zoneid"], before["pid"])
    assert mark(after) == mark(before)
    cloud.delete(server)


@pytest.mark.parametrize("brand", ["bhyve", "kvm"])
def test_a_machine_changes_while_it_is_down(cloud: cloud_module.Cloud, brand: str) -> None:
    specs = {"smartos:brand": brand}
    small = cloud.flavor(vcpus=1, ram=512, disk=1, swap=64, specs=specs)
    server = cloud.boot("disk", flavor=small)
    before = cloud.vm(server)
    assert before["brand"] == brand
    resize(cloud, server, vcpus=2, ram=1024, disk=2, swap=128, specs=specs)
    vm = cloud.vm(server)
    assert (vm["state"], vm["autoboot"]) == ("running", True)
    assert (vm["vcpus"], vm["ram"]) == (2, 1024)
    assert [disk["size"] for disk in vm["disks"]] == [2048, 128]
    assert all(disk["refreservation"] >= disk["size"] for disk in vm["disks"])
    assert vm["zoneid"] != before["zoneid"]
    cloud.act(server, "revertResize")
    cloud.wait(server)
    vm = cloud.vm(server)
    assert (vm["state"], vm["vcpus"], vm["ram"]) == ("running", 1, 512)
    assert vm["create_timestamp"] == before["create_timestamp"]
    # what its guest keeps at the end of the disk is the guest's
    assert [disk["size"] for disk in vm["disks"]] == [2048, 64]
    assert mark(vm)["disk"] == 1
    cloud.delete(server)


def test_a_server_that_is_off_stays_off(cloud: cloud_module.Cloud) -> None:
    for kind in ("zone", "disk"):
        server = cloud.boot(kind, flavor=cloud.flavor(ram=512, disk=1))
        cloud.act(server, "os-stop")
        cloud.wait(server, "SHUTOFF")
        resize(cloud, server, ram=768, disk=1)
        assert cloud.vm(server)["state"] == "stopped"
        cloud.act(server, "confirmResize")
        cloud.wait(server, "SHUTOFF")
        assert (cloud.vm(server)["state"], mark(cloud.vm(server))["ram"]) == ("stopped", 768)
        cloud.delete(server)


@pytest.mark.parametrize(
    ("kind", "old", "new", "says"),
    [
        ("zone", {"ephemeral": 2}, {"ephemeral": 1}, "disks do not shrink"),
        ("zone", {}, {"specs": {"smartos:brand": "lx"}}, "lx"),
        ("zone", {}, {"ephemeral": 1}, "delegated dataset"),
        ("disk", {"ephemeral": 2}, {"ephemeral": 1}, "disks do not shrink"),
        ("disk", {}, {"specs": {"smartos:brand": "kvm"}}, "brand bhyve does not become"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_changes(
    cloud: cloud_module.Cloud, kind: str, old: dict[str, Any], new: dict[str, Any], says: str
) -> None:
    server = cloud.boot(kind, flavor=cloud.flavor(**old))
    before = cloud.vm(server)
    cloud.act(server, "resize", {"flavorRef": cloud.flavor(**new)})
    assert says in failed(cloud, server)
    assert cloud.show(server)["flavor"]["ephemeral"] == old.get("ephemeral", 0)
    assert cloud.vm(server) == before
    cloud.delete(server)


def test_a_root_that_would_shrink_is_refused_by_nova(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(flavor=cloud.flavor(disk=2))
    with pytest.raises(cloud_module.Refused, match="smaller than the minimum size"):
        cloud.act(server, "resize", {"flavorRef": cloud.flavor(disk=1)})
    cloud.delete(server)


def failed(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    """Wait until a resize was given up and the server is as it was; what the user is told."""

    def fault() -> str | None:
        shown = cloud.show(server)
        if shown["OS-EXT-STS:task_state"] or shown["status"] != "ACTIVE":
            return None
        for action in cloud.api.get_instance_actions(server["id"]):
            full = cloud.api.api_get(
                f"/servers/{server['id']}/os-instance-actions/{action['request_id']}"
            ).body["instanceAction"]
            for event in full["events"]:
                if action["action"] in ("resize", "migrate") and event["result"] == "Error":
                    return str(event.get("details") or event["traceback"])
        return None

    return cloud.until(fault, "the resize to fail")


def test_a_server_that_waits_for_the_word_can_be_deleted(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(flavor=cloud.flavor(ram=256))
    resize(cloud, server, ram=512)
    cloud.delete(server)
    assert server["id"] not in cloud.vms()
