# SPDX-License-Identifier: Apache-2.0
"""sysinfo(8): what the node is, as JSON or for a shell; kept in /tmp until asked anew."""

import getopt
import pathlib
import re
import threading
import typing

from smartos_emulator import call as call_module
from smartos_emulator import network
from smartos_emulator.metrics import machine_tables

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

JSON_CACHE = "/tmp/.sysinfo.json"
PARSEABLE_CACHE = "/tmp/.sysinfo.parsable"
POOL = "zones"
_DISK = "c1t0d0"
_MANUFACTURER = "Emulated"
_BOOT_PARAMETERS = {"console": "text", "smartos": "true", "root_shadow": ""}


def main(call: call_module.Call) -> int:
    """sysinfo [-f] [-p] [-u]"""
    try:
        pairs, _ = getopt.getopt(call.argv[1:], "fnpu?")
    except getopt.GetoptError as error:
        call.err(f"/usr/bin/sysinfo: illegal option -- {error.opt}\n")
        pairs = [("-?", "")]
    flags = {flag for flag, _ in pairs}
    if flags & {"-?", "-n"}:
        call.out("Usage: /usr/bin/sysinfo: [-f] [-p] [-u]\n")
        return 2
    if flags & {"-f", "-u"} or not _cached(call.node, "-p" in flags).exists():
        refresh(call.node)
    if "-u" not in flags:
        call.out(_cached(call.node, "-p" in flags).read_text("utf-8"))
    return 0


def _cached(node: "node_module.Node", parseable: bool) -> pathlib.Path:
    return node.path(PARSEABLE_CACHE if parseable else JSON_CACHE)


def refresh(node: "node_module.Node") -> None:
    """Write down what the node is now."""
    facts = _Facts(node)
    for parseable, text in ((False, facts.json()), (True, facts.parseable())):
        file = _cached(node, parseable)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.new.{threading.get_ident()}")
        temporary.write_text(text, "utf-8")
        temporary.replace(file)


class _Facts:
    """What sysinfo finds out."""

    def __init__(self, node: "node_module.Node") -> None:
        self.node = node
        self.config = node.config
        self.settings = node.network.settings()
        self.tag = self.settings.get("admin_tag", "admin")

    def machine(self) -> dict[str, typing.Any]:
        """The facts of the machine: text where sysinfo quotes them, else int or bool."""
        config = self.config
        cpus = config.cpus
        sockets = machine_tables.sockets(cpus)
        return {
            "Live Image": config.platform,
            "System Type": "SunOS",
            "Boot Time": str(self.node.metrics.boot_time()),
            "Manufacturer": _MANUFACTURER,
            "Product": "SmartOS node",
            "Serial Number": config.uuid[-12:],
            "SKU Number": "",
            "HW Version": "1",
            "HW Family": "",
            "Setup": "",
            "VM Capable": True,
            "Bhyve Capable": config.bhyve,
            "Bhyve Max Vcpus": 32 if config.bhyve else 0,
            "HVM API": config.bhyve,
            "CPU Type": machine_tables.BRAND,
            "CPU Virtualization": "vmx" if config.bhyve else "none",
            "CPU Physical Cores": sockets,
            "Admin NIC Tag": self.tag,
            "Admin IP": self.settings.get(f"{self.tag}_ip", ""),
            "UUID": config.uuid,
            "Hostname": self.node.network.hostname,
            "CPU Total Cores": cpus,
            "CPU Socket Count": sockets,
            "CPU Core Count": cpus,
            "CPU Online Count": cpus,
            "CPU Count": cpus,
            "MiB of Memory": str(config.memory_mib),
        }

    def pool(self) -> dict[str, typing.Any]:
        """The facts of the pool, if there is one."""
        storage = self.node.storage
        if not storage.exists(POOL):
            return {}
        size = storage.number(POOL, "used") + storage.number(POOL, "available")
        return {
            "Zpool": POOL,
            "Zpool Encrypted": False,
            "Zpool Disks": _DISK,
            "Zpool Profile": "striped",
            "Zpool Creation": storage.number(POOL, "creation"),
            "Zpool Size in GiB": size >> 30,
        }

    def disks(self) -> dict[str, int]:
        """Sizes of the disks, in GB."""
        pools = self.config.pools.values()
        return {f"c1t{at}d0": size // 10**9 for at, size in enumerate(pools)}

    def interfaces(self) -> list[tuple[network.Link, str, list[str]]]:
        """Physical links and aggregations, each with its address and tags."""
        tags = [tag for tag in self.node.network.tags() if tag.type in ("normal", "aggr")]
        links = [*self.node.network.physical(), *self.node.network.aggregations()]
        found = []
        for link in links:
            names = [tag.name for tag in tags if tag.link == link.name]
            address = self.settings.get(f"{self.tag}_ip", "") if self.tag in names else ""
            found.append((link, address, names))
        return found

    def vnics(self) -> list[network.Link]:
        return [link for link in self.node.network.links("") if link.kind == "vnic"]

    # -- the two forms --

    def json(self) -> str:
        """The document, laid out as sysinfo lays it out."""
        lines = [f'  "{key}": {_quoted(value)},' for key, value in self.machine().items()]
        for key, value in self.pool().items():
            lines.append(f'  "{key}": {_quoted(value)},')
        lines += ['  "Zpool Recovery": {', "  },"]
        lines += _section("Disks", {d: f'{{"Size in GB": {n}}}' for d, n in self.disks().items()})
        boot = {_name(key): _quoted(value) for key, value in _BOOT_PARAMETERS.items()}
        lines += _section("Boot Parameters", boot)
        lines += _section("Psrinfo", {})
        lines += _section("Network Interfaces", self._json_interfaces())
        lines += _section("Virtual Network Interfaces", self._json_vnics())
        lines += _section("Link Aggregations", self._json_aggregations(), last=True)
        return "\n".join(["{", *lines, "}"]) + "\n"

    def _json_interfaces(self) -> dict[str, str]:
        found = {}
        for link, address, tags in self.interfaces():
            names = ", ".join(f'"{tag}"' for tag in tags)
            found[link.name] = (
                f'{{"MAC Address": "{link.mac}", "ip4addr": "{address}", '
                f'"Link Status": "{link.state}", "NIC Names": [{names}]}}'
            )
        return found

    def _json_vnics(self) -> dict[str, str]:
        return {
            link.name: (
                f'{{"MAC Address": "{link.mac}", "ip4addr": "", "Link Status": "{link.state}", '
                f'"Host Interface": "{link.over[0]}", "VLAN": "{link.vlan}"}}'
            )
            for link in self.vnics()
        }

    def _json_aggregations(self) -> dict[str, str]:
        return {
            link.name: (
                f'{{"LACP mode": "{self._lacp(link)}", '
                f'"Interfaces": [{", ".join(_quoted(name) for name in link.over)}]}}'
            )
            for link in self.node.network.aggregations()
        }

    def _lacp(self, link: network.Link) -> str:
        return self.settings.get(f"{link.name}_lacp_mode", "off")

    def parseable(self) -> str:
        """The settings for a shell."""
        numbers = {"CPU_Physical_Cores", "Bhyve_Max_Vcpus", "Admin_NIC_Tag", "Admin_IP"}
        lines = []
        for key, value in self.machine().items():
            name = key.replace(" ", "_")
            plain = not isinstance(value, str | bool) or name in numbers or name == "MiB_of_Memory"
            text = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{name}={text}" if plain else f"{name}='{text}'")
        lines += [f"Disk_{disk}_size_in_GB={size}" for disk, size in self.disks().items()]
        interfaces = self.interfaces()
        lines += [f"NIC_{t}='{link.name}'" for link, _, tags in interfaces for t in tags]
        for link, address, tags in interfaces:
            head = f"Network_Interface_{link.name}_"
            lines += [
                f"{head}MAC_Address='{link.mac}'",
                f"{head}IPv4_Address='{address}'",
                f"{head}NIC_Names='{','.join(tags)}'",
                f"{head}Link_Status='{link.state}'",
            ]
        lines += [f"Bootparam_{_name(key)}='{v}'" for key, v in _BOOT_PARAMETERS.items()]
        return "".join(f"{line}\n" for line in lines)


def _name(key: str) -> str:
    return re.sub("[^A-Za-z0-9_]+", "_", key)


def _quoted(value: typing.Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _section(name: str, entries: dict[str, str], last: bool = False) -> list[str]:
    body = [f'    "{key}": {value},' for key, value in entries.items()]
    if body:
        body[-1] = body[-1].removesuffix(",")
    return [f'  "{name}": {{', *body, "  }" if last else "  },"]
