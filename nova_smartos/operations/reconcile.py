# SPDX-License-Identifier: Apache-2.0
"""What is on the node beside what Nova says should be: findings, and which are safe to mend.

`findings` is a pure function of both sides; nova-compute asks it when it starts, and smartos-audit
whenever an operator does. What Nova does not know is told of and never touched: a wrong host name,
a restored database or a second cloud must cost nobody a VM.
"""

import contextlib
import dataclasses
import enum
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nova import context as nova_context
from nova import objects
from nova.compute import vm_states
from nova.scheduler.client import report
from oslo_log import log

from nova_smartos.operations import guest, image, removal, snapshot, trail, watch
from nova_smartos.smartos import errors, files, node, ps, spans, vms, zfs
from nova_smartos.translate import identity, metadata

LOG = log.getLogger(__name__)

# a class below has a field named vms
Vm = vms.Vm

#: How long a start waits for commands that an earlier nova-compute has left running.
BUSY_SECONDS = 330.0
_POLL_SECONDS = 1.0

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DATASET = re.compile(
    rf"{image.POOL}/(?:cores/)?(?P<uuid>{_UUID})(?P<partial>-partial)?(?:-disk\d+)?"
)
# states in which no guest of a user has ever run
_HALF_MADE = frozenset(
    {vms.State.CONFIGURED, vms.State.FAILED, vms.State.INCOMPLETE, vms.State.PROVISIONING}
)
# Nova's states without a VM
_WITHOUT_VM = frozenset({vm_states.BUILDING, vm_states.DELETED, vm_states.SHELVED_OFFLOADED})
# states in which a VM may have other nics than its instance: a stand-in has them, or nothing has
_OWN_NICS = frozenset({vm_states.ERROR, vm_states.RESCUED})


class Kind(enum.StrEnum):
    """What can be wrong, as the audit prints it."""

    ALLOCATION = "allocation-without-instance"
    COPY = "vm-copy-left-over"
    DATASET = "dataset-left-over"
    FILE = "file-left-over"
    HALF_MADE = "vm-half-made"
    IMAGE = "image-half-imported"
    MISSING = "instance-without-vm"
    NICS = "nics-differ"
    SNAPSHOT = "snapshot-left-over"
    UNALLOCATED = "instance-without-allocation"
    STAND_IN = "stand-in-left-over"
    VM_DELETED = "vm-of-deleted-instance"
    VM_ELSEWHERE = "vm-of-instance-elsewhere"
    VM_UNKNOWN = "vm-unknown-to-nova"


class Action(enum.StrEnum):
    """What may be done about it without asking anyone."""

    DELETE_FOLDER = "delete-folder"
    DELETE_VM = "delete-vm"
    DESTROY_DATASET = "destroy-dataset"
    DESTROY_SNAPSHOTS = "destroy-snapshots"
    END_MOVE = "end-move"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, and what to do about it."""

    kind: Kind
    subject: str
    detail: str
    advice: str
    action: Action | None = None


@dataclasses.dataclass(frozen=True)
class Instance:
    """What Nova says of an instance."""

    uuid: str
    host: str | None
    vm_state: str
    task_state: str | None = None
    launched: bool = True
    deleted: bool = False
    macs: frozenset[str] | None = None

    @classmethod
    def of(cls, instance: objects.Instance) -> "Instance":
        """The same from Nova's record, which may lack its network."""
        macs = None
        if "info_cache" in instance and instance.info_cache is not None:
            network_info = instance.info_cache.network_info
            macs = frozenset(str(vif["address"]).lower() for vif in network_info or ())
        return cls(
            uuid=instance.uuid,
            host=instance.host,
            vm_state=instance.vm_state,
            task_state=instance.task_state,
            launched=instance.launched_at is not None,
            deleted=bool(instance.deleted),
            macs=macs,
        )


@dataclasses.dataclass(frozen=True)
class Desired:
    """Nova's side: the instances of a host, others whose uuids the node shows, allocations."""

    host: str
    instances: Mapping[str, Instance]
    allocations: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True)
class Observed:
    """The node's side."""

    vms: Sequence[Vm] = ()
    datasets: Sequence[zfs.Dataset] = ()
    images: frozenset[str] = frozenset()
    files: Sequence[str] = ()
    moving: frozenset[str] = frozenset()
    processes: Sequence[ps.Process] = ()

    @property
    def uuids(self) -> frozenset[str]:
        """All that could be an instance's: of VMs that carry a mark, and of lone datasets."""
        known = self.images | {vm.uuid for vm in self.vms}
        matches = (_DATASET.fullmatch(each.name) for each in self.datasets)
        lone = {match["uuid"] for match in matches if match} - known
        stood_in_for = {whose for vm in self.vms if (whose := identity.stands_in_for(vm))}
        return frozenset(lone | stood_in_for | {vm.uuid for vm in self.vms if identity.of(vm)})


@spans.step
def observed(gz: node.Node, known: watch.Watch | None = None) -> Observed:
    """Look at the node: six commands that only read, or five where its VMs are known."""
    datasets = gz.zfs.list(image.POOL, types=("filesystem", "volume", "snapshot"), recursive=True)
    try:
        staged = gz.files.list()
    except errors.NotFound:
        staged = []
    return Observed(
        vms=gz.vmadm.lookup() if known is None else list(known.vms().values()),
        datasets=datasets,
        images=frozenset(each.manifest.uuid for each in gz.imgadm.list()),
        files=staged,
        moving=trail.left(gz),
        processes=gz.ps.list(),
    )


def findings(there: Observed, desired: Desired) -> list[Finding]:
    """All that is wrong, in a stable order."""
    found = [
        *_vm_findings(there, desired),
        *_missing(there, desired),
        *_dataset_findings(there, desired),
        *_drive_findings(there),
        *_staging_findings(there),
        *_allocation_findings(desired),
    ]
    return sorted(found, key=lambda each: (each.kind, each.subject))


def foreign(there: Observed, desired: Desired) -> list[vms.Vm]:
    """VMs that are not this host's: an operator's own, another cloud's, another nova-compute's."""
    return [
        vm for vm in there.vms if not _is_ours(vm, desired.host) and not identity.stands_in_for(vm)
    ]


def _is_ours(vm: vms.Vm, host: str) -> bool:
    mark = identity.of(vm)
    return mark is not None and mark.host == host


def _is_copy(vm: vms.Vm, host: str) -> bool:
    """Whether a move has made it here for this host, and it has not arrived yet."""
    move = identity.moved(vm)
    return move is not None and move.host == host and not _is_ours(vm, host)


def _vm_findings(there: Observed, desired: Desired) -> Iterator[Finding]:
    for vm in there.vms:
        if whose := identity.stands_in_for(vm):
            yield from _stand_in_finding(vm, desired.instances.get(whose), whose)
        elif _is_copy(vm, desired.host):
            yield from _copy_finding(vm, desired.instances.get(vm.uuid), desired.host)
        elif _is_ours(vm, desired.host):
            instance = desired.instances.get(vm.uuid)
            yield from _vm_finding(vm, instance, desired.host)
            if vm.uuid in there.moving and identity.moved(vm) is None:
                yield from _move_finding(vm, instance)


def _vm_finding(vm: vms.Vm, instance: Instance | None, host: str) -> Iterator[Finding]:
    delete = f"vmadm delete {vm.uuid}"
    if instance is None:
        yield Finding(
            Kind.VM_UNKNOWN,
            vm.uuid,
            f"carries the mark of this host ({host}), but Nova has no such instance",
            f"has Nova's database been restored? If nobody wants it: {delete}",
        )
    elif instance.deleted:
        yield Finding(
            Kind.VM_DELETED, vm.uuid, "Nova has deleted the instance", delete, Action.DELETE_VM
        )
    elif instance.task_state is not None or instance.vm_state == vm_states.RESIZED:
        # something is under way, or waits for the user's word
        return
    elif not instance.launched and (vm.state in _HALF_MADE or instance.host != host):
        yield Finding(
            Kind.HALF_MADE,
            vm.uuid,
            f"the VM is {vm.state}, and no launch of the instance ({instance.vm_state}) has ended",
            delete,
            Action.DELETE_VM,
        )
    elif instance.host != host:
        yield Finding(
            Kind.VM_ELSEWHERE,
            vm.uuid,
            f"Nova says that the instance is on {instance.host or 'no host'}",
            f"compare the two, keep the one that has the data; then there: {delete}",
        )
    elif vm.state in _HALF_MADE:
        yield Finding(
            Kind.HALF_MADE,
            vm.uuid,
            f"the VM is {vm.state}, the instance {instance.vm_state}",
            "openstack server rebuild, or delete",
        )
    elif instance.macs is not None and instance.launched and instance.vm_state not in _OWN_NICS:
        yield from _nic_finding(vm, instance.macs)


def _copy_finding(vm: vms.Vm, instance: Instance | None, host: str) -> Iterator[Finding]:
    if instance is None or instance.task_state is not None:
        return
    if instance.deleted:
        yield Finding(
            Kind.COPY,
            vm.uuid,
            "the copy of a VM that moved here; Nova has deleted the instance",
            f"vmadm delete {vm.uuid}",
            Action.DELETE_VM,
        )
    elif instance.host == host:
        yield Finding(
            Kind.COPY,
            vm.uuid,
            "its move here did not end; Nova says that it is here",
            "openstack server reboot --hard",
        )
    else:
        yield Finding(
            Kind.COPY,
            vm.uuid,
            f"its move here did not end; Nova says that it is on {instance.host or 'no host'}",
            f"if it is there: vmadm delete {vm.uuid}, or move it here again",
        )


def _stand_in_finding(vm: vms.Vm, instance: Instance | None, whose: str) -> Iterator[Finding]:
    """A zone that stands in for another, which Nova must know as being rescued."""
    if instance is not None and (
        instance.task_state is not None or instance.vm_state == vm_states.RESCUED
    ):
        return
    yield Finding(
        Kind.STAND_IN,
        vm.uuid,
        f"it stands in for {whose}, which "
        + ("Nova does not know" if instance is None else f"is {instance.vm_state}"),
        f"vmadm delete {vm.uuid}",
        None if instance is None else Action.DELETE_VM,
    )


def _nic_finding(vm: vms.Vm, wanted: frozenset[str]) -> Iterator[Finding]:
    there = frozenset(nic.mac.lower() for nic in vm.nics)
    if there == wanted:
        return
    parts = [
        f"{word} {', '.join(sorted(macs))}"
        for word, macs in (("only the VM has", there - wanted), ("only Nova has", wanted - there))
        if macs
    ]
    yield Finding(Kind.NICS, vm.uuid, "; ".join(parts), "openstack server reboot --hard")


def _missing(there: Observed, desired: Desired) -> Iterator[Finding]:
    present = {vm.uuid for vm in there.vms}
    for instance in desired.instances.values():
        here = instance.host == desired.host and not instance.deleted and instance.launched
        if not here or instance.uuid in present or instance.task_state is not None:
            continue
        if instance.vm_state not in _WITHOUT_VM:
            yield Finding(
                Kind.MISSING,
                instance.uuid,
                f"the instance is {instance.vm_state}, but there is no VM",
                "openstack server rebuild, or delete",
            )


def _dataset_findings(there: Observed, desired: Desired) -> Iterator[Finding]:
    vms_there = {vm.uuid: vm for vm in there.vms}
    exported = {uuid for each in there.datasets if (uuid := snapshot.left_over(each.name))}
    for uuid in exported & vms_there.keys():
        if _is_ours(vms_there[uuid], desired.host):
            yield from _export_finding(uuid, desired.instances.get(uuid))
    for each in there.datasets:
        match = _DATASET.fullmatch(each.name)
        if not match or match["uuid"] in vms_there:
            continue
        if match["partial"]:
            if not _runs(there, "imgadm"):
                yield Finding(
                    Kind.IMAGE,
                    each.name,
                    "what an import that did not end has left, and no imgadm runs",
                    f"zfs destroy -r {each.name}",
                )
        elif match["uuid"] not in there.images:
            yield from _lone_dataset(each.name, desired.instances.get(match["uuid"]), desired.host)


def _lone_dataset(name: str, instance: Instance | None, host: str) -> Iterator[Finding]:
    """A dataset of no VM and no image. Nova's only if Nova knows its uuid."""
    if instance is None or instance.task_state is not None:
        return
    here = instance.host in (host, None)
    over = here and (instance.deleted or not instance.launched)
    yield Finding(
        Kind.DATASET,
        name,
        f"there is no VM; the instance is {'deleted' if instance.deleted else instance.vm_state}"
        f" on {instance.host or 'no host'}",
        f"zfs destroy -r {name}" if over else "it may be all that is left of the instance: keep it",
        Action.DESTROY_DATASET if over else None,
    )


def _export_finding(uuid: str, instance: Instance | None) -> Iterator[Finding]:
    if instance is not None and instance.task_state is None:
        yield Finding(
            Kind.SNAPSHOT,
            uuid,
            "what an image of it has left on the node, and none is being made",
            "restart nova-compute, which takes it away",
            Action.DESTROY_SNAPSHOTS,
        )


def _move_finding(vm: vms.Vm, instance: Instance | None) -> Iterator[Finding]:
    if instance is not None and instance.task_state is None:
        yield Finding(
            Kind.SNAPSHOT,
            vm.uuid,
            "what a move of it has left on the node, with its limits lifted, and none is under way",
            "restart nova-compute, which takes it away",
            Action.END_MOVE,
        )


def _drive_findings(there: Observed) -> Iterator[Finding]:
    kept = {metadata.folder(vm.uuid) for vm in there.vms}
    for name in there.files:
        if name.startswith(metadata.folder("")) and name not in kept:
            yield Finding(
                Kind.FILE,
                name,
                f"a config drive in {files.FOLDER} whose VM is gone",
                f"rm -r {files.FOLDER}/{name}",
                Action.DELETE_FOLDER,
            )


def _staging_findings(there: Observed) -> Iterator[Finding]:
    if _runs(there, "imgadm"):
        # which files it reads lies beyond what ps shows
        return
    written = " ".join(each.arguments for each in there.processes)
    mounted = {each.name for each in there.datasets}
    for name in there.files:
        if snapshot.folder(name) or f"{files.DATASET}/{name}" in mounted:
            # which the snapshot that it is a clone of tells of, or the dataset
            continue
        if not name.startswith(metadata.folder("")) and name not in written:
            yield Finding(
                Kind.FILE,
                f"{files.FOLDER}/{name}",
                "what was staged for a command that no longer runs",
                f"rm {files.FOLDER}/{name}, or restart nova-compute",
            )
    for each in there.datasets:
        name = each.name.removeprefix(f"{files.DATASET}/")
        told = snapshot.left_over(each.name) or name in written
        if name != each.name and "@" not in name and not told:
            yield Finding(
                Kind.FILE,
                each.name,
                "a dataset that was staged for an image, and nothing fills it",
                f"zfs destroy -r {each.name}, or restart nova-compute",
            )


def _allocation_findings(desired: Desired) -> Iterator[Finding]:
    if desired.allocations is None:
        return
    here = {
        each.uuid: each
        for each in desired.instances.values()
        if each.host == desired.host and not each.deleted
    }
    for uuid in desired.allocations - here.keys():
        known = desired.instances.get(uuid)
        if known is None or known.task_state is None:
            yield Finding(
                Kind.ALLOCATION,
                uuid,
                "Placement keeps resources of this node for it",
                "nova-manage placement audit --delete",
            )
    for uuid, instance in here.items():
        needs = instance.launched and instance.task_state is None
        if needs and uuid not in desired.allocations and instance.vm_state not in _WITHOUT_VM:
            yield Finding(
                Kind.UNALLOCATED,
                uuid,
                "the instance is here, but Placement keeps nothing for it",
                "nova-manage placement heal_allocations",
            )


def _runs(there: Observed, tool: str) -> bool:
    return any(each.changes and f"{tool} " in each.arguments for each in there.processes)


def desired(
    context: nova_context.RequestContext,
    host: str,
    there: Observed,
    *,
    listed: Iterable[objects.Instance] | None = None,
    provider: str | None = None,
) -> Desired:
    """Ask Nova: the instances of this host, those that the node shows, deleted ones too.

    `listed` are those of this host, if they are at hand; `provider` is the node's in Placement, for
    its allocations.
    """
    if listed is None:
        listed = objects.InstanceList.get_by_host(context, host, expected_attrs=["info_cache"])
    instances = {each.uuid: Instance.of(each) for each in listed}
    kept = _allocated(context, provider) if provider is not None else None
    others = sorted((there.uuids | (kept or frozenset())) - instances.keys())
    if others:
        everything = context.elevated(read_deleted="yes")
        found = objects.InstanceList.get_by_filters(everything, {"uuid": others})
        instances |= {each.uuid: Instance.of(each) for each in found}
    if kept:
        # a resize keeps resources in the name of its migration
        migrations = objects.MigrationList.get_by_filters(context, {"uuid": sorted(kept)})
        kept -= {each.uuid for each in migrations}
    return Desired(host, instances, kept)


def _allocated(context: nova_context.RequestContext, provider: str) -> frozenset[str]:
    client = report.report_client_singleton()
    found = client.get_allocations_for_resource_provider(context, provider)
    return frozenset(found.allocations)


@spans.step
def removed(gz: node.Node, known: watch.Watch, instance: objects.Instance) -> bool:
    """Delete the VM of an instance that Nova has deleted; whether none is left that is ours."""
    try:
        vm = known.get(instance.uuid, fresh=True)
    except errors.NotFound:
        guest.remove_tree(gz, instance.uuid)
        removal.eject(gz, instance.uuid)
        return True
    if not instance.deleted or identity.of(vm) is None:
        return False
    removal.remove(gz, vm)
    return True


# At the start of nova-compute


@spans.step
def wait_for_earlier(gz: node.Node, seconds: float = BUSY_SECONDS) -> None:
    """Wait until nothing that an earlier nova-compute started changes VMs or images any more.

    A command goes on when the connection that carried it is gone. What it is about the system does
    not show, so that all of them are awaited, an operator's too; not for ever.
    """
    end = time.monotonic() + seconds
    said = False
    while busy := [each for each in gz.ps.list() if each.changes]:
        told = "; ".join(f"{each.pid}: {each.arguments}" for each in busy)
        if time.monotonic() > end:
            LOG.warning("Starting although these still change the node: %s", told)
            return
        if not said:
            LOG.warning("Waiting for commands that still change the node: %s", told)
            said = True
        time.sleep(_POLL_SECONDS)


def settled(instance: Instance) -> Instance:
    """As it is for a nova-compute that starts: what was under way is not so any longer."""
    return dataclasses.replace(instance, task_state=None)


@spans.step
def at_start(
    gz: node.Node,
    known: watch.Watch,
    context: nova_context.RequestContext,
    host: str,
    listed: Iterable[objects.Instance],
    *,
    reap: bool,
) -> list[Finding]:
    """Compare and mend when nova-compute starts; what is left, which is in the log too.

    Nova has the instances of this host `listed` already.
    """
    there = observed(gz, known)
    for vm in foreign(there, Desired(host, {})):
        LOG.info("VM %s is not this host's and is left alone", vm.uuid)
    wanted = desired(context, host, there, listed=listed)
    instances = {uuid: settled(each) for uuid, each in wanted.instances.items()}
    return mend(gz, findings(there, dataclasses.replace(wanted, instances=instances)), reap=reap)


def mend(gz: node.Node, found: Iterable[Finding], *, reap: bool) -> list[Finding]:
    """Do what is safe, say the rest; what is left. An error with one does not keep the others.

    `reap` says whether VMs of deleted instances go too, as Nova's own periodic task would decide.
    """
    left = []
    for each in found:
        of_deleted = each.kind in (Kind.COPY, Kind.VM_DELETED)
        if each.action is None or (of_deleted and not reap):
            LOG.warning("%s %s: %s. What to do: %s", *_told(each))
            left.append(each)
            continue
        LOG.warning("%s %s: %s. Doing now: %s", *_told(each))
        try:
            _do(gz, each)
        except errors.SmartOSError:
            LOG.exception("%s %s stays as it is", each.kind, each.subject)
            left.append(each)
    return left


def _told(finding: Finding) -> tuple[str, str, str, str]:
    return finding.kind, finding.subject, finding.detail, finding.advice


def _do(gz: node.Node, finding: Finding) -> None:
    with contextlib.suppress(errors.NotFound):
        if finding.action is Action.DELETE_VM:
            for vm in gz.vmadm.lookup({"uuid": finding.subject}):
                removal.remove(gz, vm)
            # one that was never finished does not say that it has a folder
            gz.files.delete_folder(metadata.folder(finding.subject))
        elif finding.action is Action.DELETE_FOLDER:
            gz.files.delete_folder(finding.subject.rpartition("/")[2])
        elif finding.action is Action.DESTROY_SNAPSHOTS:
            snapshot.remove_leftovers(gz, finding.subject)
        elif finding.action is Action.END_MOVE:
            for vm in gz.vmadm.lookup({"uuid": finding.subject}):
                trail.end(gz, vm)
        else:
            # not the clones of others: zfs refuses those
            gz.zfs.destroy(finding.subject, recursive=True)
