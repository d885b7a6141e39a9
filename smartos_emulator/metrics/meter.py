# SPDX-License-Identifier: Apache-2.0
"""Counters as exact integrals of rates over node time.

Rates are kept in millionths a second and times in nanoseconds, both whole numbers: what a counter
shows follows from the rates and the moments they changed at, to the last digit.
"""

import copy
import dataclasses
import math
import random

MICRO = 10**6
NANO = 10**9

# What a load may set; everything else is derived. cpu: CPUs busy; cpu_wait: CPUs waited for;
# net_*, disk_*: bytes a second; *_ops, *_packets, disk_delays: a second; memory, swap: bytes;
# net_internal, disk_sync: a part of one.
RATES = (
    "cpu",
    "cpu_wait",
    "net_rx",
    "net_tx",
    "net_rx_packets",
    "net_tx_packets",
    "disk_read",
    "disk_write",
    "disk_read_ops",
    "disk_write_ops",
    "disk_delays",
    "tcp_opens",
    "tcp_retransmits",
)
LEVELS = ("memory", "swap")
# How much of a counter is of one kind: traffic that stays inside, writes that are waited for.
SHARES = ("net_internal", "disk_sync")
KEYS = (*RATES, *LEVELS, *SHARES)

_SHARED = {
    "net_rx": "net_internal",
    "net_tx": "net_internal",
    "net_rx_packets": "net_internal",
    "net_tx_packets": "net_internal",
    "tcp_retransmits": "net_internal",
    "disk_write": "disk_sync",
    "disk_write_ops": "disk_sync",
}

_PACKET = 800
_BLOCK = 8192
# CPU time in the kernel, in hundredths of what is used.
_KERNEL_SHARE = 30
_MINUTES = (1, 5, 15)
# nanoseconds in user programs between two system calls
_SYSCALL = 20_000


def idle(seed: int, name: str) -> dict[str, float]:
    """What a guest does by itself."""
    dice = random.Random(f"{seed}/{name}")
    return {
        "cpu": dice.randint(2000, 9000) / MICRO,
        "cpu_wait": dice.randint(50, 400) / MICRO,
        "net_rx": float(dice.randint(60, 400)),
        "net_tx": float(dice.randint(40, 300)),
        "disk_read": float(dice.randint(100, 2000)),
        "disk_write": float(dice.randint(1000, 9000)),
        "tcp_opens": dice.randint(1, 20) / 1000,
        "tcp_retransmits": dice.randint(0, 5) / 1000,
        "memory": float(dice.randint(60 << 20, 180 << 20)),
        "swap": float(dice.randint(80 << 20, 240 << 20)),
        "disk_delays": dice.randint(0, 40) / 1000,
        "net_internal": dice.randint(10, 60) / 100,
        "disk_sync": dice.randint(5, 30) / 100,
    }


@dataclasses.dataclass(frozen=True)
class Steps:
    """How long things take that are counted: mostly little, seldom more, very seldom much more.

    The n-th takes `base` times the factor of the largest divisor that divides n, so that any
    number of them has one exact sum. The divisors divide one another.
    """

    base: int
    factors: tuple[tuple[int, int], ...]

    def counts(self, number: int) -> list[int]:
        """How many of the first `number` were of each kind."""
        dividing = [number // divisor for divisor, _ in self.factors]
        return [count - more for count, more in zip(dividing, [*dividing[1:], 0], strict=True)]

    def total(self, number: int) -> int:
        """What the first `number` took together."""
        return self.base * sum(
            count * factor
            for count, (_, factor) in zip(self.counts(number), self.factors, strict=True)
        )

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """How often which value, of those after `first` up to `last`."""
        found = []
        for before, after, (_, factor) in zip(
            self.counts(first), self.counts(last), self.factors, strict=True
        ):
            if after != before:
                found.append((after - before, self.base * factor))
        return found


class Pace:
    """How long a zone's operations take, which is its own."""

    def __init__(self, seed: int, name: str) -> None:
        dice = random.Random(f"{seed}/{name}/pace")
        # Nanoseconds. One in 512 takes more than 10 ms, one in 32,768 more than 100 ms.
        often = ((1, 1), (8, 10), (64, 100), (512, 1200), (32768, 12000))
        self.vfs_read = Steps(dice.randint(9_000, 14_000), often)
        often = ((1, 1), (8, 4), (64, 40), (512, 800), (32768, 8000))
        self.vfs_write = Steps(dice.randint(14_000, 20_000), often)
        # microseconds
        rare = ((1, 1), (4, 4), (64, 30), (1024, 200))
        self.disk_read = Steps(dice.randint(80, 160), rare)
        self.disk_write = Steps(dice.randint(40, 120), rare)
        self.delay = Steps(dice.randint(10, 60), ((1, 1), (4, 3), (32, 20)))
        # nanoseconds at a time
        self.burst = dice.randint(100_000, 900_000)
        self.wait = dice.randint(20_000, 90_000)
        self.capped = dice.randint(2_000_000, 9_000_000)


class Meter:
    """The counters of one zone, from its boot on."""

    def __init__(
        self, start: int, profile: dict[str, float], cpus: float, capped: bool = False
    ) -> None:
        self.start = start
        self.cpus = cpus
        self.capped = capped
        self.busiest = 0
        self.above = 0
        self._at = start
        self._totals = dict.fromkeys((*RATES, "cap_wait"), 0)
        self._averages = dict.fromkeys(_MINUTES, 0.0)
        self._profile = profile
        # of each counter with a share: the share, and what there was when it began to hold
        self._shares = {key: (_share(profile, name), 0, 0) for key, name in _SHARED.items()}
        self._rates = self._settle()

    def clone(self) -> "Meter":
        """A meter that counts on by itself from where this one stands."""
        twin = copy.copy(self)
        twin._totals = dict(self._totals)
        twin._averages = dict(self._averages)
        twin._shares = dict(self._shares)
        return twin

    def change(
        self,
        now: int,
        profile: dict[str, float],
        cpus: float | None = None,
        capped: bool | None = None,
    ) -> None:
        """Count on with other rates from now on."""
        self.advance(now)
        self._profile = profile
        if cpus is not None:
            self.cpus = cpus
        if capped is not None:
            self.capped = capped
        for key, name in _SHARED.items():
            self._shares[key] = (_share(profile, name), self.count(key), self.part(key))
        self._rates = self._settle()

    def _settle(self) -> dict[str, int]:
        wanted = dict(self._profile)
        wanted.setdefault("net_rx_packets", wanted["net_rx"] / _PACKET)
        wanted.setdefault("net_tx_packets", wanted["net_tx"] / _PACKET)
        wanted.setdefault("disk_read_ops", wanted["disk_read"] / _BLOCK)
        wanted.setdefault("disk_write_ops", wanted["disk_write"] / _BLOCK)
        granted = min(wanted["cpu"], self.cpus)
        above = wanted["cpu"] - granted
        wanted["cpu_wait"] += above
        wanted["cpu"] = granted
        rates = {key: round(wanted[key] * MICRO) for key in RATES}
        rates["cap_wait"] = min(round(above * MICRO), rates["cpu_wait"]) if self.capped else 0
        self.busiest = max(self.busiest, rates["cpu"])
        return rates

    def advance(self, now: int) -> None:
        """Count up to this moment."""
        passed = max(0, now - self._at)
        for key, rate in self._rates.items():
            self._totals[key] += rate * passed
        if self._profile["cpu"] > self.cpus:
            self.above += passed
        for minutes, average in self._averages.items():
            decay = math.exp(-passed / (minutes * 60 * NANO))
            load = (self._rates["cpu"] + self._rates["cpu_wait"]) / MICRO
            self._averages[minutes] = load + (average - load) * decay
        self._at = max(self._at, now)

    def rate(self, key: str) -> int:
        """How much a second right now, in millionths."""
        return self._rates[key]

    def level(self, key: str) -> int:
        """Memory in use."""
        return int(self._profile[key])

    def count(self, key: str) -> int:
        """How much so far."""
        return self._totals[key] // (MICRO * NANO)

    def part(self, key: str) -> int:
        """How much of a counter is of its kind: internal, or synchronous."""
        share, total, part = self._shares[key]
        return part + (self.count(key) - total) * share // MICRO

    def nanoseconds(self, key: str) -> int:
        """How much time of CPUs so far."""
        return self._totals[key] // MICRO

    def cpu_time(self) -> tuple[int, int]:
        """Nanoseconds in user programs and in the kernel."""
        total = self.nanoseconds("cpu")
        kernel = total * _KERNEL_SHARE // 100
        return total - kernel, kernel

    def syscalls(self) -> int:
        """System calls so far."""
        return self.cpu_time()[0] // _SYSCALL

    def averages(self) -> tuple[int, ...]:
        """Load averages of 1, 5 and 15 minutes, in 256ths."""
        return tuple(int(256 * average) for average in self._averages.values())


def _share(profile: dict[str, float], name: str) -> int:
    return round(profile.get(name, 0.0) * MICRO)
