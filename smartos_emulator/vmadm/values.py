# SPDX-License-Identifier: Apache-2.0
"""Whether a value fits the type of a property."""

import re
from collections.abc import Callable
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, properties

_UUID = re.compile(r"[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}")
_ATTRIBUTE = re.compile(r"[a-zA-Z0-9\-._]+")
_CLIENT_ID = re.compile(r"0x[0-9a-fA-F]+")
_MAC_LETTERS = re.compile(r"[0-9a-fA-F:]+")
_SCALARS = ("string", "number", "boolean")


def fits(value: Any, entry: properties.Property, pools: list[str]) -> bool:
    """Whether a payload may give a property this value."""
    if entry.type == "zpool":
        return isinstance(value, str) and value in pools
    return _TYPES[entry.type](value, entry)


def _is_uuid(value: Any, entry: properties.Property) -> bool:
    return is_uuid(value)


def is_uuid(value: Any) -> bool:
    """Whether vmadm takes a value for a uuid: lower case only."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_boolean(value: Any, entry: properties.Property) -> bool:
    return isinstance(value, bool) or js.same(value, 1) or value in ("1", "true", "false")


def _is_unset(value: Any) -> bool:
    return value is js.UNDEFINED or value is None or not js.trim(js.text(value))


def _is_string(value: Any, entry: properties.Property) -> bool:
    if _is_unset(value):
        return True
    checked = not entry.check or _CHECKS[entry.check](value)
    return isinstance(value, str) and checked


def _is_integer(value: Any, entry: properties.Property) -> bool:
    if _is_unset(value):
        return True
    if isinstance(value, bool):
        return False
    figure = js.number(value)
    return (
        not js.is_nan(figure)
        and js.is_whole(figure)
        and (entry.minimum is None or figure >= entry.minimum)
        and (entry.maximum is None or figure <= entry.maximum)
    )


def _is_flat_object(value: Any, entry: properties.Property) -> bool:
    return js.typeof(value) == "object" and all(
        js.typeof(js.get(value, key)) in _SCALARS for key in js.keys(value)
    )


def _is_list(value: Any, entry: properties.Property) -> bool:
    if isinstance(value, str):
        value = [one for one in value.split(",") if one]
    return isinstance(value, list) and all(_is_item(one, entry) for one in value)


def _is_item(value: Any, entry: properties.Property) -> bool:
    if js.typeof(value) not in ("string", "number"):
        return False
    if entry.check and not _CHECKS[entry.check](value):
        return False
    return "," not in js.text(value)


def _is_object_array(value: Any, entry: properties.Property) -> bool:
    return isinstance(value, list) and all(js.typeof(one) == "object" for one in value)


_TYPES: dict[str, Callable[[Any, properties.Property], bool]] = {
    "boolean": _is_boolean,
    "flat-object": _is_flat_object,
    "integer": _is_integer,
    "list": _is_list,
    "object-array": _is_object_array,
    "string": _is_string,
    "uuid": _is_uuid,
}


def _is_attribute(value: Any) -> bool:
    return _ATTRIBUTE.fullmatch(js.text(value)) is not None


def _is_client_id(value: Any) -> bool:
    return (
        isinstance(value, str)
        and _CLIENT_ID.fullmatch(value) is not None
        and len(value) % 2 == 0
        and len(value) <= 512
    )


def _is_mac(value: Any) -> bool:
    return bool(addresses.parse_mac(value)) and _MAC_LETTERS.fullmatch(value) is not None


def _is_sector_size(value: Any) -> bool:
    js.require_method(value, "split")
    sizes = js.text(value).split("/")
    return len(sizes) <= 2 and all(map(_is_power_of_two, sizes))


def _is_power_of_two(digits: str) -> bool:
    figure = js.int32(digits)
    return re.fullmatch("[0-9]+", digits) is not None and bool(
        figure and not figure & js.int32(figure - 1)
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "address": lambda value: addresses.version(value) > 0,
    "attribute": _is_attribute,
    "client_id": _is_client_id,
    "mac": _is_mac,
    "sector_size": _is_sector_size,
}
