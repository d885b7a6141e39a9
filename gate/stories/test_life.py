# SPDX-License-Identifier: Apache-2.0
"""The whole life of a server of each brand, as its user sees it."""

import ipaddress
from typing import Any

import pytest

from gate.cloud import model
from gate.stories import people

BRANDS = {"zone": "joyent", "lx": "lx", "disk": "bhyve", "kvm": "kvm"}


@pytest.mark.parametrize("image", BRANDS)
def test_a_life(cloud: model.Cloud, admin: people.Person, anna: people.Person, image: str) -> None:
    server = anna.boot(image)
    host = admin.host(server)
    shown = people.vm(cloud, host, server.id)
    assert (shown.brand, shown.state) == (BRANDS[image], "running")

    # its address, its MAC and nothing else
    (address,) = server.addresses[anna.network]
    (nic,) = shown.nics
    assert nic.mac == address["OS-EXT-IPS-MAC:mac_addr"]
    assert str(ipaddress.ip_interface(nic.ips[0]).ip) == address["addr"]
    assert not any(getattr(nic, f"allow_{what}_spoofing") for what in ("ip", "mac", "dhcp"))

    anna.compute.stop_server(server)
    anna.wait(server, "SHUTOFF")
    assert people.vm(cloud, host, server.id).state == "stopped"
    anna.compute.start_server(server)
    anna.wait(server)
    for kind in ("SOFT", "HARD"):
        anna.compute.reboot_server(server, kind)
        anna.wait(server)
    if image != "kvm":
        # QEMU drops what its guest shows before somebody listens, and this guest boots in no time
        people.until(lambda: console(anna, server), "the console to have something")
    anna.compute.rebuild_server(server, image=server.image.id, name="again")
    assert anna.wait(server).name == "again"
    after = people.vm(cloud, host, server.id)
    assert after.state == "running"
    assert [each.mac for each in after.nics] == [nic.mac]

    anna.delete(server)
    assert server.id not in people.vms(cloud, host)


def console(person: people.Person, server: Any) -> str:
    """What a server's console has shown."""
    return str(person.compute.get_server_console_output(server)["output"]).strip()


def test_what_a_guest_is_told(
    cloud: model.Cloud, admin: people.Person, anna: people.Person
) -> None:
    key = anna.compute.create_keypair(name="anna")
    server = anna.boot("zone", key_name="anna", metadata={"role": "web"}, user_data="IyEvYmluL3No")
    told = people.vm(cloud, admin.host(server), server.id).customer_metadata
    assert key.public_key.strip() in told["root_authorized_keys"]
    assert "#!/bin/sh" in told.values()
    assert told["role"] == "web"
