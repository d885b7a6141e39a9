# SPDX-License-Identifier: Apache-2.0
"""JSON of the node's tools into frozen dataclasses: unknown keys ignored, a missing one named.

What a tool prints is never trusted: every value is checked against the annotation of its field.
"""

import dataclasses
import datetime
import decimal
import functools
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

from nova_smartos.smartos import errors

EXCERPT = 200
WHOLE = "*"

# Of an array: up to its first element, and from one to the next.
_FIRST = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*(?P<end>\])?")
_NEXT = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*|(?P<end>\]))")

Converter = Callable[[Any], Any]
T = TypeVar("T", bound="Record")


class Record:
    """Base of the dataclasses that are read from a JSON object of a tool."""

    __slots__ = ()

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read one object; anything unexpected is an OutputError that names the key."""
        try:
            return _decode(cls, data)
        except ValueError as exc:
            raise errors.OutputError(f"{cls.__name__}{exc}") from None


def excerpt(text: str) -> str:
    """The beginning of a text of the node, safe to show."""
    shown = ascii(text[:EXCERPT])
    return shown if len(text) <= EXCERPT else f"{shown}… ({len(text)} characters)"


def key(name: str, default: Any = dataclasses.MISSING, *, convert: Converter | None = None) -> Any:
    """A field whose key in the JSON has another name, or whose value needs a conversion.

    `dict` as the default is a new, empty one.
    """
    metadata = {"key": name, "convert": convert}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def whole() -> Any:
    """A field that keeps the JSON object itself."""
    metadata = {"key": WHOLE}
    return dataclasses.field(default_factory=dict, repr=False, compare=False, metadata=metadata)


def array(text: str) -> list[Any]:
    """The JSON array in a tool's output."""
    data = parse(text)
    if not isinstance(data, list):
        raise errors.OutputError(f"an array is expected, this is {_kind(data)}: {excerpt(text)}")
    return data


def elements(text: str) -> Iterator[Any]:
    """The elements of the JSON array in a tool's output, of which there may be thousands.

    One after the other: those that the reader does not keep are never there all at once. Those
    that it does have keys of their own: `compact` them.
    """
    found = _FIRST.match(text)
    if found is None:
        # this says what it is instead
        array(text)
    while found is not None and found["end"] is None:
        value, at = _parsed(_DECODER.raw_decode, text, found.end())
        yield value
        found = _NEXT.match(text, at)
    if found is None or text[found.end() :].strip():
        raise errors.OutputError(f"not JSON (an array that does not end): {excerpt(text)}")


def compact(value: Any) -> Any:
    """A JSON value whose keys are the same strings as those of all others."""
    try:
        return _compact(value)
    except RecursionError:
        raise errors.OutputError("JSON nested too deeply") from None


def object_(text: str) -> dict[str, Any]:
    """The JSON object in a tool's output."""
    data = parse(text)
    if not isinstance(data, dict):
        raise errors.OutputError(f"an object is expected, this is {_kind(data)}: {excerpt(text)}")
    return data


def parse(text: str, *, parse_float: Callable[[str], Any] | None = None) -> Any:
    """The JSON value in a tool's output."""
    loads = functools.partial(json.loads, parse_float=parse_float, parse_constant=_refuse_constant)
    return _parsed(loads, text)


def texts(data: list[Any]) -> list[str]:
    """An array that holds strings only."""
    for value in data:
        if not isinstance(value, str):
            raise errors.OutputError(f"a string is expected, not {_kind(value)}")
    return data


def _parsed(parser: Callable[..., Any], text: str, *rest: Any) -> Any:
    try:
        return parser(text, *rest)
    except RecursionError:
        problem = "JSON nested too deeply"
    except ValueError as exc:
        problem = f"not JSON ({exc})"
    # not in there: json's error, which would be the context, holds the whole text
    raise errors.OutputError(f"{problem}: {excerpt(text)}")


@dataclasses.dataclass(frozen=True)
class _Field:
    attribute: str
    key: str
    required: bool
    convert: Converter


def _compact(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(name): _compact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_compact(each) for each in value]
    return value


def _decode(cls: type[T], data: object) -> T:
    if not isinstance(data, dict):
        raise ValueError(f": an object is expected, not {_kind(data)}")
    values: dict[str, Any] = {}
    for field in _fields(cls):
        if field.key in data:
            values[field.attribute] = _convert(field, data[field.key])
        elif field.key == WHOLE:
            values[field.attribute] = data
        elif field.required:
            raise ValueError(f": key {field.key!r} is missing")
    return cls(**values)


def _convert(field: _Field, value: object) -> Any:
    try:
        return field.convert(value)
    except (TypeError, ValueError, ArithmeticError) as exc:
        text = str(exc)
        separator = "" if text.startswith((".", "[", ":")) else ": "
        raise ValueError(f".{field.key}{separator}{text}") from None


def _fields(cls: type) -> tuple[_Field, ...]:
    if cls not in _KNOWN:
        _KNOWN[cls] = _read_fields(cls)
    return _KNOWN[cls]


def _read_fields(cls: type) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        _Field(
            attribute=field.name,
            key=field.metadata.get("key", field.name),
            required=field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING,
            convert=field.metadata.get("convert") or _converter(hints[field.name]),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def _converter(hint: Any) -> Converter:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = _converter(next(each for each in arguments if each is not types.NoneType))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return functools.partial(_items, _converter(arguments[0]))
    if origin in (dict, Mapping):
        return functools.partial(_mapping, _converter(arguments[1]))
    if isinstance(hint, type) and issubclass(hint, Record):
        return functools.partial(_decode, hint)
    return _SCALARS[hint]


def _items(convert: Converter, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"an array is expected, not {_kind(value)}")
    found = []
    for position, each in enumerate(value):
        try:
            found.append(convert(each))
        except ValueError as exc:
            raise ValueError(f"[{position}]{exc}") from None
    return tuple(found)


def _mapping(convert: Converter, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object is expected, not {_kind(value)}")
    return {name: convert(each) for name, each in value.items()}


def _anything(value: object) -> object:
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false is expected, not {_kind(value)}")
    return value


def _integer(value: object) -> int:
    # JavaScript has no integers: 1e21 is how it prints a large one
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"an integer is expected, not {_kind(value)}")
    return value


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number is expected, not {_kind(value)}")
    return value


def _number(value: object) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, decimal.Decimal)):
        raise ValueError(f"a number is expected, not {_kind(value)}")
    return decimal.Decimal(str(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a string is expected, not {_kind(value)}")
    return value


def _timestamp(value: object) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {excerpt(repr(value))}"


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_KNOWN: dict[type, tuple[_Field, ...]] = {}
_SCALARS: dict[Any, Converter] = {
    Any: _anything,
    object: _anything,
    bool: _boolean,
    int: _integer,
    decimal.Decimal: _number,
    float: _real,
    str: _text,
    datetime.datetime: _timestamp,
}
