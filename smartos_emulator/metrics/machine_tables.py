# SPDX-License-Identifier: Apache-2.0
"""The kstats of the machine: processors, memory, the file system's cache."""

import collections.abc
import dataclasses

from smartos_emulator.metrics import kstat

PAGE = 4096
TICKS = 100
CPU_MHZ = 2400
BRAND = "Intel(r) Xeon(r) CPU E5-2620 v3 @ 2.40GHz"
CORES_PER_SOCKET = 8


@dataclasses.dataclass(frozen=True)
class MachineView:
    """The machine at one moment."""

    now: int
    booted: int
    cpus: int
    memory_mib: int
    user_ns: int
    kernel_ns: int
    idle_ns: int
    averages: tuple[int, ...]
    reads: int
    syscalls: int
    used: int
    processes: int


def of_machine(machine: MachineView) -> list[kstat.Kstat]:
    """All of the machine's own kstats."""
    return [
        *_cpus(machine),
        _make(machine, "unix", 0, "system_misc", "misc", _system_misc(machine)),
        _make(machine, "unix", 0, "system_pages", "pages", _system_pages(machine)),
        _make(machine, "zfs", 0, "arcstats", "misc", _arc(machine)),
    ]


def _make(
    machine: MachineView,
    module: str,
    instance: int,
    name: str,
    class_: str,
    data: dict[str, kstat.Value],
) -> kstat.Kstat:
    return kstat.Kstat(module, instance, name, class_, 0, machine.now, data)


def _cpus(machine: MachineView) -> collections.abc.Iterator[kstat.Kstat]:
    for number in range(machine.cpus):
        yield _make(machine, "cpu", number, "sys", "misc", _cpu_sys(machine, number))
        info = _cpu_info(machine, number)
        yield _make(machine, "cpu_info", number, f"cpu_info{number}", "misc", info)


def _cpu_sys(machine: MachineView, number: int) -> dict[str, kstat.Value]:
    """Every processor does the same share of the work; system calls do not divide."""
    user, kernel, idle = (
        total // machine.cpus for total in (machine.user_ns, machine.kernel_ns, machine.idle_ns)
    )
    busy = user + kernel
    return {
        "cpu_load_intr": 0,
        "cpu_nsec_dtrace": 0,
        "cpu_nsec_idle": idle,
        "cpu_nsec_intr": kernel // 20,
        "cpu_nsec_kernel": kernel,
        "cpu_nsec_user": user,
        "cpu_ticks_idle": idle * TICKS // 10**9,
        "cpu_ticks_kernel": kernel * TICKS // 10**9,
        "cpu_ticks_user": user * TICKS // 10**9,
        "cpu_ticks_wait": 0,
        "intr": machine.now // 4_000_000,
        "pswitch": machine.now // 5_000_000 + busy // 100_000,
        "syscall": (machine.syscalls + machine.cpus - 1 - number) // machine.cpus,
        "trap": busy // 1_000_000,
        "xcalls": busy // 500_000,
    }


def sockets(cpus: int) -> int:
    """How many chips hold the node's processors."""
    return max(1, -(-cpus // CORES_PER_SOCKET))


def _cpu_info(machine: MachineView, number: int) -> dict[str, kstat.Value]:
    per_chip = -(-machine.cpus // sockets(machine.cpus))
    return {
        "brand": BRAND,
        "cache_id": number // per_chip,
        "chip_id": number // per_chip,
        "clock_MHz": CPU_MHZ,
        "clog_id": number % per_chip,
        "core_id": number,
        "cpu_type": "i386",
        "current_clock_Hz": CPU_MHZ * 10**6,
        "current_cstate": 1,
        "family": 6,
        "fpu_type": "i387 compatible",
        "implementation": f"x86 (GenuineIntel 306F2 family 6 model 63 step 2 clock {CPU_MHZ} MHz)",
        "model": 63,
        "ncore_per_chip": per_chip,
        "ncpu_per_chip": per_chip,
        "pg_id": 1,
        "pkg_core_id": number % per_chip,
        "socket_type": "Unknown",
        "state": "on-line",
        "state_begin": machine.booted,
        "stepping": 2,
        "supported_frequencies_Hz": str(CPU_MHZ * 10**6),
        "supported_max_cstates": 1,
        "vendor_id": "GenuineIntel",
    }


def _system_misc(machine: MachineView) -> dict[str, kstat.Value]:
    one, five, fifteen = machine.averages
    ticks = machine.now * TICKS // 10**9
    return {
        "avenrun_15min": fifteen,
        "avenrun_1min": one,
        "avenrun_5min": five,
        "boot_time": machine.booted,
        "clk_intr": ticks,
        "deficit": 0,
        "lbolt": ticks,
        "ncpus": machine.cpus,
        "nproc": machine.processes,
        "snaptime_tick": ticks,
        "vac": 0,
    }


def _system_pages(machine: MachineView) -> dict[str, kstat.Value]:
    total = (machine.memory_mib << 20) // PAGE
    cache = _arc_size(machine) // PAGE
    kernel = total // 16 + cache
    free = max(total // 64, total - kernel - machine.used // PAGE)
    return {
        "availrmem": max(total // 64, total - kernel),
        "desfree": total // 128,
        "freemem": free,
        "lotsfree": total // 64,
        "minfree": total // 256,
        "pagesfree": free,
        "pageslocked": kernel,
        "pagestotal": total,
        "physmem": total,
        "pp_kernel": kernel,
    }


def _arc_size(machine: MachineView) -> int:
    """The cache fills as blocks are read, to at most a quarter of the memory."""
    limit = machine.memory_mib << 18
    return min(limit, limit // 8 + machine.reads * 8192)


def _arc(machine: MachineView) -> dict[str, kstat.Value]:
    size = _arc_size(machine)
    misses = machine.reads // 20
    hits = machine.reads - misses
    limit = machine.memory_mib << 18
    none = "deleted evict_skip hash_collisions l2_hits l2_misses l2_size memory_throttle_count"
    return {
        **dict.fromkeys(none.split(), 0),
        "c": limit,
        "c_max": limit,
        "c_min": limit // 8,
        "demand_data_hits": hits - hits // 4,
        "demand_data_misses": misses,
        "demand_metadata_hits": hits // 4,
        "demand_metadata_misses": 0,
        "hits": hits,
        "mfu_hits": hits - hits // 3,
        "misses": misses,
        "mru_hits": hits // 3,
        "p": limit // 2,
        "size": size,
    }
