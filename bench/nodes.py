# SPDX-License-Identifier: Apache-2.0
"""Emulated nodes for benchmarks: up in a folder of their own, gone afterwards."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import typing
import uuid

EMULATOR = str(pathlib.Path(sys.executable).with_name("smartos-emulator"))
SECONDS = 600


def run(words: list[str], payload: str = "") -> str:
    """Run a command that must succeed; what it printed on both streams."""
    done = subprocess.run(
        words, input=payload, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{words} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout + done.stderr


@contextlib.contextmanager
def up(*options: str) -> typing.Iterator[pathlib.Path]:
    """A node that is up, as the folder it is kept in."""
    with tempfile.TemporaryDirectory(prefix="nova-smartos-bench-") as folder:
        directory = pathlib.Path(folder) / "node"
        run([EMULATOR, "up", str(directory), *options])
        try:
            yield directory
        finally:
            run([EMULATOR, "down", str(directory)])


def tool(directory: pathlib.Path, name: str) -> str:
    """The path of a node's tool."""
    return str(directory / "bin" / name)


def install_image(directory: pathlib.Path, kind: str) -> str:
    """Install a small image; its uuid."""
    base = str(directory / f"{kind}-image")
    made = run([EMULATOR, "image", kind, kind, "--output", base])
    words = ["install", "-q", "-m", f"{base}.imgmanifest", "-f", f"{base}.zfs.gz"]
    run([tool(directory, "imgadm"), *words])
    return made.strip()


def create(directory: pathlib.Path, payload: dict[str, typing.Any]) -> str:
    """Create a VM; its uuid."""
    name = str(uuid.uuid4())
    run([tool(directory, "vmadm"), "create"], json.dumps({"uuid": name, **payload}))
    return name
