# SPDX-License-Identifier: Apache-2.0
"""Two projects on the same nodes, and what they may use."""

import openstack
import pytest

from gate.cloud import files, model
from gate.stories import people


def test_two_tenants(cloud: model.Cloud, admin: people.Person, tenants: people.Tenants) -> None:
    # with the same addresses, which is their right
    anna, bert = tenants.add("anna"), tenants.add("bert")
    hers, his = anna.boot(), bert.boot()
    assert [each.id for each in anna.compute.servers()] == [hers.id]
    with pytest.raises(openstack.exceptions.NotFoundException):
        anna.compute.get_server(his.id)
    with pytest.raises(openstack.exceptions.NotFoundException):
        anna.compute.stop_server(his.id)
    vlans = []
    for server in (hers, his):
        (nic,) = people.vm(cloud, admin.host(server), server.id).nics
        assert nic.nic_tag == cloud.networks[files.PROJECTS]
        vlans.append(nic.vlan_id)
    assert vlans[0] != vlans[1]


def test_a_quota_is_kept(
    cloud: model.Cloud, admin: people.Person, anna: people.Person, tenants: people.Tenants
) -> None:
    admin.compute.update_quota_set(tenants.project(anna), instances=1)
    anna.boot()
    before = people.all_vms(cloud)
    with pytest.raises(openstack.exceptions.ForbiddenException, match="Quota exceeded"):
        anna.boot()
    assert people.all_vms(cloud) == before


def test_a_port_for_another_host_is_left_to_others(admin: people.Person) -> None:
    network = admin.connection.network.find_network("private")
    port = admin.connection.network.create_port(network_id=network.id, binding_host_id="foreign")
    try:
        assert port.binding_vif_type == "binding_failed"
        assert not port.binding_vif_details
    finally:
        admin.connection.network.delete_port(port)


def test_address_pairs_and_port_security_reach_the_nic(
    cloud: model.Cloud, admin: people.Person, anna: people.Person
) -> None:
    network = anna.connection.network.find_network(anna.network)
    ports = [
        anna.connection.network.create_port(
            network_id=network.id, allowed_address_pairs=[{"ip_address": "10.20.0.200"}]
        ),
        anna.connection.network.create_port(
            network_id=network.id, is_port_security_enabled=False, security_group_ids=[]
        ),
    ]
    server = anna.boot(networks=[{"port": port.id} for port in ports])
    nics = {nic.mac: nic for nic in people.vm(cloud, admin.host(server), server.id).nics}
    paired, open_ = (nics[port.mac_address] for port in ports)
    assert "10.20.0.200" in paired.allowed_ips
    assert not paired.allow_ip_spoofing
    assert open_.allow_ip_spoofing and open_.allow_mac_spoofing
