# SPDX-License-Identifier: Apache-2.0
"""The disk from which cloud-init's NoCloud source reads: written whenever its VM boots."""

import typing

from smartos_emulator import js
from smartos_emulator.vmadm import failures, fat, record

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]


def write(vms: "lifecycle.Vms", vm: Vm) -> None:
    """Write the disk of a VM that has one."""
    internal = record.metadata_of(vm, "internal_metadata")
    path = internal.get("cloudinit_nocloud_path")
    if not vm["hvm"] or not path or internal.get("cloudinit_datasource") != "nocloud":
        return
    if not any(disk["path"] == path and not disk["boot"] for disk in vm.get("disks", [])):
        raise failures.VmError(f"Invalid cloudinit_nocloud_path: {path}")
    files = {name: text.encode("utf-8", "surrogatepass") for name, text in documents(vm).items()}
    vms.node.host_path(path).write_bytes(fat.image("CIDATA", files))


def documents(vm: Vm) -> dict[str, str]:
    """The files on the disk, by name."""
    told = record.metadata_of(vm, "customer_metadata")
    name = vm.get("hostname") or vm.get("alias") or vm["uuid"]
    made = {
        "meta-data": f"# cloud-init meta-data\ninstance-id: {vm['uuid']}\nlocal-hostname: {name}\n",
        "user-data": told.get("cloud-init:user-data") or "#cloud-config\n{}\n",
    }
    network = told.get("cloud-init:network-config") or _network_config(vm)
    if network:
        made["network-config"] = network
    if told.get("cloud-init:vendor-data"):
        made["vendor-data"] = told["cloud-init:vendor-data"]
    return {file: js.text(text) for file, text in made.items()}


def _network_config(vm: Vm) -> str:
    nics = vm.get("nics", [])
    if not nics:
        return ""
    lines = ["version: 2", "ethernets:"]
    for nic in nics:
        lines += [f"  {nic['interface']}:", *(f"    {line}" for line in _ethernet(nic, vm))]
    return "\n".join(lines) + "\n"


def _ethernet(nic: Vm, vm: Vm) -> list[str]:
    lines = ["match:", f'  macaddress: "{nic["mac"].lower()}"', f"set-name: {nic['interface']}"]
    ips = nic.get("ips", [])
    lines += ["dhcp4: true"] if "dhcp" in ips else []
    lines += ["dhcp6: true"] if "addrconf" in ips else []
    static = [ip for ip in ips if ip not in ("dhcp", "addrconf")]
    lines += ["addresses:", *(f"  - {ip}" for ip in static)] if static else []
    if not nic.get("primary"):
        return lines
    gateways = {"6" if ":" in each else "4": each for each in nic.get("gateways", [])}
    lines += [f"gateway{family}: {address}" for family, address in gateways.items()]
    resolvers = vm.get("resolvers", [])
    if resolvers:
        lines += ["nameservers:", "  addresses:", *(f"    - {each}" for each in resolvers)]
    return lines
