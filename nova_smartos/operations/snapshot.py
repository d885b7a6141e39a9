# SPDX-License-Identifier: Apache-2.0
"""Images of servers: Glance gets a VM's root as it is at one moment, and the VM is left alone.

The moment is a zfs snapshot's, so the VM runs on; what goes to Glance is a ZFS stream of it, which
is read while it is sent: no file lies anywhere on the way. The stream is a full one, or the
difference to the image that the VM came from, where the operator promises that Glance keeps that
one and its snapshot is the same on every node. A disk goes as a stream, too, and not raw: what the
guest never wrote takes no room in Glance, and it is read once.

A zone's dataset has more than its files: in `config` vmadm keeps what only this VM is told, such as
passwords. So a zone's image is taken of a clone, which has no `config`.

Everything has a name that follows from the VM's uuid: whatever a crash has left is found by it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.compute import task_states
from nova.image import glance
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances
from oslo_log import log

from nova_smartos.operations import locks, signing, watch
from nova_smartos.smartos import errors, files, node, spans, vms
from nova_smartos.translate import errors as nova_errors
from nova_smartos.translate import manifest, specs

LOG = log.getLogger(__name__)

#: The zfs snapshots that are made here have this name.
NAME = "nova-image"
_CLONE = "image-of-"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LEFT = re.compile(
    rf"{files.DATASET}/{_CLONE}(?P<cloned>{_UUID})"
    rf"|[^/@]+/(?P<uuid>{_UUID})(?:[/-]disk\d+)?@{NAME}"
)
#: Of the snapshot of bhyve's dataset: the quota that it had before.
_QUOTA = "nova:quota"
# zfs send ends a moment after its reader does, and keeps the snapshot for so long.
_BUSY_SECONDS = 15.0
_BUSY_POLL_SECONDS = 0.2
#: Glance does not say that an image is deleted before all of it has come.
LOOK_SECONDS = 30.0
_GIB = 1 << 30
_FIRMWARE = frozenset({"bios", "uefi"})

_Send = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class _Root:
    """What an image is made of."""

    uuid: str
    dataset: str
    type: str
    #: bhyve's dataset, whose quota leaves no room for a snapshot of a disk
    parent: str | None = None
    #: the node image that it is a clone of
    image: str | None = None

    @property
    def snapshot(self) -> str:
        return f"{self.dataset}@{NAME}"


@dataclasses.dataclass(frozen=True)
class _Base:
    """What an image is only the difference to."""

    glance_id: str
    snapshot: str


class _Flight:
    """An image on its way, which may be given up at any time."""

    def __init__(self) -> None:
        self.given_up = False
        #: held by whoever changes what there is on the node
        self.lock = threading.Lock()
        self.undo = contextlib.ExitStack()
        self.stream: Any = None


class Exports:
    """The images that are being made of the VMs of one node."""

    def __init__(
        self,
        gz: node.Node,
        known: watch.Watch,
        held: locks.Locks,
        options: Any,
        *,
        glance_api: Any = None,
    ) -> None:
        self._gz = gz
        self._known = known
        self._locks = held
        self._options = options
        self._glance = glance_api or glance.API()
        self._signer = signing.Signer(options)
        self._guard = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._left: set[str] = set()

    @spans.step
    def make(
        self,
        context: nova_context.RequestContext,
        instance: instances.Instance,
        image_id: str,
        update_task_state: Callable[..., None],
    ) -> None:
        """Fill a Glance image with the VM's root. One that ends early has given its reason."""
        uuid = instance.uuid
        with self._flying(uuid) as flight:
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
            try:
                vm = self._known.get(uuid, fresh=True)
            except errors.NotFound as error:
                raise exception.InstanceNotRunning(instance_id=uuid) from error
            record = self._glance.get(context, image_id)
            root = _root(vm)
            self._check(instance, vm, root, record)
            began = time.monotonic()
            with self._cleaned(flight):
                base = self._base(context, instance, root)
                told = self._described(vm, root, record, base)
                with self._locks.hold(uuid):
                    send = self._take(flight, root, base)
                LOG.info("Image %s: its moment is kept", image_id, instance=instance)
                update_task_state(
                    task_state=task_states.IMAGE_UPLOADING,
                    expected_state=task_states.IMAGE_PENDING_UPLOAD,
                )
                size_bytes = self._upload(context, image_id, flight, root, send, told)
        LOG.info(
            "Image %s: %d bytes in %.1f s",
            image_id,
            size_bytes,
            time.monotonic() - began,
            instance=instance,
        )

    def tidy(self) -> None:
        """Try again to take away what could not be."""
        for uuid in sorted(self._left):
            try:
                remove_leftovers(self._gz, uuid)
            except errors.SmartOSError as error:
                LOG.warning("What is left of an image of VM %s stays: %s", uuid, error)
            else:
                self._left.discard(uuid)

    def end(self, uuid: str) -> None:
        """Give up the image that is being made of a VM: nothing on the node holds the VM then."""
        with self._guard:
            flight = self._flights.get(uuid)
        if flight is not None:
            flight.given_up = True
            stream = flight.stream
            if stream is not None:
                stream.kill()
            # who speaks with Glance may take long to notice
            self._clean(flight)
        if uuid in self._left:
            remove_leftovers(self._gz, uuid)
            self._left.discard(uuid)

    @contextlib.contextmanager
    def _flying(self, uuid: str) -> Iterator[_Flight]:
        flight = _Flight()
        with self._guard:
            if uuid in self._flights:
                raise errors.InvalidState(f"an image of VM {uuid} is under way", code="Busy")
            self._flights[uuid] = flight
        try:
            yield flight
        except Exception as error:
            if flight.given_up:
                # whereupon Nova forgets the image without a word
                raise exception.InstanceNotFound(instance_id=uuid) from error
            raise
        finally:
            with self._guard:
                del self._flights[uuid]

    def _check(
        self,
        instance: instances.Instance,
        vm: vms.Vm,
        root: _Root,
        record: Mapping[str, Any],
    ) -> None:
        """Refuse what would come to nothing, before anything is done."""
        quiesced = instance.image_meta.properties.get("os_require_quiesce")
        if quiesced and vm.state != vms.State.STOPPED:
            raise exception.InstanceQuiesceNotSupported(instance_id=instance.uuid)
        trusted = {"*", record.get("owner") or ""}.intersection(self._options.trusted_image_owners)
        if not trusted and not self._signer.signs:
            raise nova_errors.Refused(
                "The image could not be booted: it is a ZFS stream, and the operator has neither "
                f"set [smartos] {signing.OPTION} nor named its owner in trusted_image_owners"
            )

    def _base(
        self, context: nova_context.RequestContext, instance: instances.Instance, root: _Root
    ) -> _Base | None:
        """The VM's image, if whoever has the new image can have that one, too."""
        if not self._options.incremental_images or root.image is None or not instance.image_ref:
            return None
        # of a shelved server there will be nothing else
        if instance.task_state == task_states.SHELVING_IMAGE_PENDING_UPLOAD:
            return None
        try:
            record = self._glance.get(context, instance.image_ref, show_deleted=False)
            meta = image_metas.ImageMeta.from_dict(record)
            wanted = manifest.wanted(meta, record.get("properties") or {})
        except (exception.NovaException, ValueError) as error:
            LOG.info("The whole is taken: %s", error, instance=instance)
            return None
        if not record.get("is_public") or record.get("status") != "active":
            reason = "its image is not public, or not active"
        elif not wanted.can_be_origin:
            reason = "its image is no whole ZFS stream"
        elif wanted.uuid != root.image:
            reason = "its image has changed since"
        else:
            snapshot = self._gz.zfs.get(root.dataset, "origin")["origin"]
            if snapshot is not None and snapshot.rpartition("/")[2] == f"{root.image}@final":
                return _Base(wanted.glance_id, snapshot)
            # as where it was moved to
            reason = "its root is no clone of its image"
        LOG.info("The whole is taken: %s", reason, instance=instance)
        return None

    def _described(
        self, vm: vms.Vm, root: _Root, record: Mapping[str, Any], base: _Base | None
    ) -> dict[str, Any]:
        """What Glance is told of the image, beside what it has inherited."""
        volsize = None
        if root.type == "zvol":
            found = self._gz.zfs.get(root.dataset, "volsize")["volsize"]
            volsize = int(found) if found and found.isdecimal() else 0
            if not volsize or volsize % manifest.MIB:
                raise errors.InvalidState(f"{root.dataset} has {found} bytes: no whole MiB")
        inherited = record.get("properties") or {}
        properties = _properties(vm, root, volsize, inherited)
        # what the server's own image says of where its bytes come from is not true of this one
        properties |= {key: "" for key in manifest.ELSEWHERE if inherited.get(key)}
        if base is not None:
            properties[manifest.ORIGIN_PROPERTY] = base.glance_id
        told: dict[str, Any] = {"disk_format": "raw", "container_format": "bare"}
        told["properties"] = properties
        if volsize is not None:
            # a disk may have grown since its VM was made
            told["min_disk"] = max(int(record.get("min_disk") or 0), math.ceil(volsize / _GIB))
        return told

    def _take(self, flight: _Flight, root: _Root, base: _Base | None) -> _Send:
        """Keep the VM's root as it is now [1 to 4]; what sends it."""
        zfs = self._gz.zfs
        try:
            self._do(flight, self._snapshot, root)
        except errors.AlreadyExists:
            # what an earlier one has left
            self._clean(flight)
            remove_leftovers(self._gz, root.uuid)
            self._do(flight, self._snapshot, root)
        if root.type == "zvol":
            return functools.partial(zfs.send, root.snapshot, base=base.snapshot if base else None)
        self._do(flight, self._clone, root)
        clone = _clone(root.uuid)
        if base is None:
            self._do(flight, lambda *_: zfs.snapshot(f"{clone}@final"), root)
            return functools.partial(zfs.send, f"{clone}@final")
        # a snapshot of it could only be sent as the difference to the VM's
        self._do(flight, lambda *_: zfs.unmount(clone), root)
        return functools.partial(zfs.send_unmounted, clone, base.snapshot)

    def _do(self, flight: _Flight, step: Callable[[_Flight, _Root], None], root: _Root) -> None:
        """Change something on the node, unless all is given up."""
        with flight.lock:
            if flight.given_up:
                raise exception.InstanceNotFound(instance_id=root.uuid)
            step(flight, root)

    def _snapshot(self, flight: _Flight, root: _Root) -> None:
        zfs = self._gz.zfs
        quota = zfs.get(root.parent, "quota")["quota"] if root.parent else None
        if root.parent and quota and quota != "0":
            # the disk keeps its reservation, so that its guest misses nothing meanwhile
            marker = f"{root.parent}@{NAME}"
            flight.undo.callback(self._discard, root.uuid, marker)
            zfs.snapshot(marker, properties={_QUOTA: quota})
            flight.undo.callback(self._set_quota, root.uuid, root.parent, quota)
            zfs.set(root.parent, {"quota": "none"})
        flight.undo.callback(self._discard, root.uuid, root.snapshot)
        zfs.snapshot(root.snapshot)

    def _clone(self, flight: _Flight, root: _Root) -> None:
        clone = _clone(root.uuid)
        flight.undo.callback(self._discard, root.uuid, clone)
        self._gz.zfs.clone(root.snapshot, clone)
        self._gz.files.delete_folder(f"{_CLONE}{root.uuid}", "config")

    def _upload(
        self,
        context: nova_context.RequestContext,
        image_id: str,
        flight: _Flight,
        root: _Root,
        send: _Send,
        told: dict[str, Any],
    ) -> int:
        """Send the snapshot, then what can only be said of all its bytes; how many they were."""

        def look() -> None:
            self._glance.get(context, image_id)

        with send() as stream:
            flight.stream = stream
            source = _Source(flight, stream, look)
            try:
                kept = self._glance.update(context, image_id, told, data=source, purge_props=False)
            finally:
                flight.stream = None
        if kept.get("size") != source.size_bytes:
            # Nova sends again what Glance did not take, and nothing can be read twice
            raise exception.ImageUnacceptable(
                image_id=image_id,
                reason=f"Glance has {kept.get('size')} of its {source.size_bytes} bytes",
            )
        signature = self._signer.sign(source.sha256.digest(), root.type)
        if signature is not None:
            properties = {"properties": {signing.PROPERTY: signature}}
            self._glance.update(context, image_id, properties, purge_props=False)
        return source.size_bytes

    @contextlib.contextmanager
    def _cleaned(self, flight: _Flight) -> Iterator[None]:
        try:
            yield
        finally:
            self._clean(flight)

    def _clean(self, flight: _Flight) -> None:
        """Take back what was done on the node; whoever comes second finds nothing to do."""
        with flight.lock:
            flight.undo.close()

    def _discard(self, uuid: str, name: str) -> None:
        """Undo: whatever stops this must not hide why there is something to undo."""
        self._undone(uuid, name, lambda: _destroy(self._gz, name))

    def _set_quota(self, uuid: str, dataset: str, quota: str) -> None:
        self._undone(uuid, dataset, lambda: self._gz.zfs.set(dataset, {"quota": quota}))

    def _undone(self, uuid: str, what: str, undo: Callable[[], None]) -> None:
        try:
            undo()
        except errors.SmartOSError as error:
            self._left.add(uuid)
            LOG.warning("%s stays as an image of it has left it, for now: %s", what, error)


class _Source:
    """The stream on its way to Glance, how long it is, and its SHA-256."""

    def __init__(self, flight: _Flight, stream: Any, look: Callable[[], None]) -> None:
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()
        self._flight = flight
        self._stream = stream
        self._look = look
        self._looked = time.monotonic()

    def read(self, size: int = -1, /) -> bytes:
        """Some of the bytes; b"" is the end, and only of a stream that zfs has ended well."""
        if self._flight.given_up:
            raise errors.OutcomeUnknown("the image was given up")
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
            self._looked = time.monotonic()
        data: bytes = self._stream.read(size)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data


def left_over(name: str) -> str | None:
    """The uuid of the VM that an image was made of, if that is what a dataset was there for."""
    found = _LEFT.fullmatch(name)
    return (found["cloned"] or found["uuid"]) if found else None


def folder(name: str) -> bool:
    """Whether a file among those of ours is where a clone is mounted."""
    return name.startswith(_CLONE)


def remove_leftovers(gz: node.Node, uuid: str) -> None:
    """Take away what is left of an image of a VM, by what the node shows of it.

    The clone goes first, for it keeps the snapshot; the quota's old value goes last of all.
    """
    _destroy(gz, _clone(uuid))
    listed = gz.zfs.list(types=("snapshot",))
    # a disk's before its parent's
    names = sorted((each.name for each in listed if left_over(each.name) == uuid), key=len)
    for name in reversed(names):
        dataset = name.partition("@")[0]
        if dataset.rpartition("/")[2] == uuid:
            quota = gz.zfs.get(name, _QUOTA)[_QUOTA]
            if quota is not None:
                gz.zfs.set(dataset, {"quota": quota})
        _destroy(gz, name)


def _destroy(gz: node.Node, name: str) -> None:
    """Destroy a clone or a snapshot of ours; one that is not there is success."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            gz.zfs.destroy(name, recursive="@" not in name)
        except errors.NotFound:
            return
        except errors.InvalidState as error:
            if error.code != "Busy" or time.monotonic() > end:
                raise
            time.sleep(_BUSY_POLL_SECONDS)
        else:
            return


def _clone(uuid: str) -> str:
    return f"{files.DATASET}/{_CLONE}{uuid}"


def _root(vm: vms.Vm) -> _Root:
    """What the image of a VM is made of: a zone's files, or the disk that an HVM boots from."""
    (type_,) = specs.BRANDS[vm.brand].image_types
    if not vm.hvm:
        dataset, parent, image_uuid = vm.zfs_filesystem, None, vm.image_uuid
    else:
        boot = next((disk for disk in vm.disks if disk.boot), None)
        dataset = boot.zfs_filesystem if boot else None
        parent = vm.zfs_filesystem if vm.brand == "bhyve" else None
        image_uuid = boot.image_uuid if boot else None
    if dataset is None:
        raise errors.InvalidState(f"VM {vm.uuid} has no root to make an image of", code="Dataset")
    return _Root(vm.uuid, dataset, type_, parent, image_uuid)


def _properties(
    vm: vms.Vm, root: _Root, volsize: int | None, inherited: Mapping[str, Any]
) -> dict[str, str]:
    """What the image needs to be booted again as what it was, wherever its flavor said so."""
    found = {manifest.TYPE_PROPERTY: root.type, manifest.FORMAT_PROPERTY: manifest.ZFS}
    if volsize is not None:
        found[manifest.SIZE_PROPERTY] = str(volsize // manifest.MIB)
    usual = next(each for each in specs.BRANDS.values() if root.type in each.image_types)
    boot = next((disk for disk in vm.disks if disk.boot), None)
    asked = {
        "brand": vm.brand if vm.brand != usual.name else None,
        "kernel_version": vm.kernel_version if vm.brand == "lx" else None,
        "firmware": vm.document.get("bootrom"),
        "disk_model": boot.model if boot and boot.model != "virtio" else None,
    }
    if asked["firmware"] not in _FIRMWARE:
        asked["firmware"] = None
    for name, value in asked.items():
        row = specs.PROPERTIES[name]
        # under Nova's own name it may stand there already
        if value and row.image_key not in inherited and row.nova_image not in inherited:
            found[row.image_key] = value
    return found
