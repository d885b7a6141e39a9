# SPDX-License-Identifier: Apache-2.0
"""cloud-init itself understands what a guest of Nova is told, wherever its sources look for it."""

import base64
import gzip
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import in_cloud_init
from tests.functional import cloud as cloud_module
from tests.functional import test_guest_data as guest_data

pytestmark = cloud_module.QUIET

SECONDS = 60
PYTHON = "/usr/bin/python3"
CONFIG = '#cloud-config\nruncmd: ["echo é"]\n'


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        cloud.api.post_keypair(
            {"keypair": {"name": "mine", "public_key": guest_data.KEY, "type": "ssh"}}
        )
        yield cloud


def understood(source: str, folder: pathlib.Path, *where: str) -> Any:
    """What cloud-init makes of its folder, or of the socket that serves the guest's metadata."""
    if not pathlib.Path("/usr/lib/python3/dist-packages/cloudinit").exists():
        pytest.skip("missing: cloud-init")
    done = subprocess.run(
        [PYTHON, in_cloud_init.__file__, source, str(folder), *where],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def boot(cloud: cloud_module.Cloud, kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A server with all that a user may give it."""
    return cloud.boot(
        kind,
        networks=[{"port": cloud.port()}],
        key_name="mine",
        metadata={"role": "web"},
        user_data=base64.b64encode(data).decode(),
        **more,
    )


def disk(cloud: cloud_module.Cloud, server: dict[str, Any], number: int) -> pathlib.Path:
    """The bytes of a machine's disk."""
    path = cloud.vm(server)["disks"][number]["path"]
    return cloud.node.directory / f"root{path}"


def assert_understood(told: Any, server: dict[str, Any]) -> None:
    """What is the same from every source."""
    assert told["hostname"] == server["OS-EXT-SRV-ATTR:hostname"]
    assert told["instance_id"] == server["id"]
    assert ["text/x-shellscript", guest_data.SCRIPT] in told["user_data"]


# ConfigDrive


@pytest.mark.parametrize("kind", ["zone", "lx"])
def test_a_zones_config_drive(cloud: cloud_module.Cloud, tmp_path: pathlib.Path, kind: str) -> None:
    server = boot(cloud, kind, guest_data.SCRIPT.encode(), config_drive=True)
    tree = cloud.node.directory / f"root/zones/nova-smartos/drive-{server['id']}"
    shutil.copytree(tree, tmp_path / "seed/config_drive")
    told = understood("ConfigDrive", tmp_path)
    assert_understood(told, server)
    assert told["keys"] == [guest_data.KEY]
    assert told["metadata"]["meta"] == {"role": "web"}
    assert told["zone"] == server["OS-EXT-AZ:availability_zone"]
    assert len(told["network"]["config"]) >= 1
    cloud.delete(server)


def unpack_iso(image: pathlib.Path, folder: pathlib.Path) -> None:
    """The files of an ISO 9660 file system that a guest of OpenStack reads."""

    def isoinfo(*words: str) -> bytes:
        command = ["isoinfo", "-R", "-i", str(image), *words]
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout

    names = isoinfo("-f").decode().split()
    folders = {name.rpartition("/")[0] for name in names}
    for name in names:
        if name.startswith("/openstack/") and name not in folders:
            path = folder / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(isoinfo("-x", name))


# NoCloud


def test_a_nocloud_disk_and_a_config_drive(
    cloud: cloud_module.Cloud, tmp_path: pathlib.Path
) -> None:
    guest_data.needed("genisoimage", "isoinfo", "mcopy")
    image = cloud.image("disk", smartos_cloudinit_datasource="nocloud")
    server = boot(cloud, "disk", guest_data.SCRIPT.encode(), image=image, config_drive=True)
    unpack_iso(disk(cloud, server, 1), tmp_path / "a/seed/config_drive")
    told = understood("ConfigDrive", tmp_path / "a")
    assert_understood(told, server)
    assert told["keys"] == [guest_data.KEY]
    assert told["metadata"]["meta"] == {"role": "web"}
    told = understood("NoCloud", unpacked_fat(disk(cloud, server, 2), tmp_path / "b"))
    assert_understood(told, server)
    assert json.dumps(guest_data.KEY) in told["vendor_data"][0][1]
    (ethernet,) = told["network"]["ethernets"].values()
    assert ethernet["match"]["macaddress"] == cloud.vm(server)["nics"][0]["mac"]
    cloud.delete(server)


def unpacked_fat(image: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A folder with the files of a FAT file system where cloud-init looks for them."""
    seed = folder / "seed/nocloud"
    seed.mkdir(parents=True)
    command = ["mcopy", "-i", str(image), "::*", str(seed)]
    subprocess.run(command, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    return folder


def test_user_data_in_gzip(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    data = gzip.compress(CONFIG.encode())
    guest_data.needed("mcopy")
    image = cloud.image("disk", smartos_cloudinit_datasource="nocloud")
    server = boot(cloud, "disk", data, image=image)
    told = understood("NoCloud", unpacked_fat(disk(cloud, server, 1), tmp_path))
    assert ["text/cloud-config", CONFIG] in told["user_data"]
    cloud.delete(server)


# SmartOS


def test_metadata_of_an_lx_zone(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    server = boot(cloud, "lx", CONFIG.encode(), adminPass="Secret-1234")
    socket = cloud.node.directory / f"root/var/zonecontrol/{server['id']}/metadata.sock"
    told = understood("SmartOS", tmp_path, str(socket))
    assert_as_smartos(cloud, told, server)
    cloud.delete(server)


def test_metadata_of_a_machine(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    server = boot(cloud, "disk", CONFIG.encode(), adminPass="Secret-1234")
    line = cloud.node.directory / f"root/zones/{server['id']}/root/tmp/vm.ttyb"
    told = understood("SmartOS", tmp_path, str(line))
    assert_as_smartos(cloud, told, server)
    cloud.delete(server)


def assert_as_smartos(cloud: cloud_module.Cloud, told: Any, server: dict[str, Any]) -> None:
    assert told["hostname"] == server["OS-EXT-SRV-ATTR:hostname"]
    assert told["instance_id"] == server["id"]
    assert told["keys"] == [guest_data.KEY]
    assert ["text/cloud-config", CONFIG] in told["user_data"]
    physical = told["network"]["config"][0]
    assert physical["mac_address"] == cloud.vm(server)["nics"][0]["mac"]
    assert "Secret-1234" not in json.dumps(told)


def test_a_zones_script_is_cloud_inits_user_script(
    cloud: cloud_module.Cloud, tmp_path: pathlib.Path
) -> None:
    server = boot(cloud, "lx", guest_data.SCRIPT.encode())
    socket = cloud.node.directory / f"root/var/zonecontrol/{server['id']}/metadata.sock"
    told = understood("SmartOS", tmp_path, str(socket))
    assert told["metadata"]["user-script"] == guest_data.SCRIPT
    assert told["user_data_raw"] == ""
    written = tmp_path / f"instances/{server['id']}/data/user-script"
    assert written.read_text() == guest_data.SCRIPT
    cloud.delete(server)


def test_the_largest_user_data(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    data = b"#cloud-config\n# " + b"x" * (49149 - 16)
    server = boot(cloud, "disk", data)
    line = cloud.node.directory / f"root/zones/{server['id']}/root/tmp/vm.ttyb"
    told = understood("SmartOS", tmp_path, str(line))
    assert base64.b64decode(told["user_data_raw"]) == data
    cloud.delete(server)
