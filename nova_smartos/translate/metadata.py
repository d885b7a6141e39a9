# SPDX-License-Identifier: Apache-2.0
"""What a guest is told: SmartOS metadata, for cloud-init, mdata-get and NoCloud disks, and where
its config drive lies.

The guest may overwrite and delete what lies in customer_metadata, so nothing here reads that back:
what it was told stands, as digests, under a key of internal_metadata that it can neither see nor
change. Nova's own documents lie in the namespace `openstack:`, which a guest only reads.
"""

import base64
import dataclasses
import email.mime.application
import email.mime.multipart
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nova.objects import image_meta as image_metas
from nova.objects import instance as instances
from nova.virt import netutils

from nova_smartos.smartos import files, vms

#: vmadm serves keys of these namespaces from internal_metadata and lets no guest change them.
NAMESPACES = ("openstack",)
META_DATA = "openstack:meta_data"
NETWORK_DATA = "openstack:network_data"
VENDOR_DATA = "openstack:vendor_data"
VENDOR_DATA2 = "openstack:vendor_data2"
FILES = "openstack:files"
#: What the guest was told in customer_metadata: key -> digest of the value.
TOLD = "nova:told"
#: Where the config drive lies on the node: a disk of the VM, or a folder that a zone mounts.
DRIVE = "nova:drive"
#: Where a zone finds its config drive: cloud-init looks there without having to mount anything.
SEED = "/var/lib/cloud/seed/config_drive"

#: As large as Nova makes any; it is thin, so that it takes what is written.
DRIVE_MIB = 64
_VOLUMES = "/dev/zvol/rdsk/"
_CLOUD_INIT_VENDOR = "cloud-init:vendor-data"

#: vmadm makes a NoCloud disk for an image whose manifest has this tag; read at vmadm create.
_DATASOURCE_TAG = "org.smartos:cloudinit_datasource"
_DATASOURCE_PROPERTY = "smartos_cloudinit_datasource"

# Keys of a tenant's metadata that platform, images or cloud-init take for orders, and those that
# every JavaScript object has: the platform's programs ask their objects with them. All the same
# the guest finds these in META_DATA.
_RESERVED = re.compile(
    r"(?:sdc|cloud-init|openstack|nova|prepare-image|docker|org\.smartos):.*|cloudinit_.*"
    r"|.*_pw|.*_authorized_keys|b64-.*|base64_(?:all|keys)"
    r"|hostname|iptables_disable|motd_sys_info|operator-script|user-data|user-script"
    r"|__.*__|constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable"
    r"|to(?:Locale)?String|valueOf"
    r"|\s.*|.*\s|",
    re.DOTALL,
)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_GZIP = b"\x1f\x8b"
_MAX_UNPACKED = 2**18


@dataclasses.dataclass(frozen=True)
class Guest:
    """What vmadm keeps for the guest, and its config drive when it has one.

    A virtual machine's `drive` is the image of a disk; a zone's `tree` an archive whose only folder
    is named for the VM.
    """

    customer_metadata: Mapping[str, str] = dataclasses.field(repr=False)
    internal_metadata: Mapping[str, str] = dataclasses.field(repr=False)
    drive: bytes | None = dataclasses.field(default=None, repr=False)
    tree: bytes | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Vendor:
    """The deployment's own data: static, and by name what its services say of this instance."""

    static: Any = None
    dynamic: Mapping[str, Any] | None = None


def guest(
    instance: instances.Instance,
    image_meta: image_metas.ImageMeta,
    *,
    admin_password: str | None = None,
    injected_files: Sequence[tuple[str, str | bytes]] | None = None,
    network_info: Any = None,
    hvm: bool = False,
    properties: Mapping[str, str] | None = None,
    vendor: Vendor | None = None,
    drive: bytes | None = None,
    tree: bytes | None = None,
) -> Guest:
    """All that the guest of an instance is told.

    `properties` are the image's. Without `vendor` nothing is said of vendor data, which changes()
    then leaves as it is.
    """
    user = admin_user(image_meta)
    keys = _keys(instance.key_data)
    nocloud = bool(image_tags(properties or {}))
    customer = {
        **_tenant(instance.metadata or {}),
        **({f"{name}_authorized_keys": "\n".join(keys) for name in ("root", user)} if keys else {}),
        **_user_data(instance.user_data, hvm),
        **_vendor_data(vendor, keys if nocloud else []),
    }
    internal = {
        META_DATA: _json(_meta_data(instance)),
        NETWORK_DATA: _json(netutils.get_network_metadata(network_info) or {}),
    }
    if injected_files:
        internal[FILES] = _json([_file(path, contents) for path, contents in injected_files])
    if admin_password:
        internal[f"{user}_pw"] = admin_password
    if vendor:
        internal[VENDOR_DATA] = _json(vendor.static or {})
        internal[VENDOR_DATA2] = _json({"static": vendor.static or {}, **(vendor.dynamic or {})})
    internal[TOLD] = _json(_digests(customer))
    return Guest(customer, internal, drive, tree)


def admin_user(image_meta: image_metas.ImageMeta) -> str:
    """The user whose password is Nova's admin password."""
    named = image_meta.properties.get("os_admin_user")
    if named and _USER.fullmatch(named):
        return str(named)
    windows = image_meta.properties.get("os_type") == "windows"
    return "administrator" if windows else "root"


def changes(vm: vms.Vm, wanted: Guest) -> dict[str, Any]:
    """What vmadm has to update for the guest to know what is wanted; {} when it was told."""
    told = _told(vm)
    digests = _digests(wanted.customer_metadata)
    if VENDOR_DATA not in wanted.internal_metadata and _CLOUD_INIT_VENDOR in told:
        digests[_CLOUD_INIT_VENDOR] = told[_CLOUD_INIT_VENDOR]
    customer = {
        key: value
        for key, value in wanted.customer_metadata.items()
        if told.get(key) != digests[key]
    }
    gone = sorted(key for key in told if key not in digests)
    internal = {
        key: value
        for key, value in {**wanted.internal_metadata, TOLD: _json(digests)}.items()
        if vm.internal_metadata.get(key) != value
    }
    # files are told together with vendor data, when a guest is made
    whole = VENDOR_DATA in wanted.internal_metadata and FILES not in wanted.internal_metadata
    update = {
        "set_customer_metadata": customer,
        "remove_customer_metadata": gone,
        "set_internal_metadata": internal,
        "remove_internal_metadata": [FILES] if whole and FILES in vm.internal_metadata else [],
    }
    return {name: value for name, value in update.items() if value}


def furnished(document: Mapping[str, Any], guest: Guest) -> dict[str, Any]:
    """A create payload that also makes room for the config drive, and guards Nova's documents.

    The drive of a virtual machine is its last disk, a zone mounts a folder of the node, read-only.
    """
    made = {**document, "internal_metadata_namespaces": list(NAMESPACES)}
    if guest.drive is not None:
        disks = list(document.get("disks", []))
        separator = "/disk" if document["brand"] == "bhyve" else "-disk"
        pool = document.get("zpool", "zones")
        # vmadm numbers those that it makes
        number = sum("path" not in disk for disk in disks)
        place = f"{_VOLUMES}{pool}/{document['uuid']}{separator}{number}"
        made["disks"] = [*disks, {"model": "virtio", "size": DRIVE_MIB, "refreservation": 0}]
        if "flexible_disk_size" in document:
            made["flexible_disk_size"] = document["flexible_disk_size"] + DRIVE_MIB
    elif guest.tree is not None:
        mount = drive_mount(document["uuid"])
        place = mount["source"]
        made["filesystems"] = [*document.get("filesystems", []), mount]
    else:
        return made
    made["internal_metadata"] = {**document.get("internal_metadata", {}), DRIVE: place}
    return made


def folder(uuid: str) -> str:
    """The name of the folder that is a zone's config drive."""
    return f"drive-{uuid}"


def drive_mount(uuid: str) -> dict[str, Any]:
    """How a zone sees the folder that is its config drive."""
    place = f"{files.FOLDER}/{folder(uuid)}"
    return {"type": "lofs", "source": place, "target": SEED, "options": ["ro", "nodevices"]}


def drive_volume(uuid: str, internal_metadata: Mapping[str, Any]) -> str | None:
    """The dataset of the disk that is a VM's config drive; None for a VM without one."""
    place = str(internal_metadata.get(DRIVE, ""))
    found = re.fullmatch(rf"{_VOLUMES}([\w.-]+/{re.escape(uuid)}[/-]disk\d+)", place, re.ASCII)
    return found[1] if found else None


def drive_folder(vm: vms.Vm) -> str | None:
    """The folder that is a zone's config drive; None for one without."""
    name = folder(vm.uuid)
    return name if vm.internal_metadata.get(DRIVE) == f"{files.FOLDER}/{name}" else None


def image_tags(properties: Mapping[str, Any]) -> dict[str, str]:
    """The manifest tags of a node image that its Glance image's properties ask for."""
    value = properties.get(_DATASOURCE_PROPERTY)
    return {_DATASOURCE_TAG: str(value)} if value else {}


def _tenant(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in metadata.items() if not _RESERVED.fullmatch(key)}


def _keys(text: str | None) -> list[str]:
    lines = [line.strip() for line in (text or "").splitlines()]
    # a key pair of Nova may be an X.509 certificate
    if any(line.startswith("-----BEGIN") for line in lines):
        return []
    return [line for line in lines if line]


def _user_data(encoded: str | None, hvm: bool) -> dict[str, str]:
    """User data as text; what is none goes as MIME, which cloud-init unpacks.

    A zone's platform runs a user-script, also where there is no cloud-init. Where there is one it
    would run the same script for the second time if it found it as cloud-init's own, too.
    """
    if not encoded:
        return {}
    data = base64.b64decode(encoded)
    text = _text(data)
    told = {"user-data": text}
    if not hvm and text.startswith("#!"):
        return {**told, "user-script": text}
    return {**told, "cloud-init:user-data": text}


def _vendor_data(vendor: Vendor | None, keys: list[str]) -> dict[str, str]:
    """What cloud-init is given as vendor data, where its sources for OpenStack look for it as well.

    A NoCloud disk, which vmadm makes, has no other place for SSH keys.
    """
    static = vendor.static if vendor else None
    part = static.get("cloud-init") if isinstance(static, Mapping) else static
    parts = [each for each in (part if isinstance(part, list) else [part]) if each]
    if keys:
        parts.append(f"#cloud-config\n{_json({'ssh_authorized_keys': keys})}\n")
    texts = [each for each in parts if isinstance(each, str)]
    if not texts:
        return {}
    whole = texts[0] if len(texts) == 1 else _mime(each.encode() for each in texts)
    return {_CLOUD_INIT_VENDOR: whole}


def _text(data: bytes) -> str:
    try:
        text = _unpacked(data).decode()
    except UnicodeDecodeError:
        return _mime([data])
    # programs in C that read it would see its beginning only
    return _mime([data]) if "\0" in text else text


def _unpacked(data: bytes) -> bytes:
    """What is in gzip data, as cloud-init takes them; others, and what grows too much, stay."""
    if not data.startswith(_GZIP):
        return data
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, _MAX_UNPACKED)
    except zlib.error:
        return data
    return text if unpacker.eof and not unpacker.unused_data else data


def _mime(parts: Iterable[bytes]) -> str:
    # a boundary of random letters would be a change at each look
    parts = list(parts)
    boundary = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    message = email.mime.multipart.MIMEMultipart(boundary=boundary)
    for part in parts:
        kind = "gzip" if part.startswith(_GZIP) else "octet-stream"
        message.attach(email.mime.application.MIMEApplication(part, kind))
    return message.as_string()


def _meta_data(instance: instances.Instance) -> dict[str, Any]:
    """Nova's meta_data.json without what is another at each look."""
    return {
        "uuid": instance.uuid,
        "name": instance.display_name,
        "hostname": instance.hostname,
        "launch_index": instance.launch_index,
        "project_id": instance.project_id,
        "availability_zone": instance.availability_zone,
        "meta": dict(instance.metadata or {}),
        "public_keys": {instance.key_name: instance.key_data} if instance.key_name else {},
    }


def _file(path: str, contents: str | bytes) -> dict[str, str]:
    data = contents.encode() if isinstance(contents, str) else contents
    return {"path": path, "contents": base64.b64encode(data).decode()}


def _digests(customer: Mapping[str, str]) -> dict[str, str]:
    return {
        key: hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        for key, value in customer.items()
    }


def _told(vm: vms.Vm) -> dict[str, str]:
    try:
        told = json.loads(vm.internal_metadata.get(TOLD, "{}"))
    except (TypeError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _json(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
