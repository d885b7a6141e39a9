# SPDX-License-Identifier: Apache-2.0
"""Array.sort of the node's JavaScript engine: where a comparison is not a proper order, or
elements are equal, what comes out depends on how the engine sorts.
"""

import typing

T = typing.TypeVar("T")
# Positive when the first is to come later; None stands for NaN, which is neither more nor less.
Compare = typing.Callable[[T, T], int | None]

_SHORT = 10


def by(items: typing.Iterable[T], compare: Compare[T]) -> list[T]:
    """The items in the engine's order."""
    found = list(items)
    _sort(found, 0, len(found), compare)
    return found


def _after(one: T, other: T, compare: Compare[T]) -> bool:
    return (compare(one, other) or 0) > 0


def _sort(items: list[T], start: int, end: int, compare: Compare[T]) -> None:
    while end - start > _SHORT:
        low, high = _partition(items, start, end, compare)
        if end - high < low - start:
            _sort(items, high, end, compare)
            end = low
        else:
            _sort(items, start, low, compare)
            start = high
    for place in range(start + 1, end):
        item = items.pop(place)
        at = place
        while at > start and _after(items[at - 1], item, compare):
            at -= 1
        items.insert(at, item)


def _partition(items: list[T], start: int, end: int, compare: Compare[T]) -> tuple[int, int]:
    """Move what is less than a middling item before it, what is more behind; the bounds."""
    middle = start + (end - start) // 2
    least, pivot, most = _three(items[start], items[end - 1], items[middle], compare)
    items[start], items[end - 1] = least, most
    low, high = start + 1, end - 1
    items[middle], items[low] = items[low], pivot
    at = low + 1
    while at < high:
        order = compare(items[at], pivot) or 0
        if order > 0:
            high -= 1
            while high > at and _after(items[high], pivot, compare):
                high -= 1
            if high == at:
                break
            items[at], items[high] = items[high], items[at]
            order = compare(items[at], pivot) or 0
        if order < 0:
            items[at], items[low] = items[low], items[at]
            low += 1
        at += 1
    return low, high


def _three(first: T, last: T, middle: T, compare: Compare[T]) -> tuple[T, T, T]:
    if _after(first, last, compare):
        first, last = last, first
    if (order := compare(first, middle)) is not None and order >= 0:
        return middle, first, last
    if _after(last, middle, compare):
        return first, middle, last
    return first, last, middle
