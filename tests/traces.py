# SPDX-License-Identifier: Apache-2.0
"""A trace, written for a test and read again as a viewer reads it."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from nova_smartos.smartos import spans as traced


@contextlib.contextmanager
def into(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Trace this process inside."""
    traced.start(str(path))
    try:
        assert traced.on()
        yield path
    finally:
        traced.stop()


def events(path: pathlib.Path) -> list[dict[str, Any]]:
    """The events: one a line, each whole."""
    first, *lines, rest = path.read_text().split("\n")
    assert (first, rest) == ("[", "")
    assert all(line.endswith(",") for line in lines)
    found = [json.loads(line[:-1]) for line in lines]
    assert all({"name", "ph", "pid", "tid", "args"} <= set(each) for each in found)
    return found


def spans(path: pathlib.Path) -> list[dict[str, Any]]:
    """The spans, in the order in which they ended."""
    found = [each for each in events(path) if each["ph"] != "M"]
    for each in found:
        assert each["ph"] == "X" and each["ts"] > 0 and each["dur"] >= 0
    return found


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    """Whether a viewer draws the one below the other."""
    same = (inner["pid"], inner["tid"]) == (outer["pid"], outer["tid"])
    ends = inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
    return same and inner["ts"] >= outer["ts"] and ends
