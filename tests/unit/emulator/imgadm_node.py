# SPDX-License-Identifier: Apache-2.0
"""A node with storage and images only, and imgadm run on it: what the tests of imgadm share."""

import dataclasses
import io
import json
import os
import pathlib
import threading
import types
from typing import Any

from smartos_emulator import call as call_module
from smartos_emulator import clock, imgadm, storage
from smartos_emulator.imgadm import sample
from smartos_emulator.tools import imgadm as tool

UUID = "5a3c1d2e-0001-4a4b-8c4d-0000000000aa"
OTHER = "5a3c1d2e-0002-4a4b-8c4d-0000000000bb"
VM = "7b000000-1111-4222-8333-000000000001"


class Stream(io.BytesIO):
    """A stream that can still be read after the run."""

    def close(self) -> None:
        pass


class Vms:
    """VMs as imgadm sees them; starting one runs `on_start`."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.on_start = lambda vm: None

    def all(self) -> list[dict[str, Any]]:
        return list(self.records.values())

    def get(self, uuid: str) -> dict[str, Any] | None:
        return self.records.get(uuid)

    def start(self, uuid: str) -> None:
        self.calls.append(("start", uuid))
        self.records[uuid]["state"] = "running"
        self.on_start(self.records[uuid])

    def stop(self, uuid: str, *, force: bool = False) -> None:
        self.calls.append(("stop", uuid, force))
        self.records[uuid]["state"] = "stopped"

    def update(self, uuid: str, changes: dict[str, Any]) -> None:
        self.calls.append(("update", uuid, *changes))


class Node:
    """The parts of a node that imgadm uses."""

    def __init__(self, directory: pathlib.Path, speed: float = 1000) -> None:
        self.dir = directory
        self.root = directory / "root"
        self.config = types.SimpleNamespace(
            name="emu0", pools={"zones": 1 << 40}, memory_mib=1024, platform="20260312T000000Z"
        )
        self.clock = clock.Clock(speed)
        self.lock = threading.RLock()
        self.vms = Vms()
        self.vminfod_up = True
        self.storage = storage.Storage(self)
        self.images = imgadm.Images(self)  # type: ignore[arg-type]

    def path(self, path: str) -> pathlib.Path:
        return self.root / path.lstrip("/")

    def host_path(self, path: str) -> pathlib.Path:
        return pathlib.Path(os.path.normpath(path))

    def add_vm(self, image: str, **fields: Any) -> None:
        """A stopped zone made of an image."""
        name = f"zones/{VM}"
        self.storage.clone(f"zones/{image}@final", name)
        self.vms.records[VM] = {
            "uuid": VM,
            "brand": "joyent",
            "state": "stopped",
            "zonepath": f"/{name}",
            "zfs_filesystem": name,
            "zpool": "zones",
            "image_uuid": image,
            "customer_metadata": {},
            **fields,
        }


@dataclasses.dataclass
class Result:
    """How a run ended."""

    status: int
    out: str
    err: str


class Bench:
    """A node, a working directory, and imgadm."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.node = Node(directory / "node")
        self.cwd = directory / "cwd"
        self.cwd.mkdir()

    def run(self, *arguments: str, stdin: bytes = b"", **env: str) -> Result:
        out, err = Stream(), Stream()
        call = call_module.Call(
            ["imgadm", *arguments],
            self.node,  # type: ignore[arg-type]
            env,
            str(self.cwd),
            io.BytesIO(stdin),
            out,
            err,
            pid=7,
        )
        status = call.serve(tool.main)
        return Result(status, out.getvalue().decode(), err.getvalue().decode())

    def write(self, name: str, manifest: Any, stream: bytes | None = None) -> None:
        """NAME.json, and NAME.zfs.gz when there is a stream."""
        document = manifest if isinstance(manifest, str) else json.dumps(manifest)
        (self.cwd / f"{name}.json").write_text(document)
        if stream is not None:
            (self.cwd / f"{name}.zfs.gz").write_bytes(stream)

    def sample(self, name: str = "image", kind: str = "zone", **fields: Any) -> dict[str, Any]:
        """Write a sample image's two files; its manifest."""
        manifest, stream = sample.build(kind, name, **{"uuid": UUID, **fields})
        self.write(name, manifest, stream)
        return manifest

    def install(self, name: str = "image", file: str = "image") -> Result:
        return self.run("install", "-m", f"{name}.json", "-f", f"{file}.zfs.gz")

    def installed(self, name: str = "image", kind: str = "zone", **fields: Any) -> dict[str, Any]:
        """Install a sample image; its manifest."""
        manifest = self.sample(name, kind, **fields)
        done = self.install(name, name)
        assert done.status == 0, done.err
        return manifest
