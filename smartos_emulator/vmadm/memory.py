# SPDX-License-Identifier: Apache-2.0
"""The memory properties of a payload: those that follow from others, and their bounds."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import properties

_ID_LIMITS = ("max_msg_ids", "max_sem_ids", "max_shm_ids")
_DEFAULT_IDS = 4096


def complete(payload: dict[str, Any], vm: dict[str, Any], brand: properties.Brand) -> None:
    """Add what follows from the given sizes, then keep every one within its bounds."""
    if "ram" in payload and "max_physical_memory" not in payload:
        ram = payload["ram"]
        overhead = brand.memory_overhead
        payload["max_physical_memory"] = js.number(ram) + overhead if overhead else ram
    if "max_physical_memory" in payload:
        _add_locked(payload, vm)
        _add_swap(payload, vm)
    _bound_tmpfs(payload, vm)
    if "max_physical_memory" in payload:
        _add_tmpfs(payload, vm, brand)
        _add_shared(payload, vm)
    _leave_overhead(payload, vm, brand)
    _bound(payload, vm, "max_locked_memory", lambda value, physical: value > physical)
    _bound(payload, vm, "max_swap", lambda value, physical: value < physical)


def _add_locked(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    if "max_locked_memory" in payload:
        return
    physical = payload["max_physical_memory"]
    if "max_locked_memory" in vm and "max_physical_memory" in vm:
        physical = js.number(physical) - (vm["max_physical_memory"] - vm["max_locked_memory"])
    payload["max_locked_memory"] = physical


def _add_swap(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    if "max_swap" in payload:
        return
    least = properties.MINIMUM_MAX_SWAP
    swap = payload["max_physical_memory"]
    physical = js.number(swap)
    if "max_swap" in vm and "max_physical_memory" in vm:
        raised = vm["max_swap"] == least and physical >= least
        if not raised:
            swap = physical + (vm["max_swap"] - vm["max_physical_memory"])
    payload["max_swap"] = least if js.number(swap) < least else swap


def _bound_tmpfs(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    if "tmpfs" not in payload:
        return
    wanted = js.number(payload["tmpfs"])
    # the VM's present memory binds even when the payload raises it
    for limits in (payload, vm):
        if "max_physical_memory" in limits:
            limit = limits["max_physical_memory"]
            if wanted > js.number(limit):
                payload["tmpfs"] = limit
                return


def _add_tmpfs(payload: dict[str, Any], vm: dict[str, Any], brand: properties.Brand) -> None:
    if not brand.tmpfs or "tmpfs" in payload:
        return
    physical = payload["max_physical_memory"]
    if "max_physical_memory" in vm and "tmpfs" in vm:
        share = _ratio(vm["tmpfs"], vm["max_physical_memory"])
        payload["tmpfs"] = js.to_fixed(share * js.number(physical))
    else:
        payload["tmpfs"] = physical


def _ratio(part: Any, whole: Any) -> float:
    part, whole = js.number(part), js.number(whole)
    if whole:
        return part / whole
    return float("inf") if part else float("nan")


def _add_shared(payload: dict[str, Any], vm: dict[str, Any]) -> None:
    if "max_shm_memory" not in vm and "max_shm_memory" not in payload:
        payload["max_shm_memory"] = payload["max_physical_memory"]
    for name in _ID_LIMITS:
        if name not in vm and name not in payload:
            payload[name] = _DEFAULT_IDS


def _leave_overhead(payload: dict[str, Any], vm: dict[str, Any], brand: properties.Brand) -> None:
    if not brand.least_overhead:
        return

    def current(name: str) -> int | float:
        return js.number(payload[name] if name in payload else vm.get(name, js.UNDEFINED))

    least = current("ram") + brand.least_overhead
    limits = {name: current(name) for name in ("max_physical_memory", "max_locked_memory")}
    for name, limit in limits.items():
        if least > limit:
            payload[name] = least


def _bound(payload: dict[str, Any], vm: dict[str, Any], name: str, beyond: Any) -> None:
    """Set a size that is beyond the physical memory to that memory."""
    if name not in payload:
        return
    limits = payload if "max_physical_memory" in payload else vm
    if "max_physical_memory" in limits:
        physical = limits["max_physical_memory"]
        if beyond(js.number(payload[name]), js.number(physical)):
            payload[name] = physical
