# SPDX-License-Identifier: Apache-2.0
"""The node's images: Glance's are brought there once, and taken away when nobody uses them.

Who may boot an image is decided by Nova and Glance for every boot, before the driver is asked:
nova-api reads the image with the user's token. An image that is on the node already is found by
what that answer says, so it gives nothing to those who cannot read it.
"""

import contextlib
import functools
import hashlib
import io
import json
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.image import glance
from nova.objects import image_meta as image_metas
from oslo_log import log

from nova_smartos.smartos import errors, files, imgadm, node
from nova_smartos.translate import manifest, payload

LOG = log.getLogger(__name__)

POOL = "zones"
ANYONE = "*"

# What imgadm and zfs say when it is the image's own bytes or manifest that they cannot take.
_FAULTY = frozenset(
    {"InvalidStream", "ManifestValidation", "UncompressionError", "UnexpectedNumberOfSnapshots"}
)
# The one who asked first may lack what another one who waits for the same image has.
_PERSONAL = (exception.Forbidden, exception.ImageNotAuthorized, exception.ImageNotFound)
_STAGED = re.compile(r"image-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-[0-9a-f]+(?:\.json)?")
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
            safe = {"compression": "lz4", "devices": "off", "exec": "off", "setuid": "off"}
            self._gz.zfs.create(files.DATASET, {"quota": quota, **safe})
        self._sweep()
        self._listed()

    def ensure(
        self,
        context: nova_context.RequestContext,
        image_meta: image_metas.ImageMeta,
        properties: Mapping[str, Any],
        *,
        trusted_certs: Any = None,
    ) -> payload.Image:
        """The node image of a Glance image, brought to the node first if it is not there.

        However many ask for it at once, one of them brings it.
        """
        wanted = manifest.wanted(image_meta, properties)
        try:
            return self._ensured(context, wanted, image_meta, trusted_certs)
        except exception.ImageNotFound as error:
            # it is the same for every node
            raise _unacceptable(
                wanted.glance_id, "Glance has no such image for its user"
            ) from error

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

    def expire(self, age_seconds: float) -> list[str]:
        """Delete the images that we brought and nothing has used for so long; their uuids.

        imgadm itself deletes none that has clones, however new they are.
        """
        self._sweep()
        deleted = []
        for each in self._listed():
            uuid = each.manifest.uuid
            try:
                since = self._marked(each)
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
        if found.manifest.tags.get(manifest.TAG) != wanted.glance_id:
            raise errors.OutputError(
                f"{POOL}/{wanted.uuid} is there, but imgadm does not know it as image "
                f"{wanted.glance_id}: delete it"
            )
        return _image(found.manifest)

    def _bring(
        self,
        context: nova_context.RequestContext,
        wanted: manifest.Wanted,
        image_meta: image_metas.ImageMeta,
        trusted_certs: Any,
    ) -> payload.Image:
        record = self._glance.get(context, wanted.glance_id, show_deleted=False)
        self._check(wanted, record, image_meta)
        LOG.info("Image %s comes to the node as %s", wanted.glance_id, wanted.uuid)
        name = f"image-{wanted.uuid}-{secrets.token_hex(4)}"
        with contextlib.ExitStack() as staged:
            with _Download(
                functools.partial(
                    self._glance.download, context, wanted.glance_id, trusted_certs=trusted_certs
                ),
                record,
                idle_seconds=self._options.stream_idle_timeout,
            ) as download:
                stage = self._stage_disk if wanted.raw else self._stage_stream
                data = stage(staged, name, download)
            size_mib = _mib(download.size_bytes) if wanted.raw else wanted.size_mib
            document = manifest.document(wanted, record, data, size_mib)
            staged.callback(self._discard, f"{name}.json")
            text = io.BytesIO(json.dumps(document).encode())
            manifest_path = self._gz.files.write(f"{name}.json", text)
            self._install(wanted, manifest_path, f"{files.FOLDER}/{name}")
        if not wanted.raw:
            self._check_dataset(wanted)
        image = self._look(wanted)
        if image is None:
            raise errors.OutputError(f"imgadm has installed {wanted.uuid}, yet it is not there")
        return image

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
        if wanted.raw:
            return
        trusted = self._options.trusted_image_owners
        if ANYONE not in trusted and (record.get("owner") or "") not in trusted:
            # the kernel reads the stream, and would follow what is wrong or evil in it
            raise _unacceptable(
                glance_id,
                f"it is a ZFS stream, and its owner {record.get('owner')} is not one of "
                "[smartos] trusted_image_owners",
            )

    def _check_dataset(self, wanted: manifest.Wanted) -> None:
        """A stream holds what it holds, whatever the image's properties say."""
        found = self._gz.zfs.get(f"{POOL}/{wanted.uuid}", "type", "volsize")
        volume = wanted.type == "zvol"
        if found.get("type") != ("volume" if volume else "filesystem"):
            wrong = f"its stream holds a {found.get('type')}, but it says {wanted.type}"
        elif volume and found.get("volsize") != str((wanted.size_mib or 0) * manifest.MIB):
            wrong = (
                f"its disk has {found.get('volsize')} bytes, but {manifest.SIZE_PROPERTY} says "
                f"{wanted.size_mib} MiB"
            )
        else:
            return
        self._gz.imgadm.delete(wanted.uuid, zpool=POOL)
        raise _unacceptable(wanted.glance_id, wrong)

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

    def _discard_volume(self, dataset: str) -> None:
        try:
            self._gz.zfs.destroy(dataset, recursive=True)
        except errors.NotFound:
            pass
        except errors.SmartOSError as error:
            LOG.warning("%s stays on the node for now: %s", dataset, error)

    def _ensured(
        self,
        context: nova_context.RequestContext,
        wanted: manifest.Wanted,
        image_meta: image_metas.ImageMeta,
        trusted_certs: Any,
    ) -> payload.Image:
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
                    image = self._look(wanted) or self._bring(
                        context, wanted, image_meta, trusted_certs
                    )
                    flight.set_result(image)
                return image
            try:
                return flight.result()
            except _PERSONAL:
                continue

    def _install(self, wanted: manifest.Wanted, manifest_path: str, file_path: str) -> None:
        # imgadm does not take over what an earlier, killed one has left
        with contextlib.suppress(errors.NotFound):
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

    def _marked(self, image: imgadm.Image) -> float | None:
        """Since when nothing uses the image; None for one that is in use.

        The node keeps it, for it must outlive us.
        """
        uuid = image.manifest.uuid
        dataset = f"{POOL}/{uuid}"
        if uuid not in self._unused:
            self._unused[uuid] = _time(self._gz.zfs.get(dataset, _UNUSED)[_UNUSED])
        since, now = self._unused[uuid], time.time()
        if image.clones != 0:
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
        self, staged: contextlib.ExitStack, name: str, download: "_Download"
    ) -> manifest.Data:
        """The disk's bytes as a ZFS stream in a file, for that is what imgadm installs."""
        dataset = f"{files.DATASET}/{name}"
        with contextlib.ExitStack() as volume:
            volume.callback(self._discard_volume, dataset)
            size_bytes = _mib(download.size_bytes) * manifest.MIB
            self._gz.zfs.create(dataset, sparse=True, volsize_bytes=size_bytes)
            self._gz.files.write_volume(dataset, _Padded(download))
            self._gz.zfs.snapshot(f"{dataset}@final")
            staged.callback(self._discard, name)
            with self._gz.zfs.send(f"{dataset}@final") as stream:
                counted = Counted(stream)
                self._gz.files.write(name, counted)
        return manifest.Data(counted.sha1.hexdigest(), counted.size_bytes, "none")

    def _stage_stream(
        self, staged: contextlib.ExitStack, name: str, download: "_Download"
    ) -> manifest.Data:
        staged.callback(self._discard, name)
        counted = Counted(download)
        self._gz.files.write(name, counted)
        compression = manifest.compression(counted.start)
        return manifest.Data(counted.sha1.hexdigest(), counted.size_bytes, compression)

    def _sweep(self) -> None:
        """Remove what imports that no longer run have left."""
        volumes = self._gz.zfs.list(files.DATASET, types=("volume",), depth=1)
        staged = {each.name.rpartition("/")[2] for each in volumes} | set(self._gz.files.list())
        for name in sorted(staged):
            found = _STAGED.fullmatch(name)
            with self._guard:
                leftover = found is not None and found[1] not in self._flights
            if found is not None and leftover:
                LOG.info("%s is left over from an import that did not end", name)
                self._discard_volume(_partial(found[1]))
                self._discard_volume(f"{files.DATASET}/{name}")
                self._discard(name)


class Counted:
    """A source of bytes that remembers what has come through it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.size_bytes = 0
        self.start = b""

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._source.read(size)
        self.sha1.update(data)
        self.size_bytes += len(data)
        if len(self.start) < manifest.MAGIC_BYTES:
            self.start = (self.start + data)[: manifest.MAGIC_BYTES]
        return data


class _Download:
    """An image's bytes on their way from Glance.

    The end is only reported when all of them have come and their hash is right, and Nova has
    verified the signature if there is one: nothing that is short or wrong is ever installed.
    A thread of its own speaks with Glance, for nothing else could end a wait for it.
    """

    def __init__(
        self,
        download: Callable[..., object],
        record: Mapping[str, Any],
        *,
        idle_seconds: float,
    ) -> None:
        self.size_bytes = int(record["size"])
        self._id = str(record["id"])
        self._download = download
        self._idle = idle_seconds
        self._hash, self._expected = _hash(record)
        self._came = 0
        self._rest = b""
        self._ended = False
        # bytes, then None at the end or what went wrong
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=8)
        self._given_up = threading.Event()

    def __enter__(self) -> "_Download":
        threading.Thread(target=self._fetch, name=f"download-{self._id}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()

    def read(self, size: int = -1, /) -> bytes:
        """Some of the bytes, at most `size`; b"" is the end."""
        if not self._rest and not self._ended:
            self._rest = self._next()
        data, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return data

    def write(self, chunk: bytes) -> None:
        """What Nova calls with the bytes."""
        if chunk:
            self._put(chunk)

    def truncate(self, _: int) -> None:
        """What Nova calls when the signature is wrong; it raises that, too."""

    def _next(self) -> bytes:
        try:
            came = self._queue.get(timeout=self._idle)
        except queue.Empty:
            raise self._broken(f"nothing came for {self._idle} seconds") from None
        if isinstance(came, Exception):
            raise came
        if came is None:
            self._ended = True
            self._verify()
            return b""
        self._came += len(came)
        if self._came > self.size_bytes:
            raise self._broken(f"more than its {self.size_bytes} bytes came")
        self._hash.update(came)
        return came

    def _verify(self) -> None:
        if self._came < self.size_bytes:
            raise self._broken(f"only {self._came} of {self.size_bytes} bytes came")
        if self._hash.hexdigest() != self._expected:
            raise _unacceptable(
                self._id, f"its {self._hash.name} is not the one that Glance says it has"
            )

    def _broken(self, reason: str) -> exception.NovaException:
        return exception.NovaException(f"Image {self._id} did not come from Glance: {reason}")

    def _fetch(self) -> None:
        try:
            self._download(data=self)
            self._put(None)
        except _GivenUpError:
            LOG.debug("Nobody wants the rest of image %s", self._id)
        except Exception as error:
            # raised again where the bytes are read
            with contextlib.suppress(_GivenUpError):
                self._put(error)

    def _put(self, item: bytes | Exception | None) -> None:
        while not self._given_up.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return
        raise _GivenUpError


class _GivenUpError(Exception):
    """The download's reader has gone."""


class _Padded:
    """A source with zeros at its end: a disk takes whole blocks."""

    _BLOCK = 4096

    def __init__(self, source: Any) -> None:
        self._source = source
        self._came = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = b"" if self._ended else self._source.read(size)
        self._came += len(data)
        if not data and not self._ended:
            self._ended = True
            return b"\0" * (-self._came % self._BLOCK)
        return data


def _hash(record: Mapping[str, Any]) -> tuple[Any, str]:
    """What to compute, and what must come out."""
    properties = record.get("properties") or {}
    for algorithm, expected in (
        (_either(record, properties, "os_hash_algo"), _either(record, properties, "os_hash_value")),
        ("md5", record.get("checksum")),
    ):
        if expected and algorithm in hashlib.algorithms_available:
            return hashlib.new(algorithm, usedforsecurity=False), str(expected).lower()
    raise _unacceptable(str(record["id"]), "Glance has no hash of it, so it cannot be verified")


def _either(record: Mapping[str, Any], properties: Mapping[str, Any], name: str) -> Any:
    # as Glance's own fields, or among the properties: it depends on the schema that it tells
    return record.get(name) or properties.get(name)


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


def _time(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None


def _unacceptable(glance_id: str, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=glance_id, reason=reason)
