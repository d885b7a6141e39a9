# SPDX-License-Identifier: Apache-2.0
"""Records that survive a crash at any moment: an append log of transactions, compacted at times."""

import json
import os
import pathlib
import weakref
from typing import Any

_COMPACT_BYTES = 1 << 20

Record = dict[str, Any]


class Journal:
    """Documents by key. A transaction is one line, so it is kept whole or not at all."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._base = directory / "base.json"
        self._log = directory / "journal.jsonl"
        self.records: dict[str, Record] = {}
        self._load()
        self._limit = max(_COMPACT_BYTES, 2 * self._base_size())
        self._fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.close = weakref.finalize(self, os.close, self._fd)
        self._size = self._log.stat().st_size

    def commit(self, put: dict[str, Record], drop: tuple[str, ...] = ()) -> None:
        """Keep and forget documents in one step."""
        line = json.dumps({"put": put, "drop": drop}, separators=(",", ":")).encode() + b"\n"
        self._apply(put, drop)
        os.write(self._fd, line)
        self._size += len(line)
        if self._size > self._limit:
            self._compact()

    def _apply(self, put: dict[str, Record], drop: tuple[str, ...]) -> None:
        self.records.update(put)
        for key in drop:
            self.records.pop(key, None)

    def _base_size(self) -> int:
        return self._base.stat().st_size if self._base.exists() else 0

    def _load(self) -> None:
        if self._base.exists():
            self.records = json.loads(self._base.read_bytes())
        if not self._log.exists():
            return
        with open(self._log, "rb+") as log:
            good = 0
            for line in log:
                if not line.endswith(b"\n"):
                    break
                change = json.loads(line)
                self._apply(change["put"], tuple(change["drop"]))
                good += len(line)
            log.truncate(good)

    def _compact(self) -> None:
        temporary = self._base.with_suffix(".new")
        temporary.write_bytes(json.dumps(self.records, separators=(",", ":")).encode())
        os.replace(temporary, self._base)
        # Replaying the old log over the new base changes nothing, so a crash here is harmless.
        os.ftruncate(self._fd, 0)
        self._size = 0
        self._limit = max(_COMPACT_BYTES, 2 * self._base_size())
