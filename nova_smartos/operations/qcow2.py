# SPDX-License-Identifier: Apache-2.0
"""A qcow2 file as the disk in it: what is allocated, in order, a piece at a time.

qemu-img would write the whole disk into a second file before a byte of it could leave, and is a
large program to run on a stranger's bytes. What is read here is the active layer of a file that
needs no other: a header, tables of two levels, clusters that are plain, compressed or zero.
oslo.utils has refused all else before (`Inspected`); what it does not look at is refused here.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from oslo_utils.imageutils import format_inspector

FORMAT = "qcow2"

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
_FEATURES_OFFSET = 72
_MAGIC = b"QFI\xfb"
# Incompatible features: that the reference counts may be wrong is nothing to us, who read none.
_DIRTY = 1
_CORRUPT = 2
_CLUSTER_BITS = range(9, 22)
#: Of a table's entry: where in the file; that it is compressed; that it reads as zeros.
_OFFSET = (1 << 56) - (1 << 9)
_COMPRESSED = 1 << 62
_ZERO = 1
_SECTOR = 512
# qcow2 compresses with a window of 4 KiB and no header of zlib's; a larger one does no harm.
_WINDOW_BITS = -15
#: Most that is read at once of a table, and of clusters that follow each other.
_PIECE = 1 << 20


class Wrong(Exception):
    """The file is not what it must be; str() says why."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What the beginning of the file says of the rest."""

    size_bytes: int
    cluster_bits: int
    l1_size: int
    l1_offset: int

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster // 8


class Inspected:
    """A source that oslo.utils looks at while it is read; verdict() says whether it is safe."""

    def __init__(self, source: Any) -> None:
        # all formats are tried: a file that is two things at once is neither
        self._wrapper = format_inspector.InspectWrapper(source, expected_format=FORMAT)

    def read(self, size: int = -1, /) -> bytes:
        try:
            data: bytes = self._wrapper.read(size)
        except format_inspector.ImageFormatError as error:
            raise Wrong(f"it is no {FORMAT}: {error}") from error
        return data

    def verdict(self) -> None:
        """Refuse what is not qcow2 alone, or has a backing file, a data file or the like."""
        self._wrapper.close()
        try:
            found = self._wrapper.format
            if str(found) != FORMAT or found is None:
                raise Wrong(f"it is no {FORMAT}, but {found}")
            found.safety_check()
        except format_inspector.SafetyCheckFailed as error:
            reasons = ", ".join(f"{name}: {each}" for name, each in error.failures.items())
            raise Wrong(f"it is no safe {FORMAT}: {reasons}") from error
        except format_inspector.ImageFormatError as error:
            raise Wrong(f"it is no {FORMAT} alone: {error}") from error


def header(file: BinaryIO) -> Header:
    """Read and check the header."""
    file.seek(0)
    start = file.read(_FEATURES_OFFSET + _FEATURES.size)
    if len(start) < _FEATURES_OFFSET + _FEATURES.size:
        raise Wrong("its header is cut off")
    magic, version, backing, _, bits, size, encryption, l1_size, l1_offset = _HEADER.unpack_from(
        start
    )[:9]
    features = _FEATURES.unpack_from(start, _FEATURES_OFFSET)[0] if version > 2 else 0
    if magic != _MAGIC or version not in (2, 3):
        raise Wrong("it is no qcow2 of version 2 or 3")
    if backing:
        raise Wrong("it has a backing file")
    if encryption:
        raise Wrong("it is encrypted")
    if features & _CORRUPT:
        raise Wrong("it is marked as corrupt")
    if features & ~_DIRTY:
        raise Wrong(
            f"it has features that are not supported ({features:#x}): a data file, zstd or "
            "extended tables"
        )
    if bits not in _CLUSTER_BITS:
        raise Wrong(f"its clusters have 2^{bits} bytes")
    found = Header(size, bits, l1_size, l1_offset)
    if not size:
        raise Wrong("its disk has no bytes")
    if l1_size * found.l2_entries * found.cluster < size:
        raise Wrong("its tables are smaller than its disk")
    return found


def pieces(file: BinaryIO, found: Header) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of what is allocated, ascending; all else reads as zeros."""
    end = file.seek(0, 2)
    span = found.l2_entries * found.cluster
    tables = -(-found.size_bytes // span)
    for index, entry in enumerate(_entries(file, end, found.l1_offset, tables)):
        table = entry & _OFFSET
        if table:
            start = index * span
            needed = -(-min(span, found.size_bytes - start) // found.cluster)
            yield from _clusters(file, end, found, start, table, needed)


def _clusters(
    file: BinaryIO, end: int, found: Header, start: int, table: int, needed: int
) -> Iterator[tuple[int, bytes]]:
    """What one table of the second level describes; clusters that follow each other in one go."""
    run = (0, 0, 0)
    for index, entry in enumerate(_entries(file, end, table, needed)):
        offset = start + index * found.cluster
        size = min(found.cluster, found.size_bytes - offset)
        host = 0 if entry & (_COMPRESSED | _ZERO) else entry & _OFFSET
        at, where, length = run
        if host and where + length == host and at + length == offset and length < _PIECE:
            run = (at, where, length + size)
            continue
        if length:
            yield at, _plain(file, end, where, length)
        run = (offset, host, size) if host else (0, 0, 0)
        if entry & _COMPRESSED:
            yield offset, _inflated(file, end, found, entry)[:size]
    at, where, length = run
    if length:
        yield at, _plain(file, end, where, length)


def _entries(file: BinaryIO, end: int, offset: int, count: int) -> Iterator[int]:
    """The entries of a table, which may be as large as the file says."""
    if offset % _SECTOR or offset + 8 * count > end:
        raise Wrong("one of its tables is not in the file")
    for done in range(0, 8 * count, _PIECE):
        file.seek(offset + done)
        data = file.read(min(_PIECE, 8 * count - done))
        yield from (entry for (entry,) in struct.iter_unpack(">Q", data))


def _inflated(file: BinaryIO, end: int, found: Header, entry: int) -> bytes:
    offset_bits = 62 - (found.cluster_bits - 8)
    offset = entry & ((1 << offset_bits) - 1)
    sectors = (entry & (_COMPRESSED - 1)) >> offset_bits
    if offset >= end:
        raise Wrong("one of its clusters is not in the file")
    file.seek(offset)
    packed = file.read((sectors + 1) * _SECTOR - offset % _SECTOR)
    try:
        data = zlib.decompressobj(_WINDOW_BITS).decompress(packed, found.cluster)
    except zlib.error as error:
        raise Wrong(f"one of its clusters cannot be decompressed: {error}") from error
    if len(data) != found.cluster:
        raise Wrong("one of its clusters is not whole")
    return data


def _plain(file: BinaryIO, end: int, offset: int, length: int) -> bytes:
    if offset >= end:
        raise Wrong("one of its clusters is not in the file")
    file.seek(offset)
    # the file may end within the last cluster: the rest of that was never written
    return file.read(length).ljust(length, b"\0")
