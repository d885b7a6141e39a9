# SPDX-License-Identifier: Apache-2.0
"""Tables as imgadm prints them: columns as wide as they need to be."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from smartos_emulator import js

Row = dict[str, Any]


def render(
    rows: list[Row],
    columns: Sequence[str | tuple[str, str]],
    *,
    sort: Sequence[str] = (),
    header: bool = True,
) -> str:
    """A table of `rows`; nothing at all when there are none. A column is a key or (key, title)."""
    if not rows:
        return ""
    pairs = [(one, one.upper()) if isinstance(one, str) else one for one in columns]
    rows = sorted(rows, key=functools.cmp_to_key(functools.partial(_compare, sort)))
    lines = [[_cell(row, key) for key, _ in pairs] for row in rows]
    widths = [
        max([len(title), *(0 if line[at] is None else len(str(line[at])) for line in lines)])
        for at, (_, title) in enumerate(pairs)
    ]
    shown = [["-" if cell is None else cell for cell in line] for line in lines]
    if header:
        shown.insert(0, [title for _, title in pairs])
    return "".join(_line(line, widths) for line in shown)


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=False)]
    return "  ".join([*padded, cells[-1]]) + "\n"


def _cell(row: Row, key: str) -> str | None:
    value = row.get(key)
    if value is None or value is js.UNDEFINED:
        return None
    if js.typeof(value) in ("string", "number"):
        return js.text(value)
    return js.dumps(value)


def _compare(fields: Sequence[str], left: Row, right: Row) -> int:
    for field in fields:
        sign = -1 if field.startswith("-") else 1
        name = field.removeprefix("-")
        if not name:
            raise js.JavaScriptError(f"zero-length sort field: {','.join(fields)}")
        ordered = _order(left.get(name, js.UNDEFINED), right.get(name, js.UNDEFINED))
        if ordered:
            return sign * ordered
    return 0


def _order(left: Any, right: Any) -> int:
    numbers = js.number(left), js.number(right)
    if not any(math.isnan(one) for one in numbers):
        left, right = numbers
    if left is js.UNDEFINED or right is js.UNDEFINED:
        return (right is js.UNDEFINED) - (left is js.UNDEFINED)
    if js.less(left, right):
        return -1
    return 1 if js.less(right, left) else 0
