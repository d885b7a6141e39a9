# SPDX-License-Identifier: Apache-2.0
"""What the records of a series say of its VMs, images and rules."""

import json
import re
import typing

from tests.conformance import compare, world

UUID = compare.UUID
Vm = dict[str, typing.Any]

_BRANDS = {"OS": "joyent", "LX": "lx", "KVM": "kvm", "BHYV": "bhyve"}
_NUMBERS = {
    *("ram", "quota", "cpu_cap", "cpu_shares", "vcpus", "max_physical_memory", "max_swap"),
    *("max_locked_memory", "max_lwps", "tmpfs", "zfs_io_priority", "max_shm_memory"),
}
# the columns of a listing that a VM can be made to have
_SETTABLE = {
    *_NUMBERS,
    *("uuid", "alias", "state", "brand", "owner_uuid", "billing_id", "hostname", "dns_domain"),
    *("image_uuid", "autoboot", "firewall_enabled", "zone_state", "type", "zpool"),
}
_DEFAULT_ORDER = "uuid,type,ram,state,alias"


def document(text: str | None) -> dict[str, typing.Any]:
    """The JSON object that a text is; an empty one when it is something else."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def kind_of(vm: Vm) -> str | None:
    """The type of a VM's brand, as listings show it."""
    types = {brand: kind for kind, brand in _BRANDS.items()} | {"joyent-minimal": "OS"}
    return vm.get("type") or types.get(vm.get("brand", ""))


def documents(text: str | None) -> list[typing.Any]:
    """The elements of a JSON array, or the one that is no array."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return []
    return found if isinstance(found, list) else [found]


def option(argv: list[str], letter: str) -> str | None:
    """The value of `-X value` or `-Xvalue` on a command line."""
    for number, word in enumerate(argv):
        if word == f"-{letter}":
            return argv[number + 1] if number + 1 < len(argv) else None
        if word.startswith(f"-{letter}") and not word.startswith("--"):
            return word[2:]
    return None


def known_vms(series: list[world.Case]) -> dict[str, list[tuple[int, Vm]]]:
    """What the records of a series tell of each VM, with their place in it."""
    known: dict[str, list[tuple[int, Vm]]] = {}
    for case in series:
        for vm in _told(case):
            if "uuid" in vm and "brand" in vm:
                known.setdefault(vm["uuid"], []).append((case["seq"], vm))
    return known


def _told(case: world.Case) -> list[Vm]:
    argv = compare.argv_of(case)
    if case["rc"] not in (0, 124) or argv[0] != "vmadm":
        return []
    if argv[1:2] == ["create"]:
        return [document(case["stdin"])]
    if argv[1:2] in (["get"], ["json"]):
        return [document(case["stdout"])]
    if argv[1:2] == ["lookup"]:
        return [vm for vm in documents(case["stdout"]) if isinstance(vm, dict)]
    if argv[1:2] == ["events"]:
        return [*document(case["stdout"].split("\n")[0]).get("vms", {}).values()]
    return []


def population(series: list[world.Case], seq: int) -> set[str]:
    """The VMs that are there when a case comes, as far as the records tell."""
    there: set[str] = set()
    for case in series:
        argv = compare.argv_of(case)
        if case["seq"] >= seq or argv[0] != "vmadm" or case["rc"] != 0:
            continue
        named = set(UUID.findall(case["cmd"]))
        if argv[1:2] == ["create"]:
            there |= {document(case["stdin"]).get("uuid", "")} - {""}
        elif argv[1:2] in (["delete"], ["destroy"]):
            there -= named
        elif argv[1:2] == ["list"] and "-o" not in argv and not any("=" in w for w in argv):
            there = set(UUID.findall(case["stdout"]))
        else:
            there |= named
    return there


def rows(case: world.Case, argv: list[str]) -> list[Vm]:
    """The VMs of a listing, with what its columns show of each."""
    text = case["stdout"] or ""
    if argv[1] == "events":
        return [*document(text.split("\n")[0]).get("vms", {}).values()]
    if argv[1] == "lookup":
        shown = documents(text) or [{"uuid": uuid} for uuid in UUID.findall(text)]
        return [{**vm, **_filter(argv)} for vm in shown]
    fields = (option(argv, "o") or _DEFAULT_ORDER).split(",")
    flags = {letter for w in argv[2:] if re.fullmatch("-[pH]+", w) for letter in w[1:]}
    lines = [line for line in text.split("\n") if line]
    if not flags and lines:
        del lines[0]
    cells = [line.split(":") if "p" in flags else line.split() for line in lines]
    return [{**_fields(dict(zip(fields, row, strict=False))), **_filter(argv)} for row in cells]


def _filter(argv: list[str]) -> Vm:
    pairs = [word.partition("=") for word in argv[2:] if re.match(r"\w+=[^~]", word)]
    return _fields({key: value for key, _, value in pairs})


def _fields(cells: dict[str, str]) -> Vm:
    fields: Vm = {}
    for name, cell in cells.items():
        if name not in _SETTABLE or cell in ("", "-"):
            continue
        number = name in _NUMBERS and cell.isdigit()
        fields[name] = int(cell) if number else {"true": True}.get(cell, cell)
    if "type" in fields:
        fields.setdefault("brand", _BRANDS.get(fields["type"], fields["type"]))
    if "ram" in fields and fields.get("brand") not in ("kvm", "bhyve"):
        fields["max_physical_memory"] = fields["ram"]
    return fields


def known_manifests(series: list[world.Case]) -> dict[str, Vm]:
    """Images by uuid, as the records show them; where one came from is `+source`."""
    found = {}
    for case in series:
        for info in documents(case["stdout"]):
            if isinstance(info, dict) and "manifest" in info:
                manifest = {**info["manifest"], "+source": info.get("source")}
                found[manifest["uuid"]] = manifest
    return found


def known_rules(series: list[world.Case]) -> dict[str, Vm]:
    """Rules by uuid, as they were added or shown."""
    found: dict[str, Vm] = {}
    for case in series:
        argv = compare.argv_of(case)
        if argv[0] != "fwadm":
            continue
        added = document(case["stdin"])
        if "uuid" in added and "rule" in added and argv[1:2] == ["add"] and case["rc"] == 0:
            found[added["uuid"]] = added
        for rule in rules_shown(case, argv, {}):
            found.setdefault(rule["uuid"], rule)
    return found


def rules_shown(case: world.Case, argv: list[str], known: dict[str, Vm]) -> list[Vm]:
    """The rules that an answer shows, completed from what is known of them."""
    text = case["stdout"] or ""
    try:
        shown = json.loads(text)
    except ValueError:
        delimiter = (option(argv, "d") or ":") if "-p" in argv else None
        return [rule for line in text.split("\n") for rule in _rule_of(line, delimiter, known)]
    found = shown.get("rules", [shown]) if isinstance(shown, dict) else shown
    return [
        {k: v for k, v in rule.items() if k not in ("version", "log")}
        for rule in found
        if isinstance(rule, dict) and "rule" in rule
    ]


def _rule_of(line: str, delimiter: str | None, known: dict[str, Vm]) -> list[Vm]:
    gap = re.escape(delimiter) if delimiter else r"\s+"
    match = re.match(rf"({UUID.pattern}){gap}(true|false|-|)(?:{gap}|\s+)(FROM .*?)\s*$", line)
    if match is None:
        return []
    uuid, enabled, rule = match.groups()
    rule = rule.replace(f"\\{delimiter}", delimiter) if delimiter else rule
    base = known.get(uuid, {"uuid": uuid, "global": True})
    return [{**base, "rule": rule, "enabled": enabled == "true"}]
