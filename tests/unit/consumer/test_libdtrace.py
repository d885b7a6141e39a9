# SPDX-License-Identifier: Apache-2.0
"""The binding of libdtrace, called through C on a fake with the real layout of memory."""

import ctypes
import ctypes.util
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ceilometer_plugin.consumer import fake_libdtrace, libdtrace
from tests import waits
from tests.unit.consumer import printed

#: More than 32 bits hold.
LARGE = 21_474_836_487
ZONE = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def library() -> fake_libdtrace.Library:
    return fake_libdtrace.Library()


def decoded(*entries: fake_libdtrace.Entry) -> list[libdtrace.Aggregation]:
    """What a walk over these gives."""
    found: list[libdtrace.Aggregation] = []
    for entry in entries:
        data = libdtrace.AggregationData.from_buffer(entry.memory)
        found.append(libdtrace.aggregation(data))
    return found


# decoding


@pytest.mark.parametrize("strsize", [16, 48, 64, 256])
@pytest.mark.parametrize("key_bytes", [1, 2, 4, 8])
def test_keys_of_any_size(strsize: int, key_bytes: int) -> None:
    keys = ("fop_read", -3, "x" * (strsize - 1), 7)
    entry = fake_libdtrace.number("n", keys, LARGE, strsize=strsize, key_bytes=key_bytes)
    assert decoded(entry) == [libdtrace.Aggregation("n", keys, LARGE)]


@pytest.mark.parametrize("value", [0, 1, -1, LARGE, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_numbers_are_whole(value: int) -> None:
    assert decoded(fake_libdtrace.number("n", (), value))[0].value == value


@pytest.mark.parametrize(("value", "normal", "shown"), [(7, 2, 3), (-7, 2, -3), (LARGE, 1, LARGE)])
def test_normalized(value: int, normal: int, shown: int) -> None:
    assert decoded(fake_libdtrace.number("n", (1,), value, normal=normal))[0].value == shown


@pytest.mark.parametrize(("words", "shown"), [([4, 10], 2), ([4, -10], -2), ([0, 0], 0)])
def test_averages(words: list[int], shown: int) -> None:
    assert decoded(fake_libdtrace.Entry("n", (), fake_libdtrace.AVG, words))[0].value == shown


def test_powers_of_two() -> None:
    counts = {-(2**62): 1, -2: 2, -1: 3, 0: LARGE, 1: 4, 2: 5, 1024: 6, 2**62: 7}
    assert decoded(fake_libdtrace.quantized("q", (3, 1), counts))[0].value == counts


def test_powers_of_two_normalized() -> None:
    assert decoded(fake_libdtrace.quantized("q", (), {8: 9}, normal=2))[0].value == {8: 4}


def test_even_steps() -> None:
    # lquantize(x, -10, 20, 10): below, -10, 0, 10, from 20
    word = 10 << 48 | 3 << 32 | (-10 & 0xFFFFFFFF)
    entry = fake_libdtrace.Entry("l", (), fake_libdtrace.LQUANTIZE, [word, 1, 2, 3, 4, 5])
    assert decoded(entry)[0].value == {libdtrace.LOWEST: 1, -10: 2, 0: 3, 10: 4, 20: 5}


def test_steps_within_orders() -> None:
    # llquantize(x, 10, 0, 2, 10): below 1, 1 … 9, 10 … 90, 100 … 900, from 1000
    word = 10 << 48 | 0 << 32 | 2 << 16 | 10
    counts = list(range(1, 30))
    entry = fake_libdtrace.Entry("ll", (), fake_libdtrace.LLQUANTIZE, [word, *counts])
    bounds = [libdtrace.LOWEST, *range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]
    assert decoded(entry)[0].value == dict(zip(bounds, counts, strict=True))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (fake_libdtrace.SUM, []),
        (fake_libdtrace.SUM, [1, 2]),
        (fake_libdtrace.AVG, [1]),
        (fake_libdtrace.QUANTIZE, [1] * 126),
        (fake_libdtrace.LQUANTIZE, [10 << 48 | 3 << 32, 1]),
        (fake_libdtrace.LLQUANTIZE, [0, 1]),
        (fake_libdtrace.STDDEV, [1, 2, 3, 4]),
        (0x42, [1]),
    ],
)
def test_what_cannot_be_decoded_is_no_number(action: int, words: list[int]) -> None:
    with pytest.raises(libdtrace.Undecodable):
        decoded(fake_libdtrace.Entry("n", (1,), action, words))


def test_a_record_beyond_its_data() -> None:
    entry = fake_libdtrace.number("n", (1,), 5)
    data = libdtrace.AggregationData.from_buffer(entry.memory)
    data.dtada_size -= 1
    with pytest.raises(libdtrace.Undecodable):
        libdtrace.aggregation(data)


# loading


def test_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(libdtrace.Unavailable, match="there is no libdtrace"):
        libdtrace.DTraceConsumer().run("BEGIN { }")


def test_a_library_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = ctypes.util.find_library("c")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: libc)
    with pytest.raises(libdtrace.Unavailable, match="has no dtrace_open"):
        libdtrace.load()


def test_a_layout_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _, size, offsets = libdtrace.LAYOUT[1]
    wrong = (libdtrace.AggregationDescription, size, dict(offsets) | {"dtagd_id": 24})
    monkeypatch.setattr(libdtrace, "LAYOUT", (wrong,))
    with pytest.raises(libdtrace.Unavailable, match="AggregationDescription lies otherwise"):
        libdtrace.load(fake_libdtrace.Library())


def test_a_library_without_what_only_linux_has(library: fake_libdtrace.Library) -> None:
    libdtrace.DTraceConsumer(library=library).run("BEGIN { }", 0)
    assert "dtrace_init" in library.calls
    del library.dtrace_init  # type: ignore[attr-defined]
    library.calls.clear()
    libdtrace.DTraceConsumer(library=library).run("BEGIN { }", 0)
    assert library.calls[-1] == "dtrace_close"


# python-dtrace's classes


class Heard:
    """Four callbacks that keep what they get."""

    def __init__(self) -> None:
        self.cpus: list[int] = []
        self.records: list[bool] = []
        self.text: list[bytes] = []
        self.found: list[libdtrace.Aggregation] = []

    def chew(self, data: Any, _arg: Any) -> int:
        self.cpus.append(data.contents.dtpda_cpu)
        return 0

    def chew_rec(self, data: Any, rec: Any, _arg: Any) -> int:
        self.records.append(bool(rec))
        return 0

    def walk(self, data: Any, _arg: Any) -> int:
        self.found.append(libdtrace.aggregation(data.contents))
        return 0

    def out(self, bufdata: Any, _arg: Any) -> int:
        self.text.append(bufdata.contents.dtbda_buffered)
        return 0

    @property
    def callbacks(self) -> tuple[Callable[..., int], ...]:
        return self.chew, self.chew_rec, self.walk, self.out


def test_a_script_runs_for_a_while(library: fake_libdtrace.Library) -> None:
    heard = Heard()
    library.fired = [0, 5]
    library.printed = [b"one\n", b"two\n"]
    library.entries = [fake_libdtrace.number("bytes", (ZONE,), LARGE)]
    made = libdtrace.DTraceConsumer(*heard.callbacks, library=library)
    made.run("syscall:::entry { @bytes[zonename] = count(); }", runtime=0.01)
    assert heard.cpus == [0, 5] and heard.records == [False, False]
    assert heard.text == [b"one\n", b"two\n"]
    assert heard.found == [libdtrace.Aggregation("bytes", (ZONE,), LARGE)]
    assert library.program.startswith("syscall:::entry")
    assert library.flags == 0
    assert library.options == libdtrace.OPTIONS
    order = [name for name in library.calls if name in ("dtrace_go", "dtrace_stop")]
    assert order == ["dtrace_go", "dtrace_stop"] and library.calls[-1] == "dtrace_close"
    works = library.calls.count("dtrace_work")
    assert works == library.calls.count("dtrace_status") >= 2


def test_what_the_simple_callbacks_print(
    library: fake_libdtrace.Library, capsys: pytest.CaptureFixture[str]
) -> None:
    library.fired = [3]
    library.printed = [b"hello\n"]
    library.entries = [fake_libdtrace.number("n", (ZONE, 4), LARGE)]
    libdtrace.DTraceConsumer(library=library).run("BEGIN { }", 0)
    assert capsys.readouterr().out == f"CPU : 3\nout > b'hello'\n{ZONE} 4 : {LARGE}\n"


@pytest.mark.parametrize(
    "name",
    [
        *("dtrace_open", "dtrace_init", "dtrace_setopt", "dtrace_handle_buffered"),
        *("dtrace_handle_drop", "dtrace_handle_err", "dtrace_program_strcompile"),
        *("dtrace_program_exec", "dtrace_go", "dtrace_work", "dtrace_status"),
        *("dtrace_aggregate_snap", "dtrace_aggregate_walk_keysorted"),
    ],
)
def test_what_fails_is_said_and_everything_is_given_back(
    library: fake_libdtrace.Library, name: str
) -> None:
    library.failing = {name: f"no {name} today"}
    with pytest.raises(libdtrace.DTraceError, match=f"{name}: no {name} today"):
        libdtrace.DTraceConsumer(library=library).run("BEGIN { }", 0)
    assert library.calls.count("dtrace_stop") == (1 if "dtrace_work" in library.calls else 0)
    assert library.calls.count("dtrace_close") == (0 if name == "dtrace_open" else 1)


def test_drops_and_errors_are_counted_and_end_nothing(library: fake_libdtrace.Library) -> None:
    library.lost = [(0, 2), (1, 12), (1, 1), (2, 3), (4, 4), (99, 5)]
    library.errors = [b"error on enabled probe ID 3: invalid address\n"]
    made = libdtrace.DTraceConsumer(library=library)
    made.run("BEGIN { }", 0)
    assert made.drops == {
        "drops": 2,
        "aggregation drops": 13,
        "dynamic variable drops": 3,
        "dynamic variable drops with non-empty dirty list": 4,
        "other drops": 5,
        "probe errors": 1,
    }


@pytest.mark.parametrize("place", range(4))
def test_what_a_callback_raises_comes_out(library: fake_libdtrace.Library, place: int) -> None:
    def fail(*_: Any) -> int:
        raise ZeroDivisionError("in a callback")

    library.fired, library.printed = [1], [b"x"]
    library.entries = [fake_libdtrace.number("n", (), 1)]
    callbacks = list(Heard().callbacks)
    callbacks[place] = fail
    with pytest.raises(ZeroDivisionError):
        libdtrace.DTraceConsumer(*callbacks, library=library).run("BEGIN { }", 0)
    assert "dtrace_stop" in library.calls and library.calls[-1] == "dtrace_close"


def test_a_thread(library: fake_libdtrace.Library) -> None:
    heard = Heard()
    library.entries = [fake_libdtrace.number("n", (), 1)]
    thread = libdtrace.DTraceConsumerThread("BEGIN { }", *heard.callbacks, library=library)
    thread.start()
    waits.until(lambda: heard.found)
    assert not thread.stopped()
    thread.stop()
    thread.join(waits.SECONDS)
    assert thread.stopped() and not thread.is_alive()
    assert library.calls[-1] == "dtrace_close"


def test_a_thread_that_fails(library: fake_libdtrace.Library) -> None:
    library.failing = {"dtrace_program_strcompile": "syntax error near x"}
    thread = libdtrace.DTraceConsumerThread("x", library=library)
    thread.start()
    with pytest.raises(libdtrace.DTraceError, match="syntax error near x"):
        thread.join(waits.SECONDS)


@pytest.fixture
def python_dtrace(
    library: fake_libdtrace.Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """python-dtrace, on the same fake; it loads the library when it is imported."""
    monkeypatch.setattr(ctypes.cdll, "LoadLibrary", lambda name: library)
    try:
        yield importlib.import_module("dtrace_ctypes.consumer")
    except ImportError:
        pytest.skip("python-dtrace is not installed (extra python-dtrace)")
    finally:
        for name in [name for name in sys.modules if name.startswith("dtrace_ctypes")]:
            del sys.modules[name]


def test_python_dtrace_has_the_same_callbacks(
    library: fake_libdtrace.Library, python_dtrace: Any
) -> None:
    def run(module: Any, **options: Any) -> list[object]:
        seen: list[object] = []
        library.fired, library.printed = [4], [b"hello\n"]
        library.entries = [fake_libdtrace.number("n", (), 1)]
        made = module.DTraceConsumer(
            chew_func=lambda data, arg: seen.append(("chew", data.contents.dtpda_cpu)) or 0,
            chew_rec_func=lambda data, rec, arg: seen.append(("record", bool(rec))) or 0,
            walk_func=lambda data, arg: seen.append("walk") or 0,
            out_func=lambda data, arg: seen.append(("out", data.contents.dtbda_buffered)) or 0,
            **options,
        )
        made.run("BEGIN { }", runtime=0.001)
        return seen

    theirs = run(python_dtrace)
    ours = run(libdtrace, library=library)
    assert ours == theirs == [("chew", 4), ("record", False), ("out", b"hello\n"), "walk"]
    words = ("simple_chew_func", "simple_chewrec_func", "simple_walk", "DTraceConsumerThread")
    for name in (*words, "simple_buffered_out_writer", "noop_walk", "WALK_FUNC", "CHEW_FUNC"):
        assert hasattr(libdtrace, name) and hasattr(python_dtrace, name)


# the consumer


@pytest.fixture
def running(
    library: fake_libdtrace.Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[libdtrace.Libdtrace]:
    monkeypatch.setattr(libdtrace, "PULSE_SECONDS", 0.001)
    scripts = printed.scripts("zone_io", "zone_final")
    made = libdtrace.Libdtrace(
        "here", scripts, period_seconds=0, pause_seconds=0.001, library=library
    )
    yield made
    made.close()


def test_frames(library: fake_libdtrace.Library, running: libdtrace.Libdtrace) -> None:
    library.printed = [printed.head("zone_io", "zone_final", at=9).encode()]
    library.printed += [b"F|zone_final|a1b2|9|50|", b"60|reads=5\n"]
    library.entries = [
        fake_libdtrace.number("zone_io_ops", (3, 1), LARGE),
        fake_libdtrace.quantized("zone_io_us_distribution", (3, 1), {64: 2}),
        fake_libdtrace.number("zone_final_zones", (), 1),
        fake_libdtrace.number("someone_elses", (), 1),
    ]
    running.start()
    waits.until(lambda: len(running.frames()) == 2)
    assert running.run == "here:9" and running.failure is None and not running.unsupported
    frame = running.frames()["zone_io"]
    assert frame.values == {("ops", "3", "1"): LARGE}
    assert frame.distributions == {("us", "3", "1"): {64: 2}}
    assert frame.run == running.run and frame.hrtime_ns > 0
    assert running.frames()["zone_final"].values == {("zones",): 1}
    assert [final.counters for final in running.finals()] == [{"reads": 5}]
    assert library.arguments == ["dtrace", "1000000000", "0", "0"]
    assert running.drops.keys() == {"aggregations not understood"}
    library.entries = [fake_libdtrace.number("zone_io_ops", (3, 1), LARGE + 1)]
    running.close()
    # what was counted until the end
    assert running.frames()["zone_io"].values == {("ops", "3", "1"): LARGE + 1}
    assert library.calls[-2:] == ["dtrace_stop", "dtrace_close"]


def test_a_library_that_gives_up(
    library: fake_libdtrace.Library, running: libdtrace.Libdtrace
) -> None:
    library.printed = [printed.head("zone_io", "zone_final", at=9).encode()]
    library.entries = [fake_libdtrace.number("zone_io_ops", (3, 1), 1)]
    running.start()
    waits.until(running.frames)
    library.failing = {"dtrace_work": "Abort due to systemic unresponsiveness"}
    waits.until(lambda: running.failure)
    assert running.failure == "dtrace_work: Abort due to systemic unresponsiveness"
    ended = {frame.run: frame.values for frame in running.ended() if frame.script == "zone_io"}
    assert ended == {"here:9": {("ops", "3", "1"): 1}}
    assert running.frames() == {} and running.restarts == 1
    library.printed = [printed.head("zone_io", "zone_final", at=10).encode()]
    library.failing = {}
    waits.until(running.frames)
    assert running.run == "here:10" and running.failure is None


def test_a_script_that_the_library_refuses(
    library: fake_libdtrace.Library, running: libdtrace.Libdtrace
) -> None:
    said = "probe description sdt:::zfs-zone-latency does not match any probes"
    library.refused = {"sdt:::zfs-zone-latency": f"line 40: {said}"}
    library.printed = [printed.head("zone_final", at=9).encode()]
    running.start()
    waits.until(lambda: running.frames().keys() == {"zone_final"})
    assert running.unsupported == {"zone_io": said} and running.restarts == 0
    library.refused |= {"zone_kstat_delete": "line 7: no"}
    library.failing = {"dtrace_work": "Abort due to systemic unresponsiveness"}
    waits.until(lambda: running.failure == "none of the scripts can run here")
    assert running.unsupported == {"zone_io": said, "zone_final": "no"}


def test_there_is_nothing_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    made = libdtrace.Libdtrace("here", printed.scripts("zone_io"))
    made.start()
    waits.until(lambda: made.failure == "there is no libdtrace")
    made.close()
