# SPDX-License-Identifier: Apache-2.0
"""Numbers as zfs reads and writes them: 1.50G, 10M, 128K."""

UNLIMITED = 2**64 - 1
_UNITS = "BKMGTPEZ"


def nice(number: int) -> str:
    """The short form, at most five characters: 0, 1K, 1.50G."""
    index, left = 0, number
    while left >= 1024:
        left //= 1024
        index += 1
    if index == 0:
        return str(number)
    unit = "KMGTPE"[index - 1]
    scale = 1 << (10 * index)
    if number % scale == 0:
        return f"{number // scale}{unit}"
    for digits in (2, 1, 0):
        text = f"{number / scale:.{digits}f}{unit}"
        if len(text) <= 5:
            return text
    return text


def parse(text: str) -> int:
    """A size such as 10g, 1.5T or 4096; ValueError carries zfs's reason."""
    if not text[:1] or text[0] not in "0123456789.":
        raise ValueError(f"bad numeric value '{text}'")
    end = 0
    while end < len(text) and text[end] in "0123456789":
        end += 1
    if end < len(text) and text[end] == ".":
        return _decimal(text, end)
    number = int(text[:end] or "0")
    shift = _shift(text[end:])
    if number << shift > UNLIMITED:
        raise ValueError("numeric value is too large")
    return number << shift


def _decimal(text: str, end: int) -> int:
    end += 1
    while end < len(text) and text[end] in "0123456789":
        end += 1
    digits = text[:end]
    number = 0.0 if digits == "." else float(digits)
    value = number * (1 << _shift(text[end:]))
    if value > UNLIMITED:
        raise ValueError("numeric value is too large")
    return int(value)


def _shift(suffix: str) -> int:
    if not suffix:
        return 0
    upper = suffix.upper()
    index = _UNITS.find(upper[0])
    if index < 0 or not (len(upper) == 1 or (index and upper[1:] in ("B", "IB"))):
        raise ValueError(f"invalid numeric suffix '{suffix}'")
    return 10 * index


def volume_reservation(volsize: int, volblocksize: int, copies: int = 1) -> int:
    """What a volume needs when every block is written: data, copies and indirect blocks."""
    blocks = volsize // volblocksize
    metadata = 7
    while blocks > 1:
        blocks = -(-blocks // 1024)
        metadata += blocks
    return volsize * copies + metadata * min(3, copies + 1) * 2**17
