# SPDX-License-Identifier: Apache-2.0
"""The ledger: totals that follow from readings, in whatever order, number and life they come."""

import json
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceilometer_plugin import ledger

UUID = "11111111-2222-4333-8444-555555555555"
SECOND = 10**9


def a_reading(value: int, at: int, *, epoch: str = "a", **more: Any) -> ledger.Reading:
    """Counter `n` of one boot, `at` seconds after it; boot "b" comes 1000 s after boot "a"."""
    since = {"a": 0, "b": 1000, "c": 2000}[epoch]
    values: dict[str, Any] = {
        "key": f"node/zones/{epoch}",
        "resource": "",
        "source": ledger.GAPS_OF,
        "vm": UUID,
        "node": "node",
        "boot": 1,
        "born_ns": since * SECOND,
        "read_ns": (since + at) * SECOND,
        "wall_ns": (since + at + 5000) * SECOND,
        "values": {"n": value},
    }
    return ledger.Reading(**{**values, **more})


def total(account: ledger.Account, name: str = "n") -> int:
    return account.totals().get(("", ledger.GAPS_OF), {}).get(name, 0)


def an_account(*found: ledger.Reading) -> ledger.Account:
    account = ledger.Account(UUID)
    for each in found:
        account.note(each)
    return account


def test_a_total_is_the_sum_over_boots() -> None:
    account = an_account(a_reading(7, 10), a_reading(20, 60), a_reading(3, 5, epoch="b"))
    assert total(account) == 23


def test_a_reading_that_comes_late_or_twice_is_counted_once() -> None:
    late = a_reading(25, 90)
    account = an_account(a_reading(20, 60), a_reading(3, 5, epoch="b"), late, late)
    assert total(account) == 28
    account.note(a_reading(20, 60))
    assert total(account) == 28


def test_what_was_there_before_the_ledger_does_not_count() -> None:
    account = an_account(a_reading(100, 10, start=None), a_reading(130, 20))
    assert total(account) == 30
    assert account.partial


def test_a_counter_that_goes_back_is_an_anomaly_and_no_negative_use() -> None:
    account = an_account(a_reading(100, 10), a_reading(40, 20))
    assert (total(account), account.anomalies) == (100, 1)
    account.note(a_reading(110, 30))
    assert (total(account), account.anomalies) == (110, 1)


def test_a_counter_of_32_bits_goes_on_after_its_end() -> None:
    narrow = frozenset({"n"})
    account = an_account(
        a_reading(2**32 - 5, 10, narrow=narrow),
        a_reading(7, 20, narrow=narrow),
        a_reading(2**31, 30, narrow=narrow),
    )
    assert total(account) == 2**32 + 2**31
    assert account.anomalies == 0


def test_numbers_past_53_bits_stay_exact() -> None:
    assert total(an_account(a_reading(2**63 + 1, 10), a_reading(2**64 - 1, 20))) == 2**64 - 1


def test_the_time_between_a_boots_last_reading_and_its_end_is_told() -> None:
    account = an_account(a_reading(7, 100))
    assert account.gap_ns == 0
    account.note(a_reading(1, 10, epoch="b"))
    assert account.gap_ns == 900 * SECOND
    account.note(a_reading(9, 990))
    assert account.gap_ns == 10 * SECOND


def test_an_instance_that_is_down_uses_nothing() -> None:
    account = an_account(a_reading(7, 100))
    account.end(UUID, "node", (5000 + 103) * SECOND)
    account.end(UUID, "node", (5000 + 900) * SECOND)
    assert account.gap_ns == 3 * SECOND
    account.note(a_reading(1, 10, epoch="b"))
    assert account.gap_ns == 3 * SECOND


def test_a_node_that_was_only_thought_to_be_down_leaves_no_gap() -> None:
    account = an_account(a_reading(7, 100))
    account.end(UUID, "node", (5000 + 103) * SECOND)
    account.note(a_reading(8, 200))
    assert account.gap_ns == 0


def test_a_reboot_of_the_node_is_measured_by_the_clock_on_the_wall() -> None:
    # its clock since the boot begins anew
    after = a_reading(
        1, 0, epoch="b", boot=2, born_ns=20 * SECOND, read_ns=50 * SECOND, wall_ns=5400 * SECOND
    )
    account = an_account(a_reading(7, 100), after)
    assert account.gap_ns == (5370 - 5100) * SECOND


def test_what_a_boot_held_at_its_end_counts_in_whatever_order_it_comes() -> None:
    early, late = a_reading(7, 10, start={"n": 2}), a_reading(9, 20)
    for found in ([early, late, None], [early, None, late]):
        account = ledger.Account(UUID)
        for each in found:
            if each is None:
                account.finish("node/zones/", 30 * SECOND, {"n": 12, "unknown": 5})
            else:
                account.note(each)
        account.note(a_reading(1, 5, epoch="b"))
        # of another life, which only began later
        account.finish("node/zones/b", 999 * SECOND, {"n": 100})
        assert account.totals() == {("", ledger.GAPS_OF): {"n": 12 - 2 + 1}}
        assert account.anomalies == 0
        kept = ledger._account(UUID, json.loads(json.dumps(ledger._document(account))))
        assert kept == account


def test_an_end_is_of_the_last_that_had_the_id() -> None:
    account = an_account(
        a_reading(7, 10, key="node/7/first"), a_reading(3, 5, epoch="b", key="node/7/second")
    )
    account.finish("node/7/", 2000 * SECOND, {"n": 100})
    assert (total(account), account.anomalies) == (107, 0)


def test_an_end_that_is_less_than_what_was_read_is_an_anomaly() -> None:
    account = an_account(a_reading(7, 10))
    account.finish("node/zones/", 30 * SECOND, {"n": 6})
    assert (total(account), account.anomalies) == (7, 1)


def test_nics_and_sources_are_summed_apart() -> None:
    account = an_account(
        a_reading(7, 10),
        a_reading(5, 10, key="l1", resource="mac1", source="link"),
        a_reading(6, 10, key="l2", resource="mac2", source="link"),
    )
    assert account.totals() == {
        ("", ledger.GAPS_OF): {"n": 7},
        ("mac1", "link"): {"n": 5},
        ("mac2", "link"): {"n": 6},
    }
    assert account.gap_ns == 0


def test_a_reboot_of_the_node_is_told_by_the_node_and_not_by_its_clock() -> None:
    """It has run longer than before: by its clock the new boot came after the last reading."""
    times = {"born_ns": 900 * SECOND, "read_ns": 950 * SECOND, "wall_ns": 185_000 * SECOND}
    after = a_reading(1, 0, epoch="b", boot=2, **times)
    account = an_account(a_reading(7, 100), after)
    assert account.gap_ns == (185_000 - 50 - 5100) * SECOND


def test_another_vm_that_is_down_ends_nothing() -> None:
    account = an_account(a_reading(7, 100))
    account.end("the rescued one", "node", 5103 * SECOND)
    account.note(a_reading(8, 900))
    assert (account.gap_ns, total(account)) == (0, 8)


def test_old_boots_are_summed_up_and_nothing_changes() -> None:
    account = ledger.Account(UUID)
    for number in range(100):
        account.note(a_reading(number, 1, key=f"boot{number}", boot=number))
    assert len(account.epochs) == 32
    assert total(account) == sum(range(100))
    # one of them goes on, of which too little is better than all of it again
    account.note(a_reading(50, 900, key="boot3", boot=3))
    assert (total(account), account.anomalies) == (sum(range(100)), 1)


def test_hourly_runs_of_dtrace_do_not_pile_up() -> None:
    account = ledger.Account(UUID)
    for number in range(1000):
        account.note(a_reading(5, 1, key=f"run{number}", source="dtrace.zone_io"))
    assert len(account.epochs) == 3
    assert account.totals()["", "dtrace.zone_io"] == {"n": 5000}
    assert account.settled_keys == set()


def test_a_clock_that_is_ahead_freezes_nothing() -> None:
    ahead = a_reading(7, 100, wall_ns=10**9 * SECOND)
    account = an_account(ahead, a_reading(9, 10, epoch="b"))
    assert total(account) == 16


def test_the_first_moment_of_a_total_is_fixed_once() -> None:
    account = an_account(a_reading(7, 100))
    account.bear(5100 * SECOND)
    first = dict(account.births)
    assert first == {("", ledger.GAPS_OF): 5100 * SECOND - ledger.MOMENT_NS}
    account.note(a_reading(8, 200))
    account.bear(5200 * SECOND)
    assert account.births == first
    account.announce()
    account.note(a_reading(1, 1, epoch="b"))
    account.bear(6001 * SECOND)
    assert account.births == {}


def test_a_counter_of_32_bits_that_goes_back_has_not_gone_round() -> None:
    narrow = frozenset({"n"})
    account = an_account(a_reading(100, 10, narrow=narrow), a_reading(99, 20, narrow=narrow))
    assert (total(account), account.anomalies) == (100, 1)


# On the disk


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "ledger.sqlite"


def test_what_was_committed_is_there_again(path: pathlib.Path) -> None:
    book = ledger.Ledger(path)
    book.account(UUID).note(a_reading(7, 10))
    book.account(UUID).owner = {"project_id": "p"}
    book.facts["node/x"] = {"since_ns": 5}
    book.commit(["one"])
    book.close()
    again = ledger.Ledger(path)
    assert total(again.accounts[UUID]) == 7
    assert again.accounts[UUID] == book.accounts[UUID]
    assert again.facts == {"node/x": {"since_ns": 5}}
    assert again.is_taken("one")
    again.untake(["one"])
    again.forget(UUID)
    again.commit()
    again.close()
    last = ledger.Ledger(path)
    assert (last.accounts, last.is_taken("one")) == ({}, False)
    last.close()


def test_one_agent_has_it(path: pathlib.Path) -> None:
    book = ledger.Ledger(path)
    with pytest.raises(ledger.Busy, match="another polling agent"):
        ledger.Ledger(path)
    book.close()
    ledger.Ledger(path).close()


def test_what_cannot_be_written_is_written_with_the_next_commit(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = ledger.Ledger(path)
    book.account(UUID).note(a_reading(7, 10))
    real = book._database
    monkeypatch.setattr(book, "_database", Full(real))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        book.commit(["one"])
    assert not book.is_taken("one")
    monkeypatch.setattr(book, "_database", real)
    book.commit(["one"])
    book.close()
    again = ledger.Ledger(path)
    assert total(again.accounts[UUID]) == 7
    again.close()


# what a polling agent does in each cycle: note, commit, tell
_AGENT = """
import pathlib, sys
from ceilometer_plugin import ledger
from tests.unit import test_ledger as here
book = ledger.Ledger(pathlib.Path(sys.argv[1]))
value = here.total(book.account(here.UUID))
while True:
    value += 1
    book.account(here.UUID).note(here.a_reading(value, value))
    book.commit([f"{value}.json"])
    print(value, flush=True)
"""


def test_what_an_agent_has_told_is_there_after_it_was_killed(path: pathlib.Path) -> None:
    for cycles in (1, 2, 5, 9):
        words = [sys.executable, "-c", _AGENT, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as agent:
            assert agent.stdout is not None
            told = [agent.stdout.readline() for _ in range(cycles)]
            # wherever it is
            agent.kill()
            told += agent.stdout.readlines()
        last = int([line for line in told if line.endswith("\n")][-1])
        book = ledger.Ledger(path)
        assert total(book.accounts[UUID]) in (last, last + 1)
        assert book.is_taken(f"{last}.json")
        book.close()


class Full:
    """A database on a disk without room: it fails as the last word is written."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def execute(self, text: str) -> Any:
        if text == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._database.execute(text)


# Histories

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(1, 2**40)),
        st.tuples(st.just("poll"), st.just(0)),
        st.tuples(st.just("repeat"), st.integers(0, 5)),
        st.tuples(st.just("final"), st.just(0)),
        st.tuples(st.just("deliver"), st.just(0)),
        st.tuples(st.just("boot"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_no_history_makes_a_total_wrong(steps: list[tuple[str, int]]) -> None:
    """The total is what each boot had used at its newest reading that came through."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "ledger.sqlite"
        book = ledger.Ledger(path)
        boot, used, shown = 0, 0, 0
        sent: list[ledger.Reading] = []
        spool: list[ledger.Reading] = []
        known: dict[str, int] = {}
        for clock, (step, number) in enumerate(steps):
            now = a_reading(used, 0, key=f"boot{boot}", read_ns=clock, wall_ns=clock, born_ns=0)
            if step == "use":
                used += number
            elif step == "boot":
                boot, used = boot + 1, 0
            elif step == "final":
                spool.append(now)
            elif step == "kill":
                # whatever was not committed is gone, and the spool is read again
                book.close()
                book = ledger.Ledger(path)
            else:
                if step == "repeat":
                    found = sent[-number - 1 : -number or None]
                elif step == "deliver":
                    found = [*spool, *spool]
                else:
                    found = [now]
                for each in found:
                    book.account(UUID).note(each)
                    known[each.key] = max(known.get(each.key, 0), each.values["n"])
                book.commit()
                sent += found
            account = book.accounts.get(UUID, ledger.Account(UUID))
            assert total(account) == sum(known.values()) >= shown
            assert account.anomalies == 0
            shown = total(account)
        book.close()
