# SPDX-License-Identifier: Apache-2.0
"""Disks, devices and file systems of a VM object."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import disk_config, properties

Vm = dict[str, Any]

_FILESYSTEM = ("source", "target", "raw", "type", "options")


def configure(vm: Vm, payload: Vm, brand: properties.Brand) -> None:
    """Set what a payload changes of them."""
    disks = disk_config.configure(vm.get("disks", []), payload)
    devices = disk_config.configure_pci(vm.get("pci_devices", []), payload)
    _put(vm, "pci_devices", devices)
    _put(vm, "filesystems", _filesystems(vm.get("filesystems", []), payload))
    vm.pop("device", None)
    if disks or devices:
        # a trace of how the configuration is read
        vm["device"] = None
    if "disks" in properties.allowed(brand.name):
        vm["disks"] = disks


def _put(vm: Vm, name: str, values: list[Any]) -> None:
    if values:
        vm[name] = values
    else:
        vm.pop(name, None)


def _filesystems(present: list[Vm], payload: Vm) -> list[Vm]:
    made = list(present)
    for change in payload.get("update_filesystems", []):
        for one in present:
            if one.get("target") == js.get(change, "target"):
                taken = _members(change, properties.updatable("filesystems"))
                # a changed one is taken out and added again, behind the others
                made = [other for other in made if other is not one] + [one | taken]
    made += [_members(one, _FILESYSTEM) for one in payload.get("add_filesystems", [])]
    removed = payload.get("remove_filesystems", [])
    return [one for one in made if one.get("target") not in removed]


def _members(value: Any, names: tuple[str, ...]) -> Vm:
    return {name: js.get(value, name) for name in names if js.own(value, name)}
