# SPDX-License-Identifier: Apache-2.0
"""The node's network: nic tags, data links and the vnics of running zones. No packets flow."""

import dataclasses
import hashlib
import json
import re
import threading
import typing

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

CONFIG = "/usbkey/config"
OVERLAY_RULES = "/var/run/smartdc/networking/overlay_rules.json"
MAX_OVERLAY = 4294967294

_OVERLAY_TAG = re.compile(r"([a-zA-Z_0-9]+)/([0-9]+)", re.ASCII)
_POLICED = ("protection", "allowed-ips", "allowed-dhcp-cids")
_AGGREGATION = re.compile(r"[a-zA-Z0-9_]*[0-9]", re.ASCII)


class NetworkError(Exception):
    """What cannot be done to a link, as dladm says it after its own name."""


@dataclasses.dataclass(frozen=True)
class Tag:
    """A nic tag. `link` is "-" where nictagadm knows none."""

    name: str
    mac: str
    link: str
    type: str


@dataclasses.dataclass
class Link:
    """A data link. `zone` is empty in the global zone."""

    name: str
    kind: str
    mac: str = ""
    over: tuple[str, ...] = ()
    mtu: int = 1500
    vlan: int = 0
    zone: str = ""
    zoneid: int = 0
    fixed: bool = True
    properties: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> str:
        return "unknown" if self.kind == "etherstub" else "up"

    @property
    def speed(self) -> int:
        """In Mbit/s; what is over an etherstub has none."""
        return 0 if self.kind in ("etherstub", "overlay") else 1000

    @property
    def kernel_name(self) -> str:
        """How the kernel's statistics call it."""
        return f"z{self.zoneid}_{self.name}" if self.zone else self.name


class Network:
    """Tags and links of one node; what concerns zones is lost when they halt."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.RLock()
        self._zone_links: dict[str, list[Link]] = {}
        self._own_links: dict[str, Link] = {}
        self._settings: dict[str, dict[str, tuple[str, ...]]] = {}
        self.hostname = node.config.name
        if not self._config.exists():
            self._config.parent.mkdir(parents=True, exist_ok=True)
            self._config.write_text(_first_config(node), "utf-8")

    # -- nic tags --

    def tags(self) -> list[Tag]:
        """Every nic tag, as nictagadm lists them."""
        found = [self._tag(n[:-4], v) for n, v in self.settings().items() if n.endswith("_nic")]
        found += [Tag(name, "-", "-", "overlay rule") for name in self._overlay_rules()]
        return found + [Tag(name, "-", "-", "etherstub") for name in self.etherstubs()]

    def nic_tags(self) -> dict[str, str]:
        """The types of the tags by name."""
        return {tag.name: tag.type for tag in self.tags()}

    def nic_tag_exists(self, tag: str) -> bool:
        """Whether a nic can have the tag; an overlay's carries the number of its network."""
        types = self.nic_tags()
        overlay = _OVERLAY_TAG.fullmatch(tag)
        if overlay:
            return types.get(overlay[1]) == "overlay rule" and int(overlay[2]) <= MAX_OVERLAY
        return types.get(tag, "overlay rule") != "overlay rule"

    def set_tag(self, name: str, mac: str | None, mtu: int | None) -> None:
        """Add or change a tag over a physical link or an aggregation."""
        if mac is not None:
            self._set(f"{name}_nic", mac)
        if mtu is not None:
            self._set(f"{name}_mtu", str(mtu))

    def delete_tag(self, name: str) -> None:
        for key in (f"{name}_nic", f"{name}_mtu"):
            self._set(key, None)

    def add_etherstub(self, name: str) -> None:
        """Add a tag that is a switch of its own."""
        self._set("etherstub", ",".join([*self._configured_stubs(), name]))

    def delete_etherstub(self, name: str) -> None:
        left = [stub for stub in self._configured_stubs() if stub != name]
        self._set("etherstub", ",".join(left) or None)
        self._own_links.pop(name, None)

    def etherstubs(self) -> list[str]:
        up = [link.name for link in self._own_links.values() if link.kind == "etherstub"]
        return sorted({*self._configured_stubs(), *up})

    def _configured_stubs(self) -> list[str]:
        return [name for name in self.settings().get("etherstub", "").split(",") if name]

    def _tag(self, name: str, value: str) -> Tag:
        if _AGGREGATION.fullmatch(value):
            return Tag(name, "-", value, "aggr")
        mac = normal_mac(value)
        links = [link.name for link in self.physical() if link.mac == mac]
        return Tag(name, mac, links[0] if links else "-", "normal")

    def _overlay_rules(self) -> list[str]:
        """The rules; the file of the real node is as volatile as what it is made from."""
        file = self._node.path(OVERLAY_RULES)
        with self._lock:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                rules = dict.fromkeys(self._node.config.overlay_rules, "-e vxlan")
                file.write_text(json.dumps(rules) + "\n", "utf-8")
            return list(json.loads(file.read_text("utf-8")))

    # -- /usbkey/config --

    @property
    def _config(self) -> typing.Any:
        return self._node.path(CONFIG)

    def settings(self) -> dict[str, str]:
        """What the file says; of two lines with one name the later counts."""
        found = {}
        for line in self._config.read_text("utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and name and value and not name.startswith("#"):
                found[name] = value.strip("'\"")
        return found

    def _set(self, name: str, value: str | None) -> None:
        with self._lock:
            lines = self._config.read_text("utf-8").splitlines()
            kept = [line for line in lines if not line.startswith(f"{name}=")]
            if value is not None:
                kept.append(f"{name}={value}")
            temporary = self._config.with_name(".config.new")
            temporary.write_text("".join(f"{line}\n" for line in kept), "utf-8")
            temporary.replace(self._config)

    # -- links --

    def physical(self) -> list[Link]:
        """One link for each nic tag that the node came up with."""
        count = max(1, len(self._node.config.nic_tags))
        return [self._hardware(f"e1000g{index}", index) for index in range(count)]

    def _hardware(self, name: str, index: int) -> Link:
        properties = self._settings.setdefault(name, {})
        (mtu,) = properties.get("mtu", ("1500",))
        mac = hardware_mac(self._node, index)
        return Link(name, "phys", mac, mtu=int(mtu), properties=properties)

    def aggregations(self) -> list[Link]:
        """The aggregations of the configuration, each over its physical links."""
        by_mac = {link.mac: link.name for link in self.physical()}
        found = []
        for name, value in self.settings().items():
            if name.endswith("_aggr"):
                macs = [normal_mac(mac) for mac in value.split(",")]
                over = tuple(by_mac[mac] for mac in macs if mac in by_mac)
                found.append(Link(name[:-5], "aggr", macs[0], over))
        return found

    def links(self, zone: str | None = None) -> list[Link]:
        """Every link, or those of one zone; "" is the global one."""
        with self._lock:
            stubs = [
                self._own_links.get(name) or Link(name, "etherstub", mtu=9000)
                for name in self.etherstubs()
            ]
            own = [link for link in self._own_links.values() if link.kind != "etherstub"]
            overlays = self._overlays()
            zones = [link for links in self._zone_links.values() for link in links]
        every = [*self.physical(), *self.aggregations(), *stubs, *overlays, *own, *zones]
        return every if zone is None else [link for link in every if link.zone == zone]

    def link(self, name: str, zone: str = "") -> Link:
        """One link; NetworkError if there is none."""
        for link in self.links(zone):
            if link.name == name:
                return link
        raise NetworkError(f"link {name} is not valid: object not found")

    def _overlays(self) -> list[Link]:
        over = {o for links in self._zone_links.values() for link in links for o in link.over}
        known = {name for name in over if name not in self._ground()}
        return [Link(name, "overlay", mtu=1400) for name in sorted(known)]

    def _ground(self) -> set[str]:
        ground = {link.name for link in (*self.physical(), *self.aggregations())}
        return ground | set(self.etherstubs()) | set(self._own_links)

    def create(self, link: Link) -> None:
        """Make a link of the global zone."""
        with self._lock:
            if any(known.name == link.name for known in self.links("")):
                raise NetworkError("object already exists")
            self._own_links[link.name] = link

    def delete(self, name: str, kind: str, zone: str = "") -> None:
        """Remove a vnic or an etherstub."""
        with self._lock:
            link = self.link(name, zone)
            if link.kind != kind:
                raise NetworkError("invalid argument")
            if any(name in other.over for other in self.links()):
                raise NetworkError("link busy")
            self._own_links.pop(name, None)
            if zone:
                self._zone_links[zone].remove(link)

    def set_property(self, link: Link, name: str, values: tuple[str, ...]) -> None:
        """Change a property of a link for as long as the link lives."""
        with self._lock:
            link.properties[name] = values
            if name == "mtu":
                link.mtu = int(values[0]) if values else 1500

    # -- zones --

    def plug(self, vm: dict[str, typing.Any], zoneid: int) -> None:
        """Make the vnics of a zone that boots."""
        with self._lock:
            self._zone_links[vm["zonename"]] = [
                self._vnic(vm, nic, zoneid) for nic in vm.get("nics", [])
            ]

    def police(self, vm: dict[str, typing.Any]) -> None:
        """Set anew what the links of a running zone may send, after its nics were changed."""
        with self._lock:
            by_mac = {normal_mac(nic["mac"]): nic for nic in vm.get("nics", [])}
            for link in self._zone_links.get(vm["zonename"], []):
                if link.mac in by_mac:
                    kept = {k: v for k, v in link.properties.items() if k not in _POLICED}
                    link.properties = {**kept, **_protection(by_mac[link.mac])}

    def unplug(self, vm: dict[str, typing.Any]) -> None:
        """Remove the vnics of a zone that halts."""
        with self._lock:
            self._zone_links.pop(vm["zonename"], None)

    def zone_links(self, zone: str) -> list[Link]:
        with self._lock:
            return list(self._zone_links.get(zone, []))

    def _vnic(self, vm: dict[str, typing.Any], nic: dict[str, typing.Any], zoneid: int) -> Link:
        return Link(
            name=nic["interface"],
            kind="vnic",
            mac=normal_mac(nic["mac"]),
            over=(self._link_of(nic.get("nic_tag", "")),),
            mtu=int(nic.get("mtu", 1500)),
            vlan=int(nic.get("vlan_id", 0)),
            zone=vm["zonename"],
            zoneid=zoneid,
            properties=_protection(nic),
        )

    def _link_of(self, tag: str) -> str:
        """The link that a tag stands for."""
        overlay = _OVERLAY_TAG.fullmatch(tag)
        if overlay:
            return f"{overlay[1]}{overlay[2]}"
        for known in self.tags():
            if known.name == tag:
                return tag if known.type == "etherstub" else known.link
        return "-"


def _protection(nic: dict[str, typing.Any]) -> dict[str, tuple[str, ...]]:
    """The link properties that keep a guest from taking on others' addresses."""
    guards = (
        ("mac-nospoof", nic.get("allow_mac_spoofing")),
        ("restricted", nic.get("allow_restricted_traffic")),
        ("ip-nospoof", nic.get("allow_ip_spoofing") or nic.get("dhcp_server")),
        ("dhcp-nospoof", nic.get("allow_dhcp_spoofing") or nic.get("dhcp_server")),
    )
    properties = {"protection": tuple(name for name, waived in guards if not waived)}
    ips = [ip.split("/")[0] for ip in (*nic.get("ips", []), *nic.get("allowed_ips", []))]
    # a list that was emptied is kept as one empty address
    fixed = tuple(ip for ip in ips if ip not in ("", "dhcp", "addrconf"))
    if fixed and "ip-nospoof" in properties["protection"]:
        properties["allowed-ips"] = fixed
    if nic.get("allowed_dhcp_cids"):
        properties["allowed-dhcp-cids"] = tuple(nic["allowed_dhcp_cids"])
    return {name: values for name, values in properties.items() if values}


def normal_mac(mac: str) -> str:
    """A MAC address with two digits a byte."""
    return ":".join(f"{int(byte, 16):02x}" for byte in mac.split(":"))


def short_mac(mac: str) -> str:
    """A MAC address as dladm prints it: without leading zeros."""
    return ":".join(f"{int(byte, 16):x}" for byte in mac.split(":")) if mac else "--"


def hardware_mac(node: "node_module.Node", index: int) -> str:
    """The address burnt into a physical link, the same for every life of a node."""
    digest = hashlib.sha256(f"{node.config.uuid}/{index // 16}".encode()).digest()
    return f"00:1b:21:{digest[0]:02x}:{digest[1]:02x}:{(digest[2] & 0xF0) | index % 16:02x}"


def _first_config(node: "node_module.Node") -> str:
    config = node.config
    lines = ["# The node's settings; a shell can read them.", f"hostname={config.name}"]
    for index, tag in enumerate(config.nic_tags):
        lines.append(f"{tag}_nic={short_mac(hardware_mac(node, index))}")
    lines += [
        f"admin_ip={config.admin_ip}",
        "admin_netmask=255.255.255.0",
        "dns_resolvers=8.8.8.8,8.8.4.4",
        "dns_domain=local",
        "ntp_hosts=0.smartos.pool.ntp.org",
        "default_keymap=us",
        "root_authorized_keys_file=authorized_keys",
    ]
    if config.etherstubs:
        lines.append(f"etherstub={','.join(config.etherstubs)}")
    return "".join(f"{line}\n" for line in lines)
