# SPDX-License-Identifier: Apache-2.0
"""What the driver has Nova's other services do while nothing happens: no more than FakeDriver.

Ten minutes of Nova's periodic tasks, by a clock that is ahead of the real one.
"""

import collections
import contextlib
import dataclasses
import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from tests import waits
from tests.functional import cloud as cloud_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova.objects import base as nova_objects
    from nova.scheduler.client import report

pytestmark = cloud_module.QUIET

MINUTES = 10
STEP_SECONDS = 10
FAKE_HOST = "fake1"


@dataclasses.dataclass
class Asked:
    """What a nova-compute has asked of others, and how often."""

    conductor: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    placement: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Conductor:
    """Nova's conductor as its objects reach it from a nova-compute, here in the same process."""

    def __init__(self, manager: Any, asked: Asked) -> None:
        self._manager = manager
        self._asked = asked
        self._at_work = threading.local()

    def __get__(self, instance: object, owner: type) -> "Conductor | None":
        # the conductor itself reaches the database
        return None if getattr(self._at_work, "yes", False) else self

    def object_class_action_versions(
        self, context: Any, name: str, method: str, versions: Any, args: Any, more: Any
    ) -> Any:
        self._asked.conductor[f"{name}.{method}"] += 1
        with self._working():
            answer = self._manager.object_class_action_versions(
                context, name, method, versions, args, more
            )
            return nova_objects.NovaObjectSerializer().deserialize_entity(context, answer)

    def object_action(self, context: Any, one: Any, method: str, args: Any, more: Any) -> Any:
        self._asked.conductor[f"{one.obj_name()}.{method}"] += 1
        with self._working():
            return self._manager.object_action(context, one, method, args, more)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        self._at_work.yes = True
        try:
            yield
        finally:
            self._at_work.yes = False


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.ahead = 0

    def periodic(self) -> int:
        """By which Nova decides what is due: the real one has no part in it."""
        return self.ahead

    def later(self, real: Callable[[], float]) -> float:
        """What is ahead of a real clock, as of one that waits go by."""
        return real() + self.ahead


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    clock = Clock()
    periodic = "oslo_service.periodic_task"
    with (
        mock.patch("time.time", functools.partial(clock.later, time.time)),
        mock.patch("time.monotonic", functools.partial(clock.later, time.monotonic)),
        # when which task runs is the same each time
        mock.patch(f"{periodic}.now", clock.periodic),
        mock.patch(f"{periodic}.random.random", lambda: 0.0),
    ):
        yield clock


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    """A server on our driver, and one on Nova's FakeDriver."""
    # nothing runs by itself
    with cloud_module.Cloud(compute=False, flags={"periodic_enable": False}) as cloud:
        cloud.services.flags(compute_driver="fake.FakeDriver")
        cloud.computes[FAKE_HOST] = cloud.services.start_service("compute", host=FAKE_HOST)
        cloud.services.flags(compute_driver="smartos.SmartOSDriver")
        cloud.add_compute("compute1")
        for host in cloud.computes:
            cloud.boot(host=host, networks=[{"port": cloud.port()}])
        yield cloud


def minutes(cloud: cloud_module.Cloud, host: str, clock: Clock, count: int) -> Asked:
    """What a nova-compute asks of others in so many minutes of its periodic tasks."""
    asked = Asked()
    manager = cloud.computes[host].manager
    cloud_module.CONF.set_override("host", host)
    conductor = Conductor(cloud.services.conductor.manager, asked)
    with contextlib.ExitStack() as stack:
        for name in ("get", "put", "post", "delete"):
            stack.enter_context(counting(name, asked))
        stack.enter_context(
            mock.patch.object(nova_objects.NovaObject, "indirection_api", conductor)
        )
        # whatever has run before: a task that is due each minute runs once in each
        manager._periodic_last_run = dict.fromkeys(manager._periodic_last_run, clock.periodic())
        for _ in range(0, count * 60, STEP_SECONDS):
            clock.ahead += STEP_SECONDS
            manager.periodic_tasks(nova_context.get_admin_context(), raise_on_error=True)
            # the sync of power states asks from threads of its own
            waits.until(lambda: not syncing(manager), "the sync of power states")
    return asked


def syncing(manager: Any) -> bool:
    with manager.syncs_in_progress() as uuids:
        return bool(uuids)


def counting(name: str, asked: Asked) -> contextlib.AbstractContextManager[Any]:
    """Count the requests of one kind that are sent to Placement."""
    real = getattr(report.SchedulerReportClient, name)

    def counted(self: Any, url: str, *arguments: Any, **more: Any) -> Any:
        asked.placement[name] += 1
        return real(self, url, *arguments, **more)

    return mock.patch.object(report.SchedulerReportClient, name, counted)


def test_ten_minutes_in_which_nothing_happens(cloud: cloud_module.Cloud, clock: Clock) -> None:
    asked = {}
    for host in cloud.computes:
        # what is done once is done
        minutes(cloud, host, clock, MINUTES)
        asked[host] = minutes(cloud, host, clock, MINUTES)
    ours, fake = asked["compute1"], asked[FAKE_HOST]
    # Nova itself asks, so that what is counted is not nothing
    assert fake.conductor["InstanceList.get_by_host"] > 0 and fake.placement["get"] > 0
    assert set(ours.placement) == {"get"}
    assert ours.placement["get"] <= fake.placement["get"]
    # whether anything was changed that a guest is to be told: no service of Nova's tells
    more = ours.conductor - fake.conductor
    # that a service is up is told by a thread of its own
    more.pop("Service.save", None)
    assert more == {"InstanceList.get_by_filters": MINUTES}


def test_a_change_is_counted(cloud: cloud_module.Cloud, clock: Clock) -> None:
    """Else the other test could not fail."""
    minutes(cloud, "compute1", clock, 1)
    pool = "zones/nst-reserved"
    cloud.node.tool("zfs", "create", "-o", "reservation=20G", pool)
    try:
        asked = minutes(cloud, "compute1", clock, 2)
    finally:
        cloud.node.tool("zfs", "destroy", pool)
    assert asked.placement["put"] > 0
    assert asked.conductor["ComputeNode.save"] > 0
