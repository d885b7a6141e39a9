# SPDX-License-Identifier: Apache-2.0
"""What an image of a running virtual machine costs it: nothing, however large its disk is.

Beside it stands what peers do, which is to stop the guest, copy its disk and start it again. Glance
is a counter here. The disks are sparse: DATA_MIB of each is written, as of a guest in use.
"""

import os
import pathlib
import secrets
import tempfile
import threading
import time
import types
import typing
import uuid

# as nova-compute begins
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"

from bench import nodes, report
from nova_smartos.operations import locks, snapshot
from nova_smartos.smartos import node, vms

SIZES_GIB = (1, 10, 50)
DATA_MIB = 256
RUNS = 3
#: How long events may take to come.
_SETTLE_SECONDS = 60.0
CHUNK = 1 << 20


def run(found: report.Report) -> None:
    """Make images of machines with disks of several sizes, and copy them the other way."""
    with nodes.up() as directory, tempfile.TemporaryDirectory() as folder:
        key = pathlib.Path(folder) / "key"
        key.write_text(secrets.token_hex(32))
        image = nodes.install_image(directory, "zvol")
        with node.Node.local(tool_path=str(directory / "bin")) as gz:
            gz.zfs.create("zones/nova-smartos")
            for gib in SIZES_GIB:
                _measure(found, directory, gz, image, str(key), gib)
    largest = SIZES_GIB[-1]
    kept = found.series[f"moment kept, {largest} GiB (s)"]
    found.figure(
        f"node_side_s_{largest}gib",
        max(kept),
        f"seconds until the moment of a {largest} GiB disk is kept, worst of {RUNS}",
        "<= 1",
    )


def _measure(
    found: report.Report,
    directory: pathlib.Path,
    gz: node.Node,
    image: str,
    key: str,
    gib: int,
) -> None:
    vm = gz.vmadm.get(nodes.create(directory, _payload(image, gib)))
    device = directory / "root/dev/zvol/rdsk" / str(vm.disks[0].zfs_filesystem)
    with device.open("r+b") as disk:
        disk.seek(64 * CHUNK)
        for _ in range(DATA_MIB):
            disk.write(os.urandom(CHUNK))
    exports, glance = _exports(gz, key)
    kept: list[float] = []
    with Downtime(gz, vm.uuid) as live:
        whole = time.perf_counter()
        for _ in range(RUNS):
            kept.append(_image(exports, vm.uuid))
        whole = (time.perf_counter() - whole) / RUNS
    found.series[f"moment kept, {gib} GiB (s)"] = kept
    with Downtime(gz, vm.uuid) as stopped:
        gz.vmadm.stop(vm.uuid)
        moved = _copy(device)
        gz.vmadm.start(vm.uuid)
    found.series[f"not running for a copy, {gib} GiB (s)"] = [stopped.seconds]
    gz.vmadm.delete(vm.uuid)
    if gib == SIZES_GIB[-1]:
        meaning = f"seconds that a machine of {gib} GiB was not running while images were made"
        found.figure("vm_stopped_s", live.seconds, meaning, "<= 0")
        found.figure(
            f"stop_and_copy_stopped_s_{gib}gib",
            stopped.seconds,
            "the same when it is stopped, copied and started",
        )
        found.figure(f"image_s_{gib}gib", whole, "seconds until Glance has all of an image")
        found.figure(f"image_mib_{gib}gib", glance.size_mib, "MiB that Glance got of the disk")
        found.figure(f"copied_mib_{gib}gib", moved, "MiB that a copy of the whole disk is")


def _payload(image: str, gib: int) -> dict[str, typing.Any]:
    size = gib * 1024
    return {
        "brand": "bhyve",
        "ram": 256,
        "vcpus": 1,
        "flexible_disk_size": size,
        "disks": [{"boot": True, "model": "virtio", "image_uuid": image, "size": size}],
    }


def _exports(gz: node.Node, key: str) -> tuple[snapshot.Exports, "Glance"]:
    known = types.SimpleNamespace(get=lambda asked, fresh: gz.vmadm.get(asked))
    options = types.SimpleNamespace(image_signing_key_file=key, trusted_image_owners=[])
    glance = Glance()
    followed = typing.cast(typing.Any, known)
    return snapshot.Exports(gz, followed, locks.Locks(), options, glance_api=glance), glance


def _image(exports: snapshot.Exports, vm_uuid: str) -> float:
    """Seconds from Nova's call until the upload begins."""
    moments: list[float] = []
    instance = types.SimpleNamespace(uuid=vm_uuid, image_meta=types.SimpleNamespace(properties={}))

    def tell(**_: object) -> None:
        moments.append(time.perf_counter())

    exports.make(
        typing.cast(typing.Any, None), typing.cast(typing.Any, instance), str(uuid.uuid4()), tell
    )
    return moments[1] - moments[0]


def _copy(device: pathlib.Path) -> float:
    """Read the whole disk, as whoever copies it does; MiB."""
    moved = 0
    with device.open("rb") as disk:
        while chunk := disk.read(CHUNK):
            moved += len(chunk)
    return moved / CHUNK


class Glance:
    """What an upload speaks to: it counts."""

    def __init__(self) -> None:
        self.size_mib = 0.0
        self._record: dict[str, typing.Any] = {}

    def get(self, context: object, image_id: str) -> dict[str, typing.Any]:
        return self._record

    def update(
        self,
        context: object,
        image_id: str,
        told: object,
        data: typing.Any = None,
        purge_props: bool = True,
    ) -> dict[str, typing.Any]:
        if data is not None:
            size = 0
            while chunk := data.read(65536):
                size += len(chunk)
            self._record["size"] = size
            self.size_mib = size / CHUNK
        return self._record


class Downtime:
    """How long a VM is not running, by what vmadm's events say."""

    def __init__(self, gz: node.Node, vm_uuid: str) -> None:
        self.seconds = 0.0
        self._uuid = vm_uuid
        self._events = gz.vmadm.events(vm_uuid)
        self._ready = threading.Event()
        self._up = threading.Event()
        self._down_at: float | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Downtime":
        self._events.__enter__()
        self._thread.start()
        self._expect(self._ready)
        return self

    def __exit__(self, *exc_info: typing.Any) -> None:
        self._expect(self._up)
        self._events.stop()
        self._thread.join(_SETTLE_SECONDS)
        self._events.__exit__(None, None, None)

    def _expect(self, event: threading.Event) -> None:
        if not event.wait(_SETTLE_SECONDS):
            raise RuntimeError(f"no word of VM {self._uuid} for {_SETTLE_SECONDS} s")

    def _listen(self) -> None:
        for event in self._events:
            for vm in (*event.vms.values(), *([event.vm] if event.vm else [])):
                if vm.uuid == self._uuid:
                    self._note(vm.state == vms.State.RUNNING)
            self._ready.set()

    def _note(self, running: bool) -> None:
        now = time.perf_counter()
        if not running and self._down_at is None:
            self._down_at = now
            self._up.clear()
        elif running:
            if self._down_at is not None:
                self.seconds += now - self._down_at
                self._down_at = None
            self._up.set()
