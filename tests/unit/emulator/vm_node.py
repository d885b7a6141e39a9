# SPDX-License-Identifier: Apache-2.0
"""A whole node in this process, with small images, and its tools: what tests of VMs share."""

import contextlib
import importlib
import io
import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from smartos_emulator import call as call_module
from smartos_emulator import node as node_module

SPEED = 150.0
ZONE = "b1f0a000-0000-4000-8000-000000000001"
LX = "b1f0a000-0000-4000-8000-000000000002"
DISK = "b1f0a000-0000-4000-8000-000000000003"
BARE = "b1f0a000-0000-4000-8000-000000000004"
DISK_MIB = 64


class Stream(io.BytesIO):
    """A stream that can still be read after the run."""

    def isatty(self) -> bool:
        return False


@dataclass
class Ran:
    """What a run of a tool gave back."""

    status: int
    out: str
    err: str


def run(node: node_module.Node, *argv: str, stdin: str | bytes = b"") -> Ran:
    """Run a tool on the node."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = Stream(), Stream()
    source: Any = io.BufferedReader(Stream(data))
    call = call_module.Call(list(argv), node, {}, "/", source, out, err)
    main = importlib.import_module(f"smartos_emulator.tools.{argv[0]}").main
    status = call.serve(main)
    return Ran(status, out.getvalue().decode(), err.getvalue().decode())


@contextlib.contextmanager
def up(folder: pathlib.Path, **config: Any) -> Iterator[node_module.Node]:
    """A node that is up while the block lasts."""
    node = node_module.Node(folder, node_module.Config(**{"speed": SPEED, **config}))
    node.boot()
    try:
        yield node
    finally:
        node.vms.set_vminfod(False)
        node.halt()
        node.close()
        node.storage.close()


def add_images(node: node_module.Node) -> None:
    """A zone's image, one for lx, a disk's, and one that cannot say when it is provisioned."""
    _image(node, ZONE, "zone-dataset")
    _image(node, LX, "lx-dataset")
    _image(node, BARE, "zone-dataset", marked=False)
    _image(node, DISK, "zvol")


def _image(node: node_module.Node, uuid: str, kind: str, *, marked: bool = True) -> None:
    name = f"zones/{uuid}"
    manifest = {"v": 2, "uuid": uuid, "name": "small", "version": "1", "type": kind, "os": "other"}
    if kind == "zvol":
        node.storage.create(name, volume_bytes=DISK_MIB << 20)
        manifest["image_size"] = DISK_MIB
    else:
        node.storage.create(name)
        folder = node.storage.directory(name) / "root" / "var" / "zoneinit"
        folder.mkdir(parents=True)
        features = {"features": {"var_svc_provisioning": marked}}
        (folder / "zoneinit.json").write_text(json.dumps(features))
    node.storage.snapshot(f"{name}@final")
    database = node.path("/var/imgadm/images")
    database.mkdir(parents=True, exist_ok=True)
    document = {"manifest": manifest, "zpool": "zones"}
    (database / f"zones-{uuid}.json").write_text(json.dumps(document))


def uuid(number: int) -> str:
    return f"c0ffee00-0000-4000-8000-{number:012}"


def payload(number: int = 1, **more: Any) -> dict[str, Any]:
    """A small zone; None takes a property away."""
    wanted = {"brand": "joyent", "uuid": uuid(number), "image_uuid": ZONE, "alias": f"z{number}"}
    merged = {**wanted, **more}
    return {key: value for key, value in merged.items() if value is not None}


def hardware(number: int = 1, brand: str = "bhyve", **more: Any) -> dict[str, Any]:
    """A small hardware VM that is not started."""
    disks = [{"boot": True, "model": "virtio", "image_uuid": DISK}, {"model": "virtio", "size": 32}]
    usual = {"image_uuid": None, "brand": brand, "ram": 256, "autoboot": False, "disks": disks}
    return payload(number, **{**usual, **more})


def create(node: node_module.Node, wanted: dict[str, Any]) -> str:
    """Create a VM that must come out well; its uuid."""
    ran = run(node, "vmadm", "create", stdin=json.dumps(wanted))
    assert (ran.status, ran.err) == (0, f"Successfully created VM {wanted['uuid']}\n")
    return str(wanted["uuid"])


def get(node: node_module.Node, name: str) -> dict[str, Any]:
    """`vmadm get`."""
    ran = run(node, "vmadm", "get", name)
    assert ran.status == 0, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document
