# SPDX-License-Identifier: Apache-2.0
"""Files in datasets: what is written counts against quotas and pools."""

import io
import typing

if typing.TYPE_CHECKING:
    from smartos_emulator import storage

_PIECE = 1 << 25
_PART = 8


class File(io.RawIOBase):
    """A file being written; its dataset is asked for room, in ever larger pieces.

    OSError says that there is none: ENOSPC or EDQUOT.
    """

    def __init__(self, books: "storage.Storage", dataset: str, file: typing.BinaryIO) -> None:
        self._books = books
        self._dataset = dataset
        self._file = file
        self._written = 0
        self._granted = 0

    def writable(self) -> bool:
        return True

    def write(self, data: typing.Any) -> int:
        size = len(data)
        if size > self._granted:
            self._ask(size)
        self._file.write(data)
        self._written += size
        self._granted -= size
        return size

    def _ask(self, size: int) -> None:
        """Accounting reads what was written: so the more there is, the rarer it must be.

        Where there is much room, a part of it is a large piece, and yet leaves some to others.
        """
        self._file.flush()
        self._books.check(self._dataset, size)
        room = self._books.number(self._dataset, "available")
        self._granted = min(room, max(_PIECE, self._written, room // _PART))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            self._books.charge(self._dataset)
