# SPDX-License-Identifier: Apache-2.0
"""The node that the tests of vmadm's payload rules suppose: golden/payload_rules/node.json."""

import copy
import json
import pathlib
import random
from typing import Any

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "payload_rules"


def golden(name: str) -> Any:
    """One of the files of golden cases."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


class RulesNode:
    """A smartos_emulator.vmadm.environment.Environment out of a document."""

    def __init__(self) -> None:
        self.document = golden("node")
        self._random = random.Random(1)

    def image(self, uuid: str, zpool: str) -> dict[str, Any] | None:
        return self.document["images"].get(uuid) if zpool == "zones" else None

    def nic_tags(self) -> dict[str, str]:
        return self.document["nic_tags"]

    def nic_tag_exists(self, tag: str) -> bool:
        return tag in self.document["nic_tags"] or tag.startswith("sdc_overlay/")

    def pools(self) -> list[str]:
        return self.document["pools"]

    def vms(self) -> list[dict[str, Any]]:
        return [self.vm("zone"), self.vm("hvm")]

    def random(self) -> random.Random:
        return self._random

    def timestamp(self) -> str:
        return "2026-03-12T09:00:00.000Z"

    def vm(self, name: str | None) -> dict[str, Any] | None:
        """One of the VMs there; `hvm-running` is `hvm` while it runs."""
        if name is None:
            return None
        kind, _, state = name.partition("-")
        vm = copy.deepcopy(self.document["vms"][kind])
        if state:
            vm |= {"state": state, "zone_state": state}
        return vm
