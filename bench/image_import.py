# SPDX-License-Identifier: Apache-2.0
"""What an image of 1 GiB costs on its way from Glance to the node, through SSH.

Beside it stands `ssh cat` of the same bytes to the same disk. The way ends when the bytes lie on
the node, verified, and imgadm begins: how fast an emulated imgadm installs them says nothing of a
real one. A raw disk goes there as a disk, and once more there and back as the ZFS stream that
imgadm takes. Glance is a file on this machine, and sends no faster than it is read.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types
import typing
import uuid

from bench import nodes, report, transport

MIB = 1 << 20
SIZE_MIB = 1024
#: What has a bound is measured more than once.
ROUNDS = {"zfs": 5, "raw": 1}
_CHUNK = 64 * 1024
_PROJECT = "9" * 32
_ZFS = {"smartos_image_type": "zone-dataset"}


def run(found: report.Report) -> None:
    """Import each kind in a process of its own, so that its memory is only its own."""
    port = transport.free_port()
    with nodes.up("--ssh", f"127.0.0.1:{port}") as directory:
        reached = json.loads(nodes.run([nodes.EMULATOR, "status", str(directory), "--json"]))["ssh"]
        files = {"raw": _disk(directory), "zfs": _stream(directory)}
        growths = []
        for kind, file in files.items():
            cats, ways, afters = [], [], []
            for _ in range(ROUNDS[kind]):
                cats.append(_cat(reached, file, directory))
                words = [sys.executable, "-m", "bench.image_import", kind, str(file)]
                seen = _apart([*words, json.dumps(reached)])
                ways.append(seen["seconds"])
                afters.append(seen["after"])
                growths.append(seen["growth_mib"])
            found.series[f"ssh cat of the {kind} image (s)"] = cats
            found.series[f"import of the {kind} image (s)"] = ways
            # of what was measured one after the other, so that a busy moment counts for both
            ratio = statistics.median(cat / way for cat, way in zip(cats, ways, strict=True))
            rate = file.stat().st_size / MIB / statistics.median(ways)
            if kind == "zfs":
                meaning = "speed of a ZFS stream's import, of that of ssh cat"
                found.figure("ratio_to_ssh_cat", ratio, meaning, ">= 0.7")
                meaning = "seconds of it in which the emulated node counts what dd wrote, not cat"
                found.figure("emulated_accounts_s", statistics.median(afters), meaning)
            else:
                meaning = "the same for a raw disk, which goes there, back and there again"
                found.figure("raw_ratio_to_ssh_cat", ratio, meaning)
            found.figure(f"{kind}_mib_per_second", rate, f"speed of the import, {kind}")
        meaning = "MiB by which the process grows, at most, while 1 GiB goes through it"
        found.figure("rss_growth_mib", max(growths), meaning, "<= 64")


def _apart(words: list[str]) -> dict[str, float]:
    done = subprocess.run(words, capture_output=True, check=False, timeout=nodes.SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


class _Glance:
    """A Glance with one image in it: a file."""

    def __init__(self, file: pathlib.Path, properties: typing.Mapping[str, str]) -> None:
        self._file = file
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha512").hexdigest()
        self.record: dict[str, typing.Any] = {
            "id": str(uuid.uuid4()),
            "name": "nst",
            "status": "active",
            "size": file.stat().st_size,
            "checksum": None,
            "os_hash_algo": "sha512",
            "os_hash_value": digest,
            "owner": _PROJECT,
            "disk_format": "raw",
            "container_format": "bare",
            "properties": dict(properties),
        }

    def get(self, context: object, image_id: str, show_deleted: bool = True) -> object:
        return self.record

    def download(
        self, context: object, image_id: str, data: typing.Any = None, trusted_certs: object = None
    ) -> None:
        with self._file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                data.write(chunk)


class _Timed:
    """A transport that notes when imgadm begins, and how long the node needs after all bytes."""

    def __init__(self, carrier: typing.Any) -> None:
        self._carrier = carrier
        self.began = self.after = self._closed = 0.0

    def run(self, command: typing.Any) -> typing.Any:
        if command.argv[:2] == ("imgadm", "install"):
            self.began = time.perf_counter()
        return self._carrier.run(command)

    @contextlib.contextmanager
    def stream(self, command: typing.Any) -> typing.Iterator[typing.Any]:
        with self._carrier.stream(command) as process:
            close = process.close_stdin

            def note() -> None:
                self._closed = time.perf_counter()
                close()

            process.close_stdin = note
            yield process
            self.after += time.perf_counter() - self._closed

    def close(self) -> None:
        self._carrier.close()


def _import(kind: str, file: pathlib.Path, reached: dict[str, str | int]) -> dict[str, float]:
    from nova import context
    from nova.objects import image_meta as image_metas

    from nova_smartos.operations import image
    from nova_smartos.smartos import node

    glance = _Glance(file, _ZFS if kind == "zfs" else {})
    options = types.SimpleNamespace(
        conversion_directory=str(file.parent),
        image_server=None,
        image_signing_key_file=None,
        staging_quota_gb=10,
        stream_idle_timeout=300,
        trusted_image_owners=[_PROJECT],
    )
    timed = _Timed(transport.reached("ssh", reached))
    gz = node.Node(timed)
    images = image.Images(gz, options, glance_api=glance)
    images.start()
    meta = image_metas.ImageMeta.from_dict(
        {key: glance.record[key] for key in ("id", "disk_format", "container_format")}
    )
    before, start = transport.peak_mib(), time.perf_counter()
    made = images.ensure(context.get_admin_context(), meta, glance.record["properties"])
    growth = transport.peak_mib() - before
    gz.imgadm.delete(made.uuid)
    gz.close()
    return {"seconds": timed.began - start, "after": timed.after, "growth_mib": growth}


def _cat(reached: dict[str, str | int], file: pathlib.Path, directory: pathlib.Path) -> float:
    target = directory / "root/zones/nst-cat"
    command = [
        "ssh", "-F", "none", "-p", str(reached["port"]), "-i", str(reached["identity"]),
        "-o", f"UserKnownHostsFile={reached['known_hosts']}", "-o", "BatchMode=yes",
        f"{reached['user']}@{reached['host']}", f"cat > {target}",
    ]  # fmt: skip
    with file.open("rb") as opened:
        start = time.perf_counter()
        subprocess.run(command, stdin=opened, check=True, timeout=nodes.SECONDS)
        seconds = time.perf_counter() - start
    if target.stat().st_size != file.stat().st_size:
        raise RuntimeError("ssh cat has not brought everything")
    target.unlink()
    return seconds


def _disk(directory: pathlib.Path) -> pathlib.Path:
    """1 GiB that neither compresses nor is zero."""
    file = directory / "disk.raw"
    block = os.urandom(MIB)
    with file.open("wb") as opened:
        for number in range(SIZE_MIB):
            opened.write(number.to_bytes(8, "big") + block[8:])
    return file


def _stream(directory: pathlib.Path) -> pathlib.Path:
    """The ZFS stream of a zone's files, with 1 GiB in them."""
    name, file = "zones/nst-image", directory / "zone.zfs"
    nodes.run([nodes.tool(directory, "zfs"), "create", name])
    (directory / "root" / name / "root").mkdir()
    with (directory / "disk.raw").open("rb") as opened:
        words = [nodes.tool(directory, "dd"), f"of=/{name}/root/data", "bs=1048576"]
        subprocess.run(words, stdin=opened, check=True, capture_output=True, timeout=nodes.SECONDS)
    nodes.run([nodes.tool(directory, "zfs"), "snapshot", f"{name}@final"])
    with file.open("wb") as target:
        words = [nodes.tool(directory, "zfs"), "send", f"{name}@final"]
        subprocess.run(words, stdout=target, check=True, timeout=nodes.SECONDS)
    nodes.run([nodes.tool(directory, "zfs"), "destroy", "-r", name])
    return file


if __name__ == "__main__":
    print(json.dumps(_import(sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]))))
