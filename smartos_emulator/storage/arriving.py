# SPDX-License-Identifier: Apache-2.0
"""The files of one stream on their way in: a folder or volume file that grows by records."""

import contextlib
import json
import os
import pathlib
import stat
from typing import Any, BinaryIO

from smartos_emulator.storage import content, errors, framing


class Arrival:
    """Writes a stream's records below a path; object and offset say how far it has got."""

    def __init__(self, path: pathlib.Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.object = 0
        self.offset = 0
        self.booked: dict[int, int] = {}
        self._file: BinaryIO | None = None
        self._last: dict[str, Any] = {}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def apply(self, kind: bytes, payload: bytes) -> int:
        """Do what a record says; the bytes of data it brought."""
        if kind == framing.DATA:
            return self._data(payload)
        if kind == framing.HOLE:
            start, size = framing.span(payload)
            self._punch(start, size)
            return 0
        document = json.loads(payload)
        if kind == framing.BOOKED:
            self.booked[document["n"]] = document["s"]
            return int(document["s"])
        self._finish_file()
        self.object, self.offset = document["i"], document["o"]
        if kind == framing.REMOVE:
            self._writable(self._inside(document["p"]).parent)
            content.remove(self._inside(document["p"]))
        elif kind == framing.STATUS:
            self._status(document)
        else:
            self._node(document)
        return 0

    def finish(self) -> None:
        self._finish_file()

    def _inside(self, path: str) -> pathlib.Path:
        """A stream must not name anything outside of its own dataset."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise errors.StorageError("cannot receive", "invalid stream (bad path)")
        place = self.path
        for part in parts[:-1]:
            place = place / part
            if place.is_symlink():
                raise errors.StorageError("cannot receive", "invalid stream (bad path)")
        return place / parts[-1] if path else self.path

    def _writable(self, folder: pathlib.Path) -> None:
        mode = stat.S_IMODE(os.stat(folder).st_mode)
        if mode & 0o700 != 0o700:
            os.chmod(folder, mode | 0o700)

    def _node(self, document: dict[str, Any]) -> None:
        path = self._inside(document["p"])
        self._writable(path.parent)
        kind = document["k"]
        if kind == "d":
            path.mkdir(exist_ok=True)
            return
        if kind == "f":
            self._open(path, document)
            return
        path.unlink(missing_ok=True)
        if kind == "l":
            os.symlink(document["l"], path)
            os.utime(path, ns=(document["t"], document["t"]), follow_symlinks=False)
        elif kind == "h":
            os.link(self._inside(document["l"]), path, follow_symlinks=False)
        else:
            os.mkfifo(path)

    def _open(self, path: pathlib.Path, document: dict[str, Any]) -> None:
        if not document["o"]:
            path.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_NOFOLLOW | (0 if document["o"] else os.O_CREAT | os.O_EXCL)
        self._file = open(os.open(path, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115
        self._last = document

    def _finish_file(self) -> None:
        if self._file is None or self.kind == "volume":
            self.close()
            return
        os.ftruncate(self._file.fileno(), self._last["s"])
        self.close()
        self._status(self._last)

    def _status(self, document: dict[str, Any]) -> None:
        path = self._inside(document["p"])
        if path.is_symlink():
            raise errors.StorageError("cannot receive", "invalid stream (bad path)")
        content.set_status(str(path), document["m"], document["u"], document["g"], document["t"])

    def _data(self, payload: bytes) -> int:
        start, data = framing.offset(payload)
        file = self._target()
        os.pwrite(file.fileno(), data, start)
        self.offset = start + len(data)
        return len(data)

    def _punch(self, start: int, size: int) -> None:
        """Zeros: a hole cannot be made in an existing file everywhere."""
        file = self._target()
        end = min(start + size, os.fstat(file.fileno()).st_size)
        os.pwrite(file.fileno(), bytes(max(end - start, 0)), start)
        self.offset = start + size

    def _target(self) -> BinaryIO:
        if self._file is None:
            if self.kind != "volume":
                raise framing.Damaged
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        return self._file


def discard(path: pathlib.Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        content.remove(path)
