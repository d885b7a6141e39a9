# SPDX-License-Identifier: Apache-2.0
"""Who is who on a node: the VMs that are Nova's and whose they are, kept fresh by vmadm's events.

One command for as long as it lasts, so that a cycle needs none; Nova is not asked.
"""

import dataclasses
import logging
import threading
from collections.abc import Mapping
from typing import Any

from nova_smartos.smartos import errors, node, vmadm, vms
from nova_smartos.translate import identity

LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclasses.dataclass(frozen=True)
class Nic:
    """A nic of a VM, and the Neutron port that it is."""

    interface: str
    mac: str
    port: str | None


@dataclasses.dataclass(frozen=True)
class Member:
    """One VM: what samples say of it beside their numbers."""

    #: of the instance; a zone that stands in for a rescued one counts for that
    uuid: str
    vm_uuid: str
    zonename: str
    brand: str
    running: bool
    #: when its zone last ended
    ended_ns: int | None
    owner: Mapping[str, Any]
    memory_mib: int | None
    nics: tuple[Nic, ...]
    #: by the device's name
    datasets: Mapping[str, str]
    #: whether it has gone to another node, or is a copy that has not arrived
    moved: bool = False

    @classmethod
    def of(cls, vm: vms.Vm) -> "Member | None":
        """What a VM tells of itself; None when it is not Nova's."""
        owner = identity.of(vm)
        if owner is None:
            return None
        ports = identity.ports(vm)
        ended = vm.exit_timestamp
        return cls(
            uuid=identity.stands_in_for(vm) or vm.uuid,
            vm_uuid=vm.uuid,
            zonename=vm.zonename or vm.uuid,
            brand=vm.brand,
            running=vm.state == vms.State.RUNNING,
            ended_ns=None if ended is None else int(ended.timestamp() * 10**9),
            owner={**dataclasses.asdict(owner), "brand": vm.brand},
            memory_mib=vm.ram_mib if vm.hvm else vm.max_physical_memory_mib,
            nics=tuple(
                Nic(nic.interface or "", nic.mac.lower(), ports.get(nic.mac.lower()))
                for nic in vm.nics
            ),
            datasets=_datasets(vm),
            moved=identity.moved(vm) is not None,
        )


class Roster:
    """The VMs of one node that are Nova's, by zonename."""

    def __init__(self, gz: node.Node) -> None:
        self._node = gz
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._server_uuid = ""
        self._current = threading.Event()
        self._stopping = threading.Event()
        self._events: vmadm.Events | None = None
        self._thread = threading.Thread(target=self._follow, name="smartos-roster", daemon=True)

    def start(self) -> None:
        """Follow the node from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        with self._lock:
            self._stopping.set()
            events = self._events
        if events is not None:
            events.stop()

    @property
    def server_uuid(self) -> str:
        """The node's own uuid, once it has told it."""
        return self._server_uuid

    def members(self, patience: float) -> dict[str, Member] | None:
        """All there are; None while the node does not tell."""
        if not self._current.wait(patience):
            return None
        with self._lock:
            return dict(self._members)

    def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                if not self._server_uuid:
                    self._server_uuid = self._node.sysinfo.get().uuid
                self._read()
                pause = _FIRST_PAUSE
                LOG.info(
                    "The event stream of node %s has ended; it is begun anew", self._server_uuid
                )
            except errors.SmartOSError as error:
                LOG.warning("Node %s does not tell of its VMs: %s", self._server_uuid, error)
            except Exception:
                # a thread that ended unseen would let what it knew last stand for ever
                LOG.exception("What node %s tells of its VMs is not understood", self._server_uuid)
            self._current.clear()
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self) -> None:
        with self._node.vmadm.events() as events:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._events = events
            for event in events:
                self._hear(event)

    def _hear(self, event: vms.Event) -> None:
        with self._lock:
            if event.type == "ready":
                found = [Member.of(vm) for vm in event.vms.values()]
                self._members = {each.zonename: each for each in found if each is not None}
                self._current.set()
            elif event.type == "delete":
                self._members.pop(event.zonename or event.uuid, None)
            elif event.vm is not None:
                member = Member.of(event.vm)
                if member is not None:
                    self._members[member.zonename] = member


def _datasets(vm: vms.Vm) -> dict[str, str]:
    """What it stores data in: disks of an HVM, the root and the delegated dataset of a zone."""
    if vm.hvm:
        return {
            disk.path.rpartition("/")[2].removeprefix(f"{vm.uuid}-"): disk.zfs_filesystem
            for disk in vm.disks
            if disk.zfs_filesystem and disk.media != "cdrom"
        }
    found = {"root": vm.zfs_filesystem} if vm.zfs_filesystem else {}
    found |= {name.removeprefix(f"{vm.zfs_filesystem}/"): name for name in vm.datasets}
    return found
