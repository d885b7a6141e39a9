# SPDX-License-Identifier: Apache-2.0
"""The nics of a VM as its configuration keeps them."""

import ipaddress
import re
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, properties

Nic = dict[str, Any]

_PRIVATE = [ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
_COMMAS = ("gateways", "ips", "allowed_ips", "allowed_dhcp_cids", "blocked_outgoing_ports")
_ORDER = (
    "interface",
    "mac",
    "vlan_id",
    "nic_tag",
    "gateway",
    "gateways",
    "netmask",
    "ip",
    "ips",
    "allowed_ips",
    "allowed_dhcp_cids",
    "network_uuid",
    "model",
    "dhcp_server",
    "allow_dhcp_spoofing",
    "blocked_outgoing_ports",
    "allow_ip_spoofing",
    "allow_mac_spoofing",
    "allow_restricted_traffic",
    "allow_unfiltered_promisc",
    "vrrp_vrid",
    "vrrp_primary_ip",
    "mtu",
    "primary",
)


def configure(present: list[Nic], payload: dict[str, Any], brand: properties.Brand) -> list[Nic]:
    """The nics after a payload's additions, changes and removals."""
    added = payload.get("add_nics", [])
    changes = {change["mac"]: change for change in payload.get("update_nics", [])}
    removed = payload.get("remove_nics", [])
    primary = _new_primary([*added, *changes.values()]) or _successor(present, removed)
    kept = [nic for nic in present if nic["mac"] not in changes]
    # a changed nic is taken out and added again, behind the others
    anew = [nic | changes[nic["mac"]] for nic in present if nic["mac"] in changes]
    used = {_number(nic, brand) for nic in present}
    for nic in added:
        anew.append(nic | {"interface": _free_interface(used, brand)})
    nics = kept + [_object(nic) for nic in anew]
    gone = {_plain(mac) for mac in removed}
    nics = [nic for nic in nics if _plain(nic["mac"]) not in gone]
    if primary:
        for nic in nics:
            nic.pop("primary", None)
            if nic["mac"] == primary:
                nic["primary"] = True
    return sorted(nics, key=_place)


def _plain(mac: Any) -> str:
    """A MAC address as the zone's configuration compares it."""
    return addresses.parse_mac(mac) or js.text(mac)


def _new_primary(nics: list[Nic]) -> Any:
    chosen = [nic["mac"] for nic in nics if js.truthy(nic.get("primary"))]
    return chosen[-1] if chosen else None


def _successor(present: list[Nic], removed: list[str]) -> Any:
    """Who follows a primary nic that is removed: one with a public address before all others."""
    if not any(nic["mac"] in removed and nic.get("primary") for nic in present):
        return None
    candidates: dict[bool, Any] = {}
    for nic in present:
        if nic["mac"] in removed:
            continue
        # a nic stands for the first of its addresses whose kind has no candidate yet
        kinds = [kind for kind in map(_is_private, nic.get("ips", [])) if kind not in candidates]
        if kinds:
            candidates[kinds[0]] = nic["mac"]
    return candidates.get(False, candidates.get(True))


def _is_private(entry: str) -> bool:
    address = addresses.address_of(entry)
    return addresses.version(address) == 4 and any(
        ipaddress.ip_address(address) in network for network in _PRIVATE
    )


def _number(nic: Nic, brand: properties.Brand) -> int:
    found = re.fullmatch(f"{brand.interface_prefix}([0-9]+)", nic.get("interface", ""))
    return int(found.group(1)) if found else -1


def _free_interface(used: set[int], brand: properties.Brand) -> str:
    number = next(free for free in range(len(used) + 1) if free not in used)
    used.add(number)
    return f"{brand.interface_prefix}{number}"


def _place(nic: Nic) -> int:
    found = re.fullmatch("net([0-9]+)", nic["interface"])
    return int(found.group(1)) if found else 0


def _object(nic: Nic) -> Nic:
    """A nic in the form and order that its configuration gives back."""
    made = {name: _stored(name, nic[name]) for name in _ORDER if _is_written(name, nic)}
    if "vrrp_vrid" in made:
        made["mac"] = addresses.vrrp_mac(made["vrrp_vrid"])
    _add_representatives(made)
    if not made.get("primary", True):
        del made["primary"]
    return {name: made[name] for name in _ORDER if name in made}


def _is_written(name: str, nic: Nic) -> bool:
    unwritten = {"vlan_id": "0", "allowed_dhcp_cids": []}
    return name in nic and (name not in unwritten or nic[name] != unwritten[name])


def _stored(name: str, value: Any) -> Any:
    if name in _COMMAS:
        items = js.text(value).split(",")
        return [js.number(item) for item in items] if name == "blocked_outgoing_ports" else items
    entry = properties.PROPERTIES.get(f"nics.*.{name}")
    if entry and entry.type == "integer":
        return js.number(value)
    if entry and entry.type == "boolean":
        return {"true": True, "false": False}.get(js.text(value), js.text(value))
    return js.text(value)


def _add_representatives(nic: Nic) -> None:
    """The first IPv4 gateway and address in the fields that older tools read."""
    for name, singles in (("gateways", ("gateway",)), ("ips", ("ip", "netmask"))):
        if name in nic:
            for single in singles:
                nic.pop(single, None)
            if nic[name] == [""]:
                del nic[name]
    gateways = [gateway for gateway in nic.get("gateways", []) if addresses.version(gateway) == 4]
    if gateways:
        nic["gateway"] = gateways[0]
    entries = [ip for ip in nic.get("ips", []) if ip == "dhcp" or addresses.is_cidr4(ip)]
    if entries:
        nic["ip"] = addresses.address_of(entries[0])
        if "/" in entries[0]:
            nic["netmask"] = addresses.netmask(addresses.prefix_of(entries[0]))
