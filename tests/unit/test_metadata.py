# SPDX-License-Identifier: Apache-2.0
"""What a guest is told, and that a tenant's words stay words."""

import base64
import email
import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova import objects
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances

from nova_smartos.smartos import vms
from nova_smartos.translate import metadata

objects.register_all()

UUID = "11111111-2222-4333-8444-555555555555"
KEY = "ssh-ed25519 AAAAC3Nza user@example.org"
# what Nova's API lets pass as a key of metadata
KEYS = st.text("abcXYZ019-_:. ", min_size=1, max_size=255)
# names that the platform, images, cloud-init or JavaScript give a meaning to
MEANT = (
    "root_pw", "any_pw", "root_authorized_keys", "admin_authorized_keys", "user-script",
    "user-data", "operator-script", "sdc:nics", "sdc:", "cloud-init:user-data", "openstack:x",
    "nova:instance", "nova:told", "base64_all", "base64_keys", "b64-user-data", "hostname",
    "iptables_disable", "motd_sys_info", "prepare-image:state", "docker:cmd",
    "cloudinit_datasource", "cloudinit_nocloud_path", "__proto__", "__defineGetter__",
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toString",
    "toLocaleString", "valueOf", " role", "role ",
)  # fmt: skip


def an_instance(user_data: bytes | None = None, **changes: Any) -> instances.Instance:
    values: dict[str, Any] = {
        "uuid": UUID,
        "display_name": "web",
        "hostname": "web",
        "launch_index": 0,
        "project_id": "project",
        "availability_zone": "nova",
        "metadata": {},
        "key_name": None,
        "key_data": None,
        "user_data": base64.b64encode(user_data).decode() if user_data is not None else None,
    }
    return instances.Instance(**{**values, **changes})


def an_image(**properties: Any) -> image_metas.ImageMeta:
    return image_metas.ImageMeta.from_dict({"properties": properties})


def told(instance: instances.Instance, **keywords: Any) -> metadata.Guest:
    image = keywords.pop("image", None) or an_image()
    return metadata.guest(instance, image, **keywords)


def a_vm(guest: metadata.Guest, **internal: Any) -> vms.Vm:
    """A VM as it is after it was made with what the guest is told."""
    return vms.Vm(
        uuid=UUID,
        brand="joyent",
        state="running",
        zone_state="running",
        customer_metadata={"only": "the guest's word"},
        internal_metadata={**guest.internal_metadata, **internal},
        document={},
    )


def document(guest: metadata.Guest, key: str) -> Any:
    return json.loads(guest.internal_metadata[key])


def test_a_tenants_metadata_are_the_guests() -> None:
    guest = told(an_instance(metadata={"role": "web", "a.b:c d": "é\n"}))
    assert guest.customer_metadata == {"role": "web", "a.b:c d": "é\n"}
    assert document(guest, metadata.META_DATA) == {
        "availability_zone": "nova",
        "hostname": "web",
        "launch_index": 0,
        "meta": {"role": "web", "a.b:c d": "é\n"},
        "name": "web",
        "project_id": "project",
        "public_keys": {},
        "uuid": UUID,
    }


@pytest.mark.parametrize("key", MEANT)
def test_a_tenants_key_is_no_order(key: str) -> None:
    guest = told(an_instance(metadata={key: "value"}))
    assert guest.customer_metadata == {}
    assert "value" not in {**guest.internal_metadata, metadata.META_DATA: ""}.values()
    assert document(guest, metadata.META_DATA)["meta"] == {key: "value"}


@given(st.dictionaries(KEYS | st.sampled_from(MEANT), st.text(max_size=255), max_size=20))
def test_nothing_of_a_tenant_becomes_a_key_of_ours(tenants: dict[str, str]) -> None:
    without = told(an_instance(b"#!/bin/sh\n", key_data=KEY), admin_password="secret")
    guest = told(
        an_instance(b"#!/bin/sh\n", key_data=KEY, metadata=tenants), admin_password="secret"
    )
    added = set(guest.customer_metadata) - set(without.customer_metadata)
    assert added <= set(tenants) and not added & set(MEANT)
    for key, value in without.customer_metadata.items():
        assert guest.customer_metadata[key] == value
    assert guest.internal_metadata.keys() == without.internal_metadata.keys()
    assert document(guest, metadata.META_DATA)["meta"] == tenants


@given(
    st.dictionaries(KEYS, st.text(max_size=255), max_size=9),
    st.binary(max_size=300)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "ignore")),
    st.text(max_size=50),
)
def test_every_value_is_a_string_that_json_can_write(
    tenants: dict[str, str], user_data: bytes, password: str
) -> None:
    guest = told(an_instance(user_data, metadata=tenants), admin_password=password)
    for values in (guest.customer_metadata, guest.internal_metadata):
        assert json.loads(json.dumps(dict(values))) == dict(values)
        assert all(isinstance(value, str) for value in values.values())


def test_ssh_keys() -> None:
    guest = told(an_instance(key_name="mine", key_data=f" {KEY}\r\n\n{KEY}2\n"))
    assert guest.customer_metadata == {"root_authorized_keys": f"{KEY}\n{KEY}2"}
    assert document(guest, metadata.META_DATA)["public_keys"] == {"mine": f" {KEY}\r\n\n{KEY}2\n"}


def test_a_certificate_is_no_ssh_key() -> None:
    text = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"
    assert told(an_instance(key_data=text)).customer_metadata == {}


def test_the_images_administrator_has_keys_and_password() -> None:
    guest = told(
        an_instance(key_data=KEY), image=an_image(os_admin_user="admin"), admin_password="secret"
    )
    assert set(guest.customer_metadata) == {"root_authorized_keys", "admin_authorized_keys"}
    assert guest.internal_metadata["admin_pw"] == "secret"


@pytest.mark.parametrize(
    ("properties", "user"),
    [
        ({}, "root"),
        ({"os_admin_user": "ubuntu"}, "ubuntu"),
        ({"os_type": "windows"}, "administrator"),
        ({"os_admin_user": "a b"}, "root"),
        ({"os_admin_user": "nova:instance"}, "root"),
        ({"os_admin_user": "x\ny"}, "root"),
        ({"os_admin_user": "-x"}, "root"),
    ],
)
def test_who_administrates(properties: dict[str, str], user: str) -> None:
    assert metadata.admin_user(an_image(**properties)) == user


def test_no_secret_shows() -> None:
    guest = told(an_instance(b"secret-1"), admin_password="secret-2", vendor=metadata.Vendor())
    assert "secret" not in repr(guest)


def test_a_script_is_run_once() -> None:
    script = b"#!/bin/sh\necho \xc3\xa9\n"
    text = script.decode()
    zone = told(an_instance(script)).customer_metadata
    machine = told(an_instance(script), hvm=True).customer_metadata
    assert zone == {"user-data": text, "user-script": text}
    assert machine == {"user-data": text, "cloud-init:user-data": text}


def test_user_data_that_is_no_script_is_cloud_inits() -> None:
    text = "#cloud-config\n{}\n"
    for hvm in (False, True):
        guest = told(an_instance(text.encode()), hvm=hvm)
        assert guest.customer_metadata == {"user-data": text, "cloud-init:user-data": text}


def test_user_data_in_gzip_are_unpacked() -> None:
    script = gzip.compress(guest_script := "#!/bin/sh\necho é\n".encode())
    assert told(an_instance(script)).customer_metadata["user-script"] == guest_script.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"a\0b",
        gzip.compress(b"\xff", mtime=0),
        gzip.compress(b"a" * (2**18 + 1), mtime=0),
        gzip.compress(b"#!/bin/sh\n", mtime=0)[:-1],
        gzip.compress(b"#!/bin/sh\n", mtime=0) + b"more",
        b"\x1f\x8bnot",
    ],
)
def test_user_data_that_is_no_text_is_packed_as_mime(data: bytes) -> None:
    text = told(an_instance(data)).customer_metadata["cloud-init:user-data"]
    assert text.isascii()
    (part,) = email.message_from_string(text).get_payload()
    assert part.get_payload(decode=True) == data
    kind = "application/gzip" if data[:2] == b"\x1f\x8b" else "application/octet-stream"
    assert part.get_content_type() == kind
    assert told(an_instance(data)).customer_metadata["cloud-init:user-data"] == text


def test_the_largest_user_data() -> None:
    data = (b"0123456789abcdef" * 4096)[:49149]
    assert len(base64.b64encode(data)) == 65532
    assert told(an_instance(data)).customer_metadata["user-data"] == data.decode()


def test_no_user_data() -> None:
    assert told(an_instance(None)).customer_metadata == {}
    assert told(an_instance(b"")).customer_metadata == {}


def test_injected_files() -> None:
    guest = told(an_instance(), injected_files=[("/etc/motd", b"\xff"), ("/x", "é")])
    assert document(guest, metadata.FILES) == [
        {"path": "/etc/motd", "contents": "/w=="},
        {"path": "/x", "contents": "w6k="},
    ]


def test_vendor_data() -> None:
    vendor = metadata.Vendor({"cloud-init": "#cloud-config\n{}\n", "x": 1}, {"dynamic": {"y": 2}})
    guest = told(an_instance(), vendor=vendor)
    assert guest.customer_metadata == {"cloud-init:vendor-data": "#cloud-config\n{}\n"}
    assert document(guest, metadata.VENDOR_DATA) == vendor.static
    assert document(guest, metadata.VENDOR_DATA2) == {"static": vendor.static, "dynamic": {"y": 2}}


@pytest.mark.parametrize("static", [None, {}, {"x": "y"}, {"cloud-init": {"no": "text"}}, [1], ""])
def test_vendor_data_that_is_not_for_cloud_init(static: Any) -> None:
    guest = told(an_instance(), vendor=metadata.Vendor(static))
    assert guest.customer_metadata == {}
    assert document(guest, metadata.VENDOR_DATA) == (static or {})


def test_a_nocloud_disk_carries_ssh_keys_as_vendor_data() -> None:
    properties = {"smartos_cloudinit_datasource": "nocloud"}
    guest = told(an_instance(key_data=KEY), hvm=True, properties=properties)
    head, _, body = guest.customer_metadata["cloud-init:vendor-data"].partition("\n")
    assert head == "#cloud-config" and json.loads(body) == {"ssh_authorized_keys": [KEY]}
    assert metadata.image_tags(properties) == {"org.smartos:cloudinit_datasource": "nocloud"}
    assert metadata.image_tags({"os_type": "linux"}) == {}


# what has changed since


def test_who_was_told_is_not_told_again() -> None:
    guest = told(an_instance(b"#!/bin/sh\n", key_data=KEY, metadata={"role": "web"}))
    assert metadata.changes(a_vm(guest), guest) == {}


def test_a_change_is_told_whatever_the_guest_has_made_of_it() -> None:
    before = told(an_instance(metadata={"role": "web", "old": "1", "same": "2"}))
    after = told(an_instance(metadata={"role": "db", "new": "3", "same": "2"}))
    update = metadata.changes(a_vm(before), after)
    assert update["set_customer_metadata"] == {"role": "db", "new": "3"}
    assert update["remove_customer_metadata"] == ["old"]
    assert update["set_internal_metadata"].keys() == {metadata.META_DATA, metadata.TOLD}
    done = a_vm(before, **update["set_internal_metadata"])
    assert metadata.changes(done, after) == {}


def test_another_name_is_told() -> None:
    update = metadata.changes(a_vm(told(an_instance())), told(an_instance(display_name="db")))
    assert list(update) == ["set_internal_metadata"]
    assert list(update["set_internal_metadata"]) == [metadata.META_DATA]


def test_what_is_not_known_is_left() -> None:
    """A look at the instance tells neither its password, nor its files, nor vendor data."""
    instance = an_instance(metadata={"role": "web"})
    made = told(
        instance,
        admin_password="secret",
        injected_files=[("/x", b"y")],
        vendor=metadata.Vendor({"cloud-init": "#cloud-config\n"}, {}),
    )
    assert metadata.changes(a_vm(made), told(instance)) == {}
    update = metadata.changes(a_vm(made), told(an_instance(metadata={"role": "db"})))
    assert update["set_customer_metadata"] == {"role": "db"}
    assert "remove_customer_metadata" not in update
    assert "cloud-init:vendor-data" in json.loads(update["set_internal_metadata"][metadata.TOLD])


def test_a_guest_that_is_made_anew_has_no_files_of_the_old_one() -> None:
    made = told(an_instance(), injected_files=[("/x", b"y")], vendor=metadata.Vendor())
    anew = told(an_instance(), vendor=metadata.Vendor())
    assert metadata.changes(a_vm(made), anew) == {"remove_internal_metadata": [metadata.FILES]}


def test_a_mark_that_is_broken_means_everything_is_told() -> None:
    guest = told(an_instance(metadata={"role": "web"}))
    for broken in ("{", "[]", "null", 7):
        update = metadata.changes(a_vm(guest, **{metadata.TOLD: broken}), guest)
        assert update["set_customer_metadata"] == {"role": "web"}


# where a config drive lies


def furnished(brand: str, **document: Any) -> Mapping[str, Any]:
    given = {"brand": brand, "uuid": UUID, "internal_metadata": {"a": "b"}, **document}
    zone = brand in ("joyent", "lx")
    guest = metadata.Guest({}, {}, **({"tree": b"x"} if zone else {"drive": b"x"}))
    return metadata.furnished(given, guest)


@pytest.mark.parametrize(
    ("brand", "place"),
    [
        ("bhyve", f"/dev/zvol/rdsk/zones/{UUID}/disk2"),
        ("kvm", f"/dev/zvol/rdsk/zones/{UUID}-disk2"),
    ],
)
def test_a_machines_drive_is_its_last_disk(brand: str, place: str) -> None:
    disks = [{"image_uuid": UUID}, {"size": 1024}]
    made = furnished(brand, disks=disks, flexible_disk_size=2048)
    assert made["disks"][:2] == disks and len(made["disks"]) == 3
    assert made["flexible_disk_size"] == 2048 + metadata.DRIVE_MIB
    assert made["internal_metadata"] == {"a": "b", metadata.DRIVE: place}
    assert metadata.drive_volume(UUID, made["internal_metadata"]) == place[len("/dev/zvol/rdsk/") :]


def test_a_zones_drive_is_a_folder_that_it_mounts() -> None:
    made = furnished("lx", filesystems=[{"target": "/x"}])
    name = f"drive-{UUID}"
    assert made["filesystems"][0] == {"target": "/x"}
    assert made["filesystems"][1]["source"] == f"/zones/nova-smartos/{name}"
    assert "ro" in made["filesystems"][1]["options"]
    vm = a_vm(metadata.Guest({}, made["internal_metadata"]))
    assert metadata.drive_folder(vm) == name
    assert metadata.drive_volume(UUID, made["internal_metadata"]) is None


def test_without_a_drive() -> None:
    given = {"brand": "bhyve", "uuid": UUID, "internal_metadata": {}}
    made = metadata.furnished(given, metadata.Guest({}, {}))
    assert made == {**given, "internal_metadata_namespaces": ["openstack"]}
    assert metadata.drive_folder(a_vm(metadata.Guest({}, {}))) is None


@pytest.mark.parametrize(
    "place",
    [
        "",
        "/etc/passwd",
        "/dev/zvol/rdsk/zones/other/disk0",
        f"/dev/zvol/rdsk/zones/../{UUID}/disk0/../x",
        f"/dev/zvol/rdsk/zones/{UUID}/root",
        f"/zones/{UUID}/root/disk1",
    ],
)
def test_a_drive_lies_nowhere_else(place: str) -> None:
    assert metadata.drive_volume(UUID, {metadata.DRIVE: place}) is None
