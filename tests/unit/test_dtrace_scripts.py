# SPDX-License-Identifier: Apache-2.0
"""What every D script keeps to, since no D compiler runs where these tests do."""

import pathlib
import re

import pytest

import dtrace_scripts

FOLDER = pathlib.Path(dtrace_scripts.__file__).parent
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.d"))


def code(name: str) -> str:
    """A script without its comments."""
    return re.sub(r"/\*.*?\*/", "", dtrace_scripts.path(name).read_text(), flags=re.DOTALL)


def clauses(name: str) -> list[str]:
    """The bodies of a script's clauses."""
    return re.findall(r"^\{(.*?)^\}", code(name), flags=re.DOTALL | re.MULTILINE)


def test_there_are_scripts() -> None:
    assert "zone_io" in SCRIPTS


def test_a_name_without_a_script() -> None:
    with pytest.raises(FileNotFoundError, match="no D script called 'zone_nothing'"):
        dtrace_scripts.path("zone_nothing")


@pytest.mark.parametrize("name", SCRIPTS)
class TestScript:
    def test_says_what_it_answers(self, name: str) -> None:
        head = dtrace_scripts.path(name).read_text().partition("*/")[0]
        assert head.startswith("#!/usr/sbin/dtrace -s\n")
        assert "SPDX-License-Identifier: Apache-2.0" in head
        assert re.search(r"Question: .*\?", head)
        assert f"dtrace -s {name}.d" in head

    def test_cannot_change_or_flood_the_node(self, name: str) -> None:
        options = dict(re.findall(r"^#pragma D option (\w+)(?:=(\S+))?$", code(name), re.MULTILINE))
        assert {"quiet", "defaultargs", "aggsize", "bufsize"} <= set(options)
        assert not {"destructive", "zdefs"} & set(options)
        assert not re.search(r"\b(system|copyout|stop|panic|stack|ustack|copyin\w*)\(", code(name))

    def test_never_forgets_what_it_counted(self, name: str) -> None:
        assert not re.search(r"\b(trunc|clear|denormalize)\(", code(name))

    def test_every_value_is_in_a_frame(self, name: str) -> None:
        printing = [body for body in clauses(name) if "printa(" in body]
        assert printing
        for body in printing:
            printed = re.findall(r'print[fa]\("(.)', body)
            assert printed[0] == "S" and printed[-1] == "E"
            assert set(printed[1:-1]) <= {"A", "Q"}

    def test_the_last_frame_has_all_aggregations(self, name: str) -> None:
        counted = set(re.findall(r"^\s*@(\w+)\[", code(name), re.MULTILINE))
        last = code(name).partition("dtrace:::END")[2]
        assert counted == set(re.findall(r"printa\(.*@(\w+)\)", last))
