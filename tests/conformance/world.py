# SPDX-License-Identifier: Apache-2.0
"""The node under test and its tools, set up as recorded cases suppose."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
import typing

from tests import emulated

SECONDS = 120
SPEED = 200
_KIND_OF_TYPE = {"zone-dataset": "zone", "lx-dataset": "lx", "zvol": "zvol"}


@dataclasses.dataclass(frozen=True)
class Done:
    """How a run of a tool ended."""

    status: int
    stdout: str
    stderr: str


@dataclasses.dataclass(frozen=True)
class Difference:
    """A case that the node answers otherwise than the real tools did."""

    label: str
    reason: str


@dataclasses.dataclass
class Verdict:
    """What became of the cases of one kind."""

    kind: str
    cases: int
    differences: list[Difference]

    @property
    def agreement(self) -> float:
        return 100 * (1 - len(self.differences) / self.cases) if self.cases else 0.0


class World:
    """An emulated node with the images, tags and pools of environment.json."""

    def __init__(self, node: emulated.EmulatedNode, environment: dict[str, typing.Any]) -> None:
        self.node = node
        self.environment = environment
        self._folder = pathlib.Path(node.directory).parent
        self._streams: dict[tuple[str, int | None], bytes] = {}

    def run(self, tool: str, *words: str, document: typing.Any = None, raw: str = "") -> Done:
        """Run a tool, with `document` or `raw` on its standard input."""
        text = raw if document is None else json.dumps(document)
        done = subprocess.run(
            [f"{self.node.tools}/{tool}", *words],
            input=text.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
            cwd=self._folder,
        )
        stdout, stderr = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
        return Done(done.returncode, stdout, stderr)

    def must(self, tool: str, *words: str, document: typing.Any = None) -> Done:
        """Run a tool for its effect: a failure here is a fault of the set-up, not a difference."""
        done = self.run(tool, *words, document=document)
        if done.status != 0:
            raise RuntimeError(f"set-up failed: {tool} {' '.join(words)}: {done}")
        return done

    def write(self, name: str, text: str) -> None:
        """Put a file where the tools run."""
        (self._folder / name).write_text(text)

    def remove(self, name: str) -> None:
        """Have no such file where the tools run."""
        (self._folder / name).unlink(missing_ok=True)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Put a file where the tools run."""
        (self._folder / name).write_bytes(content)

    def install_images(self, pools: typing.Iterable[str]) -> None:
        """Install an image of ours for each manifest: same uuid and properties, other bytes."""
        for manifest in self.environment["images"].values():
            for pool in pools:
                self.install_image(manifest, pool)

    def install_image(self, manifest: dict[str, typing.Any], pool: str = "zones") -> None:
        """Install an image as `manifest` describes."""
        make = self._layer if manifest["type"] == "docker" else self._stream
        content = make(manifest)
        file = {"sha1": hashlib.sha1(content).hexdigest(), "size": len(content)}
        shown = {key: value for key, value in manifest.items() if key != "+source"}
        self.write_bytes("image.gz", content)
        self.write("image.json", json.dumps({**shown, "files": [{**file, "compression": "gzip"}]}))
        self.must("imgadm", "install", "-P", pool, "-m", "image.json", "-f", "image.gz")
        if source := manifest.get("+source"):
            self._came_from(manifest["uuid"], source)

    def _stream(self, manifest: dict[str, typing.Any]) -> bytes:
        kind, size = _KIND_OF_TYPE.get(manifest["type"], "zone"), manifest.get("image_size")
        if (kind, size) not in self._streams:
            base = str(self._folder / "sample")
            words = ["--size", str(size)] if size else []
            self.node.command("image", kind, "sample", *words, "--output", base)
            self._streams[kind, size] = pathlib.Path(f"{base}.zfs.gz").read_bytes()
        return self._streams[kind, size]

    def _layer(self, _manifest: dict[str, typing.Any]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("etc/passwd"))
        return buffer.getvalue()

    def _came_from(self, uuid: str, source: str) -> None:
        """Write where an image came from into imgadm's data base, as its import would have."""
        path = self.node.directory / "root/var/imgadm/images" / f"zones-{uuid}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))

    def vm(self, uuid: str) -> dict[str, typing.Any] | None:
        """The vm object, or None when there is no such VM."""
        done = self.run("vmadm", "get", uuid)
        return json.loads(done.stdout) if done.status == 0 else None

    def uuids(self) -> list[str]:
        return self.must("vmadm", "lookup").stdout.split()

    def fault(self, *words: str) -> None:
        """`smartos-emulator fault DIR WORDS…`."""
        self.node.command("fault", str(self.node.directory), *words)

    def remove_vm(self, uuid: str) -> None:
        """Delete a VM, protected or not."""
        if self.run("vmadm", "delete", uuid).status == 0:
            return
        protected = ("indestructible_zoneroot", "indestructible_delegated")
        self.must("vmadm", "update", uuid, document=dict.fromkeys(protected, False))
        self.must("vmadm", "delete", uuid)


@contextlib.contextmanager
def up(
    environment: dict[str, typing.Any], stays_in: pathlib.Path | None = None
) -> typing.Iterator[World]:
    """A node as environment.json says, with its images; gone afterwards unless it has a place."""
    words = ["--speed", str(SPEED), "--memory", "512G", "--pool-size", "16T"]
    for pool in environment["zpools"]:
        words += [] if pool == "zones" else ["--pool", f"{pool}=16T"]
    for tag, kind in environment["nic_tags"].items():
        overlay = kind.startswith("overlay")
        words += ["--overlay-rule", tag] if overlay else ["--nic-tag", tag]
    with emulated.EmulatedNode(*words, stays_in=stays_in) as node:
        world = World(node, environment)
        world.install_images(environment["zpools"])
        yield world


Case = dict[str, typing.Any]


def cases(data: pathlib.Path, name: str) -> list[Case]:
    """The recorded cases of one kind; none when the folder has no such file."""
    path = data / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def judge_all(
    kind: str, judged: list[Case], judge: typing.Callable[[Case], Difference | None]
) -> Verdict:
    """Judge cases that do not depend on each other, several at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(judge, judged))
    return Verdict(kind, len(judged), [difference for difference in found if difference])
