# SPDX-License-Identifier: Apache-2.0
"""The D scripts keep their rules, and the lint that says so sees what breaks them."""

import pathlib

import pytest

import dtrace_scripts
from tests import d_lint

FOLDER = pathlib.Path(dtrace_scripts.__file__).parent
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.d"))
PROBE = "sdt:::zfs-zone-latency"
TICK = "profile:::tick-1sec"
COUNTS = "\t@zone_io_ops[arg0, arg1] = count();\n"
PRINTS = 'printa("A|zone_io|ops|%d|%d|%@d\\n", @zone_io_ops);'
#: A rule, what stands in zone_io.d, and what breaks the rule there.
PLANTED = [
    ("syntax", COUNTS, COUNTS.replace(";", "")),
    ("syntax", COUNTS, COUNTS + "\tif (arg0) { }\n"),
    ("syntax", COUNTS, COUNTS + "\targ0 == 1;\n"),
    ("syntax", COUNTS, "\t@zone_io_ops[arg0, arg1] = arg2;\n"),
    ("head", "#!/usr/sbin/dtrace -s", "#!/usr/bin/perl"),
    ("head", "SPDX-License-Identifier", "License"),
    ("head", "they take?", "they take."),
    ("head", "Cost: ", ""),
    ("head", "-s zone_io.d", "-s zone_oi.d"),
    ("head", " * Needs ", " *" + " " * 100 + "\n * Needs "),
    (
        "option",
        "#pragma D option quiet\n",
        "#pragma D option quiet\n#pragma D option destructive\n",
    ),
    ("option", "#pragma D option quiet\n", "#pragma D option quiet\n#pragma D option zdefs\n"),
    ("option", "aggsize=512k", "aggsize=4m"),
    ("option", "#pragma D option bufsize=128k\n", ""),
    ("option", COUNTS, COUNTS + "\tself->zone_io_since = timestamp;\n"),
    ("option", COUNTS, COUNTS + "\tzone_io_since[arg0] = timestamp;\n"),
    *(
        ("action", COUNTS, f"{COUNTS}\t{call};\n")
        for call in (
            *('system("halt")', "stop()", "panic()", "copyout(arg0, arg1, 8)", "raise(9)"),
            *("stack()", "ustack()", "copyin(arg0, 8)", "clear(@zone_io_ops)", "exit(0)"),
            *("trunc(@zone_io_ops)", "chill(1)", "breakpoint()", "denormalize(@zone_io_ops)"),
        )
    ),
    ("probe", f"{PROBE}\n/", "sdt:::zfs-zone-latencies\n/"),
    ("probe", f"{PROBE}\n/", f"{PROBE},\nsdt:::\n/"),
    ("zonename", COUNTS, "\t@zone_io_ops[zonename, arg1] = count();\n"),
    ("prefix", COUNTS, COUNTS + "\tleft = 1;\n"),
    ("prefix", COUNTS, COUNTS + "\tthis->since = timestamp;\n"),
    ("prefix", COUNTS, COUNTS + "\t@ops[arg0] = count();\n"),
    ("unset", COUNTS, "\t@zone_io_ops[arg0, zone_io_type] = count();\n"),
    ("unset", "/timestamp >=", "/zone_io_since != 0 && timestamp >="),
    ("unset", "/zone_io_left <= 0/", "/self->zone_io_left <= 0/"),
    ("printed", f"\t{PRINTS}\n", ""),
    ("printed", PRINTS, f"{PRINTS}\n\t{PRINTS}"),
    ("format", PRINTS, PRINTS.replace("%d|%d|", "%d|")),
    ("format", '%d|%d\\n", timestamp, walltimestamp);', '%d|%d\\n", timestamp);'),
    ("frame", '\tprintf("E|zone_io\\n");\n', ""),
    ("frame", 'printf("S|', 'printf("B|'),
    ("frame", 'printf("H|zone_io|1|', 'printf("H|zone_io|'),
    ("frame", PRINTS, PRINTS.replace("A|", "Q|")),
    ("frame", PRINTS, PRINTS.replace("zone_io|", "zone_oi|")),
    ("frame", COUNTS, COUNTS + '\tprintf("%d\\n", arg0);\n'),
    ("window", "/timestamp >= $2 && ($3 == 0 || timestamp < $3)/\n", ""),
    ("window", "timestamp >= $2 &&", "timestamp > $2 &&"),
    ("window", "/timestamp >= $2 && ", "/arg2 > 0 || timestamp >= $2 && "),
    ("window", f"{TICK}\n{{", f'{PROBE}\n{{\n\tprintf("F|zone_io|\\n");\n}}\n\n{TICK}\n{{'),
]


def text(name: str) -> str:
    """What stands in a script."""
    return dtrace_scripts.path(name).read_text()


def test_there_are_scripts() -> None:
    words = "capwait cpu final io net runq syscall tcp throttle vfs"
    assert [f"zone_{word}" for word in words.split()] == SCRIPTS


def test_a_name_without_a_script() -> None:
    with pytest.raises(FileNotFoundError, match="no D script called 'zone_nothing'"):
        dtrace_scripts.path("zone_nothing")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name: str) -> None:
    assert d_lint.lint(name, text(name)) == []


@pytest.mark.parametrize(("rule", "there", "instead"), PLANTED)
def test_what_breaks_a_rule(rule: str, there: str, instead: str) -> None:
    assert there in text("zone_io")
    problems = d_lint.lint("zone_io", text("zone_io").replace(there, instead, 1))
    assert [problem for problem in problems if problem.startswith(f"{rule}:")]


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, *_ in PLANTED} == d_lint.RULES
