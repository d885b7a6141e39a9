# SPDX-License-Identifier: Apache-2.0
"""Which instances Nova is asked for to tell their guests of changes, and how often all are."""

import datetime
import functools
import time
import types
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from oslo_utils import timeutils

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import objects

    from nova_smartos.operations import guest

HOUR = datetime.timedelta(hours=1)


class Nova:
    """The instances of a host, when they were last written, and how many were read."""

    def __init__(self) -> None:
        now = timeutils.utcnow(with_timezone=True)
        self.written: dict[str, datetime.datetime | None] = {
            f"vm{number}": now - number * HOUR for number in range(2, 100)
        }
        self.written["new"] = None
        self.read: list[int] = []
        self.broken = False

    def get_by_filters(self, context: Any, filters: Any, **asked: Any) -> list[Any]:
        if self.broken:
            raise TimeoutError("no conductor")
        oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        names = sorted(self.written, key=lambda name: self.written[name] or oldest, reverse=True)
        names = names[: asked.get("limit")]
        self.read.append(len(names))
        return [types.SimpleNamespace(uuid=n, updated_at=self.written[n]) for n in names]

    def write(self, *names: str) -> None:
        self.written |= dict.fromkeys(names, timeutils.utcnow(with_timezone=True))


@pytest.fixture
def nova() -> Iterator[Nova]:
    nova = Nova()
    with mock.patch.object(objects.InstanceList, "get_by_filters", nova.get_by_filters):
        yield nova


def seen(latest: guest.Latest) -> set[str]:
    return {each.uuid for each in latest.instances()}


def test_all_are_read_at_first_and_then_the_latest(nova: Nova) -> None:
    latest = guest.Latest()
    assert seen(latest) == set(nova.written)
    assert seen(latest) == set()
    nova.write("vm7", "new")
    assert seen(latest) == {"vm7", "new"}
    assert nova.read == [99, 50, 50]


def test_all_are_read_when_more_have_changed_than_are_asked_for(nova: Nova) -> None:
    latest = guest.Latest()
    latest.instances()
    nova.write(*(f"vm{number}" for number in range(2, 60)))
    assert seen(latest) == set(nova.written)


def test_a_clock_that_is_late(nova: Nova) -> None:
    """What was written just after the last look may seem to have been before."""
    latest = guest.Latest()
    latest.instances()
    nova.written["vm5"] = timeutils.utcnow(with_timezone=True) - datetime.timedelta(seconds=90)
    assert seen(latest) == {"vm5"}


def test_all_are_read_again_after_ten_minutes(nova: Nova) -> None:
    latest = guest.Latest()
    latest.instances()
    later = functools.partial(lambda real: real() + 601, time.monotonic)
    with mock.patch("time.monotonic", later):
        assert seen(latest) == set(nova.written)


def test_a_look_that_failed_was_none(nova: Nova) -> None:
    latest = guest.Latest()
    latest.instances()
    looked = latest._looked
    nova.broken = True
    with pytest.raises(TimeoutError):
        latest.instances()
    assert latest._looked == looked
