# SPDX-License-Identifier: Apache-2.0
"""What a payload must fulfil beyond the types of its properties, in the order vmadm asks."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import conflicts, environment, errors, nic_checks, properties

_LIVE_DISK_CHANGES = ("compression", "path", "refreservation")
_LONGEST_VNC_PASSWORD = 8


def check(
    payload: dict[str, Any],
    vm: dict[str, Any] | None,
    brand: properties.Brand,
    environment: environment.Environment,
) -> None:
    """Raise PayloadError for the first rule that a payload breaks."""
    for array in properties.ARRAYS:
        for name in (f"add_{array}", f"update_{array}", f"remove_{array}"):
            if name in payload and not isinstance(payload[name], list):
                raise errors.PayloadError(f"{name} must be an array.")
    if vm:
        _check_state(payload, vm)
        _check_memory(payload, vm, brand)
    for disk in payload.get("add_disks", []):
        _check_new_disk(disk, vm or {}, brand)
    for disk in payload.get("update_disks", []):
        _check_disk_change(disk, brand)
    nics = nic_checks.check(payload, vm or {}, brand)
    if "vga" in payload and payload["vga"] not in properties.VGA_TYPES:
        raise errors.PayloadError(
            f'Invalid VGA type: "{js.text(payload["vga"])}", supported types are: '
            + ",".join(properties.VGA_TYPES)
        )
    nic_checks.check_routes(payload, vm or {}, nics)
    _check_vnc_password(payload)
    _check_datasets(payload)
    conflicts.check(payload, nics, environment)


def _stopped(vm: dict[str, Any]) -> bool:
    state, zone_state = vm["state"], vm["zone_state"]
    return state == "stopped" or (state == "provisioning" and zone_state == "installed")


def _check_state(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    """Hardware changes only while the VM is off."""
    currently = f'is only allowed when state is "stopped", currently: {vm["state"]}'
    currently += f" ({vm['zone_state']})"
    if not _stopped(vm):
        if "add_disks" in payload or "remove_disks" in payload:
            raise errors.PayloadError(f"updates to disks {currently.replace('is', 'are', 1)}")
        keys = {key for change in payload.get("update_disks", []) for key in _own_keys(change)}
        if not keys <= set(_LIVE_DISK_CHANGES):
            raise errors.PayloadError(f"at least one specified update to disks {currently}")
    pci = [f"{verb}_pci_devices" for verb in ("add", "update", "remove")]
    if vm["state"] != "stopped" and any(name in payload for name in pci):
        raise errors.PayloadError(f"updates to pci_devices {currently.replace('is', 'are', 1)}")


def _own_keys(value: Any) -> list[str]:
    if value is None:
        raise js.JavaScriptError("Object.keys called on non-object")
    return list(js.keys(value))


def _check_memory(payload: dict[str, Any], vm: dict[str, Any], brand: properties.Brand) -> None:
    if not brand.least_overhead:
        return
    ram = payload["ram"] if "ram" in payload else vm.get("ram", js.UNDEFINED)
    for name in ("max_physical_memory", "max_locked_memory", "max_swap"):
        if name in payload and js.less(payload[name], ram):
            raise errors.PayloadError(
                f"vm.{name} ({js.text(payload[name])}) cannot be lower than vm.ram ({js.text(ram)})"
            )
    least = properties.MINIMUM_MAX_SWAP
    if "max_swap" in payload and js.less(payload["max_swap"], least):
        raise errors.PayloadError(
            f"vm.max_swap ({js.text(payload['max_swap'])}) cannot be lower than {least}MiB"
        )


def _check_new_disk(disk: Any, vm: dict[str, Any], brand: properties.Brand) -> None:
    if js.own(disk, "path"):
        is_cdrom = js.same(js.get(disk, "media"), "cdrom")
        if not is_cdrom and not js.truthy(js.get(disk, "nocreate")):
            raise errors.PayloadError(
                "you cannot specify a path for a disk unless you set nocreate=true"
            )
    if js.own(disk, "block_size"):
        size = js.get(disk, "block_size")
        if not is_record_size(size):
            raise errors.PayloadError(
                f"invalid .block_size({js.text(size)}), must be 512-131072 and a power of 2."
            )
        if js.own(disk, "image_uuid"):
            raise errors.PayloadError(
                "setting both .block_size and .image_uuid on a volume is invalid"
            )
    _check_compression(disk, "setting")
    model = js.get(disk, "model")
    if model is js.UNDEFINED or model == "undefined":
        js.put(disk, "model", _usual_model(disk, vm))
    else:
        _check_model(disk, brand)


def _usual_model(disk: Any, vm: dict[str, Any]) -> Any:
    present = vm.get("disks") or []
    if "disk_driver" in vm:
        return vm["disk_driver"]
    if present and js.truthy(js.get(present[0], "model")):
        return present[0]["model"]
    raise errors.PayloadError(f"missing .model option for disk: {js.dumps(disk)}")


def _check_compression(disk: Any, what: str) -> None:
    if js.own(disk, "compression") and js.get(disk, "compression") not in (
        properties.COMPRESSION_TYPES
    ):
        raise errors.PayloadError(
            f"invalid compression {what} for disk, must be one of: "
            + ", ".join(properties.COMPRESSION_TYPES)
        )


def _check_model(disk: Any, brand: properties.Brand) -> None:
    if js.own(disk, "model") and js.get(disk, "model") not in brand.disk_models:
        raise errors.PayloadError(
            f'"{js.text(js.get(disk, "model"))}" is not a valid disk model for {brand.name} '
            f"brand. Valid are: {','.join(brand.disk_models)}"
        )


def _check_disk_change(disk: Any, brand: properties.Brand) -> None:
    if js.same(js.get(disk, "refreservation"), "auto"):
        raise errors.PayloadError("cannot change refreservation to auto on existing disk")
    _check_compression(disk, "type")
    if js.own(disk, "block_size"):
        raise errors.PayloadError("cannot change .block_size for a disk after creation")
    _check_model(disk, brand)


def is_record_size(value: Any) -> bool:
    """Whether ZFS takes a size for its records: a power of two up to 128 KiB."""
    figure = js.int32(value)
    return (
        not js.less(value, 512)
        and not js.less(properties.DEFAULT_RECSIZE, value)
        and figure & js.int32(figure - 1) == 0
    )


def _check_vnc_password(payload: dict[str, Any]) -> None:
    if "vnc_password" in payload and js.less(
        _LONGEST_VNC_PASSWORD, js.get(payload["vnc_password"], "length")
    ):
        raise errors.PayloadError(
            f"VNC password is too long, maximum length is {_LONGEST_VNC_PASSWORD} characters."
        )


def _check_datasets(payload: dict[str, Any]) -> None:
    for name in ("zfs_root_recsize", "zfs_data_recsize"):
        if name in payload:
            _check_record_size(payload, name)
    for name in ("zfs_root_compression", "zfs_data_compression"):
        if name in payload and payload[name] not in properties.COMPRESSION_TYPES:
            raise errors.PayloadError(
                f"invalid compression type for {js.text(payload[name])}, must be one of: "
                + ", ".join(properties.COMPRESSION_TYPES)
            )
    for name in ("zfs_filesystem_limit", "zfs_snapshot_limit"):
        if payload.get(name) is js.UNDEFINED:
            payload[name] = "none"


def _check_record_size(payload: dict[str, Any], name: str) -> None:
    if payload[name] in (0, ""):
        payload[name] = properties.DEFAULT_RECSIZE
    elif not is_record_size(payload[name]):
        raise errors.PayloadError(
            f"invalid {name} ({js.text(payload[name])}), must be 512-131072 and a power of 2. "
            "(0 to disable)"
        )
