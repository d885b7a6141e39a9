# SPDX-License-Identifier: Apache-2.0
"""Images on their way from Glance to the node: once, whole, verified; nothing is left behind."""

import bz2
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import lzma
import pathlib
import subprocess
import tarfile
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

from tests import emulated, openstack, qcow2_files, waits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import exception
    from nova.objects import image_meta as image_metas

    from tests.functional import images as small_images

from nova_smartos.operations import download, image, signing
from nova_smartos.smartos import errors, files, node, transport
from nova_smartos.translate import manifest
from smartos_emulator.imgadm import manifest as imgadm_rules

pytestmark = openstack.QUIET

PROJECT = "6f70656e737461636b20342065766572"
CONTEXT = nova_context.RequestContext("user", PROJECT, is_admin=False)
STREAM = {"smartos_image_type": "zone-dataset"}
ORIGIN_AND_UUID = ("smartos_image_origin", "smartos_image_uuid")
SECONDS = 60
MIB = 1 << 20


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
        if context.user_id in self.refused or image_id not in self.records:
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

    def ensure(self, image_id: str, context: Any = CONTEXT, **options: Any) -> Any:
        return self.images.ensure(context, *self.glance.asked(image_id), **options)

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
def place(emulated_node: emulated.EmulatedNode, tmp_path: pathlib.Path) -> Iterator[Place]:
    carrier = Wrapped(transport.Local(tool_path=emulated_node.tools))
    options = types.SimpleNamespace(
        conversion_directory=str(tmp_path),
        image_server=None,
        image_signing_key_file=None,
        staging_quota_gb=10,
        stream_idle_timeout=30,
        trusted_image_owners=[PROJECT],
    )
    gz, glance = node.Node(carrier), Glance()
    images = image.Images(gz, options, glance_api=glance)
    images.start()
    yield Place(emulated_node, glance, carrier, gz, images, options)
    carrier.before = carrier.after = lambda argv: None
    for each in sorted(gz.imgadm.list(), key=lambda each: each.manifest.origin is None):
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
        ({"disk_format": "vmdk"}, {}, "disk_format is vmdk: for a disk it is raw or qcow2"),
        (
            {"disk_format": "qcow2"},
            STREAM,
            "disk_format is qcow2: for a ZFS stream or a tar archive",
        ),
        ({"disk_format": "iso"}, STREAM, "disk_format is iso"),
        ({"container_format": "ovf"}, {}, "container_format is ovf"),
        ({}, {"smartos_image_type": "docker"}, "zone-dataset, lx-dataset, zvol"),
        ({}, {"smartos_image_type": ""}, "smartos_image_type"),
        ({}, {"smartos_image_type": "zvol"}, "smartos_image_size"),
        ({}, {"smartos_image_format": "tar"}, "smartos_image_format needs smartos_image_type"),
        ({}, {**STREAM, "smartos_image_uuid": "../x"}, "is no uuid"),
        ({}, {"smartos_image_uuid": str(uuid.UUID(int=1))}, "needs smartos_image_type"),
        ({}, {**STREAM, "smartos_image_format": "zip"}, "must be tar or zfs"),
        (
            {},
            {
                "smartos_image_type": "zvol",
                "smartos_image_size": "1",
                "smartos_image_format": "tar",
            },
            "for a zvol it must be zfs",
        ),
        ({}, {**STREAM, "smartos_image_origin": "x"}, "smartos_image_origin is 'x', which is no"),
        ({}, {"smartos_image_origin": str(uuid.UUID(int=1))}, "for a ZFS stream, this is raw"),
        (
            {},
            {**STREAM, **dict.fromkeys(ORIGIN_AND_UUID, str(uuid.UUID(int=1)))},
            "needs smartos_image_type, and neither",
        ),
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
        manifest.wanted(_meta(disk_format="qcow2"), {}).uuid,
        manifest.wanted(_meta(), {**STREAM, "smartos_image_format": "tar"}).uuid,
    ]
    assert len({wanted, *others}) == 8


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


def disk_of(place: Place, uuid_: str) -> bytes:
    """What a VM that is made of an image finds on its disk."""
    place.node.zfs.clone(f"zones/{uuid_}@final", "zones/nst-clone")
    try:
        return (place.emulated.directory / "root/dev/zvol/rdsk/zones/nst-clone").read_bytes()
    finally:
        place.node.zfs.destroy("zones/nst-clone")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_qcow2_disk(place: Place, tmp_path: pathlib.Path, *, compressed: bool) -> None:
    """It becomes the disk in it, holes and all; what it was kept in meanwhile is gone."""
    held = b"begin".ljust(2 << 20, b"\0") + b"middle" * 9999
    file = qcow2_files.made(held, size_bytes=(60 << 20) + 512, compressed=compressed)
    before = sorted(tmp_path.iterdir())
    made = place.ensure(place.glance.add(file, disk_format="qcow2"))
    assert (made.type, made.size_mib) == ("zvol", 61)
    assert disk_of(place, made.uuid) == held.ljust(61 << 20, b"\0")
    assert sorted(tmp_path.iterdir()) == before
    place.clean()


def test_holes_of_a_disk_are_not_sent(place: Place) -> None:
    held = b"begin".ljust(40 << 20, b"\0") + b"end"
    for file, form in ((held, "raw"), (qcow2_files.made(held), "qcow2")):
        place.carrier.ran.clear()
        made = place.ensure(place.glance.add(file, disk_format=form))
        written = [argv[4:] for argv in place.carrier.ran if "zvol" in argv[1]]
        assert written == [(), ("seek=40",)]
        assert disk_of(place, made.uuid) == held.ljust(41 << 20, b"\0")


TAR = {"smartos_image_type": "lx-dataset", "smartos_image_format": "tar"}


@pytest.mark.parametrize("type_", ["lx-dataset", "zone-dataset"])
def test_a_tree_of_files_needs_no_trust(place: Place, type_: str) -> None:
    data = small_images.tree({"etc/os-release": b"ID=debian\n", "bin/su": b"su"})
    properties = {**TAR, "smartos_image_type": type_}
    made = place.ensure(place.glance.add(data, properties, owner="a" * 32))
    assert made.type == type_
    place.node.zfs.clone(f"zones/{made.uuid}@final", "zones/nst-clone")
    try:
        root = place.emulated.directory / "root/zones/nst-clone/root"
        assert (root / "etc/os-release").read_bytes() == b"ID=debian\n"
        assert (root / "bin/su").stat().st_mode & 0o7777 == 0o755
        safe = place.node.zfs.get("zones/nst-clone", "setuid", "exec", "devices")
        assert safe == {"setuid": "on", "exec": "on", "devices": "on"}
    finally:
        place.node.zfs.destroy("zones/nst-clone")
    place.clean()


def _tar(**fields: Any) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, values in (("etc", {"type": tarfile.DIRTYPE}), ("x", fields)):
            made = tarfile.TarInfo(name)
            for key, value in values.items():
                setattr(made, key, value)
            archive.addfile(made)
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_tar(name="../../../etc/x"), "leads out"),
        (_tar(name="/etc/x"), "leads out"),
        (_tar(type=tarfile.CHRTYPE), "is a device"),
        (_tar(type=tarfile.LNKTYPE, linkname="../x"), "leads out"),
        (_tar(type=tarfile.LNKTYPE, linkname="etc/none"), "Cannot hard link"),
        (_tar(name="etc/x", size=0)[:700], "cut off"),
        (gzip.compress(_tar(), mtime=0)[:-9], "decompressed"),
        (b"no archive" * 999, "no tar archive"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,
)
def test_a_hostile_tree(place: Place, data: bytes, says: str) -> None:
    refused(place, place.glance.add(data, TAR), says, exception.ImageUnacceptable)


def test_a_tree_that_is_too_large(place: Place) -> None:
    place.options.staging_quota_gb = 0
    wanted = place.glance.add(small_images.tree({"etc/much": b"x" * 9999}), TAR)
    refused(place, wanted, "more than 0 bytes", exception.ImageUnacceptable)


def test_a_tree_is_verified_to_its_end(place: Place) -> None:
    """What follows the archive belongs to the file, whose hash Glance knows."""
    data = small_images.tree({"etc/motd": b"hello"})
    wanted = place.glance.add(data, TAR)
    place.glance.records[wanted]["os_hash_value"] = "0" * 128
    refused(place, wanted, "sha512", exception.ImageUnacceptable)


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


# what the node brings itself


class Server(http.server.ThreadingHTTPServer):
    """An image server with one image."""

    def __init__(self, folder: pathlib.Path) -> None:
        base = folder / "published"
        emulated.EmulatedNode().command("image", "lx", "nst-published", "--output", str(base))
        self.manifest = json.loads(base.with_suffix(".imgmanifest").read_text())
        self.uuid = self.manifest["uuid"]
        self.data = pathlib.Path(f"{base}.zfs.gz").read_bytes()
        super().__init__(("127.0.0.1", 0), _Asked)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Asked(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        known = {
            "/ping": b"{}",
            f"/images/{self.server.uuid}": json.dumps(self.server.manifest).encode(),
            f"/images/{self.server.uuid}/file": self.server.data,
        }
        self.send_response(200 if path in known else 404)
        body = known.get(path, b'{"code": "ResourceNotFound"}')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(place: Place, tmp_path: pathlib.Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        place.options.image_server = server.url
        yield server
        server.shutdown()
        thread.join()


def published(server: Server) -> dict[str, str]:
    return {"smartos_image_type": "lx-dataset", "smartos_image_uuid": server.uuid}


def test_an_image_of_the_image_server(place: Place, server: Server) -> None:
    wanted = place.glance.add(b"x", published(server))
    made = place.ensure(wanted)
    assert (made.uuid, made.type) == (server.uuid, "lx-dataset")
    assert place.ensure(wanted) == made
    assert place.glance.downloads == []
    imported = [argv for argv in place.carrier.ran if argv[:2] == ("imgadm", "import")]
    assert imported == [
        ("imgadm", "import", "-q", "-P", "zones", "-S", server.url, server.uuid),
    ]
    assert place.images.expire(0) == [], "it is not ours to delete"


def test_who_may_name_an_image_of_the_image_server(place: Place, server: Server) -> None:
    """Not even one that is on the node already."""
    stranger = place.glance.add(b"x", published(server), owner="a" * 32)
    refused(place, stranger, "trusted_image_owners", exception.ImageUnacceptable)
    place.ensure(place.glance.add(b"x", published(server)))
    with pytest.raises(exception.ImageUnacceptable, match="trusted_image_owners"):
        place.ensure(stranger)
    place.options.image_server = None
    with pytest.raises(exception.ImageUnacceptable, match="no .smartos. image_server"):
        place.ensure(place.glance.add(b"x", published(server)))


def test_an_image_that_the_image_server_does_not_have(place: Place, server: Server) -> None:
    unknown = {**published(server), "smartos_image_uuid": str(uuid.UUID(int=9))}
    refused(place, place.glance.add(b"x", unknown), "unacceptable", exception.ImageUnacceptable)


def test_an_image_of_another_type_than_is_said(place: Place, server: Server) -> None:
    wrong = {**published(server), "smartos_image_type": "zone-dataset"}
    says = "of type lx-dataset, not zone-dataset"
    refused(place, place.glance.add(b"x", wrong), says, exception.ImageUnacceptable)
    place.ensure(place.glance.add(b"x", published(server)))
    with pytest.raises(exception.ImageUnacceptable, match=says):
        place.ensure(place.glance.add(b"x", wrong))
    assert [each.manifest.uuid for each in place.node.imgadm.list()] == [server.uuid]


def test_no_image_of_glance_has_a_second_name(place: Place, server: Server, stream: bytes) -> None:
    """Whoever may not read it in Glance may not name it either."""
    made = place.ensure(place.glance.add(stream, STREAM))
    named = {"smartos_image_type": "zone-dataset", "smartos_image_uuid": made.uuid}
    place.restart()
    with pytest.raises(exception.ImageUnacceptable, match="has come from Glance"):
        place.ensure(place.glance.add(b"x", named))


# what must not come


def refused(place: Place, wanted: str, says: str, kind: type[Exception]) -> None:
    before = place.datasets(), place.node.imgadm.list()
    with pytest.raises(kind, match=says):
        place.ensure(wanted)
    place.clean()
    assert (place.datasets(), place.node.imgadm.list()) == before


def test_a_stream_of_a_stranger(place: Place, stream: bytes) -> None:
    wanted = place.glance.add(stream, STREAM, owner="a" * 32)
    refused(place, wanted, "trusted_image_owners", exception.ImageUnacceptable)
    assert place.glance.downloads == []
    place.options.trusted_image_owners = []
    refused(place, wanted, "trusted_image_owners", exception.ImageUnacceptable)
    place.options.trusted_image_owners = ["*"]
    assert place.ensure(wanted).type == "zone-dataset"


@pytest.fixture
def key(place: Place, tmp_path: pathlib.Path) -> Callable[[bytes, str], str]:
    """A key for the computes, and what signs with it; nobody's images are trusted."""
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32)
    place.options.image_signing_key_file = str(path)
    place.options.trusted_image_owners = []
    place.restart()
    signer = signing.Signer(place.options)
    return lambda data, type_: str(signer.sign(hashlib.sha256(data).digest(), type_))


def test_a_stream_of_ours_needs_no_trusted_owner(
    place: Place, stream: bytes, key: Callable[[bytes, str], str]
) -> None:
    """Whatever the compression: the signature is over the file."""
    for data in (stream, gzip.compress(stream)):
        signed = {**STREAM, "smartos_signature": key(data, "zone-dataset")}
        wanted = place.glance.add(data, signed, owner="a" * 32)
        assert place.ensure(wanted).type == "zone-dataset"


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda key, data: "", "has no smartos_signature"),
        (lambda key, data: "0" * 64, "not ours over these bytes"),
        (lambda key, data: "ä" * 64, "not ours over these bytes"),
        (lambda key, data: key(data[:-1], "zone-dataset"), "not ours over these bytes"),
        (lambda key, data: key(data, "lx-dataset"), "not ours over these bytes"),
    ],
)
def test_a_signature_that_is_not_ours(
    place: Place,
    stream: bytes,
    key: Callable[[bytes, str], str],
    forge: Callable[[Callable[[bytes, str], str], bytes], str],
    says: str,
) -> None:
    """Nothing of the node reads the stream before that is known."""
    signed = {**STREAM, "smartos_signature": forge(key, stream)}
    wanted = place.glance.add(stream, signed, owner="a" * 32)
    place.carrier.ran.clear()
    refused(place, wanted, says, exception.ImageUnacceptable)
    read = {argv[:2] for argv in place.carrier.ran} & {("imgadm", "install"), ("zfs", "receive")}
    assert read == set()


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (qcow2_files.made(b"disk" * 999, backing=b"/etc/passwd"), "backing_file"),
        (qcow2_files.made(b"disk" * 999, features=4), "data_file"),
        (qcow2_files.made(b"disk" * 999, features=1 << 50), "unknown_features"),
        (qcow2_files.made(b"disk" * 999, encryption=1), "encrypted"),
        (qcow2_files.made(b"disk" * 999, size_bytes=1 << 50), "staging_quota_gb"),
        (qcow2_files.made(b"disk" * 99999)[:90000], "not in the file"),
        (b"disk" * 9999, "no qcow2"),
        (b"KDMV".ljust(70000, b"\0"), "no qcow2"),
        (b"#", "no qcow2"),
    ],
    ids=lambda value: "file" if isinstance(value, bytes) else None,
)
def test_a_hostile_qcow2(place: Place, tmp_path: pathlib.Path, file: bytes, says: str) -> None:
    refused(place, place.glance.add(file, disk_format="qcow2"), says, exception.ImageUnacceptable)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_larger_than_the_flavor(place: Place) -> None:
    """Nothing is unpacked; the next flavor may have it, who waited for the first one's too."""
    file = qcow2_files.made(b"disk" * 999, size_bytes=2 << 30)
    wanted = place.glance.add(file, disk_format="qcow2")
    place.carrier.ran.clear()
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        place.ensure(wanted, largest_gib=1)
    assert "dd" not in {argv[0] for argv in place.carrier.ran}
    place.clean()
    assert place.ensure(wanted, largest_gib=2).size_mib == 2048


def test_no_room_here_for_what_must_be_kept(place: Place) -> None:
    wanted = place.glance.add(b"disk" * 999, disk_format="qcow2")
    place.glance.records[wanted]["size"] = 1 << 60
    says = "no room for the 1152921504606846976 bytes"
    refused(place, wanted, says, exception.ComputeResourcesUnavailable)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_nobody_waits_for_it_any_longer(
    place: Place, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Whoever brings it stops, with what it was told, be Glance slow or not."""
    monkeypatch.setattr(download, "ASK_SECONDS", 0.05)
    over = threading.Event()

    def pieces(data: bytes) -> Iterator[bytes]:
        yield data[:500]
        assert over.wait(SECONDS)

    def check() -> None:
        raise exception.UnexpectedDeletingTaskStateError(instance_uuid="", expected={}, actual={})

    place.glance.pieces = pieces
    wanted = place.glance.add(qcow2_files.made(b"disk" * 999), disk_format=form)
    try:
        with pytest.raises(exception.UnexpectedDeletingTaskStateError):
            place.ensure(wanted, check_wanted=check)
    finally:
        over.set()
    place.clean()
    place.glance.pieces = _pieces
    assert place.ensure(wanted).type == "zvol"


def test_one_that_waits_for_another_ones_import_may_leave(
    place: Place, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ASK_SECONDS", 0.05)
    over = threading.Event()
    place.carrier.before = functools.partial(_hold, over, place.images)
    wanted = place.glance.add(stream, STREAM)

    def check() -> None:
        raise exception.UnexpectedDeletingTaskStateError(instance_uuid="", expected={}, actual={})

    with futures.ThreadPoolExecutor() as pool:
        first = pool.submit(place.ensure, wanted)
        try:
            waits.until(lambda: place.images._flights, "an import")
            with pytest.raises(exception.UnexpectedDeletingTaskStateError):
                place.ensure(wanted, check_wanted=check)
        finally:
            over.set()
        assert first.result(SECONDS).type == "zone-dataset"


def test_how_far_it_has_come_is_logged(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.glance.pieces = lambda data: (
        data[start : start + MIB] for start in range(0, len(data), MIB)
    )
    wanted = place.glance.add(bytes(64 * MIB))
    with caplog.at_level("INFO", "nova_smartos.operations.download"):
        place.ensure(wanted)
    told = [line for line in caplog.messages if wanted in line and "have come" in line]
    assert told[-1] == f"Image {wanted}: 64 of 64 MiB have come"
    assert len(told) == 10


def test_without_a_key_no_signature_is_ours(
    place: Place, stream: bytes, key: Callable[[bytes, str], str]
) -> None:
    signed = {**STREAM, "smartos_signature": key(stream, "zone-dataset")}
    place.options.image_signing_key_file = None
    place.restart()
    wanted = place.glance.add(stream, signed, owner="a" * 32)
    refused(place, wanted, "not ours over these bytes", exception.ImageUnacceptable)


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


@pytest.fixture
def based(place: Place, stream: bytes) -> tuple[str, bytes]:
    """An image in Glance, and what differs from it in a dataset that was made of it."""
    origin = place.glance.add(stream, STREAM)
    snapshot = f"zones/{place.ensure(origin).uuid}@final"
    zfs, name = place.node.zfs, f"zones/nst-{uuid.uuid4()}"
    zfs.clone(snapshot, name)
    try:
        (place.emulated.directory / "root" / name / "word").write_text("different")
        zfs.snapshot(f"{name}@a")
        with zfs.send(f"{name}@a", base=snapshot) as sent:
            return origin, sent.read()
    finally:
        zfs.destroy(name, recursive=True)


def test_a_stream_of_what_differs_comes_after_its_origin(
    place: Place, based: tuple[str, bytes]
) -> None:
    origin, data = based
    # by an operator, of which nobody tells
    place.node.imgadm.delete(place.ensure(origin).uuid)
    wanted = place.glance.add(data, {**STREAM, "smartos_image_origin": origin})
    made = place.ensure(wanted)
    assert place.glance.downloads == [origin, origin, wanted]
    first = place.ensure(origin).uuid
    assert place.node.imgadm.get(made.uuid).manifest.origin == first
    assert place.node.zfs.get(f"zones/{made.uuid}", "origin")["origin"] == f"zones/{first}@final"
    told = place.emulated.directory / "root/zones" / made.uuid / "word"
    assert told.read_text() == "different"
    place.clean()


def test_an_origin_that_is_there_twice_is_one(
    place: Place, stream: bytes, based: tuple[str, bytes]
) -> None:
    _, data = based
    twin = place.glance.add(stream, STREAM)
    wanted = place.glance.add(data, {**STREAM, "smartos_image_origin": twin})
    made = place.ensure(wanted)
    assert place.node.imgadm.get(made.uuid).manifest.origin == place.ensure(twin).uuid


def test_an_origin_that_is_not_right(
    place: Place, stream: bytes, based: tuple[str, bytes], tmp_path: pathlib.Path
) -> None:
    origin, data = based
    key = "smartos_image_origin"

    def refuses(properties: dict[str, str], says: str) -> None:
        wanted = place.glance.add(data, {**STREAM, **properties})
        refused(place, wanted, says, exception.ImageUnacceptable)

    # whose origin the node has, but which does not say so
    refuses({}, "its stream is not what smartos_image_origin says: None")
    other = place.glance.add(small_images.stream(place.emulated, tmp_path, "zone")[1], STREAM)
    place.ensure(other)
    refuses({key: other}, "is not what smartos_image_origin says")
    lost = str(uuid.uuid4())
    refuses({key: lost}, f"Glance has no image {lost}, its origin, for its user")
    refuses({key: place.glance.add(b"disk" * 999)}, "is no whole ZFS stream of a zone-dataset")
    second = place.glance.add(data, {**STREAM, key: origin})
    refuses({key: second}, "is no whole ZFS stream of a zone-dataset")
    for each in place.node.imgadm.list():
        place.node.imgadm.delete(each.manifest.uuid)
    refuses({}, "local origin for clone .* does not exist")


def test_a_stream_that_cannot_be_looked_at_does_not_stay(place: Place, stream: bytes) -> None:
    def spoil(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("zfs", "get"):
            raise errors.OutcomeUnknown("the connection broke")

    place.carrier.before = spoil
    refused(place, place.glance.add(stream, STREAM), "the connection broke", errors.OutcomeUnknown)


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


def test_killed_while_a_tree_is_unpacked(place: Place) -> None:
    wanted = place.glance.add(small_images.tree({"etc/motd": b"hello"}), TAR)

    def kill(argv: tuple[str, ...]) -> None:
        if argv[0] == "gtar":
            raise Killed

    place.carrier.after = kill
    with pytest.raises(Killed):
        place.ensure(wanted)
    place.restart()
    place.clean()
    assert place.ensure(wanted).type == "lx-dataset"


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
    for name in (f"image-{ours}-0a1b2c3d", f"moving-{ours}-0a1b2c3d.json"):
        place.node.files.write(name, io.BytesIO(b"x"))
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


def test_what_another_nova_compute_brings_is_left_to_it(place: Place) -> None:
    """A server moves here with its image, and the one who brings that has long to go."""
    uuid_ = str(uuid.uuid4())
    name, partial = f"moving-{uuid_}-0a1b2c3d", f"zones/{uuid_}-partial"
    place.node.files.write(name, io.BytesIO(b"x"))
    place.node.zfs.create(partial)
    place.images.expire(0)
    assert place.node.files.list() == [name]
    assert partial in place.datasets()
    place.restart()
    place.clean()


def test_what_nobody_has_looked_at_is_not_used_later(place: Place, stream: bytes) -> None:
    """A process was killed when imgadm had installed a stream that is not what it says."""
    wanted = place.glance.add(stream, {"smartos_image_type": "zvol", "smartos_image_size": "64"})
    uuid_ = manifest.wanted(*place.glance.asked(wanted)).uuid
    killed = False

    def kill(argv: tuple[str, ...]) -> None:
        nonlocal killed
        killed = killed or argv[:2] == ("zfs", "get") and uuid_ in argv[-1]
        if killed:
            raise Killed

    place.carrier.before = kill
    with pytest.raises(Killed):
        place.ensure(wanted)
    place.carrier.before = lambda argv: None
    assert uuid_ in {each.manifest.uuid for each in place.node.imgadm.list()}
    place.restart()
    with pytest.raises(exception.ImageUnacceptable, match="its stream holds a filesystem"):
        place.ensure(wanted)
    assert uuid_ not in {each.manifest.uuid for each in place.node.imgadm.list()}
    place.clean()


def test_what_is_used_is_trusted(place: Place, stream: bytes) -> None:
    """Its files could not be removed, and then servers were made of it."""
    used = place.ensure(place.glance.add(stream, STREAM)).uuid
    unused = place.ensure(place.glance.add(stream, STREAM)).uuid
    for each in (used, unused):
        place.node.files.write(f"image-{each}-0a1b2c3d.zfs", io.BytesIO(b"x"))
    clone = f"zones/{uuid.uuid4()}"
    place.node.zfs.clone(f"zones/{used}@final", clone)
    try:
        place.restart()
        known = {each.manifest.uuid for each in place.node.imgadm.list()}
        assert used in known and unused not in known
        place.clean()
    finally:
        place.node.zfs.destroy(clone)


def test_another_imgadm_receives_the_image(place: Place, stream: bytes) -> None:
    """A server that moves here brings it at this moment; ours waits for imgadm's lock."""
    wanted = place.glance.add(stream, STREAM)
    partial = f"zones/{manifest.wanted(*place.glance.asked(wanted)).uuid}-partial"
    zfs = f"{place.emulated.tools}/zfs"
    other: list[subprocess.Popen[bytes]] = []

    def meddle(argv: tuple[str, ...]) -> None:
        if argv[:2] == ("zfs", "destroy") and partial in argv:
            pipe = subprocess.PIPE
            receiver = subprocess.Popen([zfs, "receive", partial], stdin=pipe, stderr=pipe)
            other.append(receiver)
            assert receiver.stdin is not None
            receiver.stdin.write(stream[: len(stream) // 2])
            receiver.stdin.flush()
            waits.until(lambda: "busy" in _refused(zfs, "destroy", partial))
        elif argv[:2] == ("imgadm", "install"):
            other[0].communicate(timeout=30)

    place.carrier.before = meddle
    made = place.ensure(wanted)
    assert f"zones/{made.uuid}-partial" == partial
    assert other[0].returncode != 0
    place.clean()


def _refused(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return done.stderr


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
