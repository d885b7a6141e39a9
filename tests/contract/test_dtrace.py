# SPDX-License-Identifier: Apache-2.0
"""dtrace: programs that are read, run until they are told to end, and speak while they run."""

import re
import signal
import subprocess

import pytest

import dtrace_scripts
from nova_smartos.smartos import errors
from tests import waits

QUIET = "#pragma D option quiet\n"


def lines(target, program, *arguments):
    with target.node.dtrace.run(QUIET + program, *arguments, seconds=60) as output:
        return list(output.lines())


@pytest.mark.known("from source")
def test_a_program_that_exits(target):
    """exit() ends a program, END is its last clause, and an empty line follows."""
    program = 'BEGIN { x = $1; exit(0); } END { printf("%d %s\\n", x * 2, probename); }'
    assert lines(target, program, "21") == ["42 END", ""]


@pytest.mark.known("from source")
def test_arithmetic(target):
    """Numbers are of 64 bits and wrap; a variable is as wide as what it was first given."""
    program = """
BEGIN
{
	narrow = 0x7fffffff;
	narrow++;
	wide = 0x7fffffffffffffff;
	wide++;
	printf("%d %d %d %d\\n", narrow, wide, -7 / 2, (uint64_t)-1 > 0);
	exit(0);
}
"""
    assert lines(target, program)[0] == "-2147483648 -9223372036854775808 -3 1"


@pytest.mark.known("from source")
def test_a_distribution(target):
    """A quantization is drawn with an empty row on either side."""
    program = 'BEGIN { @ = quantize(5); @ = quantize(6); printa("%@d", @); exit(0); }'
    _, head, *rows = lines(target, program)
    assert head == "           value  ------------- Distribution ------------- count    "
    shape = [re.fullmatch(r" *(\d+) \|(@*) *(\d+) *", row) for row in rows[:3]]
    assert [row and row.groups() for row in shape] == [
        ("2", "", "0"), ("4", "@" * 40, "2"), ("8", "", "0"),
    ]  # fmt: skip


@pytest.mark.known("from source")
def test_mistakes(target):
    """A program that is wrong is refused: the line is named, and what is wrong there."""
    done = target.run("dtrace", "-s", "/dev/stdin", raw="BEGIN\n{\n\ttrace(nst_nothing);\n}\n")
    assert done.returncode == 1
    assert done.stderr.startswith("dtrace: failed to compile script /dev/stdin: line 3: ")
    assert "nst_nothing" in done.stderr
    done = target.run("dtrace", "-s", "/dev/stdin", raw="sdt:::nst-nothing { }\n")
    assert done.stderr == (
        "dtrace: failed to compile script /dev/stdin: line 1: "
        "probe description sdt:::nst-nothing does not match any probes\n"
    )
    with pytest.raises(errors.ToolError):
        lines(target, "BEGIN {")


@pytest.mark.known("from source")
def test_what_no_clause_prints(target):
    """Aggregations that were never printed are printed at the end, keys in columns."""
    found = lines(target, 'BEGIN { @a["k"] = count(); exit(0); }')
    assert [line.split() for line in found if line.strip()] == [["k", "1"]]
    assert found[-1].startswith("  k" + " " * 49)


@pytest.mark.known("from source")
def test_frames_while_it_runs(target, create):
    """A script prints while it runs; what it counted only grows."""
    made = create("joyent-minimal")
    if target.emulator:
        load = ("disk_read_ops=500", "disk_write_ops=700", "disk_sync=0.5")
        target.emulator.command("load", str(target.emulator.directory), made, *load)
    frames, frame = [], {}
    script = dtrace_scripts.path("zone_io").read_text()
    with target.node.dtrace.run(script, "1", seconds=60) as output:
        for line in output.lines():
            if line.startswith("A|zone_io|ops|"):
                key, _, value = line.rpartition("|")
                frame[key] = int(value)
            elif line.startswith("E|"):
                frames.append(frame)
                frame = {}
            if len(frames) == 3:
                break
    for before, after in zip(frames, frames[1:], strict=False):
        assert all(after[key] >= value for key, value in before.items())
    if target.emulator:
        zones = {key.split("|")[3] for key in frames[-1]}
        assert "0" in zones
        assert len(zones) > 1


@pytest.mark.known("from source")
def test_an_interrupt(target):
    """A signal ends the tracing; END still runs, and the status is 0."""
    if target.emulator is None:
        pytest.skip("signals reach only programs on this machine")
    program = 'tick-10ms { n++; } tick-10ms /n == 1/ { printf("begun\\n"); } '
    program += 'END { printf("over\\n"); }'
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [f"{target.emulator.tools}/dtrace", "-qn", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=waits.SECONDS)
        assert (process.returncode, err) == (0, "")
        assert out.split("\n") == ["", "over", "", ""]
