# SPDX-License-Identifier: Apache-2.0
"""The program dtrace as a consumer: started anew, handing over exactly, telling what it lost."""

import contextlib
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator

import pytest

from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import program
from nova_smartos.smartos import errors, node
from tests import waits
from tests.unit import sshd
from tests.unit.consumer import made_up_node, printed

NS = made_up_node.NS
SCRIPTS = printed.scripts("zone_io")
KEY = ("ops", "3", "1")


@contextlib.contextmanager
def running(
    carrier: made_up_node.Carrier, scripts: dict[str, str] | None = None, **options: int
) -> Iterator[program.Program]:
    """A consumer that is at work."""
    made = program.Program(carrier.node, "node1", scripts or SCRIPTS, pauses=(0.01,) * 3, **options)
    made.start()
    try:
        yield made
    finally:
        made.close()


def total(made: consumer.Consumer, runs: dict[str, int]) -> int:
    """What all runs have counted, as a ledger would keep it."""
    for frame in [*made.ended(), *made.frames().values()]:
        runs[frame.run] = max(runs.get(frame.run, 0), frame.values.get(KEY, 0))
    return sum(runs.values())


def test_frames_and_last_readings() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier, printed.scripts("zone_io", "zone_final"), period_seconds=5) as made:
        assert made.failure == "it was not started" or made.failure is None
        stream = carrier.begun(0)
        assert stream.command.argv[4:] == ("5", "0", str(carrier.now_ns + 3600 * NS))
        assert "#!" not in stream.program
        assert stream.program.count("dtrace:::END") == 2
        stream.say(printed.head("zone_io", "zone_final", at=1000))
        stream.say(printed.frame("zone_io", 2000, {("ops", 3, 1): 4}, {("us", 3, 1): {64: 4}}))
        stream.say("F|zone_final|a1b2|9|50|60|reads=5\n")
        waits.until(made.finals)
        assert made.run == "node1:1000"
        frame = consumer.Frame("zone_io", 2000, 7, {KEY: 4}, {("us", "3", "1"): {64: 4}}, made.run)
        assert made.frames() == {"zone_io": frame}
        assert made.finals() == [] and made.ended() == []
        assert (made.failure, dict(made.drops), made.restarts) == (None, {}, 0)
    assert stream.killed.is_set()
    assert made.failure == "it was closed" and made.frames() == {"zone_io": frame}


def test_a_hand_over_counts_every_event_once() -> None:
    carrier = made_up_node.Carrier()
    runs: dict[str, int] = {}
    began_ns = carrier.now_ns
    with running(carrier, window_seconds=20, lead_seconds=5) as made:
        current, number = carrier.begun(0), 0
        current.say(printed.head("zone_io", at=carrier.now_ns))
        following, names = None, []
        waits.until(lambda: made.run)
        down_ns = made.down_ns
        for _ in range(110):
            # not a multiple of anything, so that windows close between two events and two frames
            carrier.now_ns += 1_234_567_891
            for stream in filter(None, (current, following)):
                carrier.frame(stream)
            waits.until(lambda: newest(made) == carrier.now_ns, pause=0.001)
            total(made, runs)
            _, until_ns = current.window
            if following is None and carrier.now_ns >= until_ns - 5 * NS:
                following = carrier.begun(number + 1)
                assert following.window == (until_ns, until_ns + 20 * NS)
                following.say(printed.head("zone_io", at=carrier.now_ns))
            if following and carrier.now_ns >= until_ns + program.SETTLING_NS:
                waits.until(current.killed.is_set)
                names.append(f"node1:{following.began_ns}")
                waits.until(lambda: made.run == names[-1])
                current, following, number = following, None, number + 1
        truth = carrier.now_ns // made_up_node.EVERY_NS - began_ns // made_up_node.EVERY_NS
        assert total(made, runs) == truth
        assert made.down_ns == down_ns
        assert len(names) == 6 and set(names) < runs.keys() and len(runs) == 7
        assert (made.failure, dict(made.drops), made.restarts) == (None, {}, 0)


def newest(made: program.Program) -> int:
    """When the newest frame was taken."""
    return max((frame.hrtime_ns for frame in made.frames().values()), default=0)


def test_a_hand_over_that_is_asked_for() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        first = carrier.begun(0)
        first.say(printed.head("zone_io", at=carrier.now_ns))
        waits.until(lambda: made.run)
        made.roll()
        assert carrier.begun(1).window[0] == first.window[1]
        assert made.run == f"node1:{carrier.now_ns}" and not first.killed.is_set()


def test_a_hand_over_that_comes_late_is_told() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier, window_seconds=100) as made:
        first = carrier.begun(0)
        first.say(printed.head("zone_io", at=carrier.now_ns))
        carrier.now_ns += 99 * NS
        carrier.frame(first)
        second = carrier.begun(1)
        second.say(printed.head("zone_io", at=second.window[0] + 1))
        waits.until(lambda: made.drops)
        assert made.drops == {program.LATE: 1}


def test_a_successor_that_dies_is_tried_again_while_the_old_one_counts() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        first = carrier.begun(0)
        first.say(printed.head("zone_io", at=carrier.now_ns))
        waits.until(lambda: made.run)
        made.roll()
        carrier.begun(1).end(1, "dtrace: could not enable tracing: Not enough space\n")
        assert carrier.begun(2).window == (first.window[1], first.window[1] + 3600 * NS)
        assert not first.killed.is_set() and made.run == f"node1:{carrier.now_ns}"


def late_in_its_window(
    carrier: made_up_node.Carrier, made: program.Program
) -> tuple[made_up_node.Stream, int]:
    """The first run, when the next is due, and how long none had counted when it began."""
    first = carrier.begun(0)
    first.say(printed.head("zone_io", at=carrier.now_ns))
    waits.until(lambda: made.run)
    down_ns = made.down_ns
    carrier.now_ns += 16 * NS
    carrier.frame(first)
    return first, down_ns


def test_a_window_that_closes_before_another_opens_is_time_without_a_consumer() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier, window_seconds=20, lead_seconds=5) as made:
        first, down_ns = late_in_its_window(carrier, made)
        for number in (1, 2):
            carrier.begun(number).end(1, "dtrace: failed to initialize dtrace: no\n")
        assert made.down_ns == down_ns
        # it goes on telling, of what it counts no longer
        carrier.now_ns += 5 * NS
        carrier.frame(first)
        waits.until(lambda: made.down_ns > down_ns, "that to be told", 20)
        carrier.begun(3).say(printed.head("zone_io", at=carrier.now_ns))
        waits.until(lambda: made.drops == {program.LATE: 1})
        assert made.down_ns == made.down_ns > down_ns


def test_a_run_that_dies_before_its_followers_window_opens_leaves_a_gap() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier, window_seconds=20, lead_seconds=5) as made:
        first, down_ns = late_in_its_window(carrier, made)
        second = carrier.begun(1)
        second.say(printed.head("zone_io", at=carrier.now_ns + 1))
        first.end(1, "dtrace: processing aborted\n")
        waits.until(lambda: made.run == f"node1:{carrier.now_ns + 1}")
        # it tells already, and does not count
        carrier.now_ns += NS
        carrier.frame(second)
        waits.until(lambda: newest(made) == carrier.now_ns)
        before = made.down_ns
        waits.until(lambda: made.down_ns > before > down_ns, "that to be told", 20)
        carrier.now_ns += 3 * NS
        carrier.frame(second)
        waits.until(lambda: newest(made) == carrier.now_ns)
        assert made.down_ns == made.down_ns


def test_an_old_run_that_dies_before_its_window_closes() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        first = carrier.begun(0)
        first.say(printed.head("zone_io", at=5))
        carrier.frame(first)
        waits.until(made.frames)
        made.roll()
        second = carrier.begun(1)
        second.say(printed.head("zone_io", at=6))
        first.end(1, "dtrace: processing aborted: Abort due to systemic unresponsiveness\n")
        waits.until(lambda: made.run == "node1:6")
        assert [frame.run for frame in made.ended()] == ["node1:5"]
        assert made.restarts == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "ended by itself"),
        (errors.OutcomeUnknown("the connection broke"), "the connection broke"),
        (OSError("read error"), "read error"),
    ],
)
def test_a_dtrace_that_dies(error: Exception | None, words: str) -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        first = carrier.begun(0)
        first.say(printed.head("zone_io", at=5))
        carrier.frame(first)
        waits.until(made.frames)
        # in the middle of the next frame
        first.say("S|zone_io|9999999999999|7\nA|zone_io|ops|3|1|99999")
        carrier.error = errors.NotStarted("the node is away")
        if error:
            first.fail(error)
        else:
            first.end(0)
        waits.until(lambda: made.failure == "the node is away")
        assert made.restarts == 1 and made.drops == {"frames cut off": 1}
        down = made.down_ns
        waits.until(lambda: made.down_ns > down)
        assert [frame.run for frame in made.ended()] == ["node1:5"] and made.ended() == []
        carrier.error = None
        second = carrier.begun(1)
        assert second.window[0] == 0
        second.say(printed.head("zone_io", at=6))
        waits.until(lambda: made.run == "node1:6")
        assert made.failure is None and made.frames() == {} and made.restarts == 1
        assert made.down_ns == made.down_ns > down
    assert words


def test_the_pauses_grow_until_a_run_bears_fruit() -> None:
    carrier = made_up_node.Carrier()
    carrier.error = errors.NotStarted("the node is away")
    made = program.Program(carrier.node, "node1", SCRIPTS, pauses=(0.01, 0.01, 3600.0))
    made.start()
    waits.until(lambda: len(carrier.commands) == 2 and made.failure)
    made.close()
    assert len(carrier.commands) == 2


def test_drops() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        stream = carrier.begun(0)
        for text in (
            "dtrace: 12 aggregation drops on CPU 0\ndtrace: 1 aggregation drop on CPU 1\n",
            "dtrace: 5 drops on CPU 3\ndtrace: 3 dynamic variable drops\n",
            "dtrace: 2 dynamic variable drops with non-empty dirty list\n",
            "dtrace: 1 failed speculation (no speculative buffer available)\n",
            "dtrace: error on enabled probe ID 3 (ID 7: sdt:zfs:a:b): invalid address (0x8) in"
            " action #1 at DIF offset 16\n",
            "dtrace: aggregation size lowered to 256k\n",
        ):
            stream.tell(text)
        stream.say(printed.head("zone_io", at=5))
        stream.say("A|what is this\n" + printed.frame("zone_io", 6))
        waits.until(lambda: "probe errors" in made.drops)
        assert made.drops == {
            "aggregation drops": 13,
            "drops": 5,
            "dynamic variable drops": 3,
            "dynamic variable drops with non-empty dirty list": 2,
            "failed speculations (no speculative buffer available)": 1,
            "probe errors": 1,
            "lines not understood": 1,
        }


def test_a_run_gets_more_memory_when_the_last_had_too_little() -> None:
    carrier = made_up_node.Carrier()
    with running(carrier) as made:
        sizes = []
        for number in range(7):
            stream = carrier.begun(number)
            sizes += re.findall(r"aggsize=(\w+)", stream.program)
            if number < 6:
                stream.tell("dtrace: 1 aggregation drop on CPU 1\n")
            stream.say(printed.head("zone_io", at=carrier.now_ns))
            carrier.frame(stream)
            waits.until(lambda: newest(made) == carrier.now_ns)
            carrier.now_ns += 1
            stream.end(1)
        assert sizes == ["512k", "1024k", "2048k", "4096k", "8192k", "8192k", "8192k"]


def test_a_script_whose_probe_the_node_lacks() -> None:
    carrier = made_up_node.Carrier("tcp:::send")
    with running(carrier, printed.scripts("zone_io", "zone_tcp")) as made:
        stream = carrier.begun(0)
        assert "zone_io" in stream.program and "zone_tcp" not in stream.program
        assert made.unsupported == {"zone_tcp": "there is no probe tcp:::send"}
    # what is there for whoever asks is not asked for
    assert carrier.commands == [
        ("dtrace", "-l", "-n", "sdt:::zfs-zone-latency"),
        ("dtrace", "-l", "-n", "tcp:::send"),
        ("kstat", "-j", "zones:0::"),
    ]


def test_a_script_that_the_nodes_compiler_refuses() -> None:
    carrier = made_up_node.Carrier()
    scripts = printed.scripts("zone_io", "zone_final", "zone_tcp")
    with running(carrier, scripts) as made:
        stream = carrier.begun(0)
        line = stream.program.splitlines().index("fbt::zone_kstat_delete:entry") + 5
        said = "zone_utime is not a member of struct zone"
        stream.end(1, f"dtrace: failed to compile script /dev/stdin: line {line}: {said}\n")
        stream = carrier.begun(1)
        assert made.unsupported == {"zone_final": said}
        assert "zone_final" not in stream.program and "zone_tcp" in stream.program
        assert made.restarts == 0


def test_no_script_can_run() -> None:
    carrier = made_up_node.Carrier("sdt:::zfs-zone-latency")
    with running(carrier) as made:
        waits.until(lambda: made.failure == "none of the scripts can run here")
        assert made.unsupported == {"zone_io": "there is no probe sdt:::zfs-zone-latency"}
        # a module may be loaded later
        carrier.lacking.clear()
        carrier.begun(0)
        assert made.unsupported == {}


def test_more_than_anyone_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceilometer_plugin.consumer.kept.MOST_FINALS", 2)
    carrier = made_up_node.Carrier()
    with running(carrier, printed.scripts("zone_final")) as made:
        stream = carrier.begun(0)
        stream.say(printed.head("zone_final", at=5))
        for number in range(5):
            stream.say(f"F|zone_final|a{number}|9|50|60|reads=5\n")
        waits.until(lambda: made.drops == {"finals not taken": 3})
        assert [final.zonename for final in made.finals()] == ["a3", "a4"]


def test_closing_what_never_started() -> None:
    carrier = made_up_node.Carrier()
    made = program.Program(carrier.node, "node1", SCRIPTS)
    made.close()
    assert made.failure == "it was closed" and not carrier.commands


#: A dtrace that counts its runs in a file, says one thing, and dies in its first.
DTRACE = """\
    import pathlib, sys, time
    words = sys.argv[1:]
    if words[0] == "-l":
        print("   ID   PROVIDER            MODULE                          FUNCTION NAME")
        print("    7        sdt               zfs                 zfs_zone_zio_done x")
        sys.exit()
    assert words[:3] == ["-q", "-s", "/dev/stdin"] and "dtrace:::END" in sys.stdin.read()
    runs = pathlib.Path(__file__).with_name("runs")
    number = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (number + 1))
    at = 1000 + number
    print("dtrace: 4 drops on CPU 0", file=sys.stderr, flush=True)
    print(f"H|zone_io|1|{at}|7", flush=True)
    while True:
        print(f"S|zone_io|{at}|7\\nA|zone_io|ops|3|1|{number}\\nE|zone_io", flush=True)
        if not number:
            sys.exit("dtrace: processing aborted: Abort due to drop")
        time.sleep(0.01)
"""
KSTAT = """\
    print('[{"module": "zones", "instance": 0, "name": "global", "class": "zone_misc",'
          ' "type": 1, "snaptime": 7.5, "data": {"zonename": "global"}}]')
"""


@pytest.fixture
def tools(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, text in (("dtrace", DTRACE), ("kstat", KSTAT)):
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        path.chmod(0o755)
    return tmp_path


def check_real_processes(gz: node.Node) -> None:
    """It is started anew after it died, and what it says on standard error is heard."""
    made = program.Program(gz, "node1", SCRIPTS, pauses=(0.01,))
    made.start()
    try:
        waits.until(lambda: made.run == "node1:1001" and made.frames())
        waits.until(lambda: made.drops.get("drops") == 8)
        assert made.frames()["zone_io"].values == {KEY: 1}
        assert [frame.values for frame in made.ended()] == [{KEY: 0}]
        assert (made.restarts, made.failure) == (1, None)
    finally:
        made.close()


def test_processes_of_this_machine(tools: pathlib.Path) -> None:
    with node.Node.local(tool_path=str(tools)) as gz:
        check_real_processes(gz)


def test_processes_over_ssh(tools: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as server:
        with node.Node(server.connect(tool_path=str(tools))) as gz:
            check_real_processes(gz)
