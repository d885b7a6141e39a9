# SPDX-License-Identifier: Apache-2.0
"""The guests' programs that read and write their VM's metadata."""

import json
import typing

from smartos_emulator.guest import process as process_module
from smartos_emulator.vmadm import failures

Vm = dict[str, typing.Any]


def _mdata_get(process: process_module.Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    value = _metadata_value(process, key)
    if value is None:
        process_module.complain(process, f"No metadata for '{key}'")
        return 1
    process.out(value + "\n")
    return 0


def _metadata_value(process: process_module.Process, key: str) -> str | None:
    vm = process.vm()
    if key.startswith("sdc:"):
        return _synthesized(vm, key.removeprefix("sdc:"))
    if key in _metadata_of(vm, key):
        value = _metadata_of(vm, key)[key]
        return value if isinstance(value, str) else json.dumps(value)
    return None


def _metadata_of(vm: Vm, key: str) -> Vm:
    """Passwords, and keys in the VM's own namespaces, are kept where customers cannot write."""
    spaces = vm.get("internal_metadata_namespaces", [])
    internal = key.endswith("_pw") or any(key.startswith(f"{space}:") for space in spaces)
    value = vm.get("internal_metadata" if internal else "customer_metadata")
    return value if isinstance(value, dict) else {}


def _synthesized(vm: Vm, name: str) -> str | None:
    made: dict[str, typing.Callable[[Vm], typing.Any]] = {
        "hostname": lambda vm: vm.get("hostname") or vm.get("zonename"),
        "routes": lambda vm: [
            {"linklocal": False, "dst": where, "gateway": via}
            for where, via in vm.get("routes", {}).items()
        ],
        "operator-script": lambda vm: (vm.get("internal_metadata") or {}).get("operator-script"),
    }
    value = made[name](vm) if name in made else vm.get(name)
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _mdata_put(process: process_module.Process) -> int:
    words = process.argv[1:]
    if len(words) not in (1, 2):
        raise process_module.Failed("usage: mdata-put <keyname> [ <value> ]", 2)
    text = words[1] if len(words) == 2 else process.stdin.read().decode("utf-8", "surrogateescape")
    return _change_metadata(process, words[0], text)


def _mdata_delete(process: process_module.Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    if _metadata_value(process, key) is None:
        process_module.complain(process, f"No metadata for '{key}'")
        return 1
    return _change_metadata(process, key, None)


def _change_metadata(process: process_module.Process, key: str, value: str | None) -> int:
    vm = process.vm()
    known = _metadata_of(vm, key)
    if key.startswith("sdc:") or known is vm.get("internal_metadata"):
        raise process_module.Failed(f"Cannot update '{key}'")
    with process.node.vms.lock(process.zone.uuid):
        fresh = dict(process.vm().get("customer_metadata") or {})
        fresh.pop(key, None)
        if value is not None:
            fresh[key] = value
        try:
            process.node.vms.write_metadata(process.zone.uuid, {"customer_metadata": fresh})
        except failures.VmError as error:
            raise process_module.Failed(str(error)) from None
    return 0


def _mdata_list(process: process_module.Process) -> int:
    process.out("".join(f"{key}\n" for key in process.vm().get("customer_metadata") or {}))
    return 0


PROGRAMS: dict[str, typing.Callable[[process_module.Process], int]] = {
    "mdata-delete": _mdata_delete,
    "mdata-get": _mdata_get,
    "mdata-list": _mdata_list,
    "mdata-put": _mdata_put,
}
