# SPDX-License-Identifier: Apache-2.0
"""What the gate takes from a real node afterwards, and what it does not touch."""

import argparse
import json
import os
import pathlib
import signal
import socket

import pytest

from gate.cloud import commands, model, nodes, processes, services
from nova_smartos.translate import identity, manifest
from tests import emulated


def test_only_what_the_cloud_made_is_removed() -> None:
    mark = {"version": 1, "flavor": {}}
    names = ("name", "display_name", "project_id", "user_id", "image_ref", "created_at")
    mark |= dict.fromkeys(names, "")
    with emulated.EmulatedNode("--ssh", "127.0.0.1:0", "--speed", "100") as place:
        image = place.image("minimal")

        def vm(**metadata: str) -> str:
            payload = {"brand": "joyent-minimal", "image_uuid": image, "max_physical_memory": 64}
            payload["internal_metadata"] = metadata
            place.tool("vmadm", "create", payload=json.dumps(payload))
            (uuid,) = set(place.tool("vmadm", "lookup").split()) - known
            known.add(uuid)
            return uuid

        known: set[str] = set()
        ours = vm(**{identity.KEY: json.dumps(mark | {"host": "smartos-cloud-1"})})
        others = {
            vm(**{identity.KEY: json.dumps(mark | {"host": "production"})}),
            vm(**{identity.KEY: "smartos-cloud-1"}),
            vm(),
        }
        ssh = place.facts()["ssh"]
        node = model.Node(
            "smartos-cloud-1",
            f"ssh://{ssh['user']}@{ssh['host']}:{ssh['port']}",
            ssh["identity"],
            ssh["known_hosts"],
        )
        mine = _tagged_image(place, "glance-1")
        _tagged_image(place, "glance-2")
        removed = nodes.clean(node, {"glance-1"})
        assert (removed.vms, removed.images) == ([ours], [mine])
        assert set(place.tool("vmadm", "lookup").split()) == others
        left = {each["manifest"]["uuid"] for each in json.loads(place.tool("imgadm", "list", "-j"))}
        assert len(left) == 2 and mine not in left
        assert nodes.clean(node, {"glance-1"}) == nodes.Left([], [], [])
        # one that is held stays, is told of, and keeps no other from going
        held = vm(**{identity.KEY: json.dumps(mark | {"host": "smartos-cloud-1"})})
        free = vm(**{identity.KEY: json.dumps(mark | {"host": "smartos-cloud-1"})})
        words = ("add", "vmadm", "fail", "--match", f"delete {held}", "--stderr", "it is held")
        place.command("fault", str(place.directory), *words)
        removed = nodes.clean(node, ())
        assert removed.vms == [free]
        (failure,) = removed.failures
        assert held in failure and "it is held" in failure


def test_a_node_that_is_away_keeps_no_cloud_from_its_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "known_hosts").touch()
    node = model.Node("far", "ssh://root@127.0.0.1:1", None, str(tmp_path / "known_hosts"))
    cloud = model.Cloud.plan(
        tmp_path / "cloud", sets=frozenset(), nodes=[node], speed="1", networks={}
    )
    cloud.folder("logs")
    cloud.save()
    monkeypatch.setattr(services, "glance_images", lambda cloud: None)
    # whose nova-compute goes first, and all else with it
    process = processes.start(cloud, "nova-compute-far", ["sleep", "600"])
    options = argparse.Namespace(command="down", directory=cloud.base)
    assert commands.run(options) == 1
    assert process.wait(timeout=30) < 0
    assert processes.running(cloud.base) == []
    # to try again with
    assert (cloud.base / model.FILE).is_file()


def test_a_node_that_was_killed_leaves_nothing(tmp_path: pathlib.Path) -> None:
    node = model.Node("node1", "ssh")
    cloud = model.Cloud.plan(
        tmp_path, sets=frozenset(), nodes=[node], speed="100", networks={"public": "external"}
    )
    cloud.folder("logs")
    address = nodes.up(cloud, node)
    status = services.command(
        cloud, "node1", ["smartos-emulator", "status", str(nodes.folder_of(cloud, node)), "--json"]
    )
    try:
        os.kill(json.loads(status)["pid"], signal.SIGKILL)
    finally:
        nodes.down(cloud)
        processes.stop(tmp_path)
    with socket.socket() as sock:
        assert sock.connect_ex((address["node_address"], address["node_port"])) != 0


def _tagged_image(place: emulated.EmulatedNode, glance_id: str) -> str:
    base = str(place.directory / glance_id)
    uuid = place.command("image", "minimal", glance_id, "--output", base).strip()
    path = place.directory / f"{glance_id}.imgmanifest"
    document = json.loads(path.read_text())
    document["tags"] = {manifest.TAG: glance_id}
    path.write_text(json.dumps(document))
    place.tool("imgadm", "install", "-q", "-m", str(path), "-f", f"{base}.zfs.gz")
    return uuid
