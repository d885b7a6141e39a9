# SPDX-License-Identifier: Apache-2.0
"""The [smartos_meters] options, and the nodes that they name."""

import dataclasses

from oslo_config import cfg, types

from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import node

GROUP = "smartos_meters"

#: D scripts that are light and hang on probes that stay.
DEFAULT_SCRIPTS = ["zone_io", "zone_throttle", "zone_capwait", "zone_net", "zone_tcp"]
#: These look closer, and cost more.
SCRIPTS = [*DEFAULT_SCRIPTS, "zone_cpu", "zone_final", "zone_runq", "zone_syscall", "zone_vfs"]

#: What runs them.
PROGRAM, LIBRARY = "dtrace", "libdtrace"

OPTIONS = [
    cfg.DictOpt(
        "nodes",
        default={},
        help="The nodes to meter, as NAME:FILE: FILE is the configuration file of the nova-compute "
        "that drives the node, whose [smartos] options say how it is reached and where final "
        "readings lie. Without any, this file's own [smartos] options name the one node.",
    ),
    cfg.StrOpt(
        "ledger",
        default="/var/lib/ceilometer/smartos-ledger.sqlite",
        help="Where the totals of all instances are kept. It belongs into the backup: without it "
        "every total begins anew. Nodes between which instances move belong to one agent, and so "
        "to one ledger.",
    ),
    cfg.IntOpt(
        "collect_timeout",
        default=20,
        min=1,
        help="Seconds that a cycle waits for its nodes. The samples of one that takes longer come "
        "with the next cycle; nothing of its totals is lost.",
    ),
    cfg.IntOpt(
        "space_interval",
        default=300,
        min=1,
        help="Seconds between two looks at what datasets take, a command of its own.",
    ),
    cfg.IntOpt(
        "final_cycles",
        default=3,
        min=1,
        help="Cycles in which the last totals of a deleted instance are given, so that one that is "
        "lost on its way does no harm.",
    ),
    cfg.ListOpt(
        "scripts",
        item_type=types.String(choices=SCRIPTS),
        default=DEFAULT_SCRIPTS,
        help="The D scripts that run on the nodes, one process for all of them; empty is none. "
        "zone_cpu, zone_runq, zone_syscall and zone_vfs exist as well, and cost more: see the "
        "head of each script. zone_final costs nothing and hangs on the kernel's inside: with it "
        "what programs read and wrote until their guest rebooted by itself is in the totals.",
    ),
    cfg.StrOpt(
        "consumer",
        default=PROGRAM,
        choices=[
            (PROGRAM, "the program dtrace on each node, here or over SSH"),
            (LIBRARY, "libdtrace in the agent itself, as root in the global zone of its one node"),
        ],
        help="What runs the D scripts. libdtrace keeps the memory that keys of dead zones take "
        "until the agent is started anew.",
    ),
    cfg.IntOpt(
        "dtrace_period",
        default=30,
        min=1,
        help="Seconds between two frames of what the scripts have counted: how old that may be, "
        "and what is lost, at most, when dtrace or its node dies.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Place:
    """A node as the configuration names it; `name` is for people."""

    name: str
    node: node.Node
    spool_directory: str | None
    #: whether it is the machine that this runs on
    local: bool


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """What oslo-config-generator asks for."""
    return [(GROUP, OPTIONS)]


def places(conf: cfg.ConfigOpts) -> list[Place]:
    """The nodes; none is contacted. What cannot be read, or not be so, is a cfg.Error."""
    files = conf[GROUP].nodes
    found = [_place(_read(path), name) for name, path in files.items()] or [_place(conf, "")]
    remote = [place.name for place in found if not place.local]
    if remote and conf[GROUP].consumer == LIBRARY:
        raise cfg.Error(f"consumer = {LIBRARY} counts here, and not on {', '.join(remote)}")
    return found


def register(conf: cfg.ConfigOpts) -> None:
    """Add the options to `conf`; adding them twice does no harm."""
    conf.register_opts(OPTIONS, group=GROUP)
    smartos_conf.register(conf)


def _place(conf: cfg.ConfigOpts, name: str) -> Place:
    options = conf[smartos_conf.GROUP]
    gz = smartos_conf.connect(conf)
    address = options.node_address
    return Place(name or address or "local", gz, options.spool_directory, local=not address)


def _read(path: str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    smartos_conf.register(conf)
    conf([], default_config_files=[path], default_config_dirs=[])
    return conf
