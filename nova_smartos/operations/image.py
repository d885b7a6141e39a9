# SPDX-License-Identifier: Apache-2.0
"""The node's images: Glance's are brought there once, and taken away when nobody uses them.

Who may boot an image is decided by Nova and Glance for every boot, before the driver is asked:
nova-api reads the image with the user's token. An image that is on the node already is found by
what that answer says, so it gives nothing to those who cannot read it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.image import glance
from nova.objects import image_meta as image_metas
from oslo_log import log

from nova_smartos.operations import conversion, disk, download, qcow2, signing, tree
from nova_smartos.smartos import errors, files, imgadm, node, spans
from nova_smartos.translate import manifest, payload

LOG = log.getLogger(__name__)

POOL = "zones"
ANYONE = "*"

# What imgadm and zfs say when it is the image's own bytes or manifest that they cannot take.
_FAULTY = frozenset(
    {"InvalidStream", "ManifestValidation", "UncompressionError", "UnexpectedNumberOfSnapshots"}
)
# The one who asked first may lack what another one who waits for the same image has.
_PERSONAL = (
    exception.FlavorDiskSmallerThanImage,
    exception.Forbidden,
    exception.ImageNotAuthorized,
    exception.ImageNotFound,
    exception.InstanceNotFound,
    exception.UnexpectedTaskStateError,
)
#: How the names begin of what is staged for an image from Glance, and from another node.
STAGED, MOVING = "image", "moving"
_LEFT = re.compile(
    rf"({STAGED}|{MOVING})"
    r"-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-[0-9a-f]+(?:\.json|\.zfs)?"
)
# Of datasets with what strangers have written.
_SAFE = {"devices": "off", "exec": "off", "setuid": "off"}
#: A dataset's property: when it was first seen without use.
_UNUSED = "nova:unused-since"
_AGAIN_SECONDS = 900.0
_GIB = 1 << 30


class Images:
    """The images of one node."""

    def __init__(self, gz: node.Node, options: Any, *, glance_api: Any = None) -> None:
        self._gz = gz
        self._options = options
        self._glance = glance_api or glance.API()
        self._signer = signing.Signer(options)
        self._guard = threading.Lock()
        self._present: dict[str, payload.Image] = {}
        self._flights: dict[str, futures.Future[payload.Image]] = {}
        self._asked: dict[str, float] = {}
        self._unused: dict[str, float | None] = {}

    def start(self) -> None:
        """Learn what is there, and remove what an earlier process left half done."""
        with contextlib.suppress(errors.AlreadyExists):
            # what is staged is a tenant's bytes
            quota = str(self._options.staging_quota_gb * _GIB)
            self._gz.zfs.create(files.DATASET, {"quota": quota, "compression": "lz4", **_SAFE})
        self._distrust()
        self._sweep(STAGED, MOVING)
        self._listed()

    @spans.step
    def ensure(
        self,
        context: nova_context.RequestContext,
        image_meta: image_metas.ImageMeta,
        properties: Mapping[str, Any],
        *,
        trusted_certs: Any = None,
        largest_gib: int = 0,
        check_wanted: Callable[[], None] = lambda: None,
    ) -> payload.Image:
        """The node image of a Glance image, brought to the node first if it is not there.

        However many ask for it at once, one of them brings it. A disk that is larger than
        `largest_gib` (0: any) is refused before it is unpacked; what `check_wanted` raises ends the
        wait.
        """
        wanted = manifest.wanted(image_meta, properties)
        asker = _Asker(context, image_meta, trusted_certs, largest_gib, download.Wish(check_wanted))
        try:
            found = self._found(wanted, asker)
            return dataclasses.replace(found, is_medium=manifest.is_medium(image_meta))
        except exception.ImageNotFound as error:
            # it is the same for every node
            missing = error.kwargs.get("image_id")
            what = "such image" if missing == wanted.glance_id else f"image {missing}, its origin,"
            raise _unacceptable(wanted.glance_id, f"Glance has no {what} for its user") from error

    def cache(self, context: nova_context.RequestContext, image_id: str) -> bool:
        """Bring a Glance image before anybody boots it; False when it was there."""
        record = self._glance.get(context, image_id, show_deleted=False)
        image_meta = image_metas.ImageMeta.from_dict(record)
        properties = record.get("properties") or {}
        uuid = manifest.wanted(image_meta, properties).uuid
        with self._guard:
            there = uuid in self._present
        self.ensure(context, image_meta, properties)
        return not there

    @spans.step
    def expire(self, age_seconds: float) -> list[str]:
        """Delete the images that we brought and nothing has used for so long; their uuids.

        imgadm itself deletes none that has clones, however new they are. A VM that moved here whole
        is no clone, yet its next move brings the image that it names.
        """
        # what moves from other nodes bring is in use by their nova-computes
        self._sweep(STAGED)
        named = self._named()
        deleted = []
        for each in self._listed():
            uuid = each.manifest.uuid
            try:
                since = self._marked(each, is_used=each.clones != 0 or uuid in named)
                if (
                    since is None
                    or time.time() - max(since, self._asked.get(uuid, 0)) < age_seconds
                ):
                    continue
                self.forget(uuid)
                self._delete(uuid)
            except (errors.ToolError, errors.OutputError) as error:
                # the others are not to blame
                LOG.warning("Image %s is unused, but it stays: %s", uuid, error)
            else:
                LOG.info("Image %s is deleted: nothing used it for %s s", uuid, age_seconds)
                deleted.append(uuid)
        return deleted

    def forget(self, uuid: str) -> None:
        """The node has no such image, whatever we thought."""
        with self._guard:
            self._present.pop(uuid, None)

    def kind(self, image_meta: image_metas.ImageMeta, properties: Mapping[str, Any]) -> str:
        """zone-dataset, lx-dataset or zvol; ImageUnacceptable for what the node cannot run."""
        return manifest.kind(image_meta, properties)

    def properties(
        self, context: nova_context.RequestContext, image_meta: image_metas.ImageMeta
    ) -> dict[str, str]:
        """What Glance says of an image that is not the instance's own: our keys included."""
        record = self._glance.get(context, image_meta.id, show_deleted=False)
        found = record.get("properties") or {}
        return {key: str(value) for key, value in found.items() if value is not None}

    @contextlib.contextmanager
    def _leading(self, uuid: str, flight: futures.Future[payload.Image]) -> Iterator[None]:
        """Whatever ends this, those who wait hear of it."""
        try:
            yield
        except BaseException as error:
            with self._guard:
                del self._flights[uuid]
            ended = errors.OutcomeUnknown("who brought the image was stopped")
            flight.set_exception(error if isinstance(error, Exception) else ended)
            raise
        with self._guard:
            self._present[uuid] = flight.result()
            del self._flights[uuid]

    def _look(self, wanted: manifest.Wanted) -> payload.Image | None:
        """What the node says of the image; None when it is not there."""
        try:
            found = self._gz.imgadm.get(wanted.uuid, zpool=POOL)
        except errors.NotFound:
            return None
        is_glances = found.manifest.tags.get(manifest.TAG) == wanted.glance_id
        if not is_glances and wanted.format != manifest.PUBLISHED:
            raise errors.OutputError(
                f"{POOL}/{wanted.uuid} is there, but imgadm does not know it as image "
                f"{wanted.glance_id}: delete it"
            )
        return _image(found.manifest)

    def _bring(self, wanted: manifest.Wanted, asker: "_Asker") -> payload.Image:
        bring = self._import if wanted.format == manifest.PUBLISHED else self._install_glances
        bring(wanted, asker)
        image = self._look(wanted)
        if image is None:
            raise errors.OutputError(f"imgadm has installed {wanted.uuid}, yet it is not there")
        return image

    def _import(self, wanted: manifest.Wanted, _asker: "_Asker") -> None:
        """From the operator's image server; the node verifies it against its manifest."""
        server = self._options.image_server
        LOG.info("Image %s comes to the node from %s", wanted.uuid, server)
        try:
            try:
                self._gz.imgadm.import_(wanted.uuid, source=server, zpool=POOL)
            except errors.OutcomeUnknown as error:
                LOG.warning("Image %s: %s; once more", wanted.uuid, error)
                # imgadm's lock makes this one wait for the first, if that still runs
                self._gz.imgadm.import_(wanted.uuid, source=server, zpool=POOL)
        except (errors.NotFound, errors.Unsupported) as error:
            raise _unacceptable(wanted.glance_id, str(error)) from error
        image = self._look(wanted)
        if image is not None and image.type != wanted.type:
            self._delete(wanted.uuid)
            _check_kind(wanted, image)

    def _install_glances(self, wanted: manifest.Wanted, asker: "_Asker") -> None:
        record = self._glance.get(asker.context, wanted.glance_id, show_deleted=False)
        self._check(wanted, record, asker.image_meta)
        origin = self._origin(wanted, asker)
        LOG.info("Image %s comes to the node as %s", wanted.glance_id, wanted.uuid)
        name = f"{STAGED}-{wanted.uuid}-{secrets.token_hex(4)}"
        with contextlib.ExitStack() as staged:
            with download.Download(
                functools.partial(
                    self._glance.download,
                    asker.context,
                    wanted.glance_id,
                    trusted_certs=asker.trusted_certs,
                ),
                record,
                asker.wish,
                idle_seconds=self._options.stream_idle_timeout,
            ) as source:
                if wanted.format == manifest.ZFS:
                    signed = not self._trusts(record)
                    data, sha256 = self._stage_stream(staged, name, source, signed=signed)
                    self._check_signature(wanted, record, sha256)
                    size_mib = wanted.size_mib
                elif wanted.format == manifest.QCOW2:
                    data, size_mib = self._stage_qcow2(staged, name, source, wanted, asker)
                elif wanted.format == manifest.TAR:
                    data, size_mib = self._stage_tree(staged, name, source, wanted), None
                else:
                    size_mib = _mib(source.size_bytes)
                    data = self._stage_disk(staged, name, size_mib, disk.raw(source))
            document = manifest.document(wanted, record, data, size_mib, origin)
            staged.callback(self._discard, f"{name}.json")
            text = io.BytesIO(json.dumps(document).encode())
            manifest_path = self._gz.files.write(f"{name}.json", text)
            self._install(wanted, manifest_path, f"{files.FOLDER}/{name}.zfs")
            if wanted.format == manifest.ZFS:
                # while it is staged still, which tells those who start later that nobody has looked
                try:
                    self._check_dataset(wanted, origin)
                except BaseException:
                    # what is not seen to be right must not be found and used later
                    self._discard_image(wanted.uuid)
                    raise

    def _named(self) -> set[str]:
        """The uuids of the images that the node's VMs say they are made of."""
        named = set()
        for vm in self._gz.vmadm.lookup_fields(("image_uuid", "disks")):
            named |= {each.get("image_uuid") for each in (vm, *vm.get("disks", ()))}
        return named - {None}

    def _origin(self, wanted: manifest.Wanted, asker: "_Asker") -> str | None:
        """The node image that a stream holds the difference to, brought first; its uuid."""
        if wanted.origin is None:
            return None
        record = self._glance.get(asker.context, wanted.origin, show_deleted=False)
        image_meta = image_metas.ImageMeta.from_dict(record)
        origin = manifest.wanted(image_meta, record.get("properties") or {})
        if not origin.can_be_origin or origin.type != wanted.type:
            raise _unacceptable(
                wanted.glance_id,
                f"its origin {wanted.origin} is no whole ZFS stream of a {wanted.type}",
            )
        # if it was deleted behind our back, the stream could not be received
        self.forget(origin.uuid)
        return self._found(origin, dataclasses.replace(asker, image_meta=image_meta)).uuid

    def _check(
        self,
        wanted: manifest.Wanted,
        record: Mapping[str, Any],
        image_meta: image_metas.ImageMeta,
    ) -> None:
        """Refuse what must not come to the node, before anything is there."""
        glance_id = wanted.glance_id
        if record.get("status") != "active":
            raise exception.ImageNotActive(image_id=glance_id)
        asked = image_meta.checksum if "checksum" in image_meta else None
        if asked and asked != record.get("checksum"):
            raise _unacceptable(glance_id, "Glance's image is no longer the one that was asked for")
        if not record.get("size"):
            raise _unacceptable(glance_id, "it has no data")
        is_stream = wanted.format == manifest.ZFS
        if is_stream and not self._trusts(record) and _signature(record) is None:
            # the kernel reads the stream, and would follow what is wrong or evil in it
            raise _unacceptable(
                glance_id,
                f"it is a ZFS stream, its owner {record.get('owner')} is not one of [smartos] "
                f"trusted_image_owners, and it has no {signing.PROPERTY}",
            )

    def _check_dataset(self, wanted: manifest.Wanted, origin: str | None) -> None:
        """A stream holds what it holds, whatever the image's properties say."""
        found = self._gz.zfs.get(f"{POOL}/{wanted.uuid}", "type", "volsize", "origin")
        volume = wanted.type == "zvol"
        if found.get("type") != ("volume" if volume else "filesystem"):
            wrong = f"its stream holds a {found.get('type')}, but it says {wanted.type}"
        elif volume and found.get("volsize") != str((wanted.size_mib or 0) * manifest.MIB):
            wrong = (
                f"its disk has {found.get('volsize')} bytes, but {manifest.SIZE_PROPERTY} says "
                f"{wanted.size_mib} MiB"
            )
        elif not self._same(found.get("origin"), origin and f"{POOL}/{origin}@final"):
            wrong = f"its stream is not what {manifest.ORIGIN_PROPERTY} says: {wanted.origin}"
        else:
            return
        raise _unacceptable(wanted.glance_id, wrong)

    def _same(self, snapshot: str | None, other: str | None) -> bool:
        """Whether two snapshots, if any, are the same one, perhaps received twice."""
        if snapshot == other or snapshot is None or other is None:
            return snapshot == other
        return self._gz.zfs.get(snapshot, "guid") == self._gz.zfs.get(other, "guid")

    def _check_published(self, wanted: manifest.Wanted, asker: "_Asker") -> None:
        record = self._glance.get(asker.context, wanted.glance_id, show_deleted=False)
        if self._options.image_server is None:
            raise _unacceptable(
                wanted.glance_id,
                f"it has {manifest.UUID_PROPERTY}, and there is no [smartos] image_server",
            )
        if not self._trusts(record):
            raise _unacceptable(
                wanted.glance_id,
                f"it has {manifest.UUID_PROPERTY}, and its owner {record.get('owner')} is not one "
                "of [smartos] trusted_image_owners",
            )

    def _check_signature(
        self, wanted: manifest.Wanted, record: Mapping[str, Any], sha256: bytes | None
    ) -> None:
        """Whoever owns a stream that we have made may have it run: imgadm has not seen it yet."""
        if self._trusts(record):
            return
        signature = _signature(record) or ""
        if sha256 is None or not self._signer.valid(signature, sha256, wanted.type):
            raise _unacceptable(
                wanted.glance_id,
                f"it is a ZFS stream, its owner {record.get('owner')} is not one of [smartos] "
                f"trusted_image_owners, and its {signing.PROPERTY} is not ours over these bytes",
            )

    def _check_size(self, wanted: manifest.Wanted, asker: "_Asker", size_bytes: int) -> None:
        """A small file may say that it is a disk of any size."""
        if asker.largest_gib and size_bytes > asker.largest_gib * _GIB:
            raise exception.FlavorDiskSmallerThanImage(
                flavor_size=asker.largest_gib * _GIB, image_size=size_bytes
            )
        if not asker.largest_gib and size_bytes > self._options.staging_quota_gb * _GIB:
            raise _unacceptable(
                wanted.glance_id,
                f"its disk has {size_bytes} bytes, more than [smartos] staging_quota_gb, and no "
                "flavor says how large it may be",
            )

    def _delete(self, uuid: str) -> None:
        # one that somebody else has just deleted is as good
        with contextlib.suppress(errors.NotFound):
            self._gz.imgadm.delete(uuid, zpool=POOL)
        self._unused.pop(uuid, None)
        self._asked.pop(uuid, None)

    def _discard(self, name: str) -> None:
        """Undo: whatever stops this must not hide why there is something to undo."""
        try:
            self._gz.files.delete(name)
        except errors.SmartOSError as error:
            LOG.warning("%s stays on the node for now: %s", name, error)

    def _discard_image(self, uuid: str) -> None:
        try:
            self._delete(uuid)
        except errors.SmartOSError as error:
            LOG.warning("Image %s stays on the node, delete it: %s", uuid, error)

    def _discard_dataset(self, dataset: str) -> None:
        try:
            self._gz.zfs.destroy(dataset, recursive=True)
        except errors.NotFound:
            pass
        except errors.SmartOSError as error:
            LOG.warning("%s stays on the node for now: %s", dataset, error)

    def _ensured(self, wanted: manifest.Wanted, asker: "_Asker") -> payload.Image:
        while True:
            with self._guard:
                self._asked[wanted.uuid] = time.time()
                found = self._present.get(wanted.uuid)
                if found is not None:
                    return found
                flight = self._flights.get(wanted.uuid)
                leads = flight is None
                if flight is None:
                    flight = self._flights[wanted.uuid] = futures.Future()
            if leads:
                with self._leading(wanted.uuid, flight):
                    image = self._look(wanted) or self._bring(wanted, asker)
                    flight.set_result(image)
                return image
            with spans.span("wait for the image", "wait"):
                while not futures.wait([flight], download.ASK_SECONDS).done:
                    asker.wish.ask()
            try:
                return flight.result()
            except _PERSONAL:
                continue

    def _found(self, wanted: manifest.Wanted, asker: "_Asker") -> payload.Image:
        """The node image that is wanted, of an image server or of Glance."""
        if wanted.format != manifest.PUBLISHED:
            return self._ensured(wanted, asker)
        # its uuid follows from nothing that Glance knows: everybody's right is looked at
        self._check_published(wanted, asker)
        image = self._ensured(wanted, asker)
        _check_kind(wanted, image)
        return image

    def _install(self, wanted: manifest.Wanted, manifest_path: str, file_path: str) -> None:
        # imgadm does not take over what an earlier, killed one has left; what another one receives
        # is busy, and its lock makes ours wait
        with contextlib.suppress(errors.InvalidState, errors.NotFound):
            self._gz.zfs.destroy(_partial(wanted.uuid), recursive=True)
        try:
            try:
                self._gz.imgadm.install(manifest_path, file_path, zpool=POOL)
            except errors.OutcomeUnknown as error:
                LOG.warning("Image %s: %s; once more", wanted.uuid, error)
                self._install_again(manifest_path, file_path, error)
        except errors.Unsupported as error:
            raise _unacceptable(wanted.glance_id, str(error)) from error
        except errors.ToolError as error:
            if error.code not in _FAULTY:
                raise
            raise _unacceptable(wanted.glance_id, str(error)) from error

    def _install_again(
        self, manifest_path: str, file_path: str, first: errors.OutcomeUnknown
    ) -> None:
        """imgadm's lock makes this one wait for the first, if that still runs."""
        try:
            self._gz.imgadm.install(manifest_path, file_path, zpool=POOL, seconds=_AGAIN_SECONDS)
        except errors.Unsupported:
            raise
        except errors.SmartOSError as error:
            if isinstance(error, errors.ToolError) and error.code in _FAULTY:
                # about the image itself
                raise
            raise first from error

    def _listed(self) -> list[imgadm.Image]:
        """Those of the node's images that are ours; they are what we know from now on."""
        with self._guard:
            before = set(self._present)
        listed = self._gz.imgadm.list()
        ours = [each for each in listed if each.manifest.tags.get(manifest.TAG)]
        ours = [each for each in ours if each.zpool == POOL]
        with self._guard:
            # what came in the meantime stays
            for uuid in before:
                self._present.pop(uuid, None)
            self._present |= {each.manifest.uuid: _image(each.manifest) for each in ours}
        return ours

    def _marked(self, image: imgadm.Image, *, is_used: bool) -> float | None:
        """Since when nothing uses the image; None for one that is in use.

        The node keeps it, for it must outlive us.
        """
        uuid = image.manifest.uuid
        dataset = f"{POOL}/{uuid}"
        if uuid not in self._unused:
            self._unused[uuid] = _time(self._gz.zfs.get(dataset, _UNUSED)[_UNUSED])
        since, now = self._unused[uuid], time.time()
        if is_used:
            if since is not None:
                self._gz.zfs.inherit(_UNUSED, dataset)
                self._unused[uuid] = None
            return None
        if since is None or since > now:
            since = now
            self._gz.zfs.set(dataset, {_UNUSED: str(int(now))})
            self._unused[uuid] = since
        return since

    def _stage_disk(
        self,
        staged: contextlib.ExitStack,
        name: str,
        size_mib: int,
        pieces: Iterable[tuple[int, bytes]],
    ) -> manifest.Data:
        """The disk's bytes as a ZFS stream in a file, for that is what imgadm installs."""
        dataset = f"{files.DATASET}/{name}"
        with contextlib.ExitStack() as volume:
            volume.callback(self._discard_dataset, dataset)
            self._gz.zfs.create(dataset, sparse=True, volsize_bytes=size_mib * manifest.MIB)
            disk.write(self._gz, dataset, pieces)
            return self._stage_dataset(staged, name)

    def _stage_dataset(self, staged: contextlib.ExitStack, name: str) -> manifest.Data:
        dataset = f"{files.DATASET}/{name}"
        self._gz.zfs.snapshot(f"{dataset}@final")
        staged.callback(self._discard, f"{name}.zfs")
        with self._gz.zfs.send(f"{dataset}@final") as stream:
            counted = Counted(stream)
            self._gz.files.write(f"{name}.zfs", counted)
        return manifest.Data(counted.sha1.hexdigest(), counted.size_bytes, "none")

    def _stage_qcow2(
        self,
        staged: contextlib.ExitStack,
        name: str,
        source: download.Download,
        wanted: manifest.Wanted,
        asker: "_Asker",
    ) -> tuple[manifest.Data, int]:
        """The disk in a qcow2 file, and its size in MiB."""
        inspected = qcow2.Inspected(source)
        directory = self._options.conversion_directory
        try:
            with conversion.kept(inspected, source.size_bytes, directory) as file:
                inspected.verdict()
                header = qcow2.header(file)
                self._check_size(wanted, asker, header.size_bytes)
                size_mib = _mib(header.size_bytes)
                pieces = _wished(qcow2.pieces(file, header), asker.wish)
                return self._stage_disk(staged, name, size_mib, pieces), size_mib
        except qcow2.Wrong as error:
            raise _unacceptable(wanted.glance_id, str(error)) from error

    def _stage_stream(
        self,
        staged: contextlib.ExitStack,
        name: str,
        source: download.Download,
        *,
        signed: bool,
    ) -> tuple[manifest.Data, bytes | None]:
        """The file as it came, and its SHA-256 where a signature over that must be right."""
        staged.callback(self._discard, f"{name}.zfs")
        counted = Counted(source, signed=signed)
        self._gz.files.write(f"{name}.zfs", counted)
        compression = manifest.compression(counted.start)
        data = manifest.Data(counted.sha1.hexdigest(), counted.size_bytes, compression)
        return data, counted.sha256.digest() if counted.sha256 is not None else None

    def _stage_tree(
        self,
        staged: contextlib.ExitStack,
        name: str,
        source: download.Download,
        wanted: manifest.Wanted,
    ) -> manifest.Data:
        """The files in a tar archive as a ZFS stream of a zone's dataset."""
        dataset = f"{files.DATASET}/{name}"
        with contextlib.ExitStack() as unpacked:
            unpacked.callback(self._discard_dataset, dataset)
            self._gz.zfs.create(dataset, _SAFE)
            most_bytes = self._options.staging_quota_gb * _GIB
            try:
                self._gz.files.unpack_tree(name, tree.clean(source, most_bytes=most_bytes))
            except tree.Wrong as error:
                raise _unacceptable(wanted.glance_id, str(error)) from error
            except errors.InvalidPayload as error:
                # what its members say cannot all be true
                raise _unacceptable(wanted.glance_id, str(error)) from error
            return self._stage_dataset(staged, name)

    def _distrust(self) -> None:
        """Delete what a process that was killed may have installed, and not looked at.

        Who uses an image got it from one who had.
        """
        unseen = {each[2] for each in self._leftovers(STAGED)}
        if not unseen:
            return
        used = self._named()
        for each in self._listed():
            uuid = each.manifest.uuid
            if uuid in unseen and not each.clones and uuid not in used:
                LOG.info("Image %s goes: its import did not end", uuid)
                self._delete(uuid)

    def _leftovers(self, *kinds: str) -> Iterator[re.Match[str]]:
        """What is staged for imports that no longer run here."""
        datasets = self._gz.zfs.list(files.DATASET, types=("filesystem", "volume"), depth=1)
        staged = {each.name.rpartition("/")[2] for each in datasets} | set(self._gz.files.list())
        for name in sorted(staged):
            found = _LEFT.fullmatch(name)
            if found is None or found[1] not in kinds:
                continue
            with self._guard:
                runs = found[2] in self._flights
            if not runs:
                yield found

    def _sweep(self, *kinds: str) -> None:
        """Remove what imports that no longer run have left."""
        for found in self._leftovers(*kinds):
            LOG.info("%s is left over from an import that did not end", found[0])
            self._discard_dataset(_partial(found[2]))
            self._discard_dataset(f"{files.DATASET}/{found[0]}")
            self._discard(found[0])

    def _trusts(self, record: Mapping[str, Any]) -> bool:
        trusted = self._options.trusted_image_owners
        return ANYONE in trusted or (record.get("owner") or "") in trusted


@dataclasses.dataclass(frozen=True)
class _Asker:
    """Who asks for an image, and what is particular to them."""

    context: nova_context.RequestContext
    image_meta: image_metas.ImageMeta
    trusted_certs: Any
    #: 0: as large as it likes
    largest_gib: int
    wish: download.Wish


class Counted:
    """A source of bytes that remembers what has come through it; the SHA-256 only if `signed`."""

    def __init__(self, source: Any, *, signed: bool = False) -> None:
        self._source = source
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.sha256 = hashlib.sha256() if signed else None
        self.size_bytes = 0
        self.start = b""

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._source.read(size)
        self.sha1.update(data)
        if self.sha256 is not None:
            self.sha256.update(data)
        self.size_bytes += len(data)
        if len(self.start) < manifest.MAGIC_BYTES:
            self.start = (self.start + data)[: manifest.MAGIC_BYTES]
        return data


def _check_kind(wanted: manifest.Wanted, image: payload.Image) -> None:
    """What a Glance image only names may be anything; and Glance's own are not for naming."""
    if image.type != wanted.type:
        raise _unacceptable(
            wanted.glance_id, f"{image.uuid} is of type {image.type}, not {wanted.type}"
        )
    if manifest.TAG in image.tags:
        raise _unacceptable(wanted.glance_id, f"{image.uuid} has come from Glance: boot that image")


def _image(document: imgadm.Manifest) -> payload.Image:
    return payload.Image(
        uuid=document.uuid,
        type=document.type or "",
        size_mib=document.image_size_mib,
        os=document.os or "",
        requirements=document.requirements,
        tags=document.tags,
    )


def _mib(size_bytes: int) -> int:
    """A disk has whole MiB: imgadm counts in them."""
    return -(-size_bytes // manifest.MIB)


def _partial(uuid: str) -> str:
    return f"{POOL}/{uuid}-partial"


def _signature(record: Mapping[str, Any]) -> str | None:
    told = (record.get("properties") or {}).get(signing.PROPERTY)
    return str(told) if told else None


def _wished(
    pieces: Iterable[tuple[int, bytes]], wish: download.Wish
) -> Iterator[tuple[int, bytes]]:
    for piece in pieces:
        wish.ask()
        yield piece


def _time(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None


def _unacceptable(glance_id: str, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=glance_id, reason=reason)
