# SPDX-License-Identifier: Apache-2.0
"""What a node remembers: JSON files, each replaced in one step."""

import json
import pathlib
import threading
import typing


class File:
    """One JSON document on disk."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def load(self, default: typing.Any = None) -> typing.Any:
        """The document, or `default` when there is none yet."""
        try:
            return json.loads(self.path.read_text("utf-8", "surrogateescape"))
        except FileNotFoundError:
            return default

    def save(self, document: typing.Any) -> None:
        """Replace the document; a reader sees the old or the new one, never half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{threading.get_ident()}")
        temporary.write_text(json.dumps(document), "utf-8", "surrogateescape")
        temporary.replace(self.path)

    def delete(self) -> None:
        """Forget the document."""
        self.path.unlink(missing_ok=True)
