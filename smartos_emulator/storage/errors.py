# SPDX-License-Identifier: Apache-2.0
"""The one error of the storage back end: its text is what zfs prints on standard error."""


class StorageError(Exception):
    """A refused or failed storage operation; str() is the whole text, without the last newline."""

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__(f"{what}: {why}" if why else what)
        self.what = what
        self.why = why


def missing(name: str, doing: str = "open") -> StorageError:
    return StorageError(f"cannot {doing} '{name}'", "dataset does not exist")
