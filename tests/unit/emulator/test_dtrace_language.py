# SPDX-License-Identifier: Apache-2.0
"""D on the emulated node: what the language means, and what its output looks like."""

import pytest

from tests.unit.emulator import dtrace_node, metrics_node

ONE = metrics_node.ONE


@pytest.fixture
def node(tmp_path):
    return dtrace_node.Node(tmp_path)


def printed(node, statements, *arguments, options=()):
    """What a BEGIN clause prints before it exits."""
    program = f"BEGIN {{ {statements}; exit(0); }}"
    done = node.trace("-q", *options, "-n", program, *arguments)
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("\n")
    return done.out[:-1]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3 % 5", "4"),
        ("-7 / 2", "-3"),
        ("-7 % 3", "-1"),
        ("7 & 3 | 8 ^ 1", "11"),
        ("1 << 40", "1099511627776"),
        ("-16 >> 2", "-4"),
        ("~5", "-6"),
        ("!5 + !0", "1"),
        ("3 > 2 && 2 > 3 || 1", "1"),
        ("1 ^^ 2", "0"),
        ("1 ? 2 : 3 ? 4 : 5", "2"),
        ("0x7fffffffffffffff + 1", "-9223372036854775808"),
        ("(uint8_t)300", "44"),
        ("(int8_t)200", "-56"),
        ("(uint64_t)-1 > 0", "1"),
        ("(uint64_t)-1 / 2", "9223372036854775807"),
        ("-1 < 1", "1"),
        ("-1 < 1ull", "0"),
        ("'a'", "97"),
        ("010 + 0x10", "24"),
        ('strlen(strjoin("ab", "cde"))', "5"),
        ('"abc" < "b"', "1"),
        ('substr("hello", 1, 3) == "ell"', "1"),
        ('index("hello", "l")', "2"),
        ("ntohl(0x0100000a) == 0x0a000001", "1"),
        ("sizeof_left", "5"),
    ],
)
def test_expressions(node, expression, value):
    before = "sizeof_left = 5; " if "_left" in expression else ""
    assert printed(node, f'{before}printf("%d\\n", {expression})') == f"{value}\n"


@pytest.mark.parametrize(
    ("statements", "output"),
    [
        ('x = 0x7fffffff; x++; printf("%d", x)', "-2147483648"),
        ('x = 0x7fffffffLL; x++; printf("%d", x)', "2147483648"),
        ('x[1, "a"] = 3; x[1, "a"] += 4; printf("%d %d", x[1, "a"], x[2, "b"])', "7 0"),
        ('self->x = "s"; this->y = 2; printf("%s%d", self->x, this->y)', "s2"),
        ('x = y = 3; printf("%d%d%d", x, y++, ++y)', "335"),
        ('x = 3; x <<= 4; x |= 1; x -= 9; printf("%d", x)', "40"),
        ('printf("%s|%5s|%-5s|%.2s|", "abc", "abc", "abc", "abc")', "abc|  abc|abc  |ab|"),
        ('printf("%5d|%-5d|%05d|%+d|%x|%X|%o", 42, 42, 42, 42, 255, 255, 8)',
         "   42|42   |00042|+42|ff|FF|10"),
        ('printf("%u %x %d%%", -1, -1, -1)', "4294967295 ffffffff -1%"),
        ('printf("%u", (int64_t)-1)', "18446744073709551615"),
        ('printf("%*d|%c", 6, 7, 65)', "     7|A"),
        ('printf("%Y", (int64_t)1772352100000000000)', "2026 Mar  1 08:01:40"),
        ('printf("%s %s %s %d", probeprov, probename, zonename, pid != 0)',
         "dtrace BEGIN global 0"),
        ('trace(5); trace("x")', "5x"),
        ("/* nothing */ printf(\"\\t\\x41\\101\\n\")", "\tAA\n"),
    ],
)  # fmt: skip
def test_statements(node, statements, output):
    assert printed(node, statements) == output


def test_clocks(node):
    node.clock.seconds = 123.5
    text = printed(node, 'printf("%d %d", timestamp, walltimestamp)')
    assert text == "123500000000 1772352123500000000"


def test_macro_arguments(node):
    assert printed(node, 'printf("%d %s", $1 + 1, $$2)', "41", "it's") == "42 it's"
    options = ("-x", "defaultargs")
    assert printed(node, 'printf("%d[%s]", $1, $$2)', options=options) == "0[]"
    bad = node.trace("-n", "BEGIN { exit($1); }")
    assert bad.err == (
        "dtrace: invalid probe specifier BEGIN { exit($1); }: macro argument $1 is not defined\n"
    )


def test_declarations_and_inlines(node):
    program = """
inline uint32_t MASK = 0xff000000;
uint64_t total[int];
self string name;
BEGIN
{
	total[1] = 0xffffffffffffffff;
	self->name = "n";
	printf("%u %x %s", total[1] / 2, 0x0a0b0c0d & MASK, self->name);
	exit(3);
}
"""
    done = node.trace("-q", "-s", "/dev/stdin", program=program)
    assert (done.status, done.out) == (3, "9223372036854775807 a000000 n\n")


def test_clauses_run_in_their_order(node):
    program = """
#!/usr/sbin/dtrace -s
#pragma D option quiet
BEGIN, dtrace:::END { n++; printf("[%d %s]", n, probename); }
BEGIN /n == 1/ { this->a = 5; }
BEGIN /n == 2/ { printf("never"); }
BEGIN /this->a == 5/ { exit(0); }
"""
    assert node.trace("-s", "/dev/stdin", program=program).out == "[1 BEGIN][2 END]\n"


def test_the_table_of_a_quantization(node):
    text = printed(
        node, "@ = quantize(0); @ = quantize(5); @ = quantize(6); @ = quantize(-3); printa(@)"
    )
    assert text == (
        "\n\n"
        "           value  ------------- Distribution ------------- count    \n"
        "              -4 |                                         0        \n"
        "              -2 |@@@@@@@@@@                               1        \n"
        "              -1 |                                         0        \n"
        "               0 |@@@@@@@@@@                               1        \n"
        "               1 |                                         0        \n"
        "               2 |                                         0        \n"
        "               4 |@@@@@@@@@@@@@@@@@@@@                     2        \n"
        "               8 |                                         0        \n"
        "\n"
    )


def test_linear_and_log_linear_tables(node):
    text = printed(node, "@ = lquantize(-1, 0, 30, 10); @ = lquantize(15, 0, 30, 10); printa(@)")
    assert [line.split("|")[0].strip() for line in text.splitlines()[3:7]] == [
        "< 0", "0", "10", "20",
    ]  # fmt: skip
    text = printed(
        node, "@ = llquantize(7, 10, 0, 2, 10); @ = llquantize(123456, 10, 0, 2, 10); printa(@)"
    )
    rows = [line.split() for line in text.splitlines()[3:] if line]
    assert [row[0] for row in rows[:3]] == ["6", "7", "8"]
    assert rows[1][-1] == "1"
    assert rows[-1][:2] == [">=", "1000"]
    assert rows[-1][-1] == "1"


def test_values_of_aggregations(node):
    text = printed(
        node,
        '@c["b"] = count(); @c["a"] = count(); @c["b"] = count(); @s = sum(-5); @s = sum(2);'
        "@l = min(3); @l = min(2); @g = max(3); @g = max(9); @a = avg(3); @a = avg(6);"
        'printa("%s=%@d ", @c); printa("%@d ", @s); printa("%@d ", @l); printa("%@d ", @g);'
        'printa("%@d ", @a); normalize(@g, 2); printa("%@d ", @g); trunc(@c, 1); clear(@s);'
        'printa("%s=%@d ", @c); printa("%@d", @s)',
    )
    assert text == "a=1 b=2 -3 2 9 4 4 b=2 0"


def test_orders(node):
    fill = '@[2, "x"] = sum(1); @[1, "z"] = sum(3); @[1, "y"] = sum(2); printa("%d%s ", @)'
    assert printed(node, fill) == "2x 1y 1z "
    assert printed(node, fill, options=("-x", "aggsortkey")) == "1y 1z 2x "
    assert printed(node, fill, options=("-x", "aggsortrev")) == "1z 1y 2x "


def test_what_is_not_printed_is_printed_at_the_end(node):
    program = 'BEGIN { @a["k", 7] = count(); @b = sum(12); @c = count(); printa("%@d\\n", @c); }'
    done = node.trace("-q", "-n", program, seconds=0.2)
    assert done.out == f"1\n\n\n  {'k':<50}        7                1\n               12\n"


def test_what_is_printed_without_quiet(node):
    done = node.trace("-n", "BEGIN { trace(7); }", "-n", "tick-1s", "-n", "END", seconds=1.5)
    assert done.err == (
        "dtrace: description 'BEGIN ' matched 1 probe\n"
        "dtrace: description 'tick-1s' matched 1 probe\n"
        "dtrace: description 'END' matched 1 probe\n"
    )
    lines = done.out.splitlines()
    assert lines[0] == "CPU     ID                    FUNCTION:NAME"
    assert lines[1] == "  0      1                           :BEGIN         7"
    assert lines[2].split()[2:] == [":tick-1s"]
    assert lines[3] == ""
    assert lines[4] == "  0      2                             :END "


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("BEGIN { x = ; }", 'line 1: syntax error near ";"'),
        ("BEGIN\n{\n\tprintf(\"%d\", y);\n}", "line 3: failed to resolve y: Unknown variable name"),
        ("BEGIN { trace(self->y); }", "line 1: self->y has not yet been declared or assigned"),
        ("BEGIN { foo(1); }", "line 1: undefined function name: foo"),
        ("\nsdt:::nothing { }",
         "line 2: probe description sdt:::nothing does not match any probes"),
        ("BEGIN { printf(\"%d %d\", 1); }",
         "line 1: printf( ) prototype mismatch: conversion #2 (%d) is missing a corresponding"
         " value argument"),
        ("BEGIN { printf(\"%s\", 1); }",
         "line 1: printf( ) argument #2 is incompatible with conversion #1 prototype:\n"
         "\tconversion: %s\n\t prototype: char [] or string (or use stringof)\n\t  argument: int"),
        ("BEGIN { printf(\"x\", 1); }",
         "line 1: printf( ) prototype mismatch: only 0 arguments required by this format string"),
        ("BEGIN { printa(@a); }", "line 1: undefined aggregation: @a"),
        ("BEGIN { x = 1; x = x + \"a\"; }",
         'line 1: operands have incompatible types: "int" + "string"'),
        ("BEGIN { if (1) trace(1); }", 'line 1: syntax error near "if"'),
        ("BEGIN /x = 1/ { }", "line 1: predicates may not contain side-effects"),
        ("#pragma D option nosuch=1\nBEGIN",
         "line 1: failed to set option 'nosuch' to '1': Invalid option name"),
        ("#pragma D option aggsize=lots\nBEGIN",
         "line 1: failed to set option 'aggsize' to 'lots': Invalid value for specified option"),
        ("BEGIN { trace(1)", "line 1: syntax error near end of input"),
        ("/* BEGIN", "line 1: end-of-file encountered before matching */"),
        ("sdt:::zfs-zone-latency { trace(args[0]); }",
         "line 1: index 0 is out of range for sdt:zfs:zfs_zone_zio_done:zfs-zone-latency args[ ]"),
        ("sched:::off-cpu { trace(args[1]->pr_nothing); }",
         "line 1: pr_nothing is not a member of psinfo_t"),
        ("BEGIN { 5; }", "line 1: expression has null effect"),
        ("BEGIN { @a = count(); @a = sum(1); }",
         "line 1: aggregation redefined: @a\n\t current: @a = sum( )\n"
         "\tprevious: @a = count( ) : line 1"),
    ],
)  # fmt: skip
def test_mistakes(node, program, message):
    done = node.trace("-s", "/dev/stdin", program=program)
    assert done == metrics_node.Result(
        1, "", f"dtrace: failed to compile script /dev/stdin: {message}\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("-n", "nosuch"), 1,
         "dtrace: invalid probe specifier nosuch: probe description :::nosuch does not match any"
         " probes\n"),
        (("-n", "BEGIN { foo(); }"), 1,
         "dtrace: invalid probe specifier BEGIN { foo(); }: in action list: undefined function"
         " name: foo\n"),
        (("-x", "nosuch", "-n", "BEGIN"), 1,
         "dtrace: failed to set -x nosuch: Invalid option name\n"),
        (("-s", "/nst/none.d"), 1,
         "dtrace: failed to open /nst/none.d: No such file or directory\n"),
        (("-q",), 1, "dtrace: no probes specified\n"),
        (("-qn", "BEGIN { system(\"ls\"); }"), 1,
         "dtrace: could not enable tracing: Destructive actions not allowed\n"),
    ],
)  # fmt: skip
def test_refusals(node, words, status, message):
    assert node.trace(*words) == metrics_node.Result(status, "", message)


def test_usage(node):
    for words in ((), ("-Q",), ("-s",)):
        done = node.trace(*words)
        assert (done.status, done.out) == (2, "")
        assert "Usage: dtrace" in done.err


def test_a_clause_that_fails_ends_there(node):
    program = """
BEGIN { x = 0; }
tick-1s { y = 5 / x; printf("never"); }
tick-1s { printf("next %d", (int)((zone_t *)0)->zone_id); }
tick-1s { printf("last"); exit(0); }
dtrace:::ERROR { printf("error %d;", arg4); }
"""
    done = node.trace("-q", "-s", "/dev/stdin", program=program)
    first, second = done.err.splitlines()
    assert first.startswith("dtrace: error on enabled probe ID 2 (ID ")
    assert first.endswith(":profile:::tick-1s): divide-by-zero in action #1") or (
        " profile:::tick-1s): divide-by-zero in action #1" in first
    )
    assert "invalid address (0x0) in action #1" in second
    assert done.out == "error 0;error 0;last\n"


def test_events_of_one_weight_are_many(node):
    """Globals, threads and printing clauses see each event, however they are made."""
    node.start(1)
    node.metrics.load(ONE, disk_delays=5, disk_read_ops=40)
    program = """
sdt:::zfs-zone-wait /arg0 == 1/ { waits++; us += arg2; last = arg2; printf("W%d ", arg1); }
fbt::fop_read:entry /zonename != "global"/ { self->depth++; }
fbt::fop_read:return /self->depth/ { self->depth--; reads++; deep = self->depth; }
END { printf("%d %d %d", waits, reads, deep); }
"""
    done = node.trace("-q", "-s", "/dev/stdin", program=program, seconds=2)
    assert done.out.count("W") == 10
    reads = node.values("zone_vfs")["reads"]
    assert done.out.split()[-3:] == ["10", str(reads), "0"]
    assert reads >= 80


def test_timers(node):
    program = """
BEGIN { start = timestamp; }
tick-250ms { a++; }
profile:::tick-2hz { b++; }
tick-1s { printf("%d %d %d|", (timestamp - start) / 1000, a, b); }
"""
    done = node.trace("-q", "-s", "/dev/stdin", program=program, seconds=2.1)
    assert done.out == "1000000 4 2|2000000 8 4|\n\n"


def test_signals(node):
    """The first lets END speak; the second does not even let aggregations be printed."""
    program = 'tick-1s { @ = count(); } END { printf("bye"); }'
    once = node.trace("-qn", program, seconds=1.5)
    assert (once.status, once.out.split()) == (0, ["bye", "1"])
    twice = node.trace("-qn", program, seconds=1.5, signals=(2, 2))
    assert (twice.status, twice.out.split()) == (0, ["bye"])


def test_output_to_a_file(node, tmp_path):
    file = tmp_path / "out"
    for _ in range(2):
        done = node.trace("-qo", str(file), "-n", 'BEGIN { printf("x"); exit(0); }')
        assert (done.status, done.out) == (0, "")
    assert file.read_text() == "x\nx\n"


def test_several_scripts(node, tmp_path):
    one, two = tmp_path / "one.d", tmp_path / "two.d"
    one.write_text("#pragma D option quiet\nBEGIN { x = $1; }")
    two.write_text('BEGIN { printf("%d", x); exit(0); }')
    assert node.trace("-s", str(one), "-s", str(two), "5").out == "5\n"


def test_a_probe_that_is_lacking(tmp_path):
    node = dtrace_node.Node(tmp_path, lacking_probes=("fbt::zone_kstat_delete:", "ip:::send"))
    assert node.trace("-l", "-n", "fbt::zone_kstat_delete:entry").status == 1
    assert node.trace("-l", "-n", "ip:::receive").status == 0
    done = node.trace("-s", "/dev/stdin", program=dtrace_node.text("zone_final"))
    assert done.status == 1
    assert "probe description fbt::zone_kstat_delete:entry does not match any" in done.err
    assert node.trace("-Zqn", "ip:::send {}", seconds=0.1).status == 0


def test_each_probe_that_is_listed_can_fire(node):
    """Nothing stands in the table that never happens."""
    vm = node.start(1, cpu_cap=100)
    busy = {"cpu": 3, "disk_delays": 9, "tcp_retransmits": 9, "tcp_opens": 9, "net_rx": 9e4}
    node.metrics.load(ONE, **busy, net_tx=9e4, disk_read_ops=99, disk_write_ops=99)
    node.clock.at(2.5, lambda: node.halt(vm, 1))
    listed = {
        tuple(line[6:].split()[:1] + line.split()[-1:])
        for line in node.trace("-l").out.splitlines()[1:]
    }
    program = "::: { @[probeprov, probename] = count(); }"
    calls = 'syscall::read:entry { printf("%s", probefunc); exit(0); }'
    assert node.trace("-qn", calls).out == "read\n"
    done = node.trace("-qn", program, seconds=4)
    fired = {tuple(line.split()[:2]) for line in done.out.splitlines() if line.strip()}
    assert listed - fired == {("dtrace", "ERROR")}


def test_faults_in_its_midst(node):
    program = 'tick-1s { printf("%d ", ++n); }'
    node.faults.add("say", "dtrace", match="tick", count=2, stderr="12 drops\n")
    said = node.trace("-qn", program, seconds=3.5)
    assert (said.status, said.err, said.out.split()) == (0, "12 drops\n" * 2, ["1", "2", "3"])
    node.faults.clear()
    abort = "dtrace: processing aborted: Abort due to systemic unresponsiveness\n"
    node.faults.add("die", "dtrace", status=1, stderr=abort)
    died = node.trace("-qn", program, seconds=3.5)
    assert (died.status, died.err) == (1, abort)
    assert "3" not in died.out
    node.faults.clear()
    node.clock.plans.clear()
    node.faults.add("stall", "dtrace", count=1)
    stalled = node.trace("-qn", program, seconds=3.5)
    assert stalled.status == 0
