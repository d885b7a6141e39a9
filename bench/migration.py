# SPDX-License-Identifier: Apache-2.0
"""How long a virtual machine is down while it moves to another node, by the size of its disk.

Machines with disks of several sizes move in turns between two nodes, there and back. Of each disk
as much is written as of the others, and changed while its last whole copy is under way. Beside the
downtime stands how long that copy took, for which peers stop the machine. What vmadm's events say
of both nodes is what counts, on the clock of this process.
"""

import contextlib
import functools
import os
import pathlib
import statistics
import threading
import time
import typing
import uuid

# as nova-compute begins
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"

from nova.network import model
from nova.objects import flavor as flavors
from nova.objects import instance as instances

from bench import nodes, report
from nova_smartos.operations import move, power, resize, transfer, watch
from nova_smartos.smartos import files, node, vms
from nova_smartos.translate import identity

SIZES_GIB = (1, 10, 50)
#: Written of each disk; and written again between the last increment and the stop.
DATA_MIB, CHANGE_MIB = 256, 16
#: Each machine moves so often; the first time is for the images to come along.
RUNS, WARM = 8, 1
#: The node's own waits, as for a guest that ends, would hide what is to be seen.
SPEED = "1000"
#: How long events may take to come.
SETTLE_SECONDS = 60.0
MIB = 1 << 20


class Side:
    """One of the two nodes, and since when each of its VMs runs, or does not."""

    def __init__(self, name: str, directory: pathlib.Path, gz: node.Node) -> None:
        self.name = name
        self.directory = directory
        self.gz = gz
        self.known = watch.Watch(gz, lambda old, new: None)
        self._news = threading.Condition()
        self._seen: dict[str, tuple[bool, float]] = {}
        self._events = gz.vmadm.events()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Side":
        self._events.__enter__()
        self._thread.start()
        self.known.start()
        return self

    def __exit__(self, *exc_info: typing.Any) -> None:
        self.known.stop()
        self._events.stop()
        self._thread.join(SETTLE_SECONDS)
        self._events.__exit__(None, None, None)

    def since(self, vm_uuid: str, *, running: bool) -> float:
        """The moment since which the VM runs, or does not."""

        def told() -> bool:
            return self._seen.get(vm_uuid, (not running, 0.0))[0] == running

        with self._news:
            if not self._news.wait_for(told, SETTLE_SECONDS):
                raise RuntimeError(f"no word of VM {vm_uuid} for {SETTLE_SECONDS} s")
            return self._seen[vm_uuid][1]

    def _listen(self) -> None:
        for event in self._events:
            now = time.perf_counter()
            for vm in (*event.vms.values(), *([event.vm] if event.vm else [])):
                running = vm.state == vms.State.RUNNING
                with self._news:
                    if self._seen.get(vm.uuid, (not running, 0.0))[0] != running:
                        self._seen[vm.uuid] = (running, now)
                        self._news.notify_all()


def run(found: report.Report) -> None:
    """Move each machine there and back, in turns, and compare."""
    with contextlib.ExitStack() as stack:
        sides = [_side(stack, name) for name in ("one", "two")]
        image = nodes.install_image(sides[0].directory, "zvol")
        vm_uuids = {gib: _made(sides[0], image, gib) for gib in SIZES_GIB}
        copies: dict[int, list[float]] = {gib: [] for gib in SIZES_GIB}
        downs: dict[int, list[float]] = {gib: [] for gib in SIZES_GIB}
        for turn in range(WARM + RUNS):
            # there and back, and neither size always first
            source, target = sides[:: 1 - turn % 2 * 2]
            for gib in SIZES_GIB[:: 1 - turn // 2 % 2 * 2]:
                copied, down = _moved(source, target, vm_uuids[gib], gib)
                if turn >= WARM:
                    copies[gib].append(copied)
                    downs[gib].append(down)
    for gib in SIZES_GIB:
        found.series[f"down, {gib} GiB (s)"] = downs[gib]
    for gib in SIZES_GIB:
        found.series[f"copied while running, {gib} GiB (s)"] = copies[gib]
    _figures(found, copies, downs)


def _figures(
    found: report.Report, copies: dict[int, list[float]], downs: dict[int, list[float]]
) -> None:
    small, large = SIZES_GIB[0], SIZES_GIB[-1]
    # of what was measured one after the other, so that a busy moment counts for both
    ratio = statistics.median(
        mine / other for mine, other in zip(downs[large], downs[small], strict=True)
    )
    meaning = f"downtime with {large} GiB, of that with {small} GiB, median of {RUNS} pairs"
    found.figure(f"downtime_{large}gib_over_{small}gib", ratio, meaning, "<= 1.2")
    for gib in SIZES_GIB:
        middle, low, high = statistics.median(downs[gib]), min(downs[gib]), max(downs[gib])
        meaning = f"seconds not running, median; from {low:.2f} to {high:.2f}"
        found.figure(f"downtime_s_{gib}gib", middle, meaning)
    both = [a + b for a, b in zip(copies[large], downs[large], strict=True)]
    meaning = "the same for one that is stopped before all of it is copied"
    found.figure(f"stop_and_copy_s_{large}gib", statistics.median(both), meaning)


def _side(stack: contextlib.ExitStack, name: str) -> Side:
    directory = stack.enter_context(nodes.up("--name", name, "--speed", SPEED))
    gz = stack.enter_context(node.Node.local(tool_path=str(directory / "bin")))
    gz.zfs.create(files.DATASET)
    return stack.enter_context(Side(name, directory, gz))


def _made(side: Side, image: str, gib: int) -> str:
    size = gib * 1024
    payload = {
        "brand": "bhyve",
        "ram": 256,
        "vcpus": 1,
        "flexible_disk_size": size,
        "disks": [{"boot": True, "model": "virtio", "image_uuid": image, "size": size}],
    }
    made = nodes.create(side.directory, payload)
    mark = identity.mark(_instance(made, side.name, gib))
    side.gz.vmadm.update(made, {"set_internal_metadata": mark})
    _write(side, made, DATA_MIB)
    return made


def _write(side: Side, vm_uuid: str, mib: int) -> None:
    """Write to the disk of a VM, as its guest does."""
    (disk,) = side.gz.vmadm.get(vm_uuid).disks
    device = side.directory / "root/dev/zvol/rdsk" / str(disk.zfs_filesystem)
    with device.open("r+b") as opened:
        opened.seek(64 * MIB)
        for _ in range(mib):
            opened.write(os.urandom(MIB))


def _moved(source: Side, target: Side, vm_uuid: str, gib: int) -> tuple[float, float]:
    """Seconds that the VM was copied while it ran, and that it was down."""
    instance = _instance(vm_uuid, source.name, gib)
    goes = identity.Move(str(uuid.uuid4()), target.name)
    stopped: list[float] = []

    def stop() -> None:
        _write(source, vm_uuid, CHANGE_MIB)
        stopped.append(time.perf_counter())
        power.stop(source.gz, source.known, instance)

    began = time.perf_counter()
    move.away(
        transfer.Transfer(source.gz, target.gz, vm_uuid),
        source.known,
        instance,
        instance.flavor,
        goes,
        None,
        stop=stop,
        start=functools.partial(power.start, source.gz, source.known, instance),
    )
    instance.host = target.name
    network = model.NetworkInfo()
    there = (target.gz, target.known, instance)
    off = functools.partial(power.stop, *there)
    told: dict[str, typing.Any] = {"block_device_info": None, "nic_tags": {}, "stop": off}
    change = functools.partial(resize.finish, *there, network_info=network, **told)
    move.arrive(*there, target.name, network_info=network, change=change)
    power.start(*there)
    down = target.since(vm_uuid, running=True) - source.since(vm_uuid, running=False)
    move.confirm(source.gz, target.gz, source.known, instance)
    return stopped[0] - began, down


def _instance(vm_uuid: str, host: str, gib: int) -> instances.Instance:
    flavor = flavors.Flavor(
        flavorid="nst",
        name="nst",
        vcpus=1,
        memory_mb=256,
        root_gb=gib,
        ephemeral_gb=0,
        swap=0,
        extra_specs={"smartos:brand": "bhyve"},
    )
    return instances.Instance(
        id=1,
        uuid=vm_uuid,
        host=host,
        hostname="nst",
        display_name="nst",
        project_id="9" * 32,
        user_id="8" * 32,
        image_ref="",
        created_at=None,
        flavor=flavor,
        system_metadata={},
    )
