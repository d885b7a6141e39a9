# SPDX-License-Identifier: Apache-2.0
"""What a send stream has to say of a snapshot's content, alone or against an older one."""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

from smartos_emulator.storage import content, framing

_COMPARE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do on the receiving side; data says that file data follows."""

    kind: bytes
    document: dict[str, Any]
    data: bool = False


def of_tree(new: pathlib.Path, old: pathlib.Path | None) -> list[Step]:
    """Removals, then files and folders, then the modes and times of folders."""
    before = dict(content.entries(str(old))) if old else {}
    links: dict[tuple[int, int], str] = {}
    gone: set[str] = set()
    nodes: list[Step] = []
    folders: list[Step] = [_status("", os.stat(new))]
    seen = set()
    for path, status in content.entries(str(new)):
        seen.add(path)
        was = before.get(path)
        if was is not None and stat.S_IFMT(was.st_mode) != stat.S_IFMT(status.st_mode):
            gone.add(path)
            was = None
        if stat.S_ISDIR(status.st_mode):
            folders.append(_status(path, status))
        if step := _node(new, old, path, status, was, links):
            nodes.append(step)
    gone |= before.keys() - seen
    removals = [Step(framing.REMOVE, {"p": path}) for path in sorted(gone, reverse=True)]
    return removals + nodes + folders


def _status(path: str, status: os.stat_result) -> Step:
    return Step(framing.STATUS, {"p": path, **_fields(status)})


def _fields(status: os.stat_result) -> dict[str, Any]:
    return {
        "m": stat.S_IMODE(status.st_mode),
        "u": status.st_uid,
        "g": status.st_gid,
        "t": status.st_mtime_ns,
    }


def _node(
    new: pathlib.Path,
    old: pathlib.Path | None,
    path: str,
    status: os.stat_result,
    was: os.stat_result | None,
    links: dict[tuple[int, int], str],
) -> Step | None:
    document = {"p": path, **_fields(status)}
    if stat.S_ISDIR(status.st_mode):
        return None if was else Step(framing.NODE, {**document, "k": "d"})
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(new / path)
        if was and old and os.readlink(old / path) == target:
            return None
        return Step(framing.NODE, {**document, "k": "l", "l": target})
    if stat.S_ISFIFO(status.st_mode):
        return None if was else Step(framing.NODE, {**document, "k": "p"})
    return _file(new, old, path, status, was, links)


def _file(
    new: pathlib.Path,
    old: pathlib.Path | None,
    path: str,
    status: os.stat_result,
    was: os.stat_result | None,
    links: dict[tuple[int, int], str],
) -> Step | None:
    document = {"p": path, **_fields(status)}
    linked = status.st_nlink > 1 or (was is not None and was.st_nlink > 1)
    if status.st_nlink > 1:
        identity = (status.st_dev, status.st_ino)
        if identity in links:
            return Step(framing.NODE, {**document, "k": "h", "l": links[identity]})
        links[identity] = path
    if was and old and not linked and _same_data(new / path, old / path, status, was):
        if _fields(was) == _fields(status):
            return None
        return Step(framing.STATUS, document)
    return Step(framing.NODE, {**document, "k": "f", "s": status.st_size}, data=True)


def _same_data(
    new: pathlib.Path, old: pathlib.Path, status: os.stat_result, was: os.stat_result
) -> bool:
    if status.st_size != was.st_size:
        return False
    with open(new, "rb", buffering=0) as one, open(old, "rb", buffering=0) as other:
        while block := one.read(_COMPARE):
            if block != other.read(_COMPARE):
                return False
    return True


def data(path: pathlib.Path, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of everything in the file that is not a hole, from start on."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for low, high in content.regions(file.fileno(), size):
            yield from _blocks(file.fileno(), max(low, start), high)


def _blocks(fd: int, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    while low < high:
        block = os.pread(fd, min(framing.BLOCK, high - low), low)
        if not block:
            return
        yield low, block
        low += len(block)


def of_volume(
    new: pathlib.Path, old: pathlib.Path, start: int
) -> Iterator[tuple[int, int, bytes | None]]:
    """(offset, size, bytes, or None for a hole) of every block that differs."""
    with open(new, "rb", buffering=0) as one, open(old, "rb", buffering=0) as other:
        for low, size in _touched(one.fileno(), other.fileno(), start):
            mine, theirs = _padded(one.fileno(), low, size), _padded(other.fileno(), low, size)
            if mine != theirs:
                yield low, size, mine if any(mine) else None


def _touched(one: int, other: int, start: int) -> Iterator[tuple[int, int]]:
    """Blocks with data in either file, each once, in order."""
    size = os.fstat(one).st_size
    blocks: set[int] = set()
    for fd in (one, other):
        for low, high in content.regions(fd, min(os.fstat(fd).st_size, size)):
            blocks.update(range(low // framing.BLOCK, -(-high // framing.BLOCK)))
    for block in sorted(blocks):
        low = block * framing.BLOCK
        if low >= start:
            yield low, min(framing.BLOCK, size - low)


def _padded(fd: int, low: int, size: int) -> bytes:
    return os.pread(fd, size, low).ljust(size, b"\0")
