# SPDX-License-Identifier: Apache-2.0
"""uptime: how long the node has been up, and how busy it is, in its own words."""

from nova_smartos.smartos import _tool


class Uptime(_tool.Tool):
    """uptime(1)."""

    name = "uptime"

    def get(self) -> str:
        """uptime: one line, for people."""
        return self._read(str.strip)
