# SPDX-License-Identifier: Apache-2.0
"""vmadm's snapshots, and VMs as bundles."""

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from smartos_emulator import node as node_module
from smartos_emulator.vmadm import bundle
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, hardware, payload, run, uuid

U = uuid(1)


@pytest.fixture(name="node")
def _node(tmp_path: pathlib.Path) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path / "one") as node:
        vm_node.add_images(node)
        yield node


def test_snapshot_and_rollback(node: node_module.Node) -> None:
    create(node, payload())
    run(node, "zlogin", U, "tee", "/note", stdin="before")
    ran = run(node, "vmadm", "create-snapshot", U, "s:1")
    assert (ran.status, ran.err) == (0, f"Created snapshot s:1 for VM {U}\n")
    run(node, "zlogin", U, "tee", "/note", stdin="after")
    assert run(node, "zlogin", U, "cat", "/checkpoints/s:1/note").out == "before"
    ran = run(node, "zlogin", U, "touch", "/checkpoints/s:1/x")
    assert ran.err.endswith("Read-only file system\n")
    run(node, "vmadm", "create-snapshot", U, "s2")
    names = [snapshot["name"] for snapshot in get(node, U)["snapshots"]]
    assert sorted(names) == ["s2", "s:1"]
    ran = run(node, "vmadm", "rollback-snapshot", U, "s:1")
    assert (ran.status, ran.err) == (0, f"Rolled back snapshot s:1 for VM {U}\n")
    assert [snapshot["name"] for snapshot in get(node, U)["snapshots"]] == ["s:1"]
    assert run(node, "zlogin", U, "cat", "/note").out == "before"
    ran = run(node, "vmadm", "delete-snapshot", U, "s:1")
    assert (ran.status, ran.err) == (0, f"Deleted snapshot s:1 for VM {U}\n")
    assert get(node, U)["snapshots"] == []


def test_rollback_starts_a_stopped_vm(node: node_module.Node) -> None:
    create(node, hardware())
    run(node, "vmadm", "create-snapshot", U, "s1")
    assert node.storage.exists(f"zones/{U}/disk1@vmsnap-s1")
    assert run(node, "vmadm", "rollback-snapshot", U, "s1").status == 0
    assert get(node, U)["state"] == "running"


def test_what_a_snapshot_keeps_of_metadata(node: node_module.Node) -> None:
    create(node, payload(tags={"a": "1"}))
    run(node, "vmadm", "create-snapshot", U, "s1")
    run(node, "vmadm", "update", U, stdin='{"set_tags":{"a":"2"}}')
    run(node, "vmadm", "rollback-snapshot", U, "s1")
    assert get(node, U)["tags"] == {"a": "1"}


def test_snapshot_refusals(node: node_module.Node) -> None:
    create(node, payload(1, delegate_dataset=True, autoboot=False))
    create(node, hardware(2, "kvm"))
    create(node, payload(3, autoboot=False))

    def said(*words: str) -> str:
        ran = run(node, "vmadm", *words)
        assert ran.status == 1
        return ran.err

    assert said("create-snapshot", U, "s1") == (
        "Cannot currently snapshot zones that have datasets\n"
    )
    assert said("create-snapshot", uuid(2), "s1") == (
        "snapshots for kvm VMs currently unsupported\n"
    )
    assert said("create-snapshot", uuid(3), "a/b") == "Invalid snapshot name\n"
    assert said("create-snapshot", uuid(3), "x" * 65) == "Invalid snapshot name\n"
    run(node, "vmadm", "create-snapshot", uuid(3), "s1")
    assert said("create-snapshot", uuid(3), "s1") == 'snapshot with name "s1" already exists.\n'
    assert said("delete-snapshot", uuid(3), "s9") == f'No snapshot named "s9" for {uuid(3)}\n'
    assert said("rollback-snapshot", uuid(3), "s9") == f'No snapshot named "s9" for {uuid(3)}\n'


def sent(node: node_module.Node, name: str) -> bytes:
    out = vm_node.Stream()
    bundle.send(node.vms, name, out)
    return out.getvalue()


def copy_images(source: node_module.Node, target: node_module.Node) -> None:
    """Install the same images, down to their guids."""
    for image in (vm_node.ZONE, vm_node.DISK):
        out = io.BytesIO()
        source.storage.send(f"zones/{image}@final", out)
        target.storage.receive(f"zones/{image}", io.BytesIO(out.getvalue()))
        database = f"var/imgadm/images/zones-{image}.json"
        (target.root / database).parent.mkdir(parents=True, exist_ok=True)
        (target.root / database).write_bytes((source.root / database).read_bytes())


@pytest.fixture(name="other")
def _other(node: node_module.Node, tmp_path: pathlib.Path) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path / "two", name="two") as other:
        copy_images(node, other)
        yield other


def test_header() -> None:
    made = bundle.header("JSON", 700)
    assert len(made) == 512
    assert made.rstrip(b"\0") == b"MAGIC-VMBUNDLE\0001\0CHECKSUM\0JSON\000700\0001024"


def test_send_and_receive(node: node_module.Node, other: node_module.Node) -> None:
    create(node, payload(tags={"a": "b"}, customer_metadata={"k": "v"}))
    run(node, "zlogin", U, "tee", "/note", stdin="kept")
    stream = sent(node, U)
    left = get(node, U)
    assert (left["state"], left["autoboot"]) == ("stopped", False)
    ran = run(other, "vmadm", "receive", stdin=stream)
    assert (ran.status, ran.err) == (0, f"Successfully received VM {U}\n")
    vm = get(other, U)
    assert (vm["state"], vm["zone_state"]) == ("stopped", "installed")
    assert (vm["tags"], vm["customer_metadata"]) == ({"a": "b"}, {"k": "v"})
    assert vm["create_timestamp"] == left["create_timestamp"]
    assert (other.zones.root(U) / "note").read_text() == "kept"
    assert not other.storage.exists(f"zones/{U}@sending")
    assert run(other, "vmadm", "start", U).status == 0
    ran = run(other, "vmadm", "receive", stdin=stream)
    assert (ran.status, ran.err) == (1, f"first of 1 error: VM with UUID {U} already exists\n")


@pytest.mark.parametrize("brand", ["bhyve", "kvm"])
def test_disks_travel_too(node: node_module.Node, other: node_module.Node, brand: str) -> None:
    create(node, hardware(brand=brand))
    disks = get(node, U)["disks"]
    name = disks[1]["zfs_filesystem"]
    node.storage.volume_file(name).write_bytes(b"on disk")
    ran = run(other, "vmadm", "receive", stdin=sent(node, U))
    assert (ran.status, ran.err) == (0, f"Successfully received VM {U}\n")
    assert [disk["path"] for disk in get(other, U)["disks"]] == [disk["path"] for disk in disks]
    assert other.storage.volume_file(name).read_bytes().startswith(b"on disk")


def test_a_receive_that_takes_too_long_is_finished_by_install(
    node: node_module.Node, other: node_module.Node
) -> None:
    create(node, payload(autoboot=False))
    stream = sent(node, U)

    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            other.clock.sleep(70)
            return super().readinto(memoryview(buffer)[:4096])

    with pytest.raises(Exception, match="first of 2 errors: vminfod watchForEvent"):
        bundle.receive(other.vms, io.BufferedReader(Slow(stream)))
    vm = get(other, U)
    assert (vm["state"], vm["zone_state"]) == ("receiving", "configured")
    assert run(other, "vmadm", "install", U).err == f"Successfully installed VM {U}\n"
    assert get(other, U)["state"] == "stopped"


def test_what_is_no_bundle(node: node_module.Node) -> None:
    for stream in (b"", b"x" * 600, json.dumps(payload()).encode()):
        ran = run(node, "vmadm", "receive", stdin=stream)
        assert (ran.status, ran.err) == (1, "first of 1 error: Failed to get JSON!\n")


def test_an_install_with_parts_missing(node: node_module.Node, other: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    stream = sent(node, U)
    end = stream.index(b"MAGIC", 1)
    ran = run(other, "vmadm", "receive", stdin=stream[:end])
    assert (ran.status, ran.err) == (
        1,
        f"Unable to complete install for {U} zone is still missing: 1 datasets\n",
    )
    assert run(other, "vmadm", "delete", U).status == 0
