# SPDX-License-Identifier: Apache-2.0
"""The PCI slots and uuids of bhyve disks."""

import dataclasses
import random
import uuid
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, errors

_RESERVED_DEVICES = (0, 6, 30, 31)
_CDROM_DEVICE = 3
_BOOT_DEVICE = 4
_LEGACY_DEVICE = 5
_FUNCTIONS = 8


@dataclasses.dataclass
class Slots:
    """The occupied functions of PCI bus 0: device, then function, then the disk there."""

    devices: dict[int, dict[int, Any]] = dataclasses.field(default_factory=dict)

    def assign(self, disks: list[Any], *, legacy: bool = False) -> list[tuple[Any, str]]:
        """Find a slot for each disk without one; a boot disk chooses first."""
        if not all(isinstance(disk, dict) for disk in disks):
            raise errors.PayloadError("disks must be as in vmobj or payload ([object]) is required")
        waiting: list[Any] = []
        boot: Any = None
        for disk in disks:
            boots = js.truthy(disk.get("boot"))
            if boots and boot is not None:
                raise errors.PayloadError(
                    f'multiple boot disks: "{_description(boot)}" and "{_description(disk)}"'
                )
            boot = disk.get("boot") if boots else boot
            if "pci_slot" in disk:
                self._occupy(disk)
            else:
                waiting.insert(0 if boots else len(waiting), disk)
        return [(disk, self._place(disk, legacy)) for disk in waiting]

    def _occupy(self, disk: dict[str, Any]) -> None:
        slot = disk["pci_slot"]
        bus, device, function = addresses.parse_slot(slot)
        if bus:
            return
        if device in _RESERVED_DEVICES:
            raise errors.PayloadError(f'pci_slot "{slot}" invalid: PCI device {device} is reserved')
        functions = self.devices.setdefault(device, {})
        if function in functions:
            paths = [js.text(js.get(one, "path")) for one in (functions[function], disk)]
            raise errors.PayloadError(
                f'VM has multiple disks in pci_slot "{slot}": "{paths[0]}" and "{paths[1]}'
            )
        functions[function] = disk

    def _place(self, disk: dict[str, Any], legacy: bool) -> str:
        media = disk.get("media", js.UNDEFINED)
        if media == "cdrom":
            device = _CDROM_DEVICE
        elif media is js.UNDEFINED or media == "disk":
            device = _BOOT_DEVICE if js.truthy(disk.get("boot")) or not legacy else _LEGACY_DEVICE
        else:
            raise errors.PayloadError(
                f"VM has no PCI bus or slot assigned for {js.text(media)} devices; "
                "automatic pci_slot assignment not possible"
            )
        functions = self.devices.setdefault(device, {})
        function = next(free for free in range(_FUNCTIONS + 1) if free not in functions)
        if function == _FUNCTIONS:
            raise errors.PayloadError(
                f"VM has more than {_FUNCTIONS} {js.text(media)} devices on PCI device {device}"
            )
        functions[function] = disk
        return f"0:{device}:{function}"


def _description(disk: Any) -> str:
    if js.truthy(js.get(disk, "path")):
        return f"path={js.text(disk['path'])}"
    if js.truthy(js.get(disk, "pci_slot")):
        return f"pci_slot={js.text(disk['pci_slot'])}"
    return f'"{js.dumps(disk)}"'


def complete(added: list[Any], vm: dict[str, Any] | None, source: random.Random) -> None:
    """Give each added disk of a bhyve VM its slot and its uuid."""
    slots = Slots()
    try:
        if vm:
            slots.assign(vm["disks"], legacy=True)
        for disk, slot in slots.assign(added):
            disk["pci_slot"] = slot
    except (addresses.SlotError, js.JavaScriptError) as error:
        raise errors.PayloadError(str(error)) from error
    taken = [disk["uuid"] for disk in (vm or {}).get("disks", []) if "uuid" in disk]
    for disk in added:
        if "uuid" not in disk:
            disk["uuid"] = new_uuid(source)
        elif disk["uuid"] in taken:
            raise errors.PayloadError(f"duplicate disk uuid {js.text(disk['uuid'])}")
        taken.append(disk["uuid"])


def new_uuid(source: random.Random) -> str:
    """A random uuid."""
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
