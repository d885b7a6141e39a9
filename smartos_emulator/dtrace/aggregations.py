# SPDX-License-Identifier: Apache-2.0
"""Aggregations: how they grow, how they are ordered, and how dtrace draws them."""

import collections.abc
import dataclasses
import functools
import typing

from smartos_emulator.dtrace import types

Key = tuple[int | str, ...]
_WIDTH = 40
_HEADER = f"\n{'value':>16} {'------------- Distribution -------------':>41} {'count':<9}\n"
_LAST_BUCKET = 2**63


@dataclasses.dataclass
class Aggregation:
    """One of a program's aggregations and what it has gathered."""

    name: str
    function: str
    parameters: tuple[int, ...]
    keys: tuple[types.Type, ...]
    line: int
    data: dict[Key, typing.Any] = dataclasses.field(default_factory=dict)
    normal: int = 1
    printed: bool = False

    @property
    def is_distribution(self) -> bool:
        return self.function.endswith("quantize")

    def number(self, key: Key) -> int:
        """The value, as one number: what is printed, or what a distribution is ordered by."""
        value = self.data[key]
        if self.is_distribution:
            return sum(bucket * count for bucket, count in value.items())
        if self.function == "avg":
            return _quotient(_quotient(value[1], self.normal), value[0]) if value[0] else 0
        if self.function == "stddev":
            return _deviation(value[0], value[1], value[2], self.normal)
        return _signed(value)

    def shown(self, key: Key) -> int:
        """The value as printf shows it."""
        if self.function in ("avg", "stddev"):
            return self.number(key)
        return _quotient(self.number(key), self.normal)

    def clear(self) -> None:
        """Keep the keys, forget the values."""
        for key, value in self.data.items():
            self.data[key] = {} if self.is_distribution else _zeros(value)

    def trunc(self, keep: int, sort: "Sort") -> None:
        """Keep so many of the greatest values, of the smallest if it is negative."""
        ordered = list(sort.values(self))
        left = ordered[len(ordered) - keep :] if keep > 0 else ordered[: -keep or 0]
        self.data = {key: self.data[key] for key in left[: len(ordered)]} if keep else {}

    def drawn(self, key: Key) -> str:
        """The table of a distribution."""
        buckets = {low: count for low, count in self.data[key].items() if count}
        if self.function == "quantize":
            rows = _power_rows(buckets)
        elif self.function == "lquantize":
            rows = _linear_rows(buckets, *self.parameters[:3])
        else:
            rows = _log_linear_rows(buckets, *self.parameters[:4])
        return _HEADER + _lines(rows, self.normal)


@dataclasses.dataclass(frozen=True)
class Sort:
    """The order in which values are printed."""

    by_key: bool = False
    reverse: bool = False
    key_position: int = 0

    def keys(self, of: Aggregation) -> list[Key]:
        """The keys as printa goes through them."""
        if not self.by_key:
            return self.values(of)
        return sorted(of.data, key=self._rotated, reverse=self.reverse)

    def values(self, of: Aggregation) -> list[Key]:
        """The keys by their values, then by themselves."""

        def order(key: Key) -> tuple[int, Key]:
            return of.number(key), self._rotated(key)

        return sorted(of.data, key=order, reverse=self.reverse)

    def _rotated(self, key: Key) -> Key:
        at = self.key_position if self.key_position < len(key) else 0
        return key[at:] + key[:at]


def quantize(data: dict[Key, dict[int, int]], key: Key, value: int, weight: int) -> None:
    """Count a value in its power of two."""
    low = 0
    if value:
        low = 1 << (abs(value).bit_length() - 1)
        low = low if value > 0 else -low
    buckets = data.get(key)
    if buckets is None:
        buckets = data[key] = {}
    buckets[low] = buckets.get(low, 0) + weight


def lquantize(
    data: dict[Key, dict[int, int]], key: Key, value: int, weight: int, parameters: tuple[int, ...]
) -> None:
    """Count a value in its step; one below the base stands for all that is less."""
    base, limit, step = parameters[:3]
    levels = (limit - base) // step
    at = (value - base) // step
    low = base + min(max(at, -1), levels) * step
    buckets = data.setdefault(key, {})
    buckets[low] = buckets.get(low, 0) + weight


def llquantize(
    data: dict[Key, dict[int, int]], key: Key, value: int, weight: int, parameters: tuple[int, ...]
) -> None:
    """Count a value in its step of its order of magnitude."""
    lows = _log_linear_lows(*parameters[:4])
    low = -1
    for each in lows:
        if value >= each:
            low = each
    buckets = data.setdefault(key, {})
    buckets[low] = buckets.get(low, 0) + weight


def average(data: dict[Key, list[int]], key: Key, value: int, weight: int) -> None:
    """Count and add up."""
    so_far = data.setdefault(key, [0, 0])
    so_far[0] += weight
    so_far[1] += value * weight


def deviation(data: dict[Key, list[int]], key: Key, value: int, weight: int) -> None:
    """Count, add up, and add up the squares."""
    so_far = data.setdefault(key, [0, 0, 0])
    so_far[0] += weight
    so_far[1] += value * weight
    so_far[2] += value * value * weight


def _power_rows(buckets: dict[int, int]) -> list[tuple[str, int]]:
    lows = _powers()
    if not buckets:
        return [(str(low), 0) for low in (-1, 0, 1)]
    first = max(0, lows.index(min(buckets)) - 1)
    last = min(len(lows) - 1, lows.index(max(buckets)) + 1)
    return [(str(low), buckets.get(low, 0)) for low in lows[first : last + 1]]


@functools.cache
def _powers() -> list[int]:
    powers = [1 << place for place in range(63)]
    return [*(-power for power in reversed(powers)), 0, *powers]


def _linear_rows(
    buckets: dict[int, int], base: int, limit: int, step: int
) -> list[tuple[str, int]]:
    levels = (limit - base) // step
    lows = [base + place * step for place in range(-1, levels + 1)]
    names = [f"< {base}", *(str(low) for low in lows[1:-1]), f">= {lows[-1]}"]
    return _between(buckets, lows, names, 3)


def _log_linear_rows(
    buckets: dict[int, int], factor: int, low: int, high: int, steps: int
) -> list[tuple[str, int]]:
    lows = [-1, *_log_linear_lows(factor, low, high, steps)]
    names = [f"< {lows[1]}", *(str(each) for each in lows[1:-1]), f">= {lows[-1]}"]
    return _between(buckets, lows, names, 2)


@functools.cache
def _log_linear_lows(factor: int, low: int, high: int, steps: int) -> list[int]:
    """Where the buckets begin; the last one has no end."""
    value = factor**low
    following = value * factor
    found = []
    order = low
    step = following // steps if following > steps else 1
    while order <= high:
        found.append(value)
        value += step
        if value == following:
            following = value * factor
            step = following // steps if following > steps else 1
            order += 1
    return [*found, value]


def _between(
    buckets: dict[int, int], lows: list[int], names: list[str], empty: int
) -> list[tuple[str, int]]:
    """The rows from one before the first that counts to one after the last."""
    rows = [(name, buckets.get(low, 0)) for name, low in zip(names, lows, strict=True)]
    used = [at for at, (_, count) in enumerate(rows) if count]
    if not used:
        return rows[:empty]
    return rows[max(0, used[0] - 1) : used[-1] + 2]


def _lines(rows: collections.abc.Sequence[tuple[str, int]], normal: int) -> str:
    total = sum(abs(count) for _, count in rows)
    positive = any(count > 0 for _, count in rows)
    negative = any(count < 0 for _, count in rows)
    return "".join(
        f"{name:>16} {_bar(count, total, positive, negative)} {_quotient(count, normal):<9}\n"
        for name, count in rows
    )


def _bar(count: int, total: int, positive: bool, negative: bool) -> str:
    if not negative:
        depth = _depth(count, _WIDTH, total) if positive else 0
        return "|" + "@" * depth + " " * (_WIDTH - depth)
    if not positive:
        depth = _depth(count, _WIDTH, total)
        return " " * (_WIDTH - depth) + "@" * depth + "|"
    half = _WIDTH // 2
    depth = _depth(count, half, total)
    ats, spaces = "@" * depth, " " * (half - depth)
    return f"{spaces}{ats}|{' ' * half}" if count <= 0 else f"{' ' * half}|{ats}{spaces}"


def _depth(count: int, width: int, total: int) -> int:
    return (2 * abs(count) * width + total) // (2 * total)


def _zeros(value: int | list[int]) -> int | list[int]:
    return [0] * len(value) if isinstance(value, list) else 0


def _signed(value: int) -> int:
    return (value + types.HALF & types.MASK) - types.HALF


def _quotient(value: int, by: int) -> int:
    """Divide as C does, towards zero."""
    return value // by if value >= 0 else -(-value // by)


def _deviation(count: int, total: int, squares: int, normal: int) -> int:
    if not count:
        return 0
    mean = _quotient(_quotient(total, normal), count)
    spread = squares // count // normal // normal - mean * mean
    return int(max(0, spread) ** 0.5)
