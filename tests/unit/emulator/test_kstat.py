# SPDX-License-Identifier: Apache-2.0
"""kstat's ways of selecting and printing, its broken JSON included."""

import json

import pytest

from tests.unit.emulator import metrics_node


@pytest.fixture
def node(tmp_path):
    node = metrics_node.Node(tmp_path)
    node.start(6)
    return node


def test_parseable(node):
    name = metrics_node.ONE[:30]
    lines = node.run("kstat", "-p", "zones:6").out.splitlines()
    assert f"zones:6:{name}:zonename\t{metrics_node.ONE}" in lines
    assert f"zones:6:{name}:class\tzone_misc" in lines
    assert f"zones:6:{name}:crtime\t100.000000000" in lines
    names = [line.split("\t")[0].split(":")[3] for line in lines]
    assert names == sorted(names, key=str.lower)
    assert node.run("kstat", "-C", "zones:0::crtime").out == "zones:0:global:crtime:0\n"
    assert node.run("kstat", "-l", "cpu:3:sys:cpu_nsec_user").out == "cpu:3:sys:cpu_nsec_user\n"


def test_tcp_is_numbered_like_its_zone_and_names_none(node):
    lines = node.run("kstat", "-p", "-c", "mib2").out.splitlines()
    assert "tcp:6:tcp:retransSegs\t0" in lines
    assert {line.split(":")[1] for line in lines} == {"0", "6"}
    assert not [line for line in lines if ":zonename" in line]


def test_instances_are_sorted(node):
    lines = node.run("kstat", "-p", "-s", "crtime").out.splitlines()
    keys = [(m.lower(), int(i), n.lower()) for m, i, n, _ in (line.split(":") for line in lines)]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        (("-m", "zone_*"), {"zone_vfs", "zone_zfs"}),
        (("-m", "/^zone_/"), {"zone_vfs", "zone_zfs"}),
        (("-c", "zone_misc"), {"zones"}),
        (("-n", "sys"), {"cpu"}),
        (("-i", "6", "-m", "caps"), {"caps"}),
        (("caps", "tcp:0"), {"caps", "tcp"}),
        (("-s", "phys[!abc]*"), {"unix"}),
        (("::arcstats",), {"zfs"}),
    ],
)
def test_selecting(node, words, modules):
    done = node.run("kstat", "-p", *words)
    assert done.status == 0
    assert {line.split(":")[0] for line in done.out.splitlines()} == modules


def test_json_of_everything_is_whole(node):
    found = json.loads(node.run("kstat", "-j").out)
    (misc,) = [each for each in found if each["module"] == "zones" and each["instance"] == 6]
    assert misc["type"] == 1
    assert misc["data"]["zonename"] == metrics_node.ONE
    assert "class" not in misc["data"]


def test_json_of_a_selection_is_not(node):
    """The comma depends on what was read, and that is more than what is printed."""
    text = node.run("kstat", "-j", "-m", "cpu").out
    assert text.endswith("\t}\n},]\n")
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    # A selector in one word with an empty name reads everything as well.
    assert node.run("kstat", "-j", "cpu:::").out.endswith("},]\n")
    whole = node.run("kstat", "-j", "zones:::crtime").out
    assert '"crtime": 0,\n\t}\n}' in whole
    assert node.run("kstat", "-j", "-m", "nosuch").out == "[]\n"


def test_human_form(node):
    text = node.run("kstat", "zones:0::nsec_user").out
    assert text == (
        "module: zones                           instance: 0     \n"
        "name:   global                          class:    zone_misc\n"
        f"\tnsec_user                       {node.kstat('zones', 'global').data['nsec_user']}\n\n"
    )


def test_rounds(node):
    done = node.run("kstat", "-p", "-T", "u", "zones:0::snaptime", "5", "3")
    assert done.out == (
        "1772352100\nzones:0:global:snaptime\t100.000000000\n\n"
        "1772352105\nzones:0:global:snaptime\t105.000000000\n\n"
        "1772352110\nzones:0:global:snaptime\t110.000000000\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("-h",), 0, ""),
        (("-Z",), 0, "kstat: illegal option -- Z\n"),
        (("-m",), 0, "kstat: option requires an argument -- m\n"),
        (("-q", "-p"), 2, "-q and -lpj are mutually exclusive\n"),
        (("-T", "x"), 2, ""),
        (("0",), 2, "Interval must be an integer >= 1"),
        (("1", "0"), 2, "Count must be an integer >= 1"),
        (("1", "2", "3"), 2, ""),
        (("a:b:c:d:e",), 2, ""),
        (
            ("-m", "x", "y"),
            2,
            "[module[:instance[:name[:statistic]]]] and -m -i -n -s are mutually exclusive",
        ),
    ],
)
def test_usage(node, words, status, message):
    done = node.run("kstat", *words)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"{message}Usage:\nkstat [ -Cjlpq ]")


def test_exit_status_tells_of_matches(node):
    assert node.run("kstat", "-p", "nosuch") == metrics_node.Result(1, "", "")
    assert node.run("kstat", "-q", "zones") == metrics_node.Result(0, "", "")
    assert node.run("kstat", "-q", "nosuch").status == 1
