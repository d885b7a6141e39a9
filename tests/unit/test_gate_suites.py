# SPDX-License-Identifier: Apache-2.0
"""What makes a suite of the gate red, besides a test that fails."""

import pathlib

import pytest

from gate import suites, tempest_suite
from gate.cloud import install, model

LISTS = tempest_suite.Lists(
    passing=frozenset({"t.a.C.one", "t.a.C.two", "t.ab.C.other"}),
    elsewhere={".kvm": frozenset({"t.a.C.paused", "t.b.C.paused"})},
    left_out={"t.a.C.moved": "nothing moves"},
    skipped={"t.a.Volumes": "no volumes"},
)
KNOWN = {"t.a.C.one", "t.a.C.two", "t.a.C.paused", "t.a.C.moved", "t.a.Volumes.attach", "t.z.C.x"}


def test_lists_that_name_every_test_once_are_right() -> None:
    assert LISTS.complaints(KNOWN, "t.a") == []


@pytest.mark.parametrize(
    ("known", "complaint"),
    [
        (KNOWN | {"t.a.C.new"}, "t.a.C.new is in no list"),
        (KNOWN - {"t.a.C.two"}, "t.a.C.two is not among Tempest's tests"),
        (KNOWN - {"t.a.C.moved"}, "t.a.C.moved is not among Tempest's tests"),
        (KNOWN - {"t.a.Volumes.attach"}, "t.a.Volumes skips nothing"),
    ],
)
def test_a_test_that_comes_or_goes_is_told(known: set[str], complaint: str) -> None:
    assert LISTS.complaints(known, "t.a") == [complaint]


def test_a_test_in_two_lists_is_told() -> None:
    lists = tempest_suite.Lists(frozenset({"t.a.x"}), {}, {"t.a.x": "why"}, {})
    assert lists.complaints({"t.a.x"}, "t.a") == ["t.a.x is in two lists"]


def test_a_part_of_a_suite_wants_its_part_of_the_tests() -> None:
    assert LISTS.wanted("t.a") == {"t.a.C.one", "t.a.C.two"}
    assert LISTS.wanted("t.a.C.one") == {"t.a.C.one"}
    assert LISTS.wanted("t.kvm") == {"t.a.C.paused", "t.b.C.paused"}
    assert LISTS.wanted("t.a.kvm") == {"t.a.C.paused"}


def test_the_lists_of_the_tree_are_in_order() -> None:
    lists = tempest_suite.Lists.load()
    ids = [*lists.passing, *(each for found in lists.elsewhere.values() for each in found)]
    ids += [*lists.left_out, *lists.skipped]
    assert len(ids) == len(set(ids))
    assert {each.split(".")[0] for each in ids} == {"tempest"}
    lines = (install.ROOT / "gate/passing.txt").read_text().splitlines()
    assert lines == sorted(lines)
    # nothing that a run must see passing is under what skips itself
    within = [each for each in ids for skips in lists.skipped if each.startswith(f"{skips}.")]
    assert within == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def test_x(): pass", []),
        ("def test_x(): assert False", ["pytest ended with status 1"]),
        ("", ["pytest ended with status 5"]),
        (
            "import pytest\ndef test_x(): pytest.skip('no reason')",
            ["test_story.test_x was skipped: no reason"],
        ),
    ],
    ids=["passed", "failed", "none", "skipped"],
)
def test_no_story_is_skipped_in_silence(
    text: str, told: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = tmp_path / "test_story.py"
    story.write_text(text)
    monkeypatch.setitem(suites.STORIES, "x", (str(story), f"--rootdir={tmp_path}"))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
    cloud = model.Cloud.plan(
        tmp_path, sets=frozenset(), nodes=[model.Node("n", "ssh")], speed="1", networks={}
    )
    found = suites._stories(cloud, "x", tmp_path / "x.junit.xml")
    assert [each.partition("/")[0].partition("\n")[0] for each in found] == told
