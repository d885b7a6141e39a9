# SPDX-License-Identifier: Apache-2.0
"""The queue for channels, with connections that are not real."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import paramiko
import pytest

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import connection as connections
from nova_smartos.smartos.transport import pool as pools
from tests import waits

WAIT = 20.0


class FakeWire:
    def __init__(self) -> None:
        self.active = True

    def is_active(self) -> bool:
        return self.active

    def close(self) -> None:
        self.active = False


class Node:
    """Hands out connections, or errors while there are any in `failures`."""

    def __init__(self) -> None:
        self.made: list[connections.Connection] = []
        self.failures: list[errors.NotStarted] = []
        self.attempts = 0

    def connect(self) -> connections.Connection:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.made.append(connections.Connection(cast(Any, FakeWire())))
        return self.made[-1]


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def make(node: Node) -> Iterator[Callable[..., pools.Pool]]:
    made: list[pools.Pool] = []

    def factory(most: int = 2, patience: float = 5.0) -> pools.Pool:
        made.append(pools.Pool(node.connect, most=most, patience=patience))
        return made[-1]

    yield factory
    for pool in made:
        pool.close()


Make = Callable[..., pools.Pool]


def test_the_first_command_opens_a_connection(node: Node, make: Make) -> None:
    pool = make()
    assert node.attempts == 0
    first, second = pool.acquire(WAIT), pool.acquire(WAIT)
    assert first is second is node.made[0]
    assert node.attempts == 1


def test_more_work_opens_more_connections_up_to_the_limit(node: Node, make: Make) -> None:
    pool = make(most=2)
    held = [pool.acquire(WAIT) for _ in range(2 * connections.CHANNELS)]
    assert len(node.made) == 2
    assert [connection.busy for connection in node.made] == [connections.CHANNELS] * 2
    with pytest.raises(errors.NotStarted, match="every channel to the node is busy"):
        pool.acquire(0.05)
    pool.release(held[-1])
    assert pool.acquire(WAIT) is held[-1]


def test_the_next_free_channel_goes_to_who_waited_longest(make: Make) -> None:
    pool = make(most=1)
    held = [pool.acquire(WAIT) for _ in range(connections.CHANNELS)]
    served: list[int] = []

    def wait_in_line(number: int) -> None:
        connection = pool.acquire(WAIT)
        served.append(number)
        pool.release(connection)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait_in_line, args=(number,)))
        threads[-1].start()
        waits.until(lambda number=number: len(pool._queue) == number + 1)
    pool.release(held[0])
    for thread in threads:
        thread.join(WAIT)
    assert served == [0, 1, 2, 3, 4]


def test_a_lower_limit_of_the_server_is_learned(node: Node, make: Make) -> None:
    pool = make(most=1)
    for _ in range(3):
        pool.acquire(WAIT)
    pool.refused(node.made[0])
    assert (node.made[0].busy, node.made[0].capacity) == (2, 2)
    with pytest.raises(errors.NotStarted):
        pool.acquire(0.05)


def test_a_connection_that_grants_nothing_is_replaced(node: Node, make: Make) -> None:
    pool = make(most=1)
    pool.refused(pool.acquire(WAIT))
    assert pool.acquire(WAIT) is node.made[1]
    waits.until(lambda: not node.made[0].wire.is_active())


def test_a_retired_connection_is_closed_after_its_last_command(node: Node, make: Make) -> None:
    pool = make(most=1)
    old = pool.acquire(WAIT)
    assert pool.acquire(WAIT) is old
    pool.retire(old)
    assert pool.acquire(WAIT) is node.made[1]
    pool.release(old)
    assert old.wire.is_active()
    pool.release(old)
    waits.until(lambda: not old.wire.is_active())


def test_a_broken_connection_is_replaced(node: Node, make: Make) -> None:
    pool = make(most=1)
    pool.release(pool.acquire(WAIT))
    node.made[0].wire.close()
    assert pool.acquire(WAIT) is node.made[1]


def test_a_node_that_comes_back_is_reached(node: Node, make: Make) -> None:
    node.failures = [errors.NotStarted("refused"), errors.NotStarted("refused")]
    assert make().acquire(WAIT) is node.made[0]
    assert node.attempts == 3


def test_patience_ends(node: Node, make: Make) -> None:
    node.failures = [errors.NotStarted("refused") for _ in range(100)]
    start = time.monotonic()
    with pytest.raises(errors.NotStarted, match="refused"):
        make(patience=0.3).acquire(WAIT)
    assert time.monotonic() - start < 5


def test_what_cannot_get_better_is_not_tried_again(node: Node, make: Make) -> None:
    node.failures = [errors.NotStarted("wrong key", retryable=False)]
    pool = make(patience=WAIT)
    with pytest.raises(errors.NotStarted, match="wrong key"):
        pool.acquire(WAIT)
    assert node.attempts == 1
    assert pool.acquire(WAIT) is node.made[0]


def test_everyone_who_waits_learns_of_a_failure(node: Node, make: Make) -> None:
    node.failures = [errors.NotStarted("wrong key", retryable=False) for _ in range(20)]
    pool = make()
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        caught = [
            f.exception(WAIT) for f in [threads.submit(pool.acquire, WAIT) for _ in range(10)]
        ]
    assert all(isinstance(error, errors.NotStarted) for error in caught)
    assert len({id(error) for error in caught}) == 10


def test_a_failing_second_connection_hurts_nobody(node: Node, make: Make) -> None:
    pool = make(most=2, patience=0.0)
    held = [pool.acquire(WAIT) for _ in range(connections.CHANNELS)]
    node.failures = [errors.NotStarted("refused", retryable=False) for _ in range(1000)]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire, WAIT)
        waits.until(lambda: node.attempts == 2)
        pool.release(held[0])
        assert waiting.result(WAIT) is held[0]
    assert node.attempts == 2


def test_closing_fails_who_waits_and_closes_connections(node: Node, make: Make) -> None:
    pool = make(most=1)
    for _ in range(connections.CHANNELS):
        pool.acquire(WAIT)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire, WAIT)
        waits.until(lambda: len(pool._queue) == 1)
        pool.close()
        with pytest.raises(errors.NotStarted, match="closed"):
            waiting.result(WAIT)
    assert not node.made[0].wire.is_active()


def test_a_bug_in_connecting_does_not_hang_the_queue(
    make: Make, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> connections.Connection:
        raise RuntimeError("what a day")

    monkeypatch.setattr(node, "connect", broken)
    with pytest.raises(errors.NotStarted, match="connecting failed: .*what a day") as caught:
        make().acquire(WAIT)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_pool_that_was_closed_lets_nobody_wait(make: Make) -> None:
    pool = make()
    pool.close()
    started = time.monotonic()
    with pytest.raises(errors.NotStarted, match="closed"):
        pool.acquire(WAIT)
    assert time.monotonic() - started < WAIT / 2


def test_a_system_out_of_threads_is_not_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = make()
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(errors.NotStarted, match="new thread"):
        pool.acquire(WAIT)


@pytest.mark.parametrize(
    ("error", "usable"),
    [
        (paramiko.ChannelException(4, "resource shortage"), True),
        (paramiko.SSHException("Timeout opening channel."), False),
        (EOFError(), False),
    ],
)
def test_a_server_that_does_not_answer_gets_no_more_commands(
    error: Exception, usable: bool
) -> None:
    class Wire(FakeWire):
        def open_session(self, timeout: float) -> None:
            raise error

    asked = connections.Connection(cast(Any, Wire()))
    with pytest.raises(errors.NotStarted, match="no channel"):
        asked.open_channel()
    assert asked.usable is usable
