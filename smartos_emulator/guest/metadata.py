# SPDX-License-Identifier: Apache-2.0
"""The VM's metadata as its guest has them: what vmadm's agent answers, and the guest's programs."""

import json
import typing

from smartos_emulator.guest import process as process_module
from smartos_emulator.vmadm import failures

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

_AS_JSON = ("nics", "resolvers", "tmpfs")


class Refused(Exception):
    """A guest must not change this."""


def value(vm: Vm, key: str) -> typing.Any:
    """What a guest gets for a key; None when there is nothing."""
    if key.startswith("sdc:"):
        return _synthesized(vm, key.removeprefix("sdc:"))
    return _kept(vm, key).get(key)


def keys(vm: Vm) -> list[str]:
    """The keys that a guest is told of."""
    customer, internal = _members(vm, "customer_metadata"), _members(vm, "internal_metadata")
    return [
        *(key for key in customer if _kept(vm, key) is customer),
        *(key for key in internal if _kept(vm, key) is internal),
    ]


def change(node: "node_module.Node", uuid: str, key: str, text: str | None) -> None:
    """Do as a guest says with a key; without a text it goes. Refused, or a VmError."""
    vm = node.vms.get(uuid) or {}
    space = "sdc" if key.startswith("sdc:") else _namespace(vm, key)
    if space is not None:
        raise Refused(f'Cannot update the "{space}" Namespace.')
    # these two a guest may write although it is not where its other keys are
    internal = key.endswith("_pw") or key == "operator-script"
    kind = "internal_metadata" if internal else "customer_metadata"
    with node.vms.lock(uuid):
        fresh = dict(_members(node.vms.get(uuid) or {}, kind))
        fresh.pop(key, None)
        if text:
            fresh[key] = text
        node.vms.write_metadata(uuid, {kind: fresh})


def _namespace(vm: Vm, key: str) -> str | None:
    prefix, colon, _ = key.partition(":")
    return prefix if colon and prefix in vm.get("internal_metadata_namespaces", []) else None


def _kept(vm: Vm, key: str) -> Vm:
    """Passwords, and keys in the VM's own namespaces, are read where customers cannot write."""
    internal = key.endswith("_pw") or _namespace(vm, key) is not None
    return _members(vm, "internal_metadata" if internal else "customer_metadata")


def _members(vm: Vm, kind: str) -> Vm:
    found = vm.get(kind)
    return found if isinstance(found, dict) else {}


def _synthesized(vm: Vm, name: str) -> typing.Any:
    if name in _AS_JSON:
        return _json(vm[name]) if name in vm else None
    if name == "routes":
        routes = vm.get("routes", {}).items()
        return _json([{"linklocal": False, "dst": dst, "gateway": via} for dst, via in routes])
    if name == "hostname":
        return vm.get("hostname") or vm.get("zonename")
    if name in ("operator-script", "volumes"):
        kept = _members(vm, "internal_metadata")
        return kept.get("sdc:volumes" if name == "volumes" else name)
    if name.startswith("tags."):
        return _members(vm, "tags").get(name.removeprefix("tags."))
    return vm.get(name)


def _json(document: typing.Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def text(found: typing.Any) -> str | None:
    """A value as the agent says it: numbers are told, what has members is not."""
    if isinstance(found, bool | int | float):
        return json.dumps(found)
    return found if isinstance(found, str) else None


def _mdata_get(process: process_module.Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    found = text(value(process.vm(), key))
    if found is None:
        process_module.complain(process, f"No metadata for '{key}'")
        return 1
    process.out(found + "\n")
    return 0


def _mdata_put(process: process_module.Process) -> int:
    words = process.argv[1:]
    if len(words) not in (1, 2):
        raise process_module.Failed("usage: mdata-put <keyname> [ <value> ]", 2)
    given = words[1] if len(words) == 2 else process.stdin.read().decode("utf-8", "surrogateescape")
    return _changed(process, words[0], given)


def _mdata_delete(process: process_module.Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    if value(process.vm(), key) is None:
        process_module.complain(process, f"No metadata for '{key}'")
        return 1
    return _changed(process, key, None)


def _changed(process: process_module.Process, key: str, given: str | None) -> int:
    try:
        change(process.node, process.zone.uuid, key, given)
    except (Refused, failures.VmError) as error:
        raise process_module.Failed(str(error)) from None
    return 0


def _mdata_list(process: process_module.Process) -> int:
    process.out("".join(f"{key}\n" for key in keys(process.vm())))
    return 0


PROGRAMS: dict[str, typing.Callable[[process_module.Process], int]] = {
    "mdata-delete": _mdata_delete,
    "mdata-get": _mdata_get,
    "mdata-list": _mdata_list,
    "mdata-put": _mdata_put,
}
