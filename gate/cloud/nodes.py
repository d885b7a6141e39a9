# SPDX-License-Identifier: Apache-2.0
"""The SmartOS nodes of a cloud, emulated or real."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import urllib.parse
from collections.abc import Callable, Collection
from typing import Any

from gate.cloud import model, services, show


@dataclasses.dataclass
class Left:
    """What was removed from a real node, and what stays there."""

    vms: list[str]
    images: list[str]
    #: what is the cloud's, and could not be removed
    failures: list[str]


def up(cloud: model.Cloud, node: model.Node) -> dict[str, Any]:
    """Bring a node up, if it is an emulated one; the [smartos] options that lead to it."""
    if not node.emulated:
        return reached(node)
    folder = folder_of(cloud, node)
    known = folder / "node.json"
    # a node that was down comes back where its nova-compute looks for it
    address = json.loads(known.read_text())["ssh"] if known.is_file() else f"{model.HOST}:0"
    tags = [word for tag in sorted({*cloud.networks.values()}) for word in ("--nic-tag", tag)]
    words = ["up", str(folder), "--name", node.host, "--speed", cloud.speed, *tags]
    services.command(cloud, node.host, ["smartos-emulator", *words, "--ssh", address])
    if node.connection == "local":
        return {"connection": "local", "tool_path": folder / "bin"}
    facts = _ssh(cloud, node)
    return {
        "connection": "ssh",
        "node_address": facts["host"],
        "node_port": facts["port"],
        "node_user": facts["user"],
    }


def introduce(cloud: model.Cloud) -> dict[str, Any]:
    """Let every nova-compute into every node that is up; the [smartos] options that it takes."""
    peers = {node.host: node.connection for node in cloud.nodes if not node.emulated}
    emulated = {node.host: _ssh(cloud, node) for node in cloud.nodes if node.emulated}
    options: dict[str, Any] = {}
    if emulated:
        # they come together or not at all: the others are reached by what their owner has named
        known = cloud.folder("etc", "nova-smartos") / "known_hosts"
        hosts = [pathlib.Path(each["known_hosts"]).read_text() for each in emulated.values()]
        known.write_text("".join(hosts))
        key = pathlib.Path(next(iter(emulated.values()))["identity"])
        public = key.with_name(f"{key.name}.pub").read_text()
        for node in cloud.nodes:
            allowed = folder_of(cloud, node) / "root/usbkey/config.inc/authorized_keys"
            if public not in allowed.read_text():
                with open(allowed, "a") as keys:
                    keys.write(public)
        options = {"key_file": key, "known_hosts_file": known}
    for host, facts in emulated.items():
        peers[host] = f"ssh://{facts['user']}@{facts['host']}:{facts['port']}"
    options["peers"] = ",".join(f"{host}:{url}" for host, url in sorted(peers.items()))
    return options


def _ssh(cloud: model.Cloud, node: model.Node) -> dict[str, Any]:
    """How an emulated node is reached."""
    words = ["smartos-emulator", "status", str(folder_of(cloud, node)), "--json"]
    facts: dict[str, Any] = json.loads(services.command(cloud, node.host, words))["ssh"]
    return facts


def down(cloud: model.Cloud) -> list[str]:
    """Power the emulated nodes off; take from the others what the cloud has left on them.

    What could not be taken is told.
    """
    left = []
    if any(not node.emulated for node in cloud.nodes):
        known = services.glance_images(cloud)
    for node in cloud.nodes:
        folder = folder_of(cloud, node)
        if node.emulated:
            # one that is down already is as good, and what its daemon left has the cloud's mark
            with contextlib.suppress(services.Failed):
                services.command(cloud, node.host, ["smartos-emulator", "down", str(folder)])
        elif not node.emulated:
            removed = clean(node, known or ())
            left += removed.failures
            what = f"{len(removed.vms)} VMs and {len(removed.images)} images"
            show.say(f"Removed from {node.connection} what this cloud made: {what}")
            if known is None:
                show.say("Its images stay: the database that knows them does not answer")
    return left


def clean(node: model.Node, glance_images: Collection[str]) -> Left:
    """Remove the VMs and the images that this cloud has made on a real node, nothing else.

    A VM is the cloud's if Nova's mark names its nova-compute, whose name no other cloud has; an
    image is, if it came from one of the cloud's images in Glance.
    """
    # product code, which only the cloud's own environment has
    from nova_smartos.operations import removal
    from nova_smartos.smartos import errors
    from nova_smartos.smartos import node as toolkit
    from nova_smartos.translate import identity, manifest

    options = reached(node)
    removed = Left([], [], [])

    def attempt(what: str, remove: Callable[[], object]) -> bool:
        try:
            remove()
        except errors.SmartOSError as error:
            removed.failures.append(f"{what} of {node.connection} stays: {error}")
            return False
        return True

    with toolkit.Node.ssh(
        options["node_address"],
        port=options["node_port"],
        user=options["node_user"],
        key_file=options.get("key_file"),
        known_hosts_file=options["known_hosts_file"],
    ) as gz:
        try:
            vms, images = gz.vmadm.lookup(), gz.imgadm.list()
        except errors.SmartOSError as error:
            removed.failures.append(f"{node.connection} does not tell what is on it: {error}")
            return removed
        for vm in vms:
            mark = identity.of(vm)
            if mark is None or mark.host != node.host:
                continue
            if attempt(f"VM {vm.uuid}", functools.partial(removal.remove, gz, vm)):
                removed.vms.append(vm.uuid)
        for image in images:
            uuid = image.manifest.uuid
            if image.manifest.tags.get(manifest.TAG) not in glance_images:
                continue
            # one that is in use may be so by something that is not ours
            if attempt(f"Image {uuid}", functools.partial(gz.imgadm.delete, uuid)):
                removed.images.append(uuid)
    return removed


def folder_of(cloud: model.Cloud, node: model.Node) -> pathlib.Path:
    """Where an emulated node lives."""
    return cloud.base / "nodes" / node.host


def reached(node: model.Node) -> dict[str, Any]:
    """The [smartos] options that lead to a real node."""
    url = urllib.parse.urlsplit(node.connection)
    return {
        "connection": "ssh",
        "node_address": url.hostname,
        "node_port": url.port or 22,
        "node_user": url.username or "root",
        "known_hosts_file": node.known_hosts or pathlib.Path("~/.ssh/known_hosts").expanduser(),
        **({"key_file": node.identity} if node.identity else {}),
    }
