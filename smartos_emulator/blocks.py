# SPDX-License-Identifier: Apache-2.0
"""What dd does, in the global zone and in a guest: operands, sizes, copying by blocks."""

import dataclasses
import io
import typing
from collections.abc import Iterable

_NAMES = ("if", "of", "bs", "ibs", "obs", "count", "seek")
_SUFFIXES = {"k": 1 << 10, "b": 512, "m": 1 << 20, "g": 1 << 30, "w": 2}


@dataclasses.dataclass(frozen=True)
class Operands:
    """What a command line of dd asks for; None where it names no file or no count."""

    source: str | None
    target: str | None
    #: of a block that is read; and of one that is written, None when that is as it was read
    size: int
    output_size: int | None
    count: int | None
    #: in bytes: where in the target to begin
    offset: int = 0

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Operands":
        """Take [if=FILE] [of=FILE] [bs=N | ibs=N obs=N] [count=N] [seek=N].

        ValueError names a wrong word.
        """
        given: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or name not in _NAMES:
                raise ValueError(f'bad argument: "{word}"')
            given[name] = value
        count = _number(given["count"]) if "count" in given else None
        size = _number(given.get("bs") or given.get("ibs", "512"))
        again = "obs" in given and "bs" not in given
        output_size = _number(given["obs"]) if again else None
        offset = _number(given.get("seek", "0")) * (output_size or size)
        return cls(given.get("if"), given.get("of"), size, output_size, count, offset)

    def copy(self, source: typing.BinaryIO, target: typing.BinaryIO) -> str:
        """Copy; the two lines that dd prints."""
        read, written = _Records(self.size), _Records(self.output_size or self.size)
        # one buffer for all: fresh memory for each block costs more than copying it
        room = memoryview(bytearray(self.size + (self.output_size or 0)))
        held = 0
        while self.count is None or read.count < self.count:
            size = typing.cast(io.BufferedIOBase, source).readinto(room[held : held + self.size])
            if not size:
                break
            read.add(size)
            held += size
            while held >= (self.output_size or 1):
                piece = self.output_size or held
                target.write(room[:piece])
                written.add(piece)
                room[: held - piece] = room[piece:held]
                held -= piece
        if held:
            target.write(room[:held])
            written.add(held)
        return f"{read} records in\n{written} records out\n"


@dataclasses.dataclass
class _Records:
    """Blocks of the wanted size, and shorter ones."""

    size: int
    whole: int = 0
    partial: int = 0

    @property
    def count(self) -> int:
        return self.whole + self.partial

    def add(self, size: int) -> None:
        self.whole += size == self.size
        self.partial += size < self.size

    def __str__(self) -> str:
        return f"{self.whole}+{self.partial}"


def _number(text: str) -> int:
    factor = _SUFFIXES.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit():
        raise ValueError(f'bad numeric argument: "{text}"')
    return int(digits) * factor
