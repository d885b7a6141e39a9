# SPDX-License-Identifier: Apache-2.0
"""The [smartos] options: how a service finds and reaches its node.

Each function takes the configuration object: not every service keeps its options in a global one.
"""

import dataclasses
import fnmatch
import re
from typing import Any
from urllib import parse

from oslo_config import cfg, types
from oslo_log import log

from nova_smartos.smartos import direct, node, transport

LOG = log.getLogger(__name__)
# A name, not an OptGroup: one of those keeps values, and would carry them from one configuration
# object to the next.
GROUP = "smartos"
#: The physical network of ports that name none.
ANY_NETWORK = "*"

_NIC_TAG = re.compile(r"[A-Za-z0-9_]+(?:/[0-9]+)?")


@dataclasses.dataclass(frozen=True)
class NetworkMapping:
    """One of [smartos]network_mappings: the nic tag of a physical network on some hosts."""

    hosts: str
    physical_network: str
    nic_tag: str

    @classmethod
    def from_text(cls, text: str) -> "NetworkMapping":
        """HOST_PATTERN:PHYSICAL_NETWORK:NIC_TAG"""
        parts = [part.strip() for part in text.split(":")]
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{text!r} is not HOST_PATTERN:PHYSICAL_NETWORK:NIC_TAG")
        if not _NIC_TAG.fullmatch(parts[2]):
            raise ValueError(f"{text!r}: {parts[2]!r} is no nic tag")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.hosts}:{self.physical_network}:{self.nic_tag}"


class _NetworkMappings(types.List):
    """The type of an option; what it refuses, oslo.config reports with option, file and reason."""

    def __init__(self) -> None:
        super().__init__(type_name="list of HOST_PATTERN:PHYSICAL_NETWORK:NIC_TAG")

    def __call__(self, value: Any) -> list[NetworkMapping]:
        # not the base class's way, which takes a comma for a part of what is wrong before it
        texts = value.split(",") if isinstance(value, str) else value
        found = [NetworkMapping.from_text(text) for text in map(str, texts) if text.strip()]
        known: dict[tuple[str, str], NetworkMapping] = {}
        for each in found:
            first = known.setdefault((each.hosts, each.physical_network), each)
            if first != each:
                raise ValueError(f"{first} and {each} contradict each other")
        return found


#: What neutron-server and nova-compute both read: one file, named to both.
NETWORK_OPTIONS = [
    cfg.Opt(
        "network_mappings",
        type=_NetworkMappings(),
        default=[],
        help="Nic tags of nodes, as HOST_PATTERN:PHYSICAL_NETWORK:NIC_TAG, separated by commas: "
        "node*:physnet1:external,node*:physnet2:storage. HOST_PATTERN is a shell's pattern for "
        "the names of nova-compute services ([DEFAULT]host), of which Neutron's mechanism driver "
        "smartos binds the ports; it leaves all other hosts to others. Of two entries for one host "
        "and physical network the first counts. PHYSICAL_NETWORK * stands for ports that name "
        "none, which are those of networks of type local: all of them are ONE wire on that tag, "
        "whoever owns them. Without an entry nothing is bound, and a launch is refused.",
    ),
    cfg.BoolOpt(
        "allow_unfiltered_ports",
        default=False,
        help="Bind ports that have security groups although nothing enforces them on SmartOS yet: "
        "what the groups forbid gets through. Otherwise such a port is not bound, and its launch "
        "fails. Ports without a security group, or with port security off, are always bound.",
    ),
]

OPTIONS = [
    cfg.StrOpt(
        "connection",
        default="local",
        choices=[
            ("local", "the service runs on the node itself, or on an emulated one"),
            ("ssh", "the service runs elsewhere and reaches the node through SSH"),
        ],
        help="How commands get to the node.",
    ),
    cfg.HostAddressOpt("node_address", help="Address of the node. Needed by connection=ssh."),
    cfg.PortOpt("node_port", default=22, help="Port of the node's SSH server."),
    cfg.StrOpt(
        "node_user",
        default="root",
        help="User on the node. Commands of any user but root go through pfexec, which needs an "
        "RBAC profile on the node.",
    ),
    cfg.StrOpt(
        "key_file",
        help="Private key for the node. Without one, the keys of the SSH agent are offered.",
    ),
    cfg.StrOpt(
        "known_hosts_file",
        default="/etc/nova-smartos/known_hosts",
        help="Host keys in OpenSSH's form. A node whose key is not here, or differs, is refused; "
        "no key is ever added by itself.",
    ),
    cfg.StrOpt(
        "tool_path",
        help="Folders with the node's tools, separated by colons, that are searched before PATH.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=4,
        min=1,
        help="Most SSH connections at once. Each carries eight commands, two fewer than a server "
        "with default settings allows.",
    ),
    cfg.IntOpt(
        "connect_timeout",
        default=15,
        min=1,
        help="Seconds to wait for a connection, and for so long a node that takes none is tried "
        "again.",
    ),
    cfg.IntOpt(
        "read_timeout", default=60, min=1, help="Seconds that a command which only reads may take."
    ),
    cfg.IntOpt(
        "change_timeout",
        default=900,
        min=1,
        help="Seconds that a command which changes something may take. Creating a VM waits for its "
        "guest to provision, up to five minutes.",
    ),
    cfg.IntOpt(
        "stream_idle_timeout",
        default=300,
        min=1,
        help="Seconds that a stream (zfs send and receive) may stand still. How long it takes in "
        "all is not limited.",
    ),
    cfg.IntOpt(
        "staging_quota_gb",
        default=100,
        min=1,
        help="Most GiB that images on their way, and config drives, may take on the node, in the "
        "dataset zones/nova-smartos. Read when that dataset is made.",
    ),
    cfg.StrOpt(
        "conversion_directory",
        default="$state_path",
        help="Where nova-compute keeps a qcow2 image while it goes to the node as a disk: the file "
        "must be read out of order. It has no name there and is gone when the import ends, however "
        "that ends; an image for which there is no room is refused.",
    ),
    cfg.StrOpt(
        "spool_directory",
        help="Where nova-compute leaves a last reading of what an instance has used before it "
        "stops, reboots or deletes it, and the metering plugin takes it: a directory on this "
        "machine that both may write to. Each such operation then runs one command more on the "
        "node. Without it, what instances use after the last poll before they end is not metered.",
    ),
    cfg.BoolOpt(
        "incremental_images",
        default=False,
        help="Images of servers, but for shelved ones, hold only what differs from the image that "
        "the server was launched from, where that is public and a ZFS stream. Set it if public "
        "images stay as they are in Glance, and every nova-compute of the cloud knows this option: "
        "without its origin such an image cannot be booted on a node that has not brought it yet.",
    ),
    cfg.StrOpt(
        "image_server",
        help="Image server (IMGAPI), such as https://images.smartos.org, from which the node "
        "itself brings images that Glance only names (property smartos_image_uuid). Their owner in "
        "Glance must be one of trusted_image_owners. Without it such images are refused.",
    ),
    cfg.Opt(
        "peers",
        type=types.Dict(value_type=types.URI(schemes=["ssh"])),
        default={},
        help="The nodes of other nova-compute services, for instances that move there, as "
        "HOST:ssh://USER@ADDRESS:PORT, separated by commas; HOST is the other's [DEFAULT]host. One "
        "that is not listed is reached at the address that it gave to Nova, as node_user at "
        "node_port. key_file and known_hosts_file count for all of them.",
    ),
    cfg.IntOpt(
        "move_bandwidth",
        default=0,
        min=0,
        help="Most MiB that an instance on its way to another node may send in a second; 0 for no "
        "limit. With a limit instances go through nova-compute.",
    ),
    cfg.BoolOpt(
        "direct_moves",
        default=False,
        help="Send instances straight from node to node, by the script smartos-direct, which the "
        "operator has put on both. Where that does not work they go through nova-compute.",
    ),
    cfg.StrOpt(
        "trace_file",
        help="File to which nova-compute appends what it does and waits for, as trace events that "
        "Perfetto and chrome://tracing open. It holds names, ids and times, no secrets. It grows "
        "for as long as this is set: a launch takes some 3 kB. Without it nothing is traced.",
    ),
    cfg.ListOpt(
        "trusted_image_owners",
        default=[],
        help="Ids of the projects whose images may be ZFS streams (property smartos_image_type), "
        "or * for all. The node's kernel reads such a stream with all its rights, so that whoever "
        "makes one must be trusted with the node. Raw disks need no trust, nor do streams with a "
        "signature of ours (image_signing_key_file).",
    ),
    cfg.StrOpt(
        "image_signing_key_file",
        help="File with a secret that all nova-compute of the cloud share, at least 32 bytes, as "
        "openssl rand -hex 32 writes. Images that are made of servers are signed with it (property "
        "smartos_signature), and a ZFS stream with a right signature is taken whoever owns it. "
        "Without it nothing is signed, and only trusted_image_owners counts. Nobody but "
        "nova-compute may read the file: who has the key can have any node's kernel read anything.",
    ),
]


def connect(conf: cfg.ConfigOpts) -> node.Node:
    """The node that the options describe. Nothing is contacted before the first command."""
    options = conf[GROUP]
    timeouts = _timeouts(options)
    if options.connection == "local":
        LOG.info("SmartOS node: this machine")
        return node.Node.local(tool_path=options.tool_path, timeouts=timeouts)
    if options.node_address is None:
        raise cfg.RequiredOptError("node_address", cfg.OptGroup(GROUP))
    LOG.info("SmartOS node: %s as %s", options.node_address, options.node_user)
    return node.Node.ssh(
        options.node_address,
        port=options.node_port,
        user=options.node_user,
        key_file=options.key_file,
        known_hosts_file=options.known_hosts_file,
        tool_path=options.tool_path,
        max_connections=options.max_connections,
        connect_timeout=options.connect_timeout,
        timeouts=timeouts,
    )


def list_network_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """What oslo-config-generator asks for, of the file that two services read."""
    return [(GROUP, NETWORK_OPTIONS)]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """What oslo-config-generator asks for."""
    return [(GROUP, OPTIONS)]


def nic_tags(conf: cfg.ConfigOpts, host: str) -> dict[str, str]:
    """The nic tags of a host by physical network. A wrong option is a cfg.ConfigFileValueError."""
    found: dict[str, str] = {}
    for each in conf[GROUP].network_mappings:
        if fnmatch.fnmatchcase(host, each.hosts):
            found.setdefault(each.physical_network, each.nic_tag)
    return found


def peer(conf: cfg.ConfigOpts, host: str, address: str) -> node.Node:
    """The node of another nova-compute, over SSH; `address` is what Nova knows of it."""
    options = conf[GROUP]
    where = peer_address(conf, host, address)
    return node.Node.ssh(
        where.host,
        port=where.port,
        user=where.user,
        key_file=options.key_file,
        known_hosts_file=options.known_hosts_file,
        tool_path=options.tool_path if options.connection == "ssh" else None,
        max_connections=1,
        connect_timeout=options.connect_timeout,
        timeouts=_timeouts(options),
    )


def peer_address(conf: cfg.ConfigOpts, host: str, address: str) -> direct.Address:
    """Where the SSH of that node is."""
    options = conf[GROUP]
    url = parse.urlsplit(options.peers.get(host) or f"ssh://{_bracketed(address)}")
    return direct.Address(
        url.hostname or "", url.port or options.node_port, url.username or options.node_user
    )


def register(conf: cfg.ConfigOpts) -> None:
    """Add the [smartos] options to `conf`; adding them twice does no harm."""
    conf.register_opts(OPTIONS, group=GROUP)
    register_network(conf)


def register_network(conf: cfg.ConfigOpts) -> None:
    """Add those of the [smartos] options that say which wire a port gets."""
    conf.register_opts(NETWORK_OPTIONS, group=GROUP)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _timeouts(options: Any) -> transport.Timeouts:
    return transport.Timeouts(
        read=options.read_timeout,
        change=options.change_timeout,
        stream_idle=options.stream_idle_timeout,
    )
