# SPDX-License-Identifier: Apache-2.0
"""Images on their way from Glance to the node: once, whole, verified; nothing is left behind."""

import bz2
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import pathlib
import threading
import time
import types
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from tests import emulated, openstack, waits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import exception
    from nova.objects import image_meta as image_metas

    from tests.functional import images as small_images

from nova_smartos.operations import image
from nova_smartos.smartos import errors, files, node, transport
from nova_smartos.translate import manifest
from smartos_emulator.imgadm import manifest as imgadm_rules

pytestmark = openstack.QUIET

PROJECT = "6f70656e737461636b20342065766572"
CONTEXT = nova_context.RequestContext("user", PROJECT, is_admin=False)
STREAM = {"smartos_image_type": "zone-dataset"}
SECONDS = 60


class Glance:
    """What Images asks of Glance; `spoil` changes what is said and sent."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.pieces: Callable[[bytes], Iterator[bytes]] = _pieces
        self.refused: set[str] = set()

    def add(self, data: bytes, properties: dict[str, str] | None = None, **fields: Any) -> str:
        record = small_images.document("nst", properties or {}, status="active", **fields)
        self.records[record["id"]] = {**small_images.facts(data), **record}
        self.data[record["id"]] = data
        return str(record["id"])

    def get(self, context: Any, image_id: str, show_deleted: bool = True) -> dict[str, Any]:
        if context.user_id in self.refused:
            raise exception.ImageNotFound(image_id=image_id)
        return json.loads(json.dumps(self.records[image_id]))

    def download(
        self, context: Any, image_id: str, data: Any = None, trusted_certs: Any = None
    ) -> None:
        self.downloads.append(image_id)
        for piece in self.pieces(self.data[image_id]):
            data.write(piece)

    def asked(self, image_id: str) -> tuple[image_metas.ImageMeta, dict[str, str]]:
        record = self.records[image_id]
        meta = image_metas.ImageMeta.from_dict(
            {key: record[key] for key in ("id", "checksum", "disk_format", "container_format")}
        )
        return meta, record["properties"]


class Killed(BaseException):
    """What nobody catches, as nobody can catch a SIGKILL."""


@dataclasses.dataclass
class Wrapped:
    """A transport that counts the commands, and spoils those that it is told to."""

    carrier: transport.Local
    ran: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    before: Callable[[tuple[str, ...]], None] = lambda argv: None
    after: Callable[[tuple[str, ...]], None] = lambda argv: None

    def run(self, command: transport.Command) -> transport.Result:
        self.before(command.argv)
        self.ran.append(command.argv)
        result = self.carrier.run(command)
        self.after(command.argv)
        return result

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> Iterator[transport.Process]:
        self.before(command.argv)
        self.ran.append(command.argv)
        with self.carrier.stream(command) as process:
            yield process
        self.after(command.argv)

    def close(self) -> None:
        self.carrier.close()


@dataclasses.dataclass
class Place:
    """A node, what leads to it, and the Glance beside it."""

    emulated: emulated.EmulatedNode
    glance: Glance
    carrier: Wrapped
    node: node.Node
    images: image.Images
    options: types.SimpleNamespace

    def restart(self) -> image.Images:
        """The images as a new process knows them."""
        self.carrier.before = self.carrier.after = lambda argv: None
        self.images = image.Images(self.node, self.options, glance_api=self.glance)
        self.images.start()
        return self.images

    def ensure(self, image_id: str, context: Any = CONTEXT) -> Any:
        return self.images.ensure(context, *self.glance.asked(image_id))

    def datasets(self) -> set[str]:
        """All datasets and snapshots, with those that come and go with the node's VMs."""
        return {each.name for each in self.node.zfs.list(types=("all",))}

    def clean(self) -> None:
        """Nothing of an import is left but its image."""
        assert self.node.files.list() == []
        assert [name for name in self.datasets() if "partial" in name or "/image-" in name] == []


@pytest.fixture(scope="module")
def emulated_node() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode() as up:
        yield up


@pytest.fixture(scope="module")
def stream(emulated_node: emulated.EmulatedNode, tmp_path_factory: Any) -> bytes:
    """The ZFS stream of a zone's files, not compressed."""
    folder: pathlib.Path = tmp_path_factory.mktemp("images")
    return gzip.decompress(small_images.stream(emulated_node, folder, "zone")[1])


@pytest.fixture
def place(emulated_node: emulated.EmulatedNode) -> Iterator[Place]:
    carrier = Wrapped(transport.Local(tool_path=emulated_node.tools))
    options = types.SimpleNamespace(
        staging_quota_gb=10, stream_idle_timeout=30, trusted_image_owners=[PROJECT]
    )
    gz, glance = node.Node(carrier), Glance()
    images = image.Images(gz, options, glance_api=glance)
    images.start()
    yield Place(emulated_node, glance, carrier, gz, images, options)
    carrier.before = carrier.after = lambda argv: None
    for each in gz.imgadm.list():
        gz.imgadm.delete(each.manifest.uuid)


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 5000] for start in range(0, len(data), 5000))


def _meta(**fields: Any) -> image_metas.ImageMeta:
    given = {"id": str(uuid.UUID(int=1)), "checksum": "0" * 32, "disk_format": "raw"}
    return image_metas.ImageMeta.from_dict({**given, "container_format": "bare", **fields})


# what a Glance image is as a node image


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({}, "zvol"),
        ({"smartos_image_type": "zone-dataset"}, "zone-dataset"),
        ({"smartos_image_type": "lx-dataset"}, "lx-dataset"),
        ({"smartos_image_type": "zvol", "smartos_image_size": "10240"}, "zvol"),
    ],
)
def test_the_kind_of_an_image(properties: dict[str, str], kind: str) -> None:
    assert manifest.kind(_meta(), properties) == kind


@pytest.mark.parametrize(
    ("fields", "properties", "says"),
    [
        ({"disk_format": "qcow2"}, {}, "disk_format is qcow2"),
        ({"disk_format": "iso"}, STREAM, "disk_format is iso"),
        ({"container_format": "ovf"}, {}, "container_format is ovf"),
        ({}, {"smartos_image_type": "docker"}, "zone-dataset, lx-dataset, zvol"),
        ({}, {"smartos_image_type": ""}, "smartos_image_type"),
        ({}, {"smartos_image_type": "zvol"}, "smartos_image_size"),
        ({}, {"smartos_image_type": "zvol", "smartos_image_size": "-1"}, "'-1'"),
        ({}, {"smartos_image_type": "zvol", "smartos_image_size": "²"}, "smartos_image_size"),
    ],
)
def test_an_image_that_no_node_runs(
    fields: dict[str, str], properties: dict[str, str], says: str
) -> None:
    with pytest.raises(exception.ImageUnacceptable, match=says):
        manifest.kind(_meta(**fields), properties)


def test_the_uuid_is_that_of_the_content_and_of_nothing_that_a_tenant_says() -> None:
    wanted = manifest.wanted(_meta(), STREAM).uuid
    same = {**STREAM, "uuid": str(uuid.UUID(int=2)), "smartos_uuid": "x", "os_version": "2"}
    assert manifest.wanted(_meta(name="other", owner="other"), same).uuid == wanted
    others = [
        manifest.wanted(_meta(id=str(uuid.UUID(int=2))), STREAM).uuid,
        manifest.wanted(_meta(checksum="1" * 32), STREAM).uuid,
        manifest.wanted(_meta(), {"smartos_image_type": "lx-dataset"}).uuid,
        manifest.wanted(_meta(), {**STREAM, "smartos_cloudinit_datasource": "nocloud"}).uuid,
        manifest.wanted(_meta(), {}).uuid,
    ]
    assert len({wanted, *others}) == 6


TEXTS = strategies.text(max_size=700)


@hypothesis.given(
    record=strategies.fixed_dictionaries(
        {},
        optional={
            "name": strategies.none() | TEXTS,
            "owner": strategies.none() | TEXTS | strategies.uuids().map(lambda each: each.hex),
            "properties": strategies.dictionaries(
                TEXTS | strategies.sampled_from(["os_version", "os_type", "os_distro", "origin"]),
                TEXTS,
            ),
        },
    ),
    type_=strategies.sampled_from([None, *manifest.TYPES]),
)
def test_whatever_a_tenant_writes_imgadm_takes_the_manifest(
    record: dict[str, Any], type_: str | None
) -> None:
    properties = {"smartos_image_type": type_} if type_ else {}
    wanted = manifest.wanted(_meta(), {**properties, "smartos_image_size": "1"})
    data = manifest.Data("0" * 40, 1, "none")
    document = manifest.document(wanted, record, data, 1 if wanted.type == "zvol" else None)
    assert imgadm_rules.validate(document) == []
    assert set(document) <= set(
        "v uuid owner name version state disabled public type os tags files requirements "
        "nic_driver disk_driver cpu_type image_size".split()
    )
    assert document["tags"] == {"nova:image": wanted.glance_id}


# what comes to the node


@pytest.mark.parametrize("kind", ["zone", "minimal", "lx", "zvol"])
def test_a_zfs_stream_of_each_kind(place: Place, kind: str, tmp_path: pathlib.Path) -> None:
    properties, data = small_images.stream(place.emulated, tmp_path, kind)
    wanted = place.glance.add(data, properties)
    made = place.ensure(wanted)
    known = place.node.imgadm.get(made.uuid).manifest
    assert (made.type, known.type) == (properties["smartos_image_type"],) * 2
    assert known.tags["nova:image"] == wanted
    assert known.owner == str(uuid.UUID(PROJECT))
    assert made.size_mib == (64 if kind == "zvol" else None)
    place.clean()


@pytest.mark.parametrize(
    ("name", "compress"),
    [("none", bytes), ("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)],
)
def test_each_compression(
    place: Place, stream: bytes, name: str, compress: Callable[[bytes], bytes]
) -> None:
    made = place.ensure(place.glance.add(compress(stream), STREAM))
    assert place.node.imgadm.get(made.uuid).manifest.files[0].compression == name


@pytest.mark.parametrize("size", [1, 4096, (1 << 20) - 1, 1 << 20, (3 << 20) + 77])
def test_a_raw_disk_of_any_size(place: Place, size: int) -> None:
    data = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    made = place.ensure(place.glance.add(data))
    assert made.size_mib == -(-size // (1 << 20))
    place.node.zfs.clone(f"zones/{made.uuid}@final", "zones/nst-clone")
    try:
        disk = place.emulated.directory / "root/dev/zvol/rdsk/zones/nst-clone"
        assert disk.read_bytes() == data.ljust(made.size_mib << 20, b"\0")
    finally:
        place.node.zfs.destroy("zones/nst-clone")
    place.clean()


def test_a_raw_disk_is_never_taken_for_a_stream(place: Place, stream: bytes) -> None:
    made = place.ensure(place.glance.add(stream, owner="a stranger"))
    assert made.type == "zvol"


def test_what_is_there_costs_no_command(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    made = place.ensure(wanted)
    place.carrier.ran.clear()
    assert place.ensure(wanted) == made
    assert place.carrier.ran == []
    place.restart()
    place.carrier.ran.clear()
    assert place.ensure(wanted) == made
    assert place.carrier.ran == [] and place.glance.downloads == [wanted]


@pytest.mark.parametrize("raw", [False, True])
def test_twenty_boots_import_once(place: Place, stream: bytes, *, raw: bool) -> None:
    wanted = place.glance.add(b"disk" * 9999 if raw else stream, {} if raw else STREAM)
    together = threading.Barrier(20)

    def boot(_: int) -> Any:
        together.wait(SECONDS)
        return place.ensure(wanted)

    with futures.ThreadPoolExecutor(20) as pool:
        made = list(pool.map(boot, range(20), timeout=SECONDS))
    assert len({each.uuid for each in made}) == 1
    assert place.glance.downloads == [wanted]
    assert len([argv for argv in place.carrier.ran if argv[:2] == ("imgadm", "install")]) == 1
    place.clean()


def test_who_cannot_read_an_image_does_not_spoil_it_for_others(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    place.glance.refused = {"stranger"}
    waiting = threading.Event()
    stranger = nova_context.RequestContext("stranger", PROJECT, is_admin=False)
    # the stranger leads, and stands still before the node's answer until the other one waits
    place.carrier.before = lambda argv: _hold(waiting, place.images, argv)
    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(place.ensure, wanted, stranger)
        waits.until(lambda: place.images._flights)
        second = pool.submit(place.ensure, wanted)
        waiting.set()
        with pytest.raises(exception.ImageUnacceptable, match="no such image for its user"):
            first.result(SECONDS)
        assert second.result(SECONDS).type == "zone-dataset"


def _hold(event: threading.Event, images: image.Images, argv: tuple[str, ...]) -> None:
    if argv[:2] == ("imgadm", "get"):
        assert event.wait(SECONDS)


# what must not come


def refused(place: Place, wanted: str, says: str, kind: type[Exception]) -> None:
    before = place.datasets()
    with pytest.raises(kind, match=says):
        place.ensure(wanted)
    place.clean()
    assert place.datasets() == before
    assert place.node.imgadm.list() == []


def test_a_stream_of_a_stranger(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM, owner="a" * 32)
    refused(place, wanted, "trusted_image_owners", exception.ImageUnacceptable)
    assert place.glance.downloads == []
    place.options.trusted_image_owners = []
    refused(place, wanted, "trusted_image_owners", exception.ImageUnacceptable)
    place.options.trusted_image_owners = ["*"]
    assert place.ensure(wanted).type == "zone-dataset"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ({"status": "queued"}, exception.ImageNotActive),
        ({"size": 0}, exception.ImageUnacceptable),
        ({"size": None}, exception.ImageUnacceptable),
        ({"os_hash_value": "0" * 128}, exception.ImageUnacceptable),
        ({"os_hash_algo": None, "checksum": None}, exception.ImageUnacceptable),
        ({"os_hash_algo": "md9", "checksum": None}, exception.ImageUnacceptable),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_record_that_does_not_fit(
    place: Place, stream: bytes, spoil: dict[str, Any], kind: type[Exception], *, raw: bool
) -> None:
    wanted = place.glance.add(stream, {} if raw else STREAM)
    place.glance.records[wanted] |= spoil
    refused(place, wanted, wanted, kind)


def test_an_image_that_is_another_one_by_now(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    asked = place.glance.asked(wanted)
    place.glance.records[wanted]["checksum"] = "0" * 32
    with pytest.raises(exception.ImageUnacceptable, match="no longer"):
        place.images.ensure(CONTEXT, *asked)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("tenth", range(10))
def test_a_download_that_is_cut(place: Place, stream: bytes, tenth: int, *, raw: bool) -> None:
    wanted = place.glance.add(stream, {} if raw else STREAM)
    place.glance.pieces = lambda data: _pieces(data[: len(data) * tenth // 10])
    refused(place, wanted, "bytes came", exception.NovaException)
    place.glance.pieces = _pieces
    assert place.ensure(wanted).uuid


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (lambda data: _pieces(data + b"x"), "more than"),
        (lambda data: _pieces(data[:-1] + b"x"), "sha512"),
    ],
)
def test_a_download_that_is_wrong(
    place: Place, stream: bytes, pieces: Callable[[bytes], Iterator[bytes]], says: str
) -> None:
    place.glance.pieces = pieces
    refused(place, place.glance.add(stream, STREAM), says, exception.NovaException)


def test_a_download_that_breaks(place: Place, stream: bytes) -> None:
    def pieces(data: bytes) -> Iterator[bytes]:
        yield data[:9000]
        raise ConnectionResetError("Glance is gone")

    place.glance.pieces = pieces
    refused(place, place.glance.add(stream, STREAM), "Glance is gone", ConnectionResetError)


def test_a_download_that_stands_still(place: Place, stream: bytes) -> None:
    over = threading.Event()

    def pieces(data: bytes) -> Iterator[bytes]:
        yield data[:9000]
        assert over.wait(SECONDS)

    place.options.stream_idle_timeout = 0.2
    place.glance.pieces = pieces
    try:
        refused(place, place.glance.add(stream, STREAM), "nothing came", exception.NovaException)
    finally:
        over.set()


@pytest.mark.parametrize("data", [b"no stream", gzip.compress(b"x", mtime=0), b"\x1f\x8b\x08x"])
def test_what_is_no_zfs_stream(place: Place, data: bytes) -> None:
    refused(place, place.glance.add(data, STREAM), "unacceptable", exception.ImageUnacceptable)


def test_streams_of_another_sort(place: Place) -> None:
    """One that wants an origin, one with two snapshots, one with half a stream in it."""
    zfs, name = place.node.zfs, f"zones/nst-{uuid.uuid4()}"
    zfs.create(name)
    try:
        zfs.snapshot(f"{name}@a")
        zfs.snapshot(f"{name}@b")
        with zfs.send(f"{name}@b", base=f"{name}@a") as sent:
            incremental = sent.read()
        with zfs.send(f"{name}@b", replicate=True) as sent:
            two = sent.read()
    finally:
        zfs.destroy(name, recursive=True)
    for data in (incremental, two, two[: len(two) // 2]):
        wanted = place.glance.add(data, STREAM)
        refused(place, wanted, "unacceptable", exception.ImageUnacceptable)


def test_a_stream_that_is_not_what_its_properties_say(
    place: Place, stream: bytes, tmp_path: pathlib.Path
) -> None:
    disk = {"smartos_image_type": "zvol", "smartos_image_size": "64"}
    wrong = place.glance.add(stream, disk)
    refused(place, wrong, "holds a filesystem", exception.ImageUnacceptable)
    properties, data = small_images.stream(place.emulated, tmp_path, "zvol")
    assert properties == disk
    wrong = place.glance.add(data, {**disk, "smartos_image_size": "63"})
    refused(place, wrong, "64|67108864 bytes", exception.ImageUnacceptable)
    wrong = place.glance.add(data, STREAM)
    refused(place, wrong, "holds a volume", exception.ImageUnacceptable)


@pytest.mark.parametrize("raw", [False, True])
def test_no_room(place: Place, stream: bytes, *, raw: bool) -> None:
    place.node.zfs.set(files.DATASET, {"quota": "1M"})
    data = b"".join(hashlib.sha512(b"%d" % each).digest() for each in range(50000))
    try:
        wanted = place.glance.add(data, {} if raw else STREAM)
        refused(place, wanted, "", errors.NoSpace)
    finally:
        place.node.zfs.set(files.DATASET, {"quota": "10G"})


# what goes wrong between us and the node


def test_an_image_that_somebody_deleted(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    made = place.ensure(wanted)
    place.node.imgadm.delete(made.uuid)
    place.images.forget(made.uuid)
    assert place.ensure(wanted) == made
    assert place.node.imgadm.get(made.uuid)


def test_an_image_that_imgadm_has_lost(place: Place, stream: bytes) -> None:
    """Its dataset is there without its record: not ours to decide about."""
    wanted = place.glance.add(stream, STREAM)
    made = place.ensure(wanted)
    record = place.emulated.directory / f"root/var/imgadm/images/zones-{made.uuid}.json"
    record.unlink()
    place.restart()
    with pytest.raises(errors.OutputError, match="delete it"):
        place.ensure(wanted)
    place.node.imgadm.delete(made.uuid)
    assert place.ensure(wanted) == made


@pytest.mark.parametrize("effect", [False, True])
def test_the_answer_of_install_is_lost(place: Place, stream: bytes, *, effect: bool) -> None:
    wanted = place.glance.add(stream, STREAM)
    lost: list[tuple[str, ...]] = []

    def lose(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("imgadm", "install") and not lost:
            lost.append(argv)
            raise errors.OutcomeUnknown("the connection broke", argv=argv)

    if effect:
        place.carrier.after = lose
    else:
        place.carrier.before = lose
    assert place.ensure(wanted).type == "zone-dataset"
    assert lost
    place.clean()


def commands_of_an_import(place: Place, data: bytes, properties: dict[str, str]) -> int:
    place.carrier.ran.clear()
    made = place.ensure(place.glance.add(data, properties))
    place.node.imgadm.delete(made.uuid)
    place.images.forget(made.uuid)
    return len(place.carrier.ran) - 1


@pytest.mark.parametrize("raw", [False, True])
def test_killed_before_any_command_of_an_import(place: Place, stream: bytes, *, raw: bool) -> None:
    """The next process finds nothing, or the whole image; and can go on."""
    properties = {} if raw else STREAM
    steps = commands_of_an_import(place, stream, properties)
    assert steps > (9 if raw else 6)
    for step in range(steps):
        wanted = place.glance.add(stream, properties)
        left = step

        def kill(argv: tuple[str, ...]) -> None:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1

        place.carrier.before = kill
        with pytest.raises(Killed):
            place.ensure(wanted)
        place.restart()
        place.clean()
        place.ensure(wanted)
        place.clean()


def test_only_our_own_leftovers_are_removed(place: Place) -> None:
    """An operator's import that runs, or was killed, is not ours."""
    ours, foreign = str(uuid.uuid5(uuid.NAMESPACE_DNS, "x")), str(uuid.uuid4())
    place.node.files.write(f"image-{ours}-0a1b2c3d", io.BytesIO(b"x"))
    place.node.files.write(f"drive-{foreign}.iso", io.BytesIO(b"x"))
    for each in (ours, foreign):
        place.node.zfs.create(f"zones/{each}-partial")
    try:
        place.restart()
        assert place.node.files.list() == [f"drive-{foreign}.iso"]
        left = [name for name in place.datasets() if name.endswith("-partial")]
        assert left == [f"zones/{foreign}-partial"]
    finally:
        place.node.files.delete(f"drive-{foreign}.iso")
        place.node.zfs.destroy(f"zones/{foreign}-partial")


def test_a_killed_imgadm_is_in_nobodys_way(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    uuid_ = manifest.wanted(*place.glance.asked(wanted)).uuid
    place.node.zfs.create(f"zones/{uuid_}-partial")
    assert place.ensure(wanted).uuid == uuid_
    place.clean()


# what goes away again


def test_only_what_is_unused_for_long_enough_is_deleted(
    place: Place, stream: bytes, tmp_path: pathlib.Path
) -> None:
    foreign = place.emulated.image("zone")
    used = place.ensure(place.glance.add(stream, STREAM)).uuid
    unused = place.ensure(place.glance.add(stream + b"", STREAM)).uuid
    place.node.zfs.clone(f"zones/{used}@final", f"zones/{uuid.uuid4()}")
    clone = next(name for name in place.datasets() if _origin(place, name) == f"zones/{used}@final")
    try:
        assert place.images.expire(3600) == []
        assert place.images.expire(0) == [unused]
        known = {each.manifest.uuid for each in place.node.imgadm.list()}
        assert {foreign, used} <= known and unused not in known
    finally:
        place.node.zfs.destroy(clone)


def _origin(place: Place, name: str) -> str | None:
    return None if "@" in name else place.node.zfs.get(name, "origin")["origin"]


def test_the_age_outlives_the_process_and_use_ends_it(place: Place, stream: bytes) -> None:
    made = place.ensure(place.glance.add(stream, STREAM)).uuid
    place.restart()
    assert place.images.expire(3600) == []
    place.node.zfs.set(f"zones/{made}", {"nova:unused-since": str(int(time.time()) - 7200)})
    place.restart()
    clone = f"zones/{uuid.uuid4()}"
    place.node.zfs.clone(f"zones/{made}@final", clone)
    assert place.images.expire(3600) == []
    place.node.zfs.destroy(clone)
    place.restart()
    assert place.images.expire(3600) == [], "its use has ended the old count"
    place.node.zfs.set(f"zones/{made}", {"nova:unused-since": str(int(time.time()) - 7200)})
    place.restart()
    assert place.images.expire(3600) == [made]


def test_an_image_that_was_just_asked_for_stays(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    made = place.ensure(wanted).uuid
    place.node.zfs.set(f"zones/{made}", {"nova:unused-since": str(int(time.time()) - 7200)})
    place.restart()
    place.ensure(wanted)
    assert place.images.expire(3600) == []


@pytest.mark.parametrize("value", ["yesterday", "-5", "99999999999", "²"])
def test_an_age_that_makes_no_sense_starts_anew(place: Place, stream: bytes, value: str) -> None:
    made = place.ensure(place.glance.add(stream, STREAM)).uuid
    place.node.zfs.set(f"zones/{made}", {"nova:unused-since": value})
    place.restart()
    assert place.images.expire(3600) == []


@pytest.mark.parametrize("word", ["delete", "get"])
def test_one_that_cannot_be_deleted_does_not_keep_the_others(
    place: Place, stream: bytes, word: str
) -> None:
    made = [place.ensure(place.glance.add(stream, STREAM)).uuid for _ in range(3)]
    place.restart()

    def fail(argv: tuple[str, ...]) -> None:
        if argv[1] == word and any(made[1] in each for each in argv):
            raise errors.ToolError("dataset is broken", argv=argv)

    place.carrier.before = fail
    assert sorted(place.images.expire(0)) == sorted([made[0], made[2]])
    assert [each.manifest.uuid for each in place.node.imgadm.list()] == [made[1]]
    place.carrier.before = lambda argv: None
    assert place.images.expire(0) == [made[1]]


def test_a_manifest_that_makes_no_sense(place: Place, stream: bytes) -> None:
    """An operator has edited it: neither the start nor the pass ends there."""
    foreign = place.emulated.image("zone")
    made = place.ensure(place.glance.add(stream, STREAM)).uuid
    record = place.emulated.directory / f"root/var/imgadm/images/zones-{foreign}.json"
    document = json.loads(record.read_text())
    document["manifest"]["tags"] = "none"
    record.write_text(json.dumps(document))
    place.restart()
    assert place.images.expire(0) == [made]
    assert [each.manifest.uuid for each in place.node.imgadm.list()] == [foreign]


def test_two_that_delete_the_same(place: Place, stream: bytes) -> None:
    made = place.ensure(place.glance.add(stream, STREAM)).uuid

    def other(argv: tuple[str, ...]) -> None:
        if argv == ("imgadm", "delete", "-P", "zones", made):
            place.emulated.tool("imgadm", "delete", made)

    place.carrier.before = other
    assert place.images.expire(0) == [made]


def test_a_vm_that_comes_while_its_image_is_deleted(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    made = place.ensure(wanted).uuid
    clone = f"zones/{uuid.uuid4()}"

    def boot(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("imgadm", "delete"):
            place.emulated.tool("zfs", "clone", f"zones/{made}@final", clone)

    place.carrier.before = boot
    assert place.images.expire(0) == []
    assert place.ensure(wanted).uuid == made
    place.carrier.before = lambda argv: None
    place.node.zfs.destroy(clone)


def test_an_image_before_its_first_boot(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM)
    assert place.images.cache(CONTEXT, wanted) is True
    assert place.images.cache(CONTEXT, wanted) is False
    place.carrier.ran.clear()
    place.ensure(wanted)
    assert place.carrier.ran == []
