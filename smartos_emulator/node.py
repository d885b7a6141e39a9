# SPDX-License-Identifier: Apache-2.0
"""A node: its configuration, its file tree and its back ends."""

import dataclasses
import os
import pathlib
import shutil
import threading
import typing
import uuid

from smartos_emulator import (
    call,
    client,
    clock,
    consoles,
    display,
    events,
    faults,
    fwadm,
    imgadm,
    mdata,
    metrics,
    network,
    sshd,
    state,
    storage,
    vmadm,
    zones,
)

GIB = 1 << 30

# What lives in the node's memory and is lost at a reboot.
VOLATILE_TREES = ("root", "tmp", "var/run")


@dataclasses.dataclass(frozen=True)
class Config:
    """What `smartos-emulator up` decides and DIR/node.json keeps."""

    name: str = "emu0"
    uuid: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    platform: str = "20260312T000000Z"
    cpus: int = 8
    memory_mib: int = 32768
    pools: dict[str, int] = dataclasses.field(default_factory=lambda: {"zones": 512 * GIB})
    nic_tags: tuple[str, ...] = ("admin", "external", "internal")
    etherstubs: tuple[str, ...] = ()
    overlay_rules: tuple[str, ...] = ()
    bhyve: bool = True
    lacking_probes: tuple[str, ...] = ()
    admin_ip: str = "127.0.0.1"
    ssh: str = ""
    vminfod_port: int = 0
    speed: float = 1.0
    seed: int = 1

    @classmethod
    def from_json(cls, document: dict[str, typing.Any]) -> "Config":
        """The configuration that `to_json` wrote."""
        lists = {"nic_tags", "etherstubs", "overlay_rules", "lacking_probes"}
        fields: dict[str, typing.Any] = {
            key: tuple(value) if key in lists else value for key, value in document.items()
        }
        return cls(**fields)

    def to_json(self) -> dict[str, typing.Any]:
        return dataclasses.asdict(self)


class Node:
    """One emulated SmartOS node, kept in a directory."""

    def __init__(self, directory: pathlib.Path, config: Config) -> None:
        self.dir = directory
        self.root = directory / "root"
        self.config = config
        self.clock = clock.Clock(config.speed)
        self.lock = threading.RLock()
        self.vminfod_up = True
        #: The tools that run now; who serves the node knows them.
        self.runs: typing.Callable[[], list[call.Call]] = list
        self.faults = faults.Faults(config.seed)
        self.storage = storage.Storage(self)
        self.events = events.Hub(self)
        self.network = network.Network(self)
        self.metrics = metrics.Metrics(self)
        self.images = imgadm.Images(self)
        self.firewall = fwadm.Firewall(self)
        self.zones = zones.Zones(self)
        self.vms = vmadm.Vms(self)
        self.metadata = mdata.Agent(self)
        self.consoles = consoles.Consoles(self)
        self.displays = display.Displays(self)
        self.sshd = sshd.Server(self) if config.ssh else None

    def boot(self) -> None:
        """What the node does when it comes up: the RAM root is new, autoboot VMs start."""
        for tree in VOLATILE_TREES:
            shutil.rmtree(self.root / tree, ignore_errors=True)
            (self.root / tree).mkdir(parents=True)
        self.vms.node_boot()
        if self.sshd:
            self.sshd.start()

    def halt(self) -> None:
        """Power off: every run ends where it stands."""
        self.clock.stopping.set()

    def close(self) -> None:
        """Let go of what lies outside this process."""
        self.zones.close()
        self.metadata.stop()
        self.consoles.stop()
        self.displays.stop()
        if self.sshd:
            self.sshd.stop()

    def cut_connection(self, pid: int) -> None:
        """Break the SSH connection that the process `pid` serves; a local one has none."""
        if self.sshd:
            self.sshd.cut(pid)

    def state_file(self, name: str) -> state.File:
        """A document of this node that no tool of the real one shows."""
        return state.File(self.dir / "state" / f"{name}.json")

    def path(self, node_path: str) -> pathlib.Path:
        """Where an absolute path of the node's file tree lies on this machine."""
        return self.root / node_path.lstrip("/")

    def host_path(self, path: str) -> pathlib.Path:
        """Where a path on a tool's command line lies: in the node's tree or the host's."""
        path = os.path.normpath(path)
        if client.is_of_node(path):
            return self.path(path)
        return pathlib.Path(path)
