# SPDX-License-Identifier: Apache-2.0
"""Vm snapshots: what an operator keeps of a VM on its node, and how a VM goes back to it.

vmadm makes and deletes them. It also takes VMs back, but it stops a VM that runs, destroys newer
snapshots, gives the VM the metadata and the sizes of its disks that it had then, and starts it
even if it was down. Here none of that happens unasked: the VM is down before and afterwards, and
it is told what Nova wants it to be told now.
"""

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

from nova_smartos.smartos import errors, files, node, vms

#: What the names of those begin with that are made here.
OURS = "nova-"
_ZFS = "vmsnap-"
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,48}")
_TARGET = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NEVER = datetime.datetime.min.replace(tzinfo=datetime.UTC)
# of a clone that is mounted in the global zone: what is in it is a tenant's
_HARMLESS = {"devices": "off", "exec": "off", "setuid": "off"}


@dataclasses.dataclass(frozen=True)
class Kept:
    """A vm snapshot."""

    name: str
    created_at: datetime.datetime | None
    ours: bool


def listed(vm: vms.Vm) -> list[Kept]:
    """The VM's snapshots, vmadm's own among them, the oldest first."""
    found = [Kept(each.name, each.created_at, each.name.startswith(OURS)) for each in vm.snapshots]
    return sorted(found, key=lambda each: (each.created_at or _NEVER, each.name))


def create(gz: node.Node, vm: vms.Vm, name: str) -> str:
    """Keep the VM as it is now; it may run. The name that it can be found by [1]."""
    if not _NAME.fullmatch(name):
        raise _refused(f"{name!r} is no name of a snapshot: {_NAME.pattern}")
    gz.vmadm.create_snapshot(vm.uuid, OURS + name)
    return OURS + name


def delete(gz: node.Node, vm: vms.Vm, name: str) -> None:
    """Forget what was kept; a clone of it is in the way [1]."""
    _need(vm, name)
    gz.vmadm.delete_snapshot(vm.uuid, name)


def clone(gz: node.Node, vm: vms.Vm, name: str, target: str) -> str:
    """A dataset of its own with what the VM's root was then, for files to be taken out [1]."""
    _need(vm, name)
    parts = target.split("/")
    ours = f"{target}/".startswith(f"{files.DATASET}/")
    if not _TARGET.fullmatch(target) or ours or any(_UUID.match(part) for part in parts):
        # what looks like a VM, an image or something on its way would be taken for it
        raise _refused(f"{target!r} is no place for a clone: POOL/NAME, without a uuid in it")
    gz.zfs.clone(f"{_roots(vm)[0]}@{_ZFS}{name}", target, {} if vm.hvm else _HARMLESS)
    return target


def restore(gz: node.Node, vm: vms.Vm, name: str, *, force: bool = False) -> list[str]:
    """Take the VM's datasets back to a snapshot; the newer snapshots that went with that.

    The VM must be down, and stays so.
    """
    if vm.state != vms.State.STOPPED:
        raise errors.InvalidState(f"VM {vm.uuid} is {vm.state}: stop it first", code="State")
    _need(vm, name)
    found = gz.zfs.list(*_roots(vm), types=("snapshot",), recursive=True)
    snapshots = [each.name for each in found if each.name.endswith(f"@{_ZFS}{name}")]
    if not set(_roots(vm)) <= {each.partition("@")[0] for each in snapshots}:
        raise errors.NotFound(f"{name} is not one of all disks of the VM", code="SnapshotNotFound")
    newer = _newer(gz, [each.name for each in found], snapshots)
    if newer and not force:
        raise errors.InvalidState(
            f"these are newer than {name}, and would be destroyed: {', '.join(newer)}",
            code="NewerSnapshots",
        )
    if cloned := [each for each in newer if gz.zfs.get(each, "clones")["clones"]]:
        raise errors.InvalidState(
            f"there are clones of what would be destroyed: {', '.join(cloned)}", code="HasClones"
        )
    for each in sorted(snapshots):
        _roll_back(gz, vm, each)
    if vm.hvm:
        # vmadm's are of its own dataset, too: without the disks they would be nothing
        for each in sorted({name.partition("@")[2] for name in newer}):
            with contextlib.suppress(errors.NotFound):
                gz.zfs.destroy(f"{vm.zfs_filesystem}@{each}")
    _tell(gz, vm)
    return newer


def _roll_back(gz: node.Node, vm: vms.Vm, snapshot: str) -> None:
    dataset = snapshot.partition("@")[0]
    size = gz.zfs.get(dataset, "volsize")["volsize"] if vm.hvm else None
    gz.zfs.rollback(snapshot, destroy_newer=True)
    if size is not None and gz.zfs.get(dataset, "volsize")["volsize"] != size:
        # it has grown since, and its flavor says so
        gz.zfs.set(dataset, {"volsize": size, "refreservation": "auto"})


def _tell(gz: node.Node, vm: vms.Vm) -> None:
    """Give the VM its present metadata, which a zone's root holds as they were then."""
    if vm.hvm:
        return
    then = gz.vmadm.get(vm.uuid)
    update: dict[str, Any] = {}
    for kind in ("customer_metadata", "internal_metadata", "tags"):
        before: Mapping[str, Any] = getattr(then, kind)
        now: Mapping[str, Any] = getattr(vm, kind)
        gone = sorted(before.keys() - now.keys())
        update |= {f"set_{kind}": dict(now)} if now else {}
        update |= {f"remove_{kind}": gone} if gone else {}
    gz.vmadm.update(vm.uuid, update)


def _newer(gz: node.Node, every: list[str], wanted: list[str]) -> list[str]:
    """The snapshots of the same datasets that were made after these."""
    found = []
    for snapshot in wanted:
        dataset = snapshot.partition("@")[0]
        at = _made(gz, snapshot)
        others = (each for each in every if each.partition("@")[0] == dataset)
        found += [each for each in others if each != snapshot and _made(gz, each) > at]
    return sorted(found)


def _made(gz: node.Node, snapshot: str) -> int:
    """When it was made, in the pool's own count: clocks go back."""
    return int(gz.zfs.get(snapshot, "createtxg")["createtxg"] or 0)


def _need(vm: vms.Vm, name: str) -> None:
    if name not in {each.name for each in vm.snapshots}:
        raise errors.NotFound(f"VM {vm.uuid} has no snapshot {name}", code="SnapshotNotFound")


def _roots(vm: vms.Vm) -> list[str]:
    """The datasets that hold what the guest has written: never what vmadm keeps of an HVM."""
    if not vm.hvm:
        return [vm.zfs_filesystem] if vm.zfs_filesystem else []
    own = [disk for disk in vm.disks if disk.media != "cdrom"]
    ordered = sorted(own, key=lambda disk: not disk.boot)
    return [disk.zfs_filesystem for disk in ordered if disk.zfs_filesystem]


def _refused(message: str) -> errors.InvalidPayload:
    return errors.InvalidPayload(message, code="Argument")
