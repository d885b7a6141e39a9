# SPDX-License-Identifier: Apache-2.0
"""What marks a VM as Nova's, and says whose it is.

The mark lies in internal_metadata, under a key that no guest can write: mdata-put reaches only
customer_metadata, keys that end in _pw, and operator-script.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from nova_smartos.smartos import vms

if TYPE_CHECKING:
    # not at run time: the metering plugin reads the mark where no Nova is
    from nova.objects import flavor as flavors
    from nova.objects import instance as instances

KEY = "nova:instance"
#: Followed by a nic's MAC address: its Neutron port.
PORT = "nova:port:"
#: On a rescued VM: what it was before. A guest cannot write this one either.
RESCUED = "nova:rescued"
#: On the zone that does a rescued zone's work: whose.
STANDS_IN = "nova:stands_in_for"
#: On a VM and its copy while it moves to another node: neither boots before Nova has said which.
MOVED = "nova:moved"
# Raised when a reader of the old form would misread the new one.
_VERSION = 1
_STILLBORN = frozenset(
    {vms.State.CONFIGURED, vms.State.FAILED, vms.State.INCOMPLETE, vms.State.PROVISIONING}
)


@dataclasses.dataclass(frozen=True)
class Identity:
    """The instance that a VM is, as Nova described it when it last made or changed the VM."""

    host: str
    name: str
    display_name: str
    project_id: str
    user_id: str
    image_ref: str
    flavor: Mapping[str, Any]
    created_at: str

    @classmethod
    def from_mark(cls, text: object) -> Self | None:
        """The identity in a mark, or None for what no driver of ours has written."""
        try:
            document = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            return None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return None
        values: dict[str, Any] = {
            field.name: document.get(field.name) for field in dataclasses.fields(cls)
        }
        flavor = values.pop("flavor")
        if not isinstance(flavor, dict) or not all(isinstance(v, str) for v in values.values()):
            return None
        return cls(flavor=flavor, **values)


@dataclasses.dataclass(frozen=True)
class Move:
    """Where a VM goes, and by which of Nova's migrations."""

    migration: str
    host: str


def mark(
    instance: "instances.Instance",
    flavor: "flavors.Flavor | None" = None,
    *,
    host: str | None = None,
) -> dict[str, str]:
    """What internal_metadata holds of the instance, with another flavor than its own if given.

    `host` is who makes the VM: in an evacuation Nova still has the old one on the instance.
    """
    flavor = flavor or instance.flavor
    host = host or instance.host
    if not host:
        raise ValueError(f"instance {instance.uuid}: a mark without a host would be nobody's")
    document = {
        "version": _VERSION,
        "host": host,
        "name": instance.name,
        "display_name": instance.display_name or instance.hostname or "",
        "project_id": instance.project_id or "",
        "user_id": instance.user_id or "",
        "image_ref": instance.image_ref or "",
        "flavor": {
            "id": flavor.flavorid,
            "name": flavor.name,
            "vcpus": flavor.vcpus,
            "ram": flavor.memory_mb,
            "disk": flavor.root_gb,
            "ephemeral": flavor.ephemeral_gb,
            "swap": flavor.swap,
        },
        "created_at": instance.created_at.isoformat() if instance.created_at else "",
    }
    return {KEY: json.dumps(document, sort_keys=True, separators=(",", ":"))}


def move_mark(move: Move) -> dict[str, str]:
    """What internal_metadata holds of a VM that has gone to another node, and of its copy there."""
    text = json.dumps(dataclasses.asdict(move), sort_keys=True, separators=(",", ":"))
    return {MOVED: text}


def moved(vm: vms.Vm) -> Move | None:
    """Where the VM has gone, or was to go; None for one that stays, or has arrived."""
    text = vm.internal_metadata.get(MOVED)
    if text is None:
        return None
    try:
        return Move(**json.loads(text))
    except (TypeError, ValueError):
        # whatever it says, such a VM must not boot
        return Move("", "")


def of(vm: vms.Vm) -> Identity | None:
    """Whose VM it is; None when Nova has not made it, or its mark is no longer whole."""
    return Identity.from_mark(vm.internal_metadata.get(KEY))


def port_marks(ports: Mapping[str, str]) -> dict[str, str]:
    """What internal_metadata holds of the nics with these MAC addresses and ports."""
    return {f"{PORT}{mac}": port for mac, port in ports.items()}


def ports(vm: vms.Vm) -> dict[str, str]:
    """The Neutron port of each nic by its MAC address, as far as the VM tells."""
    found = {
        nic.mac.lower(): vm.internal_metadata.get(f"{PORT}{nic.mac.lower()}") for nic in vm.nics
    }
    return {mac: port for mac, port in found.items() if isinstance(port, str)}


def stand_in_mark(uuid: str) -> dict[str, str]:
    """What internal_metadata holds of a zone that stands in for the VM of an instance."""
    return {STANDS_IN: uuid}


def stands_in_for(vm: vms.Vm) -> str | None:
    """Whose work the VM does while that is rescued; None for any other VM."""
    uuid = vm.internal_metadata.get(STANDS_IN)
    return uuid if isinstance(uuid, str) else None


def is_stillborn(vm: vms.Vm) -> bool:
    """Whether vmadm has ended before the VM had any metadata: its uuid alone says whose it is."""
    return vm.state in _STILLBORN and not vm.internal_metadata
