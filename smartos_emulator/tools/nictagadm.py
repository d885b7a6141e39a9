# SPDX-License-Identifier: Apache-2.0
"""nictagadm(8): nic tags, the node's names for its networks."""

import collections.abc
import getopt
import re

from smartos_emulator import call as call_module
from smartos_emulator import network
from smartos_emulator.tools import sysinfo
from smartos_emulator.vmadm import failures

_USAGE = """\
Manage nic tags

Usage:
        nictagadm [OPTIONS] <subcommand> <args...> ...

General Options:
        -v
            Verbose output

        -h
            Print help and exit

        -?
            Print help and exit

Subcommands:
        add             [-l] [-p prop=value,...] <name> [mac]
        delete          [-f] <name>
        exists          [-l] <name>
        list            [-l | -L] [-p] [-d delim]
        update          [-l] [-p prop=value,...] <name> [mac]
        vms             <name>

See nictagadm(8) for more information
"""
_OPTIONS = {"add": "lp:", "update": "lp:", "delete": "f", "list": "lLpd:", "exists": "l"}
_MAC = re.compile(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")
_NAME = re.compile(r"[a-zA-Z0-9_]+")
_STUB = re.compile(r"[a-zA-Z0-9_]*[0-9]")
_OVERLAY_TAG = re.compile(r"([a-zA-Z_0-9]+)/([0-9]+)")
_MTU_NOTE = "MTU changes will not take effect until next reboot\n"


def main(call: call_module.Call) -> int:
    """One run of nictagadm; its exit status."""
    return _Run(call).main(call.argv[1:])


def _fatal(message: str) -> call_module.Exit:
    return call_module.Exit(1, f"Error: {message}\n")


class _Run:
    """One command line."""

    def __init__(self, call: call_module.Call) -> None:
        self.call = call
        self.network = call.node.network
        self.flags: dict[str, str] = {}
        self.properties: dict[str, str] = {}

    def main(self, arguments: list[str]) -> int:
        flags, arguments = self._getopt(arguments, "vh?")
        for flag, _ in flags:
            if flag != "-v":
                raise self._usage(0 if flag == "-h" else 2)
        command, *arguments = arguments or [""]
        flags, arguments = self._getopt(arguments, _OPTIONS.get(command, ""), command)
        self.flags = dict(flags)
        for flag, value in flags:
            if flag == "-p" and command != "list":
                self._take_properties(value)
        self._check_flags()
        return self._command(command, arguments)

    def _command(self, command: str, arguments: list[str]) -> int:
        commands: dict[str, collections.abc.Callable[[list[str]], int]] = {
            "add": self._add,
            "delete": self._delete,
            "exists": self._exists,
            "list": self._list,
            "update": self._update,
            "vms": self._vms,
        }
        if not command:
            raise self._usage(2, "no subcommand given")
        if command == "help":
            raise self._usage(0)
        if command not in commands:
            raise _fatal(f"unknown command {command}")
        return commands[command](arguments)

    def _check_flags(self) -> None:
        if "-l" in self.flags and "-L" in self.flags:
            raise _fatal("Cannot specify both local and non-local options")
        if "-d" in self.flags and "-p" not in self.flags:
            raise _fatal("Delimiter option requires parsable option to be set")

    def _usage(self, status: int, message: str = "") -> call_module.Exit:
        if message:
            self.call.out(f"{message}\n")
        return call_module.Exit(status, _USAGE)

    def _getopt(
        self, arguments: list[str], letters: str, command: str | None = None
    ) -> tuple[list[tuple[str, str]], list[str]]:
        if command is not None and command not in _OPTIONS:
            return [], arguments
        try:
            return getopt.getopt(arguments, letters)
        except getopt.GetoptError as error:
            wrong = "illegal option" if "recognized" in error.msg else "option requires an argument"
            self.call.err(f"/usr/bin/nictagadm: {wrong} -- {error.opt}\n")
            raise self._usage(2, "invalid option: " if command else "") from None

    def _take_properties(self, text: str) -> None:
        for part in text.split(","):
            name, _, value = part.partition("=")
            if not name or not value:
                raise _fatal(f"invalid property: {part}")
            self.properties[name] = value

    # -- what is there --

    def _tags(self) -> list[network.Tag]:
        tags = self.network.tags()
        if "-l" in self.flags:
            return [tag for tag in tags if tag.type == "etherstub"]
        if "-L" in self.flags:
            return [tag for tag in tags if tag.type != "etherstub"]
        return tags

    def _tag_exists(self, name: str, everywhere: bool = False) -> bool:
        tags = self.network.tags() if everywhere else self._tags()
        types = {tag.name: tag.type for tag in tags}
        overlay = _OVERLAY_TAG.fullmatch(name)
        if overlay:
            known = types.get(overlay[1]) == "overlay rule"
            return known and int(overlay[2]) <= network.MAX_OVERLAY
        return types.get(name, "overlay rule") != "overlay rule"

    # -- subcommands --

    def _list(self, arguments: list[str]) -> int:
        parseable = "-p" in self.flags
        delimiter = self.flags.get("-d", ":")
        rows = [(tag.name, tag.mac, tag.link, tag.type) for tag in self._tags()]
        if not parseable:
            rows.insert(0, ("NAME", "MACADDRESS", "LINK", "TYPE"))
        for name, mac, link, kind in rows:
            if parseable:
                mac = mac.replace(":", "\\:") if delimiter == ":" else mac
                self.call.out(delimiter.join((name, mac, link, kind)) + "\n")
            else:
                self.call.out(f"{name:<14} {mac:<18} {link:<14} {kind:<16}\n")
        return 0

    def _exists(self, arguments: list[str]) -> int:
        if not arguments:
            raise _fatal("tag_exists: no tag specified")
        # Its -l is about what is printed; every kind of tag is looked at.
        missing = [name for name in arguments if not self._tag_exists(name, everywhere=True)]
        for name in missing:
            self.call.err(f"{name}\n" if "-l" in self.flags else f"invalid tag: {name}\n")
        return 1 if missing else 0

    def _add(self, arguments: list[str]) -> int:
        name, mac, mtu = self._wanted(arguments)
        local = "-l" in self.flags
        if not mac and not local:
            raise _fatal("create non-local tag, but no mac address specified")
        if mac and local:
            raise _fatal("create local tag, but mac address specified")
        if mtu and local:
            raise _fatal("Cannot specify MTU for local nic tag")
        self._check_mtu(mtu)
        if self._tag_exists(name):
            raise _fatal(f"nic tag '{name}' already exists")
        if local:
            self._add_etherstub(name)
        else:
            mac = self._checked_mac(mac)
            if len(name) > 30 or not _NAME.match(name):
                # The real script forgets to stop here: it runs its message as a command.
                self.call.err(
                    "/usr/bin/nictagadm: line 735: nic tag name is invalid: command not found\n"
                )
            self.network.set_tag(name, mac, int(mtu) if mtu else None)
        return self._done(mtu)

    def _add_etherstub(self, name: str) -> None:
        if len(name) > 31 or not _STUB.fullmatch(name):
            raise _fatal("nic tag name is invalid")
        self.network.add_etherstub(name)

    def _update(self, arguments: list[str]) -> int:
        if arguments and "-l" in self.flags:
            raise _fatal("cannot update a local tag")
        name, mac, mtu = self._wanted(arguments)
        self._check_mtu(mtu)
        if not mac and not mtu:
            raise _fatal("nothing to update")
        if not self._tag_exists(name):
            raise _fatal(f"nic tag '{name}' does not exist")
        self.network.set_tag(
            name, self._checked_mac(mac) if mac else None, int(mtu) if mtu else None
        )
        return self._done(mtu)

    def _wanted(self, arguments: list[str]) -> tuple[str, str, str]:
        """The name, the MAC address or aggregation, and the MTU."""
        if not arguments or not arguments[0]:
            raise self._usage(2)
        given = arguments[1] if len(arguments) > 1 else ""
        if given and "mac" in self.properties:
            raise _fatal("mac address specified twice")
        mac = given or self.properties.get("mac", "")
        return arguments[0], mac, self.properties.get("mtu", "")

    def _check_mtu(self, mtu: str) -> None:
        if not mtu:
            return
        if not re.fullmatch("[0-9]+", mtu):
            raise _fatal(f"invalid mtu: {mtu}")
        if not 1500 <= int(mtu) <= 9000:
            raise _fatal("mtu must be between 1500-9000")

    def _checked_mac(self, mac: str) -> str:
        if len(mac) <= 31 and _STUB.fullmatch(mac):
            if mac not in [link.name for link in self.network.aggregations()]:
                raise _fatal(f"aggregation '{mac}' does not exist")
            return mac
        if not _MAC.fullmatch(mac):
            raise _fatal(f"MAC address '{mac}' is invalid")
        normal = network.normal_mac(mac)
        if normal not in [link.mac for link in self.network.physical()]:
            raise _fatal(f"No physical nic found with MAC address '{normal}'")
        return normal

    def _delete(self, arguments: list[str]) -> int:
        if not arguments or not arguments[0]:
            raise self._usage(2)
        name = arguments[0]
        if not self._tag_exists(name):
            raise _fatal(f"nic tag '{name}' does not exist")
        if "-f" not in self.flags and self._users(name):
            raise _fatal(f"nic tag '{name}' is in use")
        if self.network.nic_tags().get(name) == "etherstub":
            self.network.delete_etherstub(name)
        else:
            self.network.delete_tag(name)
        return self._done("")

    def _done(self, mtu: str) -> int:
        sysinfo.refresh(self.call.node)
        if mtu:
            self.call.err(_MTU_NOTE)
        return 0

    def _vms(self, arguments: list[str]) -> int:
        if not arguments or not arguments[0]:
            raise self._usage(2)
        self.call.out("".join(f"{uuid}\n" for uuid in self._users(arguments[0])))
        return 0

    def _users(self, name: str) -> list[str]:
        """The VMs with a nic on the tag, in vmadm's order: by memory, then uuid."""
        try:
            vms = self.call.node.vms.seen()
        except failures.VmError as error:
            self.call.err(f"{error}\n")
            return []
        using = [
            (vm.get("ram", vm.get("max_physical_memory", 0)), vm["uuid"])
            for vm in vms
            if any(nic.get("nic_tag") == name for nic in vm.get("nics", []))
        ]
        return [uuid for _, uuid in sorted(using)]
