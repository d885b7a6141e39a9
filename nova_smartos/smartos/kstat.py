# SPDX-License-Identifier: Apache-2.0
"""kstat: counters of the kernel, exact and for all zones in one call.

Read with -j, since names and values may hold the separators of -p. What -j prints is not always
JSON: depending on the platform and the selection a comma is too many or missing after a kstat, and
"?" is escaped in strings.
kstat names are cut to 30 characters, so a zone is told by the statistic zonename.
"""

import dataclasses
import decimal
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nova_smartos.smartos import _tool, errors, records
from nova_smartos.smartos._tool import text
from nova_smartos.smartos.records import key

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,*?\[\]@/-]*")
# strings are matched first, so that nothing inside them is touched
_REPAIR = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<surplus>,(?=\s*[\]}]))|(?P<missing>\}(?=\s*\{))', re.DOTALL
)
_OPENING = re.compile(r"\s*\[\s*")
_BETWEEN = re.compile(r"\s*,?\s*")
_END = "\n}"
_DECODER = json.JSONDecoder(parse_float=decimal.Decimal)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

TEXTS = (
    text(r".*(?:[Ii]nvalid|unknown option|illegal option)", errors.InvalidPayload, "Argument"),
    text(r"[Uu]sage:", errors.InvalidPayload, "Usage"),
)

Value = int | decimal.Decimal | str
# not isinstance(): true is no number, and there are hundreds of thousands
_TYPES = frozenset({int, decimal.Decimal, str})


@dataclasses.dataclass(frozen=True)
class Selector:
    """Which kstats: module:instance:name:statistic, each may be a glob, None is any."""

    module: str | None = None
    instance: int | None = None
    name: str | None = None
    statistic: str | None = None


def _nanoseconds(seconds: object) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, decimal.Decimal)):
        raise ValueError("seconds are expected")
    return int(seconds * 10**9)


def _values(data: object) -> dict[str, Value]:
    if not isinstance(data, dict):
        raise ValueError("an object is expected")
    if not _TYPES.issuperset(map(type, data.values())):
        names = [f".{name}" for name, value in data.items() if type(value) not in _TYPES]
        raise ValueError(f"{', '.join(names)}: a number or a string is expected")
    return data


@dataclasses.dataclass(frozen=True)
class Instance(records.Record):
    """One kstat (module:instance:name) at one moment.

    Times in `data` are seconds as Decimal, exact to the nanosecond."""

    module: str
    instance: int
    name: str
    class_: str = key("class")
    snaptime_ns: int = key("snaptime", convert=_nanoseconds)
    data: Mapping[str, Value] = key("data", convert=_values)
    type: int | None = None

    @property
    def crtime_ns(self) -> int | None:
        """When it was created: for a zone's kstats, when the zone booted."""
        found = self.data.get("crtime")
        return None if found is None else _nanoseconds(found)

    @property
    def zonename(self) -> str | None:
        """The whole name of the zone it belongs to, where the kstat tells it."""
        found = self.data.get("zonename")
        return found if isinstance(found, str) else None

    def number(self, statistic: str) -> int:
        """A counter or gauge; OutputError when it is not there."""
        found = self.data.get(statistic)
        if not isinstance(found, int):
            raise errors.OutputError(
                f"kstat: {self.module}:{self.instance}:{self.name}: no number {statistic!r}"
            )
        return found


class Kstat(_tool.Tool):
    """kstat(8)."""

    name = "kstat"
    texts = TEXTS

    def read(
        self,
        selectors: Iterable[Selector] = (),
        *,
        class_: str | None = None,
        seconds: float | None = None,
    ) -> list[Instance]:
        """kstat -j [-c CLASS] [MODULE:INSTANCE:NAME:STATISTIC …]: [] when nothing matches.

        `seconds` is how long it may take, where that is less than any reading command may.
        """
        flags = ["-c", self._operand(class_, "class", _WORD)] if class_ is not None else []
        operands = [self._selector(each) for each in selectors]
        result = self._transport.run(self._command("-j", *flags, *operands, seconds=seconds))
        # exit 1 with nothing on stderr is how it says that nothing matched
        if result.returncode != 1 or result.stderr:
            self._checked(result)
        elif not result.stdout.strip("[,] \n"):
            return []
        return self._parsed(_kstats, result)

    def _selector(self, selector: Selector) -> str:
        words = (selector.module, selector.name, selector.statistic)
        for word in words:
            if word is not None:
                self._operand(word, "selector", _WORD)
        instance = "" if selector.instance is None else str(int(selector.instance))
        module, name, statistic = (word or "" for word in words)
        return f"{module}:{instance}:{name}:{statistic}"


def repaired(output: str) -> str:
    """What kstat -j prints, as JSON."""
    return _REPAIR.sub(_repair, output)


def _kstats(output: str) -> list[Instance]:
    return [Instance.from_json(each) for each in _objects(output)]


def _objects(output: str) -> list[Any]:
    """The kstats, one by one: most need no repair, and there may be tens of thousands."""
    opening = _OPENING.match(output)
    if opening is None:
        raise errors.OutputError(f"an array is expected: {records.excerpt(output)}")
    found: list[Any] = []
    at = opening.end()
    while output.startswith("{", at):
        try:
            each, at = _DECODER.raw_decode(output, at)
        except (ValueError, RecursionError):
            # it ends where its brace stands alone
            end = output.find(_END, at) + len(_END)
            each = records.parse(repaired(output[at:end]), parse_float=decimal.Decimal)
            at = end
        found.append(each)
        at = _BETWEEN.match(output, at).end()  # type: ignore[union-attr]
    if output[at:].strip() != "]":
        raise errors.OutputError(f"the end of an array is expected: {records.excerpt(output[at:])}")
    return found


def _repair(match: re.Match[str]) -> str:
    if match["surplus"]:
        return ""
    if match["missing"]:
        return "},"
    return _ESCAPE.sub(lambda escape: "?" if escape[1] == "?" else escape[0], match[0])
