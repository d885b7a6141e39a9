# SPDX-License-Identifier: Apache-2.0
"""zlogin: run a command in a running zone, or look at its console."""

import getopt
import io
import typing

from smartos_emulator import call as call_module
from smartos_emulator import guest
from smartos_emulator.vmadm import console

_USAGE_STATUS = 2
_USAGE = "usage: zlogin [ -nQCES ] [ -e cmdchar ] [-l user] zonename [command [args ...] ]\n"
_CONSOLE_CLASHES = (("-l", "-l"), ("-n", "-n"), ("-S", "-S"))


def main(call: call_module.Call) -> int:
    """One run of zlogin."""
    try:
        options, words = getopt.getopt(call.argv[1:], "nECR:Se:l:Qi")
    except getopt.GetoptError:
        raise call_module.Exit(_USAGE_STATUS, _USAGE) from None
    flags = dict(options)
    if not words:
        raise call_module.Exit(_USAGE_STATUS, _USAGE)
    _check(flags, words)
    name, *command = words
    zone = call.node.zones.get(name)
    if name == "global":
        raise _failure("'zlogin' not applicable to the global zone")
    if zone is None:
        raise _failure(f"zone '{name}' unknown")
    if zone.state in ("configured", "incomplete"):
        raise _failure(f"cannot login to a zone which is '{zone.state}'")
    if "-C" in flags:
        leaves = console.Escape(flags.get("-e", "~").encode()) if "-E" not in flags else _never
        return console.stream(call, name, banner="-Q" not in flags, leaves=leaves)
    if zone.state != "running":
        raise _failure(f"login allowed only to running zones ({name} is '{zone.state}').")
    if "-n" in flags:
        call.stdin = typing.cast(typing.BinaryIO, io.BytesIO())
    return guest.run(call, zone, command)


def _check(flags: dict[str, str], words: list[str]) -> None:
    if "-C" in flags:
        for flag, shown in _CONSOLE_CLASHES:
            if flag in flags:
                text = f"{shown} may not be specified for console login"
                raise call_module.Exit(_USAGE_STATUS, f"zlogin: {text}\n{_USAGE}")
        if len(words) > 1:
            text = "Commands may not be specified for console login."
            raise call_module.Exit(_USAGE_STATUS, f"zlogin: {text}\n{_USAGE}")
    elif len(words) == 1 and "-n" in flags:
        text = "-n may not be specified for interactive login"
        raise call_module.Exit(_USAGE_STATUS, f"zlogin: {text}\n{_USAGE}")


def _never(_key: bytes) -> bool:
    return False


def _failure(text: str) -> call_module.Exit:
    return call_module.Exit(1, f"zlogin: {text}\n")
