# SPDX-License-Identifier: Apache-2.0
"""A firewall rule: checking a document, its canonical text, the form it is stored in."""

import collections.abc
import dataclasses
import os
import time
import typing
import uuid

from smartos_emulator.fwadm import addresses, errors, lexer, parser, sorting

Document = dict[str, typing.Any]
# A tag, or a tag and its value.
Tag = str | tuple[str, str]

# The order in which a stored rule shows its properties.
FIELDS = (
    "created_by",
    "description",
    "enabled",
    "global",
    "log",
    "owner_uuid",
    "rule",
    "uuid",
    "version",
)
DIRECTIONS = ("from", "to")
MAX_TARGETS = 24
_KINDS = ("wildcard", "ip", "subnet", "tag", "vm")
_ICMP = ("icmp", "icmp6")
_TEXTS = ("created_by", "description")


@dataclasses.dataclass
class Side:
    """One side's targets, sorted and without duplicates."""

    wildcards: list[str] = dataclasses.field(default_factory=list)
    ips: list[str] = dataclasses.field(default_factory=list)
    subnets: list[str] = dataclasses.field(default_factory=list)
    tags: list[Tag] = dataclasses.field(default_factory=list)
    vms: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, targets: collections.abc.Sequence[parser.Target]) -> "Side":
        names: dict[str, set[str]] = {kind: set() for kind in _KINDS}
        for target in targets:
            names[target.kind].add(target.name)
        return cls(
            sorted(names["wildcard"]),
            sorted(names["ip"]),
            sorted(names["subnet"]),
            _tags(targets),
            sorted(names["vm"]),
        )

    def members(self) -> collections.abc.Iterator[tuple[str, Tag]]:
        """Kind and target, kind by kind."""
        for kind in _KINDS:
            for target in getattr(self, f"{kind}s"):
                yield kind, target

    def to_json(self) -> Document:
        return {
            f"{kind}s": [list(t) if isinstance(t, tuple) else t for t in getattr(self, f"{kind}s")]
            for kind in _KINDS
        }


def _tags(targets: collections.abc.Sequence[parser.Target]) -> list[Tag]:
    """A tag without a value stands for every value, and hides the ones listed beside it."""
    tags: dict[str, set[str | None]] = {}
    for target in targets:
        if target.kind == "tag":
            tags.setdefault(target.name, set()).add(target.value)
    found: list[Tag] = []
    for name in sorted(tags):
        values = [value for value in tags[name] if value is not None]
        if None in tags[name]:
            found.append(name)
        else:
            found.extend((name, value) for value in sorted(values))
    return found


class Rule:
    """A rule that passed every check."""

    def __init__(self, document: Document, enforce_global: bool = False) -> None:
        parsed = _checked(document, enforce_global)
        self.uuid: str = document["uuid"] if "uuid" in document else str(uuid.uuid4())
        self.version = document.get("version") or new_version()
        self.owner_uuid: str | None = document.get("owner_uuid")
        self.enabled: bool | str = document.get("enabled", False)
        self.log: bool | str = document.get("log", False)
        self.texts: Document = {
            k: document[k] for k in ("created_by", "description") if k in document
        }
        self._take(parsed)
        self._check_targets()

    def _take(self, parsed: parser.Parsed) -> None:
        self.action = parsed.action
        self.priority = parsed.priority
        self.protocol = parsed.protocol
        self.protocol_targets = _sorted_targets(parsed)
        if len(parsed.targets) > MAX_TARGETS:
            what = "types" if self.protocol in _ICMP else "ports"
            raise _invalid(f"maximum of {MAX_TARGETS} {what} allowed")
        # The sides are counted in the reverse order of the text.
        for direction in ("to", "from"):
            if len(parsed.sides[direction]) > MAX_TARGETS:
                raise _invalid(f"maximum of {MAX_TARGETS} targets allowed per side")
        self.sides = {d: Side.of(parsed.sides[d]) for d in DIRECTIONS}
        self.both = Side.of([*parsed.sides["from"], *parsed.sides["to"]])

    def _check_targets(self) -> None:
        if self.protocol in _ICMP:
            self._check_family(4 if self.protocol == "icmp" else 6)
        if not (self.all_vms or self.both.tags or self.both.vms):
            raise _invalid("rule does not affect VMs")

    def _check_family(self, version: int) -> None:
        fits = addresses.is_ipv4 if version == 4 else addresses.is_ipv6
        for what, texts in (("address", self.both.ips), ("subnet", self.both.subnets)):
            if not all(fits(text.split("/")[0]) for text in texts):
                raise _invalid(
                    f"rule affects ICMPv{version} but contains a non-IPv{version} {what}"
                )

    @property
    def all_vms(self) -> bool:
        return "vmall" in self.both.wildcards

    def serialize(self, fields: collections.abc.Iterable[str] = FIELDS) -> Document:
        """The rule as it is stored and listed."""
        values: Document = {
            **self.texts,
            "enabled": self.enabled,
            "log": self.log,
            "rule": self.text(),
            "uuid": self.uuid,
            "version": self.version,
        }
        if self.owner_uuid is None:
            values["global"] = True
        else:
            values["owner_uuid"] = self.owner_uuid
        return {field: values[field] for field in fields if field in values}

    def text(self) -> str:
        """The canonical text."""
        source, target = (_side_text(self.sides[d]) for d in DIRECTIONS)
        priority = f" PRIORITY {self.priority}" if self.priority else ""
        written = (
            f"FROM {source} TO {target} {self.action.upper()} {self.protocol}"
            f"{self._protocol_text()}{priority}"
        )
        return lexer.text(written)

    def _protocol_text(self) -> str:
        if self.protocol in ("ah", "esp"):
            return ""
        if self.protocol in _ICMP:
            items = [str(t).replace(":", " CODE ") for t in self.protocol_targets]
            return f" {_grouped('TYPE', items)}"
        if any(isinstance(target, tuple) for target in self.protocol_targets):
            return " PORTS " + ", ".join(map(_port_text, self.protocol_targets))
        return f" {_grouped('PORT', [str(port) for port in self.protocol_targets])}"


def _port_text(target: parser.ProtocolTarget) -> str:
    return f"{target[0]} - {target[1]}" if isinstance(target, tuple) else str(target)


def _grouped(keyword: str, items: list[str]) -> str:
    joined = f" AND {keyword} ".join(items)
    return f"({keyword} {joined})" if len(items) > 1 else f"{keyword} {joined}"


def _side_text(side: Side) -> str:
    members = [_target_text(kind, target) for kind, target in side.members()]
    joined = " OR ".join(members)
    return f"({joined})" if len(members) > 1 else joined


def _target_text(kind: str, target: Tag) -> str:
    if isinstance(target, tuple):
        return f"tag {lexer.quoted(target[0])} = {lexer.quoted(target[1])}"
    if kind == "wildcard":
        return "all vms" if target == "vmall" else target
    return f"{kind} {lexer.quoted(target) if kind == 'tag' else target}"


# -- checks --


def _invalid(message: str, field: str = "rule") -> errors.InvalidParam:
    return errors.InvalidParam(field, message)


def _checked(document: Document, enforce_global: bool) -> parser.Parsed:
    """The rule's parsed text, if nothing at all is wrong with the document."""
    found: list[errors.FirewallError] = []
    parsed = None
    try:
        parsed = _parsed(document.get("rule"))
    except errors.FirewallError as error:
        found.append(error)
    found += _wrong_properties(document)
    if enforce_global:
        found += _wrong_ownership(document)
    if found or parsed is None:
        raise errors.combined(found)
    return parsed


def _parsed(text: typing.Any) -> parser.Parsed:
    if not text and not isinstance(text, list | dict):
        raise _invalid("No rule specified")
    if not isinstance(text, str):
        raise errors.FirewallError(f"Object {_shown(text)} has no method 'match'")
    return parser.parse(lexer.units(text))


def _shown(value: typing.Any) -> str:
    """How JavaScript's engine names a value that lacks a method."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join("" if item is None else _shown(item) for item in value)
    return "#<Object>" if isinstance(value, dict) else str(value)


def _wrong_properties(document: Document) -> collections.abc.Iterator[errors.InvalidParam]:
    for field, name in (("uuid", "rule"), ("owner_uuid", "owner")):
        value = document.get(field)
        if field in document and not (isinstance(value, str) and parser.is_uuid(value)):
            yield _invalid(f"Invalid {name} UUID", field)
    for field in ("enabled", "log"):
        if field in document and not _is_boolean(document[field]):
            yield _invalid(f"{field} must be true or false", field)
    for field in _TEXTS:
        if field in document:
            yield from _wrong_text(field, document[field])


def _wrong_text(field: str, value: typing.Any) -> collections.abc.Iterator[errors.InvalidParam]:
    if not isinstance(value, str):
        yield _invalid(f"{field} must be a string", field)
    elif len(lexer.units(value)) > 255:
        yield _invalid(f"{field} must be shorter than 255 characters", field)


def _wrong_ownership(document: Document) -> collections.abc.Iterator[errors.InvalidParam]:
    owned = "owner_uuid" in document
    if "global" not in document:
        if not owned:
            yield _invalid("owner_uuid required", "owner_uuid")
        return
    if not _is_boolean(document["global"]):
        yield _invalid("global must be true or false", "global")
    if owned and _truthy(document["global"]):
        yield _invalid("cannot specify both global and owner_uuid", "global")


def _is_boolean(value: typing.Any) -> bool:
    return value is True or value is False or value in ("true", "false")


def _truthy(value: typing.Any) -> bool:
    return bool(value) or isinstance(value, list | dict)


# -- the order of ports and types --


def _sorted_targets(parsed: parser.Parsed) -> list[parser.ProtocolTarget]:
    compare = _compare_types if parsed.protocol in _ICMP else _compare_ports
    return sorting.by(parsed.targets, compare)


def _compare_ports(one: parser.ProtocolTarget, other: parser.ProtocolTarget) -> int:
    return _first_port(one) - _first_port(other)


def _first_port(target: parser.ProtocolTarget) -> int:
    if target == "all":
        return 0
    return target[0] if isinstance(target, tuple) else int(target)


def _compare_types(one: parser.ProtocolTarget, other: parser.ProtocolTarget) -> int | None:
    """By type, then code; the real one looks for a code where the first one has it."""
    left, right = str(one).split(":"), str(other).split(":")
    if len(left) > len(right):
        return None
    ours = (int(left[0]) << 8) + (int(left[1]) if len(left) == 2 else 0)
    theirs = (int(right[0]) << 8) + (int(right[1]) if len(left) == 2 else 0)
    return ours - theirs


def new_version() -> str:
    """A version for a rule that is new or changed."""
    return f"{int(time.time() * 1000)}.{os.getpid() % 100000:06d}"
