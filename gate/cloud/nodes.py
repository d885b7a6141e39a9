# SPDX-License-Identifier: Apache-2.0
"""The SmartOS nodes of a cloud, emulated or real."""

import json
import pathlib
import urllib.parse
from typing import Any

from gate.cloud import model, services


def up(cloud: model.Cloud, node: model.Node) -> dict[str, Any]:
    """Bring a node up, if it is an emulated one; the [smartos] options that lead to it."""
    if not node.emulated:
        return _real(node)
    folder = folder_of(cloud, node)
    ssh = ["--ssh", f"{model.HOST}:0"] if node.connection == "ssh" else []
    tags = [word for tag in sorted({*cloud.networks.values()}) for word in ("--nic-tag", tag)]
    words = ["up", str(folder), "--name", node.host, "--speed", cloud.speed, *tags, *ssh]
    services.command(cloud, node.host, ["smartos-emulator", *words])
    if not ssh:
        return {"connection": "local", "tool_path": folder / "bin"}
    facts = json.loads(
        services.command(cloud, node.host, ["smartos-emulator", "status", str(folder), "--json"])
    )["ssh"]
    return {
        "connection": "ssh",
        "node_address": facts["host"],
        "node_port": facts["port"],
        "node_user": facts["user"],
        "key_file": facts["identity"],
        "known_hosts_file": facts["known_hosts"],
    }


def down(cloud: model.Cloud) -> None:
    """Power the emulated nodes off."""
    for node in cloud.nodes:
        folder = folder_of(cloud, node)
        if node.emulated and (folder / "node.json").is_file():
            services.command(cloud, node.host, ["smartos-emulator", "down", str(folder)])


def folder_of(cloud: model.Cloud, node: model.Node) -> pathlib.Path:
    """Where an emulated node lives."""
    return cloud.base / "nodes" / node.host


def _real(node: model.Node) -> dict[str, Any]:
    url = urllib.parse.urlsplit(node.connection)
    return {
        "connection": "ssh",
        "node_address": url.hostname,
        "node_port": url.port or 22,
        "node_user": url.username or "root",
        "known_hosts_file": pathlib.Path("~/.ssh/known_hosts").expanduser(),
    }
