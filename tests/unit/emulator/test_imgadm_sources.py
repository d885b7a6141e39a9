# SPDX-License-Identifier: Apache-2.0
"""imgadm's sources: what is configured, and what an image repository on this machine offers."""

import hashlib
import http.server
import json
import threading

import pytest

from smartos_emulator.imgadm import sample, sources
from tests.unit.emulator import imgadm_node
from tests.unit.emulator.imgadm_node import OTHER, UUID, VM

NOWHERE = "Error: getaddrinfo EADDRINFO"


@pytest.fixture
def bench(tmp_path):
    bench = imgadm_node.Bench(tmp_path)
    yield bench
    bench.node.storage.close()


class Repository:
    """An image repository: manifests and files by uuid."""

    def __init__(self):
        self.manifests = {}
        self.files = {}
        repository = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(*repository.get(self.path.partition("?")[0]))

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(*repository.change(self.command, self.path, body))

            do_PUT = do_DELETE = do_POST

            def answer(self, status, body):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, name, uuid=UUID, **fields):
        manifest, data = sample.build("lx", name, uuid=uuid, **fields)
        self.manifests[uuid], self.files[uuid] = manifest, data
        return manifest

    def get(self, path):
        parts = path.split("/")[1:]
        if path == "/ping":
            return 200, {"ping": "pong", "imgapi": True}
        if path == "/images":
            return 200, list(self.manifests.values())
        if parts[-1] == "file" and parts[1] in self.files:
            return 200, self.files[parts[1]]
        if parts[1] in self.manifests:
            return 200, self.manifests[parts[1]]
        return 404, {"code": "ResourceNotFound", "message": f"{path} was not found"}

    def change(self, command, path, body):
        uuid, _, query = path.split("/")[2].partition("?")
        if command == "DELETE":
            return 200, self.manifests.pop(uuid)
        if command == "PUT":
            self.files[uuid] = body
            sha1 = hashlib.sha1(body).hexdigest()
            file = {"sha1": sha1, "size": len(body), "compression": "gzip"}
            self.manifests[uuid]["files"] = [file]
        elif query == "action=import":
            self.manifests[uuid] = {**json.loads(body), "state": "unactivated"}
        else:
            self.manifests[uuid]["state"] = "active"
        return 200, self.manifests[uuid]


@pytest.fixture
def repository(bench):
    repository = Repository()
    assert bench.run("sources", "-a", repository.url).status == 0
    assert bench.run("sources", "-d", "https://images.smartos.org").status == 0
    yield repository
    repository.close()


def test_sources_are_kept(bench):
    assert bench.run("sources").out == "https://images.smartos.org\n"
    added = bench.run("sources", "-f", "-a", "https://repo.invalid/", "-k")
    assert added.out == 'Added "imgapi" image source "https://repo.invalid/" (insecure)\n'
    again = bench.run("sources", "-f", "-a", "https://repo.invalid:443", "-k")
    assert again.out.startswith("Already have ")
    assert bench.run("sources", "-v").out == (
        "URL                         TYPE    INSECURE\n"
        "https://images.smartos.org  imgapi  -\n"
        "https://repo.invalid/       imgapi  true\n"
    )
    assert json.loads(bench.run("sources", "-j").out)[1] == {
        "url": "https://repo.invalid/",
        "type": "imgapi",
        "insecure": True,
    }
    unknown = bench.run("sources", "-d", "http://x")
    assert (unknown.status, unknown.out) == (0, 'Do not have image source "http://x", no change\n')
    assert bench.run("sources", "-d", "https://repo.invalid").status == 0
    assert bench.run("sources").out == "https://images.smartos.org\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["x"], "error (Usage): unexpected args: x\n"),
        (["-c", "-e"], 'error (Usage): cannot specify more than one of "-a", "-d", "-e", and'),
        (["-a", "x", "-t", "ftp"], "error: format is not defined\n"),
        (["-a", "http://10.9.8.7"], "error (SourcePing): unexpected ping error with"),
    ],
)
def test_sources_refuses(bench, arguments, text):
    done = bench.run("sources", *arguments)
    assert done.status == 1
    assert done.err.startswith(f"imgadm sources: {text}")


def test_no_network(bench):
    assert bench.run("avail").err == (
        f"imgadm avail: error (ClientError): https://images.smartos.org: {NOWHERE}\n"
    )
    assert bench.run("import", UUID).err == (
        "imgadm import: error (EADDRINFO): getaddrinfo EADDRINFO\n"
    )
    bench.run("sources", "-f", "-a", "https://x.invalid/datasets", "-t", "dsapi")
    assert bench.run("avail").err == (
        "imgadm avail: error (MultiError): multiple (2) errors\n"
        f"    error (ClientError): https://x.invalid/datasets: {NOWHERE}\n"
        f"    error (ClientError): https://images.smartos.org: {NOWHERE}\n"
    )
    assert 'dsapi   false  WError: unexpected ping error with "dsapi"' in (
        bench.run("sources", "-c").out
    )


def test_no_sources(bench):
    bench.run("sources", "-d", "https://images.smartos.org")
    assert bench.run("show", UUID).err == (
        "imgadm show: error (NoSources): imgadm has no configured sources\n"
    )
    assert bench.run("avail").err == "imgadm avail: error: imagesInfo ([object]) required\n"


def test_what_is_offered(bench, repository):
    manifest = repository.add("debian")
    assert bench.run("avail", "-H", "-o", "name,source").out == f"debian  {repository.url}\n"
    assert json.loads(bench.run("show", UUID).out) == manifest
    assert bench.run("show", OTHER).err == (
        f'imgadm show: error (ImageNotFound): image "{OTHER}" was not found\n'
    )
    assert bench.run("sources", "-c").out.splitlines()[1].endswith("  imgapi  true  -")


def test_import(bench, repository):
    repository.add("debian")
    done = bench.run("import", UUID)
    assert (done.status, done.err) == (0, "")
    size = sources_size(repository)
    assert done.out.splitlines() == [
        f'Importing {UUID} (debian@1.0.0) from "{repository.url}"',
        f"Gather image {UUID} ancestry",
        f"Must download and install 1 image ({size})",
        f"Downloaded image {UUID} ({size})",
        f"Imported image {UUID} (debian@1.0.0)",
    ]
    assert bench.node.images.get(UUID)["source"] == repository.url
    assert bench.run("import", UUID).out == (
        f"Image {UUID} (debian 1.0.0) is already installed, skipping\n"
    )


def sources_size(repository):
    size = len(repository.files[UUID])
    return f"{size}.0 B" if size < 1024 else f"{int(size / 102.4) / 10} KiB"


def test_import_refuses(bench, repository):
    repository.add("debian", state="disabled")
    assert bench.run("import", UUID).err == (
        f'imgadm import: error (ActiveImageNotFound): an active image "{UUID}" was not found in '
        "image sources\n"
    )
    assert bench.run("import", "a b").err == (
        'imgadm import: error (Usage): invalid image-id arg: "a b"\n'
    )
    repository.add("debian", requirements={"max_platform": {"7.0": "20200101T000000Z"}})
    done = bench.run("import", UUID)
    assert done.out.endswith("Aborting (" + done.err.partition("): ")[2].strip() + ")\n")
    assert "error (MaxPlatform): " in done.err


def test_a_damaged_download(bench, repository):
    repository.add("debian")
    repository.files[UUID] = repository.files[UUID][:-1] + b"?"
    done = bench.run("import", UUID)
    assert done.status == 1
    assert f"error (DownloadError): image {UUID} file checksum (sha1) error: expected" in done.err
    assert not list(bench.node.path("/var/tmp/.imgadm-downloads").iterdir())


def test_origins_come_first(bench, repository):
    repository.add("debian")
    assert bench.run("import", UUID).status == 0
    bench.node.add_vm(UUID, brand="lx")
    made = bench.run(
        "create", "-i", "-c", "gzip", VM, "name=inc", "version=2", "-p", repository.url
    )
    assert made.status == 0, made.err
    assert made.out.endswith(f" to {repository.url}\n")
    (top,) = set(repository.manifests) - {UUID}
    bench.node.storage.destroy(f"zones/{VM}")
    bench.node.vms.records.clear()
    assert bench.run("delete", UUID).status == 0
    done = bench.run("import", top, "-S", repository.url)
    assert done.status == 0, done.err
    lines = [line.split()[0:3] for line in done.out.splitlines() if line.startswith("Imported")]
    assert lines == [["Imported", "image", UUID], ["Imported", "image", top]]


def test_publish(bench, repository):
    manifest = bench.sample()
    done = bench.run("publish", "-m", "image.json", "-f", "image.zfs.gz", repository.url)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"Imported image {UUID} (image, 1.0.0, state=unactivated)",
        f'Added file "image.zfs.gz" (compression "gzip") to image {UUID}',
        f"Activated image {UUID}",
        f"Successfully published image {UUID} to {repository.url}",
    ]
    manifest["files"][0]["sha1"] = "0" * 40
    bench.write("image", {**manifest, "uuid": OTHER})
    done = bench.run("publish", "-m", "image.json", "-f", "image.zfs.gz", repository.url)
    assert "error (UploadError): sha1 expected to be 000" in done.err
    assert OTHER not in repository.manifests


def test_update(bench, repository):
    repository.add("debian")
    bench.run("import", UUID)
    assert bench.run("update").out == ""
    repository.manifests[UUID].update(
        version="2.0", requirements={"brand": "lx", "ssh_key": True}, description="d"
    )
    change = f'Updated 3 manifest fields for image {UUID} from "{repository.url}": '
    assert bench.run("update", "-n").out == change + "version, description, requirements.ssh_key\n"
    assert bench.run("update", UUID).status == 0
    assert bench.node.images.get(UUID)["manifest"]["version"] == "2.0"
    bench.node.images.database.delete("zones", UUID)
    storage = bench.node.storage
    storage.rename(f"zones/{UUID}@final", f"zones/{UUID}@first")
    guid = storage.get(f"zones/{UUID}@first", "guid")
    repository.manifests[UUID]["files"][0]["dataset_guid"] = guid
    assert bench.run("update").out == (
        f'Added manifest info for image {UUID} from "{repository.url}"\n'
        f"Renamed image {UUID} original snapshot from zones/{UUID}@first to zones/{UUID}@final\n"
    )
    repository.manifests.clear()
    assert bench.run("update").out == (
        f"warning: Could not find image {UUID} in image sources (skipping)\n"
    )
    assert bench.run("update", OTHER).err == (
        "imgadm update: error (Usage): no installed image with the given UUID(s): " + OTHER + "\n"
    )


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("example.com", "http://example.com"),
        ("https://Example.com:443/", "https://example.com"),
        ("http://example.com:8080/a/", "http://example.com:8080/a"),
        ("http://example.com/?channel=dev", "http://example.com?channel=dev"),
    ],
)
def test_normal_urls(url, normal):
    assert sources.normal_url(url) == normal
