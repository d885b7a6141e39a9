# SPDX-License-Identifier: Apache-2.0
"""What a server uses, told of the server, of its port and of its owner."""

import json
import pathlib
from typing import Any

from gate.cloud import model, services
from gate.stories import people


def meters(cloud: model.Cloud, folder: pathlib.Path, server: Any) -> list[dict[str, Any]]:
    """What the metering plugin reads of a server, wherever it is."""
    etc = cloud.base / "etc/nova-smartos"
    nodes = ",".join(f"{node.host}:{etc / node.host}.conf" for node in cloud.nodes)
    configuration = folder / "meters.conf"
    configuration.write_text(f"[smartos_meters]\nnodes = {nodes}\n")
    words = ["smartos-meter", "--config-file", str(configuration), "--json", server.id]
    rows: list[dict[str, Any]] = json.loads(services.command(cloud, "meters", words))
    return rows


def test_a_server_is_metered_by_name_port_and_owner(
    cloud: model.Cloud, anna: people.Person, tenants: people.Tenants, tmp_path: pathlib.Path
) -> None:
    server = anna.boot("zone")
    (port,) = anna.connection.network.ports(device_id=server.id)
    first, then = (
        {(row["meter"], row["resource"]): row for row in meters(cloud, tmp_path, server)}
        for _ in range(2)
    )
    assert {row["instance"] for row in first.values()} == {server.id}
    assert {row["project"] for row in first.values()} == {tenants.project(anna)}
    cpu = ("cpu", server.id)
    assert 0 < first[cpu]["volume"] < then[cpu]["volume"]
    assert first["memory", server.id]["volume"] == server.flavor["ram"]
    (wire,) = [resource for meter, resource in first if meter == "network.incoming.bytes"]
    assert wire.endswith(f"-{server.id}-tap{port.id[:11]}")
    anna.delete(server)
