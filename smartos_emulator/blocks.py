# SPDX-License-Identifier: Apache-2.0
"""What dd does, in the global zone and in a guest: operands, sizes, copying by blocks."""

import dataclasses
import typing
from collections.abc import Iterable

_SUFFIXES = {"k": 1 << 10, "b": 512, "m": 1 << 20, "g": 1 << 30, "w": 2}


@dataclasses.dataclass(frozen=True)
class Operands:
    """What a command line of dd asks for; None where it names no file or no count."""

    source: str | None
    target: str | None
    size: int
    count: int | None

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Operands":
        """Take [if=FILE] [of=FILE] [bs=N] [count=N]; ValueError says what is wrong with a word."""
        given: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or name not in ("if", "of", "bs", "count"):
                raise ValueError(f'bad argument: "{word}"')
            given[name] = value
        count = _number(given["count"]) if "count" in given else None
        return cls(given.get("if"), given.get("of"), _number(given.get("bs", "512")), count)

    def copy(self, source: typing.BinaryIO, target: typing.BinaryIO) -> str:
        """Copy; the two lines that dd prints."""
        whole = partial = 0
        while self.count is None or whole + partial < self.count:
            block = source.read(self.size)
            if not block:
                break
            target.write(block)
            whole, partial = whole + (len(block) == self.size), partial + (len(block) < self.size)
        return f"{whole}+{partial} records in\n{whole}+{partial} records out\n"


def _number(text: str) -> int:
    factor = _SUFFIXES.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit():
        raise ValueError(f'bad numeric argument: "{text}"')
    return int(digits) * factor
