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
    # what a member says cannot be: a link to nothing, a file below a file
    text(
        r"gtar: .*: Cannot (?:create symlink|hard link|mkdir|mkfifo|open)\b",
        errors.InvalidPayload,
        "Archive",
    ),
)


class Files(_tool.Tool):
    """dd(8), gtar(1), ls(1) and rm(1)."""

    name = "dd"
    texts = TEXTS

    def delete(self, name: str) -> None:
        """rm -f FOLDER/NAME: one that is not there is success."""
        argv = ("rm", "-f", self._path(name))
        self._run(transport.Command(argv, timeout=transport.Timeout.CHANGE))

    def delete_folder(self, name: str, inside: str | None = None) -> None:
        """rm -rf FOLDER/NAME[/INSIDE]: one that is not there is success."""
        path = self._path(name)
        if inside is not None:
            path = f"{path}/{self._operand(inside, 'file name', _NAME)}"
        argv = ("rm", "-rf", path)
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

    def unpack_tree(self, name: str, archive: _tool.Readable) -> None:
        """gtar -x -p --numeric-owner -f - -C FOLDER/NAME < ARCHIVE: one whose names are checked.

        FOLDER/NAME is a dataset of its own, so that no link to a file elsewhere can be made.
        """
        argv = ("gtar", "-x", "-p", "--numeric-owner", "-f", "-", "-C", self._path(name))
        self._feed(archive, transport.Command(argv, timeout=transport.Timeout.STREAM))

    def write(self, name: str, source: _tool.Readable) -> str:
        """dd of=FOLDER/NAME bs=1048576 < SOURCE: return the path.

        A source or a connection that fails leaves a part of the file: delete() it.
        """
        path = self._path(name)
        self._input(source, f"of={path}", "bs=1048576")
        return path

    def write_volume(self, dataset: str, source: _tool.Readable, *, offset_mib: int = 0) -> None:
        """dd of=/dev/zvol/rdsk/DATASET ibs=65536 obs=1048576 [seek=MIB] < SOURCE: whole blocks.

        What comes through a connection comes in pieces of any size, and a disk takes whole blocks:
        obs= gathers them, bs= would not.
        """
        device = f"/dev/zvol/rdsk/{self._operand(dataset, 'dataset', _DATASET)}"
        seek = (f"seek={offset_mib}",) if offset_mib else ()
        self._input(source, f"of={device}", "ibs=65536", "obs=1048576", *seek)

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self._operand(name, 'file name', _NAME)}"
