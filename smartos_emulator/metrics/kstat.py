# SPDX-License-Identifier: Apache-2.0
"""A kernel statistic, as the kstat interface hands it out."""

import dataclasses

NAMED = 1
NAME_LENGTH = 30
UINT64_MAX = 2**64 - 1

Value = int | str


@dataclasses.dataclass(frozen=True)
class Kstat:
    """One kstat with its values; times are nanoseconds since the node booted."""

    module: str
    instance: int
    name: str
    class_: str
    crtime: int
    snaptime: int
    data: dict[str, Value]
    type: int = NAMED


def cut(name: str) -> str:
    """A name as far as the kernel keeps it."""
    return name[:NAME_LENGTH]


def uint32(value: int) -> int:
    return value % 2**32
