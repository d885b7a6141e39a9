# SPDX-License-Identifier: Apache-2.0
"""Small images to try things with: a manifest and a file that plain imgadm installs."""

import gzip
import hashlib
import io
import json
import pathlib
import tempfile
import uuid as uuid_module
from collections.abc import Callable
from typing import Any

from smartos_emulator import storage

Manifest = dict[str, Any]

_OWNER = "00000000-0000-0000-0000-000000000000"
_PUBLISHED = "2026-03-12T00:00:00Z"
_MIB = 1 << 20
_DISK_MIB = 64


def build(
    kind: str,
    name: str,
    *,
    uuid: str | None = None,
    version: str = "1.0.0",
    files: dict[str, str] | None = None,
    image_size: int = _DISK_MIB,
    **fields: Any,
) -> tuple[Manifest, bytes]:
    """A manifest and the gzipped stream of a `kind` (zone, minimal, lx, zvol) of image. `files`
    are put into a zone's root; other fields go into the manifest."""
    fill, described = _KINDS[kind]
    identity = uuid or str(uuid_module.uuid4())
    content = {**described.get("files", {}), "/etc/motd": f"{name} {version}\n", **(files or {})}
    with tempfile.TemporaryDirectory(prefix="smartos-image-") as place:
        pool = storage.Storage(pathlib.Path(place), pools={"zones": 1 << 40})
        try:
            stream = _stream(pool, f"zones/{identity}", fill, content, image_size)
        finally:
            pool.close()
    packed = gzip.compress(stream, mtime=0)
    size = {"image_size": image_size} if kind == "zvol" else {}
    file = {
        "sha1": hashlib.sha1(packed).hexdigest(),
        "size": len(packed),
        "compression": "gzip",
    }
    start = {"v": 2, "uuid": identity, "owner": _OWNER, "name": name, "version": version}
    state = {"state": "active", "disabled": False, "public": True, "published_at": _PUBLISHED}
    return {**start, **state, **described["manifest"], **size, "files": [file], **fields}, packed


def _stream(
    pool: storage.Storage,
    name: str,
    fill: Callable[[storage.Storage, str, dict[str, str], int], None],
    content: dict[str, str],
    image_size: int,
) -> bytes:
    fill(pool, name, content, image_size)
    pool.snapshot(f"{name}@final")
    target = io.BytesIO()
    pool.send(f"{name}@final", target)
    return target.getvalue()


def _fill_zone(pool: storage.Storage, name: str, content: dict[str, str], size: int) -> None:
    pool.create(name)
    root = pool.directory(name) / "root"
    for folder in ("etc", "root", "tmp", "usr/bin", "var/adm", "var/log", "var/svc/log"):
        (root / folder).mkdir(parents=True)
    for path, text in content.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def _fill_disk(pool: storage.Storage, name: str, content: dict[str, str], size: int) -> None:
    pool.create(name, volume_bytes=size * _MIB, sparse=True)
    with pool.volume_file(name).open("r+b") as disk:
        disk.write(json.dumps(content).encode())
        # The signature by which firmware knows a disk that boots.
        disk.seek(510)
        disk.write(b"\x55\xaa")


# With this feature vmadm waits for the zone to say that it is provisioned.
_ZONEINIT = json.dumps({"features": {"var_svc_provisioning": True}}) + "\n"

_KINDS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "zone": (
        _fill_zone,
        {
            "manifest": {"type": "zone-dataset", "os": "smartos"},
            "files": {
                "/etc/product": "Name: Emulated instance\n",
                "/var/zoneinit/zoneinit.json": _ZONEINIT,
            },
        },
    ),
    "minimal": (
        _fill_zone,
        {
            "manifest": {"type": "zone-dataset", "os": "smartos"},
            "files": {"/etc/product": "Name: Emulated minimal instance\n"},
        },
    ),
    "lx": (
        _fill_zone,
        {
            "manifest": {
                "type": "lx-dataset",
                "os": "linux",
                "requirements": {"brand": "lx"},
                "tags": {"kernel_version": "5.10.0"},
            },
            "files": {"/etc/os-release": 'ID=debian\nVERSION_ID="12"\n'},
        },
    ),
    "zvol": (
        _fill_disk,
        {
            "manifest": {
                "type": "zvol",
                "os": "linux",
                "nic_driver": "virtio",
                "disk_driver": "virtio",
                "cpu_type": "host",
            },
        },
    ),
}
