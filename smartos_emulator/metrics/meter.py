# SPDX-License-Identifier: Apache-2.0
"""Counters as exact integrals of rates over node time.

Rates are kept in millionths a second and times in nanoseconds, both whole numbers: what a counter
shows follows from the rates and the moments they changed at, to the last digit.
"""

import math
import random

MICRO = 10**6
NANO = 10**9

# What a load may set; everything else is derived. cpu: CPUs busy; cpu_wait: CPUs waited for;
# net_*, disk_*: bytes a second; *_ops, *_packets: a second; memory, swap: bytes.
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
    "tcp_opens",
    "tcp_retransmits",
)
LEVELS = ("memory", "swap")
KEYS = (*RATES, *LEVELS)

_PACKET = 800
_BLOCK = 8192
# CPU time in the kernel, in hundredths of what is used.
_KERNEL_SHARE = 30
_MINUTES = (1, 5, 15)


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
    }


class Meter:
    """The counters of one zone, from its boot on."""

    def __init__(self, start: int, profile: dict[str, float], cpus: float) -> None:
        self.start = start
        self.cpus = cpus
        self.busiest = 0
        self.above = 0
        self._at = start
        self._totals = dict.fromkeys(RATES, 0)
        self._averages = dict.fromkeys(_MINUTES, 0.0)
        self._profile = profile
        self._rates = self._settle()

    def change(self, now: int, profile: dict[str, float], cpus: float | None = None) -> None:
        """Count on with other rates from now on."""
        self.advance(now)
        self._profile = profile
        if cpus is not None:
            self.cpus = cpus
        self._rates = self._settle()

    def _settle(self) -> dict[str, int]:
        wanted = dict(self._profile)
        wanted.setdefault("net_rx_packets", wanted["net_rx"] / _PACKET)
        wanted.setdefault("net_tx_packets", wanted["net_tx"] / _PACKET)
        wanted.setdefault("disk_read_ops", wanted["disk_read"] / _BLOCK)
        wanted.setdefault("disk_write_ops", wanted["disk_write"] / _BLOCK)
        granted = min(wanted["cpu"], self.cpus)
        wanted["cpu_wait"] += wanted["cpu"] - granted
        wanted["cpu"] = granted
        rates = {key: round(wanted[key] * MICRO) for key in RATES}
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

    def nanoseconds(self, key: str) -> int:
        """How much time of CPUs so far."""
        return self._totals[key] // MICRO

    def cpu_time(self) -> tuple[int, int]:
        """Nanoseconds in user programs and in the kernel."""
        total = self.nanoseconds("cpu")
        kernel = total * _KERNEL_SHARE // 100
        return total - kernel, kernel

    def averages(self) -> tuple[int, ...]:
        """Load averages of 1, 5 and 15 minutes, in 256ths."""
        return tuple(int(256 * average) for average in self._averages.values())
