# SPDX-License-Identifier: Apache-2.0
"""What guests find beside their system: NoCloud disks, folders; and the tools that fill them."""

import io
import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from smartos_emulator import node as node_module
from smartos_emulator.vmadm import fat
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, payload, run, uuid

SECONDS = 30


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path_factory.mktemp("node")) as node:
        vm_node.add_images(node)
        yield node


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def folder_archive(data: bytes) -> bytes:
    """An archive that has its folder, too."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        member = tarfile.TarInfo("folder/c")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(image: bytes, folder: pathlib.Path) -> dict[str, bytes]:
    if shutil.which("mcopy") is None:
        pytest.skip("missing: mcopy")
    (folder / "image").write_bytes(image)
    (folder / "files").mkdir()
    command = ["mcopy", "-i", str(folder / "image"), "::*", str(folder / "files")]
    subprocess.run(command, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    return {path.name: path.read_bytes() for path in (folder / "files").iterdir()}


def test_a_file_system_that_others_read(tmp_path: pathlib.Path) -> None:
    files = {
        "meta-data": b"a: b\n",
        "network-config": b"x" * 2048,
        "user-data": bytes(range(256)) * 300,
        "a-name-of-26-letters-xxxxx": b"y",
        "thirteen-char": b"z",
    }
    image = fat.image("CIDATA", files)
    assert len(image) == 16 << 20
    assert unpacked(image, tmp_path) == files


def test_files_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        fat.image("CIDATA", {"x": bytes(16 << 20)})


def machine(number: int, **more: object) -> vm_node.Any:
    disk = {"image_uuid": vm_node.DISK, "boot": True, "model": "virtio"}
    return {
        "uuid": uuid(number),
        "brand": "bhyve",
        "ram": 256,
        "vcpus": 1,
        "hostname": "web",
        "disks": [disk],
        "internal_metadata": {"cloudinit_datasource": "nocloud"},
        **more,
    }


def test_a_nocloud_disk_is_written_at_each_boot(
    node: node_module.Node, tmp_path: pathlib.Path
) -> None:
    told = {"cloud-init:user-data": "#cloud-config\n{a: é}\n", "cloud-init:vendor-data": "v\n"}
    create(node, machine(1, customer_metadata=told))
    path = node.path(get(node, uuid(1))["disks"][1]["path"])
    (tmp_path / "a").mkdir()
    assert unpacked(path.read_bytes(), tmp_path / "a") == {
        "meta-data": f"# cloud-init meta-data\ninstance-id: {uuid(1)}\n"
        "local-hostname: web\n".encode(),
        "user-data": "#cloud-config\n{a: é}\n".encode(),
        "vendor-data": b"v\n",
    }
    change = '{"remove_customer_metadata": ["cloud-init:user-data", "cloud-init:vendor-data"]}'
    assert run(node, "vmadm", "update", uuid(1), stdin=change).status == 0
    assert run(node, "vmadm", "reboot", uuid(1)).status == 0
    (tmp_path / "b").mkdir()
    files = unpacked(path.read_bytes(), tmp_path / "b")
    assert files["user-data"] == b"#cloud-config\n{}\n" and "vendor-data" not in files


def test_a_nocloud_disk_that_is_none(node: node_module.Node) -> None:
    create(node, machine(2, autoboot=False))
    wrong = '{"set_internal_metadata": {"cloudinit_nocloud_path": "/etc/passwd"}}'
    assert run(node, "vmadm", "update", uuid(2), stdin=wrong).status == 0
    started = run(node, "vmadm", "start", uuid(2))
    assert started.status == 1 and "Invalid cloudinit_nocloud_path: /etc/passwd" in started.err


def test_a_folder_that_a_zone_mounts(node: node_module.Node) -> None:
    assert run(node, "zfs", "create", "zones/ours").status == 0
    assert (
        run(node, "gtar", "-x", "-f", "-", "-C", "/zones/ours", stdin=archive(a=b"1")).status == 0
    )
    mount = {"type": "lofs", "source": "/zones/ours/folder", "target": "/mnt/x", "options": ["ro"]}
    create(node, payload(3, filesystems=[mount]))
    assert run(node, "zlogin", uuid(3), "cat", "/mnt/x/a").out == "1"
    assert "Read-only" in run(node, "zlogin", uuid(3), "rm", "/mnt/x/a").err
    assert run(node, "vmadm", "stop", uuid(3), "-F").status == 0
    assert run(node, "rm", "-rf", "/zones/ours/folder").status == 0
    started = run(node, "vmadm", "start", uuid(3))
    assert started.status == 1 and "/zones/ours/folder" in started.err


def test_gtar(node: node_module.Node) -> None:
    run(node, "zfs", "create", "-o", "quota=8M", "zones/small")
    argv = ("gtar", "-x", "-f", "-", "-C", "/zones/small")
    assert run(node, *argv, stdin=archive(a=b"1", b=b"")).status == 0
    assert run(node, "ls", "-1", "/zones/small").out == "folder\n"
    assert run(node, "ls", "-1", "/zones/small/folder").out == "a\nb\n"
    again = run(node, *argv[:2], "--recursive-unlink", *argv[2:], stdin=folder_archive(b"2"))
    assert again.status == 0 and run(node, "ls", "-1", "/zones/small/folder").out == "c\n"
    full = run(node, *argv, stdin=archive(big=bytes(16 << 20)))
    assert full.status == 2 and "quota exceeded" in full.err
    assert run(node, *argv, stdin=archive(a=b"1")[:700]).status == 2
    missing = run(node, "gtar", "-x", "-f", "-", "-C", "/zones/none", stdin=archive(a=b""))
    assert missing.err.startswith("gtar: /zones/none: Cannot open: No such file or directory\n")
    assert run(node, "gtar", "-c", "-f", "-", "-C", "/zones/small").status == 2


def one(name: str, **fields: object) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as made:
        member = tarfile.TarInfo(name)
        for key, value in fields.items():
            setattr(member, key, value)
        made.addfile(member)
    return target.getvalue()


def test_gtar_keeps_modes_and_makes_no_link_to_nothing(node: node_module.Node) -> None:
    run(node, "zfs", "create", "zones/tree")
    argv = ("gtar", "-x", "-f", "-", "-C", "/zones/tree")
    for number, flags in enumerate(((), ("-p", "--numeric-owner"))):
        given = (*argv[:2], *flags, *argv[2:])
        assert run(node, *given, stdin=one(f"su{number}", mode=0o4755)).status == 0
        assert node.path(f"/zones/tree/su{number}").stat().st_mode & 0o7777 == 0o4755
    ran = run(node, *argv, stdin=one("x", type=tarfile.LNKTYPE, linkname="none"))
    assert ran.status == 2
    assert ran.err.startswith("gtar: x: Cannot hard link to `none': No such file or directory\n")
    assert "not emulated" in run(node, *argv, stdin=one("../../x")).err
    assert not node.path("/zones/x").exists()


def test_rm_and_ls(node: node_module.Node) -> None:
    run(node, "zfs", "create", "zones/rm")
    argv = ("gtar", "-x", "-f", "-", "-C", "/zones/rm")
    run(node, *argv, stdin=archive(a=b"1"))
    assert run(node, "rm", "/zones/rm/folder").err == "rm: /zones/rm/folder is a directory\n"
    assert run(node, "rm", "-rf", "/zones/rm").err.endswith("Device busy\n")
    assert run(node, "rm", "-rf", "/zones/rm/folder", "/zones/rm/none").status == 0
    assert run(node, "rm", "-x", "/zones/rm/none").status == 2
    assert run(node, "ls", "-1", "/zones/rm").out == ""
    assert run(node, "ls", "-1", "/zones/none").status == 2


def test_dd_gathers_blocks(node: node_module.Node) -> None:
    run(node, "zfs", "create", "zones/dd")
    data = bytes(range(256)) * 12
    ran = run(node, "dd", "of=/zones/dd/x", "ibs=1024", "obs=2048", stdin=data)
    assert ran.err == "3+0 records in\n1+1 records out\n"
    assert node.path("/zones/dd/x").read_bytes() == data
    run(node, "zfs", "create", "-s", "-V", "1m", "zones/dd/volume")
    disk = "/dev/zvol/rdsk/zones/dd/volume"
    ran = run(node, "dd", f"of={disk}", "ibs=512", "obs=1024", "seek=2", stdin=b"12345678" * 64)
    assert ran.status == 0
    ran = run(node, "dd", f"of={disk}", "bs=8", "seek=1", stdin=b"abcdefgh")
    assert ran.status == 0
    assert node.path(disk).read_bytes()[:2560] == (
        b"abcdefgh".rjust(16, b"\0").ljust(2048, b"\0") + b"12345678" * 64
    )
    assert run(node, "dd", "of=/zones/dd/x", "seek=1", stdin=b"x").status == 2
