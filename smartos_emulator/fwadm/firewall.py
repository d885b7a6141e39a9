# SPDX-License-Identifier: Apache-2.0
"""The node's firewall: what adding, changing and deleting rules does to the VMs they affect."""

import collections.abc
import contextlib
import pathlib
import threading
import typing

from smartos_emulator.fwadm import errors, ipf, lookup, payloads, rules, store
from smartos_emulator.vmadm import failures

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Document = dict[str, typing.Any]
Records = collections.abc.Sequence[Document]


class Firewall:
    """Rules and remote VMs of one node. VM records are vmadm's objects."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._store = store.Store(node.path("/var/fw"))
        self._lock = threading.RLock()
        self._loads: dict[str, int] = {}

    # -- what fwadm does --

    def add(self, payload: Document, records: Records) -> Document:
        """Add rules, local VMs and remote VMs, and write the ipf files that change by it."""
        payloads.check_payload(payload, records)
        with self._lock:
            new = payloads.made(payload.get("rules") or [])
            vms = lookup.local(records)
            stored = self._store.all_rules()
            new = [rule for rule in new if payloads.differs(rule, stored.get(rule.uuid))]
            return self._put(payload, vms, stored, new, [])

    def update(self, payload: Document, records: Records) -> Document:
        """Change rules that exist, local VMs and remote VMs."""
        payloads.check_payload(payload, records)
        with self._lock:
            stored = self._store.all_rules()
            documents = payload.get("rules") or []
            payloads.check_known(documents, stored)
            replaced = {d["uuid"]: stored[d["uuid"]] for d in documents}
            new = payloads.made(payloads.merged(documents, replaced))
            return self._put(payload, lookup.local(records), stored, new, list(replaced.values()))

    def delete(
        self,
        payload: Document,
        records: Records,
        rule_uuids: collections.abc.Sequence[str] = (),
        remote_uuids: collections.abc.Sequence[str] = (),
    ) -> Document:
        """Delete rules and remote VMs; unknown ones do not matter."""
        with self._lock:
            vms = lookup.local(records)
            stored = self._store.all_rules()
            remote = self._store.remote_vms()
            gone_vms = {u: d for u, d in remote.items() if u in remote_uuids}
            gone = [rule for uuid, rule in stored.items() if uuid in rule_uuids]
            touched = lookup.affected(
                lookup.applying_remote(stored.values(), lookup.remote(gone_vms.values())), vms
            ) | lookup.affected(gone, vms)
            left = [rule for uuid, rule in stored.items() if uuid not in rule_uuids]
            kept = lookup.remote(d for u, d in remote.items() if u not in gone_vms)
            texts = self._texts(touched, left, vms, kept)
            if not payload.get("dryrun"):
                self._store.delete_rules(gone)
                self._store.delete_remote_vms(gone_vms)
                self._install(texts, vms)
            result = _result(texts, [rule.serialize() for rule in gone], gone_vms)
            return self._with_files(payload, result, texts, vms)

    def get_rule(self, uuid: str) -> Document:
        with self._lock:
            return self._store.rule(uuid).serialize()

    def list_rules(self, fields: collections.abc.Sequence[str] = rules.FIELDS) -> list[Document]:
        """Every rule, in the order of the uuids."""
        unknown = sorted(field for field in fields if field not in rules.FIELDS)
        if unknown:
            plural = "" if len(unknown) == 1 else "s"
            raise errors.FirewallError(f"Invalid display field{plural}: {', '.join(unknown)}")
        with self._lock:
            return [rule.serialize(fields) for rule in self._store.all_rules().values()]

    def rules_of(self, uuid: str, records: Records) -> list[Document]:
        """The rules that apply to a VM."""
        with self._lock:
            found = lookup.applying(self._store.all_rules().values(), lookup.local(records), {uuid})
        return [rule.serialize() for rule in found]

    def rules_of_remote_vm(self, uuid: str, records: Records) -> list[Document]:
        """The rules that apply to a VM of another node."""
        with self._lock:
            stored = self._store.all_rules()
            document = self._store.remote_vm(uuid)
        made = payloads.remote_documents([document], lookup.local(records), need_addresses=False)
        found = lookup.applying_remote(stored.values(), lookup.remote(made.values()))
        return [rule.serialize() for rule in found]

    def vms_of(self, uuid: str, records: Records) -> list[str]:
        """The VMs with an enabled firewall that a rule affects."""
        with self._lock:
            rule = self._store.rule(uuid)
        found = lookup.affected([rule], lookup.local(records))
        return [vm.uuid for vm in found.values() if vm.enabled]

    def remote_vm(self, uuid: str) -> Document:
        with self._lock:
            return self._store.remote_vm(uuid)

    def remote_vms(self) -> list[Document]:
        with self._lock:
            return list(self._store.remote_vms().values())

    def status(self, record: Document | None) -> Document:
        """What ipf says of a VM's firewall; a VM that is not running has none."""
        if record is None or record["state"] != "running":
            return {"running": False}
        return {
            "ipf": "v4.1.9 (592)",
            "kernel": "v4.1.9",
            "running": bool(record.get("firewall_enabled")),
            "log flags": "0 = none set",
            "default": "pass all, Logging: available",
            "active list": self._loads.get(record["uuid"], 0) % 2,
            "feature mask": "0x107",
        }

    def stats(self, uuid: str, record: Document | None) -> list[dict[str, str]]:
        """The IPv4 lines that are loaded for a VM, outbound ones first, with their hits."""
        if record is None or not self.status(record)["running"]:
            raise errors.FirewallError(f'Firewall is not running for VM "{uuid}"')
        file = self._config(record["zonepath"])
        if not file.exists():
            self.enable(record, self._node.vms.all())
        text = file.read_text("utf-8")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        outbound = [line for line in lines if line.split()[1] == "out"]
        inbound = [line for line in lines if line.split()[1] == "in"]
        return [{"hits": "0", "rule": ipf.as_shown(line)} for line in outbound + inbound]

    # -- what vmadm does --

    def vm_created(self, vm: Document, payload: Document | None, others: Records) -> None:
        """A VM was made: add the rules of its payload, and its addresses to other VMs' files.

        As vmadm does, nothing happens (rules are not even kept) while no VM has a firewall, and
        a firewall that cannot be set up does not keep the VM from coming up.
        """
        if not payload and not vm.get("nics"):
            return
        with contextlib.suppress(errors.FirewallError):
            self._for_vm(self.add, {**(payload or {}), "localVMs": [vm]}, vm, others)

    def vm_changed(self, before: Document, after: Document, others: Records) -> None:
        """A VM was updated: what others hold of it follows, and its own firewall."""
        try:
            if any(before.get(key) != after.get(key) for key in ("nics", "tags")):
                self._for_vm(self.update, {"localVMs": [after]}, after, others)
        except errors.FirewallError as error:
            raise failures.VmError(
                f"Error updating firewall rules for VM: {error.message}"
            ) from None
        if bool(before.get("firewall_enabled")) != bool(after.get("firewall_enabled")):
            self._switch(after, others)

    def _switch(self, vm: Document, others: Records) -> None:
        enabled = bool(vm.get("firewall_enabled"))
        try:
            if enabled:
                self.enable(vm, others)
            else:
                self.disable(vm)
        except errors.FirewallError as error:
            verb = "en" if enabled else "dis"
            raise failures.VmError(f"Error {verb}abling firewall for VM: {error.message}") from None

    def _for_vm(
        self,
        change: collections.abc.Callable[[Document, Records], Document],
        payload: Document,
        vm: Document,
        others: Records,
    ) -> None:
        records = _everyone(vm, others)
        if any(record.get("firewall_enabled") for record in records):
            change(payload, records)

    def enable(self, vm: Document, others: Records) -> None:
        """Write the VM's ipf files and load them if it runs."""
        with self._lock:
            vms = lookup.local(_everyone(vm, others))
            some = lookup.applying(self._store.all_rules().values(), vms, {vm["uuid"]})
            remote = lookup.remote(self._store.remote_vms().values())
            self._install(self._texts([vm["uuid"]], some, vms, remote), vms)

    def disable(self, vm: Document) -> None:
        """Put the VM's ipf files aside: what has none boots without a firewall."""
        with self._lock:
            for name in ("ipf.conf", "ipf6.conf"):
                file = self._config(vm["zonepath"], name)
                if file.exists():
                    file.replace(file.with_name(f"{name}.old"))

    # -- inside --

    def _put(
        self,
        payload: Document,
        vms: lookup.Vms,
        stored: dict[str, rules.Rule],
        new: list[rules.Rule],
        replaced: list[rules.Rule],
    ) -> Document:
        documents = payloads.remote_documents(payload.get("remoteVMs") or [], vms)
        remote = lookup.remote([*self._store.remote_vms().values(), *documents.values()])
        local = payloads.local_vms(payload.get("localVMs") or [], vms)
        everything = list(({rule.uuid: rule for rule in new} | _without(stored, new)).values())
        touched = (
            self._touched_by_vms(everything, vms, local, lookup.remote(documents.values()))
            | lookup.affected(new, vms)
            | lookup.affected(replaced, vms)
            | local
        )
        texts = self._texts(touched, lookup.applying(everything, vms, touched), vms, remote)
        if not payload.get("dryrun"):
            self._store.save_remote_vms(documents)
            self._store.save_rules(new)
            self._install(texts, vms)
        result = _result(texts, [rule.serialize() for rule in new], documents)
        return self._with_files(payload, result, texts, vms)

    def _touched_by_vms(
        self,
        everything: list[rules.Rule],
        vms: lookup.Vms,
        local: lookup.Vms,
        remote: lookup.Vms,
    ) -> lookup.Vms:
        """The VMs whose files hold addresses of the VMs that are new or changed."""
        some = {rule.uuid: rule for rule in lookup.applying(everything, vms, local)}
        some |= {rule.uuid: rule for rule in lookup.applying_remote(everything, remote)}
        changing = [r for r in some.values() if lookup.changes_others(r, remote | local)]
        return lookup.affected(changing, vms)

    def _texts(
        self,
        uuids: collections.abc.Iterable[str],
        some: collections.abc.Sequence[rules.Rule],
        vms: lookup.Vms,
        remote: lookup.Vms,
    ) -> dict[str, ipf.Texts]:
        return ipf.texts(uuids, some, vms, remote, self._node.clock.now())

    def _install(self, texts: dict[str, ipf.Texts], vms: lookup.Vms) -> None:
        """Replace the files, keep the former ones as .old, and load them into running VMs."""
        for uuid, text in texts.items():
            zonepath = vms[uuid].zonepath
            _replace(self._config(zonepath, "ipf.conf"), text.v4, zonepath)
            _replace(self._config(zonepath, "ipf6.conf"), text.v6, zonepath)
            if vms[uuid].state == "running":
                self._loads[uuid] = self._loads.get(uuid, 0) + 1

    def _config(self, zonepath: str, name: str = "ipf.conf") -> pathlib.Path:
        return self._node.path(zonepath) / "config" / name

    def _with_files(
        self, payload: Document, result: Document, texts: dict[str, ipf.Texts], vms: lookup.Vms
    ) -> Document:
        if payload.get("filecontents"):
            result["files"] = {
                f"{vms[uuid].zonepath}/config/{name}": text
                for uuid, both in texts.items()
                for name, text in (("ipf.conf", both.v4), ("ipf6.conf", both.v6))
            }
        return result


def _everyone(vm: Document, others: Records) -> list[Document]:
    """The records, the given one standing for itself; VMs being made do not count yet."""
    rest = [
        record
        for record in others
        if record["uuid"] != vm["uuid"] and record["state"] != "provisioning"
    ]
    return [*rest, vm]


def _without(
    stored: dict[str, rules.Rule], new: collections.abc.Iterable[rules.Rule]
) -> dict[str, rules.Rule]:
    fresh = {rule.uuid for rule in new}
    return {uuid: rule for uuid, rule in stored.items() if uuid not in fresh}


def _result(
    texts: dict[str, ipf.Texts], documents: list[Document], remote: collections.abc.Sized
) -> Document:
    result: Document = {"vms": list(texts), "rules": documents}
    if remote:
        result["remoteVMs"] = sorted(typing.cast("dict[str, Document]", remote))
    return result


def _replace(file: pathlib.Path, text: str, zonepath: str) -> None:
    if not file.parent.parent.is_dir():
        path = f"{zonepath}/config/{file.name}.{rules.new_version()}"
        raise errors.FirewallError(f"ENOENT, open '{path}'", "ENOENT")
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(text, "utf-8")
    old = file.with_name(f"{file.name}.old")
    old.unlink(missing_ok=True)
    if file.exists():
        old.hardlink_to(file)
    temporary.replace(file)
