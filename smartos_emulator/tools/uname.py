# SPDX-License-Identifier: Apache-2.0
"""uname(1): names of the system."""

import getopt

from smartos_emulator import call as call_module

_USAGE = "usage:\tuname [-snrvmapiX]\n\tuname [-S system_name]\n"
_ORDER = "snrvmpi"


def main(call: call_module.Call) -> int:
    """uname [-snrvmapiX]"""
    try:
        pairs, operands = getopt.getopt(call.argv[1:], "snrvmapiXS:")
    except getopt.GetoptError as error:
        raise call_module.Exit(1, f"uname: illegal option -- {error.opt}\n{_USAGE}") from None
    if operands:
        raise call_module.Exit(1, _USAGE)
    letters = "".join(flag[1] for flag, _ in pairs) or "s"
    if "S" in letters:
        call.node.network.hostname = dict(pairs)["-S"]
        return 0
    names = _names(call)
    if "X" in letters:
        call.out(_long(call, names))
        return 0
    wanted = _ORDER if "a" in letters else [letter for letter in _ORDER if letter in letters]
    call.out(" ".join(names[letter] for letter in wanted) + "\n")
    return 0


def _names(call: call_module.Call) -> dict[str, str]:
    return {
        "s": "SunOS",
        "n": call.node.network.hostname,
        "r": "5.11",
        "v": f"joyent_{call.node.config.platform}",
        "m": "i86pc",
        "p": "i386",
        "i": "i86pc",
    }


def _long(call: call_module.Call, names: dict[str, str]) -> str:
    rows = {
        "System": names["s"],
        "Node": names["n"],
        "Release": names["r"],
        "KernelID": names["v"],
        "Machine": names["m"],
        "BusType": "<unknown>",
        "Serial": "<unknown>",
        "Users": "<unknown>",
        "OEM#": "0",
        "Origin#": "1",
        "NumCPU": str(call.node.config.cpus),
    }
    return "".join(f"{name} = {value}\n" for name, value in rows.items()) + "\n"
