# SPDX-License-Identifier: Apache-2.0
"""The JavaScript that the node's own tools show through: conversions, comparisons, JSON and the
error texts of the V8 engine of node 0.10.

A JavaScript value is its JSON counterpart in Python, and `UNDEFINED`.
"""

import json.encoder
import math
import re
from collections.abc import Iterator
from typing import Any

from smartos_emulator import js_scanner

_BLANK = " \t\n\r\v\f\u00a0\u1680\u180e\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_NUMBER = re.compile(r"[+-]?(?:Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII)
_INDEX = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)
_LAST_INDEX = 2**32 - 2
_EXACT = 2**53
_EXPONENTIAL = 10**21

_STRING_METHODS = frozenset("hasOwnProperty indexOf match replace split toString trim".split())
_ARRAY_METHODS = frozenset(
    "filter forEach hasOwnProperty indexOf join map push reduce toString".split()
)
_OBJECT_METHODS = frozenset(["hasOwnProperty", "toString"])


class JavaScriptError(Exception):
    """An exception that JavaScript code did not expect; uncaught, it ends the process."""


class Undefined:
    """The type of `UNDEFINED`."""

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> "Undefined":
        return self

    def __deepcopy__(self, memo: object) -> "Undefined":
        return self

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = Undefined()
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def typeof(value: Any) -> str:
    """What `typeof` says of a value."""
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "object"


def truthy(value: Any) -> bool:
    """What `if (value)` decides."""
    if isinstance(value, (dict, list)):
        return True
    if isinstance(value, float) and math.isnan(value):
        return False
    return bool(value)


def same(left: Any, right: Any) -> bool:
    """The `===` operator."""
    if typeof(left) != typeof(right):
        return False
    if isinstance(left, (dict, list)) or isinstance(right, (dict, list)):
        return left is right
    return bool(left == right)


def index_of(values: list[Any], wanted: Any) -> int:
    """`values.indexOf(wanted)`."""
    return next((at for at, value in enumerate(values) if same(value, wanted)), -1)


def number(value: Any) -> int | float:
    """`Number(value)`."""
    if value is UNDEFINED:
        return math.nan
    if value is None:
        return 0
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    return _number_of_text(value if isinstance(value, str) else text(value))


def _number_of_text(value: str) -> int | float:
    value = value.strip(_BLANK)
    if not value:
        return 0
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", value):
        return tidy(float(int(value, 16)))
    if not _NUMBER.fullmatch(value):
        return math.nan
    return tidy(float(value))


def tidy(value: float) -> int | float:
    """A number in the form the documents carry it: whole ones as int."""
    if math.isfinite(value) and value == int(value):
        return int(value)
    return value


def is_nan(value: Any) -> bool:
    """`isNaN(value)`."""
    return math.isnan(number(value))


def is_whole(value: int | float) -> bool:
    """`Math.floor(value) === value`; infinity counts as whole."""
    return math.isinf(value) or value == math.floor(value)


def text(value: Any) -> str:
    """`String(value)`."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, list):
        return ",".join("" if one is None or one is UNDEFINED else text(one) for one in value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "undefined" if value is UNDEFINED else number_text(value)


def number_text(value: int | float) -> str:
    """A number as JavaScript prints it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, int) and abs(value) < _EXACT:
        return str(value)
    sign, digits, exponent = _decimal(float(value))
    return sign + _places(digits, exponent)


def _decimal(value: float) -> tuple[str, str, int]:
    """The shortest digits of a number, and where its point stands after the first of them."""
    mantissa, _, power = f"{abs(value)!r}".lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))
    return "-" if value < 0 else "", digits.rstrip("0") or "0", point


def _places(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def less(left: Any, right: Any) -> bool:
    """The `<` operator."""
    left, right = _primitive(left), _primitive(right)
    if isinstance(left, str) and isinstance(right, str):
        return left.encode("utf-16-be", "surrogatepass") < right.encode(
            "utf-16-be", "surrogatepass"
        )
    return number(left) < number(right)


def _primitive(value: Any) -> Any:
    return text(value) if isinstance(value, (dict, list)) else value


def int32(value: Any) -> int:
    """A value as the bit operators see it."""
    figure = number(value)
    if not math.isfinite(figure):
        return 0
    low = int(figure) & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


def trim(value: str) -> str:
    """A string without the blanks at its ends."""
    return value.strip(_BLANK)


def keys(value: Any) -> Iterator[str]:
    """The keys that `for (key in value)` visits, as they stood at the start."""
    if isinstance(value, dict):
        yield from list(value)
    elif isinstance(value, (list, str)):
        yield from map(str, range(len(value)))


def own(value: Any, key: str) -> bool:
    """`value.hasOwnProperty(key)`."""
    require_method(value, "hasOwnProperty")
    if isinstance(value, dict):
        return key in value
    if isinstance(value, (list, str)):
        return key == "length" or (bool(_INDEX.fullmatch(key)) and int(key) < len(value))
    return False


def get(value: Any, key: str) -> Any:
    """`value.key`; an absent property is `UNDEFINED`."""
    if value is None or value is UNDEFINED:
        raise JavaScriptError(f"Cannot read property '{key}' of {text(value)}")
    if isinstance(value, dict):
        return value.get(key, UNDEFINED)
    if isinstance(value, (list, str)):
        if key == "length":
            return len(value)
        if own(value, key):
            return value[int(key)]
    return UNDEFINED


def put(value: Any, key: str, new: Any) -> None:
    """`value.key = new`; what cannot hold properties forgets it."""
    if value is None or value is UNDEFINED:
        raise JavaScriptError(f"Cannot set property '{key}' of {text(value)}")
    if isinstance(value, dict):
        value[key] = new


def drop(value: Any, key: str) -> None:
    """`delete value.key`."""
    if value is None or value is UNDEFINED:
        raise JavaScriptError("Cannot convert null to object")
    if isinstance(value, dict):
        value.pop(key, None)


def require_method(value: Any, name: str) -> None:
    """Raise what a call of `value.name()` raises where there is no such method."""
    if value is None or value is UNDEFINED:
        raise JavaScriptError(f"Cannot call method '{name}' of {text(value)}")
    if isinstance(value, str):
        known = name in _STRING_METHODS
    elif isinstance(value, list):
        known = name in _ARRAY_METHODS
    else:
        known = name in _OBJECT_METHODS
    if not known:
        raise JavaScriptError(f"Object {_described(value)} has no method '{name}'")


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "#<Object>"
    return "[object Array]" if isinstance(value, list) else text(value)


def each(value: Any) -> list[Any]:
    """The elements that `value.forEach()` visits."""
    require_method(value, "forEach")
    return list(value)


def loads(document: str) -> Any:
    """`JSON.parse(document)`; a JavaScriptError has the engine's text."""
    if document.startswith("\ufeff"):
        raise JavaScriptError(js_scanner.complaint(document))
    try:
        made = _DECODER.decode(document)
    except RecursionError:
        raise JavaScriptError("Maximum call stack size exceeded") from None
    except ValueError:
        raise JavaScriptError(js_scanner.complaint(document)) from None
    return _well_formed(made) if _ESCAPED_SURROGATE.search(document) else made


def _well_formed(value: Any) -> Any:
    """A value whose texts can be written: the engine writes half a pair as U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_well_formed(one) for one in value]
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(one) for key, one in value.items()}
    return value


def _constant(name: str) -> Any:
    raise ValueError(name)


def _in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's properties in the engine's order: array indices come first, ascending."""
    made = dict(pairs)
    indices = [key for key in made if _INDEX.fullmatch(key) and int(key) <= _LAST_INDEX]
    if not indices:
        return made
    first = {key: made[key] for key in sorted(indices, key=int)}
    return first | made


def _whole(digits: str) -> int | float:
    return tidy(float(digits)) if len(digits) > 15 else int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_in_order,
    parse_constant=_constant,
    parse_float=lambda digits: tidy(float(digits)),
    parse_int=_whole,
)


def dumps(value: Any, indent: int = 0) -> str:
    """`JSON.stringify(value, null, indent)`."""
    return _written(value, "\n" if indent else "", " " * indent)


def _written(value: Any, line: str, step: str) -> str:
    if isinstance(value, str):
        return json.encoder.encode_basestring(value)
    if isinstance(value, dict):
        inner = line + step
        colon = ": " if line else ":"
        parts = [
            f"{inner}{json.encoder.encode_basestring(key)}{colon}{_written(one, inner, step)}"
            for key, one in value.items()
            if one is not UNDEFINED
        ]
        return "{" + ",".join(parts) + (line if parts else "") + "}"
    if isinstance(value, list):
        inner = line + step
        items = [inner + _written(one, inner, step) for one in value]
        return "[" + ",".join(items) + (line if items else "") + "]"
    if value is None or value is UNDEFINED:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    return number_text(value)


def to_fixed(value: int | float) -> str:
    """`value.toFixed()`."""
    if not abs(value) < _EXPONENTIAL:
        return number_text(value)
    size = abs(value)
    whole = int(size) if size >= _EXACT / 2 else math.floor(size + 0.5)
    return f"-{whole}" if value < 0 else str(whole)
