# SPDX-License-Identifier: Apache-2.0
"""One change at a time on a VM, and no lock that outlives its use."""

import threading
from concurrent import futures

import pytest

from nova_smartos.operations import locks

SECONDS = 10


def test_one_at_a_time_on_one_vm_and_others_beside() -> None:
    held = locks.Locks()
    inside = threading.Event()
    order: list[str] = []

    def change(uuid: str, name: str) -> None:
        with held.hold(uuid):
            order.append(name)

    with futures.ThreadPoolExecutor(2) as pool:
        with held.hold("a"):
            order.append("first")
            second = pool.submit(change, "a", "second")
            pool.submit(change, "b", "beside").result(SECONDS)
            inside.set()
            assert not second.done()
        second.result(SECONDS)
    assert order == ["first", "beside", "second"]


def test_the_same_thread_may_hold_it_twice() -> None:
    held = locks.Locks()
    with held.hold("a"), held.hold("a"):
        pass


def test_nothing_is_kept_of_a_lock_that_nobody_holds() -> None:
    held = locks.Locks()
    with pytest.raises(RuntimeError), held.hold("a"):
        raise RuntimeError
    with held.hold("a"), held.hold("b"):
        pass
    assert held.held() == frozenset()


def test_an_attempt_never_waits() -> None:
    held = locks.Locks()

    def attempt() -> bool:
        with held.attempt("a") as free:
            return free

    with futures.ThreadPoolExecutor(1) as pool:
        with held.hold("a"):
            assert not pool.submit(attempt).result(SECONDS)
        assert pool.submit(attempt).result(SECONDS)
    assert held.held() == frozenset()
