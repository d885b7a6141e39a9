# SPDX-License-Identifier: Apache-2.0
"""zoneadm: list the zones, boot and halt them; what makes and unmakes zones is vmadm's."""

import getopt
import typing

from smartos_emulator import call as call_module
from smartos_emulator import zones

_ERROR, _USAGE = 1, 2

_USAGE_TEXT = """\
usage:\tzoneadm help
\tzoneadm [-z <zone>] [-u <uuid-match>] list
\tzoneadm {-z <zone>|-u <uuid-match>} <subcommand>

Subcommands:

help
boot [-- boot_arguments]
halt
ready
shutdown [-r [-- boot_arguments]]
reboot [-- boot_arguments]
list [-cipv]
verify
install [brand-specific args]
uninstall [-F] [brand-specific args]
clone [-m method] [-s <ZFS snapshot>] [brand-specific args] zonename
move zonepath
detach [-n] [brand-specific args]
attach [-F] [-n <path>] [brand-specific args]
mark incomplete
"""
_REFUSED = (
    "apply",
    "attach",
    "clone",
    "detach",
    "install",
    "mark",
    "mount",
    "move",
    "ready",
    "sysboot",
    "uninstall",
    "unmount",
    "verify",
)
_RANKS = ("configured", "incomplete", "installed", "ready", "mounted", "running")
_SHUTDOWN_SECONDS = 300.0


def main(call: call_module.Call) -> int:
    """One run of zoneadm."""
    try:
        options, words = getopt.getopt(call.argv[1:], "u:z:R:")
    except getopt.GetoptError:
        raise call_module.Exit(_USAGE, f"{_USAGE_TEXT}\n") from None
    if not words:
        raise call_module.Exit(_USAGE, f"{_USAGE_TEXT}\n")
    chosen = dict(options)
    name = chosen.get("-u") or chosen.get("-z")
    if name is not None and call.node.zones.get(name) is None and name != "global":
        raise call_module.Exit(_ERROR, f"zoneadm: {name}: No such zone configured\n")
    command, *rest = words
    if command in _REFUSED:
        raise call_module.Exit(
            _ERROR, f"zoneadm: {command}: not part of this emulated node; vmadm does it\n"
        )
    if command not in _COMMANDS:
        raise call_module.Exit(_USAGE, f"{_USAGE_TEXT}\n")
    try:
        return _COMMANDS[command](call, name, rest)
    except zones.ZoneError as error:
        raise call_module.Exit(_ERROR, f"{str(error).rstrip()}\n") from None


def _need(name: str | None, command: str) -> str:
    if name is None:
        raise call_module.Exit(_ERROR, "zoneadm: no zone specified\n")
    if name == "global":
        raise call_module.Exit(
            _ERROR,
            f"zoneadm: zone 'global': {command} operation is invalid for the global zone.\n",
        )
    return name


def _flags(command: str, words: list[str], letters: str) -> dict[str, str]:
    """The options of a subcommand; boot arguments follow `--` and mean nothing here."""
    try:
        options, _ = getopt.getopt(words, letters)
    except getopt.GetoptError:
        raise call_module.Exit(_USAGE, f"usage:\t{_usage_line(command)}\n") from None
    return dict(options)


def _usage_line(command: str) -> str:
    lines = _USAGE_TEXT.splitlines()
    return next(line for line in lines if line.split(" ")[0] == command)


def _boot(call: call_module.Call, name: str | None, words: list[str]) -> int:
    name = _need(name, "boot")
    _flags("boot", words, "fsX")
    if call.node.zones.state(name) == "running":
        call.err(f"zone '{name}': zone is already booted\n")
        return 0
    call.node.zones.boot(name)
    call.node.vms.follow_provisioning(name)
    return 0


def _halt(call: call_module.Call, name: str | None, words: list[str]) -> int:
    name = _need(name, "halt")
    _flags("halt", words, "X")
    try:
        call.node.zones.halt(name)
    except zones.ZoneError as error:
        call.err(str(error))
    return 0


def _reboot(call: call_module.Call, name: str | None, words: list[str]) -> int:
    name = _need(name, "reboot")
    _flags("reboot", words, "X")
    call.node.zones.reboot(name)
    return 0


def _shutdown(call: call_module.Call, name: str | None, words: list[str]) -> int:
    name = _need(name, "shutdown")
    again = "-r" in _flags("shutdown", words, "r")
    zone = call.node.zones.get(name)
    if zone is None or zone.state != "running":
        raise call_module.Exit(_ERROR, f"zoneadm: zone '{name}': not running\n")
    call.node.zones.guest_shutdown(name)
    call.node.zones.wait(name, lambda: zone.state == "installed", _SHUTDOWN_SECONDS)
    if again:
        call.node.zones.boot(name)
    return 0


def _list(call: call_module.Call, name: str | None, words: list[str]) -> int:
    flags = _flags("list", words, "pv" if name else "cipv")
    parsable, verbose = "-p" in flags, "-v" in flags
    if parsable and verbose:
        where = f"zone '{name}': " if name else ""
        raise call_module.Exit(_ERROR, f"zoneadm: {where}list -p and -v are mutually exclusive.\n")
    rows = _rows(call, name, flags)
    if verbose:
        call.out(_verbose(_TITLES))
    line = _parsable if parsable else _verbose if verbose else _plain
    call.out("".join(line(row) for row in rows))
    return 0


# id, name, state, path, uuid, brand, ip type, did
Row = tuple[str, str, str, str, str, str, str, str]
_TITLES: Row = ("ID", "NAME", "STATUS", "PATH", "", "BRAND", "IP", "")
_GLOBAL: Row = ("0", "global", "running", "/", "", "liveimg", "shared", "0")


def _rows(call: call_module.Call, name: str | None, flags: dict[str, str]) -> list[Row]:
    if name == "global":
        return [_GLOBAL]
    if name is not None:
        zone = call.node.zones.get(name)
        return [_row(zone)] if zone else []
    least = "configured" if "-c" in flags else "installed" if "-i" in flags else "running"
    every = call.node.zones.all()
    up = sorted((zone for zone in every if zone.id is not None), key=lambda zone: zone.id or 0)
    down = [
        zone
        for zone in every
        if zone.id is None and _RANKS.index(zone.state) >= _RANKS.index(least)
    ]
    return [_GLOBAL, *(_row(zone) for zone in up), *(_row(zone) for zone in down)]


def _row(zone: zones.Zone) -> Row:
    number = "-" if zone.id is None else str(zone.id)
    did = str(zone.did)
    return (number, zone.name, zone.state, zone.path, zone.uuid, zone.brand, "excl", did)


def _plain(row: Row) -> str:
    return f"{row[1]}\n"


def _parsable(row: Row) -> str:
    return ":".join(field.replace(":", "\\:") for field in row) + "\n"


def _verbose(row: Row) -> str:
    number, name, state, path, _, brand, ip_type, _ = row
    return f"{number:>4} {name:<16} {state:<10} {path:<30} {brand:<8} {ip_type:<6}\n"


def _help(call: call_module.Call, _name: str | None, _words: list[str]) -> int:
    call.out(_USAGE_TEXT)
    return 0


_Command = typing.Callable[[call_module.Call, str | None, list[str]], int]
_COMMANDS: dict[str, _Command] = {
    "boot": _boot,
    "halt": _halt,
    "help": _help,
    "list": _list,
    "reboot": _reboot,
    "shutdown": _shutdown,
}
