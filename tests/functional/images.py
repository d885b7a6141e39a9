# SPDX-License-Identifier: Apache-2.0
"""Images with real bytes: what a small node image is in Glance, and a Glance that says so."""

import hashlib
import io
import json
import pathlib
import tarfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from tests import emulated

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import exception
    from nova.tests import fixtures as nova_fixtures

CHUNK = 65536
MIB = 1 << 20


class Glance(nova_fixtures.GlanceFixture):
    """Nova's Glance, but with what Glance knows of the bytes, and those come in pieces."""

    def setUp(self) -> None:
        super().setUp()
        #: How often each image was downloaded.
        self.downloads: dict[str, int] = {}

    def create(self, context: Any, metadata: dict[str, Any], data: Any = None) -> dict[str, Any]:
        image: dict[str, Any] = super().create(context, metadata, data)
        if not data and "status" not in metadata:
            image["status"] = "queued"
        if data:
            image.update(facts(self._imagedata[image["id"]]))
        return image

    def detail(self, context: Any, **wanted: Any) -> list[dict[str, Any]]:
        filters = {
            name.removeprefix("property-"): value
            for name, value in (wanted.get("filters") or {}).items()
            if name.startswith("property-")
        }
        found: list[dict[str, Any]] = super().detail(context)
        # of several with one time of creation, the newest first
        return [each for each in reversed(found) if filters.items() <= each["properties"].items()]

    def update(
        self,
        context: Any,
        image_id: str,
        metadata: dict[str, Any],
        data: Any = None,
        purge_props: bool = False,
    ) -> dict[str, Any]:
        image: dict[str, Any] = super().update(context, image_id, metadata, purge_props=purge_props)
        if data is not None:
            # as Glance's client reads, and Glance keeps nothing of what does not come to its end
            pieces = list(iter(lambda: data.read(CHUNK), b""))
            if image_id not in self.images:
                raise exception.ImageNotFound(image_id=image_id)
            self._imagedata[image_id] = b"".join(pieces)
            image.update(facts(self._imagedata[image_id]), status="active")
        return image

    def data(self, image_id: str) -> bytes:
        """The bytes of an image."""
        whole: bytes = self._imagedata[image_id]
        return whole

    def download(
        self,
        context: Any,
        image_id: str,
        data: Any = None,
        dst_path: str | None = None,
        trusted_certs: Any = None,
    ) -> Iterator[bytes] | None:
        if dst_path is not None:
            super().download(context, image_id, data, dst_path, trusted_certs)
            return None
        self.show(context, image_id)
        self.downloads[image_id] = self.downloads.get(image_id, 0) + 1
        if data is None:
            return self.pieces(image_id)
        for piece in self.pieces(image_id):
            data.write(piece)
        return None

    def pieces(self, image_id: str) -> Iterator[bytes]:
        """The bytes as they come."""
        whole = self._imagedata.get(image_id, b"")
        return (whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))


def facts(data: bytes) -> dict[str, Any]:
    """What Glance finds out while an image is uploaded."""
    return {
        "size": len(data),
        "checksum": hashlib.md5(data).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }


def document(name: str, properties: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    """An image as it is before its bytes are there."""
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "container_format": "bare",
        "disk_format": "raw",
        "min_ram": 0,
        "min_disk": 0,
        "protected": False,
        "visibility": "public",
        "is_public": fields.get("visibility", "public") == "public",
        "owner": nova_fixtures.PROJECT_ID,
        "tags": [],
        "properties": dict(properties),
        **fields,
    }


def disk(size_mib: int = 64) -> bytes:
    """A raw disk that firmware takes for one that boots."""
    return b"a disk".ljust(510, b"\0") + b"\x55\xaa" + bytes(size_mib * MIB - 512)


def stream(
    node: emulated.EmulatedNode, folder: pathlib.Path, kind: str
) -> tuple[dict[str, str], bytes]:
    """The properties and the bytes of a small image (zone, minimal, lx, zvol) as a ZFS stream."""
    base = folder / f"{kind}-{uuid.uuid4()}"
    node.command("image", kind, f"nst-{kind}", "--output", str(base))
    manifest = json.loads(base.with_suffix(".imgmanifest").read_text())
    properties = {"smartos_image_type": manifest["type"]}
    if "image_size" in manifest:
        properties["smartos_image_size"] = str(manifest["image_size"])
    return properties, pathlib.Path(f"{base}.zfs.gz").read_bytes()


def tree(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of a small system, compressed."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for folder in ("etc", "root", "tmp", "usr/bin", "var/adm", "var/log", "var/svc/log"):
            made = tarfile.TarInfo(f"./{folder}")
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(made)
        for name, data in files.items():
            made = tarfile.TarInfo(f"./{name}")
            made.size, made.mode = len(data), 0o755
            archive.addfile(made, io.BytesIO(data))
    return target.getvalue()


def upload(glance: Glance, data: bytes, properties: Mapping[str, str], **fields: Any) -> str:
    """Put an image into Glance; its id."""
    name = str(fields.pop("name", "nst-image"))
    made = glance.create(None, document(name, properties, **fields), data=io.BytesIO(data))
    return str(made["id"])
