# SPDX-License-Identifier: Apache-2.0
"""Installing one image: its file becomes a dataset with one snapshot, @final."""

import dataclasses
import pathlib
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from smartos_emulator import js
from smartos_emulator.imgadm import errors, manifest, streams, upgrade, values
from smartos_emulator.storage import errors as storage_errors

if TYPE_CHECKING:
    from smartos_emulator import node as node_module

Log = Callable[[str], None]
Manifest = dict[str, Any]

_SDC_VERSION = "7.0"


@dataclasses.dataclass
class Installer:
    """Installs images on one pool of a node; `log` and `warn` print a line."""

    node: "node_module.Node"
    pool: str
    log: Log
    warn: Log

    def install(self, given: Manifest, path: pathlib.Path, shown: str) -> None:
        """What `imgadm install` does with a manifest and the file that `shown` names."""
        try:
            document = upgrade.upgrade(given)
        except js.JavaScriptError as error:
            raise errors.invalid_manifest(str(error)) from None
        with errors.crashing():
            found = manifest.validate(document)
        if found:
            raise errors.manifest_validation(found)
        check_platform(document, self.node.config.platform)
        uuid = document["uuid"]
        with self.node.images.import_locks([uuid], self.log):
            info = self.node.images.installed(uuid, self.pool)
            if info:
                label = title(info["manifest"])
                self.log(f"Image {uuid} ({label}) was installed while waiting on lock")
                return
            _check_file(document, path, shown)
            self.install_file(document, path)
            self.log(f"Installed image {uuid} ({title(document)})")

    def install_file(
        self,
        document: Manifest,
        path: pathlib.Path,
        *,
        source: str | None = None,
        raw: bool = False,
    ) -> None:
        """Install a checked file; whoever calls holds the import lock."""
        uuid = document["uuid"]
        # First the data base: it is the dataset that makes an image installed.
        self.node.images.database.save(self.pool, document, source)
        try:
            if document["type"] == "docker" and not raw:
                self._unpack(document, path)
            else:
                self._receive(document, path, raw)
        except errors.ImgadmError:
            self._destroy(f"{self.pool}/{uuid}-partial")
            self._destroy(f"{self.pool}/{uuid}")
            raise

    def _receive(self, document: Manifest, path: pathlib.Path, raw: bool) -> None:
        uuid = document["uuid"]
        name = f"{self.pool}/{uuid}"
        partial = f"{name}-partial"
        compression = "none" if raw else _compression(document)
        with path.open("rb") as file:
            self._pipe(streams.Inflated(file, compression), partial)
        self._make_final(uuid, partial)
        self._rename(partial, name, "error importing")

    def _pipe(self, stream: streams.Inflated, partial: str) -> None:
        try:
            self.node.storage.receive(partial, cast(BinaryIO, stream))
            received = True
        except storage_errors.StorageError as error:
            received = False
            self._report_fault(stream)
            self.warn(f"Stderr from zfs receive: {error}\n")
        else:
            self._report_fault(stream)
        if stream.fault:
            raise _uncompression(stream.compression)
        if not received:
            raise errors.internal("zfs receive error while importing: exit code 1")

    def _report_fault(self, stream: streams.Inflated) -> None:
        if stream.fault and stream.fault_text():
            self.warn(f"Stderr from uncompression: {stream.fault_text()}")

    def _make_final(self, uuid: str, partial: str) -> None:
        below, _ = self.node.images.children(partial)
        names = ["@" + one.rpartition("@")[2] for one in below]
        if len(below) != 1:
            extra = ": " + ", ".join(names) if names else ""
            raise errors.ImgadmError(
                "UnexpectedNumberOfSnapshots",
                f'image "{uuid}" has an unexpected number of snapshots ({len(below)}){extra}',
            )
        if names[0] != "@final":
            self._rename(below[0], f"{partial}@final", "", recursive=True)

    def _rename(self, old: str, new: str, message: str, *, recursive: bool = False) -> None:
        try:
            self.node.storage.rename(old, new, recursive=recursive)
        except storage_errors.StorageError as error:
            raise errors.internal(message or f"Command failed: {error}\n") from None

    def _unpack(self, document: Manifest, path: pathlib.Path) -> None:
        """A docker layer: files on top of the origin's, or in a new dataset."""
        storage = self.node.storage
        name = f"{self.pool}/{document['uuid']}"
        partial = f"{name}-partial"
        try:
            if storage.exists(partial):
                self.log(
                    "Warning: deleting partial dataset left over from earlier import attempt: "
                    + partial
                )
                storage.destroy(partial, recursive=True)
            if document.get("origin"):
                storage.clone(f"{self.pool}/{document['origin']}@final", partial)
            else:
                storage.create(partial)
            root = storage.directory(partial) / "root"
            root.mkdir(exist_ok=True)
            streams.unpack_layer(path, root)
            storage.snapshot(f"{partial}@final")
            storage.rename(partial, name)
        except (storage_errors.StorageError, OSError, tarfile.TarError) as error:
            raise errors.internal(f"exec error:\n\tstderr:\n{error}") from None

    def _destroy(self, name: str) -> None:
        if self.node.storage.exists(name):
            self.node.storage.destroy(name, recursive=True)


def title(document: Manifest) -> str:
    """name@version."""
    return "@".join(js.text(document.get(key, js.UNDEFINED)) for key in ("name", "version"))


def check_platform(document: Manifest, stamp: str) -> None:
    """Refuse an image that this platform is too old or too new for."""
    wanted = js.get(document, "requirements")
    for bound in ("min_platform", "max_platform"):
        spec = js.get(wanted, bound) if js.truthy(wanted) else js.UNDEFINED
        if js.truthy(spec) and not _fits(spec, bound, stamp):
            kind = "MinPlatform" if bound == "min_platform" else "MaxPlatform"
            raise errors.ImgadmError(
                kind,
                f"current platform version, {_SDC_VERSION}/{stamp}, does not satisfy "
                f"requirements.{bound}={js.dumps(spec)}",
            )


def _fits(spec: Any, bound: str, stamp: str) -> bool:
    here = js.get(spec, _SDC_VERSION)
    versions = sorted(values.keys(spec))
    if bound == "min_platform":
        return not js.less(stamp, here) if js.truthy(here) else versions[0] <= _SDC_VERSION
    return not js.less(here, stamp) if js.truthy(here) else versions[-1] >= _SDC_VERSION


def _compression(document: Manifest) -> str:
    with errors.crashing():
        given = js.get(js.get(document.get("files", js.UNDEFINED), "0"), "compression")
    compression = js.text(given)
    if compression not in streams.EXTENSIONS:
        message = f"image {document['uuid']} file compression: {compression}"
        raise errors.abort(message, "AssertionError")
    return compression


def _uncompression(compression: str) -> errors.ImgadmError:
    status = 2 if compression == "bzip2" else 1
    message = f"{compression} uncompression error while importing: exit code {status}"
    if compression == "bzip2":
        message += (
            " (corrupt compressed file): usually indicates a network error while downloading,"
            " try again"
        )
    return errors.ImgadmError("UncompressionError", message)


def _check_file(document: Manifest, path: pathlib.Path, shown: str) -> None:
    """Compare a file's size and checksum with the manifest's, where it has them."""
    files = document.get("files")
    file = files[0] if files else {}
    size = path.stat().st_size
    if "size" in file and js.number(file["size"]) != size:
        raise download_error(
            f"image file size error: manifest says {js.text(js.number(file['size']))} bytes, "
            f"{shown} is {size} bytes"
        )
    sha1 = file.get("sha1")
    if js.truthy(sha1) and sha1 != (actual := streams.checksum(path)):
        raise download_error(
            f'image file checksum (sha1) error: manifest says "{js.text(sha1)}", '
            f'{shown} is "{actual}"'
        )


def download_error(message: str) -> errors.ImgadmError:
    return errors.ImgadmError("DownloadError", message)
