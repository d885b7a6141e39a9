# SPDX-License-Identifier: Apache-2.0
"""Files in datasets: what is written counts against quotas and pools."""

import io
import pathlib
import typing

if typing.TYPE_CHECKING:
    from smartos_emulator import storage

# How much may be written before it is counted.
_WINDOW = 8 << 20


class File(io.RawIOBase):
    """A file written from its beginning; what does not fit raises OSError and is not kept."""

    def __init__(self, books: "storage.Storage", dataset: str, path: pathlib.Path) -> None:
        self._books = books
        self._dataset = dataset
        self._file = path.open("wb")
        self._counted = self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: typing.Any) -> int:
        self._file.write(data)
        self._written += len(data)
        if self._written - self._counted >= _WINDOW:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Count what was written since the last time; take it back when it does not fit."""
        if self.closed or self._written == self._counted:
            return
        self._file.flush()
        try:
            self._books.charge(self._dataset)
        except OSError:
            self._written = self._file.truncate(self._counted)
            raise
        self._counted = self._written

    def close(self) -> None:
        if not self.closed:
            try:
                self.flush()
            finally:
                self._file.close()
                super().close()
