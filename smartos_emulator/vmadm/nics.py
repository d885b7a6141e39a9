# SPDX-License-Identifier: Apache-2.0
"""The nics of a payload in one form: a MAC address each, addresses in `ips` and `gateways`."""

import random
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, errors


def name(added: list[Any], source: random.Random) -> None:
    """Give each added nic a MAC address, and settle its deprecated spellings."""
    for nic in added:
        if not js.own(nic, "mac"):
            vrid = js.get(nic, "vrrp_vrid")
            given = js.own(nic, "vrrp_vrid")
            js.put(nic, "mac", addresses.vrrp_mac(vrid) if given else _new_mac(source))
        js.drop(nic, "index")
        if js.own(nic, "interface"):
            js.put(nic, "physical", js.get(nic, "interface"))
            js.drop(nic, "interface")
        if js.own(nic, "primary"):
            if js.truthy(js.get(nic, "primary")):
                js.put(nic, "primary", True)
            else:
                js.drop(nic, "primary")


def _new_mac(source: random.Random) -> str:
    octets = [f"{source.randint(1, 255):02x}" for _ in range(5)]
    return ":".join([f"{source.randint(1, 15):x}2", *octets])


def upgrade_added(added: list[Any]) -> None:
    """Bring each added nic to its present form."""
    for nic in added:
        _upgrade(nic)
    for nic in added:
        if not js.own(nic, "ips"):
            js.put(nic, "ips", [])


def _upgrade(nic: Any) -> None:
    """Replace `ip`, `netmask` and `gateway` by the lists of today."""
    if js.own(nic, "netmask") and not addresses.is_netmask(js.get(nic, "netmask")):
        raise errors.PayloadError(
            f"Specified netmask value is invalid: {js.text(js.get(nic, 'netmask'))}"
        )
    if js.own(nic, "ip"):
        if not js.own(nic, "ips"):
            _set_ips(nic, js.get(nic, "ip"))
        js.drop(nic, "ip")
    if js.own(nic, "gateway"):
        if not js.own(nic, "gateways"):
            js.put(nic, "gateways", [js.get(nic, "gateway")])
        js.drop(nic, "gateway")


def _set_ips(nic: Any, ip: Any) -> None:
    if addresses.is_automatic(ip):
        js.put(nic, "ips", [ip])
    elif js.own(nic, "netmask"):
        bits = addresses.mask_bits(js.text(js.get(nic, "netmask")))
        js.put(nic, "ips", [f"{js.text(ip)}/{bits}"])
        js.drop(nic, "netmask")
    else:
        raise errors.PayloadError(f"Missing .netmask option for NIC: {js.dumps(nic)}")


def upgrade_changed(changed: list[Any], vm: dict[str, Any]) -> None:
    """Bring each change to today's form, with what the VM's nic tells of the rest."""
    for nic in changed:
        _upgrade_change(nic, vm)


def _upgrade_change(nic: Any, vm: dict[str, Any]) -> None:
    if not js.own(nic, "mac"):
        raise errors.PayloadError("NIC object needs a .mac property to update")
    present = next((one for one in vm["nics"] if js.same(one.get("mac"), nic["mac"])), None)
    if present is None:
        raise errors.PayloadError("There is no existing NIC with that mac address")
    if not js.own(nic, "ips"):
        _fill_in(nic, present)
    _upgrade(nic)


def _fill_in(nic: dict[str, Any], present: dict[str, Any]) -> None:
    """A change of only the address or only the netmask takes the other from the nic."""
    if "netmask" in nic:
        if "ip" not in nic:
            nic["ip"] = _only_address(present)[0]
    elif "ip" in nic and not addresses.is_automatic(nic["ip"]):
        netmask = _only_address(present)[1]
        if netmask is js.UNDEFINED:
            raise errors.PayloadError(
                "Updating IP address of NIC, but there is currently no specified netmask"
            )
        nic["netmask"] = netmask


def _only_address(present: dict[str, Any]) -> tuple[Any, Any]:
    """The one IPv4 address of a nic and its netmask."""
    if "ips" in present:
        ips = present["ips"]
        if len(ips) == 1 and addresses.is_cidr4(ips[0]):
            bits = addresses.prefix_of(ips[0])
            return addresses.address_of(ips[0]), addresses.netmask(bits)
    elif "ip" in present:
        return present["ip"], present.get("netmask", js.UNDEFINED)
    raise errors.PayloadError("Need a single existing IPv4 address to update .ip or .netmask")
