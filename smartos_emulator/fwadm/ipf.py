# SPDX-License-Identifier: Apache-2.0
"""The ipf(5) texts that a VM's rules become: one for IPv4, one for IPv6."""

import collections.abc
import dataclasses
import datetime
import typing

from smartos_emulator.fwadm import addresses, lookup, parser, rules

_FALLBACK = (
    "",
    "# fwadm fallbacks",
    "block in all",
    "pass out quick proto tcp from any to any flags S/SA keep state",
    "pass out proto tcp from any to any",
    "pass out proto udp from any to any keep state",
)


@dataclasses.dataclass(frozen=True)
class Texts:
    """One VM's ipf.conf and ipf6.conf."""

    v4: str
    v6: str


@dataclasses.dataclass
class _Entry:
    """The lines that one rule has in one VM's files because of one target."""

    rule: rules.Rule
    direction: str
    kind: str
    value: str
    targets: tuple[str, ...]
    v4: list[str] = dataclasses.field(default_factory=list)
    v6: list[str] = dataclasses.field(default_factory=list)

    @property
    def header(self) -> str:
        return f"\n# rule={self.rule.uuid}, version={self.rule.version}, {self.kind}={self.value}"

    @property
    def tags(self) -> str:
        """How ipf marks what the rule matched, for the event log."""
        log = ", cfwlog" if self.rule.log else ""
        return f" set-tag(uuid={self.rule.uuid}{log})"


def texts(
    uuids: collections.abc.Iterable[str],
    some: collections.abc.Sequence[rules.Rule],
    vms: lookup.Vms,
    remote: lookup.Vms,
    now: datetime.datetime,
) -> dict[str, Texts]:
    """The files of the given VMs, as far as their firewall is enabled."""
    entries: dict[str, list[_Entry]] = {uuid: [] for uuid in uuids if vms[uuid].enabled}
    for rule in some:
        if not rule.enabled:
            continue
        for direction in rules.DIRECTIONS:
            if _says_the_default(rule, direction):
                continue
            other = "to" if direction == "from" else "from"
            found = _entries(rule, direction, rule.sides[other], (vms, remote))
            for uuid in lookup.on_side(rule, direction, vms):
                if uuid in entries:
                    entries[uuid] += found
    return {uuid: _files(found, now) for uuid, found in entries.items()}


def _says_the_default(rule: rules.Rule, direction: str) -> bool:
    """Outbound is open and inbound closed anyway, unless a priority says when it counts."""
    return not rule.priority and (direction == "from") == (rule.action == "allow")


def _entries(
    rule: rules.Rule, direction: str, side: rules.Side, lookups: tuple[lookup.Vms, lookup.Vms]
) -> list[_Entry]:
    if "any" in side.wildcards:
        entry = _Entry(rule, direction, "wildcard", "any", ("0.0.0.0",))
        entry.v4 = _lines(rule, direction, "any") if rule.protocol != "icmp6" else []
        entry.v6 = _lines(rule, direction, "any") if rule.protocol != "icmp" else []
        return [entry]
    found = [_entry(rule, direction, "ip", ip, (ip,)) for ip in side.ips]
    found += [_entry(rule, direction, "subnet", net, (net,)) for net in side.subnets]
    for kind in ("tag", "vm", "wildcard"):
        for target in getattr(side, f"{kind}s"):
            found += _vm_entries(rule, direction, kind, target, lookups)
    return found


def _vm_entries(
    rule: rules.Rule,
    direction: str,
    kind: str,
    target: rules.Tag,
    lookups: tuple[lookup.Vms, lookup.Vms],
) -> collections.abc.Iterator[_Entry]:
    side = rules.Side()
    getattr(side, f"{kind}s").append(target)
    value = target if isinstance(target, str) else target[0]
    shown = kind if isinstance(target, str) else "tagValue"
    for vms in lookups:
        for vm in lookup.named(side, vms):
            foreign = rule.owner_uuid and vm.owner_uuid and vm.owner_uuid != rule.owner_uuid
            if vm.ips and not foreign:
                yield _entry(rule, direction, shown, value, vm.ips)


def _entry(
    rule: rules.Rule, direction: str, kind: str, value: str, targets: tuple[str, ...]
) -> _Entry:
    entry = _Entry(rule, direction, kind, value, targets)
    for target in targets:
        if ":" in target and rule.protocol != "icmp":
            entry.v6 += _lines(rule, direction, target)
        elif ":" not in target and rule.protocol != "icmp6":
            entry.v4 += _lines(rule, direction, target)
    return entry


def _lines(rule: rules.Rule, direction: str, target: str) -> list[str]:
    verb = "pass" if rule.action == "allow" else "block"
    way = "out" if direction == "from" else "in"
    protocol = "ipv6-icmp" if rule.protocol == "icmp6" else rule.protocol
    ends = f"from any to {target}" if direction == "from" else f"from {target} to any"
    return [
        f"{verb} {way} quick proto {protocol} {ends} {_about(rule, what)}"
        for what in rule.protocol_targets
    ]


def _about(rule: rules.Rule, what: parser.ProtocolTarget) -> str:
    if what == "all":
        return ""
    if isinstance(what, tuple):
        return f"port {what[0]} : {what[1]}"
    if rule.protocol in ("icmp", "icmp6"):
        return f"icmp-type {str(what).replace(':', ' code ')}"
    return f"port = {what}"


def _files(entries: list[_Entry], now: datetime.datetime) -> Texts:
    head = [
        "# DO NOT EDIT THIS FILE. THIS FILE IS AUTO-GENERATED BY fwadm(8)",
        "# AND MAY BE OVERWRITTEN AT ANY TIME.",
        "#",
        f"# File generated at {now:%a %b %d %Y %H:%M:%S} GMT+0000 (UTC)",
        "#",
        "# smartos_ipf_version 2",
        "#",
        "",
    ]
    v4, v6 = list(head), list(head)
    for entry in sorted(entries, key=_order):
        v4.append(entry.header)
        v6.append(entry.header)
        # Tagging works on connections, so every tagged line keeps state.
        kept = f" keep frags keep state{entry.tags}"
        v4 += [line + kept for line in entry.v4]
        v6 += [line + kept for line in entry.v6]
    return Texts(_finished(v4, "icmp"), _finished(v6, "ipv6-icmp"))


def _finished(lines: list[str], icmp: str) -> str:
    last = (
        f"pass out quick proto {icmp} from any to any keep state",
        f"pass out proto {icmp} from any to any",
    )
    return "\n".join((*lines, *_FALLBACK, *last)) + "\n"


def _order(entry: _Entry) -> tuple[typing.Any, ...]:
    """By protocol, direction, priority (high first), action, then first port and address."""
    return *_rank(entry), *_detail(entry)


def _rank(entry: _Entry) -> tuple[str, str, int, bool]:
    rule = entry.rule
    wins = "block" if entry.direction == "from" else "allow"
    return rule.protocol, entry.direction, -rule.priority, rule.action != wins


def _detail(entry: _Entry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = entry.rule.protocol_targets[0]
    if first == "all":
        number: tuple[int, ...] = ()
    elif isinstance(first, tuple):
        number = (first[0],)
    else:
        number = tuple(map(int, str(first).split(":")))
    return number, addresses.parse(entry.targets[0].split("/")[0])


def as_shown(line: str) -> str:
    """A loaded line as ipfstat prints it back: state before fragments."""
    words, _, state = line.partition(" keep frags")
    kept, _, tags = state.partition(" set-tag")
    shown = f"{' '.join(words.split())}{kept}"
    if len(words) < len(line):
        shown += " keep frags"
    return f"{shown} set-tag{tags}" if tags else shown
