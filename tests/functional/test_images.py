# SPDX-License-Identifier: Apache-2.0
"""Images through Nova: from Glance to the node at the first boot, away when nobody uses them."""

import concurrent.futures
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from nova import context as nova_context

from nova_smartos.operations import download
from tests import qcow2_files, waits
from tests.functional import cloud as cloud_module
from tests.functional import images

pytestmark = cloud_module.QUIET


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    owners = [images.nova_fixtures.PROJECT_ID]
    with cloud_module.Cloud(options={"trusted_image_owners": owners}) as cloud:
        yield cloud


@pytest.fixture
def stream(cloud: cloud_module.Cloud, tmp_path: Any) -> tuple[dict[str, str], bytes]:
    return images.stream(cloud.node, tmp_path, "zone")


def node_images(cloud: cloud_module.Cloud) -> dict[str, str]:
    """The Glance ids of the images on the node, by the node's."""
    listed = cloud.driver._node.imgadm.list()
    return {each.manifest.uuid: each.manifest.tags.get("nova:image", "") for each in listed}


def leftovers(cloud: cloud_module.Cloud) -> list[str]:
    """What imports leave behind, if they do."""
    names = [each.name for each in cloud.driver._node.zfs.list(types=("all",))]
    files = [name for name in cloud.driver._node.files.list() if name.startswith("image-")]
    return files + [name for name in names if "partial" in name or "/image-" in name]


def expire(cloud: cloud_module.Cloud, age_seconds: int = 0) -> None:
    """What nova-compute does every forty minutes."""
    group = {"group": "image_cache"}
    cloud.services.flags(remove_unused_original_minimum_age_seconds=age_seconds, **group)
    cloud.compute.manager._run_image_cache_manager_pass(nova_context.get_admin_context())


def test_a_zone_from_a_zfs_stream(cloud: cloud_module.Cloud) -> None:
    image = cloud.image("zone")
    server = cloud.boot(image=image)
    assert node_images(cloud)[cloud.vm(server)["image_uuid"]] == image
    assert leftovers(cloud) == []
    cloud.delete(server)


def test_a_machine_from_a_raw_disk(cloud: cloud_module.Cloud) -> None:
    image = cloud.image("disk")
    server = cloud.boot(image=image)
    disk = cloud.vm(server)["disks"][0]
    assert node_images(cloud)[disk["image_uuid"]] == image
    held = cloud.node.directory / "root/dev/zvol/rdsk" / disk["zfs_filesystem"]
    data = cloud.glance.data(image)
    with held.open("rb") as file:
        assert file.read(len(data)) == data
    assert leftovers(cloud) == []
    cloud.delete(server)


def test_a_machine_from_a_qcow2_disk(cloud: cloud_module.Cloud) -> None:
    """What is in the file is what the machine boots from."""
    data = images.disk(8)
    file = qcow2_files.made(data, compressed=True)
    image = images.upload(cloud.glance, file, {}, disk_format="qcow2")
    server = cloud.boot(image=image)
    disk = cloud.vm(server)["disks"][0]
    assert (disk["image_size"], node_images(cloud)[disk["image_uuid"]]) == (8, image)
    held = cloud.node.directory / "root/dev/zvol/rdsk" / disk["zfs_filesystem"]
    with held.open("rb") as opened:
        assert opened.read(len(data)) == data
    assert leftovers(cloud) == []
    cloud.delete(server)


@pytest.mark.parametrize("brand", ["bhyve", "kvm"])
def test_a_machine_that_is_installed_from_an_iso(cloud: cloud_module.Cloud, brand: str) -> None:
    """It has an empty disk, and beside it, in a drive of its own, what is on the medium."""
    data = images.disk(3) + b"the last sector".ljust(2048, b".")
    image = images.upload(cloud.glance, data, {}, disk_format="iso")
    specs = {"smartos:brand": brand}
    server = cloud.boot(image=image, flavor=cloud.flavor(disk=2, specs=specs), config_drive=True)
    disk, drive, medium = cloud.vm(server)["disks"]
    assert (disk["boot"], disk["size"], disk.get("image_uuid")) == (True, 2048, None)
    assert (medium["media"], medium["boot"], drive["size"]) == ("cdrom", False, 64)
    assert node_images(cloud)[medium["image_uuid"]] == image
    held = cloud.node.directory / "root/dev/zvol/rdsk"
    assert (held / medium["zfs_filesystem"]).read_bytes() == data.ljust(4 * images.MIB, b"\0")
    assert not any((held / disk["zfs_filesystem"]).read_bytes()[:65536])
    expire(cloud)
    assert image in node_images(cloud).values(), "a medium in use went"
    cloud.delete(server)
    assert not (held / medium["zfs_filesystem"]).exists() and leftovers(cloud) == []
    expire(cloud)
    assert image not in node_images(cloud).values()


def test_what_an_iso_is_not_for(cloud: cloud_module.Cloud) -> None:
    image = images.upload(cloud.glance, images.disk(1), {}, disk_format="iso")
    for flavor, reason in (
        (cloud.flavor(specs={"smartos:brand": "joyent"}), "joyent"),
        (cloud.flavor(disk=0), "the flavor has no root disk"),
    ):
        server = cloud.wait(cloud.boot(image=image, flavor=flavor, wait=None), "ERROR")
        assert reason in server["fault"]["message"]
        assert server["id"] not in cloud.vms()
        cloud.delete(server)
    machine = cloud.boot("disk")
    cloud.act(machine, "rescue", {"rescue_image_ref": image})
    shown = cloud.wait(machine, "ERROR")
    assert "a medium to install from" in shown["fault"]["message"]
    assert len(cloud.vm(machine)["disks"]) == 1
    cloud.delete(machine)
    assert leftovers(cloud) == []


def test_a_disk_that_claims_more_than_the_flavor_has(cloud: cloud_module.Cloud) -> None:
    file = qcow2_files.made(b"disk" * 999, size_bytes=1 << 50)
    image = images.upload(cloud.glance, file, {}, disk_format="qcow2")
    server = cloud.wait(cloud.boot(image=image, wait=None), "ERROR")
    assert "too small for requested image" in server["fault"]["message"]
    assert image not in node_images(cloud).values() and leftovers(cloud) == []
    cloud.delete(server)


def test_an_lx_zone_from_a_tree_of_anybodys(cloud: cloud_module.Cloud) -> None:
    data = images.tree({"etc/os-release": b"ID=alpine\n", "etc/motd": b"hello\n"})
    properties = {"smartos_image_type": "lx-dataset", "smartos_image_format": "tar"}
    image = images.upload(cloud.glance, data, properties, owner="b" * 32)
    server = cloud.boot(image=image)
    vm = cloud.vm(server)
    assert (vm["brand"], node_images(cloud)[vm["image_uuid"]]) == ("lx", image)
    assert cloud.node.tool("zlogin", server["id"], "cat", "/etc/motd") == "hello\n"
    assert leftovers(cloud) == []
    cloud.delete(server)


def test_a_user_who_deletes_the_server_while_its_image_comes(
    cloud: cloud_module.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import ends, and the delete does not wait for what would still have come."""
    monkeypatch.setattr(download, "ASK_SECONDS", 0.1)
    image = images.upload(cloud.glance, images.disk(1), {})
    over = threading.Event()
    whole = cloud.glance.pieces

    def pieces(image_id: str) -> Iterator[bytes]:
        for piece in whole(image_id):
            yield piece
            if image_id == image:
                assert over.wait(waits.SECONDS)

    monkeypatch.setattr(cloud.glance, "pieces", pieces)
    try:
        server = cloud.boot(image=image, wait=None)
        waits.until(lambda: cloud.glance.downloads.get(image), "the image to come")
        cloud.delete(server)
    finally:
        over.set()
    assert image not in node_images(cloud).values() and leftovers(cloud) == []


def test_many_boots_bring_an_image_once(
    cloud: cloud_module.Cloud, stream: tuple[dict[str, str], bytes]
) -> None:
    image = images.upload(cloud.glance, stream[1], stream[0])
    servers = [cloud.boot(image=image, wait=None) for _ in range(6)]
    booted = [cloud.wait(server) for server in servers]
    assert cloud.glance.downloads[image] == 1
    assert len({cloud.vm(server)["image_uuid"] for server in booted}) == 1
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(cloud.delete, booted))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"owner": "b" * 32}, "trusted_image_owners"),
        ({"disk_format": "vmdk"}, "disk_format is vmdk"),
        ({"container_format": "docker"}, "container_format is docker"),
    ],
)
def test_an_image_that_is_refused(
    cloud: cloud_module.Cloud,
    stream: tuple[dict[str, str], bytes],
    fields: dict[str, str],
    says: str,
) -> None:
    image = images.upload(cloud.glance, stream[1], stream[0], **fields)
    server = cloud.wait(cloud.boot(image=image, wait=None), "ERROR")
    assert says in server["fault"]["message"]
    assert cloud.vms() == [] and image not in node_images(cloud).values()
    cloud.delete(server)


def test_an_image_that_is_damaged_on_its_way(
    cloud: cloud_module.Cloud, stream: tuple[dict[str, str], bytes]
) -> None:
    image = images.upload(cloud.glance, stream[1], stream[0])
    cloud.glance.images[image]["os_hash_value"] = hashlib.sha512(b"other").hexdigest()
    server = cloud.wait(cloud.boot(image=image, wait=None), "ERROR")
    assert "sha512 is not the one that Glance says" in server["fault"]["message"]
    assert image not in node_images(cloud).values() and leftovers(cloud) == []
    cloud.delete(server)


@pytest.mark.parametrize("kind", ["zone", "iso"])
def test_an_image_that_an_operator_has_deleted(cloud: cloud_module.Cloud, kind: str) -> None:
    image = cloud.image(kind)
    server = cloud.boot(image=image)
    (uuid,) = (each for each, glance in node_images(cloud).items() if glance == image)
    cloud.delete(server)
    cloud.node.tool("imgadm", "delete", uuid)
    again = cloud.boot(image=image)
    vm = cloud.vm(again)
    assert uuid == (vm["disks"][-1]["image_uuid"] if kind == "iso" else vm["image_uuid"])
    cloud.delete(again)


def test_a_private_image_on_the_node_is_no_way_round_glance(
    cloud: cloud_module.Cloud, stream: tuple[dict[str, str], bytes]
) -> None:
    """The node has it, but nova-api cannot read it with that user's token."""
    image = images.upload(cloud.glance, stream[1], stream[0])
    cloud.delete(cloud.boot(image=image))
    assert image in node_images(cloud).values()
    hidden = cloud.glance.images.pop(image)
    with pytest.raises(cloud_module.Refused, match="Can not find requested image"):
        cloud.boot(image=image, wait=None)
    cloud.glance.images[image] = hidden


def test_images_are_brought_before_a_boot(
    cloud: cloud_module.Cloud, stream: tuple[dict[str, str], bytes]
) -> None:
    image = images.upload(cloud.glance, stream[1], stream[0])
    context = nova_context.get_admin_context()
    assert cloud.compute.manager.cache_images(context, [image]) == {image: "cached"}
    assert cloud.compute.manager.cache_images(context, [image]) == {image: "existing"}
    cloud.delete(cloud.boot(image=image))
    assert cloud.glance.downloads[image] == 1


def test_only_unused_images_of_ours_go(
    cloud: cloud_module.Cloud, stream: tuple[dict[str, str], bytes]
) -> None:
    foreign = cloud.node.image("zone")
    used = images.upload(cloud.glance, stream[1], stream[0])
    unused = images.upload(cloud.glance, stream[1], stream[0])
    server = cloud.boot(image=used)
    cloud.delete(cloud.boot(image=unused))
    expire(cloud, age_seconds=3600)
    assert {used, unused} <= set(node_images(cloud).values())
    expire(cloud)
    left = node_images(cloud)
    assert foreign in left and used in left.values() and unused not in left.values()
    cloud.delete(server)
    cloud.delete(cloud.boot(image=unused))
    assert cloud.glance.downloads[unused] == 2
    cloud.node.tool("imgadm", "delete", foreign)


def test_a_restart_brings_nothing_again(cloud: cloud_module.Cloud) -> None:
    image = cloud.image("zone")
    cloud.delete(cloud.boot(image=image))
    before = cloud.glance.downloads[image]
    cloud.restart_compute()
    cloud.delete(cloud.boot(image=image))
    assert cloud.glance.downloads[image] == before
