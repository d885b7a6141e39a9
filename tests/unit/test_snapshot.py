# SPDX-License-Identifier: Apache-2.0
"""Images of servers: which commands make one, and that whatever happens takes them back."""

import hashlib
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests import openstack

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import exception
    from nova.compute import task_states
    from nova.objects import image_meta as image_metas

from nova_smartos.operations import locks, signing, snapshot
from nova_smartos.smartos import errors, node, vms
from nova_smartos.translate import errors as nova_errors
from nova_smartos.translate import manifest
from tests.unit import fake_transport

pytestmark = openstack.QUIET

UUID = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
IMAGE = "f2c1ad5e-3f1e-4b0c-8a1f-0d2c3b4a5e6f"
ZONE = f"zones/{UUID}"
CLONE = f"zones/nova-smartos/image-of-{UUID}"
STREAM = b"a stream of zfs" * 10_000
GIB = 1 << 30
Answer = fake_transport.Answer

MAKES_ZONE = (
    ("zfs", "snapshot", f"{ZONE}@nova-image"),
    ("zfs", "clone", f"{ZONE}@nova-image", CLONE),
    ("rm", "-rf", f"/{CLONE}/config"),
    ("zfs", "snapshot", f"{CLONE}@final"),
    ("zfs", "send", f"{CLONE}@final"),
    ("zfs", "destroy", "-r", CLONE),
    ("zfs", "destroy", f"{ZONE}@nova-image"),
)
MAKES_BHYVE = (
    ("zfs", "get", "-Hp", "-o", "property,value", "volsize", f"{ZONE}/disk0"),
    ("zfs", "get", "-Hp", "-o", "property,value", "quota", ZONE),
    ("zfs", "snapshot", "-o", "nova:quota=12345", f"{ZONE}@nova-image"),
    ("zfs", "set", "quota=none", ZONE),
    ("zfs", "snapshot", f"{ZONE}/disk0@nova-image"),
    ("zfs", "send", f"{ZONE}/disk0@nova-image"),
    ("zfs", "destroy", f"{ZONE}/disk0@nova-image"),
    ("zfs", "set", "quota=12345", ZONE),
    ("zfs", "destroy", f"{ZONE}@nova-image"),
)
MAKES_KVM = (
    ("zfs", "get", "-Hp", "-o", "property,value", "volsize", f"{ZONE}-disk0"),
    ("zfs", "snapshot", f"{ZONE}-disk0@nova-image"),
    ("zfs", "send", f"{ZONE}-disk0@nova-image"),
    ("zfs", "destroy", f"{ZONE}-disk0@nova-image"),
)
PRINTED = {"volsize": f"volsize\t{10 * GIB}\n", "quota": "quota\t12345\n"}
BASE = "5b8a4e0c-7d2f-4c1b-9e3a-2f1d0c9b8a7e"


def vm(brand: str = "joyent", *, image: str | None = None, **more: Any) -> vms.Vm:
    document: dict[str, Any] = {
        "uuid": UUID,
        "brand": brand,
        "state": "running",
        "zone_state": "running",
        "zfs_filesystem": ZONE,
        "image_uuid": image,
    }
    if brand in vms.HVM_BRANDS:
        dataset = f"{ZONE}{'/' if brand == 'bhyve' else '-'}disk0"
        disk = {"path": f"/dev/zvol/rdsk/{dataset}", "boot": True, "model": "virtio"}
        disk["image_uuid"] = document.pop("image_uuid")
        document["disks"] = [{**disk, "zfs_filesystem": dataset}]
    return vms.Vm.from_json({**document, **more})


class Glance:
    """What Exports asks of Glance."""

    def __init__(self, **record: Any) -> None:
        self.record: dict[str, Any] = {"id": IMAGE, "owner": "project", "properties": {}, **record}
        #: the image of the server itself
        self.base: dict[str, Any] | None = None
        self.data: bytes | None = None
        self.reads: Callable[[Any], bytes] = lambda data: b"".join(
            iter(lambda: data.read(65536), b"")
        )

    def get(self, context: Any, image_id: str, **_: Any) -> dict[str, Any]:
        if image_id == IMAGE:
            return self.record
        if self.base is None:
            raise exception.ImageNotFound(image_id=image_id)
        return self.base

    def update(
        self, context: Any, image_id: str, told: Any, data: Any = None, purge_props: bool = True
    ) -> dict[str, Any]:
        assert image_id == IMAGE and not purge_props
        properties = self.record["properties"] | told.get("properties", {})
        self.record |= {**told, "properties": properties}
        if data is not None:
            self.data = self.reads(data)
            self.record["size"] = len(self.data)
        return self.record


class Maker:
    """A VM, and all that makes an image of it."""

    def __init__(
        self,
        carrier: fake_transport.Transport,
        of: vms.Vm,
        tmp_path: Any,
        glance: Glance | None = None,
        *,
        key: bool = True,
        properties: dict[str, Any] | None = None,
    ) -> None:
        self.glance = glance or Glance()
        path = tmp_path / "key"
        path.write_text("k" * 32)
        self.options = types.SimpleNamespace(
            image_signing_key_file=str(path) if key else None,
            incremental_images=True,
            trusted_image_owners=["trusted"],
        )
        known = types.SimpleNamespace(get=lambda uuid, fresh: of)
        self.exports = snapshot.Exports(
            node.Node(carrier), known, locks.Locks(), self.options, glance_api=self.glance
        )
        meta = types.SimpleNamespace(properties=properties or {})
        self.instance = types.SimpleNamespace(
            uuid=UUID, image_meta=meta, image_ref=BASE, task_state=task_states.IMAGE_PENDING_UPLOAD
        )
        self.states: list[tuple[str, str | None]] = []

    def make(self) -> None:
        self.exports.make(None, self.instance, IMAGE, self._state)

    def _state(self, task_state: str, expected_state: str | None = None) -> None:
        self.states.append((task_state, expected_state))


def answers(
    *commands: tuple[str, ...], failing: dict[int, str] | None = None
) -> fake_transport.Transport:
    """These commands; some of them fail and say so."""
    made = []
    for number, argv in enumerate(commands):
        stdout: str | bytes = STREAM if argv[1] == "send" else ""
        if argv[1] == "get":
            stdout = PRINTED[argv[-2]]
        said = (failing or {}).get(number, "")
        made.append(Answer(argv, stdout, said, 1 if said else 0))
    return fake_transport.Transport(*made)


@pytest.mark.parametrize(
    ("of", "commands", "properties", "min_disk"),
    [
        (vm(), MAKES_ZONE, {"smartos_image_type": "zone-dataset"}, None),
        (
            vm("joyent-minimal"),
            MAKES_ZONE,
            {"smartos_image_type": "zone-dataset", "smartos_brand": "joyent-minimal"},
            None,
        ),
        (
            vm("lx", kernel_version="4.3.0"),
            MAKES_ZONE,
            {"smartos_image_type": "lx-dataset", "smartos_kernel_version": "4.3.0"},
            None,
        ),
        (
            vm("bhyve", bootrom="uefi"),
            MAKES_BHYVE,
            {
                "smartos_image_type": "zvol",
                "smartos_image_size": "10240",
                "smartos_firmware": "uefi",
            },
            10,
        ),
        (
            vm("kvm"),
            MAKES_KVM,
            {"smartos_image_type": "zvol", "smartos_image_size": "10240", "smartos_brand": "kvm"},
            10,
        ),
    ],
    ids=lambda value: value.brand if isinstance(value, vms.Vm) else "",
)
def test_what_makes_an_image(
    tmp_path: Any,
    of: vms.Vm,
    commands: tuple[tuple[str, ...], ...],
    properties: dict[str, str],
    min_disk: int | None,
) -> None:
    with answers(*commands) as carrier:
        maker = Maker(carrier, of, tmp_path)
        maker.make()
    assert [command.argv for command in carrier.commands] == list(commands)
    record = maker.glance.record
    assert maker.glance.data == STREAM
    signature = record["properties"].pop(signing.PROPERTY)
    signer = signing.Signer(maker.options)
    type_ = properties["smartos_image_type"]
    assert signer.valid(signature, hashlib.sha256(STREAM).digest(), type_)
    assert record["properties"] == {**properties, "smartos_image_format": "zfs"}
    assert (record["disk_format"], record["container_format"]) == ("raw", "bare")
    assert record.get("min_disk") == min_disk
    pending = task_states.IMAGE_PENDING_UPLOAD
    assert maker.states == [(pending, None), (task_states.IMAGE_UPLOADING, pending)]


def based(type_: str = "zone-dataset", **fields: Any) -> dict[str, Any]:
    """What Glance says of the image that a server was launched from."""
    properties = {"smartos_image_type": type_, "smartos_image_size": "10240"}
    base = {"id": BASE, "checksum": "0" * 32, "disk_format": "raw", "container_format": "bare"}
    return {**base, "is_public": True, "status": "active", "properties": properties, **fields}


def node_image(base: dict[str, Any]) -> str:
    meta = image_metas.ImageMeta.from_dict(base)
    return manifest.wanted(meta, base["properties"]).uuid


def origin_of(of: vms.Vm) -> tuple[str, ...]:
    dataset = of.disks[0].zfs_filesystem if of.disks else of.zfs_filesystem
    return ("zfs", "get", "-Hp", "-o", "property,value", "origin", str(dataset))


@pytest.mark.parametrize("brand", ["joyent", "bhyve"])
def test_an_image_of_what_differs(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, brand: str
) -> None:
    glance = Glance(properties={"smartos_image_origin": "inherited"})
    glance.base = based("zone-dataset" if brand == "joyent" else "zvol")
    image = node_image(glance.base)
    snap = f"zones/{image}@final"
    monkeypatch.setitem(PRINTED, "origin", f"origin\t{snap}\n")
    of = vm(brand, image=image)
    commands = [origin_of(of), *(MAKES_ZONE if brand == "joyent" else MAKES_BHYVE)]
    if brand == "joyent":
        commands[4:6] = [("zfs", "unmount", CLONE), ("zfs", "send", "-i", snap, CLONE)]
    else:
        commands[6] = ("zfs", "send", "-i", snap, f"{ZONE}/disk0@nova-image")
    with answers(*commands) as carrier:
        Maker(carrier, of, tmp_path, glance).make()
    assert [command.argv for command in carrier.commands] == commands
    assert glance.record["properties"]["smartos_image_origin"] == BASE


def test_an_image_of_a_server_of_a_published_image(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova lets it inherit a uuid that is not its own."""
    published = {"smartos_image_type": "zone-dataset", "smartos_image_uuid": UUID}
    glance = Glance(properties=dict(published))
    glance.base = based(properties=published)
    monkeypatch.setitem(PRINTED, "origin", f"origin\tzones/{UUID}@final\n")
    of = vm(image=UUID)
    commands = [origin_of(of), *MAKES_ZONE]
    send = ("zfs", "send", "-i", f"zones/{UUID}@final", CLONE)
    commands[4:6] = [("zfs", "unmount", CLONE), send]
    with answers(*commands) as carrier:
        Maker(carrier, of, tmp_path, glance).make()
    made = {**glance.base, "id": IMAGE, "properties": glance.record["properties"]}
    wanted = manifest.wanted(image_metas.ImageMeta.from_dict(made), made["properties"])
    assert (wanted.glance_id, wanted.format, wanted.origin) == (IMAGE, manifest.ZFS, BASE)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda maker: setattr(maker.options, "incremental_images", False),
        lambda maker: setattr(maker.glance, "base", None),
        lambda maker: setattr(
            maker.instance, "task_state", task_states.SHELVING_IMAGE_PENDING_UPLOAD
        ),
    ],
    ids=["by the operator's choice", "without its image", "shelved"],
)
def test_the_whole_is_taken(tmp_path: Any, spoil: Callable[["Maker"], None]) -> None:
    glance = Glance()
    glance.base = based()
    of = vm(image=node_image(glance.base))
    with answers(*MAKES_ZONE) as carrier:
        maker = Maker(carrier, of, tmp_path, glance)
        spoil(maker)
        maker.make()
    assert "smartos_image_origin" not in glance.record["properties"]


@pytest.mark.parametrize(
    ("base", "image", "origin"),
    [
        (based(is_public=False), None, None),
        (based(status="deactivated"), None, None),
        # the properties have changed since, or the server was rebuilt
        (based(), "other", None),
        (based(properties={}), None, None),
        (based(disk_format="vmdk"), "other", None),
        (based(properties={"smartos_image_type": "zone-dataset", "smartos_image_format": "tar"}),
         None, None),
        (based(properties={"smartos_image_type": "zone-dataset", "smartos_image_origin": UUID}),
         None, None),
        # it came from another node, whole
        (based(), None, "-"),
    ],
)  # fmt: skip
def test_what_others_may_lack_is_no_origin(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    base: dict[str, Any],
    image: str | None,
    origin: str | None,
) -> None:
    glance = Glance(properties={"smartos_image_origin": "inherited"})
    glance.base = base
    of = vm(image=image or node_image(base))
    monkeypatch.setitem(PRINTED, "origin", f"origin\t{origin}\n")
    asked = [origin_of(of)] if origin else []
    with answers(*asked, *MAKES_ZONE) as carrier:
        Maker(carrier, of, tmp_path, glance).make()
    assert [command.argv for command in carrier.commands] == [*asked, *MAKES_ZONE]
    assert glance.record["properties"]["smartos_image_origin"] == ""


def test_what_an_image_says_already_is_not_said_again(tmp_path: Any) -> None:
    inherited = {"hw_firmware_type": "uefi", "smartos_image_format": "tar"}
    with answers(*MAKES_BHYVE) as carrier:
        maker = Maker(carrier, vm("bhyve", bootrom="uefi"), tmp_path, Glance(properties=inherited))
        maker.make()
    said = maker.glance.record["properties"]
    # but the file is another one
    assert "smartos_firmware" not in said and said["smartos_image_format"] == "zfs"


def test_a_disk_without_a_quota_above_it_needs_no_room(tmp_path: Any) -> None:
    plain = [argv for argv in MAKES_BHYVE if "quota" not in " ".join(argv)]
    plain = [argv for argv in plain if argv[-1] != f"{ZONE}@nova-image"]
    quota = Answer(MAKES_BHYVE[1], "quota\t0\n")
    carrier = answers(*plain)
    carrier.answers.append(quota)
    with carrier:
        Maker(carrier, vm("bhyve"), tmp_path).make()


@pytest.mark.parametrize("failing", range(4))
def test_an_error_before_the_upload_takes_back_what_was_done(tmp_path: Any, failing: int) -> None:
    # the failing command itself may have done its work all the same
    undone = MAKES_ZONE[5:] if failing else MAKES_ZONE[6:]
    carrier = answers(*MAKES_ZONE[: failing + 1], *undone, failing={failing: "no such luck"})
    with carrier, pytest.raises(errors.ToolError, match="no such luck"):
        Maker(carrier, vm(), tmp_path).make()


def test_an_error_of_the_undo_hides_none_and_is_mended_later(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    listed = ("zfs", "list", "-Hp", "-o", COLUMNS, "-t", "snapshot")
    row = "\t".join([f"{ZONE}@nova-image", "snapshot", "1", *["-"] * 8])
    zone = ("zfs", "get", "-Hp", "-o", "property,value", "nova:quota", f"{ZONE}@nova-image")
    gone = f"cannot open '{CLONE}': dataset does not exist"
    carrier = fake_transport.Transport(
        Answer(MAKES_ZONE[0], stderr="no such luck", returncode=1),
        Answer(MAKES_ZONE[6], stderr="nor here", returncode=1),
        Answer(MAKES_ZONE[5], stderr=gone, returncode=1),
        Answer(listed, f"{row}\n"),
        Answer(zone, "nova:quota\t-\n"),
        Answer(MAKES_ZONE[6]),
    )
    with carrier:
        maker = Maker(carrier, vm(), tmp_path)
        with pytest.raises(errors.ToolError, match="no such luck"):
            maker.make()
        maker.exports.tidy()
        maker.exports.tidy()


COLUMNS = (
    "name,type,creation,used,available,referenced,quota,refquota,refreservation,volsize,origin"
)


def test_a_snapshot_is_busy_until_its_sender_has_ended(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_BUSY_POLL_SECONDS", 0)
    busy = f"cannot destroy snapshot {ZONE}-disk0@nova-image: dataset is busy"
    carrier = answers(*MAKES_KVM[:3], MAKES_KVM[3], MAKES_KVM[3], failing={3: busy})
    with carrier:
        Maker(carrier, vm("kvm"), tmp_path).make()


def test_a_stream_that_breaks_off_is_no_image(tmp_path: Any) -> None:
    carrier = answers(*MAKES_ZONE, failing={4: "warning: cannot send: I/O error"})
    glance = Glance()
    with carrier, pytest.raises(errors.ToolError, match="I/O error"):
        Maker(carrier, vm(), tmp_path, glance).make()
    assert glance.data is None


def test_glance_must_have_all_of_it(tmp_path: Any) -> None:
    """After a connection that broke, Nova sends what is left of the stream once more."""
    glance = Glance()

    def twice(data: Any) -> bytes:
        data.read(1000)
        return b"".join(iter(lambda: data.read(65536), b""))

    glance.reads = twice
    with answers(*MAKES_ZONE) as carrier:
        with pytest.raises(exception.ImageUnacceptable, match="Glance has 149000 of its 150000"):
            Maker(carrier, vm(), tmp_path, glance).make()
    assert signing.PROPERTY not in glance.record["properties"]


def test_an_image_that_is_given_up_ends_as_if_there_was_no_instance(tmp_path: Any) -> None:
    glance = Glance()
    with answers(*MAKES_ZONE) as carrier:
        maker = Maker(carrier, vm(), tmp_path, glance)

        def given_up(data: Any) -> bytes:
            data.read(1000)
            maker.exports.end(UUID)
            # nothing is left on the node, although Glance is not done with it
            assert not carrier.answers
            return bytes(data.read(1000))

        glance.reads = given_up
        with pytest.raises(exception.InstanceNotFound):
            maker.make()
    assert carrier.processes[0].killed


def test_an_image_that_is_deleted_ends_the_upload(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOOK_SECONDS", -1)
    glance = Glance()

    def deleted(data: Any) -> bytes:
        def get(context: Any, image_id: str) -> Any:
            raise exception.ImageNotFound(image_id=image_id)

        glance.get = get  # type: ignore[method-assign]
        return bytes(data.read(1000))

    glance.reads = deleted
    with answers(*MAKES_ZONE) as carrier, pytest.raises(exception.ImageNotFound):
        Maker(carrier, vm(), tmp_path, glance).make()


def test_what_an_earlier_one_has_left_is_taken_away_first(tmp_path: Any) -> None:
    there = f"cannot create snapshot '{ZONE}-disk0@nova-image': dataset already exists"
    gone = f"cannot open '{CLONE}': dataset does not exist"
    listed = ("zfs", "list", "-Hp", "-o", COLUMNS, "-t", "snapshot")
    carrier = answers(MAKES_KVM[0], MAKES_KVM[1], *MAKES_KVM[1:], failing={1: there})
    carrier.answers += [
        Answer(MAKES_KVM[3]),
        Answer(("zfs", "destroy", "-r", CLONE), stderr=gone, returncode=1),
        Answer(listed),
    ]
    with carrier:
        Maker(carrier, vm("kvm"), tmp_path).make()


def test_two_images_of_one_vm_do_not_meet(tmp_path: Any) -> None:
    glance = Glance()
    with answers(*MAKES_ZONE) as carrier:
        maker = Maker(carrier, vm(), tmp_path, glance)

        def again(data: Any) -> bytes:
            with pytest.raises(errors.InvalidState, match="under way"):
                maker.make()
            return b"".join(iter(lambda: data.read(65536), b""))

        glance.reads = again
        maker.make()


def test_an_image_that_nobody_could_boot_is_refused_before_anything_is_done(tmp_path: Any) -> None:
    maker = Maker(fake_transport.refusing(), vm(), tmp_path, key=False)
    with pytest.raises(nova_errors.Refused, match="image_signing_key_file"):
        maker.make()


def test_a_trusted_owner_needs_no_signature(tmp_path: Any) -> None:
    glance = Glance(owner="trusted")
    with answers(*MAKES_ZONE) as carrier:
        Maker(carrier, vm(), tmp_path, glance, key=False).make()
    assert signing.PROPERTY not in glance.record["properties"]


def test_a_guest_cannot_be_told_to_stand_still(tmp_path: Any) -> None:
    required = {"os_require_quiesce": True}
    maker = Maker(fake_transport.refusing(), vm(), tmp_path, properties=required)
    with pytest.raises(exception.InstanceQuiesceNotSupported):
        maker.make()


def test_a_guest_that_is_down_stands_still(tmp_path: Any) -> None:
    required = {"os_require_quiesce": True}
    with answers(*MAKES_ZONE) as carrier:
        Maker(carrier, vm(state="stopped"), tmp_path, properties=required).make()


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        (f"{ZONE}@nova-image", UUID),
        (f"{ZONE}/disk0@nova-image", UUID),
        (f"{ZONE}-disk1@nova-image", UUID),
        (CLONE, UUID),
        (ZONE, None),
        (f"{ZONE}@vmsnap-nova-image", None),
        (f"{ZONE}/data@nova-image", None),
        (f"zones/x/data/{UUID}@nova-image", None),
        (f"{CLONE}/x", None),
    ],
)
def test_what_is_left_of_an_image_has_its_vms_name(name: str, uuid: str | None) -> None:
    assert snapshot.left_over(name) == uuid


def test_leftovers_of_a_disk_give_the_quota_back(tmp_path: Any) -> None:
    rows = "".join(
        "\t".join([name, "snapshot", "1", *["-"] * 8]) + "\n"
        for name in (f"{ZONE}@nova-image", f"{ZONE}/disk0@nova-image", "zones/other@nova-image")
    )
    gone = f"cannot open '{CLONE}': dataset does not exist"
    marker = ("zfs", "get", "-Hp", "-o", "property,value", "nova:quota", f"{ZONE}@nova-image")
    with fake_transport.Transport(
        Answer(("zfs", "destroy", "-r", CLONE), stderr=gone, returncode=1),
        Answer(("zfs", "list", "-Hp", "-o", COLUMNS, "-t", "snapshot"), rows),
        Answer(("zfs", "destroy", f"{ZONE}/disk0@nova-image")),
        Answer(marker, "nova:quota\t12345\n"),
        Answer(("zfs", "set", "quota=12345", ZONE)),
        Answer(("zfs", "destroy", f"{ZONE}@nova-image")),
    ) as carrier:
        snapshot.remove_leftovers(node.Node(carrier), UUID)
    # the old value goes last
    assert carrier.commands[-1].argv == ("zfs", "destroy", f"{ZONE}@nova-image")
