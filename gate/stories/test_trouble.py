# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a cloud, and what its people see of it."""

import signal
from collections.abc import Iterator

import pytest

from gate.cloud import model, processes, services
from gate.cloud import up as up_module
from gate.stories import people

STOPPED, RUNNING, UNKNOWN = 4, 1, 0


@pytest.fixture
def healed(emulated: model.Cloud) -> Iterator[model.Cloud]:
    """A cloud whose nodes are well again afterwards."""
    yield emulated
    for node in emulated.nodes:
        people.emulator(emulated, "fault", node.host, "clear")


def test_a_fault_in_a_boot_tells_its_user_why(
    healed: model.Cloud, admin: people.Person, anna: people.Person
) -> None:
    for node in healed.nodes:
        words = ["add", "vmadm", "fail", "--match", "^create", "--stderr", "the pool is degraded"]
        people.emulator(healed, "fault", node.host, *words)
    server = anna.boot(wait=False)
    # every node was tried, and the user sees that; the administrator sees the reason
    anna.wait(server, "ERROR")
    # Nova's conductor saves the state first and the reason after it
    fault = people.until(lambda: anna.compute.get_server(server.id).fault, "the reason to be told")
    assert fault["message"]
    seen = " ".join(services.why(healed, f"nova-compute-{node.host}") for node in healed.nodes)
    assert "the pool is degraded" in seen
    for node in healed.nodes:
        people.emulator(healed, "fault", node.host, "clear")
        assert server.id not in people.vms(healed, node.host)
    anna.delete(server)
    anna.boot()


def test_a_node_reboots(emulated: model.Cloud, admin: people.Person, anna: people.Person) -> None:
    up, down = anna.boot(), anna.boot()
    host = admin.host(up)
    anna.compute.stop_server(down)
    anna.wait(down, "SHUTOFF")
    people.emulator(emulated, "reboot", host)
    people.until(lambda: people.vm(emulated, host, up.id).state == "running", "the zone to be up")
    people.until(lambda: anna.compute.get_server(up.id).power_state == RUNNING, "Nova to see it")
    assert anna.wait(down, "SHUTOFF").power_state == STOPPED
    anna.compute.reboot_server(up, "HARD")
    anna.wait(up)


def test_a_compute_dies_in_a_boot_and_comes_back(healed: model.Cloud, admin: people.Person) -> None:
    host = healed.nodes[0].host
    there = f"nova:{host}"
    kept = admin.boot(availability_zone=there)
    people.emulator(healed, "fault", host, "add", "vmadm", "hang", "--match", "^create")
    doomed = admin.boot(wait=False, availability_zone=there)
    people.until(
        lambda: admin.compute.get_server(doomed.id).task_state == "spawning", "the boot to begin"
    )
    for process in processes.running(healed.base):
        if process.service == f"nova-compute-{host}":
            processes.kill(process, signal.SIGKILL)
    people.emulator(healed, "fault", host, "clear")
    up_module.compute(healed, host)
    # who boots is told, and nothing is left of it once it is deleted
    admin.wait(doomed, "ERROR")
    admin.delete(doomed)
    assert doomed.id not in people.vms(healed, host)
    assert admin.wait(kept).status == "ACTIVE"
    # it works for others as well: every node takes a server
    for node in healed.nodes:
        server = admin.boot(availability_zone=f"nova:{node.host}")
        assert server.id in people.vms(healed, node.host)
        admin.delete(server)
    admin.delete(kept)


def test_a_node_is_lost_and_found(
    emulated: model.Cloud, admin: people.Person, anna: people.Person
) -> None:
    server = anna.boot()
    host = admin.host(server)
    people.emulator(emulated, "down", host)
    try:
        # a node that does not answer is no reason to think that its servers are gone
        anna.compute.stop_server(server)
        people.until(lambda: not anna.compute.get_server(server.id).task_state, "the stop to end")
        assert anna.compute.get_server(server.id).status in ("ACTIVE", "ERROR")
        # and others boot elsewhere
        other = anna.boot()
        assert admin.host(other) != host
    finally:
        up_module.node(emulated, host)
    assert server.id in people.vms(emulated, host)
    anna.delete(server)
    assert server.id not in people.vms(emulated, host)
