# SPDX-License-Identifier: Apache-2.0
"""The probes of the node: all that can fire, and how descriptions match them."""

import collections.abc
import dataclasses
import fnmatch
import re

NANO = 10**9
_SYSCALLS = (
    "read write open openat close stat fstat fork exece exit mmap munmap brk ioctl pollsys"
    " lwp_park nanosleep accept connect send recv sendmsg recvmsg getpid kill link unlink"
    " rename mkdir rmdir readlink lseek pread pwrite fsync door zone"
).split()
_TABLE: tuple[tuple[str, str, str, str], ...] = (
    ("dtrace", "", "", "BEGIN END ERROR"),
    ("proc", "genunix", "cfork", "create"),
    ("proc", "genunix", "exec_common", "exec-success"),
    ("proc", "genunix", "proc_exit", "exit"),
    ("sched", "unix", "resume", "on-cpu"),
    ("sched", "unix", "swtch", "off-cpu"),
    ("sched", "unix", "setbackdq", "enqueue"),
    ("sched", "unix", "disp", "dequeue"),
    ("sched", "genunix", "waitq_enqueue", "cpucaps-sleep"),
    ("sched", "genunix", "waitq_dequeue", "cpucaps-wakeup"),
    ("ip", "ip", "ip_input", "receive"),
    ("ip", "ip", "ip_xmit", "send"),
    ("tcp", "ip", "tcp_input_data", "receive"),
    ("tcp", "ip", "tcp_send_data", "send"),
    ("tcp", "ip", "tcp_connect_ipv4", "connect-established"),
    ("tcp", "ip", "tcp_input_listener", "accept-established"),
    ("mib", "ip", "tcp_timer", "tcpRetransSegs"),
    ("mib", "ip", "tcp_connect_ipv4", "tcpActiveOpens"),
    ("mib", "ip", "tcp_input_listener", "tcpPassiveOpens"),
    ("sdt", "zfs", "zfs_zone_zio_done", "zfs-zone-latency"),
    ("sdt", "zfs", "zfs_zone_zio_init", "zfs-zone-wait"),
    ("fbt", "genunix", "fop_read", "entry return"),
    ("fbt", "genunix", "fop_write", "entry return"),
    ("fbt", "genunix", "zone_kstat_delete", "entry return"),
    *(("syscall", "", function, "entry return") for function in _SYSCALLS),
    ("profile", "", "", "profile-97 profile-199 profile-499 profile-997 profile-1999"),
    ("profile", "", "", "profile-4001 profile-4999 tick-1 tick-10 tick-100 tick-500 tick-1000"),
)
_UNITS = {
    "ns": 1, "nsec": 1, "us": 10**3, "usec": 10**3, "ms": 10**6, "msec": 10**6,
    "s": NANO, "sec": NANO, "m": 60 * NANO, "min": 60 * NANO, "h": 3600 * NANO,
    "hour": 3600 * NANO, "d": 86400 * NANO, "day": 86400 * NANO,
}  # fmt: skip
_TIMED = re.compile(r"(profile|tick)-(\d+)([a-z]*)")

#: What args[] holds, by provider and name.
ARGUMENTS: dict[tuple[str, str], tuple[str, ...]] = {
    **{
        ("sched", name): ("lwpsinfo_t *", "psinfo_t *", "cpuinfo_t *")
        for name in ("enqueue", "dequeue")
    },
    **{
        ("sched", name): ("lwpsinfo_t *", "psinfo_t *")
        for name in ("off-cpu", "cpucaps-sleep", "cpucaps-wakeup")
    },
    **{
        ("ip", name): (
            *("pktinfo_t *", "csinfo_t *", "ipinfo_t *", "ifinfo_t *"),
            *("ipv4info_t *", "ipv6info_t *"),
        )
        for name in ("send", "receive")
    },
    **{
        ("tcp", name): ("pktinfo_t *", "csinfo_t *", "ipinfo_t *", "tcpsinfo_t *", "tcpinfo_t *")
        for name in ("send", "receive", "connect-established", "accept-established")
    },
    ("proc", "create"): ("psinfo_t *",),
    ("proc", "exit"): ("int",),
    ("fbt", "entry"): ("zone_t *",),
}
#: Of these a thread passes two, the one after the other.
PAIRED = {
    *(("sched", name) for name in ("enqueue", "dequeue", "on-cpu", "off-cpu")),
    *(("sched", name) for name in ("cpucaps-sleep", "cpucaps-wakeup")),
    *((provider, name) for provider in ("fbt", "syscall") for name in ("entry", "return")),
}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A place where something can be seen to happen."""

    id: int
    provider: str
    module: str
    function: str
    name: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The types of args[]; only one function's are known of those that fbt has."""
        if self.provider == "fbt" and self.function != "zone_kstat_delete":
            return ()
        return ARGUMENTS.get((self.provider, self.name), ())

    @property
    def paired(self) -> bool:
        return (self.provider, self.name) in PAIRED

    @property
    def interval(self) -> int:
        """Nanoseconds between two times that a probe of the profile provider fires, else 0."""
        return _interval(self.name) if self.provider == "profile" else 0

    def __str__(self) -> str:
        return f"{self.provider}:{self.module}:{self.function}:{self.name}"


class Table:
    """The node's probes, but those that it is made to lack."""

    def __init__(self, lacking: collections.abc.Sequence[str] = ()) -> None:
        rows = [
            (provider, module, function, name)
            for provider, module, function, names in _TABLE
            for name in names.split()
        ]
        found = [Probe(number, *row) for number, row in enumerate(rows, 1)]
        gone = [fields(text) for text in lacking]
        self._probes = [each for each in found if not any(_fits(each, one) for one in gone)]
        self._lacking = gone
        self._next = len(found) + 1

    def all(self) -> list[Probe]:
        return list(self._probes)

    def match(self, description: str) -> list[Probe]:
        """The probes that a description means; one of the profile provider comes to be with it."""
        wanted = fields(description)
        found = [each for each in self._probes if _fits(each, wanted)]
        if not found and wanted[0] in ("", "profile") and not wanted[1] and not wanted[2]:
            found = self._timed(wanted[3])
        return found

    def _timed(self, name: str) -> list[Probe]:
        if not _interval(name):
            return []
        made = Probe(self._next, "profile", "", "", name)
        if any(_fits(made, one) for one in self._lacking):
            return []
        self._next += 1
        self._probes.append(made)
        return [made]


def fields(description: str) -> tuple[str, str, str, str]:
    """Provider, module, function and name; what stands last is the name."""
    parts = description.split(":")
    provider, module, function, name = [*([""] * (4 - len(parts))), *parts][:4]
    return provider, module, function, name


def _fits(probe: Probe, wanted: tuple[str, str, str, str]) -> bool:
    has = (probe.provider, probe.module, probe.function, probe.name)
    return all(
        not pattern or pattern == value or fnmatch.fnmatchcase(value, pattern.replace("!", "^"))
        for pattern, value in zip(wanted, has, strict=True)
    )


def _interval(name: str) -> int:
    found = _TIMED.fullmatch(name)
    if not found or int(found[2]) == 0:
        return 0
    number, unit = int(found[2]), found[3]
    if unit in ("", "hz"):
        return NANO // number
    return number * _UNITS.get(unit, 0)
