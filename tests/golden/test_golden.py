# SPDX-License-Identifier: Apache-2.0
"""Golden cases of the toolkit: a call, the command that it must run, what we make of the answer.

A file is a method's call with its cases. A case has the tool's `output` (text, or JSON that is
printed as the tool would), `stderr` and `returncode`; and either the `expected` value, of which
only the attributes that are named are compared, or the `error` with its `code`.
"""

import dataclasses
import datetime
import decimal
import json
import pathlib
from typing import Any

import pytest

from nova_smartos.smartos import _tool, errors, node
from tests.unit import fake_transport

HERE = pathlib.Path(__file__).parent
TOOLS = (
    "dladm dtrace fwadm imgadm isainfo kstat nictagadm "
    "ps svcs sysinfo uptime vmadm zfs zlogin zpool"
).split()


def cases() -> list[Any]:
    """All cases of all files, as pytest parameters."""
    return [
        pytest.param(tool, call, case, id=f"{tool}-{path.stem}-{number}")
        for tool in TOOLS
        for path in sorted((HERE / tool).glob("*.json"))
        for call in [json.loads(path.read_text())]
        for number, case in enumerate(call["cases"])
    ]


@pytest.mark.parametrize(("tool", "call", "case"), cases())
def test_case(tool: str, call: dict[str, Any], case: dict[str, Any]) -> None:
    with _transport(call, case) as carrier:
        method = getattr(getattr(node.Node(carrier), tool), call["method"])
        if "error" in case:
            _assert_fails(method, call, case)
        else:
            actual = method(*call.get("arguments", []), **call.get("keywords", {}))
            assert_like(case["expected"], actual)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_text_has_a_case(tool: str) -> None:
    said = [
        (case["error"], case.get("code", ""), _tool_of(tool)._unprefixed(line))
        for path in (HERE / tool).glob("*.json")
        for case in json.loads(path.read_text())["cases"]
        if "error" in case
        for line in _messages(case)
    ]
    missing = [
        row.pattern.pattern
        for row in _tool_of(tool).texts
        if row not in _tool.SPACE and not any(_means(row, *each) for each in said)
    ]
    assert not missing


def assert_like(expected: Any, actual: Any) -> None:
    """Compare JSON with a value of ours."""
    if dataclasses.is_dataclass(actual):
        for name, value in expected.items():
            assert_like(value, getattr(actual, name))
    elif isinstance(actual, (list, tuple)):
        assert len(expected) == len(actual), actual
        for one, other in zip(expected, actual, strict=True):
            assert_like(one, other)
    elif isinstance(actual, dict):
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            assert_like(value, actual[name])
    else:
        assert expected == _plain(actual)


def _assert_fails(method: Any, call: dict[str, Any], case: dict[str, Any]) -> None:
    with pytest.raises(errors.SmartOSError) as caught:
        method(*call.get("arguments", []), **call.get("keywords", {}))
    assert type(caught.value).__name__ == case["error"]
    assert getattr(caught.value, "code", "") == case.get("code", "")
    assert case.get("says", "") in str(caught.value)


def _means(row: _tool.Text, error: str, code: str, line: str) -> bool:
    return row.error.__name__ == error and row.code == code and bool(row.pattern.match(line))


def _messages(case: dict[str, Any]) -> list[str]:
    lines: list[str] = case["stderr"].splitlines()
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


def _tool_of(name: str) -> _tool.Tool:
    tool = getattr(node.Node(fake_transport.refusing()), name)
    assert isinstance(tool, _tool.Tool)
    return tool


def _transport(call: dict[str, Any], case: dict[str, Any]) -> fake_transport.Transport:
    output = case.get("output", "")
    answer = fake_transport.Answer(
        tuple(call["command"]),
        output if isinstance(output, str) else json.dumps(output, indent=2) + "\n",
        case.get("stderr", ""),
        case.get("returncode", 0 if "error" not in case else 1),
    )
    if "input" in call:
        answer.stdin = json.dumps(call["input"]).encode()
    return fake_transport.Transport(answer)
