# SPDX-License-Identifier: Apache-2.0
"""Which VMs a rule affects, and which rules affect a VM."""

import collections.abc
import dataclasses
import typing

from smartos_emulator.fwadm import addresses, errors, lexer, parser, rules

_REQUIRED = ("nics", "state", "tags", "uuid", "zonepath")


@dataclasses.dataclass(frozen=True)
class Vm:
    """What the firewall has to know of a VM, here or on another node."""

    uuid: str
    ips: tuple[str, ...]
    tags: dict[str, typing.Any]
    owner_uuid: str | None = None
    enabled: bool = False
    state: str = ""
    zonepath: str = ""

    def wears(self, tag: rules.Tag) -> bool:
        """Whether the VM has the tag, with its value when one is given."""
        if isinstance(tag, str):
            return lexer.text(tag) in self.tags
        name, value = lexer.text(tag[0]), lexer.text(tag[1])
        return name in self.tags and _as_key(self.tags[name]) == value


# VMs by uuid, in the order in which vmadm lists them.
Vms = dict[str, Vm]


def _as_key(value: typing.Any) -> str:
    """A tag's value as a name of a JavaScript object."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def local(records: collections.abc.Iterable[dict[str, typing.Any]]) -> Vms:
    """The node's own VMs, from vmadm's objects."""
    found: Vms = {}
    wrong: list[errors.FirewallError] = []
    for record in records:
        missing = [field for field in _REQUIRED if field not in record]
        if missing:
            wrong.append(
                errors.FirewallError(
                    f"VM {record.get('uuid')}: missing fields required for firewall: "
                    f"{', '.join(missing)}"
                )
            )
            continue
        found[record["uuid"]] = _local_vm(record)
    if wrong:
        raise errors.combined(wrong)
    return found


def _local_vm(record: dict[str, typing.Any]) -> Vm:
    return Vm(
        uuid=record["uuid"],
        ips=tuple(addresses.in_order(nic_addresses(record["nics"]))),
        tags=record["tags"],
        owner_uuid=record.get("owner_uuid"),
        enabled=bool(record.get("firewall_enabled")),
        state=record["state"],
        zonepath=record["zonepath"],
    )


def nic_addresses(nics: collections.abc.Iterable[dict[str, typing.Any]]) -> list[str]:
    """The fixed addresses of the nics."""
    found: list[str] = []
    for nic in nics:
        if "ips" in nic:
            found += [ip.split("/")[0] for ip in nic["ips"]]
        elif "ip" in nic:
            found.append(nic["ip"])
    return [ip for ip in found if ip not in ("dhcp", "addrconf")]


def remote(documents: collections.abc.Iterable[dict[str, typing.Any]]) -> Vms:
    """VMs of other nodes, from the documents that describe them."""
    return {
        document["uuid"]: Vm(
            document["uuid"],
            tuple(document["ips"]),
            document.get("tags", {}),
            document.get("owner_uuid"),
        )
        for document in documents
    }


def remote_document(record: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """What is kept of a VM of another node."""
    uuid = record.get("uuid")
    if not uuid:
        raise errors.FirewallError("Remote VM must have UUID")
    if not parser.is_uuid(str(uuid)):
        raise errors.FirewallError(f"Invalid Remote VM UUID: {uuid}")
    document: dict[str, typing.Any] = {"uuid": uuid, "ips": _remote_ips(record)}
    if record.get("tags"):
        document["tags"] = dict(record["tags"])
    if "owner_uuid" in record:
        if not parser.is_uuid(str(record["owner_uuid"])):
            raise errors.FirewallError(f"Invalid owner UUID: {record['owner_uuid']}")
        document["owner_uuid"] = record["owner_uuid"]
    return document


def _remote_ips(record: dict[str, typing.Any]) -> list[str]:
    ips = dict.fromkeys([*nic_addresses(record.get("nics", [])), *record.get("ips", [])])
    for ip in ips:
        try:
            addresses.parse(ip)
        except ValueError:
            raise errors.FirewallError(f"Invalid IP address: {ip}") from None
    return [addresses.canonical(ip) for ip in addresses.in_order(list(ips))]


def _owned(rule: rules.Rule, vm: Vm) -> bool:
    return rule.owner_uuid is None or vm.owner_uuid == rule.owner_uuid


def named(side: rules.Side, vms: Vms, with_addresses: bool = False) -> list[Vm]:
    """The VMs that a side of a rule names, whoever owns them; one may occur twice."""
    found = []
    if with_addresses:
        for ip in side.ips:
            found += [vm for vm in vms.values() if ip in vm.ips]
    for tag in side.tags:
        found += [vm for vm in vms.values() if vm.wears(tag)]
    found += [vms[uuid] for uuid in side.vms if uuid in vms]
    if "vmall" in side.wildcards:
        found += vms.values()
    return found


def on_side(rule: rules.Rule, direction: str, vms: Vms) -> list[str]:
    """The uuids of the VMs to which one side of a rule applies."""
    side = rule.sides[direction]
    by_uuid = rules.Side(vms=side.vms)
    by_tag = rules.Side(tags=side.tags)
    everyone = rules.Side(wildcards=side.wildcards)
    found = [vm for part in (by_uuid, by_tag, everyone) for vm in named(part, vms)]
    return [vm.uuid for vm in found if _owned(rule, vm)]


def affected(some: collections.abc.Iterable[rules.Rule], vms: Vms) -> Vms:
    """The VMs that the rules apply to, on either side."""
    return {
        vm.uuid: vm
        for rule in some
        for vm in named(rule.both, vms, with_addresses=True)
        if _owned(rule, vm)
    }


def applying(
    some: collections.abc.Iterable[rules.Rule], vms: Vms, uuids: collections.abc.Container[str]
) -> list[rules.Rule]:
    """The rules that apply to any of the VMs with these uuids."""
    return [
        rule
        for rule in some
        if any(
            vm.uuid in uuids and _owned(rule, vm)
            for vm in named(rule.both, vms, with_addresses=True)
        )
    ]


def applying_remote(some: collections.abc.Iterable[rules.Rule], vms: Vms) -> list[rules.Rule]:
    """The rules that concern any of the remote VMs; here a tag's value does not matter."""
    return [rule for rule in some if any(_owned(rule, vm) for vm in _loosely_named(rule, vms))]


def _loosely_named(rule: rules.Rule, vms: Vms) -> list[Vm]:
    names: list[rules.Tag] = [tag if isinstance(tag, str) else tag[0] for tag in rule.both.tags]
    return named(dataclasses.replace(rule.both, tags=names), vms)


def changes_others(rule: rules.Rule, new: Vms) -> bool:
    """Whether other VMs' ipf rules hold addresses of the new VMs because of this rule."""
    near, far = ("from", "to") if rule.action == "allow" else ("to", "from")
    side = rule.sides[far]
    reaches = "vmall" in side.wildcards or bool(side.tags) or bool(side.vms)
    return reaches and bool(on_side(rule, near, new))
