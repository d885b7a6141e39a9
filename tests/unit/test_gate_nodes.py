# SPDX-License-Identifier: Apache-2.0
"""What the gate takes from a real node afterwards, and what it does not touch."""

import argparse
import json
import os
import pathlib
import signal
import socket
import unittest.mock

import pytest

from gate.cloud import cli, commands, contents, files, model, nodes, processes, services
from gate.stories import people
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


def test_stories_look_into_a_node_as_if_it_were_a_real_one(tmp_path: pathlib.Path) -> None:
    with emulated.EmulatedNode("--ssh", "127.0.0.1:0", "--speed", "100") as place:
        image = place.image("minimal")
        payload = {"brand": "joyent-minimal", "image_uuid": image, "max_physical_memory": 64}
        place.tool("vmadm", "create", payload=json.dumps(payload))
        ssh = place.facts()["ssh"]
        node = model.Node(
            "far",
            f"ssh://{ssh['user']}@{ssh['host']}:{ssh['port']}",
            ssh["identity"],
            ssh["known_hosts"],
        )
        cloud = model.Cloud.plan(
            tmp_path, sets=frozenset(), nodes=[node], speed="1", networks={"public": "external"}
        )
        files.compute(cloud, node, nodes.reached(node))
        (uuid,) = people.vms(cloud, "far")
        assert people.all_vms(cloud) == {"far": {uuid}}
        shown = people.vm(cloud, "far", uuid)
        assert (shown.uuid, shown.brand, shown.state) == (uuid, "joyent-minimal", "running")


def test_real_nodes_boot_what_somebody_names(tmp_path: pathlib.Path) -> None:
    manifest = tmp_path / "base.imgmanifest"
    manifest.write_text(json.dumps({"type": "zone-dataset"}))
    (tmp_path / "base.zfs.gz").touch()
    assert contents.given(manifest) == ({"type": "zone-dataset"}, tmp_path / "base.zfs.gz")
    cloud = model.Cloud.plan(
        tmp_path / "cloud",
        sets=frozenset(),
        nodes=[model.Node("far", "ssh://root@192.0.2.1")],
        speed="1",
        networks={},
        images={"zone": str(manifest)},
    )
    cloud.folder("logs")
    cloud.save()
    assert model.Cloud.load(cloud.base) == cloud
    # the second zone image only has to be another one in Glance
    able = {name for name in contents.IMAGES if contents.bootable(cloud, name)}
    assert able == {"zone", "zone-alt"}
    with pytest.raises(pytest.skip.Exception, match="--image kvm=MANIFEST"):
        people.Person(cloud, unittest.mock.Mock()).boot("kvm")
    cloud.nodes = [model.Node("node1", "ssh")]
    assert all(contents.bootable(cloud, name) for name in contents.IMAGES)


@pytest.mark.parametrize(
    ("name", "manifest", "beside", "complaint"),
    [
        ("zone", "{}", ["x.zfs.gz"], "is no manifest"),
        ("zone", None, ["x.zfs.gz"], "is no manifest"),
        ("zone", '{"type": "docker"}', ["x.zfs.gz"], "of type docker"),
        ("zone", '{"type": "zvol"}', [], "is to be its file alone"),
        ("zone", '{"type": "zvol"}', ["x.zfs.gz", "x.zfs"], "is to be its file alone"),
        ("stone", '{"type": "zvol"}', ["x.zfs.gz"], "--image stone: of zone, "),
    ],
)
def test_an_image_that_nothing_can_boot_is_refused_before_anything_starts(
    name: str,
    manifest: str | None,
    beside: list[str],
    complaint: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.imgmanifest"
    if manifest is not None:
        path.write_text(manifest)
    for each in beside:
        (tmp_path / each).touch()
    base = tmp_path / "cloud"
    words = ["-d", str(base), "up", "--node", "ssh://root@192.0.2.1", "--image", f"{name}={path}"]
    options = cli.parser().parse_args(words)
    assert commands.run(options) == 1
    assert complaint in capsys.readouterr().err
    assert not base.exists()


def _tagged_image(place: emulated.EmulatedNode, glance_id: str) -> str:
    base = str(place.directory / glance_id)
    uuid = place.command("image", "minimal", glance_id, "--output", base).strip()
    path = place.directory / f"{glance_id}.imgmanifest"
    document = json.loads(path.read_text())
    document["tags"] = {manifest.TAG: glance_id}
    path.write_text(json.dumps(document))
    place.tool("imgadm", "install", "-q", "-m", str(path), "-f", f"{base}.zfs.gz")
    return uuid
