# SPDX-License-Identifier: Apache-2.0
"""What a D program finds without making it: variables, functions, and what a clause may call."""

import ipaddress
import random
import typing

from smartos_emulator.dtrace import errors, types

HALF, MASK = types.HALF, types.MASK
_POINTER = {"curpsinfo": "psinfo_t", "curlwpsinfo": "lwpsinfo_t", "curcpu": "cpuinfo_t"}

#: The variables: where a clause finds each in the event, and its type.
VARIABLES: dict[str, tuple[str, types.Type]] = {
    "timestamp": ("e.at", types.UINT64),
    "vtimestamp": ("e.at", types.UINT64),
    "walltimestamp": ("e.wall", types.INT64),
    "zonename": ("e.zone", types.STRING),
    "execname": ("e.execname", types.STRING),
    "pid": ("e.pid", types.INT),
    "ppid": ("1", types.INT),
    "tid": ("e.tid", types.UINT),
    "uid": ("0", types.UINT),
    "gid": ("0", types.UINT),
    "cpu": ("e.cpu", types.INT),
    "errno": ("e.errno", types.INT),
    "ipl": ("0", types.UINT),
    "id": ("e.probe.id", types.UINT),
    "epid": ("e.probe.id", types.UINT),
    "probeprov": ("e.probe.provider", types.STRING),
    "probemod": ("e.probe.module", types.STRING),
    "probefunc": ("e.probe.function", types.STRING),
    "probename": ("e.probe.name", types.STRING),
    "stackdepth": ("12", types.UINT),
    "caller": ("0", types.UINT64),
    **{
        name: (f"e.{name}", types.Type(f"{struct} *", struct=struct, pointer=True))
        for name, struct in _POINTER.items()
    },
    "curthread": ("e.curthread", types.Type("kthread_t *", struct="kthread_t", pointer=True)),
    "NULL": ("0", types.INT64),
}

#: The functions: the types that they take and what they give.
FUNCTIONS: dict[str, tuple[tuple[types.Type, ...], types.Type]] = {
    "basename": ((types.STRING,), types.STRING),
    "htonl": ((types.UINT,), types.UINT),
    "htons": ((types.find("uint16_t") or types.UINT,), types.find("uint16_t") or types.UINT),
    "index": ((types.STRING, types.STRING), types.INT),
    "inet_ntoa": ((types.UINT,), types.STRING),
    "lltostr": ((types.INT64,), types.STRING),
    "ntohl": ((types.UINT,), types.UINT),
    "ntohs": ((types.find("uint16_t") or types.UINT,), types.find("uint16_t") or types.UINT),
    "rand": ((), types.INT),
    "strjoin": ((types.STRING, types.STRING), types.STRING),
    "strlen": ((types.STRING,), types.find("size_t") or types.UINT64),
    "strstr": ((types.STRING, types.STRING), types.STRING),
    "substr": ((types.STRING, types.INT, types.INT), types.STRING),
}

DESTRUCTIVE = (
    "breakpoint chill copyout copyoutstr freopen ftruncate panic raise stop system".split()
)


class Null(dict[str, typing.Any]):
    """A structure at an address where there is none."""

    def __init__(self, address: int = 0) -> None:
        super().__init__({"@": address})

    def __missing__(self, key: str) -> typing.Any:
        raise errors.Fault(f"invalid address (0x{self['@']:x})")


NULL = Null()


def signed(value: int) -> int:
    """What 64 bits hold, with a sign."""
    return (value + HALF & MASK) - HALF


def narrow(value: int, bits: int) -> int:
    """What so many bits hold, with a sign."""
    half = 1 << (bits - 1)
    return (value + half & (1 << bits) - 1) - half


def divide(left: int, right: int) -> int:
    if right == 0:
        raise errors.Fault("divide-by-zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def remainder(left: int, right: int) -> int:
    if right == 0:
        raise errors.Fault("divide-by-zero")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def _swapped(size: int) -> typing.Callable[[int], int]:
    """Between the order of the network and that of the processor, which is the other one."""

    def swap(value: int) -> int:
        return int.from_bytes((value & (1 << size * 8) - 1).to_bytes(size, "little"), "big")

    return swap


def _substr(text: str, start: int, length: int = 1 << 31) -> str:
    if start < 0:
        start += len(text)
    if start < 0:
        length, start = length + start, 0
    return text[start : start + max(0, length)] if length >= 0 else text[start:length]


_dice = random.Random(0)

#: The functions as clauses call them.
CODE: dict[str, typing.Callable[..., typing.Any]] = {
    "basename": lambda text: text.rstrip("/").rpartition("/")[2] or "/",
    "htonl": _swapped(4),
    "htons": _swapped(2),
    "index": lambda text, what: text.find(what),
    "inet_ntoa": lambda number: str(ipaddress.IPv4Address(number.to_bytes(4, "little"))),
    "lltostr": str,
    "ntohl": _swapped(4),
    "ntohs": _swapped(2),
    "rand": lambda: _dice.getrandbits(31),
    "strjoin": lambda one, other: one + other,
    "strlen": len,
    "strstr": lambda text, what: text[text.find(what) :] if what in text else "",
    "substr": _substr,
}
