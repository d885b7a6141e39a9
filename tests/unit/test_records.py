# SPDX-License-Identifier: Apache-2.0
"""Records: JSON of a tool into dataclasses, with a clear word about what is wrong."""

import dataclasses
import datetime
import decimal
from collections.abc import Mapping
from typing import Any

import pytest

from nova_smartos.smartos import errors, records


@dataclasses.dataclass(frozen=True)
class Part(records.Record):
    size_mib: int = records.key("size")


@dataclasses.dataclass(frozen=True)
class Thing(records.Record):
    name: str
    parts: tuple[Part, ...] = ()
    ratio: decimal.Decimal | None = None
    on: bool = False
    made: datetime.datetime | None = None
    by_name: Mapping[str, Part] = records.key("by name", dict)
    anything: Any = None
    document: Mapping[str, Any] = records.whole()


def test_reads_all_kinds() -> None:
    data = {
        "name": "x",
        "parts": [{"size": 1}, {"size": 2.0, "new": None}],
        "ratio": 1.25,
        "on": True,
        "made": "2026-01-02T03:04:05.678Z",
        "by name": {"a": {"size": 3}},
        "anything": [None],
        "unknown": 1,
    }
    thing = Thing.from_json(data)
    assert thing.parts == (Part(1), Part(2))
    assert thing.ratio == decimal.Decimal("1.25")
    assert thing.made == datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC)
    assert thing.by_name == {"a": Part(3)}
    assert thing.document is data


def test_defaults_and_null() -> None:
    thing = Thing.from_json({"name": "x", "ratio": None})
    assert (thing.parts, thing.ratio, thing.by_name) == ((), None, {})


def test_a_naive_time_is_utc() -> None:
    thing = Thing.from_json({"name": "x", "made": "2026-01-02T00:00:00"})
    assert thing.made is not None and thing.made.tzinfo is datetime.UTC


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "Thing: key 'name' is missing"),
        ([], "Thing: an object is expected, not list '[]'"),
        ({"name": 3}, "Thing.name: a string is expected, not int '3'"),
        ({"name": "x", "on": 1}, "Thing.on: true or false is expected, not int '1'"),
        ({"name": "x", "on": None}, "Thing.on: true or false is expected, not NoneType 'None'"),
        ({"name": "x", "parts": {}}, "Thing.parts: an array is expected, not dict '{}'"),
        ({"name": "x", "parts": [{"size": 1}, {}]}, "Thing.parts[1]: key 'size' is missing"),
        ({"name": "x", "parts": [{"size": 1.5}]}, "Thing.parts[0].size: an integer is expected"),
        ({"name": "x", "parts": [{"size": True}]}, "Thing.parts[0].size: an integer is expected"),
        ({"name": "x", "by name": {"a": 1}}, "Thing.by name: an object is expected"),
        ({"name": "x", "made": "soon"}, "Thing.made: Invalid isoformat string"),
        ({"name": "x", "ratio": "1"}, "Thing.ratio: a number is expected, not str"),
    ],
)
def test_says_what_is_wrong(data: object, says: str) -> None:
    with pytest.raises(errors.OutputError) as caught:
        Thing.from_json(data)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "[1,]", "NaN", '{"a": Infinity}', "[" * 200_000, "1" * 5000, "\0"]
)
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(errors.OutputError):
        records.parse(text)


@pytest.mark.parametrize(
    "text", ["[]", " [ ]\n", "[1]", "[1,2]", '[\n  {"a": [1, "]"]},\n\t2 , null\r\n]\n']
)
def test_elements_are_those_of_the_array(text: str) -> None:
    assert list(records.elements(text)) == records.array(text)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '"[]"', "[1,]", "[,1]", "[1", "[1 2]", "[1][2]", "[]]", "[NaN]", "[" * 200_000],
)
def test_what_is_no_array_of_elements(text: str) -> None:
    with pytest.raises(errors.OutputError) as caught:
        list(records.elements(text))
    assert len(str(caught.value)) < 400


def test_compact_values_share_their_keys() -> None:
    """Those of thousands of VMs are kept."""
    text = '[{"a": 1, "b c": [{"d e": 2}]}, {"a": 3, "b c": [{"d e": 4}]}]'
    one, two = map(records.compact, records.elements(text))
    assert [one, two] == records.array(text)
    for mine, others in ((one, two), (one["b c"][0], two["b c"][0])):
        assert all(a is b for a, b in zip(mine, others, strict=True))


def test_a_value_that_is_nested_too_deeply() -> None:
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(errors.OutputError, match="nested too deeply"):
        records.compact(deep)


def test_the_excerpt_is_short_and_plain() -> None:
    text = records.excerpt("\x1b[2Jé\n" + "x" * 10_000)
    assert len(text) < 300
    assert text.isprintable()
    assert "(10006 characters)" in text


def test_array_and_object() -> None:
    assert records.array("[1]") == [1]
    assert records.object_('{"a": 1}') == {"a": 1}
    for text, parser in (("{}", records.array), ("[]", records.object_)):
        with pytest.raises(errors.OutputError, match="is expected"):
            parser(text)
