# SPDX-License-Identifier: Apache-2.0
"""kstat: JSON that is not quite JSON, exact times, whole zone names, selectors."""

import json

import hypothesis
import pytest
from hypothesis import strategies

from nova_smartos.smartos import errors, kstat
from tests.unit import fake_transport

ZONE = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
ONE = """{
\t"module": "zones",
\t"instance": 7,
\t"name": "6a1f3c52-0b7e-4d7a-9c55-1f0e2d",
\t"class": "zone_misc",
\t"type": 1,
\t"snaptime": 8640000.123456789,
\t"data": {
\t\t"crtime": 17.000000001,
\t\t"nsec_user": 18446744073709551615,
\t\t"snaptime": 8640000.123456789,
\t\t"zonename": "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
\t}
}"""


def read(output: str, returncode: int = 0, stderr: str = "") -> list[kstat.Instance]:
    with fake_transport.expecting(
        "kstat", "-j", "zones:::", stdout=output, returncode=returncode, stderr=stderr
    ) as carrier:
        return kstat.Kstat(carrier).read([kstat.Selector("zones")])


@pytest.mark.parametrize(
    "output",
    [
        f"[{ONE}]\n",
        f"[{ONE},]\n",
        f"[{ONE},\n]",
        f"[{ONE}, {ONE}]",
        f"[{ONE}{ONE}]",
        f"[{ONE}\n{ONE},{ONE},]",
    ],
)
def test_whole_and_broken_json(output: str) -> None:
    found = read(output)[0]
    assert (found.module, found.instance, found.class_) == ("zones", 7, "zone_misc")
    assert found.zonename == ZONE
    assert found.snaptime_ns == 8640000123456789
    assert found.crtime_ns == 17000000001
    assert found.number("nsec_user") == 2**64 - 1


def test_nothing_matches() -> None:
    assert read("[]\n", 1) == []
    assert read("", 1) == []


def test_a_real_failure() -> None:
    with pytest.raises(errors.ToolError):
        read("", 1, "kstat_open: Permission denied\n")
    with pytest.raises(errors.ToolError):
        read("", 3)
    with pytest.raises(errors.InvalidPayload):
        read("", 2, "Usage: kstat …\n")


def test_a_number_that_is_not_there() -> None:
    found = read(f"[{ONE}]")[0]
    for name in ("nosuch", "zonename", "crtime"):
        with pytest.raises(errors.OutputError, match=name):
            found.number(name)


@pytest.mark.parametrize(
    "output",
    [
        "{}",
        "[[]]",
        "[{}]",
        f"[{ONE}",
        f"[{ONE},,]",
        f"[{ONE.replace('17.000000001', 'true')}]",
        f"[{ONE.replace('17.000000001', '[]')}]",
        f"[{ONE.replace('8640000.123456789', 'null')}]",
    ],
)
def test_what_is_not_understood(output: str) -> None:
    with pytest.raises(errors.OutputError):
        read(output)


def test_the_escaped_question_mark() -> None:
    text = ONE.replace(ZONE, 'a\\?\\\\?,]\\"\\\\')
    assert read(f"[{text},]")[0].zonename == 'a?\\?,]"\\'


@hypothesis.settings(deadline=None, derandomize=True)
@hypothesis.given(strategies.text())
def test_strings_are_left_alone(text: str) -> None:
    document = json.dumps([{"a": text, "b": [text]}])
    assert json.loads(kstat.repaired(document)) == json.loads(document)


def test_selectors() -> None:
    argv = ("kstat", "-j", "-c", "net", "link:0:z*_net0:rbytes64", ":::zonename", "memory_cap:::")
    selectors = [
        kstat.Selector("link", 0, "z*_net0", "rbytes64"),
        kstat.Selector(statistic="zonename"),
        kstat.Selector("memory_cap"),
    ]
    with fake_transport.expecting(*argv, stdout="[]\n") as carrier:
        assert kstat.Kstat(carrier).read(selectors, class_="net") == []


@pytest.mark.parametrize("module", ["-p", "a:b", "", "a b", "$(x)"])
def test_selectors_that_are_refused(module: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        kstat.Kstat(fake_transport.refusing()).read([kstat.Selector(module)])


def test_what_matched_is_not_thrown_away_for_what_did_not() -> None:
    assert [each.instance for each in read(f"[{ONE}]", returncode=1)] == [7]
