# SPDX-License-Identifier: Apache-2.0
"""A disk's bytes on their way into a new volume: what is zero is not sent.

A new volume reads as zeros, so that an image's holes need neither the way nor room on the node.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from nova_smartos.smartos import node

#: What is written at once; disks have whole MiB.
BLOCK = 1 << 20
# Zeros of so many blocks are sent: to begin another command takes as long.
_SMALL_HOLE = 32
_ZEROS = bytes(BLOCK)


def raw(source: Any) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of all that a source has."""
    offset = 0
    while data := source.read(BLOCK):
        yield offset, data
        offset += len(data)


def write(gz: node.Node, dataset: str, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write (offset, bytes), ascending, into a volume that is new."""
    blocks = _blocks(pieces)
    following = next(blocks, None)
    while following is not None:
        run = _Run(following, blocks)
        gz.files.write_volume(dataset, run, offset_mib=following[0])
        following = run.following


def _blocks(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each whole block that is not zero."""
    current, block = 0, bytearray(BLOCK)
    for offset, data in pieces:
        view = memoryview(data)
        while view:
            number, start = divmod(offset, BLOCK)
            if number != current:
                if block != _ZEROS:
                    yield current, bytes(block)
                current, block = number, bytearray(BLOCK)
            part = view[: BLOCK - start]
            block[start : start + len(part)] = part
            view, offset = view[len(part) :], offset + len(part)
    if block != _ZEROS:
        yield current, bytes(block)


class _Run:
    """A source of the blocks that one command writes, up to a large hole; `following` is next."""

    def __init__(self, first: tuple[int, bytes], blocks: Iterator[tuple[int, bytes]]) -> None:
        self._blocks = blocks
        self._number = first[0]
        self._rest = memoryview(b"")
        self.following: tuple[int, bytes] | None = first

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = memoryview(self._next())
        end = len(self._rest) if size < 0 else size
        data, self._rest = bytes(self._rest[:end]), self._rest[end:]
        return data

    def _next(self) -> bytes:
        if self.following is None or self.following[0] - self._number > _SMALL_HOLE:
            return b""
        if self.following[0] > self._number:
            data = _ZEROS
        else:
            data = self.following[1]
            self.following = next(self._blocks, None)
        self._number += 1
        return data
