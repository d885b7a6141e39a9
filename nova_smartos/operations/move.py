# SPDX-License-Identifier: Apache-2.0
"""A VM moves to another node: copied while it runs, stopped, the rest sent, and made there.

Two VMs of one uuid must never both be able to run. The VM carries a mark (identity.MOVED) from when
it is down for the move, its copy has the same mark, and this driver starts none that has one. Which
of them loses it Nova's record decides: the copy when the instance is that host's (`arrive`), the
VM itself when the instance is still, or again, its own (`back`). Until the copy is confirmed
nothing of the VM is deleted.

The work on both nodes is done by the nova-compute that the VM leaves; whatever it leaves undone on
the target, `clear` removes, and each step may be repeated.
"""

import contextlib
import io
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nova import exception
from nova.network import model
from nova.objects import flavor as flavors
from nova.objects import instance as instances
from oslo_log import log

from nova_smartos.operations import build, guest, image, removal, resize, trail, transfer, watch
from nova_smartos.smartos import errors, files, node, spans, vms, zfs
from nova_smartos.translate import errors as faults
from nova_smartos.translate import identity, metadata

LOG = log.getLogger(__name__)

#: While the VM runs its changes are sent again, until sending them takes no longer than this.
SHORT_SECONDS = 5.0
MOST_ROUNDS = 4

_GIB = 2**30
# What a copy does not get: its stream has it, or the other node's own files would depend on it.
_STREAMED = frozenset({"volblocksize", "volsize"})
_SHARED = frozenset({"sharenfs", "sharesmb", "zoned"})
_MOUNTED = frozenset({"canmount", "mountpoint"})
_REST = frozenset({vms.State.RUNNING, vms.State.STOPPED})
_UNTOLD = frozenset(
    {"customer_metadata", "filesystems", "internal_metadata", "nics", "snapshots", "tags"}
)


@spans.step
def away(
    moving: transfer.Transfer,
    known: watch.Watch,
    instance: instances.Instance,
    flavor: flavors.Flavor,
    move: identity.Move,
    block_device_info: Mapping[str, Any] | None,
    *,
    stop: Callable[[], None],
    start: Callable[[], None],
) -> None:
    """Copy the VM, stop it, and make it on the target, where Nova then says that it is.

    Whatever fails, the VM is as it was.
    """
    gz = moving.source
    try:
        with faults.translated(instance.uuid):
            vm = known.get(instance.uuid, fresh=True)
            quota_gib = resize.check(vm, instance, flavor, block_device_info, moves=True)
            _check(vm)
            tops = trail.tops(vm)
            _check_data(gz, tops, quota_gib)
            clear(moving.target, vm.uuid)
            _bring_images(moving, vm)
        with contextlib.ExitStack() as undo, faults.translated(instance.uuid):
            undo.callback(forget, moving.target, vm.uuid)
            undo.callback(_restored, moving, known, vm, start)
            trail.begin(gz, vm)
            rounds = _Rounds(moving, tops, move)
            rounds.while_it_runs(vm.state == vms.State.RUNNING)
            with known.changing(vm.uuid):
                stop()
                gz.vmadm.update(
                    vm.uuid, {"autoboot": False, "set_internal_metadata": identity.move_mark(move)}
                )
                down = known.get(vm.uuid, fresh=True)
                if down.state != vms.State.STOPPED or identity.moved(down) != move:
                    raise errors.OutputError(f"VM {vm.uuid} is not down, or not marked")
            rounds.last()
            # it may have written since, and ZFS sets no quota below what is used
            _check_data(moving.target, tops, quota_gib)
            _make(moving, down, tops)
            undo.pop_all()
    except exception.NovaException as error:
        # as Nova wants it from those who have undone what they did: the instance is as it was
        raise exception.InstanceFaultRollback(error) from error


@spans.step
def arrive(
    gz: node.Node,
    known: watch.Watch,
    instance: instances.Instance,
    host: str,
    *,
    network_info: model.NetworkInfo,
    change: Callable[[], vms.Vm],
) -> vms.Vm:
    """Nova says that the VM is this host's: give it its nics and flavor, and let it boot."""
    vm = known.get(instance.uuid, fresh=True)
    move = identity.moved(vm)
    if move is None:
        return vm
    if move.host != host:
        raise errors.InvalidState(f"VM {vm.uuid} was to go to {move.host or '?'}", code="Moved")
    trail.end(gz, vm)
    if metadata.drive_folder(vm) is not None:
        _give_drive(gz, vm, instance, network_info)
    change()
    return _unmarked(gz, known, vm)


def _give_drive(
    gz: node.Node, vm: vms.Vm, instance: instances.Instance, network_info: model.NetworkInfo
) -> None:
    """Make a zone's config drive anew: it lies beside the zone, and did not come with it."""
    told = guest.prepared(instance, instance.image_meta, network_info=network_info, hvm=False)
    if told.tree is not None:
        guest.place_tree(gz, told.tree)
    mount = metadata.drive_mount(vm.uuid)
    if mount["target"] not in [each["target"] for each in vm.document.get("filesystems", [])]:
        gz.vmadm.update(vm.uuid, {"add_filesystems": [mount]})


@spans.step
def back(gz: node.Node, known: watch.Watch, uuid: str) -> vms.Vm:
    """Nova says that the VM is this host's still, or again: all is as it was before it moved."""
    vm = known.get(uuid, fresh=True)
    trail.end(gz, vm)
    return vm if identity.moved(vm) is None else _unmarked(gz, known, vm)


@spans.step
def confirm(
    gz: node.Node, target: node.Node, known: watch.Watch, instance: instances.Instance
) -> None:
    """Delete the VM that has moved, once its copy is seen where Nova says that it is."""
    try:
        vm = known.get(instance.uuid, fresh=True)
    except errors.NotFound:
        LOG.info("The VM that has moved is gone already", instance=instance)
        return
    if identity.moved(vm) is None or vm.state != vms.State.STOPPED:
        raise errors.InvalidState(
            f"VM {vm.uuid} is {vm.state} and not marked as moved: it stays", code="NotMoved"
        )
    copies = target.vmadm.lookup({"uuid": vm.uuid})
    if not copies or identity.moved(copies[0]) is not None:
        raise errors.InvalidState(
            f"VM {vm.uuid} is not on the other node, or not whole: this one stays", code="OnlyCopy"
        )
    build.destroy(gz, known, instance)


def clear(target: node.Node, uuid: str) -> None:
    """Remove a copy that has not arrived; refuse to touch anything else of this uuid."""
    transfer.wait_until_still(target, uuid)
    for vm in target.vmadm.lookup({"uuid": uuid}):
        if identity.moved(vm) is None and vm.state != vms.State.RECEIVING:
            raise faults.Refused(f"the other node has a VM {uuid} already")
        removal.remove(target, vm)
    own = f"{image.POOL}/{uuid}"
    left = sorted(each.name for each in _named(target, uuid) if "@" not in each.name)
    ours = {each for each in left if target.zfs.get(each, transfer.COPY)[transfer.COPY]}
    if _aside(own) in ours:
        # then vmadm has made the other one, for the same copy
        ours.add(own)
    for each in left:
        if each not in ours:
            raise faults.Refused(f"the other node has {each} already, which is not ours")
    for each in left:
        target.zfs.destroy(each, recursive=True)


@spans.step
def forget(target: node.Node, uuid: str) -> None:
    """The same after a failure: whatever stops this must not hide that."""
    try:
        clear(target, uuid)
    except (errors.SmartOSError, exception.NovaException):
        LOG.exception("VM %s: what was copied of it stays on the other node, and never boots", uuid)


class _Rounds:
    """The snapshots of one move, each with less to send than the one before."""

    def __init__(self, moving: transfer.Transfer, tops: Sequence[str], move: identity.Move) -> None:
        self._moving = moving
        self._tops = tops
        self._name = f"{trail.SNAPSHOT}{move.migration[:8]}"
        self._number = 0
        self._own: dict[str, dict[str, str | None]] = {}

    def while_it_runs(self, running: bool) -> None:
        """Send all; of a VM that runs what it changes meanwhile too, until that is little."""
        for _ in range(MOST_ROUNDS):
            began = time.monotonic()
            self._own.clear()
            self._go()
            if not running or time.monotonic() - began < SHORT_SECONDS:
                return

    def last(self) -> None:
        """Send what was changed since, and see that it is all there, and nothing else."""
        parts = self._go()
        wanted = {part.name: part.snapshots for part in parts}
        listed = self._listed(self._moving.target)
        there = {each.name for each in listed}
        missing = [name for name, line in wanted.items() if f"{name}@{line[-1]}" not in there]
        if missing:
            raise errors.OutputError(f"not on the other node: {', '.join(sorted(missing))}")
        for each in listed:
            name, _, short = each.name.partition("@")
            if name not in wanted or (short and short not in wanted[name]):
                # a guest, or an operator, has destroyed it meanwhile
                with contextlib.suppress(errors.NotFound):
                    self._moving.target.zfs.destroy(each.name, recursive=True)
        self._delegate(parts)

    def _go(self) -> list[transfer.Part]:
        self._moving.check()
        self._number += 1
        short = f"{self._name}-{self._number}"
        _snapshot(self._moving.source, self._tops, short)
        listed = self._listed(self._moving.source)
        lines: dict[str, tuple[str, ...]] = {}
        for each in listed:
            name, at, snapshot = each.name.partition("@")
            if at:
                lines[name] = (*lines.get(name, ()), snapshot)
        parts = [
            transfer.Part(each.name, lines[each.name], each.origin, self._properties(each))
            for each in listed
            if lines.get(each.name, ("",))[-1] == short
        ]
        for part in parts:
            self._moving.bring(part)
        return parts

    def _properties(self, dataset: zfs.Dataset) -> dict[str, str]:
        """Those of the copy."""
        name = dataset.name
        if name not in self._own:
            self._own[name] = self._moving.source.zfs.own(name)
        # the mark first, for ps shows no more than the beginning
        properties = {transfer.COPY: self._moving.uuid}
        without = _STREAMED | _SHARED
        if not self._is_delegated(name):
            without |= _MOUNTED
        elif dataset.type == "filesystem":
            # a zone's dataset gets no mountpoint from outside: first that, then the zone, and the
            # node itself never mounts it
            properties["canmount"] = "noauto"
        if name in self._tops:
            without |= frozenset(trail.LIMITS)
        for key, value in self._own[name].items():
            if key not in without and value is not None:
                properties.setdefault(key, value)
        return properties

    def _delegate(self, parts: Iterable[transfer.Part]) -> None:
        """Make the tenant's datasets the zone's, and its to mount."""
        there, data = self._moving.target.zfs, f"{self._tops[0]}/data"
        for part in parts:
            if part.name == data:
                # all below inherits it
                there.set(data, {"zoned": "on"})
            if "canmount" in part.properties:
                there.set(part.name, {"canmount": self._own[part.name].get("canmount") or "on"})

    def _is_delegated(self, name: str) -> bool:
        data = f"{self._tops[0]}/data"
        return name == data or name.startswith(f"{data}/")

    def _listed(self, gz: node.Node) -> list[zfs.Dataset]:
        """All of the VM's datasets and snapshots, parents first and the oldest first."""
        types = ("filesystem", "volume", "snapshot")
        return gz.zfs.list(*self._tops, types=types, recursive=True)


def _check(vm: vms.Vm) -> None:
    if vm.state not in _REST:
        raise errors.InvalidState(f"VM {vm.uuid} is {vm.state}", code="State")
    held = [each["path"] for each in vm.document.get("pci_devices", [])]
    if held:
        raise faults.Refused(f"devices of a node do not move: {', '.join(held)}")


def _check_data(gz: node.Node, tops: Sequence[str], quota_gib: int | None) -> None:
    """Refuse a quota that is below what a zone uses, with its snapshots."""
    if quota_gib is None:
        return
    used = int(gz.zfs.get(tops[0], "used")["used"] or 0)
    if used > quota_gib * _GIB:
        raise exception.ResizeError(
            reason=f"it uses {used / _GIB:.2f} GiB, and the new flavor has {quota_gib}"
        )


def _named(gz: node.Node, uuid: str) -> list[zfs.Dataset]:
    """The datasets of the pool that a VM of this uuid would have, or a copy of it on its way."""
    own = re.compile(rf"{image.POOL}/{uuid}(?:-disk\d+|-copy)?")
    listed = gz.zfs.list(image.POOL, types=("filesystem", "volume"), depth=1)
    return [each for each in listed if own.fullmatch(each.name)]


def _bring_images(moving: transfer.Transfer, vm: vms.Vm) -> None:
    """See that the target has the images that the VM is made of: vmadm wants them there."""
    wanted = {vm.image_uuid, *(disk.image_uuid for disk in vm.disks)} - {None}
    for uuid in sorted(each for each in wanted if each):
        moving.check()
        try:
            moving.target.imgadm.get(uuid, zpool=image.POOL)
        except errors.NotFound:
            _bring_image(moving, uuid)


def _bring_image(moving: transfer.Transfer, uuid: str) -> None:
    """Install an image as the source has it: its snapshot stays the one that the VM's root is of.

    imgadm wants a file and its sum beforehand, so that the stream is staged.
    """
    source, target = moving.source, moving.target
    document = dict(source.imgadm.get(uuid, zpool=image.POOL).manifest.document)
    # all of it is sent, and the target need not have another one
    document.pop("origin", None)
    name = f"{image.MOVING}-{uuid}-{secrets.token_hex(4)}"
    LOG.info("VM %s: its image %s goes before it", moving.uuid, uuid)
    with contextlib.ExitStack() as staged:
        staged.callback(_discard, target, name)
        with source.zfs.send(f"{image.POOL}/{uuid}@final") as stream:
            data = image.Counted(transfer.Plain(stream, f"image {uuid}"))
            path = target.files.write(name, data)
        document["files"] = [
            {"sha1": data.sha1.hexdigest(), "size": data.size_bytes, "compression": "none"}
        ]
        staged.callback(_discard, target, f"{name}.json")
        text = io.BytesIO(json.dumps(document).encode())
        target.imgadm.install(target.files.write(f"{name}.json", text), path, zpool=image.POOL)


def _discard(gz: node.Node, name: str) -> None:
    try:
        gz.files.delete(name)
    except errors.SmartOSError as error:
        LOG.warning("%s/%s stays on the other node for now: %s", files.FOLDER, name, error)


def _unmarked(gz: node.Node, known: watch.Watch, vm: vms.Vm) -> vms.Vm:
    """The VM without the mark that keeps it from booting."""
    with known.changing(vm.uuid):
        gz.vmadm.update(vm.uuid, {"remove_internal_metadata": [identity.MOVED]})
    now = known.get(vm.uuid, fresh=True)
    if identity.moved(now) is not None:
        raise errors.OutputError(f"VM {vm.uuid} has kept the mark of its move")
    return now


def _snapshot(gz: node.Node, tops: Iterable[str], short: str) -> None:
    """One snapshot of all, at one moment."""
    names = [f"{top}@{short}" for top in tops]
    try:
        gz.zfs.snapshot(*names, recursive=True)
    except errors.OutcomeUnknown:
        there = [short in transfer.snapshots(gz, top) for top in tops]
        if not all(there):
            raise


def _make(moving: transfer.Transfer, vm: vms.Vm, tops: Sequence[str]) -> None:
    """Make the VM of the datasets that have arrived: down, and marked as they are."""
    moving.check()
    target = moving.target
    document = {name: value for name, value in vm.document.items() if name not in _UNTOLD}
    document["autoboot"] = False
    if vm.brand == "bhyve":
        _receive_bhyve(target, vm, tops[0], document)
    else:
        target.vmadm.receive_record(document)
    made = target.vmadm.get(vm.uuid)
    whole = (
        made.state == vms.State.STOPPED
        and not made.autoboot
        and identity.moved(made) == identity.moved(vm)
        and [disk.path for disk in made.disks] == [disk.path for disk in vm.disks]
        and made.datasets == vm.datasets
    )
    if not whole:
        raise errors.OutputError(f"the copy of VM {vm.uuid} is {made.state}, or not as it is here")


def _receive_bhyve(target: node.Node, vm: vms.Vm, own: str, document: Mapping[str, Any]) -> None:
    """The same for bhyve, of which vmadm makes the dataset above the disks itself."""
    aside = _aside(own)
    target.zfs.rename(own, aside)
    try:
        target.vmadm.receive_record(document)
    except errors.InvalidState as error:
        if error.code != "DatasetsMissing":
            raise
    with contextlib.suppress(errors.NotFound):
        target.zfs.destroy(own, recursive=True)
    target.zfs.rename(aside, own)
    target.vmadm.install(vm.uuid)


def _aside(own: str) -> str:
    """Where a copy's dataset waits while vmadm makes another one of its name."""
    return f"{own}-copy"


def _restored(
    moving: transfer.Transfer, known: watch.Watch, vm: vms.Vm, start: Callable[[], None]
) -> None:
    """Undo: the VM is as it was, and runs if it did, unless it is to be deleted."""
    try:
        back(moving.source, known, vm.uuid)
        if vm.state == vms.State.RUNNING and not moving.ended:
            start()
    except (errors.SmartOSError, exception.NovaException):
        LOG.exception(
            "VM %s is not as it was: smartos-audit tells what its move has left, a start of"
            " nova-compute takes it away, and a hard reboot starts the VM",
            vm.uuid,
        )
