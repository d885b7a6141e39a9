# SPDX-License-Identifier: Apache-2.0
"""The JavaScript that shows through: conversions, comparisons, JSON and its error texts."""

import json
import math

import hypothesis
import pytest
from hypothesis import strategies

from smartos_emulator import js

JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**53) + 1, 2**53 - 1)
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "Unexpected end of input"),
        ("  ", "Unexpected end of input"),
        ("bogus", "Unexpected token b"),
        ('{"a": 1,}', "Unexpected token }"),
        ('{"a" "b"}', "Unexpected string"),
        ("[1 2]", "Unexpected number"),
        ("{a: 1}", "Unexpected token a"),
        ("{'a': 1}", "Unexpected token '"),
        ("[1,]", "Unexpected token ]"),
        ("01", "Unexpected number"),
        ("1.", "Unexpected end of input"),
        ("1e+", "Unexpected end of input"),
        ("-", "Unexpected end of input"),
        ("-Infinity", "Unexpected token I"),
        ("NaN", "Unexpected token N"),
        ("nul", "Unexpected end of input"),
        ("nuLl", "Unexpected token L"),
        ('"ab', "Unexpected end of input"),
        ('"\\x41"', "Unexpected token x"),
        ('"\\u12g4"', "Unexpected token g"),
        ('"a\nb"', "Unexpected token \n"),
        ("{} {}", "Unexpected token {"),
        ("{}\ufeff", "Unexpected token \ufeff"),
        ("\ufeff{}", "Unexpected token \ufeff"),
    ],
)
def test_loads_complains_like_the_engine(document: str, complaint: str) -> None:
    with pytest.raises(js.JavaScriptError) as caught:
        js.loads(document)
    assert str(caught.value) == complaint


def test_loads_a_deep_document() -> None:
    with pytest.raises(js.JavaScriptError, match="Maximum call stack size exceeded"):
        js.loads("[" * 200_000)


def test_loads_puts_indices_first() -> None:
    assert list(js.loads('{"b": 1, "10": 2, "9": 3, "01": 4, "4294967295": 5}')) == [
        "9",
        "10",
        "b",
        "01",
        "4294967295",
    ]


@pytest.mark.parametrize(
    ("document", "value"),
    [("1.0", 1), ("1e3", 1000), ("9007199254740993", 9007199254740992), ("1e999", math.inf)],
)
def test_loads_numbers(document: str, value: float) -> None:
    assert js.loads(document) == value
    assert isinstance(js.loads(document), int) is math.isfinite(value)


@hypothesis.settings(deadline=None, derandomize=True, database=None)
@hypothesis.given(JSON)
def test_what_is_dumped_loads_again(value: object) -> None:
    dumped = js.dumps(value)
    assert json.loads(dumped, parse_int=float) == value
    assert js.dumps(js.loads(dumped)) == js.dumps(js.loads(js.dumps(value, 2)))


def test_dumps_indented() -> None:
    value = {"a": [], "b": {}, "c": [1, js.UNDEFINED, {"d": None}], "e": js.UNDEFINED}
    assert js.dumps(value, 2).splitlines() == [
        "{",
        '  "a": [],',
        '  "b": {},',
        '  "c": [',
        "    1,",
        "    null,",
        "    {",
        '      "d": null',
        "    }",
        "  ]",
        "}",
    ]


def test_dumps_on_one_line() -> None:
    assert js.dumps({"a": [True, math.nan, math.inf], "ü": '"\\\x01\u2028'}) == (
        '{"a":[true,null,null],"ü":"\\"\\\\\\u0001\u2028"}'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (123456789012345680000, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (-2.5, "-2.5"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (True, "true"),
        (None, "null"),
        (js.UNDEFINED, "undefined"),
        ([1, None, ["a", js.UNDEFINED]], "1,,a,"),
        ({"a": 1}, "[object Object]"),
    ],
)
def test_text(value: object, text: str) -> None:
    assert js.text(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("", 0),
        (" \n12\u00a0", 12),
        ("0x1F", 31),
        (".5", 0.5),
        ("5.", 5),
        ("1e3", 1000),
        ("-Infinity", -math.inf),
        (None, 0),
        (True, 1),
        ([], 0),
        (["7"], 7),
    ],
)
def test_number(value: object, number: float) -> None:
    assert js.number(value) == number


@pytest.mark.parametrize(
    "value", ["x", "1_000", "inf", "nan", "--1", "12abc", "0b1", js.UNDEFINED, {}, [1, 2], "٣"]
)
def test_not_a_number(value: object) -> None:
    assert js.is_nan(value)


@pytest.mark.parametrize(
    ("value", "fixed"),
    [(2.5, "3"), (-2.5, "-3"), (1e21, "1e+21"), (math.nan, "NaN"), (7941130728167549.0, None)],
)
def test_to_fixed(value: float, fixed: str | None) -> None:
    assert js.to_fixed(value) == (fixed or str(int(value)))


def test_truth() -> None:
    falsy = [None, js.UNDEFINED, 0, math.nan, "", False]
    assert not any(map(js.truthy, falsy))
    assert all(map(js.truthy, [[], {}, "0", "false", -1]))


def test_sameness_is_strict() -> None:
    assert js.same(1, 1.0)
    assert not js.same(1, True)
    assert not js.same("1", 1)
    assert not js.same(None, js.UNDEFINED)
    assert not js.same([1], [1])
    assert js.index_of([True, "1", 1], 1) == 2


def test_less_compares_text_with_text_only() -> None:
    assert js.less("10", "9")
    assert js.less("9", 10)
    assert js.less(None, 1)
    assert not js.less(js.UNDEFINED, 1)
    assert not js.less(1, js.UNDEFINED)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "Cannot call method 'forEach' of null"),
        (js.UNDEFINED, "Cannot call method 'forEach' of undefined"),
        ("x", "Object x has no method 'forEach'"),
        (5, "Object 5 has no method 'forEach'"),
        (True, "Object true has no method 'forEach'"),
        ({"a": 1}, "Object #<Object> has no method 'forEach'"),
    ],
)
def test_missing_methods(value: object, complaint: str) -> None:
    with pytest.raises(js.JavaScriptError) as caught:
        js.each(value)
    assert str(caught.value) == complaint


def test_properties() -> None:
    assert js.get("ab", "length") == 2
    assert js.get(["a"], "0") == "a"
    assert js.get({"a": 1}, "b") is js.UNDEFINED
    assert not js.own(5, "a")
    assert list(js.keys("ab")) == ["0", "1"]
    assert list(js.keys(None)) == []
    with pytest.raises(js.JavaScriptError, match="Cannot read property 'a' of null"):
        js.get(None, "a")
