# SPDX-License-Identifier: Apache-2.0
"""The rule language's grammar: FROM targets TO targets ACTION protocol [PRIORITY n].

The real parser is a generated LALR(1) one. Before it accepts a construct (and checks its
value) it looks whether the next token may follow that construct anywhere in the grammar, and
names those tokens when it may not; the sets below are those.
"""

import dataclasses
import re
import typing

from smartos_emulator.fwadm import addresses, errors, lexer

PortRange = tuple[int, int]
# A port, a range of ports, an ICMP type ("8" or "3:1"), or "all".
ProtocolTarget = int | str | PortRange

# The order in which an error message lists what it expected.
_ORDER = (
    "FROM TO EOF PRIORITY WORD ( ) OR ALL VMS ANY IP IPV4ADDR SUBNET CIDRSUFFIX IPV6ADDR VM TAG ="
    " STRING BLOCK ALLOW TCP UDP ICMP ICMP6 AH ESP AND PORT PORTS - , TYPE CODE"
).split()
_NAMED_IN_LOWER_CASE = {"ALL", "ANY", "IP", "SUBNET", "TAG", "VM"}

_TARGETS = {"IP", "SUBNET", "VM", "TAG"}
_AFTER_SIDE = {"TO", "BLOCK", "ALLOW"}
_AFTER_TARGET = _AFTER_SIDE | {")", "OR"}
_PROTOCOLS = {"TCP", "UDP", "ICMP", "ICMP6", "AH", "ESP"}
_END = {"EOF", "PRIORITY"}
_AFTER_ITEM = _END | {")", "AND"}

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Target:
    """One side's member: kind is wildcard, ip, subnet, tag or vm; `value` only with tags."""

    kind: str
    name: str
    value: str | None = None


@dataclasses.dataclass
class Parsed:
    """What a rule's text says, before it is sorted and checked as a whole."""

    sides: dict[str, list[Target]]
    action: str
    protocol: str
    targets: list[ProtocolTarget]
    priority: int = 0


def parse(rule: str) -> Parsed:
    """Parse a rule given in UTF-16 units; an InvalidParam says where it is wrong."""
    return _Parser(rule).rule()


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _invalid(message: str) -> errors.InvalidParam:
    return errors.InvalidParam("rule", message)


class _Parser:
    def __init__(self, rule: str) -> None:
        self._lexer = lexer.Lexer(rule)
        self._shifted = lexer.Location()
        self._next: lexer.Token | None = None

    def rule(self) -> Parsed:
        self._take({"FROM"})
        source = self._side()
        self._take({"TO"})
        target = self._side()
        action = self._take({"BLOCK", "ALLOW"}).kind.lower()
        protocol = self._peek(_PROTOCOLS)
        parsed = Parsed(
            {"from": source, "to": target}, action, protocol.kind.lower(), self._protocol()
        )
        if self._take(_END).kind == "PRIORITY":
            parsed.priority = _bounded(self._take({"WORD"}).value, 0, 100, "Priority level")
            self._take({"EOF"})
        return parsed

    # -- tokens --

    def _peek(self, expected: set[str]) -> lexer.Token:
        """The next token, which has to be one of `expected`."""
        if self._next is None:
            self._next = self._lexer.next()
        token = self._next
        if token.kind not in expected:
            raise self._unexpected(token, [kind for kind in _ORDER if kind in expected])
        return token

    def _take(self, expected: set[str]) -> lexer.Token:
        token = self._peek(expected)
        self._next = None
        self._shifted = token.location
        return token

    def _at(self, kind: str) -> bool:
        return self._next is not None and self._next.kind == kind

    def _unexpected(self, token: lexer.Token, expected: list[str]) -> errors.InvalidParam:
        names = [f"'{k.lower() if k in _NAMED_IN_LOWER_CASE else k}'" for k in expected]
        found = "word" if token.kind == "WORD" else token.kind
        return errors.InvalidParam(
            "rule",
            f"Error at character {self._shifted.last_column}: '{token.raw}', "
            f"expected: {', '.join(names)}, found: {found}",
            {
                "text": token.raw,
                "token": token.kind,
                "line": token.line,
                "loc": self._shifted.to_json(),
                "expected": [f"'{kind}'" for kind in expected],
            },
        )

    # -- FROM and TO --

    def _side(self) -> list[Target]:
        kind = self._peek({"(", "ALL", "ANY"} | _TARGETS).kind
        if kind == "(":
            self._take({"("})
            return self._group()
        found = [self._wildcard() if kind in {"ALL", "ANY"} else self._target()]
        self._peek(_AFTER_SIDE)
        return found

    def _group(self) -> list[Target]:
        if self._peek({"ALL", "ANY"} | _TARGETS).kind in {"ALL", "ANY"}:
            found = [self._wildcard()]
            self._take({")"})
        else:
            found = [self._target()]
            while self._take({")", "OR"}).kind == "OR":
                found.append(self._target())
        self._peek(_AFTER_SIDE)
        return found

    def _wildcard(self) -> Target:
        if self._take({"ALL", "ANY"}).kind == "ANY":
            return Target("wildcard", "any")
        self._take({"VMS"})
        return Target("wildcard", "vmall")

    def _target(self) -> Target:
        kind = self._take(_TARGETS).kind
        readers: dict[str, typing.Callable[[], Target]] = {
            "IP": self._ip,
            "SUBNET": self._subnet,
            "VM": self._vm,
            "TAG": self._tag,
        }
        return readers[kind]()

    def _ip(self) -> Target:
        token = self._take({"IPV4ADDR", "IPV6ADDR"})
        self._peek(_AFTER_TARGET)
        version = 4 if token.kind == "IPV4ADDR" else 6
        valid = addresses.is_ipv4 if version == 4 else addresses.is_ipv6
        if not valid(token.value) or token.value in {"0.0.0.0", "255.255.255.255"}:
            raise _invalid(f'IPv{version} address "{token.value}" is invalid')
        return Target("ip", token.value)

    def _subnet(self) -> Target:
        address = self._take({"IPV4ADDR", "IPV6ADDR"}).value
        subnet = address + self._take({"CIDRSUFFIX"}).value
        self._peek(_AFTER_TARGET)
        fault = addresses.subnet_fault(subnet)
        if fault:
            raise _invalid(f'Subnet "{subnet}" is invalid ({fault})')
        return Target("subnet", subnet)

    def _vm(self) -> Target:
        uuid = self._take({"WORD"}).value
        self._peek(_AFTER_TARGET)
        if not is_uuid(uuid):
            raise _invalid(f'UUID "{uuid}" is invalid')
        return Target("vm", uuid)

    def _tag(self) -> Target:
        name = self._take({"WORD", "STRING"}).value
        if self._peek(_AFTER_TARGET | {"="}).kind != "=":
            return Target("tag", name)
        self._take({"="})
        value = self._take({"WORD", "STRING"}).value
        # The grammar reads a value as it reads a name, and knows better only afterwards.
        self._peek(_AFTER_TARGET | {"="})
        self._peek(_AFTER_TARGET)
        return Target("tag", name, value)

    # -- what the protocol is about --

    def _protocol(self) -> list[ProtocolTarget]:
        kind = self._take(_PROTOCOLS).kind
        if kind in {"AH", "ESP"}:
            found: list[ProtocolTarget] = ["all"]
        elif kind in {"TCP", "UDP"}:
            found = self._ports()
        else:
            found = self._types()
        self._peek(_END)
        return found

    def _ports(self) -> list[ProtocolTarget]:
        kind = self._take({"(", "PORT", "PORTS"}).kind
        if kind == "PORTS":
            return self._port_ranges()
        return self._items("PORT", kind == "(", self._port)

    def _types(self) -> list[ProtocolTarget]:
        grouped = self._take({"(", "TYPE"}).kind == "("
        return self._items("TYPE", grouped, self._icmp_type)

    def _items(
        self, keyword: str, grouped: bool, read: typing.Callable[[bool], ProtocolTarget]
    ) -> list[ProtocolTarget]:
        if grouped:
            self._take({keyword})
        found = [read(True)]
        if not grouped:
            return found
        if found == ["all"]:
            self._take({")"})
            return found
        while self._take({")", "AND"}).kind == "AND":
            self._take({keyword})
            found.append(read(False))
        return found

    def _port(self, first: bool) -> ProtocolTarget:
        token = self._take({"WORD", "ALL"} if first else {"WORD"})
        if token.kind == "ALL":
            self._peek(_END | {")"})
            return "all"
        self._peek(_AFTER_ITEM)
        return _port_number(token.value)

    def _port_ranges(self) -> list[ProtocolTarget]:
        found = [self._port_range()]
        while self._peek(_END | {","}).kind == ",":
            self._take({","})
            found.append(self._port_range())
        return found

    def _port_range(self) -> ProtocolTarget:
        start = self._take({"WORD"}).value
        if self._peek(_END | {",", "-"}).kind != "-":
            return _maybe_range(start)
        self._take({"-"})
        end = self._take({"WORD"}).value
        self._peek(_END | {","})
        return _range(start, end)

    def _icmp_type(self, first: bool) -> ProtocolTarget:
        token = self._take({"WORD", "ALL"} if first else {"WORD"})
        if token.kind == "ALL":
            self._peek(_END | {")"})
            return "all"
        after = self._peek(_AFTER_ITEM | {"CODE"})
        number = _bounded(token.value, 0, 255, "ICMP type")
        if after.kind != "CODE":
            return str(number)
        self._take({"CODE"})
        code = self._take({"WORD"}).value
        self._peek(_AFTER_ITEM)
        return f"{number}:{_bounded(code, 0, 255, 'ICMP code')}"


def _bounded(text: str, low: int, high: int, what: str) -> int:
    digits = text.lstrip("0")[:6] or "0"
    if not re.fullmatch(r"[0-9]+", text) or not low <= int(digits) <= high:
        raise _invalid(f'{what} "{text}" is invalid')
    return int(digits)


def _port_number(text: str) -> int:
    return _bounded(text, 1, 65535, "Port number")


def _maybe_range(text: str) -> ProtocolTarget:
    parts = text.split("-")
    if len(parts) > 2:
        raise _invalid(f'"{text}" is not a valid port number or range')
    return _range(*parts) if len(parts) == 2 else _port_number(text)


def _range(start: str, end: str) -> PortRange:
    first, last = _port_number(start), _port_number(end)
    if last < first:
        raise _invalid(f"The end of the range ({end}) cannot be less than the start ({start})")
    return first, last
