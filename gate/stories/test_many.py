# SPDX-License-Identifier: Apache-2.0
"""Many servers at once."""

from gate.cloud import model
from gate.stories import people

COUNT = 50


def test_fifty_boots_at_once(cloud: model.Cloud, anna: people.Person) -> None:
    before = people.all_vms(cloud)
    anna.boot(wait=False, min_count=COUNT, max_count=COUNT, name="many")
    people.until(
        lambda: [each.status for each in anna.compute.servers()] == ["ACTIVE"] * COUNT,
        f"{COUNT} servers to be ACTIVE",
        seconds=300,
    )
    servers = list(anna.compute.servers())
    addresses = {server.addresses[anna.network][0]["addr"] for server in servers}
    assert len(addresses) == COUNT
    made = {host: vms - before[host] for host, vms in people.all_vms(cloud).items()}
    assert set().union(*made.values()) == {server.id for server in servers}
    assert all(made.values()), "a node has none"
    anna.delete(*servers)
    assert people.all_vms(cloud) == before
