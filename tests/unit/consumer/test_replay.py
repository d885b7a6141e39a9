# SPDX-License-Identifier: Apache-2.0
"""Recorded output: every run in it, its last frames, and what was lost."""

import pathlib

from ceilometer_plugin.consumer import replay
from tests.unit.consumer import printed

SCRIPTS = printed.scripts("zone_io", "zone_final")
KEY = ("ops", "3", "1")


def recorded(path: pathlib.Path, text: str) -> replay.Replay:
    """A consumer that has read this."""
    (path / "recorded").write_text(text)
    made = replay.Replay(path / "recorded", SCRIPTS)
    made.start()
    made.close()
    return made


def run(at: int, *values: int) -> str:
    """What one run prints."""
    text = printed.head("zone_io", "zone_final", at=at)
    for number, value in enumerate(values):
        text += printed.frame("zone_io", at + number, {("ops", 3, 1): value})
    return text


def test_one_run(tmp_path: pathlib.Path) -> None:
    made = recorded(tmp_path, run(5, 1, 4) + "F|zone_final|a1b2|9|50|60|reads=5\n")
    assert made.run == "replay:5" and made.ended() == []
    assert [(frame.run, frame.values) for frame in made.frames().values()] == [
        ("replay:5", {KEY: 4})
    ]
    assert [final.zonename for final in made.finals()] == ["a1b2"] and made.finals() == []
    assert not made.drops and not made.unsupported and made.restarts == 0
    assert made.failure == "the recording is at its end"


def test_three_runs(tmp_path: pathlib.Path) -> None:
    made = recorded(tmp_path, run(5, 1, 4) + run(100, 7, 8) + run(200, 2))
    assert [(frame.run, frame.values[KEY]) for frame in made.ended()] == [
        ("replay:5", 4),
        ("replay:100", 8),
    ]
    assert made.run == "replay:200" and made.frames()["zone_io"].values == {KEY: 2}


def test_a_recording_that_was_cut_off(tmp_path: pathlib.Path) -> None:
    made = recorded(tmp_path, run(5, 1, 4)[:-3])
    assert made.frames()["zone_io"].values == {KEY: 1}
    assert made.drops == {"frames cut off": 1}


def test_there_is_no_recording(tmp_path: pathlib.Path) -> None:
    made = replay.Replay(tmp_path / "none", SCRIPTS)
    assert made.failure == "it was not started"
    made.start()
    assert made.failure and "No such file" in made.failure and made.frames() == {}
