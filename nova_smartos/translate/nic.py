# SPDX-License-Identifier: Apache-2.0
"""Nova's network information as vmadm's nics, resolvers and routes.

Addresses are static whenever Neutron names them: that works without a DHCP server, KVM's own DHCP
hands them to its guest, and they are what a nic may send from. Only a subnet whose guests configure
themselves by router advertisements becomes `addrconf`.

What allows one nic more than its own addresses stands in the binding's details, which Neutron alone
writes; a port's profile and an image have no say in it. What a flavor allows all nics of its
instances, `payload.wired` adds.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from nova import exception
from nova.network import model as network_model

from nova_smartos.smartos import vms
from nova_smartos.translate import identity

#: The physical network in [smartos]network_mappings of ports that name none.
ANY = "*"
#: Most nics of one VM.
MOST = 32

_MODEL = "virtio"
# what vmadm accepts: its VM.js and proptable.js
_MOST_IPS = 20
_MOST_ALLOWED_IPS = 13
_MOST_ALL_IPS = 32
_SHORTEST_PREFIX = 8
_MTUS = range(1500, 9001)
_VLANS = range(4095)
_TAG = re.compile(r"[A-Za-z0-9_]+(?:/[0-9]+)?")

_SPOOFING = (
    "allow_dhcp_spoofing",
    "allow_ip_spoofing",
    "allow_mac_spoofing",
    "allow_restricted_traffic",
)
_PRIVILEGES = (*_SPOOFING, "allow_unfiltered_promisc")
# How an update takes a property back. What is not here can only be given another value.
_UNSET: Mapping[str, Any] = {
    "gateways": [],
    "ips": [],
    "vlan_id": 0,
    **dict.fromkeys(_PRIVILEGES, False),
}
_UNUSABLE = (network_model.VIF_TYPE_BINDING_FAILED, network_model.VIF_TYPE_UNBOUND)

_Nic: TypeAlias = dict[str, Any]
_Vif: TypeAlias = network_model.VIF
_Route: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]


@dataclasses.dataclass(frozen=True)
class Network:
    """What a payload says about the network of a VM."""

    nics: list[_Nic] = dataclasses.field(default_factory=list)
    resolvers: list[str] = dataclasses.field(default_factory=list)
    routes: dict[str, str] = dataclasses.field(default_factory=dict)
    #: for the log: what Neutron wants and no payload can say
    unsaid: tuple[str, ...] = ()
    #: by the nic's MAC address; the metering plugin names a nic's meters after its port
    ports: dict[str, str] = dataclasses.field(default_factory=dict)


def attachment(vm: vms.Vm, wanted: _Nic, vif: _Vif) -> dict[str, Any] | None:
    """The update that gives a VM one more nic; None when it has it."""
    present = by_mac(vm).get(wanted["mac"])
    # vmadm itself makes no added nic the primary one, not even the only
    first = {} if any(each.primary for each in vm.nics) else {"primary": True}
    update: dict[str, Any] = {}
    if present is None:
        update["add_nics"] = [wanted | first]
        update["set_internal_metadata"] = identity.port_marks({wanted["mac"]: vif["id"]})
    elif changed := _changes(present, wanted) | first:
        update["update_nics"] = [{"mac": present.mac, **changed}]
    new = {to: gateway for to, gateway in routes([vif]).items() if to not in vm.routes}
    if new:
        update["set_routes"] = new
    servers = list(dict.fromkeys([*vm.resolvers, *resolvers([vif])]))
    if servers != list(vm.resolvers):
        update["resolvers"] = servers
    return update or None


def by_mac(vm: vms.Vm) -> dict[str, vms.Nic]:
    """The nics of a VM by their MAC addresses, in Neutron's form."""
    return {nic.mac.lower(): nic for nic in vm.nics}


def check_room(vm: vms.Vm, wanted: _Nic) -> None:
    """Refuse a nic for which the VM has no room."""
    if len({*by_mac(vm), wanted["mac"]}) > MOST:
        raise exception.VirtualInterfaceCreateException(
            f"The VM has {len(vm.nics)} nics, and {MOST} is the most on SmartOS"
        )


def detachment(vm: vms.Vm, mac: str, vif: _Vif, others: Sequence[_Vif]) -> dict[str, Any]:
    """The update that takes a nic from a VM, with the routes and resolvers of its port alone."""
    present = by_mac(vm)
    gone = present.pop(mac)
    update: dict[str, Any] = {"remove_nics": [gone.mac]}
    if known := [
        key for key in identity.port_marks({mac: vif["id"]}) if key in vm.internal_metadata
    ]:
        update["remove_internal_metadata"] = known
    if gone.primary and present:
        heir = primary([{"mac": nic.mac, "gateways": nic.gateways} for nic in present.values()])
        update["update_nics"] = [{"mac": heir["mac"], "primary": True}]
    kept = routes(others)
    old = [to for to, gateway in routes([vif]).items() if vm.routes.get(to) == gateway]
    if unrouted := [to for to in old if to not in kept]:
        update["remove_routes"] = unrouted
    lost = set(resolvers([vif])) - set(resolvers(others))
    if lost & set(vm.resolvers):
        update["resolvers"] = [each for each in vm.resolvers if each not in lost]
    return update


def differences(vm: vms.Vm, wanted: Network) -> dict[str, Any] | None:
    """The update that gives a VM the network which Nova wants for it; None when it has it."""
    present = by_mac(vm)
    expected = {nic["mac"]: _without_primary(nic) for nic in wanted.nics}
    added = {mac: nic for mac, nic in expected.items() if mac not in present}
    changed = {mac: _changes(present[mac], nic) for mac, nic in expected.items() if mac in present}
    if wanted.nics and not any(present[mac].primary for mac in changed):
        chosen = primary(wanted.nics)["mac"]
        (added.get(chosen) or changed[chosen])["primary"] = True
    update = {
        "add_nics": list(added.values()),
        "update_nics": [{"mac": present[mac].mac, **new} for mac, new in changed.items() if new],
        "remove_nics": [nic.mac for mac, nic in present.items() if mac not in expected],
        "set_internal_metadata": identity.port_marks(
            {mac: port for mac, port in wanted.ports.items() if mac in added}
        ),
        "set_routes": {
            destination: gateway
            for destination, gateway in wanted.routes.items()
            if vm.routes.get(destination) != gateway
        },
        "remove_routes": [each for each in vm.routes if each not in wanted.routes],
    }
    update = {key: value for key, value in update.items() if value}
    if list(vm.resolvers) != wanted.resolvers:
        update["resolvers"] = wanted.resolvers
    return update or None


def has(vm: vms.Vm | None, wanted: _Nic) -> bool:
    """Whether a VM has a nic as it is wanted."""
    present = None if vm is None else by_mac(vm).get(wanted["mac"])
    return present is not None and not _changes(present, wanted)


def network(
    network_info: Sequence[_Vif] | None,
    *,
    brand: str,
    nic_tags: Mapping[str, str],
    model: str | None = None,
) -> Network:
    """Every port as a nic, in Nova's order. What cannot be is refused, and names its port."""
    vifs = list(network_info or ())
    if len(vifs) > MOST:
        raise exception.VirtualInterfaceCreateException(
            f"A VM on SmartOS has {MOST} nics at most, not {len(vifs)}"
        )
    nics = [nic(vif, brand=brand, nic_tags=nic_tags, model=model) for vif in vifs]
    _check_together(vifs, nics)
    if nics:
        primary(nics)["primary"] = True
    ports = {vif["address"].lower(): vif["id"] for vif in vifs}
    return Network(nics, resolvers(vifs), routes(vifs), tuple(unsaid(vifs)), ports)


def nic(vif: _Vif, *, brand: str, nic_tags: Mapping[str, str], model: str | None = None) -> _Nic:
    """One port as a nic, protected against spoofing unless Neutron says otherwise."""
    _check_binding(vif)
    ips, allowed = _addresses(vif, brand)
    pairs, privileges = _security(vif)
    allowed = list(dict.fromkeys([*allowed, *pairs]))
    _check_limits(vif, ips, allowed)
    vlan = _vlan(vif)
    gateway = _gateway(vif)
    return {
        "mac": vif["address"].lower(),
        "nic_tag": _nic_tag(vif, nic_tags),
        "network_uuid": vif["network"]["id"],
        # vmadm takes a nic without ips, and fails to write a zone's files for it
        "ips": ips,
        **({"vlan_id": vlan} if vlan else {}),
        **({"gateways": [gateway]} if gateway else {}),
        **({"allowed_ips": allowed} if allowed else {}),
        **({"mtu": mtu} if (mtu := _mtu(vif)) else {}),
        **({"model": model or _MODEL} if brand in vms.HVM_BRANDS else {}),
        **dict.fromkeys(privileges, True),
    }


def primary(nics: Sequence[_Nic]) -> _Nic:
    """The nic with the guest's default route: the first that has a router."""
    return next((each for each in nics if each.get("gateways")), nics[0])


def resolvers(vifs: Sequence[_Vif]) -> list[str]:
    """The name servers of all subnets, each once.

    A subnet that names none is served by Neutron's own DHCP server, as a DHCP client would learn.
    """
    found: dict[str, None] = {}
    for vif in vifs:
        for subnet in _subnets(vif):
            servers = [each["address"] for each in subnet["dns"]]
            if not servers and subnet.get_meta("dhcp_server"):
                servers = [subnet.get_meta("dhcp_server")]
            # Neutron's word for "none at all" is the unspecified address
            addresses = [ipaddress.ip_address(each) for each in servers]
            found.update((str(each), None) for each in addresses if not each.is_unspecified)
    return list(found)


def routes(vifs: Sequence[_Vif]) -> dict[str, str]:
    """The host routes that vmadm can express; of two to one destination, the first port's."""
    found: dict[str, str] = {}
    for vif in vifs:
        for destination, gateway in _host_routes(vif):
            if _expressible(destination):
                found.setdefault(str(destination), gateway)
    return found


def restored(nic: vms.Nic) -> dict[str, Any]:
    """The update that gives a silenced nic back what it had."""
    lists = {"ips": list(nic.ips), "allowed_ips": _allowed(nic)}
    flags = {name: True for name in _SPOOFING if getattr(nic, name)}
    given = {name: value for name, value in lists.items() if value}
    return {"update_nics": [{"mac": nic.mac, **given, **flags}]}


def silenced(nic: vms.Nic) -> dict[str, Any] | None:
    """The update after which a nic of a running VM sends nothing more; None when it cannot."""
    sends = {"ips": bool(nic.ips), "allowed_ips": bool(_allowed(nic))}
    changed: dict[str, Any] = {name: [] for name, some in sends.items() if some}
    changed |= {name: False for name in _SPOOFING if getattr(nic, name)}
    return {"update_nics": [{"mac": nic.mac, **changed}]} if changed else None


def unsaid(vifs: Sequence[_Vif]) -> Iterator[str]:
    """What Neutron wants and vmadm cannot express, in sentences."""
    chosen = routes(vifs)
    for vif in vifs:
        port = f"Port {vif['id']}: "
        mtu = vif["network"].get_meta("mtu")
        if mtu and mtu < _MTUS.start:
            yield f"{port}MTU {mtu} is less than a nic can have, the guest must lower its own"
        gateways = _gateways(vif)
        if len(gateways) > 1:
            yield f"{port}only the first router of {', '.join(gateways)} is used"
        for subnet in _subnets(vif):
            router = (subnet["gateway"] or {}).get("address")
            if subnet["version"] == 6 and router and not subnet.get_meta("ipv6_address_mode"):
                yield f"{port}router {router} must advertise itself, vmadm has IPv4 routers only"
        for destination, gateway in _host_routes(vif):
            if destination.prefixlen and chosen.get(str(destination)) != gateway:
                yield f"{port}the route to {destination} by {gateway} is left out"


def _addresses(vif: _Vif, brand: str) -> tuple[list[str], list[str]]:
    """What the nic is given, and what it may use besides."""
    given: dict[str, str] = {}
    allowed: list[str] = []
    for subnet in _subnets(vif):
        prefix = ipaddress.ip_network(subnet["cidr"], strict=False).prefixlen
        fixed = [str(ipaddress.ip_address(ip["address"])) for ip in subnet["ips"]]
        if subnet["version"] == 6 and subnet.get_meta("ipv6_address_mode"):
            # the guest makes the address itself, and it is the one that Neutron has computed
            given["addrconf"] = "addrconf"
            allowed += fixed
        elif fixed:
            for address in fixed:
                given.setdefault(address, f"{address}/{prefix}")
        elif subnet.get_meta("enable_dhcp") or subnet.get_meta("dhcp_server"):
            automatic = "dhcp" if subnet["version"] == 4 else "addrconf"
            given[automatic] = automatic
    if brand == "kvm":
        # the DHCP server inside QEMU hands out one IPv4 address, and nothing else
        first = next((each for each in given if each == "dhcp" or "." in each), None)
        allowed = [each for each in given if ":" in each or "." in each and each != first] + allowed
        given = {first: given[first]} if first else {}
    return list(given.values()), allowed


def _allowed(nic: vms.Nic) -> list[str]:
    """vmadm keeps a list that was emptied as one empty address."""
    return [each for each in nic.allowed_ips if each]


def _changes(present: vms.Nic, wanted: _Nic) -> _Nic:
    """The properties of a nic that differ. Those that no port decides stay as they are."""
    now = {
        "gateways": list(present.gateways),
        "ips": list(present.ips),
        "model": present.model,
        "mtu": present.mtu_bytes,
        "network_uuid": present.network_uuid,
        "nic_tag": present.nic_tag,
        "vlan_id": present.vlan_id or 0,
        **{name: getattr(present, name) for name in _PRIVILEGES},
    }
    known = {**_UNSET, **wanted}
    changed = {name: known[name] for name, old in now.items() if known.get(name, old) != old}
    own = {ip.partition("/")[0] for ip in known["ips"]}
    allowed = wanted.get("allowed_ips", [])
    if set(_allowed(present)) - own != set(allowed) - own:
        # not an empty list, see _allowed(): the nic's own addresses say nothing new
        changed["allowed_ips"] = allowed or sorted(own - {"dhcp", "addrconf"})
    return changed


def _check_binding(vif: _Vif) -> None:
    if vif["type"] in _UNUSABLE:
        raise _fault(vif, f"Neutron did not bind it to this host (vif_type {vif['type']})")
    if vif["vnic_type"] != network_model.VNIC_TYPE_NORMAL:
        raise _fault(vif, f"SmartOS has no vnic_type {vif['vnic_type']}, only normal")
    if not vif["address"] or not vif["network"]:
        raise _fault(vif, "it has no MAC address or no network")


def _check_limits(vif: _Vif, ips: list[str], allowed: list[str]) -> None:
    for what, count, most in (
        ("fixed IPs", len(ips), _MOST_IPS),
        ("allowed addresses", len(allowed), _MOST_ALLOWED_IPS),
        ("addresses", len(ips) + len(allowed), _MOST_ALL_IPS),
    ):
        if count > most:
            raise _fault(vif, f"{count} {what}, but a nic has {most} at most")


def _check_together(vifs: list[_Vif], nics: list[_Nic]) -> None:
    """Networks may use the same addresses, but vmadm wants each once in a VM."""
    owners: dict[str, str] = {}
    for vif, each in zip(vifs, nics, strict=True):
        for address in (each["mac"], *(ip for ip in each["ips"] if "/" in ip)):
            owner = owners.setdefault(address, vif["id"])
            if owner != vif["id"]:
                raise _fault(vif, f"port {owner} of the same VM has {address}, too")


def _expressible(destination: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return destination.version == 4 and destination.prefixlen >= _SHORTEST_PREFIX


def _fault(vif: _Vif, text: str) -> exception.VirtualInterfaceCreateException:
    return exception.VirtualInterfaceCreateException(f"Port {vif['id']}: {text}")


def _gateway(vif: _Vif) -> str | None:
    return next(iter(_gateways(vif)), None)


def _gateways(vif: _Vif) -> list[str]:
    """The IPv4 routers; a subnet's own route to everywhere comes before its router."""
    found: dict[str, None] = {}
    own = {str(ipaddress.ip_address(ip["address"])) for ip in vif.fixed_ips()}
    for subnet in _subnets(vif):
        if subnet["version"] != 4 or not subnet["ips"]:
            continue
        default = [gateway for to, gateway in _subnet_routes(subnet) if not to.prefixlen]
        router = default[0] if default else (subnet["gateway"] or {}).get("address")
        if router and router not in own:
            found[router] = None
    return list(found)


def _host_routes(vif: _Vif) -> Iterator[_Route]:
    for subnet in _subnets(vif):
        for destination, gateway in _subnet_routes(subnet):
            # the default route of IPv4 is the gateway of a nic
            if destination.version == 6 or destination.prefixlen:
                yield destination, gateway


def _mtu(vif: _Vif) -> int | None:
    """None for the nic tag's own, which is as near as a nic gets to less than 1500."""
    mtu = vif["network"].get_meta("mtu")
    if not mtu or mtu < _MTUS.start:
        return None
    if mtu not in _MTUS:
        raise _fault(vif, f"MTU {mtu}, but a nic has {_MTUS.stop - 1} at most")
    return int(mtu)


def _nic_tag(vif: _Vif, nic_tags: Mapping[str, str]) -> str:
    details = vif["details"]
    tag = details.get("nic_tag")
    if tag is None:
        physical = details.get(network_model.VIF_DETAILS_PHYSICAL_NETWORK) or vif[
            "network"
        ].get_meta("physical_network")
        tag = nic_tags.get(physical or ANY)
        if tag is None:
            where = f"physical network {physical}" if physical else "no physical network"
            raise _fault(
                vif,
                f"no nic tag for {where}: name it in [smartos]network_mappings "
                f"(HOST:{physical or ANY}:TAG)",
            )
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise _fault(vif, f"{tag!r} is no nic tag")
    return tag


def _security(vif: _Vif) -> tuple[list[str], list[str]]:
    """The addresses that Neutron allows besides a port's own, and what it does not protect.

    vmadm cannot allow one more MAC address, nor all addresses of one version: then any goes.
    """
    details = vif["details"]
    if details.get("port_security_enabled") is False:
        return [], list(_SPOOFING)
    allowed: list[str] = []
    privileges: list[str] = []
    own = {str(ipaddress.ip_address(ip["address"])) for ip in vif.fixed_ips()}
    for pair in details.get("allowed_address_pairs") or ():
        subnet = ipaddress.ip_network(pair["ip_address"], strict=False)
        if not subnet.prefixlen:
            privileges.append("allow_ip_spoofing")
        elif subnet.prefixlen < subnet.max_prefixlen:
            allowed.append(str(subnet))
        elif str(subnet.network_address) not in own:
            allowed.append(str(subnet.network_address))
        if (pair.get("mac_address") or vif["address"]).lower() != vif["address"].lower():
            privileges.append("allow_mac_spoofing")
    return allowed, list(dict.fromkeys(privileges))


def _subnet_routes(subnet: network_model.Subnet) -> Iterator[_Route]:
    for route in subnet["routes"]:
        yield ipaddress.ip_network(route["cidr"], strict=False), route["gateway"]["address"]


def _subnets(vif: _Vif) -> list[network_model.Subnet]:
    return list(vif["network"]["subnets"])


def _vlan(vif: _Vif) -> int:
    """0 for none: then the port uses the nic tag's network as it is."""
    vlan = vif["details"].get(network_model.VIF_DETAILS_VLAN) or 0
    try:
        number = int(vlan)
    except (TypeError, ValueError):
        number = -1
    if number not in _VLANS:
        raise _fault(vif, f"{vlan!r} is no VLAN")
    return number


def _without_primary(nic: _Nic) -> _Nic:
    return {name: value for name, value in nic.items() if name != "primary"}
