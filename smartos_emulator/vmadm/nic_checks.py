# SPDX-License-Identifier: Apache-2.0
"""The rules between the nics of a VM, and its routes through them."""

import dataclasses
import re
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, errors, properties

_TAG = re.compile(r"[a-zA-Z0-9_]+")
_NEW_TAG = re.compile(r"[a-zA-Z0-9_/]+")
_BY_MAC = re.compile(r"macs\[(.+)\]")
_BY_NUMBER = re.compile(r"nics\[([0-9]+)\]")
_MOST_IPS = 20
_MOST_ALLOWED_IPS = 13
_MOST_ALL_IPS = 32
_MOST_CLIENT_IDS = 20
_LONGEST_CLIENT_IDS = 1024


@dataclasses.dataclass
class Nics:
    """The nics as they will be, and what is new about them."""

    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    changed: list[Any] = dataclasses.field(default_factory=list)
    current_ips: list[Any] = dataclasses.field(default_factory=list)
    current_macs: list[Any] = dataclasses.field(default_factory=list)
    current_vrids: list[Any] = dataclasses.field(default_factory=list)
    primary_ips: list[Any] = dataclasses.field(default_factory=list)
    ips: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    macs: list[Any] = dataclasses.field(default_factory=list)
    vrids: list[Any] = dataclasses.field(default_factory=list)
    primaries: int = 0

    def learn(self, vm: dict[str, Any], changes: list[Any]) -> None:
        """Take in the VM's present nics; addresses that are about to change do not count."""
        changed = {js.text(change["mac"]): change for change in changes}
        for nic in vm.get("nics", []):
            mac = _key(nic)
            if mac:
                self.result.setdefault(mac, nic)
            if "ips" in nic and "ips" not in changed.get(mac, {}):
                self.current_ips += [ip for ip in nic["ips"] if not addresses.is_automatic(ip)]
            for name, known in (
                ("mac", self.current_macs),
                ("vrrp_vrid", self.current_vrids),
                ("vrrp_primary_ip", self.primary_ips),
            ):
                if name in nic:
                    known.append(nic[name])


def _key(nic: Any) -> str:
    """The MAC address that tells a nic from the others."""
    if js.own(nic, "mac"):
        return js.text(js.get(nic, "mac"))
    return addresses.vrrp_mac(nic["vrrp_vrid"]) if js.own(nic, "vrrp_vrid") else ""


def check(payload: dict[str, Any], vm: dict[str, Any], brand: properties.Brand) -> Nics:
    """Check new and changed nics one by one, then what all of them make together."""
    nics = Nics()
    nics.learn(vm, payload.get("update_nics", []))
    for added, array in ((True, "add_nics"), (False, "update_nics")):
        for nic in payload.get(array, []):
            _check_identity(nics, nic, added)
            _check_gateways(nic)
            _check_ips(nics, nic)
            _check_vrrp(nics, nic, added)
            _check_model(nic, vm, brand, added)
            _check_tag(nic, added)
            _merge(nics, nic)
            _check_allowed_ips(nic)
            _check_client_ids(nic)
    for mac in payload.get("remove_nics", []):
        _remove(nics, js.text(mac))
    _check_all(nics)
    return nics


def _check_identity(nics: Nics, nic: Any, added: bool) -> None:
    if js.own(nic, "vrrp_vrid"):
        _take(nics.vrids, nics.current_vrids, js.get(nic, "vrrp_vrid"), "VRID")
    if added and js.own(nic, "mac"):
        _take(nics.macs, nics.current_macs, js.get(nic, "mac"), "MAC")
    if js.own(nic, "primary"):
        primary = js.get(nic, "primary")
        if primary is not True:
            raise errors.PayloadError(
                f"invalid value for NIC's primary flag: {js.text(primary)} (must be true)"
            )
        nics.primaries += 1
    nics.changed.append(nic)


def _take(new: list[Any], current: list[Any], value: Any, what: str) -> None:
    if js.index_of(new, value) != -1 or js.index_of(current, value) != -1:
        raise errors.PayloadError(
            f"Cannot add multiple NICs with the same {what}: {js.text(value)}"
        )
    new.append(value)


def _items(nic: Any, name: str) -> list[Any]:
    value = js.get(nic, name)
    return [js.get(value, key) for key in js.keys(value)]


def _check_gateways(nic: Any) -> None:
    for gateway in _items(nic, "gateways"):
        if addresses.version(gateway) != 4:
            raise errors.PayloadError(f"Static gateways must be IPv4 addresses: {js.text(gateway)}")


def _check_ips(nics: Nics, nic: Any) -> None:
    if not js.own(nic, "ips"):
        return
    count = js.get(js.get(nic, "ips"), "length")
    if js.less(_MOST_IPS, count):
        raise errors.PayloadError(
            f"nic.*.ips contains {count} addresses, but is limited to {_MOST_IPS}"
        )
    for ip in _items(nic, "ips"):
        if addresses.is_automatic(ip):
            continue
        if not addresses.is_cidr(ip):
            raise errors.PayloadError(f"Invalid IP for NIC: {js.dumps(nic)}")
        _take([known for known, _ in nics.ips], nics.current_ips, ip, "IP")
        nics.ips.append((ip, nic))


def _check_vrrp(nics: Nics, nic: Any, added: bool) -> None:
    if added and js.own(nic, "vrrp_vrid"):
        expected = addresses.vrrp_mac(js.get(nic, "vrrp_vrid"))
        if js.get(nic, "mac") != expected:
            raise errors.PayloadError("Cannot set both mac and vrrp_vrid")
    if js.own(nic, "vrrp_primary_ip"):
        nics.primary_ips.append(js.get(nic, "vrrp_primary_ip"))


def _no_model(nic: Any) -> bool:
    model = js.get(nic, "model")
    return not js.truthy(model) or model == "undefined" or model == []


def _check_model(nic: Any, vm: dict[str, Any], brand: properties.Brand, added: bool) -> None:
    if not added:
        if js.own(nic, "model") and _no_model(nic):
            raise errors.PayloadError(f"invalid .model option for NIC: {js.dumps(nic)}")
        return
    if not brand.hvm or not _no_model(nic):
        return
    present = vm.get("nics") or []
    if "nic_driver" in vm:
        js.put(nic, "model", vm["nic_driver"])
    elif present and js.truthy(js.get(present[0], "model")):
        js.put(nic, "model", present[0]["model"])
    else:
        raise errors.PayloadError(f"missing .model option for NIC: {js.dumps(nic)}")


def _check_tag(nic: Any, added: bool) -> None:
    pattern, fault = (_NEW_TAG, "invalid or missing") if added else (_TAG, "invalid")
    missing = not js.own(nic, "nic_tag")
    if missing and not added:
        return
    if missing or not _matches(pattern, js.get(nic, "nic_tag")):
        raise errors.PayloadError(f"{fault} .nic_tag option for NIC: {js.dumps(nic)}")


def _matches(pattern: re.Pattern[str], value: Any) -> re.Match[str] | None:
    js.require_method(value, "match")
    return pattern.fullmatch(value)


def _merge(nics: Nics, nic: Any) -> None:
    mac = _key(nic)
    if mac in nics.result:
        nics.result[mac].update(nic)
    elif mac:
        nics.result[mac] = nic


def _check_allowed_ips(nic: Any) -> None:
    if not js.own(nic, "allowed_ips"):
        return
    try:
        entries = js.each(js.get(nic, "allowed_ips"))
        invalid = [js.text(entry) for entry in entries if not _is_allowed(entry)]
    except js.JavaScriptError as error:
        raise errors.PayloadError(str(error)) from error
    if invalid:
        raise errors.PayloadError(f"invalid allowed_ips: {', '.join(invalid)}")
    if len(entries) > _MOST_ALLOWED_IPS:
        raise errors.PayloadError(f"Maximum of {_MOST_ALLOWED_IPS} allowed_ips per nic")


def _is_allowed(entry: Any) -> bool:
    if addresses.version(entry):
        return True
    js.require_method(entry, "split")
    address, _, prefix = entry.partition("/")
    longest = {4: 32, 6: 128}.get(addresses.version(address))
    if entry.count("/") != 1 or longest is None:
        return False
    # a prefix that is no number passes
    return not (js.less(longest, prefix) or js.less(prefix, 1))


def _check_client_ids(nic: Any) -> None:
    if not js.own(nic, "allowed_dhcp_cids"):
        return
    ids = js.get(nic, "allowed_dhcp_cids")
    count = js.get(ids, "length")
    if js.less(_MOST_CLIENT_IDS, count):
        raise errors.PayloadError(
            f"nics.*.allowed_dhcp_cids contains {count} Client Identifiers, "
            f"but is limited to {_MOST_CLIENT_IDS}"
        )
    js.require_method(ids, "join")
    if len(js.text(ids)) >= _LONGEST_CLIENT_IDS:
        raise errors.PayloadError(
            "nics.*.allowed_dhcp_cids contains too many long Client Identifiers"
        )


def _remove(nics: Nics, mac: str) -> None:
    nic = nics.result.pop(mac, None)
    if nic is None:
        return
    for ip in _items(nic, "ips"):
        if addresses.is_automatic(ip):
            continue
        at = js.index_of([known for known, _ in nics.ips], ip)
        if at != -1:
            del nics.ips[at]
        if ip in nics.current_ips:
            nics.current_ips.remove(ip)


def _check_all(nics: Nics) -> None:
    for nic in nics.result.values():
        if js.own(nic, "vrrp_vrid"):
            _check_vrrp_nic(nics, nic)
        lengths = [js.get(nic[name], "length") for name in ("allowed_ips", "ips") if name in nic]
        if sum(lengths) + ("vrrp_primary_ip" in nic) > _MOST_ALL_IPS:
            raise errors.PayloadError("More than 32 IPs cannot be associated with a NIC")
    if nics.result and all("vrrp_vrid" in nic for nic in nics.result.values()):
        raise errors.PayloadError("VM cannot contain only VRRP nics")
    own = [addresses.address_of(ip) for ip in nics.current_ips + [ip for ip, _ in nics.ips]]
    for ip in nics.primary_ips:
        if ip not in own:
            raise errors.PayloadError("vrrp_primary_ip must belong to the same VM")
    if nics.primaries > 1:
        raise errors.PayloadError("payload specifies more than 1 primary NIC")


def _check_vrrp_nic(nics: Nics, nic: Any) -> None:
    for ip in _items(nic, "ips"):
        if addresses.address_of(ip) in nics.primary_ips:
            raise errors.PayloadError("Cannot set vrrp_primary_ip to the IP of a VRRP nic")
    if "vrrp_primary_ip" not in nic:
        raise errors.PayloadError("vrrp_vrid set but not vrrp_primary_ip")


def check_routes(payload: dict[str, Any], vm: dict[str, Any], nics: Nics) -> None:
    """Check the routes as they will be: to IPv4 networks, through addresses or present nics."""
    ordered = list(nics.result.values())
    routes = dict(vm.get("routes", {}))
    for name in ("routes", "set_routes"):
        given = payload.get(name, {})
        for destination in js.keys(given):
            gateway = js.get(given, destination)
            _check_route(destination, gateway, ordered)
            routes[destination] = gateway
    for destination in payload.get("remove_routes", []):
        routes.pop(js.text(destination), None)
    for gateway in routes.values():
        if addresses.version(gateway) != 4 and not _leads_out(gateway, ordered):
            raise _dangling(gateway)


def _check_route(destination: str, gateway: Any, nics: list[Any]) -> None:
    if addresses.version(destination) != 4 and not addresses.is_cidr4(destination):
        raise errors.PayloadError(
            f'Invalid route destination: "{destination}" (must be IP address or CIDR)'
        )
    if addresses.version(gateway) == 4 or _leads_out(gateway, nics):
        return
    by_mac = _matches(_BY_MAC, gateway)
    if _matches(_BY_NUMBER, gateway) or (by_mac and addresses.parse_mac(by_mac.group(1))):
        raise _dangling(gateway)
    raise errors.PayloadError(
        f'Invalid route gateway: "{gateway}" (must be IP address, MAC address, or nic)'
    )


def _dangling(gateway: Any) -> errors.PayloadError:
    return errors.PayloadError(
        f'Route gateway: "{js.text(gateway)}" refers to non-existent or DHCP nic'
    )


def _leads_out(gateway: Any, nics: list[Any]) -> bool:
    """Whether a gateway names a nic with an address of its own."""
    nic = None
    if by_mac := _matches(_BY_MAC, gateway):
        mac = addresses.parse_mac(by_mac.group(1))
        nic = next((one for one in nics if mac and one.get("mac") == mac), None)
    elif by_number := _matches(_BY_NUMBER, gateway):
        at = int(by_number.group(1))
        nic = nics[at] if at < len(nics) else None
    return nic is not None and any(not addresses.is_automatic(ip) for ip in _items(nic, "ips"))
