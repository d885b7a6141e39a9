# SPDX-License-Identifier: Apache-2.0
"""Extra specs and image properties, from the API to the VM or to the fault that names them."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from nova_smartos.smartos import vms
from tests.functional import cloud as cloud_module
from tests.functional import images

pytestmark = cloud_module.QUIET


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        yield cloud


@pytest.mark.parametrize(
    ("kind", "asked", "properties", "shown"),
    [
        ("zone", {}, {}, {"brand": "joyent", "cpu_cap": 200, "cpu_shares": 200, "quota": 10}),
        (
            "lx",
            {"quota:cpu_quota": "12500", "smartos:limit_priv": "default,dtrace_user"},
            {"smartos_kernel_version": "4.3.0"},
            {"cpu_cap": 25, "limit_priv": "default,dtrace_user", "kernel_version": "4.3.0"},
        ),
        ("zvol", {}, {"hw_firmware_type": "uefi"}, {"brand": "bhyve", "bootrom": "uefi"}),
        ("zvol", {"smartos:video": "vmware"}, {"img_hv_type": "kvm"}, {"vga": "vmware"}),
    ],
)
def test_what_is_asked_for_is_what_the_vm_has(
    cloud: cloud_module.Cloud,
    kind: str,
    asked: dict[str, str],
    properties: dict[str, str],
    shown: dict[str, Any],
) -> None:
    flavor = cloud.flavor(vcpus=2, specs=asked)
    server = cloud.boot(kind, flavor=flavor, image=cloud.image(kind, **properties))
    vm = cloud.vm(server)
    assert {name: vm.get(name) for name in shown} == shown
    cloud.delete(server)


def test_models_reach_disks(cloud: cloud_module.Cloud) -> None:
    image = cloud.image("zvol", hw_disk_bus="sata")
    flavor = cloud.flavor(disk=2, ephemeral=1, swap=64)
    server = cloud.boot(flavor=flavor, image=image)
    disks = vms.Vm.from_json(cloud.vm(server)).disks
    assert [(disk.model, disk.size_mib) for disk in disks] == [
        ("ahci", 2048),
        ("ahci", 1024),
        ("ahci", 64),
    ]
    cloud.delete(server)


@pytest.mark.parametrize(
    ("kind", "asked", "properties", "named"),
    [
        ("zone", {"smartos:cpu_caps": "10"}, {}, ["smartos:cpu_caps", "smartos:cpu_cap?"]),
        ("zone", {"hw:cpu_policy": "dedicated"}, {}, ["hw:cpu_policy"]),
        ("zone", {"smartos:brand": "lx"}, {}, ["smartos:brand=lx", "zone-dataset"]),
        ("lx", {}, {"smartos_limit_priv": "default,sys_mount"}, ["smartos_limit_priv", "flavor"]),
    ],
)
def test_a_fault_says_what_is_wrong_and_nothing_is_made(
    cloud: cloud_module.Cloud,
    kind: str,
    asked: dict[str, str],
    properties: dict[str, str],
    named: list[str],
) -> None:
    before = cloud.vms()
    # the last version of Nova's API that looks at no extra spec itself
    cloud.api.microversion = "2.85"
    try:
        flavor = cloud.flavor(specs=asked)
    finally:
        cloud.api.microversion = "latest"
    server = cloud.boot(flavor=flavor, image=cloud.image(kind, **properties), wait="ERROR")
    fault = server["fault"]["message"]
    assert all(each in fault for each in named), fault
    assert cloud.vms() == before
    cloud.delete(server)


def test_the_api_refuses_an_extra_spec_that_is_misspelt(cloud: cloud_module.Cloud) -> None:
    with pytest.raises(cloud_module.Refused, match="smartos:cpu_caps"):
        cloud.flavor(specs={"smartos:cpu_caps": "10"})


def test_a_flavor_smaller_than_the_image(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    """Nova's API cannot know how large the disk in a ZFS stream is; the driver does."""
    base = tmp_path / "large"
    cloud.node.command("image", "zvol", "nst-large", "--size", "1536", "--output", str(base))
    image = images.upload(
        cloud.glance,
        base.with_suffix(".zfs.gz").read_bytes(),
        {"smartos_image_type": "zvol", "smartos_image_size": "1536"},
        name="nst-large",
    )
    server = cloud.boot(flavor=cloud.flavor(disk=1), image=image, wait="ERROR")
    assert f"image is {1536 * 2**20} bytes" in server["fault"]["message"]
    cloud.delete(server)
