# SPDX-License-Identifier: Apache-2.0
"""Ports as nics: pure translation first, then what vmadm on an emulated node says of the result."""

import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova import exception
from nova.network import model

from nova_smartos.smartos import vms
from nova_smartos.translate import nic

UUID = "11111111-2222-4333-8444-555555555555"
NETWORK = "9c894843-2536-4551-baaa-d781b84ecd11"
TAGS = {"physnet1": "external"}
SPOOFING = {
    "allow_dhcp_spoofing": True,
    "allow_ip_spoofing": True,
    "allow_mac_spoofing": True,
    "allow_restricted_traffic": True,
}


def subnet(
    cidr: str = "10.0.0.0/24",
    *ips: str,
    gateway: str | None = None,
    dns: tuple[str, ...] = (),
    routes: tuple[tuple[str, str], ...] = (),
    **meta: Any,
) -> model.Subnet:
    return model.Subnet(
        cidr=cidr,
        gateway=model.IP(address=gateway, type="gateway"),
        dns=[model.IP(address=each, type="dns") for each in dns],
        ips=[model.FixedIP(address=each) for each in ips],
        routes=[
            model.Route(cidr=to, gateway=model.IP(address=by, type="gateway")) for to, by in routes
        ],
        **meta,
    )


def vif(
    *subnets: model.Subnet,
    number: int = 1,
    details: dict[str, Any] | None = None,
    mtu: int | None = 1500,
    physical: str | None = "physnet1",
    **values: Any,
) -> model.VIF:
    """A port as nova.network.neutron describes it."""
    meta = {"mtu": mtu, "physical_network": physical, "tunneled": physical is None}
    given: dict[str, Any] = {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "address": f"FA:16:3E:00:{number // 256:02X}:{number % 256:02X}",
        "network": model.Network(id=NETWORK, label="private", subnets=list(subnets), **meta),
        "type": "ovs",
        "details": details,
        "active": True,
    }
    return model.VIF(**given | values)


def one(port: model.VIF, brand: str = "joyent", **more: Any) -> dict[str, Any]:
    return nic.nic(port, brand=brand, **{"nic_tags": TAGS, **more})


def made(*ports: model.VIF, brand: str = "joyent", **more: Any) -> nic.Network:
    return nic.network(model.NetworkInfo(ports), brand=brand, **{"nic_tags": TAGS, **more})


def refusal(*ports: model.VIF, **more: Any) -> str:
    with pytest.raises(exception.VirtualInterfaceCreateException) as caught:
        made(*ports, **more)
    return str(caught.value)


def a_vm(network: nic.Network, **values: Any) -> vms.Vm:
    """The VM that vmadm shows after it was made with this network."""
    document = {
        "uuid": UUID,
        "brand": "joyent",
        "state": "stopped",
        "zone_state": "installed",
        "nics": network.nics,
        "resolvers": network.resolvers,
        "routes": network.routes,
    }
    return vms.Vm.from_json(document | values)


# One port


def test_a_port_is_a_nic_with_its_addresses_and_its_router() -> None:
    port = vif(subnet("10.0.0.0/24", "10.0.0.5", "10.0.0.6", gateway="10.0.0.1"))
    assert one(port) == {
        "mac": "fa:16:3e:00:00:01",
        "nic_tag": "external",
        "network_uuid": NETWORK,
        "ips": ["10.0.0.5/24", "10.0.0.6/24"],
        "gateways": ["10.0.0.1"],
        "mtu": 1500,
    }


def test_a_subnet_may_be_written_with_any_of_its_addresses() -> None:
    port = vif(subnet("10.0.0.1/24", "10.0.0.5", routes=(("10.9.0.7/16", "10.0.0.9"),)))
    assert one(port)["ips"] == ["10.0.0.5/24"]
    assert made(port).routes == {"10.9.0.0/16": "10.0.0.9"}


def test_addresses_of_both_versions_are_static_also_where_there_is_dhcp() -> None:
    port = vif(
        subnet("10.0.0.0/24", "10.0.0.5", enable_dhcp=True, dhcp_server="10.0.0.2"),
        subnet("fd00::/64", "fd00:0::05", gateway="fd00::1"),
    )
    assert one(port)["ips"] == ["10.0.0.5/24", "fd00::5/64"]
    assert "gateways" not in one(port)


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless", "dhcpv6-stateful"])
def test_where_routers_advertise_the_guest_configures_itself(mode: str) -> None:
    port = vif(subnet("fd00::/64", "fd00::f816:3eff:fe00:1", ipv6_address_mode=mode))
    assert one(port)["ips"] == ["addrconf"]
    assert one(port)["allowed_ips"] == ["fd00::f816:3eff:fe00:1"]


def test_a_subnet_that_has_no_address_for_the_port_leaves_it_to_dhcp_where_there_is_any() -> None:
    port = vif(subnet("10.0.0.0/24", enable_dhcp=True), subnet("fd00::/64", dhcp_server="fd00::2"))
    assert one(port)["ips"] == ["dhcp", "addrconf"]
    assert one(vif(subnet("10.0.0.0/24", enable_dhcp=False)))["ips"] == []
    # vmadm fails to write the files of a zone whose nic has no list of ips
    assert one(vif())["ips"] == []


def test_kvm_hands_its_guest_one_ipv4_address_and_lets_it_use_the_others() -> None:
    port = vif(
        subnet("fd00::/64", "fd00::5"),
        subnet("10.0.0.0/24", "10.0.0.5", "10.0.0.6"),
        subnet("fd01::/64", "fd01::5", ipv6_address_mode="slaac"),
    )
    made = one(port, "kvm")
    assert made["ips"] == ["10.0.0.5/24"]
    assert made["allowed_ips"] == ["fd00::5", "10.0.0.6", "fd01::5"]
    assert one(port, "bhyve")["ips"] == ["fd00::5/64", "10.0.0.5/24", "10.0.0.6/24", "addrconf"]


def test_only_guests_with_a_kernel_of_their_own_see_a_model() -> None:
    assert one(vif(), "bhyve")["model"] == "virtio"
    assert one(vif(), "kvm", model="e1000")["model"] == "e1000"
    assert "model" not in one(vif(), "lx", model="e1000")


@pytest.mark.parametrize(
    "wanted, got",
    [(None, None), (0, None), (1450, None), (1500, 1500), (9000, 9000)],
)
def test_an_mtu_that_no_physical_link_has_less_of(wanted: int | None, got: int | None) -> None:
    assert one(vif(mtu=wanted)).get("mtu") == got


def test_an_mtu_beyond_vmadms_is_refused() -> None:
    assert "MTU 9001" in refusal(vif(mtu=9001))


# Where it is plugged


@pytest.mark.parametrize(
    "details, physical, tags, tag",
    [
        ({"nic_tag": "storage", "physical_network": "physnet1"}, "physnet1", TAGS, "storage"),
        ({"nic_tag": "sdc_overlay/7"}, None, {}, "sdc_overlay/7"),
        ({"physical_network": "physnet1"}, "physnet2", TAGS, "external"),
        ({}, "physnet1", {**TAGS, "*": "admin"}, "external"),
        ({}, None, {**TAGS, "*": "admin"}, "admin"),
    ],
)
def test_the_nic_tag_is_the_bindings_else_that_of_the_physical_network(
    details: dict[str, Any], physical: str | None, tags: dict[str, str], tag: str
) -> None:
    assert one(vif(details=details, physical=physical), nic_tags=tags)["nic_tag"] == tag


@pytest.mark.parametrize(
    "physical, tags, text",
    [
        ("physnet2", {**TAGS, "*": "admin"}, "physical network physnet2"),
        (None, TAGS, "no physical network"),
        ("physnet1", {}, "physical network physnet1"),
    ],
)
def test_without_a_nic_tag_the_fault_names_port_and_option(
    physical: str | None, tags: dict[str, str], text: str
) -> None:
    port = vif(physical=physical)
    said = refusal(port, nic_tags=tags)
    assert port["id"] in said and "[smartos]network_mappings" in said and text in said


@pytest.mark.parametrize("tag", ["", "a b", "x;reboot", "../x", 7, "a/b", "tag\n"])
def test_what_is_no_nic_tag_is_refused(tag: Any) -> None:
    assert "is no nic tag" in refusal(vif(details={"nic_tag": tag}))


@pytest.mark.parametrize(
    "vlan, got",
    [(None, None), (0, None), ("", None), (1, 1), ("100", 100), (4094, 4094)],
)
def test_the_vlan_is_the_bindings(vlan: Any, got: int | None) -> None:
    assert one(vif(details={"vlan": vlan})).get("vlan_id") == got


@pytest.mark.parametrize("vlan", [4095, -1, "x", [1], 70000])
def test_what_is_no_vlan_is_refused(vlan: Any) -> None:
    assert "is no VLAN" in refusal(vif(details={"vlan": vlan}))


@pytest.mark.parametrize("kind", ["binding_failed", "unbound"])
def test_a_port_that_is_not_bound_is_refused(kind: str) -> None:
    assert kind in refusal(vif(type=kind))


@pytest.mark.parametrize("kind", ["direct", "macvtap", "vdpa", "remote-managed"])
def test_a_port_of_another_kind_of_vnic_is_refused(kind: str) -> None:
    assert kind in refusal(vif(vnic_type=kind))


@pytest.mark.parametrize("lacking", [{"address": None}, {"network": None}])
def test_a_port_without_a_mac_address_or_a_network_is_refused(lacking: dict[str, Any]) -> None:
    assert "no MAC address or no network" in refusal(vif(**lacking))


# What it may send


def test_a_nic_is_protected_unless_the_binding_says_otherwise() -> None:
    for details in ({}, {"port_security_enabled": True}, {"port_security_enabled": None}):
        assert not SPOOFING.keys() & one(vif(details=details)).keys()
    assert one(vif(details={"port_security_enabled": False})).items() >= SPOOFING.items()


def test_what_is_not_neutrons_to_say_gives_nothing() -> None:
    port = vif(profile={"port_security_enabled": False, "nic_tag": "admin", "vlan": 7})
    assert not (SPOOFING.keys() | {"vlan_id"}) & one(port).keys()
    assert one(port)["nic_tag"] == "external"


def test_address_pairs_are_allowed() -> None:
    pairs = [
        {"ip_address": "10.0.0.99", "mac_address": "fa:16:3e:00:00:01"},
        {"ip_address": "10.1.0.7/16"},
        {"ip_address": "fd00::9/128"},
        {"ip_address": "10.0.0.99"},
        # its own
        {"ip_address": "10.0.0.5"},
    ]
    got = one(vif(subnet("10.0.0.0/24", "10.0.0.5"), details={"allowed_address_pairs": pairs}))
    assert got["allowed_ips"] == ["10.0.0.99", "10.1.0.0/16", "fd00::9"]
    assert not SPOOFING.keys() & got.keys()


@pytest.mark.parametrize(
    "pair, privilege",
    [
        ({"ip_address": "0.0.0.0/0"}, "allow_ip_spoofing"),
        ({"ip_address": "::/0"}, "allow_ip_spoofing"),
        ({"ip_address": "10.0.0.5", "mac_address": "fa:16:3e:11:22:33"}, "allow_mac_spoofing"),
    ],
)
def test_pairs_that_no_list_can_express(pair: dict[str, str], privilege: str) -> None:
    got = one(vif(details={"allowed_address_pairs": [pair]}))
    assert {name for name in SPOOFING if name in got} == {privilege}


def addresses(count: int) -> list[str]:
    return [f"10.0.0.{number}" for number in range(1, count + 1)]


def test_more_addresses_than_a_nic_has_room_for_are_refused() -> None:
    assert len(one(vif(subnet("10.0.0.0/24", *addresses(20))))["ips"]) == 20
    assert "21 fixed IPs" in refusal(vif(subnet("10.0.0.0/24", *addresses(21))))
    pairs = [{"ip_address": f"10.1.0.{number}"} for number in range(14)]
    assert "14 allowed" in refusal(vif(details={"allowed_address_pairs": pairs}))
    full = vif(subnet("10.0.0.0/24", *addresses(20)), details={"allowed_address_pairs": pairs[:13]})
    assert "33 addresses" in refusal(full)
    full["details"]["allowed_address_pairs"].pop()
    assert len(one(full)["allowed_ips"]) == 12


# All ports


def test_no_port_at_all() -> None:
    for nothing in (None, [], model.NetworkInfo()):
        assert nic.network(nothing, brand="joyent", nic_tags={}) == nic.Network()


def test_nics_come_in_novas_order_and_the_33rd_is_refused() -> None:
    ports = [vif(subnet(f"10.{n}.0.0/24", f"10.{n}.0.5"), number=n) for n in range(33)]
    assert [each["ips"] for each in made(*ports[:32]).nics] == [
        [f"10.{n}.0.5/24"] for n in range(32)
    ]
    assert "32" in refusal(*ports)


def test_the_default_route_is_by_the_first_nic_that_has_a_router() -> None:
    inside = vif(subnet("10.0.0.0/24", "10.0.0.5"), number=1)
    outside = vif(subnet("10.1.0.0/24", "10.1.0.5", gateway="10.1.0.1"), number=2)
    also = vif(subnet("10.2.0.0/24", "10.2.0.5", gateway="10.2.0.1"), number=3)
    flags = [each.get("primary") for each in made(inside, outside, also).nics]
    assert flags == [None, True, None]
    assert made(inside).nics[0]["primary"] is True


def test_the_same_address_on_two_networks_is_refused_since_vmadm_does() -> None:
    two = [vif(subnet("10.0.0.0/24", "10.0.0.5"), number=n, details={"vlan": n}) for n in (1, 2)]
    said = refusal(*two)
    assert two[0]["id"] in said and two[1]["id"] in said and "10.0.0.5/24" in said
    same_mac = [vif(number=1), vif(number=1, id="other")]
    assert "fa:16:3e:00:00:01" in refusal(*same_mac)


def test_resolvers_are_those_of_all_subnets_each_once_in_order() -> None:
    first = vif(
        subnet("10.0.0.0/24", "10.0.0.5", dns=("9.9.9.9", "8.8.8.8")),
        subnet("fd00::/64", "fd00::5", dns=("FD00:0::53",)),
    )
    second = vif(subnet("10.1.0.0/24", "10.1.0.5", dns=("8.8.8.8", "1.1.1.1")), number=2)
    assert made(first, second).resolvers == ["9.9.9.9", "8.8.8.8", "fd00::53", "1.1.1.1"]


def test_without_name_servers_neutrons_dhcp_server_is_one() -> None:
    served = vif(subnet("10.0.0.0/24", "10.0.0.5", dhcp_server="10.0.0.2"))
    assert made(served).resolvers == ["10.0.0.2"]
    none = vif(subnet("10.0.0.0/24", "10.0.0.5", dns=("0.0.0.0",), dhcp_server="10.0.0.2"))
    assert made(none).resolvers == []


def test_host_routes() -> None:
    port = vif(
        subnet(
            "10.0.0.0/24",
            "10.0.0.5",
            gateway="10.0.0.1",
            routes=(
                ("10.9.0.0/16", "10.0.0.9"),
                ("10.8.0.1/32", "10.0.0.8"),
                ("0.0.0.0/0", "10.0.0.254"),
                ("64.0.0.0/2", "10.0.0.7"),
            ),
        ),
        subnet("fd00::/64", "fd00::5", routes=(("fd09::/64", "fd00::9"),)),
    )
    got = made(port)
    assert got.routes == {"10.9.0.0/16": "10.0.0.9", "10.8.0.1/32": "10.0.0.8"}
    # a subnet's route to everywhere comes before its router
    assert got.nics[0]["gateways"] == ["10.0.0.254"]
    assert [sentence.split(": ", 1)[1] for sentence in got.unsaid] == [
        "the route to 64.0.0.0/2 by 10.0.0.7 is left out",
        "the route to fd09::/64 by fd00::9 is left out",
    ]


def test_what_cannot_be_said_is_told() -> None:
    first = vif(
        subnet(
            "10.0.0.0/24", "10.0.0.5", gateway="10.0.0.1", routes=(("10.9.0.0/16", "10.0.0.9"),)
        ),
        subnet("10.1.0.0/24", "10.1.0.5", gateway="10.1.0.1"),
        subnet("fd00::/64", "fd00::5", gateway="fd00::1"),
        mtu=1450,
    )
    second = vif(subnet("10.2.0.0/24", "10.2.0.5", routes=(("10.9.0.0/16", "10.2.0.9"),)), number=2)
    got = made(first, second)
    assert got.nics[0]["gateways"] == ["10.0.0.1"]
    assert got.routes == {"10.9.0.0/16": "10.0.0.9"}
    assert [sentence.split(": ", 1)[1] for sentence in got.unsaid] == [
        "MTU 1450 is less than a nic can have, the guest must lower its own",
        "only the first router of 10.0.0.1, 10.1.0.1 is used",
        "router fd00::1 must advertise itself, vmadm has IPv4 routers only",
        "the route to 10.9.0.0/16 by 10.2.0.9 is left out",
    ]


def test_a_port_that_is_its_subnets_router_has_none() -> None:
    assert "gateways" not in one(vif(subnet("10.0.0.0/24", "10.0.0.1", gateway="10.0.0.1")))


# Any network


def _subnets() -> st.SearchStrategy[model.Subnet]:
    four = st.ip_addresses(v=4, network="10.0.0.0/8")
    six = st.ip_addresses(v=6, network="fd00::/8")

    def built(ip: Any, prefix: int, dns: list[Any], hop: Any, to: Any, meta: Any) -> model.Subnet:
        cidr = ipaddress.ip_network(f"{ip}/{prefix}", strict=False)
        route = ((f"{to}", f"{hop}"),) if to.version == hop.version == cidr.version else ()
        return subnet(
            str(cidr), str(ip), gateway=str(hop), dns=tuple(map(str, dns)), routes=route, **meta
        )

    return st.one_of(
        st.builds(
            built, four, st.integers(8, 32), st.lists(four, max_size=3), four,
            st.integers(0, 32).flatmap(
                lambda size: four.map(lambda ip: ipaddress.ip_network(f"{ip}/{size}", strict=False))
            ),
            st.sampled_from([{}, {"enable_dhcp": True}, {"dhcp_server": "10.0.0.2"}]),
        ),
        st.builds(
            built, six, st.integers(1, 128), st.lists(six, max_size=3), six,
            six.map(lambda ip: ipaddress.ip_network(f"{ip}/64", strict=False)),
            st.sampled_from([{}, {"ipv6_address_mode": "slaac"}]),
        ),
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> list[model.VIF]:
    """Ports as Neutron may have them; no address comes twice, which is refused."""
    ports = draw(st.lists(st.lists(_subnets(), max_size=3), max_size=5))
    seen: set[str] = set()
    for each in itertools.chain.from_iterable(ports):
        each["ips"] = [ip for ip in each["ips"] if ip["address"] not in seen]
        seen |= {ip["address"] for ip in each["ips"]}
    mtu = draw(st.sampled_from([None, 1280, 1500, 9000]))
    vlan = draw(st.sampled_from([None, 7, "4094"]))
    details = {"vlan": vlan, "port_security_enabled": draw(st.booleans())}
    return [vif(*each, number=n, mtu=mtu, details=details) for n, each in enumerate(ports)]


@given(networks(), st.sampled_from(["joyent", "lx", "bhyve", "kvm"]))
def test_every_fixed_ip_may_be_sent_from_and_nothing_else(
    ports: list[model.VIF], brand: str
) -> None:
    for port, got in zip(ports, made(*ports, brand=brand).nics, strict=True):
        fixed = {ip["address"] for ip in port.fixed_ips()}
        given = {ip.partition("/")[0] for ip in got["ips"]} - {"dhcp", "addrconf"}
        if port["details"]["port_security_enabled"]:
            assert given | set(got.get("allowed_ips", ())) == fixed
        assert all(ipaddress.ip_address(each).version == 4 for each in got.get("gateways", ()))


# What differs


def test_a_vm_that_has_its_network_needs_no_update() -> None:
    network = made(
        vif(
            subnet(
                "10.0.0.0/24", "10.0.0.5", dns=("9.9.9.9",), routes=(("10.9.0.0/16", "10.0.0.9"),)
            )
        ),
        vif(number=2, details={"port_security_enabled": False, "vlan": 7}),
    )
    assert nic.differences(a_vm(network), network) is None
    assert nic.differences(a_vm(nic.Network()), nic.Network()) is None


@given(networks())
def test_no_network_differs_from_itself(ports: list[model.VIF]) -> None:
    network = made(*ports, brand="bhyve")
    assert nic.differences(a_vm(network), network) is None


def test_what_has_changed_is_updated_and_only_that() -> None:
    before = made(
        vif(
            subnet(
                "10.0.0.0/24", "10.0.0.5", dns=("9.9.9.9",), routes=(("10.9.0.0/16", "10.0.0.9"),)
            )
        ),
        vif(number=2, details={"port_security_enabled": False, "vlan": 7}),
        vif(number=3),
    )
    after = made(
        vif(
            subnet(
                "10.0.0.0/24", "10.0.0.6", dns=("8.8.8.8",), routes=(("10.7.0.0/16", "10.0.0.9"),)
            )
        ),
        vif(number=2),
        vif(number=4),
    )
    first, second, _, fourth = (f"fa:16:3e:00:00:0{number}" for number in range(1, 5))
    assert nic.differences(a_vm(before), after) == {
        "add_nics": [
            {
                "mac": fourth,
                "nic_tag": "external",
                "network_uuid": NETWORK,
                "ips": [],
                "mtu": 1500,
            }
        ],
        "update_nics": [
            {"mac": first, "ips": ["10.0.0.6/24"]},
            {"mac": second, "vlan_id": 0, **dict.fromkeys(SPOOFING, False)},
        ],
        "remove_nics": ["fa:16:3e:00:00:03"],
        "set_routes": {"10.7.0.0/16": "10.0.0.9"},
        "remove_routes": ["10.9.0.0/16"],
        "resolvers": ["8.8.8.8"],
        "set_internal_metadata": {f"nova:port:{fourth}": "00000000-0000-4000-8000-000000000004"},
    }


def test_a_vm_whose_primary_nic_goes_gets_another() -> None:
    before = made(vif(number=1))
    routed = vif(subnet("10.0.0.0/24", "10.0.0.5", gateway="10.0.0.1"), number=3)
    found = nic.differences(a_vm(before), made(vif(number=2), routed))
    assert found is not None
    assert [each.get("primary") for each in found["add_nics"]] == [None, True]
    kept = nic.differences(a_vm(made(vif(number=2), vif(number=3))), made(vif(number=3)))
    assert kept == {
        "update_nics": [{"mac": "fa:16:3e:00:00:03", "primary": True}],
        "remove_nics": ["fa:16:3e:00:00:02"],
    }


def test_allowed_addresses_are_taken_back_without_an_empty_list() -> None:
    pairs = {"allowed_address_pairs": [{"ip_address": "10.0.0.99"}]}
    port = subnet("10.0.0.0/24", "10.0.0.5")
    with_pair, without = made(vif(port, details=pairs)), made(vif(port))
    taken = nic.differences(a_vm(with_pair), without)
    assert taken == {"update_nics": [{"mac": "fa:16:3e:00:00:01", "allowed_ips": ["10.0.0.5"]}]}
    changed = [{**without.nics[0], "allowed_ips": ["10.0.0.5"]}]
    assert nic.differences(a_vm(without, nics=changed), without) is None
    assert nic.differences(a_vm(without, nics=changed), with_pair) == {
        "update_nics": [{"mac": "fa:16:3e:00:00:01", "allowed_ips": ["10.0.0.99"]}]
    }


def test_what_no_port_decides_stays() -> None:
    wanted = made(vif(mtu=None))
    present = [{**wanted.nics[0], "mtu": 9000, "interface": "net0", "vrrp_vrid": 3}]
    assert nic.differences(a_vm(wanted, nics=present), wanted) is None


# Attach and detach


def test_an_attached_nic_brings_its_routes_and_resolvers() -> None:
    vm = a_vm(made(vif(subnet("10.0.0.0/24", "10.0.0.5", dns=("9.9.9.9",)))))
    port = vif(
        subnet(
            "10.1.0.0/24",
            "10.1.0.5",
            dns=("9.9.9.9", "8.8.8.8"),
            routes=(("10.9.0.0/16", "10.1.0.9"),),
        ),
        number=2,
    )
    added = one(port)
    assert nic.attachment(vm, added, port) == {
        "add_nics": [added],
        "set_internal_metadata": {f"nova:port:{added['mac']}": port["id"]},
        "set_routes": {"10.9.0.0/16": "10.1.0.9"},
        "resolvers": ["9.9.9.9", "8.8.8.8"],
    }


def test_the_only_nic_is_made_primary() -> None:
    added = one(vif())
    assert nic.attachment(a_vm(nic.Network()), added, vif()) == {
        "add_nics": [{**added, "primary": True}],
        "set_internal_metadata": {f"nova:port:{added['mac']}": vif()["id"]},
    }


def test_a_nic_that_is_there_is_not_added_twice() -> None:
    network = made(vif())
    assert nic.attachment(a_vm(network), one(vif()), vif()) is None
    other = one(vif(details={"vlan": 7}))
    assert nic.attachment(a_vm(network), other, vif()) == {
        "update_nics": [{"mac": "fa:16:3e:00:00:01", "vlan_id": 7}]
    }
    assert not nic.has(a_vm(network), other)
    assert nic.has(a_vm(network), one(vif()))
    assert not nic.has(a_vm(nic.Network()), one(vif()))
    assert not nic.has(None, one(vif()))


def test_the_33rd_nic_has_no_room_but_one_of_the_32_is_there() -> None:
    vm = a_vm(made(*[vif(number=n) for n in range(32)]))
    with pytest.raises(exception.VirtualInterfaceCreateException, match="32"):
        nic.check_room(vm, one(vif(number=32)))
    nic.check_room(vm, one(vif(number=31)))


def test_a_detached_nic_takes_along_what_it_alone_brought() -> None:
    kept = vif(subnet("10.0.0.0/24", "10.0.0.5", gateway="10.0.0.1", dns=("9.9.9.9",)), number=1)
    last = vif(subnet("10.2.0.0/24", "10.2.0.5", gateway="10.2.0.1"), number=3)
    gone = vif(
        subnet(
            "10.1.0.0/24",
            "10.1.0.5",
            dns=("9.9.9.9", "8.8.8.8"),
            routes=(("10.9.0.0/16", "10.1.0.9"),),
        ),
        number=2,
    )
    mac = "fa:16:3e:00:00:02"
    vm = a_vm(made(kept, gone, last), internal_metadata={f"nova:port:{mac}": gone["id"]})
    assert nic.detachment(vm, mac, gone, [kept, last]) == {
        "remove_nics": [mac],
        "remove_internal_metadata": [f"nova:port:{mac}"],
        "remove_routes": ["10.9.0.0/16"],
        "resolvers": ["9.9.9.9"],
    }
    first = nic.detachment(vm, "fa:16:3e:00:00:01", kept, [gone, last])
    assert first == {
        "remove_nics": ["fa:16:3e:00:00:01"],
        "update_nics": [{"mac": "fa:16:3e:00:00:03", "primary": True}],
    }


def test_a_nic_is_silenced_by_taking_all_it_may_send() -> None:
    port = vif(
        subnet("10.0.0.0/24", "10.0.0.5"),
        details={
            "allowed_address_pairs": [
                {"ip_address": "10.0.0.9", "mac_address": "02:00:00:00:00:09"}
            ]
        },
    )
    present = a_vm(made(port)).nics[0]
    assert nic.silenced(present) == {
        "update_nics": [
            {"mac": present.mac, "ips": [], "allowed_ips": [], "allow_mac_spoofing": False}
        ]
    }
    assert nic.restored(present) == {
        "update_nics": [
            {
                "mac": present.mac,
                "ips": ["10.0.0.5/24"],
                "allowed_ips": ["10.0.0.9"],
                "allow_mac_spoofing": True,
            }
        ]
    }
    # as vmadm shows it then
    silent = a_vm(made(vif()), nics=[{"mac": present.mac, "allowed_ips": [""]}]).nics[0]
    assert nic.silenced(silent) is None
    assert nic.restored(silent) == {"update_nics": [{"mac": present.mac}]}


def test_a_silenced_nic_differs_and_is_given_back_what_it_had() -> None:
    wanted = made(vif(subnet("10.0.0.0/24", "10.0.0.5")))
    silent = [{**wanted.nics[0], "ips": [], "allowed_ips": [""]}]
    assert nic.differences(a_vm(wanted, nics=silent), wanted) == {
        "update_nics": [{"mac": wanted.nics[0]["mac"], "ips": ["10.0.0.5/24"]}]
    }
