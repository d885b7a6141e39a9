# SPDX-License-Identifier: Apache-2.0
"""A FAT16 file system with a few files in its root, as `mkfs -F pcfs` and a mount would make it."""

import struct
from collections.abc import Mapping

SIZE_MIB = 16
_SECTOR = 512
_SECTORS = SIZE_MIB * 2**20 // _SECTOR
_CLUSTER = 4 * _SECTOR
_FAT_SECTORS = 32
_ROOT_ENTRIES = 512
_ENTRY = 32
_END = 0xFFFF
_LONG_NAME = 0x0F
_VOLUME = 0x08
_LETTERS = 13


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The whole file system; ValueError when the files do not fit."""
    table = [0xFFF8, _END]
    root = [_entry(label.upper().ljust(11)[:11].encode(), _VOLUME, 0, 0)]
    data = b""
    for number, (name, content) in enumerate(files.items(), 1):
        first = len(table) if content else 0
        clusters = -(-len(content) // _CLUSTER)
        table += [*range(first + 1, first + clusters), _END] if clusters else []
        data += content.ljust(clusters * _CLUSTER, b"\0")
        short = f"FILE{number:04}".ljust(11).encode()
        root += [*_long_name(name, short), _entry(short, 0, first, len(content))]
    fat = struct.pack(f"<{len(table)}H", *table).ljust(_FAT_SECTORS * _SECTOR, b"\0")
    folder = b"".join(root).ljust(_ROOT_ENTRIES * _ENTRY, b"\0")
    whole = _boot_sector(label) + fat + fat + folder + data
    size = _SECTORS * _SECTOR
    if len(fat) > _FAT_SECTORS * _SECTOR or len(whole) > size:
        raise ValueError("the files do not fit")
    return whole.ljust(size, b"\0")


def _boot_sector(label: str) -> bytes:
    head = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x3c\x90",
        b"illumos ",
        _SECTOR,
        _CLUSTER // _SECTOR,
        1,
        2,
        _ROOT_ENTRIES,
        _SECTORS,
        0xF8,
        _FAT_SECTORS,
        63,
        255,
        0,
        0,
    )
    name = label.upper().ljust(11)[:11].encode()
    head += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x5EED5EED, name, b"FAT16   ")
    return head.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _entry(short: bytes, kind: int, cluster: int, size: int) -> bytes:
    date = (2020 - 1980) << 9 | 1 << 5 | 1
    return struct.pack("<11sB10sHHHI", short, kind, b"\0" * 10, 0, date, cluster, size)


def _long_name(name: str, short: bytes) -> list[bytes]:
    """The entries before a file's own that tell its real name, the last part first."""
    text = name.encode("utf-16-le")
    if len(name) % _LETTERS:
        text = (text + b"\0\0").ljust(-(-len(name) // _LETTERS) * _LETTERS * 2, b"\xff")
    check = 0
    for byte in short:
        check = ((check & 1) << 7 | check >> 1) + byte & 0xFF
    parts = [text[at : at + 2 * _LETTERS] for at in range(0, len(text), 2 * _LETTERS)]
    made = []
    for number, part in enumerate(parts, 1):
        order = number | (0x40 if number == len(parts) else 0)
        made.append(
            struct.pack(
                "<B10sBBB12sH4s", order, part[:10], _LONG_NAME, 0, check, part[10:22], 0, part[22:]
            )
        )
    return made[::-1]
