# SPDX-License-Identifier: Apache-2.0
"""The conformance harness agrees with right records, and does not with a false one."""

import json
import pathlib
import shutil
import sys

import pytest

from tests.conformance import __main__ as conformance
from tests.conformance import build, compare, world

CASES = pathlib.Path(__file__).parents[1] / "golden" / "conformance"


def run(data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> int:
    monkeypatch.setattr(sys, "argv", ["conformance", str(data), *kinds])
    with pytest.raises(SystemExit) as ended:
        conformance.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_right_records_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(CASES, monkeypatch)
    said = capsys.readouterr().out
    kinds = "payloads 100.0 pipeline 100.0 fwrules 100.0 manifests 100.0 transcripts 100.0"
    assert said.splitlines()[-1] == f"conformance: {kinds}", said
    assert status == 0


def test_false_records_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(CASES, data)
    falsify(data / "fwrules.jsonl", "PORT 8443", "PORT 8444")
    falsify(data / "transcripts.jsonl", "Deleted snapshot dawn", "Removed snapshot dawn")
    status = run(data, monkeypatch, "fwrules", "transcripts")
    said = capsys.readouterr().out
    assert status == 1
    assert said.splitlines()[-1] == "conformance: fwrules 50.0 transcripts 88.9", said
    assert "first tide #50 a snapshot from the gap" in said
    assert "-Removed snapshot dawn" in said
    assert "+Deleted snapshot dawn" in said


def falsify(file: pathlib.Path, true: str, false: str) -> None:
    """Change what one record says was answered: the last place that has these words."""
    before, found, after = file.read_text().rpartition(true)
    assert found
    file.write_text(before + false + after)


def case(**given: object) -> world.Case:
    usual = {"cmd": "vmadm get x", "stdin": None, "stdout": "", "stderr": "", "rc": 0}
    return {**usual, **given}


def test_the_nearest_difference_is_told_in_lines() -> None:
    distance = compare.compare(case(stdout="one\ntwo\n"), world.Done(0, "one\nthree\n", ""))
    assert distance is not None
    assert distance.lines == 2
    assert "-two" in distance.reason
    assert "+three" in distance.reason
    assert "one" not in distance.reason.split("\n")[1:]


def test_another_stream_or_status_differs() -> None:
    recorded = case(stderr="done\n")
    assert compare.compare(recorded, world.Done(0, "", "done\n")) is None
    assert compare.compare(recorded, world.Done(0, "done\n", "")) is not None
    assert compare.compare(recorded, world.Done(1, "", "done\n")) is not None


def test_times_and_sizes_are_blanked_but_not_what_matters() -> None:
    shown = '"size": 0.0234375,\n"quota": 5,\n"date": "2026-01-02T03:04:05.678Z"\n'
    blanked = compare.blank(shown)
    assert blanked == compare.blank(shown.replace("0.0234375", "12").replace("2026", "2031"))
    assert blanked != compare.blank(shown.replace(": 5,", ": 6,"))


def test_drawn_uuids_are_numbered_but_not_given_ones() -> None:
    given, drawn, other = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
    recorded = case(cmd="fwadm add", stdin=given, stdout=f"{given} {drawn}\n")
    assert compare.compare(recorded, world.Done(0, f"{given} {other}\n", "")) is None
    assert compare.compare(recorded, world.Done(0, f"{other} {drawn}\n", "")) is not None


def test_keys_that_were_set_late_stand_behind_their_place() -> None:
    built = dict.fromkeys(("uuid", "alias", "firewall_enabled", "quota"))
    shown = dict.fromkeys(("uuid", "firewall_enabled", "alias", "quota"))
    assert build.late_keys(shown, built) == ["alias"]
    assert build.late_keys(built, built) == []


def test_json_shape() -> None:
    for name in ("vmadm_payloads", "fwrules", "manifests", "transcripts"):
        rows = (CASES / f"{name}.jsonl").read_text().splitlines()
        assert all(isinstance(json.loads(row), dict) for row in rows)
