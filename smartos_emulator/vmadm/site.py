# SPDX-License-Identifier: Apache-2.0
"""The node as the payload rules see it."""

import random
import typing
from collections.abc import Iterable, Mapping

from smartos_emulator import events

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]


class Site:
    """What the rules of payloads may know of one node."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._random = random.SystemRandom()

    def image(self, uuid: str, zpool: str) -> Vm | None:
        """The manifest of an image installed on a pool."""
        found = self._node.images.get(uuid, zpool)
        return None if found is None else found["manifest"]

    def nic_tags(self) -> Mapping[str, str]:
        """The nic tags, each with its type."""
        return self._node.network.nic_tags()

    def nic_tag_exists(self, tag: str) -> bool:
        return self._node.network.nic_tag_exists(tag)

    def pools(self) -> list[str]:
        return self._node.storage.pools()

    def vms(self) -> Iterable[Vm]:
        return self._node.events.all()

    def random(self) -> random.Random:
        return self._random

    def timestamp(self) -> str:
        return events.date_text(self._node.clock.now())
