# SPDX-License-Identifier: Apache-2.0
"""Whose compute node a node is: Nova's file compute_id, and the name that Nova knows."""

import pathlib
import uuid
from collections.abc import Iterator

import nova.conf
import pytest
from nova import exception, objects
from nova.objects import compute_node
from nova.virt import node as nova_node
from oslo_utils.fixture import uuidsentinel

from nova_smartos.operations import host

CONF = nova.conf.CONF
NODE = str(uuid.UUID(int=1))
OTHER = str(uuid.UUID(int=2))


@pytest.fixture(autouse=True)
def state(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Nova's configuration as it is for a nova-compute of its own."""
    CONF([], project="nova", default_config_files=[])
    folder = tmp_path / "state"
    folder.mkdir()
    CONF.set_override("state_path", str(folder))
    CONF.set_override("host", "compute1")
    yield folder
    CONF.clear_override("state_path")
    CONF.clear_override("host")
    CONF.reset()


def test_the_nodes_own_uuid_is_written_before_nova_makes_one_up(state: pathlib.Path) -> None:
    host.remember_node(NODE, "headnode")
    assert (state / "compute_id").read_text() == NODE
    assert nova_node.read_local_node_uuid() == NODE


def test_a_restart_changes_nothing(state: pathlib.Path) -> None:
    host.remember_node(NODE, "headnode")
    before = (state / "compute_id").stat().st_mtime_ns
    host.remember_node(NODE, "headnode")
    assert (state / "compute_id").stat().st_mtime_ns == before


def test_the_file_comes_back_with_a_new_state_directory(state: pathlib.Path) -> None:
    host.remember_node(NODE, "headnode")
    (state / "compute_id").unlink()
    state.rmdir()
    host.remember_node(NODE, "headnode")
    assert (state / "compute_id").read_text() == NODE


def test_another_nodes_file_is_refused_and_stays(state: pathlib.Path) -> None:
    (state / "compute_id").write_text(OTHER)
    with pytest.raises(exception.InvalidConfiguration) as caught:
        host.remember_node(NODE, "headnode")
    said = str(caught.value)
    assert NODE in said
    assert OTHER in said
    assert "Refusing to start" in said
    assert "state_path" in said
    assert (state / "compute_id").read_text() == OTHER


def test_a_file_that_is_no_uuid_is_refused_as_nova_does(state: pathlib.Path) -> None:
    (state / "compute_id").write_text("rubbish")
    with pytest.raises(exception.InvalidNodeConfiguration):
        host.remember_node(NODE, "headnode")
    assert (state / "compute_id").read_text() == "rubbish"


def test_a_file_beside_the_configuration_counts_as_well(
    tmp_path: pathlib.Path, state: pathlib.Path
) -> None:
    """Deployment tools put it there."""
    (tmp_path / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {state}\n")
    CONF(["--config-file", str(tmp_path / "nova.conf")], project="nova")
    (tmp_path / "compute_id").write_text(OTHER)
    with pytest.raises(exception.InvalidConfiguration):
        host.remember_node(NODE, "headnode")
    (tmp_path / "compute_id").write_text(NODE)
    host.remember_node(NODE, "headnode")
    assert not (state / "compute_id").exists()


def test_a_state_directory_that_cannot_be_written_is_refused(state: pathlib.Path) -> None:
    (state / "file").write_text("")
    CONF.set_override("state_path", str(state / "file"))
    with pytest.raises(exception.InvalidConfiguration, match="state_path"):
        host.remember_node(NODE, "headnode")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[compute_node.ComputeNode]:
    """What Nova's database has, in place of the conductor that nova-compute asks."""
    nodes: list[compute_node.ComputeNode] = []

    def get_by_uuid(context: object, wanted: str) -> compute_node.ComputeNode:
        for each in nodes:
            if each.uuid == wanted:
                return each
        raise exception.ComputeHostNotFound(host=wanted)

    monkeypatch.setattr(compute_node.ComputeNode, "get_by_uuid", get_by_uuid)
    return nodes


def test_a_node_that_nova_does_not_know_yet(known: list[compute_node.ComputeNode]) -> None:
    known.append(objects.ComputeNode(uuid=uuidsentinel.x, hypervisor_hostname="other"))
    host.refuse_rename(None, NODE, "headnode", "compute1")


def test_a_node_by_its_known_name(known: list[compute_node.ComputeNode]) -> None:
    known.append(objects.ComputeNode(uuid=NODE, hypervisor_hostname="headnode", host="compute1"))
    host.refuse_rename(None, NODE, "headnode", "compute1")


def test_a_node_with_a_new_name_is_refused(known: list[compute_node.ComputeNode]) -> None:
    known.append(objects.ComputeNode(uuid=NODE, hypervisor_hostname="oldname", host="compute1"))
    with pytest.raises(exception.InvalidConfiguration) as caught:
        host.refuse_rename(None, NODE, "headnode", "compute1")
    assert "hostname=oldname" in str(caught.value)
    assert "nothing was changed" in str(caught.value)


def test_a_service_with_a_new_name_is_refused(known: list[compute_node.ComputeNode]) -> None:
    known.append(objects.ComputeNode(uuid=NODE, hypervisor_hostname="headnode", host="old"))
    with pytest.raises(exception.InvalidConfiguration, match="Set .DEFAULT.host to old again"):
        host.refuse_rename(None, NODE, "headnode", "compute1")
