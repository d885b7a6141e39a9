# SPDX-License-Identifier: Apache-2.0
"""Values as people read them, and the columns they are put in."""

import time

from smartos_emulator.storage import backend, model, properties, units

_DATE = "%a %b %e %k:%M %Y"
_SIZES = properties.SIZES


def cell(storage: backend.Storage, node: model.Node, prop: str, *, literal: bool) -> str:
    """One property of one dataset."""
    return text(prop, storage.answer_for(node, prop)[0], literal=literal)


def text(prop: str, value: str, *, literal: bool) -> str:
    """From the -p form to the form for people."""
    if literal or value == "-":
        return value
    if prop in properties.NONE_IF_ZERO and value == "0":
        return "none"
    if prop in ("compressratio", "refcompressratio"):
        return f"{value}x"
    if prop == "creation":
        return date(int(value))
    if prop in _SIZES or prop.startswith("written@"):
        return units.nice(int(value))
    if prop.endswith(("_limit", "_count")):
        return "none" if int(value) == units.UNLIMITED else units.nice(int(value))
    return value


def date(seconds: int) -> str:
    return time.strftime(_DATE, time.gmtime(seconds))


def width(prop: str) -> tuple[int, bool]:
    """(least width of a column, whether that is its width when not literal)."""
    row = properties.TABLE.get(prop) or properties.HIDDEN.get(prop)
    if row is None:
        return len(prop), False
    size = len(row.column)
    if row.number or prop in properties.RIGHT_ALIGNED:
        return max(size, 5), prop != "creation"
    if row.choices:
        return max(size, *(len(word) for word in row.choices)), True
    if prop in ("mounted", "defer_destroy"):
        return max(size, 3), True
    return size, False


def heading(prop: str) -> str:
    row = properties.TABLE.get(prop) or properties.HIDDEN.get(prop)
    return row.column if row else prop.upper()


def right(prop: str) -> bool:
    return prop in properties.RIGHT_ALIGNED or prop.startswith("written@")


def table(columns: list[str], rows: list[list[str]], *, literal: bool) -> str:
    """A list for people: two blanks between columns, numbers to the right."""
    widths = []
    for index, prop in enumerate(columns):
        least, fixed = width(prop)
        found = 0 if fixed and not literal else max((len(row[index]) for row in rows), default=0)
        widths.append(max(least, found))
    lines = [[heading(prop) for prop in columns], *rows]
    return "".join(_line(columns, line, widths) for line in lines)


def _line(columns: list[str], cells: list[str], widths: list[int]) -> str:
    parts = []
    for index, prop in enumerate(columns):
        if right(prop):
            parts.append(cells[index].rjust(widths[index]))
        elif index == len(columns) - 1:
            parts.append(cells[index])
        else:
            parts.append(cells[index].ljust(widths[index]))
    return "  ".join(parts) + "\n"
