# SPDX-License-Identifier: Apache-2.0
"""The types of D, as far as values and their printing depend on them."""

import dataclasses

MASK = 2**64 - 1
HALF = 2**63


@dataclasses.dataclass(frozen=True)
class Type:
    """An integer of some bytes, a string, or a structure or a pointer to one."""

    name: str
    size: int = 0
    signed: bool = False
    struct: str = ""
    pointer: bool = False

    @property
    def is_integer(self) -> bool:
        return self.size > 0

    @property
    def is_string(self) -> bool:
        return self.name in ("string", "char *", "char []")


CHAR = Type("char", 1, True)
INT = Type("int", 4, True)
UINT = Type("unsigned int", 4)
INT64 = Type("int64_t", 8, True)
UINT64 = Type("uint64_t", 8)
STRING = Type("string")

_INTEGERS = {
    "char": CHAR,
    "signed char": CHAR,
    "unsigned char": Type("unsigned char", 1),
    "short": Type("short", 2, True),
    "unsigned short": Type("unsigned short", 2),
    "int": INT,
    "signed": INT,
    "unsigned": UINT,
    "unsigned int": UINT,
    "long": Type("long", 8, True),
    "unsigned long": Type("unsigned long", 8),
    "long long": Type("long long", 8, True),
    "unsigned long long": Type("unsigned long long", 8),
    "uchar_t": Type("uchar_t", 1),
    "ushort_t": Type("ushort_t", 2),
    "uint_t": Type("uint_t", 4),
    "ulong_t": Type("ulong_t", 8),
    "longlong_t": Type("longlong_t", 8, True),
    "u_longlong_t": Type("u_longlong_t", 8),
    "size_t": Type("size_t", 8),
    "ssize_t": Type("ssize_t", 8, True),
    "uintptr_t": Type("uintptr_t", 8),
    "intptr_t": Type("intptr_t", 8, True),
    "hrtime_t": Type("hrtime_t", 8, True),
    "time_t": Type("time_t", 8, True),
    "ipaddr_t": Type("ipaddr_t", 4),
    **{
        f"{name}_t": Type(f"{name}_t", 4, True)
        for name in ("id", "pid", "zoneid", "processorid", "netstackid", "taskid", "projid")
    },
    **{f"int{bits}_t": Type(f"int{bits}_t", bits // 8, True) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}_t": Type(f"uint{bits}_t", bits // 8) for bits in (8, 16, 32, 64)},
}
_INTEGERS |= {
    name.replace("long", "long int"): kind
    for name, kind in _INTEGERS.items()
    if name in ("long", "unsigned long")
}

# What the node has of the kernel's and the translators' structures.
STRUCTS: dict[str, dict[str, str]] = {
    "lwpsinfo_t": {
        "pr_addr": "uintptr_t",
        "pr_lwpid": "id_t",
        "pr_flag": "int",
        "pr_pri": "int",
        "pr_state": "char",
        "pr_onpro": "processorid_t",
    },
    "psinfo_t": {
        "pr_addr": "uintptr_t",
        "pr_fname": "char []",
        "pr_nlwp": "int",
        "pr_pid": "pid_t",
        "pr_ppid": "pid_t",
        "pr_projid": "projid_t",
        "pr_psargs": "char []",
        "pr_taskid": "taskid_t",
        "pr_zoneid": "zoneid_t",
    },
    "cpuinfo_t": {"cpu_id": "processorid_t", "cpu_pset": "int", "cpu_chip": "int"},
    "pktinfo_t": {"pkt_addr": "uintptr_t"},
    "csinfo_t": {
        "cs_addr": "uintptr_t",
        "cs_cid": "uint64_t",
        "cs_pid": "pid_t",
        "cs_zoneid": "zoneid_t",
    },
    "ipinfo_t": {
        "ip_ver": "uint8_t",
        "ip_plength": "uint16_t",
        "ip_saddr": "string",
        "ip_daddr": "string",
    },
    "ifinfo_t": {
        "if_name": "string",
        "if_local": "int8_t",
        "if_ipstack": "netstackid_t",
        "if_addr": "uintptr_t",
    },
    "ipv4info_t": {
        "ipv4_ver": "uint8_t",
        "ipv4_ihl": "uint8_t",
        "ipv4_tos": "uint8_t",
        "ipv4_length": "uint16_t",
        "ipv4_ttl": "uint8_t",
        "ipv4_protocol": "uint8_t",
        "ipv4_protostr": "string",
        "ipv4_src": "ipaddr_t",
        "ipv4_dst": "ipaddr_t",
        "ipv4_saddr": "string",
        "ipv4_daddr": "string",
    },
    "ipv6info_t": {
        "ipv6_ver": "uint8_t",
        "ipv6_plen": "uint16_t",
        "ipv6_nexthdr": "uint8_t",
        "ipv6_saddr": "string",
        "ipv6_daddr": "string",
    },
    "tcpsinfo_t": {
        "tcps_addr": "uintptr_t",
        "tcps_local": "int",
        "tcps_active": "int",
        "tcps_lport": "uint16_t",
        "tcps_rport": "uint16_t",
        "tcps_laddr": "string",
        "tcps_raddr": "string",
        "tcps_retransmit": "int",
    },
    "tcpinfo_t": {
        "tcp_sport": "uint16_t",
        "tcp_dport": "uint16_t",
        "tcp_flags": "uint8_t",
        "tcp_window": "uint16_t",
    },
    "kstat_io_t": dict.fromkeys(
        ("nread", "nwritten", "reads", "writes", "rtime", "wtime", "rlentime", "wlentime"),
        "uint64_t",
    ),
    "zone_t": {
        "zone_id": "zoneid_t",
        "zone_name": "char *",
        "zone_utime": "uint64_t",
        "zone_stime": "uint64_t",
        "zone_wtime": "uint64_t",
        "zone_vfs_rwstats": "kstat_io_t",
    },
    "proc_t": {"p_zone": "zone_t *"},
    "kthread_t": {"t_procp": "proc_t *", "t_tid": "id_t"},
}


def find(name: str) -> Type | None:
    """The type that a name stands for: `uint64_t`, `zone_t *`, `string`."""
    base = name.rstrip("* ").removeprefix("struct ")
    pointer = "*" in name
    if base in _INTEGERS and not pointer:
        return _INTEGERS[base]
    if name in ("string", "char *", "char []", "void"):
        return Type(name)
    tags = (f"{base}_t", f"k{base}_t") if name.startswith("struct ") else ()
    for known in (base, *tags):
        if known in STRUCTS:
            return Type(name, struct=known, pointer=pointer)
    if pointer and (base in _INTEGERS or base == "void"):
        return Type(name, 8)
    return None


def common(one: Type, other: Type) -> Type:
    """The type in which C computes with both."""
    one, other = (INT if each.size < 4 else each for each in (one, other))
    if one.signed == other.signed:
        return one if one.size >= other.size else other
    unsigned, signed = (other, one) if one.signed else (one, other)
    return unsigned if unsigned.size >= signed.size else signed
