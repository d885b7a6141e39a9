# SPDX-License-Identifier: Apache-2.0
"""A whole payload against the tables: `vmadm validate`, and the gate of create and update."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, environment, images, properties, values, verdict

Verdict = verdict.Verdict


def validate(
    brand: Any, action: str, payload: Any, environment: environment.Environment
) -> Verdict:
    """What `vmadm validate` says of a payload."""
    return examine(brand, action, copy.deepcopy(payload), environment)


def examine(brand: Any, action: str, payload: Any, environment: environment.Environment) -> Verdict:
    """Like `validate`, but what images tell of their disks is filled into the payload."""
    if not isinstance(brand, str) or brand not in properties.BRANDS:
        return Verdict(bad_brand=brand if js.truthy(brand) else "undefined")
    verdict = Verdict()
    for name in js.keys(payload):
        _check(verdict, brand, name, js.get(payload, name), action, environment)
        if properties.has_type(name, "object-array"):
            _check_members(verdict, brand, name, js.get(payload, name), environment)
    known = properties.allowed(brand)
    if "disks" in known:
        flexible = js.own(payload, "flexible_disk_size")
        _check_array(verdict, payload, "disks", functools.partial(_disk_source, flexible))
    if "pci_devices" in known:
        _check_array(verdict, payload, "pci_devices", _pci_device)
    for name in properties.required(brand, action):
        if not js.own(payload, name):
            verdict.missing_properties.append(name)
    images.check(payload, properties.BRANDS[brand], verdict, environment)
    _check_refreservations(verdict, payload)
    return verdict


def _check(
    verdict: Verdict,
    brand: str,
    name: str,
    value: Any,
    action: str,
    environment: environment.Environment,
) -> None:
    if action not in properties.allowed(brand).get(name, ()):
        verdict.bad_property(name)
    entry = properties.PROPERTIES.get(name)
    if entry is None:
        return
    if values.fits(value, entry, environment.pools()):
        return
    if entry.type == "integer":
        # each bad integer is named, however often its name occurs
        verdict.bad_values.append(name)
    else:
        verdict.bad_value(name)


def _check_members(
    verdict: Verdict,
    brand: str,
    name: str,
    value: Any,
    environment: environment.Environment,
) -> None:
    if not isinstance(value, list):
        return
    array = properties.PROPERTIES[name].check_as or name
    action = "update" if name.startswith("update_") else "add"
    for member in value:
        if js.typeof(member) != "object":
            verdict.bad_value(name)
            continue
        for key in js.keys(member):
            _check(verdict, brand, f"{array}.*.{key}", js.get(member, key), action, environment)


def _check_array(
    verdict: Verdict, payload: Any, name: str, check: Callable[[Verdict, str, Any], None]
) -> None:
    for array in (name, f"add_{name}"):
        if js.own(payload, array):
            value = js.get(payload, array)
            for key in js.keys(value):
                check(verdict, f"{array}.{key}", js.get(value, key))


def _disk_source(flexible: bool, verdict: Verdict, prefix: str, disk: Any) -> None:
    """A disk comes from an image, or has a size of its own; both only with a flexible size."""
    if js.own(disk, "media") and not js.same(js.get(disk, "media"), "disk"):
        return
    if js.own(disk, "image_uuid"):
        needed = "image_size"
        forbidden = ["block_size"] if flexible else ["size", "block_size"]
    else:
        needed = "size"
        forbidden = ["image_name", "image_size"]
    if not js.own(disk, needed):
        verdict.missing_properties.append(f"{prefix}.{needed}")
    verdict.bad_properties.extend(f"{prefix}.{name}" for name in forbidden if js.own(disk, name))


def _pci_device(verdict: Verdict, prefix: str, device: Any) -> None:
    if not js.own(device, "path"):
        verdict.missing_properties.append(f"{prefix}.path")
    elif not _is_device_path(js.get(device, "path")):
        verdict.bad_values.append(f"{prefix}.path")
    if not js.own(device, "pci_slot"):
        verdict.missing_properties.append(f"{prefix}.pci_slot")
    elif not _is_slot(js.get(device, "pci_slot")):
        verdict.bad_values.append(f"{prefix}.pci_slot")
    if js.own(device, "model") and not js.same(js.get(device, "model"), "passthru"):
        verdict.bad_values.append(f"{prefix}.model")


def _is_device_path(path: Any) -> bool:
    js.require_method(path, "indexOf")
    if isinstance(path, list):
        return js.index_of(path, "/devices") == 0
    return js.text(path).startswith("/devices")


def _is_slot(slot: Any) -> bool:
    try:
        addresses.parse_slot(slot)
    except (addresses.SlotError, js.JavaScriptError):
        return False
    return True


def _check_refreservations(verdict: Verdict, payload: Any) -> None:
    for array in ("disks", "add_disks"):
        if not js.own(payload, array):
            continue
        for at, disk in enumerate(js.each(js.get(payload, array))):
            if js.own(disk, "refreservation") and js.less(js.get(disk, "refreservation"), 0):
                verdict.bad_values.append(f"{array}.{at}.refreservation")
