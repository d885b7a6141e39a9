# SPDX-License-Identifier: Apache-2.0
"""What no two VMs of a node may share, and the nic tags they need."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import addresses, environment, errors, nic_checks

_LEAST_MTU = 1500


def check(
    payload: dict[str, Any], nics: nic_checks.Nics, environment: environment.Environment
) -> None:
    """Refuse addresses that another VM has, and tags that the node lacks."""
    vnc_port = payload.get("vnc_port", 0)
    vnc_port = vnc_port if js.less(0, vnc_port) else 0
    if nics.macs or nics.ips or nics.vrids or vnc_port:
        for vm in environment.vms():
            if _conflicts(vm, nics, vnc_port):
                raise errors.PayloadError(
                    "Conflict detected with another vm, please check the MAC, IP, and VRID"
                )
    check_tags(nics.changed, environment)


def _conflicts(vm: dict[str, Any], nics: nic_checks.Nics, vnc_port: Any) -> bool:
    if vm["state"] == "failed" and vm["zone_state"] != "running":
        return False
    macs = [_plain_mac(mac) for mac in nics.macs]
    vrids = [js.text(vrid) for vrid in nics.vrids]
    if vnc_port and vm.get("vnc_port") == vnc_port:
        return True
    return any(
        nic.get("mac") in macs
        or ("vrrp_vrid" in nic and js.text(nic["vrrp_vrid"]) in vrids)
        or any(_shares(nic, ip, wanted) for ip, wanted in nics.ips)
        for nic in vm.get("nics", [])
    )


def _plain_mac(mac: Any) -> str:
    return addresses.parse_mac(mac) or js.text(mac)


def _shares(nic: dict[str, Any], ip: Any, wanted: Any) -> bool:
    """Whether a nic has an address that another wants on the same network."""
    same_network = all(
        js.same(js.get(nic, name), js.get(wanted, name)) for name in ("nic_tag", "vlan_id")
    )
    return same_network and ip in nic.get("ips", [])


def check_tags(nics: list[Any], environment: environment.Environment) -> None:
    """Refuse nics whose tag does not exist, or carries less than their MTU asks."""
    tagged = [nic for nic in nics if "nic_tag" in nic]
    tags = [js.text(nic["nic_tag"]) for nic in tagged]
    unknown = [tag for tag in tags if not environment.nic_tag_exists(tag)]
    if unknown:
        raise errors.PayloadError("\n".join(f'Invalid nic tag "{tag}"' for tag in unknown))
    least = _least_mtus(nics)
    faults = [
        f"nic {at} ({js.text(mac)}): MTU is below the supported MTU ({_LEAST_MTU}) "
        f'of nic tag "{tag}"'
        for tag, kind in environment.nic_tags().items()
        if tag in least and kind == "normal"
        for mtu, at, mac in [least[tag]]
        if js.less(mtu, _LEAST_MTU)
    ]
    if faults:
        raise errors.PayloadError("\n".join(faults))


def _least_mtus(nics: list[Any]) -> dict[str, tuple[Any, int, Any]]:
    """The least MTU on each tag, with the place and MAC address of the nic that has it."""
    least: dict[str, tuple[Any, int, Any]] = {}
    for at, nic in enumerate(nics):
        if "nic_tag" in nic and "mtu" in nic:
            tag = js.text(nic["nic_tag"])
            if tag not in least or js.less(nic["mtu"], least[tag][0]):
                least[tag] = (nic["mtu"], at, js.get(nic, "mac"))
    return least
