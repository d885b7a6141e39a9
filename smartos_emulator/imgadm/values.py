# SPDX-License-Identifier: Apache-2.0
"""Small habits of JavaScript that imgadm's rules and texts show through."""

import re
from typing import Any

from smartos_emulator import js

# Names that every JavaScript object answers to, so that a table looked up by them never misses.
INHERITED = (
    *("constructor", "toString", "toLocaleString", "valueOf", "hasOwnProperty", "isPrototypeOf"),
    *("propertyIsEnumerable", "__defineGetter__", "__lookupGetter__", "__defineSetter__"),
    *("__lookupSetter__", "__proto__"),
)


def keys(value: Any) -> list[str]:
    """Object.keys(value)."""
    if not isinstance(value, (dict, list)):
        raise js.JavaScriptError("Object.keys called on non-object")
    return list(js.keys(value))


def units(text: str) -> int:
    """The length of a string in UTF-16 units."""
    return len(text) + sum(1 for character in text if ord(character) > 0xFFFF)


def longer(value: Any, limit: int) -> bool:
    """`value.length > limit`."""
    length = units(value) if isinstance(value, str) else js.get(value, "length")
    return isinstance(length, (int, float)) and length > limit


def is_object(value: Any) -> bool:
    """`typeof value === 'object'`."""
    return js.typeof(value) == "object"


def _substitution(kind: str, value: Any) -> str:
    if kind == "j":
        return "undefined" if value is js.UNDEFINED else js.dumps(value)
    return js.text(js.number(value)) if kind == "d" else js.text(value)


def text(template: str, *arguments: Any) -> str:
    """util.format(template, ...): %s, %d and %j."""
    rest = iter(arguments)
    return re.sub(r"%([sdj])", lambda match: _substitution(match[1], next(rest)), template)
