# SPDX-License-Identifier: Apache-2.0
"""What a move puts at the datasets of a VM that stays until it has moved, and how that goes again.

Snapshots, and room for what they keep: a property remembers the limits that stood in their way. It
comes before the first snapshot and goes after the last, so that it alone tells of all.
"""

import contextlib
import re

from nova_smartos.operations import image, transfer
from nova_smartos.smartos import errors, node, vms
from nova_smartos.translate import errors as faults

#: How the names of a move's snapshots begin.
SNAPSHOT = "nova-move-"
LIMITS = ("quota", "reservation")

# Properties of a dataset whose quota makes room for snapshots: what its limits are otherwise.
_KEPT = {name: f"nova:{name}" for name in LIMITS}


def tops(vm: vms.Vm) -> list[str]:
    """The datasets that are the VM's with all below them, its own first."""
    own = f"{image.POOL}/{vm.uuid}"
    disks = [disk.zfs_filesystem for disk in vm.disks if disk.zfs_filesystem]
    beside = [each for each in disks if not each.startswith(f"{own}/")]
    strange = [each for each in beside if not re.fullmatch(rf"{own}-disk\d+", each)]
    if vm.zfs_filesystem != own or strange:
        raise faults.Refused(f"VM {vm.uuid} has datasets elsewhere than below {own}")
    return [own, *beside]


def begin(gz: node.Node, vm: vms.Vm) -> None:
    """Let the VM keep what it overwrites, in a snapshot, beyond its quota."""
    own = tops(vm)[0]
    found = gz.zfs.get(own, *LIMITS, *_KEPT.values())
    if found[_KEPT["quota"]] is None:
        kept = {_KEPT[name]: found[name] or "0" for name in LIMITS}
        gz.zfs.set(own, {**kept, "quota": "none"})


def left(gz: node.Node) -> frozenset[str]:
    """The VMs that a move has left something at, or is under way of."""
    named = gz.zfs.having(_KEPT["quota"], image.POOL, depth=1)
    return frozenset(each.removeprefix(f"{image.POOL}/") for each in named)


def end(gz: node.Node, vm: vms.Vm) -> None:
    """Take away what a move leaves beside a VM that stays, or has arrived."""
    for top in reversed(tops(vm)):
        for short in transfer.snapshots(gz, top):
            if short.startswith(SNAPSHOT):
                with contextlib.suppress(errors.NotFound):
                    gz.zfs.destroy(f"{top}@{short}", recursive=True)
        found = gz.zfs.get(top, transfer.COPY, *_KEPT.values())
        if found[transfer.COPY] is not None:
            gz.zfs.inherit(transfer.COPY, top, recursive=True)
        limits = {name: found[kept] for name, kept in _KEPT.items()}
        if limits["quota"] is not None:
            # only now, for what snapshots take counts
            gz.zfs.set(top, {name: _limit(value) for name, value in limits.items()})
        # the one that tells of all is the last
        for name in ("reservation", "quota"):
            if found[_KEPT[name]] is not None:
                gz.zfs.inherit(_KEPT[name], top)


def _limit(text: str | None) -> str:
    return text if text and text != "0" else "none"
