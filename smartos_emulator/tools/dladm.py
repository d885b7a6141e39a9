# SPDX-License-Identifier: Apache-2.0
"""dladm(8): data links and their properties."""

import collections.abc
import dataclasses
import getopt
import re

from smartos_emulator import call as call_module
from smartos_emulator import link_tables, network

Row = dict[str, str]


def main(call: call_module.Call) -> int:
    """One run of dladm; its exit status."""
    if len(call.argv) < 2:
        raise _fail("missing subcommand")
    commands: dict[str, collections.abc.Callable[[_Run], None]] = {
        "show-link": _show_link,
        "show-phys": _show_phys,
        "show-vnic": _show_vnic,
        "show-aggr": _show_aggr,
        "show-etherstub": _show_etherstub,
        "show-linkprop": _show_linkprop,
        "set-linkprop": _set_linkprop,
        "reset-linkprop": _reset_linkprop,
        "create-vnic": _create_vnic,
        "delete-vnic": _delete_vnic,
        "create-etherstub": _create_etherstub,
        "delete-etherstub": _delete_etherstub,
    }
    name = call.argv[1]
    if name not in commands:
        raise _fail(f"unknown subcommand '{name}' (the emulated node has {', '.join(commands)})")
    try:
        commands[name](_Run.of(call))
    except network.NetworkError as error:
        raise _fail(str(error)) from None
    return 0


def _fail(message: str) -> call_module.Exit:
    return call_module.Exit(1, f"dladm: {message}\n")


@dataclasses.dataclass
class _Run:
    """A subcommand with its options and operands."""

    call: call_module.Call
    command: str
    options: dict[str, str]
    operands: list[str]

    @classmethod
    def of(cls, call: call_module.Call) -> "_Run":
        letters, names = link_tables.OPTIONS[call.argv[1]]
        try:
            pairs, operands = getopt.gnu_getopt(call.argv[2:], letters, names)
        except getopt.GetoptError as error:
            raise _fail(f"unrecognized option '-{error.opt}'") from None
        options = {link_tables.LONG.get(flag, flag): value for flag, value in pairs}
        return cls(call, call.argv[1], options, operands)

    @property
    def net(self) -> network.Network:
        return self.call.node.network

    @property
    def zone(self) -> str | None:
        """The zone asked for; "" is the global one."""
        zone = self.options.get("-z")
        return "" if zone == "global" else zone

    def operand(self, what: str) -> str:
        if not self.operands:
            raise _fail(f"{self.command}: {what} must be specified")
        return self.operands[0]

    def links(self, *kinds: str) -> list[network.Link]:
        """The links to show: one if it is named, of a zone if that is given."""
        found = [k for k in self.net.links(self.zone) if not kinds or k.kind in kinds]
        if self.operands:
            name = self.operands[0]
            found = [link for link in found if link.name == name]
            if not found:
                raise network.NetworkError(f"link {name} is not valid: object not found")
        return found

    def show(self, rows: list[Row], table: str = "", flag: str = "-p") -> None:
        """Print the rows as a table, or as the fields asked for with colons between them."""
        columns = link_tables.SHOWN[table or self.command]
        fields = self._fields(list(columns), flag)
        if flag not in self.options:
            widths = [columns.get(field, 12) for field in fields]
            self.call.out(_line(fields, widths))
            for row in rows:
                self.call.out(_line([row[field] or link_tables.NONE for field in fields], widths))
            return
        for row in rows:
            values = [_bare(row[field]) for field in fields]
            if len(values) > 1:
                values = [re.sub(r"([:\\])", r"\\\1", value) for value in values]
            self.call.out(":".join(values) + "\n")

    def _fields(self, known: list[str], flag: str) -> list[str]:
        asked = self.options.get("-o")
        if asked is None or asked == "all":
            if flag in self.options and (asked or self.command != "show-etherstub"):
                what = "field `all' invalid" if asked else "fields must be specified"
                raise _fail(f"output {what} in parsable mode")
            return ["LINK"] if flag in self.options else known
        fields = [field.upper() for field in asked.split(",")]
        known = [*known, *link_tables.EXTRA.get(self.command, ())]
        unknown = [f"`{field.lower()}'" for field in fields if field not in known]
        if unknown:
            raise _fail(
                f"unknown output field{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}"
            )
        return fields


def _line(values: list[str], widths: list[int]) -> str:
    cells = [value.ljust(width) for value, width in zip(values, widths, strict=True)]
    # A value that fills its column still stands apart from the next.
    cells = [f"{cell} " if not cell.endswith(" ") else cell for cell in cells[:-1]] + [values[-1]]
    return "".join(cells) + "\n"


def _bare(value: str) -> str:
    return "" if value == link_tables.NONE else value


# -- showing --


def _show_link(run: _Run) -> None:
    run.show(
        [
            {
                "LINK": link.name,
                "CLASS": link.kind,
                "MTU": str(link.mtu),
                "STATE": link.state,
                "BRIDGE": link_tables.NONE,
                "OVER": " ".join(link.over) or link_tables.NONE,
                "ZONE": link.zone or link_tables.NONE,
            }
            for link in run.links()
        ]
    )


def _show_phys(run: _Run) -> None:
    if "-m" in run.options:
        run.show([_address(link) for link in run.links("phys")], "show-phys -m")
        return
    run.show(
        [
            {
                "LINK": link.name,
                "MEDIA": "Ethernet",
                "STATE": link.state,
                "SPEED": str(link.speed),
                "DUPLEX": "full",
                "DEVICE": link.name,
                "VLAN": link_tables.NONE,
            }
            for link in run.links("phys")
        ]
    )


def _address(link: network.Link) -> Row:
    return {
        "LINK": link.name,
        "SLOT": "primary",
        "ADDRESS": network.short_mac(link.mac),
        "INUSE": "yes",
        "CLIENT": link.name,
    }


def _show_vnic(run: _Run) -> None:
    over = run.options.get("-l")
    speeds = {link.name: link.speed for link in run.net.links("")}
    run.show(
        [
            {
                "LINK": link.name,
                "OVER": link.over[0],
                "SPEED": str(speeds.get(link.over[0], 0)),
                "MACADDRESS": network.short_mac(link.mac),
                "MACADDRTYPE": "fixed" if link.fixed else "random",
                "VID": str(link.vlan),
                "ZONE": link.zone or link_tables.NONE,
                "VNIC": link.name,
                "MTU": str(link.mtu),
            }
            for link in run.links("vnic")
            if over in (None, link.over[0])
        ]
    )


def _show_aggr(run: _Run) -> None:
    links = run.links("aggr")
    if "-x" in run.options:
        run.show([row for link in links for row in _ports(run, link)], "show-aggr -x")
        return
    modes = run.net.settings()
    run.show(
        [
            {
                "LINK": link.name,
                "POLICY": "L4",
                "ADDRPOLICY": "auto",
                "LACPACTIVITY": modes.get(f"{link.name}_lacp_mode", "off"),
                "LACPTIMER": "short",
                "FLAGS": "-----",
            }
            for link in links
        ]
    )


def _ports(run: _Run, link: network.Link) -> list[Row]:
    """The aggregation itself, then each of its ports."""
    row = {
        "LINK": link.name,
        "PORT": link_tables.NONE,
        "SPEED": f"{link.speed}Mb",
        "DUPLEX": "full",
        "STATE": link.state,
        "ADDRESS": network.short_mac(link.mac),
        "PORTSTATE": link_tables.NONE,
    }
    macs = {physical.name: physical.mac for physical in run.net.physical()}
    ports = [
        {**row, "PORT": port, "ADDRESS": network.short_mac(macs[port]), "PORTSTATE": "attached"}
        for port in link.over
    ]
    return [row, *ports]


def _show_etherstub(run: _Run) -> None:
    run.show([{"LINK": link.name, "ZONE": link_tables.NONE} for link in run.links("etherstub")])


def _show_linkprop(run: _Run) -> None:
    wanted = run.options.get("-p", run.options.get("--prop"))
    names = wanted.split(",") if wanted else list(link_tables.PROPERTIES)
    for name in names:
        if name not in link_tables.PROPERTIES:
            raise _fail(f"invalid link property '{name}'")
    run.options.pop("-p", None)
    rows = [_property(link, name) for link in run.links() for name in names]
    run.show(rows, flag="-c")


def _property(link: network.Link, name: str) -> Row:
    permission, default, possible = link_tables.PROPERTIES[name]
    values = {"zone": link.zone, "state": link.state, "mtu": str(link.mtu)}
    value = ",".join(link.properties.get(name, ())) or values.get(name, default)
    return {
        "LINK": link.name,
        "PROPERTY": name,
        "PERM": permission,
        "VALUE": value or link_tables.NONE,
        "DEFAULT": default,
        "POSSIBLE": possible,
    }


# -- changing --


def _assignments(text: str) -> dict[str, tuple[str, ...]]:
    """NAME=VALUE[,VALUE…][,NAME=…]"""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for part in text.split(","):
        left, equals, right = part.partition("=")
        if equals:
            name = left
            found[name] = (right,) if right else ()
        elif name:
            found[name] = (*found[name], part)
        else:
            raise _fail(f"invalid link property '{text}'")
    return found


def _set_linkprop(run: _Run) -> None:
    text = run.options.get("-p", run.options.get("--prop"))
    link = run.net.link(run.operand("link name"), run.zone or "")
    if text is None:
        raise _fail("link property must be specified")
    for name, values in _assignments(text).items():
        _check_property(link, name, values)
        run.net.set_property(link, name, values)


def _check_property(link: network.Link, name: str, values: tuple[str, ...]) -> None:
    refused = f"warning: cannot set link property '{name}' on '{link.name}'"
    if name not in link_tables.PROPERTIES:
        raise _fail(f"{refused}: invalid argument")
    permission, _, possible = link_tables.PROPERTIES[name]
    if "w" not in permission:
        raise _fail(f"{refused}: read-only property")
    if name == "mtu":
        if len(values) != 1 or not values[0].isdigit() or not 576 <= int(values[0]) <= 9000:
            raise _fail(f"{refused}: invalid argument")
    elif possible != link_tables.NONE and not set(values) <= set(possible.split(",")):
        raise _fail(f"{refused}: invalid argument")


def _reset_linkprop(run: _Run) -> None:
    link = run.net.link(run.operand("link name"), run.zone or "")
    names = run.options.get("-p", run.options.get("--prop", ",".join(link.properties)))
    for name in filter(None, names.split(",")):
        if name not in link_tables.PROPERTIES:
            raise _fail(f"warning: cannot reset link property '{name}' on '{link.name}'")
        run.net.set_property(link, name, ())


def _create_vnic(run: _Run) -> None:
    name = run.operand("vnic name")
    over = run.options.get("-l", "")
    if not over:
        raise _fail("missing link option")
    run.net.link(over)
    vlan = run.options.get("-v", "0")
    if not vlan.isdigit() or int(vlan) > 4094:
        raise _fail("invalid VLAN identifier")
    mac = run.options.get("-m", "")
    fixed = bool(re.fullmatch("[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}", mac))
    if mac and not fixed and mac not in ("auto", "random", "factory"):
        raise _fail("invalid MAC address")
    address = network.normal_mac(mac) if fixed else network.hardware_mac(run.call.node, 999)
    _create(run, network.Link(name, "vnic", address, (over,), vlan=int(vlan), fixed=fixed))


def _create_etherstub(run: _Run) -> None:
    _create(run, network.Link(run.operand("etherstub name"), "etherstub", mtu=9000))


def _create(run: _Run, link: network.Link) -> None:
    if not re.fullmatch("[a-zA-Z][a-zA-Z0-9_.]*[0-9]", link.name) or len(link.name) > 31:
        raise _fail(f"invalid link name '{link.name}'")
    try:
        run.net.create(link)
    except network.NetworkError as error:
        raise _fail(f"{run.command.replace('-', ' ')} {link.name}: {error}") from None


def _delete_vnic(run: _Run) -> None:
    _delete(run, "vnic")


def _delete_etherstub(run: _Run) -> None:
    _delete(run, "etherstub")


def _delete(run: _Run, kind: str) -> None:
    name = run.operand(f"{kind} name")
    run.net.delete(name, kind, run.zone or "")
