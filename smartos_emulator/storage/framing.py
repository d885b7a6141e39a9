# SPDX-License-Identifier: Apache-2.0
"""The send stream's frame: records with a running checksum, and the resume token."""

import json
import struct
import typing
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from smartos_emulator.storage import errors

BLOCK = 128 << 10
_HEAD = struct.Struct(">cII")
_OFFSET = struct.Struct(">Q")
_SPAN = struct.Struct(">QQ")
# The first record of a real stream: its type and length, a magic number, the version and kind, the
# time, the kind of the dataset, flags, the snapshot's number and the base's, the snapshot's name.
_START = struct.Struct("<IIQQQIIQQ256s")
_START_MAGIC = 0x2F5BACBAC
_PLAIN, _COMPOUND = 1, 2
_KINDS = {"filesystem": 2, "volume": 3}
_FLAG_CLONE = 1
_MAX_RECORD = 64 << 20

BEGIN, NODE, DATA, HOLE, REMOVE, STATUS, BOOKED, END = (
    b"B",
    b"N",
    b"D",
    b"H",
    b"X",
    b"S",
    b"A",
    b"E",
)


class Damaged(Exception):
    """The stream ended early or a checksum is wrong."""


class Writer:
    """Writes records to any binary file."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._sum = 0
        self.written = 0

    def begin(self, header: dict[str, Any]) -> None:
        """A real stream's first record, and ours, which says more."""
        self._sum = 0
        self._send(_start(header))
        self.document(BEGIN, header)

    def document(self, kind: bytes, value: dict[str, Any]) -> None:
        self.record(kind, json.dumps(value, separators=(",", ":")).encode())

    def data(self, offset: int, payload: bytes) -> None:
        self.record(DATA, _OFFSET.pack(offset) + payload)

    def hole(self, offset: int, size: int) -> None:
        self.record(HOLE, _SPAN.pack(offset, size))

    def record(self, kind: bytes, payload: bytes) -> None:
        self._sum = zlib.crc32(payload, zlib.crc32(kind, self._sum))
        self._send(_HEAD.pack(kind, len(payload), self._sum) + payload)

    def _send(self, data: bytes) -> None:
        self._out.write(data)
        self.written += len(data)


class Reader:
    """Reads exactly the stream's bytes, so that something else may follow it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sum = 0

    def header(self) -> dict[str, Any]:
        """The header of the stream that starts here."""
        start = self._some(_START.size)
        if len(start) < _START.size:
            raise errors.StorageError("cannot receive", "failed to read from stream")
        if _START.unpack(start)[2] != _START_MAGIC:
            raise errors.StorageError("cannot receive", "invalid stream (bad magic number)")
        self._sum = 0
        try:
            kind, payload = self.record()
        except Damaged:
            raise errors.StorageError("cannot receive", "failed to read from stream") from None
        if kind != BEGIN:
            raise errors.StorageError("cannot receive", "invalid stream (bad magic number)")
        return typing.cast(dict[str, Any], json.loads(payload))

    def record(self) -> tuple[bytes, bytes]:
        """(kind, payload); Damaged when it is not what the sender wrote."""
        head = self._some(_HEAD.size)
        if len(head) < _HEAD.size:
            raise Damaged
        kind, size, checksum = _HEAD.unpack(head)
        if size > _MAX_RECORD:
            raise Damaged
        payload = self._some(size)
        self._sum = zlib.crc32(payload, zlib.crc32(kind, self._sum))
        if len(payload) < size or checksum != self._sum:
            raise Damaged
        return kind, payload

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """The records up to the end of this stream."""
        while True:
            kind, payload = self.record()
            if kind == END:
                return
            yield kind, payload

    def skip(self) -> None:
        try:
            for _ in self.records():
                pass
        except Damaged:
            raise errors.StorageError("cannot receive", "failed to read from stream") from None

    def _some(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self._source.read(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _start(header: dict[str, Any]) -> bytes:
    """What zfs itself looks at: one snapshot, or several of which properties are told."""
    is_plain = "guid" in header and not header.get("says_properties")
    return _START.pack(
        0,
        0,
        _START_MAGIC,
        _PLAIN if is_plain else _COMPOUND,
        header.get("creation", 0),
        _KINDS.get(header.get("kind", ""), 0),
        _FLAG_CLONE if header.get("clone") else 0,
        header.get("guid", 0),
        header["from"] if "guid" in header else 0,
        header.get("to", "").encode()[:255],
    )


def offset(payload: bytes) -> tuple[int, memoryview]:
    """(offset, data) of a data record."""
    return _OFFSET.unpack_from(payload)[0], memoryview(payload)[_OFFSET.size :]


def span(payload: bytes) -> tuple[int, int]:
    start, size = _SPAN.unpack(payload)
    return start, size


def token(state: dict[str, Any]) -> str:
    """What `zfs send -t` takes to go on with an interrupted receive."""
    packed = json.dumps(state, separators=(",", ":")).encode()
    small = zlib.compress(packed)
    return f"1-{zlib.crc32(small):x}-{len(packed):x}-{small.hex()}"


def parse_token(text: str) -> dict[str, Any]:
    """The state in a token; StorageError in zfs's words."""
    doing = "cannot resume send"
    parts = text.split("-")
    try:
        version, checksum, size = (int(part, 16) for part in parts[:3])
        small = bytes.fromhex(parts[3])
    except (ValueError, IndexError):
        raise errors.StorageError(doing, "resume token is corrupt (invalid format)") from None
    if version != 1:
        raise errors.StorageError(doing, f"resume token is corrupt (invalid version {version})")
    if zlib.crc32(small) != checksum:
        raise errors.StorageError(doing, "resume token is corrupt (incorrect checksum)")
    packed = zlib.decompress(small)
    if len(packed) != size:
        raise errors.StorageError(doing, "resume token is corrupt (decompression failed)")
    return typing.cast(dict[str, Any], json.loads(packed))
