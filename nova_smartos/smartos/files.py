# SPDX-License-Identifier: Apache-2.0
"""files: what a tool of the node wants as a file (imgadm install), put there and taken away again.

All of them lie in one folder, the mountpoint of a dataset of ours: no path can lead into a zone,
and the dataset's quota bounds them.
"""

import builtins
import re

from nova_smartos.smartos import _tool, errors, transport
from nova_smartos.smartos._tool import text

#: The dataset must be there; its mountpoint is the folder.
DATASET = "zones/nova-smartos"
FOLDER = "/" + DATASET

# a volume of ours, or a disk of a vm
_DATASET = re.compile(
    re.escape(DATASET) + r"/[A-Za-z0-9_][A-Za-z0-9_.-]*"
    rf"|[A-Za-z][A-Za-z0-9_.-]*/{_tool.UUID.pattern}[/-]disk[0-9]+"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

TEXTS = (
    text(
        r"(?:dd: \S+: open|gtar: \S+: Cannot open|/\S+): No such file or directory",
        errors.NotFound,
        "FolderNotFound",
    ),
    *_tool.SPACE,
)


class Files(_tool.Tool):
    """dd(8), gtar(1), ls(1) and rm(1)."""

    name = "dd"
    texts = TEXTS

    def delete(self, name: str) -> None:
        """rm -f FOLDER/NAME: one that is not there is success."""
        argv = ("rm", "-f", self._path(name))
        self._run(transport.Command(argv, timeout=transport.Timeout.CHANGE))

    def delete_folder(self, name: str) -> None:
        """rm -rf FOLDER/NAME: one that is not there is success."""
        argv = ("rm", "-rf", self._path(name))
        self._run(transport.Command(argv, timeout=transport.Timeout.CHANGE))

    def list(self) -> builtins.list[str]:
        """ls -1 FOLDER: the names of the files."""
        argv = ("ls", "-1", FOLDER)
        result = self._run(transport.Command(argv, timeout=transport.Timeout.READ))
        return self._parsed(_tool.lines, result)

    def unpack(self, archive: bytes) -> None:
        """gtar -x --recursive-unlink -f - -C FOLDER < ARCHIVE: one of our making, its names ours.

        A folder takes the place of the one of its name: nothing of that is left in it.
        """
        argv = ("gtar", "-x", "--recursive-unlink", "-f", "-", "-C", FOLDER)
        self._run(transport.Command(argv, stdin=archive, timeout=transport.Timeout.CHANGE))

    def write(self, name: str, source: _tool.Readable) -> str:
        """dd of=FOLDER/NAME bs=1048576 < SOURCE: return the path.

        A source or a connection that fails leaves a part of the file: delete() it.
        """
        path = self._path(name)
        self._input(source, f"of={path}", "bs=1048576")
        return path

    def write_volume(self, dataset: str, source: _tool.Readable) -> None:
        """dd of=/dev/zvol/rdsk/DATASET ibs=65536 obs=1048576 < SOURCE: whole blocks of it.

        What comes through a connection comes in pieces of any size, and a disk takes whole blocks:
        obs= gathers them, bs= would not.
        """
        device = f"/dev/zvol/rdsk/{self._operand(dataset, 'dataset', _DATASET)}"
        self._input(source, f"of={device}", "ibs=65536", "obs=1048576")

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self._operand(name, 'file name', _NAME)}"
