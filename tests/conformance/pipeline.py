# SPDX-License-Identifier: Apache-2.0
"""What `vmadm create` and `vmadm update` really do with a payload."""

import contextlib
import re
import typing
from concurrent import futures

from tests.conformance import build, world

Difference = world.Difference

_NODES = 3
_CASES_A_NODE = 100
# Refusals that come after the recorded step: the payload was accepted, the deed was not.
LATER = {
    r'updates to disks are only allowed when state is "stopped"': "disks change while stopped",
    r"cannot resize disk: new size must be greater": "the volume itself refuses to shrink",
    r"Uncaught AssertionError: index \(number\) is required": "a disk path that the VM has not",
    r"provisioning dataset \S+ with brand \S+ is not supported": "the image refuses the brand",
    r"cannot (create|set property for) '\S+': ": "zfs refuses: no room, no such pool",
}
# What the normalized payload has and the vm object shows in another way, or what is drawn.
_ELSEWHERE = {
    *("uuid", "zonename", "create_timestamp", "transition", "v", "datasets", "nowait", "ram"),
    *("zfs_storage_pool_name", "dataset_uuid", "delegate_dataset", "mdata_exec_timeout"),
    *(
        "docker:id",
        "disks",
        "filesystems",
        "nics",
        "vnc_password",
        "spice_password",
        "zone_dataset_uuid",
    ),
}


def pipeline(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """Create or update for real, one case after the other: each supposes the same node."""
    chosen = [case for case in recorded if "pipeline" in case]
    chosen.sort(key=lambda case: (case["action"], case["brand"], str(case.get("vm_state"))))
    count = min(_NODES, 1 + len(chosen) // _CASES_A_NODE)
    with contextlib.ExitStack() as nodes, futures.ThreadPoolExecutor(count) as pool:
        judges = [_Judge(node)]
        for _ in range(count - 1):
            judges.append(_Judge(nodes.enter_context(world.up(node.environment))))
        shares = [chosen[number::count] for number in range(count)]
        found = [*pool.map(_Judge.judge, judges, shares)]
    differences = [difference for share in found for difference in share]
    return world.Verdict("pipeline", len(chosen), differences)


class _Judge:
    def __init__(self, node: world.World) -> None:
        self._node = node
        self._states: dict[str, str] = {}  # the VMs that are there, as they were made

    def judge(self, share: list[world.Case]) -> list[Difference]:
        """The cases of a share that the node answers otherwise."""
        return [difference for case in share if (difference := self._differs(case))]

    def _differs(self, case: world.Case) -> Difference | None:
        label = f"{case['brand']} {case['action']}: {case['note']}"
        try:
            why = self._create(case) if case["action"] == "create" else self._update(case)
        except RuntimeError as error:
            why = str(error)[-600:]
            self._states = dict.fromkeys(self._node.uuids(), "unknown")
        return Difference(label, why) if why else None

    def _create(self, case: world.Case) -> str | None:
        other = self._node.environment["existing_vm"]
        self._arrange({other["uuid"]: (other, other["state"])})
        done = self._node.run("vmadm", "create", document=case["payload"])
        made = [uuid for uuid in self._node.uuids() if uuid not in self._states]
        why = _compare(case["pipeline"], done)
        if why is None and done.status == 0:
            why = self._shown(case, *made)
        for uuid in made:
            self._node.remove_vm(uuid)
        return why

    def _update(self, case: world.Case) -> str | None:
        other = self._node.environment["existing_vm"]
        vm = self._node.environment["vmobjs"][case["brand"]]
        state = (case.get("vm_state") or vm)["state"]
        self._arrange({other["uuid"]: (other, other["state"]), vm["uuid"]: (vm, state)})
        done = self._node.run("vmadm", "update", vm["uuid"], document=case["payload"])
        if done.status != 1 or done.stderr.startswith("first of"):
            self._states[vm["uuid"]] = "changed"
        return _compare(case["pipeline"], done)

    def _arrange(self, wanted: dict[str, tuple[world.Case, str]]) -> None:
        """Have just these VMs, each as recorded and in its state."""
        for uuid, state in list(self._states.items()):
            if uuid not in wanted or wanted[uuid][1] != state:
                self._node.remove_vm(uuid)
                del self._states[uuid]
        for uuid, (vm, state) in wanted.items():
            if uuid not in self._states:
                build.make(self._node, vm, state)
                self._states[uuid] = state

    def _shown(self, case: world.Case, uuid: str) -> str | None:
        """Where the created VM is not what the normalized payload says."""
        vm = self._node.vm(uuid) or {}
        normalized = dict(case["pipeline"].get("normalized") or {})
        if not normalized:
            return None
        if case["brand"] == "bhyve":  # less than 1 GiB becomes 1 when it is set
            normalized["quota"] = max(1, normalized["quota"])
        wrong = _wrong(normalized, vm)
        for array in ("nics", "disks"):
            told = normalized.get(array) or normalized.get(f"add_{array}") or []
            shown = vm.get(array, [])
            if len(shown) != len(told) + (array == "disks" and _has_seed(vm)):
                wrong[array] = (told, shown)
            for number, (one, other) in enumerate(zip(told, shown, strict=False)):
                if differing := _wrong(one, other):
                    wrong[f"{array}.{number}"] = differing
        return f"(recorded, here): {wrong}" if wrong else None


def _has_seed(vm: world.Case) -> bool:
    return "cloudinit_nocloud_path" in (vm.get("internal_metadata") or {})


def _wrong(told: world.Case, shown: world.Case) -> dict[str, typing.Any]:
    """What an object shows otherwise than it was told, where it shows that at all."""
    return {
        key: (value, shown[key])
        for key, value in told.items()
        if key in shown and key not in _ELSEWHERE and not _same(value, shown[key])
    }


def _same(told: typing.Any, shown: typing.Any) -> bool:
    """Equal, or an address that was drawn, or a list that is shown with commas."""
    if isinstance(told, dict) and isinstance(shown, dict):
        return not _wrong(told, shown) and told.keys() <= shown.keys()
    if isinstance(shown, bool):
        return str(told).lower() == str(shown).lower()
    if isinstance(told, list) and isinstance(shown, str):
        told = ",".join(map(str, told))
    return bool(told == shown or (isinstance(told, str) and _blank(told) == _blank(str(shown))))


def _compare(recorded: dict[str, typing.Any], done: world.Done) -> str | None:
    """Why the deed does not agree with the record; None when it does."""
    if "crash" in recorded:
        same = done.status < 0 and recorded["crash"] in done.stderr
    elif recorded["ok"]:
        same = done.status == 0 or any(re.search(text, done.stderr) for text in LATER)
    else:
        said = done.stderr.rstrip("\n")
        same = done.status == 1 and _blank(said) == _blank(recorded["error"])
    return None if same else f"recorded {recorded if not recorded['ok'] else 'ok'}, here {done}"


def _blank(text: str) -> str:
    """The text without MAC addresses and disks' uuids: those that nobody gave are drawn."""
    text = re.sub(r"(?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}", "MAC", text)
    return re.sub(r'"uuid":"[0-9a-f-]{36}"', "UUID", text)
