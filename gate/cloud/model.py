# SPDX-License-Identifier: Apache-2.0
"""A cloud in its folder: what it consists of and where everything is."""

import dataclasses
import json
import pathlib
import random
import secrets
import socket
from typing import Any

HOST = "127.0.0.1"
#: What makes a folder a cloud's.
FILE = "cloud.json"
REGION = "RegionOne"
#: The socket of memcached, in the cloud's folder, where every process of the cloud is.
CACHE = "memcached.sock"
_PORTS = (
    "mariadb",
    "rabbitmq",
    "rabbitmq-dist",
    "epmd",
    "keystone",
    "placement",
    "glance",
    "neutron",
    "nova-api",
    "gnocchi",
    "ceilometer-polling",
    "cloudkitty",
    "cinder",
    "novncproxy",
    "serialproxy",
)
# below those from which Linux takes ports for outgoing connections
_RANGE = range(20000, 32000)


@dataclasses.dataclass
class Node:
    """A SmartOS node, and the nova-compute that drives it."""

    host: str
    #: "ssh" or "local", or the address of a node that is not emulated: ssh://USER@HOST:PORT
    connection: str
    #: how a real node is reached, if not by the SSH agent and ~/.ssh/known_hosts
    identity: str | None = None
    known_hosts: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether the node is ours, from power on to power off."""
        return self.connection in ("ssh", "local")


@dataclasses.dataclass
class Cloud:
    """What `up` decided; cloud.json in the cloud's folder keeps it."""

    base: pathlib.Path
    sets: frozenset[str]
    nodes: list[Node]
    #: node seconds in a second, of emulated nodes
    speed: str
    #: Neutron's physical networks and the nic tags under them
    networks: dict[str, str]
    password: str
    ports: dict[str, int]
    #: manifests of images that take the place of small ones, by name
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    up: bool = False

    @classmethod
    def plan(cls, base: pathlib.Path, **options: Any) -> "Cloud":
        """A new cloud, with free ports and a password of its own."""
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        return cls(base=base, password=secrets.token_hex(12), ports=ports, **options)

    @classmethod
    def load(cls, base: pathlib.Path) -> "Cloud | None":
        """The cloud in a folder, if there is one."""
        try:
            kept = json.loads((base / FILE).read_text())
        except FileNotFoundError:
            return None
        kept["nodes"] = [Node(**node) for node in kept["nodes"]]
        return cls(**kept | {"base": base, "sets": frozenset(kept["sets"])})

    def save(self) -> None:
        """Write cloud.json, readable by its owner alone: it has the password."""
        kept = dataclasses.asdict(self) | {"base": str(self.base), "sets": sorted(self.sets)}
        new = unfinished(self.base)
        new.touch(mode=0o600)
        new.write_text(json.dumps(kept, indent=2))
        new.replace(self.base / FILE)

    def folder(self, *names: str) -> pathlib.Path:
        """A folder of the cloud's, made when it is not there."""
        folder = self.base.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, service: str) -> pathlib.Path:
        """Where a service's output and log go."""
        return self.base / "logs" / f"{service}.log"

    def url(self, service: str, path: str = "") -> str:
        """Where an API answers."""
        return f"http://{HOST}:{self.ports[service]}{path}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes OpenStack's clients use this cloud as its administrator."""
        return {
            "OS_CLOUD": "smartos",
            "OS_CLIENT_CONFIG_FILE": str(self.base / "clouds.yaml"),
            # the second is not for what is kept in a database; clouds.yaml cannot say that
            "OS_RATING_API_VERSION": "1",
        }


def unfinished(base: pathlib.Path) -> pathlib.Path:
    """What cloud.json is called until it is whole."""
    return (base / FILE).with_suffix(".new")


def mark() -> str:
    """A name that no other cloud has."""
    return f"smartos-cloud-{secrets.token_hex(4)}"


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        with socket.socket() as sock:
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError("too few free ports")
