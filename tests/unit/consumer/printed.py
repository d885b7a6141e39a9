# SPDX-License-Identifier: Apache-2.0
"""What dtrace prints for our scripts, made by a test."""

from collections.abc import Mapping

import dtrace_scripts

TITLE = f"{'value':>16} {'------------- Distribution -------------':>41} {'count':<9}"
Keys = tuple[str | int, ...]


def scripts(*names: str) -> dict[str, str]:
    """The texts of these scripts."""
    return {name: dtrace_scripts.path(name).read_text() for name in names}


def head(*names: str, at: int, wall: int = 7) -> str:
    """The first lines of a run."""
    return "".join(f"H|{name}|1|{at}|{wall}\n" for name in names)


def table(rows: Mapping[int, int]) -> str:
    """A distribution as dtrace draws it, an empty bucket on each side."""
    bounds = sorted({*rows, *(bound * 2 for bound in rows), *(bound // 2 for bound in rows)})
    most = sum(rows.values())
    lines = [TITLE]
    for bound in bounds:
        count = rows.get(bound, 0)
        bar = "@" * (40 * count // most)
        lines.append(f"{bound:>16} |{bar:<40} {count:<9}")
    return "\n".join(["", *lines, "", ""])


def frame(
    script: str,
    at: int,
    values: Mapping[Keys, int] | None = None,
    distributions: Mapping[Keys, Mapping[int, int]] | None = None,
    wall: int = 7,
) -> str:
    """A whole frame."""
    lines = [f"S|{script}|{at}|{wall}\n"]
    for key, value in (values or {}).items():
        lines.append("|".join(["A", script, *map(str, key), str(value)]) + "\n")
    for key, rows in (distributions or {}).items():
        lines.append("|".join(["Q", script, *map(str, key), ""]) + table(rows))
    return "".join([*lines, f"E|{script}\n"])
