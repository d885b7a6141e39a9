# SPDX-License-Identifier: Apache-2.0
"""dtrace(8): its version and a table of probes. There is no D interpreter here yet."""

import fnmatch
import typing

from smartos_emulator import call as call_module

_USAGE = """\
Usage: dtrace [-32|-64] [-aACeFGhHlqSvVwZ] [-b bufsz] [-c cmd] [-D name[=def]]
\t[-I path] [-L path] [-o output] [-p pid] [-s script] [-U name]
\t[-x opt[=val]] [-X a|c|s|t]

\t[-P provider [[ predicate ] action ]]
\t[-m [ provider: ] module [[ predicate ] action ]]
\t[-f [[ provider: ] module: ] func [[ predicate ] action ]]
\t[-n [[[ provider: ] module: ] func: ] name [[ predicate ] action ]]
\t[-i probe-id [[ predicate ] action ]] [ args ... ]
"""
_REFUSAL = (
    "dtrace: failed to initialize dtrace: the emulated node has no D interpreter yet; "
    "it knows -V and -l only\n"
)
_SYSCALLS = (
    "read write open openat close stat fstat fork exece exit mmap munmap brk ioctl pollsys"
    " lwp_park nanosleep accept connect send recv sendmsg recvmsg getpid kill link unlink"
    " rename mkdir rmdir readlink lseek pread pwrite fsync door zone"
)
_BY_PROVIDER: tuple[tuple[str, str, str, str], ...] = (
    ("dtrace", "", "", "BEGIN END ERROR"),
    ("proc", "genunix", "cfork", "create"),
    ("proc", "genunix", "exec_common", "exec exec-success exec-failure"),
    ("proc", "genunix", "proc_exit", "exit"),
    ("proc", "genunix", "sigtoproc", "signal-send"),
    ("sched", "unix", "swtch", "on-cpu off-cpu"),
    ("sched", "unix", "setbackdq", "enqueue"),
    ("sched", "unix", "dispdeq", "dequeue"),
    ("sched", "genunix", "cpucaps_charge", "cpucaps-sleep cpucaps-wakeup"),
    ("io", "genunix", "bdev_strategy", "start"),
    ("io", "genunix", "biodone", "done"),
    ("vminfo", "genunix", "as_fault", "as_fault maj_fault"),
    ("vminfo", "unix", "page_get_freelist", "pgfrec pgrec"),
    ("sysinfo", "genunix", "read", "readch sysread"),
    ("sysinfo", "genunix", "write", "writech syswrite"),
    ("ip", "ip", "ip_input", "receive"),
    ("ip", "ip", "ip_output_simple", "send"),
    ("tcp", "ip", "tcp_input_data", "receive state-change"),
    ("tcp", "ip", "tcp_output", "send connect-request connect-established"),
    ("udp", "ip", "udp_input", "receive"),
    ("udp", "ip", "udp_output", "send"),
    ("mib", "ip", "tcp_timer", "tcpRetransSegs tcpTimRetransDrop"),
    ("sdt", "zfs", "zfs_zone_zio_done", "zfs-zone-latency"),
    ("sdt", "zfs", "zfs_zone_io_throttle", "zfs-zone-wait zfs-zone-throttle"),
    ("vnd", "vnd", "vnd_mac_input", "packet-in"),
    ("fbt", "genunix", "fop_read", "entry return"),
    ("fbt", "genunix", "fop_write", "entry return"),
    ("fbt", "genunix", "zone_boot", "entry return"),
    ("fbt", "genunix", "zone_shutdown", "entry return"),
    ("profile", "", "", "tick-1sec profile-97 profile-199 profile-997 profile-4999"),
)

Probe = tuple[int, str, str, str, str]


def main(call: call_module.Call) -> int:
    """dtrace -V | -l [-P|-m|-f|-n|-i DESCRIPTION …]"""
    words = call.argv[1:]
    if not words:
        raise call_module.Exit(2, _USAGE)
    if words == ["-V"]:
        call.out("dtrace: Sun D 1.13.2\n")
        return 0
    if "-l" not in words:
        raise call_module.Exit(1, _REFUSAL)
    words.remove("-l")
    return _list(call, words)


def _probes() -> list[Probe]:
    """The probes there are, numbered."""
    rows: list[tuple[str, str, str, str]] = []
    for provider, module, function, names in _BY_PROVIDER:
        rows += [(provider, module, function, name) for name in names.split()]
    for function in _SYSCALLS.split():
        rows += [("syscall", "", function, "entry"), ("syscall", "", function, "return")]
    return [(number, *row) for number, row in enumerate(rows, 1)]


def _list(call: call_module.Call, words: list[str]) -> int:
    selectors = list(_selectors(words))
    probes = _probes()
    status = 0
    chosen = set() if selectors else {probe[0] for probe in probes}
    for flag, text in selectors:
        matching = {probe[0] for probe in probes if _matches(probe, flag, text)}
        if not matching:
            call.err(
                f"dtrace: failed to match {_whole(flag, text)}: No probe matches description\n"
            )
            status = 1
        chosen |= matching
    if chosen:
        call.out(_row("ID", "PROVIDER", "MODULE", "FUNCTION", "NAME"))
    for number, provider, module, function, name in probes:
        if number in chosen:
            call.out(_row(str(number), provider, module, function, name))
    return status


def _selectors(words: list[str]) -> typing.Iterator[tuple[str, str]]:
    left = list(words)
    while left:
        flag = left.pop(0)
        if flag[:2] not in ("-P", "-m", "-f", "-n", "-i"):
            raise call_module.Exit(1, _REFUSAL)
        if len(flag) > 2:
            yield flag[:2], flag[2:]
        elif left:
            yield flag, left.pop(0)
        else:
            message = f"dtrace: option requires an argument -- {flag[1]}\n"
            raise call_module.Exit(2, message + _USAGE)


def _fields(flag: str, text: str) -> list[str]:
    """Provider, module, function and name; the last given belongs to the flag's place."""
    place = {"-P": 1, "-m": 2, "-f": 3, "-n": 4}[flag]
    parts = text.split(":")
    return [""] * (place - len(parts)) + parts + [""] * (4 - place)


def _whole(flag: str, text: str) -> str:
    return text if flag == "-i" else ":".join(_fields(flag, text))


def _matches(probe: Probe, flag: str, text: str) -> bool:
    if flag == "-i":
        return str(probe[0]) == text
    fields = _fields(flag, text)
    return len(fields) == 4 and all(
        not pattern or fnmatch.fnmatchcase(value, pattern)
        for pattern, value in zip(fields, probe[1:], strict=True)
    )


def _row(number: str, provider: str, module: str, function: str, name: str) -> str:
    return f"{number:>5} {provider:>10} {module:>17} {function:>33} {name}\n"
