# SPDX-License-Identifier: Apache-2.0
"""The firewall rules and remote VMs that a recorded fwadm command supposes."""

import functools
import json
import re
import typing

from tests.conformance import records, world

if typing.TYPE_CHECKING:
    from tests.conformance import suppose

Vm = records.Vm
Arranges = typing.Iterator[typing.Callable[[], None]]

_TAG = re.compile(r'tag "?([\w.-]+)"? = "?([\w.-]+)"?')


class Rules:
    """The rules that are known in a series, and those on the node."""

    def __init__(self, node: world.World, series: list[world.Case], state: "suppose.State") -> None:
        self._node = node
        self._state = state
        self._known = records.known_rules(series)
        self._remote = _known_remote(series)

    def clear(self) -> None:
        """Have no rule and no remote VM."""
        self._without({rule["uuid"] for rule in self._rules()})
        for vm in json.loads(self._node.must("fwadm", "list-rvms").stdout or "[]"):
            self._node.must("fwadm", "delete-rvm", vm["uuid"])

    def candidates(self, case: world.Case, argv: list[str]) -> Arranges:
        """The states to try, the likeliest first."""
        text = case["cmd"] + (case["stdin"] or "")
        uuids = set(records.UUID.findall(text))
        absent = "not found" in case["stderr"] or "unknown" in case["stderr"].lower()
        command = argv[1] if len(argv) > 1 else ""
        for uuid in sorted({*uuids, *records.UUID.findall(case["stdout"] or "")}):
            self._have_vm(uuid, case, argv, absent)
        if command == "add" or absent or case["stdout"] == "\n":
            yield functools.partial(self._without, uuids)
        else:
            yield functools.partial(self._with, uuids)
        if command.endswith(("rvm", "rvms", "rvm-rules")):
            yield functools.partial(self._have_remote, case, absent)
        yield functools.partial(self._only, case, argv)
        if "-j" in argv:
            yield functools.partial(self._vms_in_order, case, argv)
        if command in ("rules", "vms"):
            yield functools.partial(self._affected, case, argv, uuids)
        for state in ("running", "stopped"):
            if command in ("status", "stats", "start", "stop", "rules", "vms") and not absent:
                yield functools.partial(self._vm_with_firewall, uuids, state, case, argv)

    def _have_vm(self, uuid: str, case: world.Case, argv: list[str], absent: bool) -> None:
        """Have the VM that is named, when it is one."""
        if absent or self._node.vm(uuid) is not None or not self._state.knows(uuid):
            return
        self._state.vm_in_state(uuid, None, case, ["vmadm", "get", *argv[:0]])

    def _vm_with_firewall(
        self, uuids: set[str], state: str, case: world.Case, argv: list[str]
    ) -> None:
        """Have the named VMs in a state, their firewall on where the answer says so."""
        on = "tarted" not in (case["stdout"] or "") and (case["stdout"] or "").strip() != "stopped"
        for uuid in uuids - set(self._known):
            vm = {**self._state.nearest(uuid, case)[0], "firewall_enabled": on}
            self._state.rebuild(vm, state, case, ["vmadm", "get", *argv[:0]])
        self._with(uuids)

    def _vms_in_order(self, case: world.Case, argv: list[str]) -> None:
        """Have the VMs that the answer shows made in its order."""
        shown = records.document(case["stdout"]).get("vms") or []
        for uuid in shown:
            vm = self._node.vm(uuid) or self._state.nearest(uuid, case)[0]
            self._state.rebuild({**vm, "firewall_enabled": True}, None, case, ["vmadm", "get"])
        self._only(case, argv)

    def _affected(self, case: world.Case, argv: list[str], uuids: set[str]) -> None:
        """Have the VMs of the answer such that the rules of the answer are theirs."""
        shown = {rule["uuid"]: rule for rule in records.rules_shown(case, argv, self._known)}
        rules = [*shown.values(), *(self._known[u] for u in uuids & set(self._known))]
        vms = uuids | {*records.UUID.findall(case["stdout"] or "")}
        more: Vm = {"firewall_enabled": True, "tags": {}}
        for rule in rules:
            more["tags"] |= dict(_TAG.findall(rule["rule"]))
            more |= {key: rule[key] for key in ("owner_uuid",) if key in rule}
        for uuid in vms - set(shown) - set(self._known):
            vm = {**self._state.nearest(uuid, case)[0], **more}
            self._state.rebuild(vm, None, case, ["vmadm", "get"])
        self._only(case, argv)

    def _rules(self) -> list[Vm]:
        shown: list[Vm] = json.loads(self._node.must("fwadm", "list", "-j").stdout)
        return shown

    def _with(self, uuids: set[str]) -> None:
        present = {rule["uuid"] for rule in self._rules()}
        for uuid in uuids & set(self._known) - present:
            self._node.must("fwadm", "add", document=self._known[uuid])

    def _without(self, uuids: set[str]) -> None:
        for rule in self._rules():
            if rule["uuid"] in uuids:
                self._node.must("fwadm", "delete", rule["uuid"])

    def _only(self, case: world.Case, argv: list[str]) -> None:
        """Have the rules that the answer shows or the command names, and no other."""
        named = set(records.UUID.findall(case["cmd"] + (case["stdin"] or ""))) & set(self._known)
        shown = {rule["uuid"]: rule for rule in records.rules_shown(case, argv, self._known)}
        wanted = {uuid: self._known[uuid] for uuid in named}
        if argv[1] in ("list", "rules", "get", "delete", "rvm-rules", "enable", "disable"):
            wanted |= shown
        if argv[1] in ("enable", "disable"):
            wanted = {u: {**rule, "enabled": argv[1] != "enable"} for u, rule in wanted.items()}
        self._without({rule["uuid"] for rule in self._rules()})
        for rule in wanted.values():
            self._node.must("fwadm", "add", document=rule)

    def _have_remote(self, case: world.Case, absent: bool) -> None:
        """Have the remote VMs that the answer shows or the command names."""
        for vm in json.loads(self._node.must("fwadm", "list-rvms").stdout or "[]"):
            self._node.must("fwadm", "delete-rvm", vm["uuid"])
        shown = {vm["uuid"]: vm for vm in _vms_of(case["stdout"])}
        for uuid in records.UUID.findall(case["cmd"]) if not absent else ():
            shown.setdefault(uuid, self._remote.get(uuid, {"uuid": uuid, "ips": ["10.9.9.9"]}))
        if shown and "add" not in case["cmd"]:
            self._node.must("fwadm", "add-rvm", document={"remoteVMs": [*shown.values()]})


def _vms_of(text: str | None) -> list[Vm]:
    return [vm for vm in records.documents(text) if isinstance(vm, dict) and "uuid" in vm]


def _known_remote(series: list[world.Case]) -> dict[str, Vm]:
    """Remote VMs by uuid, as they were added or shown."""
    found: dict[str, Vm] = {}
    for case in series:
        if "rvm" in case["cmd"]:
            told = [*_vms_of(case["stdin"]), *_vms_of(case["stdout"])]
            told += records.document(case["stdin"]).get("remoteVMs") or []
            found |= {vm["uuid"]: vm for vm in told if "uuid" in vm}
    return found
