# SPDX-License-Identifier: Apache-2.0
"""What the `smartos-emulator` command asks of a running node, over the tools' own socket."""

import json
import os
import typing

from smartos_emulator import call as call_module

if typing.TYPE_CHECKING:
    from smartos_emulator import daemon as daemon_module
    from smartos_emulator import node as node_module

NAME = "@control"


class Refused(Exception):
    """The request cannot be met; the text says why."""


def main(call: call_module.Call, daemon: "daemon_module.Daemon") -> int:
    """`@control REQUEST ARGUMENTS-AS-JSON`: prints the answer as JSON."""
    request, document = call.argv[1], json.loads(call.argv[2])
    if request == "stop":
        daemon.stop()
        return 0
    try:
        answer = _REQUESTS[request](call.node, **document)
    except (Refused, ValueError, TypeError, KeyError) as error:
        call.err(f"smartos-emulator: {request}: {error}\n")
        return 1
    call.out(json.dumps(answer) + "\n")
    return 0


def _status(node: "node_module.Node") -> dict[str, typing.Any]:
    return {
        "directory": str(node.dir),
        "pid": os.getpid(),
        "config": node.config.to_json(),
        "up_seconds": round(node.clock.monotonic() / node.clock.speed, 3),
        "ssh": node.sshd.facts() if node.sshd else None,
        "vminfod": {"up": node.vminfod_up, "port": node.vms.vminfod_port},
        "vms": [
            {key: vm.get(key) for key in ("uuid", "brand", "state", "alias")}
            for vm in node.vms.all()
        ],
        "booting": node.vms.booting,
        "images": len(node.images.all()),
        "faults": [fault.to_json() for fault in node.faults.list()],
    }


def _fault_add(node: "node_module.Node", **options: typing.Any) -> typing.Any:
    return node.faults.add(**options).to_json()


def _fault_list(node: "node_module.Node") -> typing.Any:
    return [fault.to_json() for fault in node.faults.list()]


def _fault_clear(node: "node_module.Node", number: int | None) -> typing.Any:
    if number is None:
        node.vms.set_vminfod(True)
        for pool in node.config.pools:
            node.storage.fill(pool, False)
    return {"cleared": node.faults.clear(number)}


def _fault_vminfod(node: "node_module.Node", up: bool) -> typing.Any:
    node.vms.set_vminfod(up)
    return {"vminfod_up": up}


def _fault_disk(node: "node_module.Node", pool: str, full: bool) -> typing.Any:
    node.storage.fill(pool, full)
    return {"pool": pool, "full": full}


def _fault_guest(node: "node_module.Node", uuid: str, **script: str) -> typing.Any:
    node.zones.script(uuid, **script)
    return {"uuid": uuid, **script}


def _load(node: "node_module.Node", uuid: str, **rates: float) -> typing.Any:
    if uuid != "global" and node.vms.get(uuid) is None:
        raise Refused(f"VM {uuid} not found")
    node.metrics.load(uuid, **rates)
    return {"uuid": uuid, **rates}


_REQUESTS: dict[str, typing.Callable[..., typing.Any]] = {
    "status": _status,
    "fault-add": _fault_add,
    "fault-list": _fault_list,
    "fault-clear": _fault_clear,
    "fault-vminfod": _fault_vminfod,
    "fault-disk": _fault_disk,
    "fault-guest": _fault_guest,
    "load": _load,
}
