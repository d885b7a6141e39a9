# SPDX-License-Identifier: Apache-2.0
"""The bounds of benchmarks and how they are told."""

import json
import pathlib

import pytest

from bench import report


@pytest.mark.parametrize(
    ("value", "want", "holds"),
    [
        (1.15, "<= 1.15", True),
        (1.16, "<= 1.15", False),
        (1.0, "< 1", False),
        (2, ">= 2", True),
        (2, "> 2", False),
    ],
)
def test_bounds(value: float, want: str, holds: bool) -> None:
    found = report.Report("x")
    found.figure("ratio", value, "a ratio", want)
    assert found.holds("ratio") is holds
    assert found.all_hold() is holds


@pytest.mark.parametrize("want", ["", "1.15", "<=1.15", "== 1", "<= -1", "<= 1e3"])
def test_what_is_no_bound(want: str) -> None:
    with pytest.raises(ValueError, match="not a bound"):
        report.Report("x").figure("ratio", 1, "a ratio", want)


def test_forms(tmp_path: pathlib.Path) -> None:
    found = report.Report("x")
    found.figure("ratio", 1.23456, "one in parts of another", "<= 1.2")
    found.figure("seconds", 9, "how long it took")
    found.write(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "figures": {"ratio": 1.2346, "seconds": 9},
        "wants": {"ratio": "<= 1.2"},
        "holds": {"ratio": False},
    }
    assert "BROKEN" in found.table() and "how long it took" in found.table()
