# SPDX-License-Identifier: Apache-2.0
"""One program's run in a simulated zone: its streams, its files, how it fails."""

import dataclasses
import os
import pathlib
import typing

from smartos_emulator import counted, zoneroot, zones

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

_CHUNK = 1 << 17


class Failed(Exception):
    """A program ends with a status, having said why on stderr."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclasses.dataclass
class Process:
    """One program's run in a zone."""

    node: "node_module.Node"
    zone: "zones.Zone"
    root: zoneroot.Root
    argv: list[str]
    stdin: typing.BinaryIO
    stdout: typing.BinaryIO
    stderr: typing.BinaryIO

    @property
    def name(self) -> str:
        return self.argv[0]

    def out(self, text: str) -> None:
        self.stdout.write(text.encode("utf-8", "surrogateescape"))

    def vm(self) -> Vm:
        return self.node.vms.get(self.zone.uuid) or {}

    def dataset(self) -> str:
        return self.zone.path.lstrip("/")

    def charge(self) -> None:
        """Account for what was written; a full dataset is an OSError."""
        self.node.storage.charge(self.dataset())


def complain(process: Process, text: str) -> None:
    process.stderr.write(f"{text}\n".encode("utf-8", "surrogateescape"))


def split_words(process: Process, letters: str) -> tuple[set[str], list[str]]:
    """The flags and the operands of a program."""
    flags: set[str] = set()
    words = process.argv[1:]
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        for letter in word[1:]:
            if letter not in letters:
                raise Failed(f"illegal option -- {letter}", 2)
            flags.add(letter)
    return flags, words


def copy(source: typing.BinaryIO, *targets: typing.BinaryIO) -> None:
    while chunk := source.read(_CHUNK):
        for target in targets:
            target.write(chunk)


def create(process: Process, path: str, mode: str = "wb") -> typing.BinaryIO:
    if path == "/dev/null":
        return typing.cast(typing.BinaryIO, pathlib.Path(os.devnull).open(mode))
    file = typing.cast(typing.BinaryIO, process.root.host(path, write=True).open(mode))
    counting = counted.File(process.node.storage, process.dataset(), file)
    return typing.cast(typing.BinaryIO, counting)


def source(process: Process, path: str) -> typing.BinaryIO:
    devices = {"/dev/zero": "/dev/zero", "/dev/urandom": "/dev/urandom", "/dev/null": os.devnull}
    host = pathlib.Path(devices[path]) if path in devices else process.root.host(path)
    return typing.cast(typing.BinaryIO, host.open("rb"))


def shown(process: Process, error: OSError) -> str:
    """The file an error is about, as the zone names it."""
    if error.filename is None or error.filename == process.dataset():
        return ""
    path = str(error.filename)
    inside = path.removeprefix(str(process.root.top))
    return f"{inside or '/'}: "
