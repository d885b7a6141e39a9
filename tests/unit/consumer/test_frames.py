# SPDX-License-Identifier: Apache-2.0
"""Reading what dtrace prints: whole frames are used, all else is counted and nothing is made up."""

import collections
import random

import pytest

from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import frames
from tests.unit.consumer import printed

ALL = printed.scripts("zone_io", "zone_vfs", "zone_net", "zone_final")
SHAPES = frames.shapes("\n".join(ALL.values()))
IO = {("ops", 3, 1): 4, ("ops", 3, 2): 1, ("us", 3, 1): 700}
LATENCY = {("us", 3, 1): {128: 3, 256: 1}}
FINAL = "F|zone_final|a1b2|9|50|60|nsec_user_raw=5|reads=9223372036854775807\n"


class Reader:
    """A parser and what it said."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int]] = []
        self.frames: list[consumer.Frame] = []
        self.finals: list[consumer.Final] = []
        self.drops: collections.Counter[str] = collections.Counter()
        self.parser = frames.Parser(
            SHAPES,
            begun=lambda *clocks: self.began.append(clocks),
            frame=self.frames.append,
            final=self.finals.append,
            drops=lambda kind: self.drops.update([kind]),
        )

    def read(self, text: str | bytes, size: int = 10**9) -> "Reader":
        data = text if isinstance(text, bytes) else text.encode()
        for start in range(0, len(data), size):
            self.parser.feed(data[start : start + size])
        return self


def begun() -> Reader:
    """A reader to which all scripts have begun."""
    return Reader().read(printed.head(*ALL, at=5))


def test_the_lines_that_a_script_prints() -> None:
    assert frames.shapes(ALL["zone_net"]) == {
        ("A", "zone_net", "bytes"): "dss",
        ("A", "zone_net", "packets"): "dss",
    }
    assert frames.shapes(ALL["zone_final"]) == {
        ("A", "zone_final", "zones"): "",
        ("F", "zone_final", ""): "",
    }


@pytest.mark.parametrize("size", [1, 7, 10**9])
def test_a_whole_run(size: int) -> None:
    text = printed.head("zone_io", "zone_final", at=5, wall=6)
    text += printed.frame("zone_io", 10, IO, LATENCY) + FINAL
    text += printed.frame("zone_final", 11, {("zones",): 1})
    reader = Reader().read(text, size)
    assert reader.began == [(5, 6)]
    assert reader.frames == [
        consumer.Frame(
            "zone_io",
            10,
            7,
            {("ops", "3", "1"): 4, ("ops", "3", "2"): 1, ("us", "3", "1"): 700},
            {("us", "3", "1"): {128: 3, 256: 1}},
        ),
        consumer.Frame("zone_final", 11, 7, {("zones",): 1}, {}),
    ]
    counters = {"nsec_user_raw": 5, "reads": 2**63 - 1}
    assert reader.finals == [consumer.Final("a1b2", 9, 50, 60, counters)]
    assert not reader.drops


def test_a_frame_without_its_end_is_not_used() -> None:
    text = printed.frame("zone_io", 10, IO, LATENCY)
    for length in range(len(text)):
        reader = begun().read(text[:length])
        reader.parser.end()
        assert not reader.frames
        assert reader.drops[frames.CUT_OFF] == (1 if length >= text.index("\n") + 1 else 0)


def test_a_frame_begins_before_the_last_has_ended() -> None:
    cut = printed.frame("zone_io", 10, IO).removesuffix("E|zone_io\n")
    reader = begun().read(cut + printed.frame("zone_io", 11, {("ops", 3, 1): 9}))
    assert [frame.values for frame in reader.frames] == [{("ops", "3", "1"): 9}]
    assert reader.drops == {frames.CUT_OFF: 1}


@pytest.mark.parametrize(
    "line",
    [
        "A|zone_io|ops|3|1|NaN",
        "A|zone_io|ops|3|1|nan",
        "A|zone_io|ops|3|1|-1",
        "A|zone_io|ops|3|1|1e9",
        "A|zone_io|ops|3|1|0x10",
        "A|zone_io|ops|3|1| 1",
        "A|zone_io|ops|3|1|1 ",
        "A|zone_io|ops|3|1|",
        "A|zone_io|ops|3|1|٣",
        "A|zone_io|ops|3|1|9223372036854775808",
        "A|zone_io|ops|3|1|99999999999999999999999999",
        "A|zone_io|ops|3|1",
        "A|zone_io|ops|3|1|2|5",
        "A|zone_io|ops|x|1|5",
        "A|zone_io|ops||1|5",
        "A|zone_io|oops|3|1|5",
        "A|zone_net|bytes|3|internal|in|5",
        "A|zone_io",
        "A",
        "Q|zone_io|us|3|1|5",
        "Q|zone_io|ops|3|1|",
        "H|zone_io|1|5|6",
        "E|zone_net|",
        "E|zone_net",
        "E|zone_io|",
        "E|",
        "Z|zone_io|1",
        "dtrace: 5 drops on CPU 1",
        "  3   4  5",
        "\x00",
        "A|zone_io|ops|3|1|5\r",
        "x" * 200_000,
    ],
)
def test_a_line_that_does_not_fit(line: str) -> None:
    good = printed.frame("zone_io", 10, IO, LATENCY)
    end = good.index("E|")
    reader = begun().read(f"{good[:end]}{line}\n{good[end:]}", 65536)
    assert [frame.values for frame in reader.frames] == [
        {("ops", "3", "1"): 4, ("ops", "3", "2"): 1, ("us", "3", "1"): 700}
    ]
    assert reader.drops == {frames.NOT_UNDERSTOOD: 1}


def test_lines_outside_of_frames() -> None:
    text = "A|zone_io|ops|3|1|5\nQ|zone_io|us|3|1|\nE|zone_io\n"
    reader = begun().read(text + "  3  1      5\n" + printed.table({64: 1}))
    assert not reader.frames
    # the three of the beginning, dtrace's own way to print, and a table of 4 lines
    assert reader.drops == {frames.NOT_UNDERSTOOD: 3 + 1 + 4}


@pytest.mark.parametrize(
    "text",
    [
        "S|zone_io|10|7\nE|zone_io\n",
        "H|zone_io|2|5|6\nS|zone_io|10|7\nE|zone_io\n",
        "H|zone_tcp|1|5|6\nS|zone_tcp|10|7\nE|zone_tcp\n",
        "H|zone_io|1|5\nS|zone_io|10|7\nE|zone_io\n",
    ],
)
def test_a_run_whose_beginning_is_not_ours(text: str) -> None:
    reader = Reader().read(text)
    assert not reader.frames and not reader.began and reader.drops[frames.NOT_UNDERSTOOD]


def test_a_frame_that_is_older_than_the_last() -> None:
    reader = begun().read(printed.frame("zone_io", 10, IO) + printed.frame("zone_io", 9, IO))
    assert len(reader.frames) == 1 and reader.drops[frames.NOT_UNDERSTOOD]


def test_what_comes_twice_is_not_believed() -> None:
    """As from a zone whose name holds a newline and the line of another zone."""
    key = ("ops", "victim", "fop_read")
    text = printed.frame(
        "zone_vfs", 10, {("ops", "evil\nA|zone_vfs|ops|victim", "fop_read"): 10**9}
    )
    whole = text.replace(
        "E|", "A|zone_vfs|ops|victim|fop_read|5\nA|zone_vfs|ops|other|fop_read|6\nE|"
    )
    reader = begun().read(whole)
    assert [frame.values for frame in reader.frames] == [{("ops", "other", "fop_read"): 6}]
    assert key not in reader.frames[0].values
    # what stands before the newline, and the second of the two
    assert reader.drops == {frames.NOT_UNDERSTOOD: 2}


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (printed.TITLE, "value count"),
        ("             128 |", "             129 |"),
        ("             256 |", "             128 |"),
        (" 3        \n", " -3       \n"),
        (" 3        \n", " nan      \n"),
        (" 3        \n", " 9223372036854775808\n"),
        ("             128 |", "9223372036854775808 |"),
        ("|@", "@@"),
        ("|@", "|"),
    ],
)
def test_a_distribution_that_does_not_fit(there: str, instead: str) -> None:
    text = printed.frame("zone_io", 10, IO, LATENCY | {("us", 4, 1): {8: 1}})
    assert there in text
    reader = begun().read(text.replace(there, instead, 1))
    assert [frame.distributions for frame in reader.frames] == [{("us", "4", "1"): {8: 1}}]
    assert reader.drops[frames.NOT_UNDERSTOOD] >= 1


def test_a_distribution_of_which_only_the_name_came() -> None:
    text = printed.frame("zone_io", 10, IO).replace("E|", "Q|zone_io|us|3|1|\nE|")
    reader = begun().read(text)
    assert [frame.distributions for frame in reader.frames] == [{}]
    assert reader.drops == {frames.NOT_UNDERSTOOD: 1}


@pytest.mark.parametrize(
    "line",
    [
        "F|zone_final|a1b2|9|50",
        "F|zone_final|a1b2|9|50|60",
        "F|zone_final|a1b2|9|50|60|reads",
        "F|zone_final|a1b2|9|50|60|reads=-1",
        "F|zone_final|a1b2|9|50|60|reads=1|reads=2",
        "F|zone_final|a1 b2|9|50|60|reads=1",
        "F|zone_final||9|50|60|reads=1",
        "F|zone_final|a1b2|-9|50|60|reads=1",
        "F|zone_io|a1b2|9|50|60|reads=1",
    ],
)
def test_a_last_reading_that_does_not_fit(line: str) -> None:
    reader = begun().read(f"{line}\n")
    assert not reader.finals and reader.drops == {frames.NOT_UNDERSTOOD: 1}


def test_a_last_reading_in_the_middle_of_a_frame() -> None:
    reader = begun().read(printed.frame("zone_io", 10, IO).replace("E|", f"{FINAL}E|"))
    assert len(reader.frames) == len(reader.finals) == 1 and not reader.drops


def test_a_line_that_never_ends_takes_no_memory() -> None:
    reader = begun()
    for _ in range(1000):
        reader.read(b"A" * 65536)
    assert len(reader.parser._rest) <= frames.LINE_BYTES
    reader.read("\n" + printed.frame("zone_io", 10, IO))
    assert len(reader.frames) == 1 and reader.drops == {frames.NOT_UNDERSTOOD: 1}


def test_a_frame_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_VALUES", 10)
    reader = begun().read(printed.frame("zone_io", 10, {("ops", n, 1): 1 for n in range(50)}))
    assert len(reader.frames[0].values) == 10
    assert reader.drops == {frames.NOT_UNDERSTOOD: 40}


def test_damaged_output_makes_nothing_up() -> None:
    """Bytes lost, doubled or changed: what is read without a drop was printed."""
    values = {("ops", zone, 1): zone * 1000 for zone in range(1, 6)}
    text = printed.frame("zone_io", 10, values, LATENCY).encode()
    truth = {tuple(map(str, key)): value for key, value in values.items()}
    unharmed = 0
    for seed in range(600):
        chance = random.Random(seed)
        start = chance.randrange(len(text))
        end = start + chance.randrange(40)
        # line by line, since within a line a digit that is gone cannot be seen
        start = text.rfind(b"\n", 0, start) + 1
        end = text.find(b"\n", end) + 1 or len(text)
        middle = chance.choice([b"", text[start:end] * 2, chance.randbytes(chance.randrange(30))])
        reader = begun().read(text[:start] + middle + text[end:])
        for frame in reader.frames:
            assert frame.values.items() <= truth.items()
            unharmed += 1
    assert unharmed > 100
