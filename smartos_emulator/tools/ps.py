# SPDX-License-Identifier: Apache-2.0
"""ps: the tools that run on the node."""

from smartos_emulator import call as call_module

_NODE = "/usr/node/bin/node --abort_on_uncaught_exception"
_SCRIPTS = {"imgadm": f"{_NODE} /usr/img/sbin/imgadm", "vmadm": f"{_NODE} /usr/vm/sbin/vmadm"}
# as much of a command line as the kernel keeps: PRARGSZ, less the byte that ends it
_KEPT = 79


def main(call: call_module.Call) -> int:
    """ps -z global -o pid,args"""
    if call.argv[1:] != ["-z", "global", "-o", "pid,args"]:
        raise call_module.Exit(1, "emulated ps: ps -z global -o pid,args\n")
    rows = [(1, "/sbin/init"), *((run.pid, _line(run.argv)) for run in call.node.runs())]
    call.out("  PID COMMAND\n" + "".join(f"{pid:>5} {line}\n" for pid, line in sorted(rows)))
    return 0


def _line(argv: list[str]) -> str:
    return " ".join([_SCRIPTS.get(argv[0], argv[0]), *argv[1:]])[:_KEPT]
