# SPDX-License-Identifier: Apache-2.0
"""A Glance image as a node image: its kind, its uuid, imgadm's document about it.

A tenant writes the name and the properties of an image. What is taken from them is listed here,
and the uuid is never theirs: it follows from the Glance image, so that none can stand in for
another one's. The one exception, an image of the operator's image server, is for those whom the
operator trusts.
"""

import dataclasses
import json
import re
import uuid as uuid_module
from collections.abc import Mapping
from typing import Any

from nova import exception
from nova.objects import image_meta as image_metas

from nova_smartos.translate import metadata

#: Image property: the file is a ZFS stream of this kind, as imgadm makes and publishes them.
TYPE_PROPERTY = "smartos_image_type"
#: Image property: the size in MiB of the disk in a ZFS stream of a zvol.
SIZE_PROPERTY = "smartos_image_size"
#: The manifest's tag that marks a node image as brought by us; its value is the Glance image's id.
TAG = "nova:image"
TYPES = ("zone-dataset", "lx-dataset", "zvol")
#: Image property: what the file of an image with a type is.
FORMAT_PROPERTY = "smartos_image_format"
#: Image property: the Glance image that a ZFS stream holds the difference to; "" is none.
ORIGIN_PROPERTY = "smartos_image_origin"
#: Image property: the image of the operator's image server that Glance's only names.
UUID_PROPERTY = "smartos_image_uuid"
#: What says where bytes come from that are not in the file.
ELSEWHERE = (ORIGIN_PROPERTY, UUID_PROPERTY)
#: What the file of a Glance image can be; of a published image it is not looked at.
ISO, QCOW2, RAW, TAR, ZFS = "iso", "qcow2", "raw", "tar", "zfs"
PUBLISHED = "published"

MIB = 1 << 20
_NAMESPACE = uuid_module.UUID("5b1f6a0e-6c5e-5d0a-9c39-2f9c6d0f7f4e")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_OWNER = str(uuid_module.UUID(int=0))
# By their first bytes: what imgadm passes through the program of this name.
_COMPRESSIONS = {"bzip2": b"BZh", "gzip": b"\x1f\x8b\x08", "xz": b"\xfd7zXZ\x00"}
#: How many first bytes compression() wants.
MAGIC_BYTES = max(len(magic) for magic in _COMPRESSIONS.values())
# What imgadm allows in a name and a version, and how much of it.
_NOT_NAME = re.compile(r"[^A-Za-z0-9._/ -]+")
_NOT_VERSION = re.compile(r"[^A-Za-z0-9._/+-]+")
_MAX_TEXT = 512
_SYSTEMS = ("smartos", "linux", "windows", "bsd", "illumos")
_DISTRIBUTIONS = {
    **dict.fromkeys(("freebsd", "netbsd", "openbsd"), "bsd"),
    **dict.fromkeys(("omnios", "openindiana", "opensolaris"), "illumos"),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The node image that a Glance image asks for."""

    uuid: str
    glance_id: str
    type: str
    #: What the file is: a ZFS stream, a tar archive of a zone's files, a disk, raw or as qcow2, or
    #: ISO; or PUBLISHED, and the node brings it itself.
    format: str
    #: Of a ZFS stream of a zvol, in MiB.
    size_mib: int | None
    tags: Mapping[str, str]
    #: The Glance image that has to be there before.
    origin: str | None = None

    @property
    def can_be_origin(self) -> bool:
        """Whether its snapshot is the same one on every node, and wants no other's."""
        return self.format in (ZFS, PUBLISHED) and self.origin is None


@dataclasses.dataclass(frozen=True)
class Data:
    """The file that imgadm installs."""

    sha1: str
    size_bytes: int
    compression: str


def compression(start: bytes) -> str:
    """The compression of a file that begins with these bytes, in imgadm's words."""
    for name, magic in _COMPRESSIONS.items():
        if start.startswith(magic):
            return name
    return "none"


def document(
    wanted: Wanted,
    record: Mapping[str, Any],
    data: Data,
    size_mib: int | None,
    origin: str | None = None,
) -> dict[str, Any]:
    """The manifest of a node image; `record` is what Glance says of its image.

    `origin` is the node image that it holds the difference to.
    """
    properties = record.get("properties") or {}
    name = _NOT_NAME.sub("-", str(record.get("name") or "")).strip()[:_MAX_TEXT]
    version = _NOT_VERSION.sub("-", str(properties.get("os_version") or ""))[:_MAX_TEXT]
    made = {
        "v": 2,
        "uuid": wanted.uuid,
        "owner": _owner(record.get("owner")),
        "name": name or wanted.glance_id,
        "version": version or "1",
        "state": "active",
        "disabled": False,
        "public": False,
        "type": wanted.type,
        "os": _system(wanted.type, properties),
        "tags": {**wanted.tags, TAG: wanted.glance_id},
        "files": [{"sha1": data.sha1, "size": data.size_bytes, "compression": data.compression}],
    }
    if origin is not None:
        made["origin"] = origin
    if wanted.type == "lx-dataset":
        made["requirements"] = {"brand": "lx"}
    if wanted.type == "zvol":
        # vmadm takes the models from the payload; imgadm wants some here
        made |= {"nic_driver": "virtio", "disk_driver": "virtio", "cpu_type": "host"}
        made["image_size"] = size_mib
    return made


def is_medium(image_meta: image_metas.ImageMeta) -> bool:
    """Whether the image is a medium that one installs from, and not a disk."""
    return _value(image_meta, "disk_format") == ISO


def kind(image_meta: image_metas.ImageMeta, properties: Mapping[str, Any]) -> str:
    """The type of the node image: zone-dataset, lx-dataset or zvol."""
    return wanted(image_meta, properties).type


def wanted(image_meta: image_metas.ImageMeta, properties: Mapping[str, Any]) -> Wanted:
    """The node image for a Glance image; ImageUnacceptable says what cannot be run.

    What becomes part of the manifest becomes part of the uuid: whoever changes those properties
    gets another node image, never an old one with a manifest that no longer fits.
    """
    glance_id = str(image_meta.id)
    type_ = properties.get(TYPE_PROPERTY)
    if type_ is not None and type_ not in TYPES:
        raise _unacceptable(
            glance_id, f"{TYPE_PROPERTY} is {type_!r}, it must be one of {', '.join(TYPES)}"
        )
    disk_format = _value(image_meta, "disk_format") or RAW
    fitting = (RAW, QCOW2, ISO) if type_ is None else (RAW,)
    if disk_format not in fitting:
        what = "a disk" if type_ is None else "a ZFS stream or a tar archive"
        raise _unacceptable(
            glance_id, f"its disk_format is {disk_format}: for {what} it is {' or '.join(fitting)}"
        )
    container_format = _value(image_meta, "container_format") or "bare"
    if container_format != "bare":
        raise _unacceptable(
            glance_id, f"its container_format is {container_format}: bare is needed"
        )
    if type_ is None and FORMAT_PROPERTY in properties:
        raise _unacceptable(glance_id, f"{FORMAT_PROPERTY} needs {TYPE_PROPERTY}")
    # "" where it was inherited, by an image with bytes of its own
    if properties.get(UUID_PROPERTY):
        return _published(glance_id, type_, properties)
    size_mib = _stream_size(glance_id, properties) if type_ == "zvol" else None
    tags = metadata.image_tags(properties)
    format_ = disk_format if type_ is None else _format(glance_id, type_, properties)
    origin = _origin(glance_id, format_, properties)
    identity = [glance_id, _value(image_meta, "checksum"), type_, format_, size_mib, tags]
    if origin is not None:
        identity.append(origin)
    uuid = uuid_module.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True))
    return Wanted(str(uuid), glance_id, type_ or "zvol", format_, size_mib, tags, origin)


def _format(glance_id: str, type_: str, properties: Mapping[str, Any]) -> str:
    told = str(properties.get(FORMAT_PROPERTY) or ZFS)
    fitting = (ZFS,) if type_ == "zvol" else (TAR, ZFS)
    if told not in fitting:
        raise _unacceptable(
            glance_id,
            f"{FORMAT_PROPERTY} is {told!r}, for a {type_} it must be {' or '.join(fitting)}",
        )
    return told


def _origin(glance_id: str, format_: str, properties: Mapping[str, Any]) -> str | None:
    told = str(properties.get(ORIGIN_PROPERTY) or "")
    if not told:
        return None
    if format_ != ZFS:
        raise _unacceptable(glance_id, f"{ORIGIN_PROPERTY} is for a ZFS stream, this is {format_}")
    if not _UUID.fullmatch(told):
        raise _unacceptable(glance_id, f"{ORIGIN_PROPERTY} is {told!r}, which is no uuid")
    return told


def _owner(owner: object) -> str:
    # a project's id is a uuid without dashes, unless somebody else than Keystone has made it
    try:
        return str(uuid_module.UUID(str(owner)))
    except ValueError:
        return _NO_OWNER


def _published(glance_id: str, type_: str | None, properties: Mapping[str, Any]) -> Wanted:
    uuid = str(properties[UUID_PROPERTY])
    if not _UUID.fullmatch(uuid):
        raise _unacceptable(glance_id, f"{UUID_PROPERTY} is {uuid!r}, which is no uuid")
    if type_ is None or FORMAT_PROPERTY in properties or properties.get(ORIGIN_PROPERTY):
        told = f"and neither {FORMAT_PROPERTY} nor {ORIGIN_PROPERTY}"
        raise _unacceptable(glance_id, f"{UUID_PROPERTY} needs {TYPE_PROPERTY}, {told}")
    return Wanted(uuid, glance_id, type_, PUBLISHED, None, {})


def _stream_size(glance_id: str, properties: Mapping[str, Any]) -> int:
    text = str(properties.get(SIZE_PROPERTY) or "")
    if not text.isascii() or not text.isdigit() or not int(text[:12]):
        raise _unacceptable(
            glance_id,
            f"a ZFS stream of a zvol needs {SIZE_PROPERTY}, its disk's size in MiB, "
            f"as its manifest says in image_size; it is {text!r}",
        )
    return int(text[:12])


def _system(type_: str, properties: Mapping[str, Any]) -> str:
    if type_ == "lx-dataset":
        return "linux"
    if type_ == "zone-dataset":
        return "smartos"
    for name in (properties.get("os_type"), properties.get("os_distro")):
        lowered = str(name or "").lower()
        lowered = _DISTRIBUTIONS.get(lowered, lowered)
        if lowered in _SYSTEMS:
            return lowered
    return "other"


def _unacceptable(glance_id: str, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=glance_id, reason=reason)


def _value(image_meta: image_metas.ImageMeta, name: str) -> str:
    return str(getattr(image_meta, name)) if name in image_meta else ""
