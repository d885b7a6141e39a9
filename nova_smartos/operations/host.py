# SPDX-License-Identifier: Apache-2.0
"""The node as Nova's compute node: who it is, and what it has."""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.compute import provider_tree
from nova.objects import compute_node
from nova.virt import node as nova_node
from oslo_log import log

from nova_smartos.operations import watch
from nova_smartos.smartos import errors, kstat, node, vms
from nova_smartos.translate import identity, inventory

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)

_PROCESSOR = kstat.Selector("cpu_info", 0)
_RATIOS = {
    "VCPU": "cpu_allocation_ratio",
    "MEMORY_MB": "ram_allocation_ratio",
    "DISK_GB": "disk_allocation_ratio",
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """The pool and the VMs at one moment."""

    storage: inventory.Storage
    machines: tuple[vms.Vm, ...]
    #: the memory that VMs may take which are not instances of this service
    foreign_mib: int


class Host:
    """What the node said when it was met, and what its pool said when it was last read.

    Nothing that is kept here is forgotten when the node cannot be reached: a node that is away is
    neither gone nor empty. Its name and UUID stay for the life of the process.
    """

    def __init__(
        self,
        gz: node.Node,
        machines: Callable[[], Mapping[str, vms.Vm]],
        in_flight: Callable[[], Iterable[str]],
        served: str,
    ) -> None:
        """`machines` are the VMs on the node; `in_flight` those that are being made or deleted.

        `served` is the name of the nova-compute, which stands in the marks of its VMs.
        """
        self._node = gz
        self._machines = machines
        self._in_flight = in_flight
        self._served = served
        self._lock = threading.Lock()
        self._stale = False
        self._reading: Reading | None = None
        self.facts = facts(gz)
        self.name = self.facts.info.hostname
        self.uuid = self.facts.info.uuid

    def reading(self) -> Reading:
        """The last reading; the first when there is none yet."""
        with self._lock:
            return self._reading or self._read()

    def refresh(self) -> Reading:
        """Read the pool: one command. A node that was away is asked for its facts as well."""
        with self._lock:
            if self._stale:
                self._renew()
            return self._read()

    def resources(self) -> dict[str, Any]:
        """What the node has and what of it is in use, after a fresh look at its pool."""
        found = self.refresh()
        return inventory.resources(self.facts, found.storage, found.machines)

    def inventory(self, known: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
        """Placement's inventory, from the last reading; `known` is what Placement has of it."""
        found = self.reading()
        reserves = inventory.Reserves(
            cpus=CONF.reserved_host_cpus,
            ram_mib=CONF.reserved_host_memory_mb,
            disk_mib=CONF.reserved_host_disk_mb,
        )
        return inventory.inventory(
            self.facts, found.storage, found.foreign_mib, reserves, _ratios(known)
        )

    def _read(self) -> Reading:
        pool = self.facts.info.zpool
        if pool is None:
            raise exception.InternalError("The node has no pool for VMs: sysinfo names no Zpool.")
        # vmadm makes the disks of a VM before it tells of the VM: whatever they take is its own
        granted: dict[str, float] = dict.fromkeys(self._in_flight(), math.inf)
        try:
            rows = self._node.zfs.list(pool, depth=1)
            machines = self._machines()
        except errors.TransportError:
            # it may come back with another platform
            self._stale = True
            raise
        foreign_mib = 0
        for uuid, vm in machines.items():
            mark = identity.of(vm)
            if mark is not None and mark.host == self._served:
                granted[uuid] = inventory.granted(mark.flavor)
            elif identity.stands_in_for(vm) is not None:
                # it does the work, and has the memory, of a zone that is down meanwhile
                granted[uuid] = math.inf
            else:
                foreign_mib += inventory.ram_mib(vm)
        space = inventory.storage(pool, rows, machines, granted)
        self._reading = Reading(space, tuple(machines.values()), foreign_mib)
        return self._reading

    def _renew(self) -> None:
        found = facts(self._node)
        if (found.info.uuid, found.info.hostname) != (self.uuid, self.name):
            raise exception.InternalError(
                f"The node was {self.name} ({self.uuid}) and is now {found.info.hostname} "
                f"({found.info.uuid}). Its inventory is left as it was until its name is as it "
                "was, or nova-compute starts again."
            )
        self.facts = found
        self._stale = False


def facts(gz: node.Node) -> inventory.Facts:
    """Ask the node what it is: three commands."""
    info = gz.sysinfo.get()
    features = gz.isainfo.features()
    found = gz.kstat.read([_PROCESSOR])
    if not found:
        raise errors.OutputError("kstat: the node has no cpu_info:0")
    return inventory.Facts.of(info, features, found[0])


def counters(gz: node.Node, look: watch.Watch, uuid: str) -> inventory.Counters:
    """What the node has counted for a VM; InstanceNotRunning when it is not up.

    A zone's number changes when it boots, and that may just have happened.
    """
    for fresh in (False, True):
        vm = look.get(uuid, fresh)
        if vm.zoneid is not None:
            found = inventory.Counters.of(vm, gz.kstat.read(inventory.counters_of(vm)))
            if found is not None:
                return found
    raise exception.InstanceNotRunning(instance_id=uuid)


def cpu_stats(gz: node.Node) -> dict[str, int]:
    """How busy all processors of the node have been."""
    return inventory.cpu_stats(gz.kstat.read([kstat.Selector("cpu", name="sys"), _PROCESSOR]))


def remember_node(uuid: str, name: str) -> None:
    """Make the node's own UUID the compute node's, in Nova's file; refuse to take over another's.

    The file comes back by itself when the state directory was lost.
    """
    try:
        known = nova_node.read_local_node_uuid()
        if known is None:
            os.makedirs(CONF.state_path, exist_ok=True)
            nova_node.write_local_node_uuid(uuid)
    except OSError as error:
        raise exception.InvalidConfiguration(
            f"The node's identity cannot be kept in state_path: {error}"
        ) from error
    if known not in (None, uuid):
        raise exception.InvalidConfiguration(
            f"The file {nova_node.COMPUTE_ID_FILE} says that this nova-compute (host {CONF.host}) "
            f"serves the node {known}, but [smartos] leads to the node {name}, {uuid}. "
            "Refusing to start. If the address is wrong, correct it. If several nova-compute run "
            "on this machine, give each its own host and state_path. If the node was replaced, "
            "follow 'A node was replaced' in the operator's guide; do not just remove the file."
        )


def refuse_rename(context: nova_context.RequestContext, uuid: str, name: str, served: str) -> None:
    """Refuse a node, or a service, that Nova's database has under another name.

    Nova would refuse it as well, without a word of what to do.
    """
    try:
        known = compute_node.ComputeNode.get_by_uuid(context, uuid)
    except exception.ComputeHostNotFound:
        return
    if known.hypervisor_hostname != name:
        raise exception.InvalidConfiguration(
            f"Possible rename detected: the node {uuid} calls itself {name}, and Nova knows it as "
            f"{known.hypervisor_hostname}. Refusing to start; nothing was changed. Give the node "
            f"its name again: hostname={known.hypervisor_hostname} in /usbkey/config, and the "
            f"commands 'hostname {known.hypervisor_hostname}' and 'sysinfo -u' until it boots."
        )
    if known.host != served:
        raise exception.InvalidConfiguration(
            f"Possible rename detected: Nova knows the node {name} ({uuid}) as that of the host "
            f"{known.host}, and this nova-compute is {served}. Refusing to start; nothing was "
            f"changed. Set [DEFAULT]host to {known.host} again, or [smartos] to the node that "
            f"is to be {served}'s."
        )


def provide(host: Host, tree: provider_tree.ProviderTree, capabilities: Mapping[str, bool]) -> None:
    """Put the node's inventory and traits into Nova's provider tree. Runs no command.

    Nova asks for it at every claim of resources, while it holds a lock: what the pool had when it
    was last read is what Placement is told until it is read again.
    """
    tree.update_inventory(host.name, host.inventory(tree.data(host.name).inventory))
    traits = {**inventory.traits(host.facts), **capabilities}
    tree.add_traits(host.name, *(name for name, has in traits.items() if has))
    tree.remove_traits(host.name, *(name for name, has in traits.items() if not has))


def _ratios(known: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    # what is configured wins over what Placement was told by others, and that over the beginning
    found = {}
    for name, option in _RATIOS.items():
        configured = getattr(CONF, option)
        if configured:
            found[name] = configured
        elif name in known:
            found[name] = known[name]["allocation_ratio"]
        else:
            found[name] = getattr(CONF, f"initial_{option}")
    return found
