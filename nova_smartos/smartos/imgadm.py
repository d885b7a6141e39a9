# SPDX-License-Identifier: Apache-2.0
"""imgadm: images on the node. Its codes are stable, and exit 3 means not installed.

Progress and success are reported on stdout, next to the data.
"""

import builtins
import dataclasses
import datetime
import logging
import re
from collections.abc import Mapping
from typing import Any

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text
from nova_smartos.smartos.records import key

LOG = logging.getLogger(__name__)

#: Downloads of many gigabytes; imgadm itself gives up on a source that stands still.
IMPORT_SECONDS = 4 * 3600

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_FIELD = re.compile(r"[a-z_]+")
_DELETED = re.compile(r"(?:\[dry-run\] )?Deleted image ([0-9a-f-]{36}) \(")
_SAVED = re.compile(r'Saving manifest to "(.*)"')
_SENT = re.compile(r'Sending image file to "(.*)"')


def _code(codes: str, error: type[errors.ToolError], code: str = "") -> list[_tool.Text]:
    return [
        text(rf"imgadm(?: \S+)?: error \({each}\): ", error, code or each) for each in codes.split()
    ]


TEXTS = (
    # first, since a guest's own words follow
    *_code("PrepareImageError PrepareImageDidNotRun", errors.ToolError),
    *_tool.SPACE,
    *_code("ImageNotInstalled ImageNotFound ActiveImageNotFound", errors.NotFound),
    *_code("OriginNotInstalled OriginNotFoundInSource VmNotFound", errors.NotFound),
    *_code("ImageHasDependentClones ImageNotActive VmNotStopped", errors.InvalidState),
    *_code("VmHasNoOrigin OriginHasNoFinalSnapshot MaxOriginDepth", errors.InvalidState),
    *_code("MinPlatform MaxPlatform NotSupported", errors.Unsupported),
    *_code("InvalidManifest ManifestValidation InvalidUUID", errors.InvalidPayload),
    *_code("InvalidArgument InvalidDockerInfo Usage UnknownOption", errors.InvalidPayload),
    *_code("UnknownCommand UnexpectedNumberOfSnapshots", errors.InvalidPayload),
    text(r".*cannot receive\b.*: (?:invalid|failed to read from) stream", errors.InvalidPayload,
         "InvalidStream"),
    text(r".*cannot receive incremental stream: destination '.*' does not exist",
         errors.InvalidPayload, "InvalidStream"),
    text(r".*cannot receive\b.*: local origin for clone .* does not exist",
         errors.InvalidPayload, "InvalidStream"),
    text(r"imgadm(?: \S+)?: error \(DownloadError\): image file (?:checksum|size)",
         errors.InvalidPayload, "FileMismatch"),
    *_code("InternalError NoSources SourcePing Timeout", errors.ToolError),
    *_code("ImageMissingOriginalSnapshot", errors.ToolError),
    *_code("FileSystem UncompressionError ClientError DownloadError", errors.ToolError),
    *_code("UploadError ConfigError UpgradeError MultiError", errors.ToolError),
    text(r"imgadm(?: \S+)?: error: (?:Cannot read property|undefined is not|Object )",
         errors.ToolError, "Abort"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class File(records.Record):
    """The data of an image."""

    compression: str | None = None
    sha1: str | None = None
    size_bytes: int | None = key("size", None)


@dataclasses.dataclass(frozen=True)
class Manifest(records.Record):
    """What an image is; `document` is all of it."""

    uuid: str
    name: str | None = None
    version: str | None = None
    type: str | None = None
    os: str | None = None
    cpu_type: str | None = None
    disk_driver: str | None = None
    files: tuple[File, ...] = ()
    image_size_mib: int | None = key("image_size", None)
    nic_driver: str | None = None
    origin: str | None = None
    owner: str | None = None
    published_at: datetime.datetime | None = None
    requirements: Mapping[str, Any] = key("requirements", dict)
    state: str | None = None
    tags: Mapping[str, Any] = key("tags", dict)
    document: Mapping[str, Any] = records.whole()


@dataclasses.dataclass(frozen=True)
class Image(records.Record):
    """An image on a pool of the node, or offered by a source. Only list() counts clones."""

    manifest: Manifest
    zpool: str | None = None
    source: str | None = None
    clones: int | None = None
    clone_names: tuple[str, ...] = key("cloneNames", ())


@dataclasses.dataclass(frozen=True)
class Source(records.Record):
    """Where images come from."""

    url: str
    type: str = "imgapi"
    insecure: bool = False


@dataclasses.dataclass(frozen=True)
class Created:
    """The two files on the node that create() wrote."""

    manifest_path: str
    file_path: str


class Imgadm(_tool.Tool):
    """imgadm(8)."""

    name = "imgadm"
    texts = TEXTS

    def add_source(
        self, url: str, *, type_: str = "imgapi", insecure: bool = False, force: bool = False
    ) -> None:
        """imgadm sources -a URL -t TYPE [-k] [-f]: adding it again changes nothing."""
        flags = (["-k"] if insecure else []) + (["-f"] if force else [])
        kind = self._operand(type_, "source type", _NAME)
        self._change("sources", "-a", self._operand(url, "url"), "-t", kind, *flags)

    def ancestry(self, uuid: str, *, zpool: str | None = None) -> builtins.list[Image]:
        """imgadm ancestry -j [-P POOL] UUID: the image, its origin, and so on."""
        return self._read(_images, "ancestry", "-j", *self._pool(zpool), self._uuid(uuid))

    def available(self, filters: Mapping[str, str] | None = None) -> builtins.list[Image]:
        """imgadm avail -j [KEY=VALUE …]: what the sources offer."""
        return self._read(_images, "avail", "-j", *self._fields(filters or {}))

    def create(
        self,
        vm_uuid: str,
        prefix: str,
        fields: Mapping[str, str],
        *,
        compression: str = "gzip",
        incremental: bool = False,
        prepare_script: str | None = None,
        seconds: float = IMPORT_SECONDS,
    ) -> Created:
        """imgadm create -o PREFIX -c COMPRESSION [-i] [-s SCRIPT] VM KEY=VALUE …

        The VM must be stopped. Both files stay on the node, at PREFIX and what imgadm appends.
        """
        flags = ["-o", self._operand(prefix, "path")]
        flags += ["-c", self._operand(compression, "compression", _NAME)]
        flags += ["-i"] if incremental else []
        flags += ["-s", self._operand(prepare_script, "path")] if prepare_script else []
        argv = ("create", *flags, self._uuid(vm_uuid), *self._fields(fields))
        return self._parsed(_created, self._long(*argv, seconds=seconds))

    def delete(self, uuid: str, *, zpool: str | None = None) -> None:
        """imgadm delete [-P POOL] UUID"""
        self._change("delete", *self._pool(zpool), self._uuid(uuid))

    def delete_source(self, url: str) -> None:
        """imgadm sources -d URL: an unknown one changes nothing."""
        self._change("sources", "-d", self._operand(url, "url"))

    def get(self, uuid: str, *, zpool: str | None = None) -> Image:
        """imgadm get [-P POOL] UUID: NotFound when it is not installed on this pool."""
        return self._read(_image, "get", *self._pool(zpool), self._uuid(uuid))

    def import_(
        self,
        uuid: str,
        *,
        zpool: str | None = None,
        source: str | None = None,
        zstream: bool = False,
        seconds: float = IMPORT_SECONDS,
    ) -> None:
        """imgadm import -q [-P POOL] [-S SOURCE] [--zstream] UUID: and its origins before it.

        An image that is there already is success.
        """
        flags = ["-q", *self._pool(zpool)]
        flags += ["-S", self._operand(source, "url")] if source else []
        flags += ["--zstream"] if zstream else []
        self._long("import", *flags, self._uuid(uuid), seconds=seconds)

    def info(self, uuid: str, *, zpool: str | None = None) -> Image:
        """imgadm info [-P POOL] UUID: imgadm's other word for get."""
        return self._read(_image, "info", *self._pool(zpool), self._uuid(uuid))

    def install(
        self,
        manifest_path: str,
        file_path: str,
        *,
        zpool: str | None = None,
        seconds: float = IMPORT_SECONDS,
    ) -> None:
        """imgadm install -q -m MANIFEST -f FILE [-P POOL]: from two files on the node.

        An image that is there already is success.
        """
        files = ["-m", self._operand(manifest_path, "path"), "-f", self._operand(file_path, "path")]
        self._long("install", "-q", *files, *self._pool(zpool), seconds=seconds)

    def list(self) -> builtins.list[Image]:
        """imgadm list -j: with the clones of each.

        Of an image whose manifest makes no sense there is the uuid: the others must not suffer.
        """
        return self._read(_listed, "list", "-j")

    def show(self, uuid: str) -> Manifest:
        """imgadm show UUID: asks the sources."""
        return self._read(_manifest, "show", self._uuid(uuid))

    def sources(self) -> builtins.list[Source]:
        """imgadm sources -j"""
        return self._read(_sources, "sources", "-j")

    def update(self, *uuids: str) -> None:
        """imgadm update [UUID …]: brings old images' records and snapshots up to date."""
        self._long("update", *[self._uuid(uuid) for uuid in uuids], seconds=IMPORT_SECONDS)

    def vacuum(self, *, dry_run: bool = False) -> builtins.list[str]:
        """imgadm vacuum -f [-n]: delete unused images; return their uuids."""
        result = self._change("vacuum", "-f", *(["-n"] if dry_run else []))
        return _DELETED.findall(result.stdout)

    def _fields(self, fields: Mapping[str, str]) -> builtins.list[str]:
        return [f"{self._operand(name, 'field', _FIELD)}={fields[name]}" for name in fields]

    def _long(self, *arguments: str, seconds: float) -> transport.Result:
        timeout = transport.Timeout.CHANGE
        return self._run(self._command(*arguments, timeout=timeout, seconds=seconds))

    def _pool(self, zpool: str | None) -> builtins.list[str]:
        return ["-P", self._operand(zpool, "pool", _NAME)] if zpool is not None else []


def _created(output: str) -> Created:
    manifest, data = _SAVED.search(output), _SENT.search(output)
    if not manifest or not data:
        raise errors.OutputError(f"no word of the files: {records.excerpt(output)}")
    return Created(manifest[1], data[1])


def _image(output: str) -> Image:
    return Image.from_json(records.object_(output))


def _images(output: str) -> list[Image]:
    return [Image.from_json(each) for each in records.array(output)]


def _listed(output: str) -> list[Image]:
    return [_image_or_uuid(each) for each in records.array(output)]


def _image_or_uuid(document: Any) -> Image:
    try:
        return Image.from_json(document)
    except errors.OutputError as error:
        manifest = document.get("manifest") if isinstance(document, dict) else None
        if not isinstance(manifest, dict) or "uuid" not in manifest:
            raise
        LOG.warning("image %s: %s", manifest["uuid"], error)
        return Image.from_json({**document, "manifest": {"uuid": manifest["uuid"]}})


def _manifest(output: str) -> Manifest:
    return Manifest.from_json(records.object_(output))


def _sources(output: str) -> list[Source]:
    return [Source.from_json(each) for each in records.array(output)]
