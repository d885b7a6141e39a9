# SPDX-License-Identifier: Apache-2.0
"""DES, for VNC's passwords alone (FIPS 46-3; RFC 6143, 7.2.2)."""

from collections.abc import Sequence

# Bits count from 1, the leftmost, as the standard's tables do.
_FIRST = [row - 8 * column for row in (58, 60, 62, 64, 57, 59, 61, 63) for column in range(8)]
_LAST = [_FIRST.index(bit) + 1 for bit in range(1, 65)]
_WIDENED = [(4 * group + bit - 1) % 32 + 1 for group in range(8) for bit in range(6)]
_MIXED = [
    *(16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10),
    *(2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25),
]
_KEY = [
    *(57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18),
    *(10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36),
    *(63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22),
    *(14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4),
]
_ROUND_KEY = [
    *(14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4),
    *(26, 8, 16, 7, 27, 20, 13, 2, 41, 52, 31, 37, 47, 55, 30, 40),
    *(51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32),
]
_STEPS = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1]
# a hexadecimal digit an entry, four rows a box
_BOXES = [
    "e4d12fb83a6c59070f74e2d1a6cb953841e8d62bfc973a50fc8249175b3ea06d",
    "f18e6b34972dc05a3d47f28ec01a69b50e7ba4d158c6932fd8a13f42b67c05e9",
    "a09e63f51dc7b428d709346a285ecbf1d6498f30b12c5ae71ad069874fe3b52c",
    "7de3069a1285bc4fd8b56f03472c1ae9a690cb7df13e52843f06a1d8945bc72e",
    "2c417ab6853fd0e9eb2c47d150fa3986421bad78f9c5630eb8c71e2d6f09a453",
    "c1af92680d34e75baf427c9561de0b389ef528c3704a1db6432c95fabe17608d",
    "4b2ef08d3c975a61d0b7491ae35c2f8614bdc37eaf6805926bd814a7950fe23c",
    "d2846fb1a93e50c71fd8a374c56b0e927b419ce206adf35821e74a8dfc90356b",
]


def vnc_response(password: str, challenge: bytes) -> bytes:
    """What a client that knows the password makes of a challenge."""
    key = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    # VNC takes the bits of each letter the other way round
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    return b"".join(encrypt(mirrored, challenge[at : at + 8]) for at in range(0, 16, 8))


def encrypt(key: bytes, block: bytes) -> bytes:
    """Encrypt eight bytes."""
    text = _picked(_bits(block), _FIRST)
    left, right = text[:32], text[32:]
    for round_key in _round_keys(key):
        left, right = right, _both(left, _scrambled(right, round_key))
    return int(_picked(right + left, _LAST), 2).to_bytes(8, "big")


def _round_keys(key: bytes) -> list[str]:
    whole = _picked(_bits(key), _KEY)
    left, right, found = whole[:28], whole[28:], []
    for steps in _STEPS:
        left, right = left[steps:] + left[:steps], right[steps:] + right[:steps]
        found.append(_picked(left + right, _ROUND_KEY))
    return found


def _scrambled(half: str, round_key: str) -> str:
    wide = _both(_picked(half, _WIDENED), round_key)
    boxed = ""
    for at, box in enumerate(_BOXES):
        bits = wide[6 * at : 6 * at + 6]
        entry = 16 * int(bits[0] + bits[5], 2) + int(bits[1:5], 2)
        boxed += f"{int(box[entry], 16):04b}"
    return _picked(boxed, _MIXED)


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def _both(one: str, other: str) -> str:
    return "".join("01"[a != b] for a, b in zip(one, other, strict=True))


def _picked(bits: str, places: Sequence[int]) -> str:
    return "".join(bits[place - 1] for place in places)
