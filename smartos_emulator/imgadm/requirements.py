# SPDX-License-Identifier: Apache-2.0
"""The rules for a manifest's `requirements`."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import fault, values

_MIN_YEAR = 2012


def validate(manifest: dict[str, Any]) -> fault.Errors:
    """All errors of `manifest.requirements`, in the order in which imgadm finds them."""
    given = manifest["requirements"]
    wanted = {key: js.get(given, key) for key in values.keys(given)}
    errors = [
        *_networks(wanted.pop("networks", None)),
        *_of_type("brand", wanted.pop("brand", None), str, "not a string"),
        *_of_type("ssh_key", wanted.pop("ssh_key", None), bool, "not a boolean"),
        *_ram(wanted.pop("min_ram", None), wanted.pop("max_ram", None)),
        *_platform("min_platform", wanted.pop("min_platform", None)),
        *_platform("max_platform", wanted.pop("max_platform", None)),
        *_bootrom(wanted.pop("bootrom", None), js.get(given, "brand")),
    ]
    return errors + [fault.invalid(key, f'unsupported requirement "{key}"') for key in wanted]


def is_integer(value: Any) -> bool:
    """What the rules call a positive integer: negative ones pass."""
    return js.typeof(value) == "number" and value % 1 == 0


def _networks(networks: Any) -> fault.Errors:
    field = "requirements.networks"
    if not js.truthy(networks):
        return []
    if not isinstance(networks, list):
        return [fault.invalid(field, f'invalid image "{field}" (not an array): %j', networks)]
    message = f'invalid image "{field}" entry: %j'
    return [fault.invalid(field, message, entry) for entry in networks if not _is_network(entry)]


def _is_network(entry: Any) -> bool:
    return (
        values.is_object(entry)
        and js.get(entry, "name") is not js.UNDEFINED
        and js.get(entry, "description") is not js.UNDEFINED
        and len(values.keys(entry)) == 2
    )


def _of_type(name: str, value: Any, kind: type, complaint: str) -> fault.Errors:
    if not js.truthy(value) or isinstance(value, kind):
        return []
    field = f"requirements.{name}"
    return [fault.invalid(field, f'invalid image "{field}" ({complaint}): %j', value)]


def _ram(least: Any, most: Any) -> fault.Errors:
    errors = []
    for name, value in (("min_ram", least), ("max_ram", most)):
        field = f"requirements.{name}"
        if js.truthy(value) and not is_integer(value):
            message = f'invalid image "{field}" (not a positive integer): %j'
            errors.append(fault.invalid(field, message, value))
    bounds = [value for value in (least, most) if js.truthy(value) and is_integer(value)]
    if len(bounds) == 2 and most < least:
        message = "min_ram must be <= max_ram, but:min_ram=%s, max_ram=%s"
        errors.append(fault.invalid("requirements.max_ram", message, least, most))
    return errors


def _platform(name: str, platforms: Any) -> fault.Errors:
    field = f"requirements.{name}"
    if not js.truthy(platforms):
        return []
    if not values.is_object(platforms) or not values.keys(platforms):
        return [fault.invalid(field, f'invalid image "{field}" (not an object): %j', platforms)]
    message = f'invalid image "{field}" entry: "%s: %s" not a valid platform version'
    entries = ((key, js.get(platforms, key)) for key in values.keys(platforms))
    return [
        fault.invalid(field, message, key, stamp) for key, stamp in entries if not _is_stamp(stamp)
    ]


def _is_stamp(stamp: Any) -> bool:
    """Whether this looks like 20260312T000000Z; parts that are no numbers go unnoticed."""
    if js.get(stamp, "length") != 16:
        return False
    if not isinstance(stamp, str):
        raise js.JavaScriptError(f"Object {js.text(stamp)} has no method 'substr'")
    year, month, day, hour, minute, second = (
        js.number(part)
        for part in (stamp[:4], stamp[4:6], stamp[6:8], stamp[9:11], stamp[11:13], stamp[13:15])
    )
    wrong = year < _MIN_YEAR or month > 12 or month == 0 or day > 31 or day == 0
    wrong = wrong or hour > 23 or minute > 59 or second > 59
    return not wrong and stamp[8] == "T" and stamp[15] == "Z"


def _bootrom(bootrom: Any, brand: Any) -> fault.Errors:
    field = "requirements.bootrom"
    if not js.truthy(bootrom):
        return []
    if not js.truthy(brand):
        return [
            fault.missing(
                field,
                '"requirements.brand" not specified. "requirements.bootrom" requires '
                '"requirements.brand" to be set to "bhyve"',
            )
        ]
    if brand != "bhyve":
        message = (
            'invalid bootrom "requirements.bootrom" not supported with "%s" brand; '
            '"requirements.brand" must be "bhyve"'
        )
        return [fault.invalid(field, message, brand)]
    if bootrom not in ("bios", "uefi"):
        message = (
            'invalid bootrom "requirements.bootrom" invalid entry "%s"; must be one of: bios, uefi'
        )
        return [fault.invalid(field, message, bootrom)]
    return []
