# SPDX-License-Identifier: Apache-2.0
"""svcadm(8): bring services into other states."""

import getopt

from smartos_emulator import call as call_module
from smartos_emulator import smf

_USAGE = """\
Usage: svcadm [-v] [-Z | -z zone] [cmd [args ... ]]

\tsvcadm enable [-rst] [<service>] ...\t- enable and online service(s)
\tsvcadm disable [-cst] [<service>] ...\t- disable and offline service(s)
\tsvcadm restart [-d] [<service>] ...\t- restart specified service(s)
\tsvcadm refresh [-s] [<service>] ...\t- re-read service configuration
\tsvcadm mark [-It] <state> [<service>] ...\t- set maintenance state
\tsvcadm clear [-s] [<service>] ...\t- clear maintenance state
"""
_FLAGS = {
    "enable": "rst",
    "disable": "cst",
    "restart": "d",
    "refresh": "s",
    "mark": "It",
    "clear": "s",
}


def main(call: call_module.Call) -> int:
    """One run of svcadm; its exit status."""
    options, words = _getopt(call.argv[1:], "vZz:?")
    if "-?" in options or not words or words[0] not in _FLAGS:
        raise call_module.Exit(2, _USAGE)
    if "-Z" in options:
        raise call_module.Exit(2, f"svcadm: -Z is not emulated\n{_USAGE}")
    command = words[0]
    flags, words = _getopt(words[1:], _FLAGS[command])
    state = ""
    if command == "mark":
        state, *words = words or [""]
        if state not in ("maintenance", "degraded"):
            raise call_module.Exit(2, f"svcadm: unknown state '{state}'\n{_USAGE}")
    if not words:
        raise call_module.Exit(2, _USAGE)
    return _apply(call, options.get("-z", smf.GLOBAL), command, "-t" in flags, state, words)


def _getopt(words: list[str], letters: str) -> tuple[dict[str, str], list[str]]:
    try:
        pairs, rest = getopt.getopt(words, letters)
    except getopt.GetoptError as error:
        raise call_module.Exit(2, f"svcadm: illegal option -- {error.opt}\n{_USAGE}") from None
    return dict(pairs), rest


def _apply(
    call: call_module.Call,
    zone: str,
    command: str,
    temporary: bool,
    state: str,
    patterns: list[str],
) -> int:
    services = smf.Services(call.node)
    status = 0
    try:
        every = services.all(zone)
    except smf.SmfError as error:
        raise call_module.Exit(1, f"svcadm: {error}\n") from None
    for pattern in patterns:
        found = [service for service in every if service.matches(pattern)]
        if not found:
            call.err(f"svcadm: Pattern '{pattern}' doesn't match any instances\n")
            status = 1
        for service in found:
            after = _after(command, service, state)
            if after == "not in maintenance":
                call.err(
                    f'svcadm: Instance "{service.fmri}" is not in a maintenance or degraded'
                    " state.\n"
                )
                status = 1
            elif after:
                services.change(service, after, zone, temporary)
    return status


def _after(command: str, service: smf.Service, state: str) -> str:
    """The state that follows; nothing when all stays as it is."""
    sick = service.state in ("maintenance", "degraded")
    if command == "mark":
        return state
    if command == "clear":
        return "online" if sick else "not in maintenance"
    if command == "enable":
        return "" if service.enabled else "online"
    if command == "disable":
        return "disabled" if service.enabled else ""
    return "online" if command == "restart" and service.state == "online" else ""
