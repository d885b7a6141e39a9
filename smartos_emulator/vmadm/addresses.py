# SPDX-License-Identifier: Apache-2.0
"""IP and MAC addresses and PCI slots as vmadm reads them."""

import re
import socket
from typing import Any

from smartos_emulator import js

_MAC_OCTETS = re.compile(r"[0-9a-f]{1,2}(?:([:-])[0-9a-f]{1,2}(?:\1[0-9a-f]{1,2}){4})")
_MAC_PLAIN = re.compile(r"[0-9a-f]{12}")
_SLOT = re.compile(r"[+-]?[0-9]+")
_LEADING_INTEGER = re.compile(r"[+-]?[0-9]+")
_ZONE_LENGTH = 45


def version(address: Any) -> int:
    """4 or 6 for an IP address, 0 for anything else."""
    plain = js.text(address).partition("\0")[0]
    if _parses(socket.AF_INET, plain):
        return 4
    if "%" in plain:
        plain = plain.partition("%")[0]
        if len(plain) > _ZONE_LENGTH:
            return 0
    return 6 if _parses(socket.AF_INET6, plain) else 0


def _parses(family: socket.AddressFamily, address: str) -> bool:
    try:
        socket.inet_pton(family, address)
    except (OSError, UnicodeError):
        return False
    return True


def is_automatic(address: Any) -> bool:
    """Whether the guest finds the address by itself."""
    return isinstance(address, str) and address in ("dhcp", "addrconf")


def is_cidr(entry: Any) -> bool:
    """An address with its prefix length; IPv4 networks hold at most 2^24 addresses."""
    return is_cidr4(entry) or _cidr(entry, 6, 0, 128)


def is_cidr4(entry: Any) -> bool:
    """An IPv4 address with its prefix length."""
    return _cidr(entry, 4, 8, 32)


def _cidr(entry: Any, family: int, shortest: int, longest: int) -> bool:
    js.require_method(entry, "split")
    address, slash, prefix = entry.partition("/")
    if not slash or "/" in prefix or version(address) != family:
        return False
    length = _LEADING_INTEGER.match(js.trim(prefix))
    return length is not None and shortest <= int(length.group()) <= longest


def address_of(entry: Any) -> str:
    """The address of an entry that may have a prefix length."""
    js.require_method(entry, "split")
    parts = entry.split("/")
    return parts[0] if len(parts) == 2 else entry


def prefix_of(entry: str) -> int | float:
    """The prefix length of an entry."""
    return js.number(entry.partition("/")[2])


def _figure(address: Any) -> int:
    """An IPv4 address as the bit operators see it."""
    high, *low = (int(octet) for octet in address.split("."))
    figure = high
    for octet in low:
        figure = figure * 256 + octet
    return js.int32(figure)


def is_netmask(mask: Any) -> bool:
    """Whether an IPv4 mask is ones followed by zeros."""
    if version(mask) != 4:
        return False
    inverse = ~_figure(js.text(mask))
    return js.int32(inverse + 1) & inverse == 0


def mask_bits(mask: str) -> int:
    """The prefix length that a netmask stands for."""
    return 32 - (~_figure(mask) & 0xFFFFFFFF).bit_length()


def netmask(bits: int | float) -> str:
    """The netmask of a prefix length."""
    host_bits = 0 if js.is_nan(bits) else 32 - int(bits)
    figure = (0xFFFFFFFF << host_bits) & 0xFFFFFFFF
    return ".".join(str(figure >> shift & 255) for shift in (24, 16, 8, 0))


def parse_mac(value: Any) -> str:
    """A MAC address in its plain form, empty when it is none."""
    if not isinstance(value, str):
        return ""
    plain = value.lower()
    octets = re.split("[:-]", plain)
    if len(octets) == 6 and _MAC_OCTETS.fullmatch(plain):
        return ":".join(octet.zfill(2) for octet in octets)
    if _MAC_PLAIN.fullmatch(plain):
        return ":".join(plain[at : at + 2] for at in range(0, 12, 2))
    return ""


def vrrp_mac(vrid: Any) -> str:
    """The MAC address that belongs to a virtual router id."""
    return f"00:00:5e:00:01:{js.int32(vrid) & 0xFFFFFFFF:02x}"


class SlotError(Exception):
    """A PCI slot is not written as bus:device:function."""


def parse_slot(slot: Any) -> tuple[int, int, int]:
    """Bus, device and function of a PCI slot; the first and the last may be left out."""
    js.require_method(slot, "split")
    parts = slot.split(":")
    if len(parts) > 3 or not all(map(_SLOT.fullmatch, parts)):
        raise SlotError(f'pci_slot "{slot}" is not valid')
    figures = [int(part) for part in parts]
    bus = figures.pop(0) if len(figures) == 3 else 0
    device, function = (*figures, 0)[:2]
    if not (0 <= bus <= 255 and 0 <= device <= 31 and 0 <= function <= 7):
        raise SlotError(f'pci_slot "{slot}" is not valid')
    return bus, device, function
