# SPDX-License-Identifier: Apache-2.0
"""psrinfo(8): the processors."""

import getopt

from smartos_emulator import call as call_module
from smartos_emulator.metrics import machine_tables

_USAGE = (
    "usage: \n\tpsrinfo [-v] [-p] [processor_id ...]\n\tpsrinfo -s [-p] processor_id\n"
    "\tpsrinfo -t [-S <state> | -c | -p]\n"
)


def main(call: call_module.Call) -> int:
    """psrinfo [-v] [-p] [ID …] | -s ID | -t [-S STATE | -c | -p]"""
    try:
        pairs, operands = getopt.getopt(call.argv[1:], "cpr:sS:tv")
    except getopt.GetoptError as error:
        raise call_module.Exit(2, f"psrinfo: illegal option -- {error.opt}\n{_USAGE}") from None
    options = dict(pairs)
    if "-r" in options:
        raise call_module.Exit(2, f"psrinfo: -r is not emulated\n{_USAGE}")
    cpus = call.node.config.cpus
    if "-t" in options:
        call.out(f"{_total(options, cpus)}\n")
        return 0
    numbers, wrong = _numbers(operands, cpus)
    for word in wrong:
        call.err(f"psrinfo: processor {word}: Invalid argument\n")
    call.out(_shown(call, options, numbers))
    return 2 if wrong else 0


def _total(options: dict[str, str], cpus: int) -> int:
    if "-S" in options:
        return cpus if options["-S"] == "on-line" else 0
    return machine_tables.sockets(cpus) if "-p" in options else cpus


def _numbers(operands: list[str], cpus: int) -> tuple[list[int], list[str]]:
    if not operands:
        return list(range(cpus)), []
    wrong = [word for word in operands if not (word.isdigit() and int(word) < cpus)]
    return [int(word) for word in operands if word not in wrong], wrong


def _shown(call: call_module.Call, options: dict[str, str], numbers: list[int]) -> str:
    booted = call.node.clock.booted
    if "-s" in options:
        return "1\n" if numbers else ""
    if "-p" in options:
        return _physical(call, "-v" in options)
    if "-v" in options:
        now = call.node.clock.now()
        return "".join(
            f"Status of virtual processor {number} as of: {now:%m/%d/%Y %H:%M:%S}\n"
            f"  on-line since {booted:%m/%d/%Y %H:%M:%S}.\n"
            f"  The i386 processor operates at {machine_tables.CPU_MHZ} MHz,\n"
            "\tand has an i387 compatible floating point processor.\n"
            for number in numbers
        )
    return "".join(f"{n}\ton-line   since {booted:%m/%d/%Y %H:%M:%S}\n" for n in numbers)


def _physical(call: call_module.Call, verbose: bool) -> str:
    cpus = call.node.config.cpus
    sockets = machine_tables.sockets(cpus)
    if not verbose:
        return f"{sockets}\n"
    each = -(-cpus // sockets)
    text = ""
    for socket in range(sockets):
        first, last = socket * each, min(cpus, (socket + 1) * each) - 1
        span = f"{first}-{last}" if last > first else str(first)
        plural = "s" if last > first else ""
        text += (
            f"The physical processor has {last - first + 1} virtual processor{plural} ({span})\n"
            "  x86 (GenuineIntel 306F2 family 6 model 63 step 2 clock "
            f"{machine_tables.CPU_MHZ} MHz)\n\t{machine_tables.BRAND}\n"
        )
    return text
