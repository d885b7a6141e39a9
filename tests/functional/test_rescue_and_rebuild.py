# SPDX-License-Identifier: Apache-2.0
"""Another root for a server: for a while, or for good."""

from collections.abc import Iterator
from typing import Any

import pytest

from nova_smartos.operations import rescue
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        yield cloud


def inside(cloud: cloud_module.Cloud, uuid: str, command: str) -> str:
    """What a shell in the zone prints."""
    return cloud.node.tool("zlogin", uuid, command).strip()


def in_rescue(cloud: cloud_module.Cloud, server: dict[str, Any], **more: Any) -> dict[str, Any]:
    cloud.act(server, "rescue", more)
    return cloud.wait(server, "RESCUE")


def with_a_port(cloud: cloud_module.Cloud) -> list[dict[str, str]]:
    return [{"port": cloud.port()}]


@pytest.mark.parametrize("kind", ["zone", "lx"])
def test_a_zone_is_mended_from_its_stand_in(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot(kind, networks=with_a_port(cloud))
    before = cloud.vm(server)
    inside(cloud, server["id"], "echo broken > /etc/motd")

    in_rescue(cloud, server)
    own, other = cloud.vm(server), cloud.vm({"id": rescue.stand_in(server["id"])})
    assert (own["state"], other["state"]) == ("stopped", "running")
    assert [nic["mac"] for nic in other["nics"]] == [nic["mac"] for nic in before["nics"]]
    broken = f"{rescue.BROKEN_ROOT}/etc/motd"
    assert inside(cloud, other["uuid"], f"cat {broken}") == "broken"
    inside(cloud, other["uuid"], f"echo mended > {broken}")
    assert cloud.show(server)["OS-EXT-STS:power_state"] == 1

    cloud.act(server, "unrescue")
    cloud.wait(server, "ACTIVE")
    after = cloud.vm(server)
    assert (after["state"], after["autoboot"]) == ("running", True)
    assert after["nics"] == before["nics"]
    assert inside(cloud, server["id"], "cat /etc/motd") == "mended"
    assert other["uuid"] not in cloud.vms()
    cloud.delete(server)


def test_a_virtual_machine_boots_from_the_rescue_disk_and_back(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zvol", networks=with_a_port(cloud))
    before = cloud.vm(server)

    in_rescue(cloud, server, rescue_image_ref=cloud.image("disk"))
    during = cloud.vm(server)
    assert during["state"] == "running"
    own, added = sorted(during["disks"], key=lambda disk: disk["boot"])
    assert own["path"] == before["disks"][0]["path"]
    assert added["pci_slot"] == before["disks"][0]["pci_slot"]
    assert added["image_uuid"] != own["image_uuid"]

    cloud.act(server, "unrescue")
    cloud.wait(server, "ACTIVE")
    after = cloud.vm(server)
    assert after["disks"] == before["disks"]
    assert after["internal_metadata"] == before["internal_metadata"]
    assert after.get("flexible_disk_size") == before.get("flexible_disk_size")
    cloud.delete(server)


@pytest.mark.parametrize("kind", ["zone", "zvol"])
def test_a_server_that_is_deleted_in_rescue_leaves_nothing(
    cloud: cloud_module.Cloud, kind: str
) -> None:
    there = cloud.vms()
    server = cloud.boot(kind)
    in_rescue(cloud, server)
    cloud.delete(server)
    assert cloud.vms() == there


def test_an_image_of_another_kind_rescues_nothing_and_breaks_nothing(
    cloud: cloud_module.Cloud,
) -> None:
    server = cloud.boot("zone", networks=with_a_port(cloud))
    before = cloud.vm(server)
    cloud.act(server, "rescue", {"rescue_image_ref": cloud.image("disk")})
    failed = cloud.wait(server, "ERROR")
    assert "a zone is rescued from an image of a zone" in failed["fault"]["message"]
    assert cloud.vm(server)["nics"] == before["nics"]
    # and the way out
    cloud.act(server, "rescue", {"rescue_image_ref": cloud.image("zone")})
    cloud.until(lambda: cloud.show(server)["status"] == "RESCUE", "the server's rescue")
    cloud.act(server, "unrescue")
    cloud.wait(server, "ACTIVE")
    cloud.delete(server)


@pytest.mark.parametrize("kind", ["zone", "lx", "zvol"])
def test_rebuild_makes_it_new(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot(kind, networks=with_a_port(cloud))
    before = cloud.vm(server)
    if kind != "zvol":
        inside(cloud, server["id"], "echo old > /etc/motd")
    image = cloud.image("disk") if kind == "zvol" else cloud.image(kind)
    cloud.act(server, "rebuild", {"imageRef": image, "metadata": {"colour": "green"}})
    cloud.wait(server, "ACTIVE")
    after = cloud.vm(server)
    assert after["customer_metadata"]["colour"] == "green"
    assert [nic["mac"] for nic in after["nics"]] == [nic["mac"] for nic in before["nics"]]
    if kind != "zvol":
        assert inside(cloud, server["id"], "cat /etc/motd") != "old"
    cloud.delete(server)


def test_rebuild_keeps_ephemeral_data_when_asked(cloud: cloud_module.Cloud) -> None:
    flavor = cloud.flavor(ephemeral=1)
    server = cloud.boot("zone", flavor=flavor, networks=with_a_port(cloud))
    before = cloud.vm(server)
    (dataset,) = before["datasets"]
    guid = cloud.node.tool("zfs", "get", "-Hpo", "value", "guid", dataset)
    inside(cloud, server["id"], "echo old > /etc/motd")
    body = {"imageRef": cloud.image("zone"), "preserve_ephemeral": True, "name": "nst-renamed"}
    cloud.act(server, "rebuild", body)
    cloud.wait(server, "ACTIVE")
    after = cloud.vm(server)
    assert cloud.node.tool("zfs", "get", "-Hpo", "value", "guid", dataset) == guid
    assert after["nics"] == before["nics"]
    assert inside(cloud, server["id"], "cat /etc/motd") != "old"
    cloud.delete(server)


def test_a_rebuild_that_cannot_be_leaves_the_server_as_it_is(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", flavor=cloud.flavor(specs={"smartos:brand": "joyent"}))
    cloud.act(server, "rebuild", {"imageRef": cloud.image("disk")})
    failed = cloud.wait(server, "ERROR")
    assert "contradict" in failed["fault"]["message"]
    assert cloud.vm(server)["state"] == "running"
    cloud.delete(server)


def test_a_rebuild_onto_a_medium_without_a_drive_leaves_the_server_as_it_is(
    cloud: cloud_module.Cloud,
) -> None:
    flavor = cloud.flavor(disk=1, ephemeral=1, swap=64, specs={"smartos:brand": "kvm"})
    server = cloud.boot("disk", flavor=flavor, config_drive=True)
    before = cloud.vm(server)
    cloud.act(server, "rebuild", {"imageRef": cloud.image("iso")})
    failed = cloud.wait(server, "ERROR")
    assert "kvm has no drive for it beside 4 disks" in failed["fault"]["message"]
    after = cloud.vm(server)
    assert (after["state"], after["disks"]) == ("running", before["disks"])
    cloud.delete(server)


@pytest.mark.parametrize("brand", ["bhyve", "kvm"])
def test_what_was_installed_from_a_medium_is_rescued_and_rebuilt(
    cloud: cloud_module.Cloud, brand: str
) -> None:
    flavor = cloud.flavor(disk=1, specs={"smartos:brand": brand})
    server = cloud.boot("iso", flavor=flavor)
    before = cloud.vm(server)
    in_rescue(cloud, server, rescue_image_ref=cloud.image("disk"))
    during = cloud.vm(server)
    assert [disk.get("media") for disk in during["disks"]].count("cdrom") == 1
    (boots,) = [disk for disk in during["disks"] if disk["boot"]]
    assert boots["path"] not in [disk["path"] for disk in before["disks"]]
    cloud.act(server, "unrescue")
    cloud.wait(server, "ACTIVE")
    assert cloud.vm(server)["disks"] == before["disks"]

    medium = before["disks"][-1]["zfs_filesystem"]
    cloud.act(server, "rebuild", {"imageRef": cloud.image("disk")})
    cloud.wait(server, "ACTIVE")
    assert [disk["media"] for disk in cloud.vm(server)["disks"]] == ["disk"]
    assert medium not in cloud.node.tool("zfs", "list", "-H", "-o", "name").split()
    cloud.act(server, "rebuild", {"imageRef": cloud.image("iso")})
    cloud.wait(server, "ACTIVE")
    assert [disk["media"] for disk in cloud.vm(server)["disks"]] == ["disk", "cdrom"]
    cloud.delete(server)
    assert medium not in cloud.node.tool("zfs", "list", "-H", "-o", "name").split()
