# SPDX-License-Identifier: Apache-2.0
"""imgadm as a tool: what it lists, installs, deletes and says."""

import gzip
import hashlib
import io
import json
import lzma
import tarfile
import threading

import pytest

from smartos_emulator.imgadm import sample
from tests.unit.emulator import imgadm_node
from tests.unit.emulator.imgadm_node import OTHER, UUID, VM


@pytest.fixture
def bench(tmp_path):
    bench = imgadm_node.Bench(tmp_path)
    yield bench
    bench.node.storage.close()


def test_install_list_get_delete(bench):
    manifest = bench.sample()
    done = bench.install()
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"Installing image {UUID} (image@1.0.0)\nInstalled image {UUID} (image@1.0.0)\n"
    )
    assert bench.node.images.get(UUID) == {"manifest": manifest, "zpool": "zones"}
    assert bench.run("list").out == (
        "UUID                                  NAME   VERSION  OS       TYPE          PUB\n"
        f"{UUID}  image  1.0.0    smartos  zone-dataset  2026-03-12\n"
    )
    assert json.loads(bench.run("get", "-r", UUID).out)["children"] == {
        "snapshots": [f"zones/{UUID}@final"],
        "clones": [],
    }
    assert bench.run("delete", UUID).out == f"Deleted image {UUID}\n"
    assert bench.run("list").out == ""
    assert bench.run("delete", UUID).status == 3


def test_an_installed_image_is_skipped(bench):
    bench.installed()
    done = bench.install()
    assert (done.status, done.err) == (0, "")
    assert done.out == f"Image {UUID} (image 1.0.0) is already installed, skipping\n"


def test_a_volume_is_an_image_too(bench):
    bench.installed(kind="zvol", image_size=8)
    assert bench.node.storage.kind(f"zones/{UUID}") == "volume"
    assert bench.run("list", "-H", "-o", "type,image_size").out == "zvol  8\n"


@pytest.mark.parametrize("compression", ["none", "xz", "bzip2", "gzip"])
def test_every_compression(bench, compression):
    manifest, stream = sample.build("zone", "image", uuid=UUID)
    raw = gzip.decompress(stream)
    packers = {"none": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bzip2": _bzip2}
    _write(bench, manifest, packers[compression](raw), compression)
    assert bench.install().status == 0


def _bzip2(data):
    import bz2

    return bz2.compress(data[:50]) + bz2.compress(data[50:])


def _write(bench, manifest, data, compression, **fields):
    file = {"size": len(data), "sha1": hashlib.sha1(data).hexdigest(), "compression": compression}
    bench.write("image", {**manifest, "files": [file], **fields}, data)


def test_data_of_another_compression_is_no_stream(bench):
    manifest, stream = sample.build("zone", "image", uuid=UUID)
    _write(bench, manifest, stream, "xz")
    done = bench.install()
    assert (done.status, done.out) == (1, f"Installing image {UUID} (image@1.0.0)\n")
    assert done.err == (
        "Stderr from zfs receive: cannot receive: invalid stream (bad magic number)\n\n"
        "imgadm install: error (InternalError): zfs receive error while importing: exit code 1\n"
    )
    assert not bench.node.storage.exists(f"zones/{UUID}-partial")


def test_a_file_cut_short(bench):
    manifest, stream = sample.build("zone", "image", uuid=UUID)
    _write(bench, manifest, stream[:-40], "gzip")
    done = bench.install()
    assert done.status == 1
    assert "gzip: stdin: unexpected end of file\n" in done.err
    assert done.err.endswith(
        "error (UncompressionError): gzip uncompression error while importing: exit code 1\n"
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"files": [{"sha1": "0" * 40, "size": 0, "compression": "gzip"}]},
            'error (ManifestValidation): invalid manifest: files (invalid image "files": '
            'file missing "size" field)',
        ),
        ({"type": "vmdk", "spare": 1}, "error (ManifestValidation): invalid manifest: type (inva"),
        (
            {"requirements": {"min_platform": {"7.0": "20270101T000000Z"}}},
            "error (MinPlatform): current platform version, 7.0/20260312T000000Z, does not satisfy"
            ' requirements.min_platform={"7.0":"20270101T000000Z"}\n',
        ),
        (
            {"requirements": {"max_platform": {"6.5": "20270101T000000Z"}}},
            "error (MaxPlatform): current platform version, 7.0/20260312T000000Z, does not satisfy"
            ' requirements.max_platform={"6.5":"20270101T000000Z"}\n',
        ),
        ({"v": None}, 'error (InvalidManifest): manifest is invalid: manifest does not have a "v"'),
    ],
)
def test_manifests_that_install_refuses(bench, fields, text):
    bench.write("image", {**bench.sample(), **fields})
    done = bench.install()
    assert done.status == 1
    assert done.err.startswith(f"imgadm install: {text}")


@pytest.mark.parametrize("requirements", [{"7.0": "20260312T000000Z"}, {"6.5": "20270101T000000Z"}])
def test_a_platform_that_is_new_enough(bench, requirements):
    bench.write("image", {**bench.sample(), "requirements": {"min_platform": requirements}})
    assert bench.install().status == 0


def test_a_file_that_is_not_the_manifests(bench):
    manifest = bench.sample()
    size, sha1 = manifest["files"][0]["size"], manifest["files"][0]["sha1"]
    bench.write("size", {**manifest, "files": [{**manifest["files"][0], "size": 1}]})
    assert bench.install("size").err == (
        "imgadm install: error (DownloadError): image file size error: manifest says 1 bytes, "
        f"image.zfs.gz is {size} bytes\n"
    )
    bench.write("sha1", {**manifest, "files": [{**manifest["files"][0], "sha1": "f" * 40}]})
    assert bench.install("sha1").err == (
        "imgadm install: error (DownloadError): image file checksum (sha1) error: manifest says "
        f'"{"f" * 40}", image.zfs.gz is "{sha1}"\n'
    )


def test_a_manifest_without_files_aborts(bench):
    manifest = bench.sample()
    del manifest["files"]
    bench.write("image", manifest)
    done = bench.install()
    assert done.status == -6
    assert done.err.startswith("Uncaught TypeError: Cannot read property '0' of undefined\n")


def test_paths_and_documents_that_are_wrong(bench):
    bench.write("image", "{", b"")
    assert bench.install("no").err == (
        'imgadm install: error (Usage): manifest path does not exist: "no.json"\n'
    )
    assert bench.install("image", "no").err == (
        'imgadm install: error (Usage): file path does not exist: "no.zfs.gz"\n'
    )
    assert bench.install().err == (
        "imgadm install: error (InvalidManifest): manifest is invalid: Unexpected end of input\n"
    )
    bench.write("image", "null")
    assert bench.install().err == "imgadm install: error: Cannot read property 'uuid' of null\n"


def test_a_stream_of_two_snapshots_is_refused(bench):
    manifest = bench.sample()
    bench.installed("image")
    storage, name = bench.node.storage, f"zones/{UUID}"
    storage.snapshot(f"{name}@more")
    stream = io.BytesIO()
    storage.send(f"{name}@more", stream, replicate=True)
    _write(bench, manifest, stream.getvalue(), "none", uuid=OTHER)
    assert bench.install().err == (
        "imgadm install: error (UnexpectedNumberOfSnapshots): image "
        f'"{OTHER}" has an unexpected number of snapshots (2): @final, @more\n'
    )
    assert not storage.exists(f"zones/{OTHER}")


def test_the_snapshot_becomes_final(bench):
    manifest = bench.sample()
    bench.installed("image")
    storage = bench.node.storage
    storage.create("zones/source")
    storage.snapshot("zones/source@mine")
    stream = io.BytesIO()
    storage.send("zones/source@mine", stream)
    _write(bench, manifest, stream.getvalue(), "none", uuid=OTHER)
    assert bench.install().status == 0
    assert storage.exists(f"zones/{OTHER}@final")


def test_installs_of_one_image_at_a_time(bench):
    manifest = bench.sample()
    runs = []
    with bench.node.images.import_locks([UUID], print):
        thread = threading.Thread(target=lambda: runs.append(bench.install()))
        thread.start()
        thread.join(0.2)
        assert not runs
        bench.node.storage.create(f"zones/{UUID}")
        bench.node.images.database.save("zones", manifest)
    thread.join(30)
    assert runs[0].status == 0
    assert runs[0].out.splitlines()[1:] == [
        f"Waiting for image {UUID} import lock",
        f"Image {UUID} (image@1.0.0) was installed while waiting on lock",
    ]


def test_a_docker_layer(bench):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, text in (("etc/motd", b"hello\n"), ("etc/.wh.gone", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    manifest = {**bench.sample(), "type": "docker", "os": "linux"}
    _write(bench, manifest, gzip.compress(layer.getvalue()), "gzip")
    assert bench.install().status == 0
    root = bench.node.storage.directory(f"zones/{UUID}") / "root"
    assert (root / "etc/motd").read_text() == "hello\n"
    assert [path.name for path in (root / "etc").iterdir()] == ["motd"]
    assert bench.run("list").err == (
        "imgadm list: error: Cannot read property 'docker:id' of undefined\n"
    )


def _link(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        [tarfile.TarInfo("../../escaped")],
        [_link("out", "../../..", tarfile.SYMTYPE), tarfile.TarInfo("out/escaped")],
        [_link("secret", "../../../../books.json", tarfile.LNKTYPE)],
    ],
    ids=["dots", "symlink", "hardlink"],
)
def test_a_layer_does_not_leave_its_root(bench, members):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for member in members:
            archive.addfile(member)
    manifest = {**bench.sample(), "type": "docker", "os": "linux"}
    _write(bench, manifest, gzip.compress(layer.getvalue()), "gzip")
    done = bench.install()
    assert (done.status, "would be outside the image" in done.err) == (1, True)


def test_docker_images_as_docker_lists_them(bench):
    for uuid, tag in ((UUID, "latest"), (OTHER, "1.1")):
        tags = {"docker:id": "0123456789abcdef", "docker:repo": "r", f"docker:tag:{tag}": True}
        manifest = {"uuid": uuid, "type": "docker", "tags": tags, "published_at": "2026-01-01"}
        origin = {"origin": UUID} if uuid == OTHER else {}
        bench.node.storage.create(f"zones/{uuid}")
        bench.node.images.database.save("zones", {**manifest, **origin})
    assert bench.run("list", "--docker").out == (
        "UUID                                  REPOSITORY  TAG  IMAGE_ID      CREATED\n"
        f"{OTHER}  r           1.1  0123456789ab  2026-01-01\n"
    )


class TestDependents:
    """Images that something was cloned from."""

    def test_they_stay(self, bench):
        bench.installed()
        bench.node.add_vm(UUID)
        assert bench.run("delete", UUID).err == (
            f'imgadm delete: error (ImageHasDependentClones): image "{UUID}" has dependent '
            f"clones: zones/{VM}\n"
        )
        assert json.loads(bench.run("list", "-j").out)[0]["cloneNames"] == [f"zones/{VM}"]
        assert bench.run("vacuum", "-f").out == ""

    def test_vacuum_takes_the_rest(self, bench):
        bench.installed()
        assert bench.run("vacuum", "-f", "-n").out == (
            f"[dry-run] Deleted image {UUID} (image@1.0.0)\n"
        )
        assert bench.run("vacuum", "-f").out == f"Deleted image {UUID} (image@1.0.0)\n"
        assert bench.run("list", "-j").out == "[]\n"

    def test_vacuum_asks_a_terminal_only(self, bench):
        bench.installed()
        done = bench.run("vacuum", stdin=b"y\n")
        assert done.status == -6
        assert done.out.startswith("This will delete the following images:\n")


class TestList:
    """Columns, filters and order."""

    @pytest.fixture
    def two(self, bench):
        bench.installed("beta", uuid=UUID)
        bench.installed("alpha", kind="lx", uuid=OTHER, published_at="2026-01-01T00:00:00.500Z")
        return bench

    def test_sorted_by_date_and_name(self, two):
        assert two.run("list", "-H", "-o", "name,published").out == (
            "alpha  2026-01-01T00:00:00Z\nbeta   2026-03-12T00:00:00Z\n"
        )
        assert two.run("list", "-H", "-o", "name", "-s", "-name").out == "beta\nalpha\n"

    def test_unknown_columns_and_fields(self, two):
        assert (
            two.run("list", "-o", "nosuch,name").out
            == "NOSUCH  NAME\n-       alpha\n-       beta\n"
        )
        assert two.run("list", "nosuch=1").out == ""

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            (["name=alpha"], "alpha\n"),
            (["name=~a"], "alpha\nbeta\n"),
            (["public=true", "disabled=false"], "alpha\nbeta\n"),
            (["public=false"], ""),
            (["files.0.compression=gzip", "os=linux"], "alpha\n"),
            (["clones=0", "type=~zone"], "beta\n"),
        ],
    )
    def test_filters(self, two, filters, names):
        assert two.run("list", "-H", "-o", "name", *filters).out == names

    def test_bad_filters(self, two):
        assert two.run("list", "alpha").err == (
            'imgadm list: error (Usage): invalid filter: "alpha" (must be of the form '
            '"field=value")\n'
        )
        assert two.run("list", "size=~1").err.endswith("has no method 'indexOf'\n")

    def test_filters_leave_their_marks_on_json(self, two):
        document = json.loads(two.run("list", "-j", "name=beta").out)
        assert document[0]["manifest"]["pub"] == "2026-03-12"

    def test_an_image_that_imgadm_does_not_know(self, bench):
        bench.node.storage.create(f"zones/{UUID}")
        assert bench.run("list", "-H").out.split() == [UUID, "-", "-", "-", "-", "-"]
        assert bench.node.images.get(UUID) is None
        bench.node.storage.set(f"zones/{UUID}", "imgadm:ignore", "true")
        assert bench.run("list").out == ""


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["get", "x"], 1, 'imgadm get: error (InvalidUUID): invalid uuid: "x"\n'),
        (["get"], 1, 'imgadm get: error (Usage): incorrect number of args (0): ""\n'),
        (
            ["info", "-P", "tank", UUID],
            3,
            f'imgadm info: error (ImageNotInstalled): image "{UUID}" was not found on zpool '
            '"tank"\n',
        ),
        (["frob"], 1, 'imgadm frob: error (UnknownCommand): unknown command: "frob"\n'),
        (["-x"], 1, 'imgadm: error (Option): unknown option: "-x"\n'),
        (["list", "-xj"], 1, 'imgadm list: error (Option): unknown option: "-x" in "-xj" group\n'),
        (["list", "-o"], 1, 'imgadm list: error (Option): do not have enough args for "-o" opt'),
        (["list", "--json=1"], 1, 'imgadm list: error (Option): argument given to "--json" optio'),
        (["ancestry", "x"], 1, "imgadm ancestry: error: uuid (uuid) is required\n"),
        (["install"], 1, "imgadm install: error: -m <manifest> (string) is required\n"),
        (["create", UUID, "--max-origin-depth", "x"], 1, "imgadm create: error (Option): arg for"),
    ],
)
def test_command_lines_that_are_wrong(bench, arguments, status, text):
    done = bench.run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(text)


def test_help(bench):
    assert bench.run("--version").out == "imgadm 3.9.5\n"
    nothing = bench.run()
    assert (nothing.status, nothing.err) == (1, "")
    assert nothing.out.startswith("Manage SmartOS virtual machine images.\n\n")
    assert bench.run("help").out == nothing.out
    assert bench.run("list", "-h").out == bench.run("help", "list").out


def test_errors_as_json(bench):
    done = bench.run("-E", "get", UUID, REQ_ID="r1")
    record = json.loads(done.err)
    assert done.status == 3
    assert list(record) == [
        *("name", "req_id", "hostname", "pid", "level", "err", "msg", "time", "v"),
    ]
    assert record["req_id"] == "r1"
    assert record["err"]["code"] == "ImageNotInstalled"
    assert json.loads(bench.run("-E").err)["err"]["code"] == "NoCommand"


def test_verbose_logs(bench):
    lines = bench.run("-v", "get", "x").err.splitlines()
    assert json.loads(lines[0])["msg"] == "cli init"
    assert lines[-1] == 'imgadm get: error (InvalidUUID): InvalidUUIDError: invalid uuid: "x"'


def test_a_broken_configuration(bench):
    bench.run("list")
    bench.node.path("/var/imgadm/imgadm.conf").write_text("{")
    assert bench.run("list").err == (
        'imgadm: error (ConfigError): config file "/var/imgadm/imgadm.conf" is not valid JSON\n'
    )
