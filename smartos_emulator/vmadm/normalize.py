# SPDX-License-Identifier: Apache-2.0
"""What vmadm makes of a payload before it touches the node."""

import copy
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import (
    checks,
    defaults,
    disks,
    environment,
    errors,
    memory,
    nics,
    properties,
    validate,
)

PayloadError = errors.PayloadError


def normalize(
    environment: environment.Environment, payload: Any, vm: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The payload that create (without `vm`) or update works with.

    In an update a value of `js.UNDEFINED` unsets its property.
    """
    if vm is not None and not isinstance(payload, (dict, list)):
        raise js.JavaScriptError("Object.keys called on non-object")
    payload = copy.deepcopy(payload)
    if isinstance(payload, list):
        # to JavaScript an array is an object too
        payload = {key: js.get(payload, key) for key in js.keys(payload)}
    if vm is None:
        _claim_uuid(payload, environment)
    return _settle(payload, copy.deepcopy(vm), environment)


def _claim_uuid(payload: Any, environment: environment.Environment) -> None:
    if not js.own(payload, "uuid"):
        js.put(payload, "uuid", disks.new_uuid(environment.random()))
    uuid = js.get(payload, "uuid")
    if uuid is js.UNDEFINED:
        raise js.JavaScriptError("no uuid passed to getVmobj()")
    if any(js.same(vm.get("uuid"), uuid) for vm in environment.vms()):
        raise PayloadError(f"VM with UUID {js.text(uuid)} already exists")


def _settle(
    payload: Any, vm: dict[str, Any] | None, environment: environment.Environment
) -> dict[str, Any]:
    _convert(payload)
    if vm is None:
        brand = defaults.apply(payload)
        action = _action(payload)
    else:
        brand = properties.BRANDS[vm["brand"]]
        memory.complete(payload, vm, brand)
        action = "update"
    _rename_image(payload, brand)
    if js.truthy(js.get(payload, "docker")):
        defaults.apply_docker(payload, vm, brand, environment.random())
    _drop_refused(payload, brand, action, environment)
    if js.get(payload, "zonename") is js.UNDEFINED:
        payload["zonename"] = js.get(payload, "uuid")
    _rename_arrays(payload)
    _keep_data_settings(payload, vm or {})
    _complete_members(payload, vm, brand, environment)
    _convert_booleans(payload)
    _rename_pool(payload)
    if action == "create" and "image_uuid" not in payload:
        for name in ("spice_opts", "spice_password", "spice_port"):
            payload.pop(name, None)
    checks.check(payload, vm, brand, environment)
    return payload


def _convert(payload: Any) -> None:
    """Numbers and lists may come as text; an empty number unsets its property."""
    for name in js.keys(payload):
        value = js.get(payload, name)
        if properties.has_type(name, "integer"):
            js.put(payload, name, _integer(name, value))
        elif properties.has_type(name, "list") and isinstance(value, str):
            js.put(payload, name, [item for item in value.split(",") if item])
    if js.own(payload, "quota") and js.get(payload, "quota") is js.UNDEFINED:
        js.put(payload, "quota", 0)


def _integer(name: str, value: Any) -> Any:
    if value is None or value is js.UNDEFINED or js.same(value, ""):
        return js.UNDEFINED
    figure = js.number(value)
    if js.is_nan(figure):
        raise PayloadError(f"Invalid value for {name}: null:number")
    return figure


def _action(payload: Any) -> str:
    receiving = js.own(payload, "create_only") and js.same(
        js.get(js.get(payload, "transition"), "transition"), "receiving"
    )
    return "receive" if receiving else "create"


def _rename_image(payload: dict[str, Any], brand: properties.Brand) -> None:
    """Older names of the image."""
    known = properties.allowed(brand.name)
    old = [name for name in ("dataset_uuid", "zone_dataset_uuid") if name in payload]
    if any(name in known for name in old) and "image_uuid" not in payload:
        payload["image_uuid"] = payload[old[0]]
        payload.pop("dataset_uuid", None)


def _drop_refused(
    payload: dict[str, Any],
    brand: properties.Brand,
    action: str,
    environment: environment.Environment,
) -> None:
    """Bad values and missing properties end the command; bad properties only disappear."""
    verdict = validate.examine(brand.name, action, payload, environment)
    if verdict.bad_values:
        raise PayloadError(f"Invalid value(s) for: {','.join(verdict.bad_values)}")
    if verdict.missing_properties:
        raise PayloadError(f"Missing required properties: {','.join(verdict.missing_properties)}")
    for name in verdict.bad_properties:
        array, separator, member = name.partition(".*.")
        if separator and array in properties.ARRAYS:
            for field in (array, f"add_{array}", f"update_{array}"):
                for one in payload.get(field, []):
                    js.drop(one, member)
        payload.pop(name, None)


def _rename_arrays(payload: dict[str, Any]) -> None:
    """What a create brings is added, as in an update."""
    for array in properties.ARRAYS:
        if array in payload:
            if f"add_{array}" in payload:
                raise PayloadError(f'Cannot specify both "{array}" and "add_{array}"')
            payload[f"add_{array}"] = payload.pop(array)


def _keep_data_settings(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    """A new setting of the root dataset must not fall through to the delegated one."""
    usual = {"compression": "off", "recsize": properties.DEFAULT_RECSIZE}
    for setting, default in usual.items():
        data = f"zfs_data_{setting}"
        if f"zfs_root_{setting}" in payload and data not in payload:
            payload[data] = vm.get(data, default)


def _complete_members(
    payload: dict[str, Any],
    vm: dict[str, Any] | None,
    brand: properties.Brand,
    environment: environment.Environment,
) -> None:
    added_nics = payload.get("add_nics", [])
    nics.name(added_nics, environment.random())
    if brand.name == "bhyve" and "add_disks" in payload:
        disks.complete(payload["add_disks"], vm, environment.random())
    nics.upgrade_added(added_nics)
    nics.upgrade_changed(payload.get("update_nics", []), vm or {})


def _convert_booleans(payload: dict[str, Any]) -> None:
    for name, value in payload.items():
        if properties.has_type(name, "boolean"):
            payload[name] = _boolean(value)


def _boolean(value: Any) -> Any:
    if js.same(value, 1) or value in ("true", "1"):
        return True
    if js.same(value, 0) or value in ("false", "0"):
        return False
    return value


def _rename_pool(payload: dict[str, Any]) -> None:
    if "zfs_storage_pool_name" in payload and "zpool" not in payload:
        payload["zpool"] = payload.pop("zfs_storage_pool_name")
