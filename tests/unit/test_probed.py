# SPDX-License-Identifier: Apache-2.0
"""Numbers of D scripts, given to the zones that they were counted of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")

from ceilometer_plugin import collection, consumer, ledger, probed, roster

SECOND = 10**9


def frame(
    seconds: int,
    values: Mapping[consumer.Key, int],
    script: str = "zone_net",
    run: str = "run1",
    **more: Any,
) -> consumer.Frame:
    return consumer.Frame(script, seconds * SECOND, 0, values, more.get("distributions", {}), run)


def zone(name: str) -> collection.Zone:
    member = roster.Member(name, name, name, "joyent", True, None, {}, 64, (), {})
    return collection.Zone(member, {}, {})


def collected(
    *frames: consumer.Frame,
    zones: Mapping[int, tuple[str, int]],
    others: tuple[str, ...] = (),
    boot: int = 0,
) -> collection.Collected:
    """A node with these zones, some not Nova's: by id, the name and when it began."""
    return collection.Collected(
        server_uuid="node",
        wall_ns=0,
        read_ns=max(each.hrtime_ns for each in frames),
        boot=boot,
        members={},
        zones={name: zone(name) for name, _ in zones.values() if name not in others},
        zone_ids={number: (name, born * SECOND) for number, (name, born) in zones.items()},
        usage={},
        frames=frames,
    )


class Book:
    """Accounts without a disk."""

    def __init__(self) -> None:
        self.accounts: dict[str, ledger.Account] = {}
        self.numbers = probed.Numbers()

    def enter(self, found: collection.Collected) -> None:
        for uuid, reading in self.numbers.readings(found):
            account = self.accounts.setdefault(uuid, ledger.Account(uuid))
            account.note(dataclasses.replace(reading, wall_ns=reading.read_ns))

    def total(self, uuid: str, number: str, script: str = "zone_net") -> int | None:
        sums = self.accounts[uuid].totals().get(("", f"dtrace.{script}"), {})
        return sums.get(number)


def bytes_in(zone_id: int, count: int) -> dict[consumer.Key, int]:
    return {("bytes", str(zone_id), "external", "in"): count}


NAME = "bytes|external|in"


def test_what_a_zone_id_counted_before_is_the_zones_that_had_it() -> None:
    book = Book()
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={7: ("a", 1)}))
    # a is gone, and b has its id
    book.enter(collected(frame(30, bytes_in(7, 800)), zones={7: ("b", 20)}))
    book.enter(collected(frame(40, bytes_in(7, 900)), zones={7: ("b", 20)}))
    assert book.total("a", NAME) == 500
    assert book.total("b", NAME) == 100


def test_a_zone_that_is_gone_has_what_it_counted_to_its_end() -> None:
    book = Book()
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={7: ("a", 1)}))
    # the frame is as old as the look at the zones: its last events may not be in it
    book.enter(collected(frame(40, bytes_in(7, 700)), zones={}))
    assert book.total("a", NAME) == 700
    book.enter(collected(frame(70, bytes_in(7, 720)), zones={}))
    assert book.total("a", NAME) == 720
    # by now all was told, and a zone that is no longer known gets no more
    book.enter(collected(frame(99, bytes_in(7, 999)), zones={}))
    assert book.total("a", NAME) == 720


def test_a_zone_that_boots_has_what_it_counted_before() -> None:
    book = Book()
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={7: ("a", 1)}))
    book.enter(collected(frame(40, bytes_in(7, 700) | bytes_in(8, 3)), zones={8: ("a", 30)}))
    assert book.total("a", NAME) == 703


def test_a_zone_that_only_a_final_reading_knows_has_what_it_counted() -> None:
    book = Book()
    book.enter(collected(frame(10, {}), zones={}))
    book.numbers.meet(zone("brief").member, 7, 15 * SECOND, 0)
    # of another boot of the node
    book.numbers.meet(zone("other").member, 8, 15 * SECOND, 1)
    values = bytes_in(7, 40) | bytes_in(8, 50)
    book.enter(collected(frame(40, values), zones={}))
    assert book.total("brief", NAME) == 40
    assert "other" not in book.accounts


def test_the_last_words_before_the_node_came_up_anew_are_of_its_old_zones() -> None:
    book = Book()
    book.enter(collected(frame(1000, bytes_in(7, 500)), zones={7: ("a", 1)}))
    # the run ended with the node, and what it said last is read after that
    last = frame(1030, bytes_in(7, 700))
    book.enter(collected(last, frame(9, bytes_in(7, 2), run="r2"), zones={7: ("b", 5)}, boot=1))
    book.enter(collected(frame(20, bytes_in(7, 4), run="r2"), zones={7: ("b", 5)}, boot=1))
    assert (book.total("a", NAME), book.total("b", NAME)) == (700, 4)


def test_what_nobodys_zone_counted_is_not_the_next_ones() -> None:
    book = Book()
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={7: ("x", 1)}, others=("x",)))
    book.enter(collected(frame(40, bytes_in(7, 800)), zones={7: ("b", 30)}))
    book.enter(collected(frame(70, bytes_in(7, 900)), zones={7: ("b", 30)}))
    assert book.total("b", NAME) == 100


def test_what_an_unseen_zone_counted_is_not_the_next_ones() -> None:
    book = Book()
    # it came and went between two looks
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={}))
    book.enter(collected(frame(40, bytes_in(7, 800)), zones={7: ("b", 30)}))
    book.enter(collected(frame(70, bytes_in(7, 900)), zones={7: ("b", 30)}))
    assert book.total("b", NAME) == 100
    # but one that the frame saw before we did has its own
    book.enter(collected(frame(95, bytes_in(9, 5)), zones={7: ("b", 30)}))
    book.enter(collected(frame(120, bytes_in(9, 8)), zones={7: ("b", 30), 9: ("c", 92)}))
    assert book.total("c", NAME) == 8


def test_a_new_run_adds_to_the_total_and_a_late_frame_of_the_old_one_too() -> None:
    book = Book()
    zones = {7: ("a", 1)}
    book.enter(collected(frame(10, bytes_in(7, 500)), zones=zones))
    last, new = frame(20, bytes_in(7, 600)), frame(21, bytes_in(7, 5), run="run2")
    book.enter(collected(last, new, zones=zones))
    assert book.total("a", NAME) == 605


def test_a_frame_from_before_a_zone_is_not_its_own() -> None:
    book = Book()
    book.enter(collected(frame(10, bytes_in(7, 500)), zones={7: ("b", 20)}))
    assert book.accounts == {}


def test_a_zone_of_which_nothing_is_told_has_had_none() -> None:
    book = Book()
    book.enter(collected(frame(10, {}), zones={7: ("a", 1)}))
    assert book.total("a", NAME) == 0


def test_a_distribution_is_counted_below_its_bounds() -> None:
    buckets = {0: 1, 8: 2, 16: 4, 64: 8, 128: 16, 2**30: 32}
    book = Book()
    distributions = {("us", "7", "1"): buckets}
    book.enter(
        collected(frame(10, {}, "zone_io", distributions=distributions), zones={7: ("a", 1)})
    )
    assert book.total("a", "us|1<16", "zone_io") == 3
    assert book.total("a", "us|1<128", "zone_io") == 15
    assert book.total("a", "us|1<1024", "zone_io") == 31
    assert book.total("a", "us|2<1024", "zone_io") == 0


def test_scripts_that_know_zones_by_name_are_understood() -> None:
    book = Book()
    values = {("calls", "a"): 9, ("errors", "a", "2"): 3, ("errors", "a", "5"): 4}
    book.enter(collected(frame(10, values, "zone_syscall"), zones={7: ("a", 1)}))
    assert book.total("a", "calls", "zone_syscall") == 9
    assert book.total("a", "errors|*", "zone_syscall") == 7


def test_scripts_that_know_zones_by_name_count_on_when_one_boots() -> None:
    book = Book()
    book.enter(collected(frame(10, {("calls", "a"): 500}, "zone_syscall"), zones={7: ("a", 1)}))
    # it has another id now, and dtrace has not noticed
    book.enter(collected(frame(30, {("calls", "a"): 600}, "zone_syscall"), zones={9: ("a", 20)}))
    assert book.total("a", "calls", "zone_syscall") == 600
