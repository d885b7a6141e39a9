# SPDX-License-Identifier: Apache-2.0
"""How many commands on the node each of Nova's operations costs."""

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator

import pytest

from nova_smartos import conf as smartos_conf
from nova_smartos import readings
from nova_smartos.operations import watch
from tests.functional import cloud as cloud_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import objects

pytestmark = cloud_module.QUIET


class Commands(logging.Handler):
    """The commands that the toolkit says it ran."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The commands that are run inside; the event stream began before and goes on."""
    logger = logging.getLogger("nova_smartos.smartos.transport.trace")
    level, handler = logger.level, Commands()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    # what runs by itself would be counted, too
    flags = {"periodic_enable": False}
    with pytest.MonkeyPatch.context() as patch:
        # however busy the machine is, the stream tells of a change before Nova looks
        patch.setattr(watch, "_ECHO_SECONDS", cloud_module.SECONDS)
        patch.setattr(watch, "_CONFIRMED_SECONDS", cloud_module.SECONDS)
        with cloud_module.Cloud(flags=flags) as cloud:
            yield cloud


def life(cloud: cloud_module.Cloud, kind: str, **more: object) -> dict[str, list[str]]:
    """What each step of a server's life runs on the node, once its image is there."""
    cloud.delete(cloud.boot(kind))
    ran: dict[str, list[str]] = {}
    with counted() as ran["launch"]:
        server = cloud.boot(kind, networks=[{"port": cloud.port()}], **more)
    with counted() as ran["stop"]:
        cloud.act(server, "os-stop")
        cloud.wait(server, "SHUTOFF")
    with counted() as ran["start"]:
        cloud.act(server, "os-start")
        cloud.wait(server, "ACTIVE")
    with counted() as ran["attach"]:
        port = cloud.port()
        cloud.api.attach_interface(server["id"], {"interfaceAttachment": {"port_id": port}})
        cloud.wait(server, "ACTIVE")
    with counted() as ran["sync"]:
        cloud.compute.manager._sync_power_states(nova_context.get_admin_context())
    with counted() as ran["delete"]:
        cloud.delete(server)
    return ran


@pytest.mark.parametrize("kind", ["zone", "lx", "zvol"])
def test_a_life_costs_few_commands(cloud: cloud_module.Cloud, kind: str) -> None:
    ran = life(cloud, kind)
    costs = {step: len(commands) for step, commands in ran.items()}
    allowed = {"launch": 2, "stop": 1, "start": 1, "attach": 2, "sync": 1, "delete": 2}
    assert all(costs[step] <= most for step, most in allowed.items()), ran


def test_a_final_reading_costs_one_more_before_an_end(
    cloud: cloud_module.Cloud, tmp_path: pathlib.Path
) -> None:
    spool = readings.Spool(tmp_path / "spool")
    name = "spool_directory"
    cloud_module.CONF.set_override(name, str(spool.directory), smartos_conf.GROUP)
    try:
        ran = life(cloud, "zone")
    finally:
        cloud_module.CONF.clear_override(name, smartos_conf.GROUP)
    costs = {step: len(commands) for step, commands in ran.items()}
    allowed = {"launch": 2, "stop": 2, "start": 1, "attach": 2, "sync": 1, "delete": 3}
    assert all(costs[step] <= most for step, most in allowed.items()), ran
    # of the first server, which was deleted while it ran, and then of the other's two ends
    assert [each.reason for each in spool.readings()] == ["deletion", "stop", "deletion"]


@pytest.mark.parametrize("kind", ["zone", "zvol"])
def test_a_config_drive_costs_one_more(cloud: cloud_module.Cloud, kind: str) -> None:
    ran = life(cloud, kind, config_drive=True)
    assert len(ran["launch"]) <= 3, ran["launch"]
    assert len(ran["delete"]) <= 2, ran["delete"]


def test_at_rest_the_inventory_costs_one_command(cloud: cloud_module.Cloud) -> None:
    with counted() as ran:
        cloud.compute.manager.update_available_resource(nova_context.get_admin_context())
    assert len(ran) == 1, ran


def test_a_start_asks_once_for_all_that_there_are(cloud: cloud_module.Cloud) -> None:
    servers = [cloud.boot() for _ in range(3)]
    with counted() as seen:
        cloud.restart_compute()
    assert [each for each in seen if "vmadm get" in each] == [], seen
    # where the events have not told of them yet
    assert len([each for each in seen if "vmadm lookup" in each]) <= 1, seen
    assert cloud.driver._watch.vms().keys() >= {each["id"] for each in servers}
    # later for the one that is meant
    context = nova_context.get_admin_context()
    cell = objects.CellMappingList.get_all(context)[-1]
    with nova_context.target_cell(context, cell) as context:
        instance = objects.Instance.get_by_uuid(context, servers[0]["id"])
    with counted() as seen:
        cloud.driver.get_info(instance, use_cache=False)
    assert [each for each in seen if f"vmadm get {instance.uuid}" in each] == seen != []
    for server in servers:
        cloud.delete(server)
