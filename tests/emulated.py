# SPDX-License-Identifier: Apache-2.0
"""An emulated node as a fixture: up for a test, gone afterwards."""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import fixtures

SECONDS = 120


class EmulatedNode(fixtures.Fixture):
    """A node of its own: in a temporary folder, or in one that is given, where it stays up."""

    directory: pathlib.Path

    def __init__(self, *options: str, stays_in: pathlib.Path | None = None) -> None:
        super().__init__()
        self._options = options
        self._stays_in = stays_in

    def _setUp(self) -> None:
        if self._stays_in is not None:
            self.directory = self._stays_in.resolve()
            self.command("up", str(self.directory), *self._options)
            return
        folder = tempfile.TemporaryDirectory(prefix="nst-")
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name) / "node"
        self.command("up", str(self.directory), *self._options)
        self.addCleanup(self.command, "down", str(self.directory))

    @property
    def tools(self) -> str:
        """The folder with the node's tools."""
        return str(self.directory / "bin")

    def command(self, *words: str) -> str:
        """Run smartos-emulator, which must succeed; its standard output."""
        return self._run(
            [sys.executable, "-c", "from smartos_emulator import cli; cli.main()", *words]
        )

    def facts(self) -> dict[str, Any]:
        """What `smartos-emulator status` says of the node."""
        facts: dict[str, Any] = json.loads(self.command("status", str(self.directory), "--json"))
        return facts

    def tool(self, name: str, *arguments: str, payload: str = "") -> str:
        """Run a tool of the node, which must succeed; its standard output."""
        return self._run([f"{self.tools}/{name}", *arguments], payload)

    def image(self, kind: str) -> str:
        """Install a small image; its uuid."""
        base = str(self.directory / kind)
        made = self.command("image", kind, f"nst-{kind}", "--output", base)
        self.tool("imgadm", "install", "-q", "-m", f"{base}.imgmanifest", "-f", f"{base}.zfs.gz")
        return made.strip()

    def _run(self, words: list[str], payload: str = "") -> str:
        done = subprocess.run(
            words, input=payload, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout
