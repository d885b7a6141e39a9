# SPDX-License-Identifier: Apache-2.0
"""The [smartos] options: how a service finds and reaches its node.

Each function takes the configuration object: not every service keeps its options in a global one.
"""

from oslo_config import cfg
from oslo_log import log

from nova_smartos.smartos import node, transport

LOG = log.getLogger(__name__)
# A name, not an OptGroup: one of those keeps values, and would carry them from one configuration
# object to the next.
GROUP = "smartos"

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
    cfg.IntOpt("connect_timeout", default=15, min=1, help="Seconds to wait for a connection."),
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
    cfg.ListOpt(
        "trusted_image_owners",
        default=[],
        help="Ids of the projects whose images may be ZFS streams (property smartos_image_type), "
        "or * for all. The node's kernel reads such a stream with all its rights, so that whoever "
        "makes one must be trusted with the node. Raw disks need no trust.",
    ),
    cfg.DictOpt(
        "physical_networks",
        default={},
        help="Nic tags of the node by the names that Neutron gives to physical networks, for ports "
        "whose binding names no nic tag: physnet1:external,physnet2:storage. The key * stands for "
        "ports that name no physical network; without it, and for a physical network that is not "
        "here, a launch is refused. A port whose binding names no VLAN sends untagged frames, so "
        "a network of type vlan needs a mechanism driver that puts its VLAN into the binding.",
    ),
]


def connect(conf: cfg.ConfigOpts) -> node.Node:
    """The node that the options describe. Nothing is contacted before the first command."""
    options = conf[GROUP]
    timeouts = transport.Timeouts(
        read=options.read_timeout,
        change=options.change_timeout,
        stream_idle=options.stream_idle_timeout,
    )
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


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """What oslo-config-generator asks for."""
    return [(GROUP, OPTIONS)]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the [smartos] options to `conf`; adding them twice does no harm."""
    conf.register_opts(OPTIONS, group=GROUP)
