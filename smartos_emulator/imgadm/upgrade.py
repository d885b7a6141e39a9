# SPDX-License-Identifier: Apache-2.0
"""Bringing an image manifest of an old version to the present one."""

import posixpath
import re
from typing import Any

from smartos_emulator import js

Manifest = dict[str, Any]

VERSION = 2

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NO_SECONDS = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}Z", re.ASCII)


def is_uuid(value: Any) -> bool:
    """Whether a value, taken as text, is a UUID in lower case."""
    return _UUID.fullmatch(js.text(value)) is not None


def upgrade(manifest: Manifest) -> Manifest:
    """The manifest in the present version; the same object when it is there already."""
    version = js.get(manifest, "v")
    if not js.truthy(version):
        if not js.truthy(js.get(manifest, "creator_uuid")):
            raise js.JavaScriptError('manifest does not have a "v" field')
        version = 1
    current = js.number(version)
    if current >= VERSION:
        return manifest
    if not current < VERSION:
        raise js.JavaScriptError("false == true")
    return _upgrade_to_2(manifest)


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise js.JavaScriptError(message)


def _upgrade_to_2(old: Manifest) -> Manifest:
    uuid = js.get(old, "uuid")
    _refuse(not is_uuid(uuid), f'uuid (oldManifest.uuid) is required: "{js.text(uuid)}"')
    _refuse(
        not js.truthy(js.get(old, "creator_uuid")),
        'old DSAPI manifest does not have a "creator_uuid": [object Object]',
    )
    new: Manifest = js.loads(js.dumps(old))
    _refuse("owner" in new, "manifest.owner && manifest.creator_uuid")
    new["owner"] = new["creator_uuid"]
    _drop(new, "creator_uuid", "vendor_uuid", "creator_name", "cloud_name", "creator_admin")
    _upgrade_access(new)
    _upgrade_state(new)
    _upgrade_files(new)
    if js.truthy(new.get("image_size")):
        new["image_size"] = js.number(new["image_size"])
    _drop(new, "platform_type", "created_at", "updated_at", "_url")
    new["v"] = VERSION
    return new


def _drop(manifest: Manifest, *fields: str) -> None:
    for field in fields:
        manifest.pop(field, None)


def _upgrade_access(new: Manifest) -> None:
    restricted = new.get("restricted_to_uuid")
    if js.truthy(restricted):
        _refuse("public" in new, "manifest.restricted_to_uuid && manifest.public")
        new["public"] = False
        new["acl"] = [restricted]
    else:
        new["public"] = True
    _drop(new, "restricted_to_uuid", "owner_uuid")


def _upgrade_state(new: Manifest) -> None:
    new["disabled"] = js.truthy(new.get("disabled", False))
    new["state"] = "disabled" if new["disabled"] else "active"
    if not js.truthy(new.get("published_at")) and js.truthy(new.get("created_at")):
        new["published_at"] = new["created_at"]
    published = new.get("published_at")
    if isinstance(published, str) and _NO_SECONDS.search(published):
        new["published_at"] = published[:-1] + ":00Z"


def _upgrade_files(new: Manifest) -> None:
    files = new.get("files")
    if not js.truthy(files):
        return
    for file in js.each(files):
        if not js.truthy(js.get(file, "compression")):
            path = js.get(file, "path")
            name = path if js.truthy(path) else js.get(file, "url")
            extension = posixpath.splitext(js.text(name).rstrip("/"))[1]
            known = {".gz": "gzip", ".bz2": "bzip2"}
            js.put(file, "compression", known.get(extension, "none"))
        js.drop(file, "path")
        js.drop(file, "url")
