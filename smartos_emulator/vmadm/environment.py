# SPDX-License-Identifier: Apache-2.0
"""What the payload rules ask of the node they run on; they change nothing there."""

import random
from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class Environment(Protocol):
    """The node as the rules see it."""

    def image(self, uuid: str, zpool: str) -> dict[str, Any] | None:
        """The manifest of an image installed on a pool."""

    def nic_tags(self) -> Mapping[str, str]:
        """The nic tags in nictagadm's order, each with its type ("normal", "etherstub", …)."""

    def nic_tag_exists(self, tag: str) -> bool:
        """Whether a nic may use the tag; overlay tags carry their network behind a slash."""

    def pools(self) -> list[str]:
        """The names of the pools."""

    def vms(self) -> Iterable[dict[str, Any]]:
        """Every VM of the node, as `vmadm get` shows them."""

    def random(self) -> random.Random:
        """Where generated MAC addresses and disk uuids come from."""

    def timestamp(self) -> str:
        """The node's time as "2026-03-12T09:00:00.000Z"."""
