# SPDX-License-Identifier: Apache-2.0
"""IP addresses: what fwadm accepts, how it orders and how it prints them."""

import ipaddress
import re


def is_ipv4(text: str) -> bool:
    """A dotted quad without leading zeros."""
    return _parses(ipaddress.IPv4Address, text)


def is_ipv6(text: str) -> bool:
    return "%" not in text and _parses(ipaddress.IPv6Address, text)


def _parses(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return text.isascii()


def parse(text: str) -> tuple[int, ...]:
    """The eight 16-bit fields of an address, IPv4 ones mapped; ValueError if it is none."""
    text = text.lower()
    if len(text) > 40:
        raise ValueError("too long")
    colons, _, quad = text.rpartition(":")
    if "." in quad:
        fields = _quad(quad)
        if not colons and not text.startswith(":"):
            return (0, 0, 0, 0, 0, 0xFFFF, *fields)
        head = _fields(colons + ":" if colons.endswith(":") or not colons else colons, 6)
        if head != (0, 0, 0, 0, 0, 0xFFFF):
            raise ValueError("not an IPv4-mapped address")
        return (*head, *fields)
    return _fields(text, 8)


def _quad(text: str) -> tuple[int, int]:
    parts = text.split(".")
    if len(parts) != 4 or not all(re.fullmatch("[0-9]+", part) for part in parts):
        raise ValueError("not four decimal fields")
    numbers = [int(part) for part in parts]
    if max(numbers) > 255:
        raise ValueError("field too large")
    return numbers[0] << 8 | numbers[1], numbers[2] << 8 | numbers[3]


def _fields(text: str, count: int) -> tuple[int, ...]:
    head, gap, tail = text.partition("::")
    if "::" in tail:
        raise ValueError("more than one ::")
    left = [_field(part) for part in head.split(":")] if head else []
    right = [_field(part) for part in tail.split(":")] if tail else []
    missing = count - len(left) - len(right)
    if missing < 0 or (missing and not gap):
        raise ValueError("wrong number of fields")
    return (*left, *[0] * missing, *right)


def _field(text: str) -> int:
    if not re.fullmatch("[0-9a-f]+", text) or int(text, 16) > 0xFFFF:
        raise ValueError("bad field")
    return int(text, 16)


def canonical(text: str) -> str:
    """The address as fwadm prints it back."""
    fields = parse(text)
    quad = f"{fields[6] >> 8}.{fields[6] & 255}.{fields[7] >> 8}.{fields[7] & 255}"
    if "." in text:
        return quad if ":" not in text else f"::ffff:{quad}"
    start, length = _longest_zeros(fields)
    if length == 0:
        return ":".join(f"{field:x}" for field in fields)
    left = ":".join(f"{field:x}" for field in fields[:start])
    right = ":".join(f"{field:x}" for field in fields[start + length :])
    return f"{left}::{right}"


def _longest_zeros(fields: tuple[int, ...]) -> tuple[int, int]:
    best = (0, 0)
    start = None
    for index, field in enumerate((*fields, 1)):
        if field == 0:
            start = index if start is None else start
        elif start is not None:
            if index - start > best[1]:
                best = (start, index - start)
            start = None
    return best


def in_order(addresses: list[str]) -> list[str]:
    """The addresses by value, IPv4 as mapped ones."""
    return sorted(addresses, key=parse)


def subnet_fault(text: str) -> str | None:
    """What is wrong with ADDRESS/LENGTH, if anything."""
    address, _, length = text.partition("/")
    try:
        parse(address)
    except ValueError:
        return "bad address component"
    bits = int(length) + (96 if ":" not in address else 0)
    return "bad prefix length" if bits > 128 else None
