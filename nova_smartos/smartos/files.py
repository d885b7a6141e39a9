# SPDX-License-Identifier: Apache-2.0
"""files: what a tool of the node wants as a file (imgadm install), put there and taken away again.

All of them lie in one folder, the mountpoint of a dataset of ours: no path can lead into a zone,
and the dataset's quota bounds them.
"""

import re

from nova_smartos.smartos import _tool, errors, transport
from nova_smartos.smartos._tool import text

#: The dataset must be there; its mountpoint is the folder.
DATASET = "zones/nova-smartos"
FOLDER = "/" + DATASET

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

TEXTS = (
    text(r"dd: \S+: open: No such file or directory", errors.NotFound, "FolderNotFound"),
    *_tool.SPACE,
)


class Files(_tool.Tool):
    """dd(8) and rm(1)."""

    name = "dd"
    texts = TEXTS

    def delete(self, name: str) -> None:
        """rm -f FOLDER/NAME: one that is not there is success."""
        argv = ("rm", "-f", self._path(name))
        self._run(transport.Command(argv, timeout=transport.Timeout.CHANGE))

    def write(self, name: str, source: _tool.Readable) -> str:
        """dd of=FOLDER/NAME bs=1048576 < SOURCE: return the path.

        A source or a connection that fails leaves a part of the file: delete() it.
        """
        path = self._path(name)
        self._input(source, f"of={path}", "bs=1048576")
        return path

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self._operand(name, 'file name', _NAME)}"
