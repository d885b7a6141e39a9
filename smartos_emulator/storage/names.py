# SPDX-License-Identifier: Apache-2.0
"""Names of datasets and snapshots: how they split, order, and why one is refused."""

_LIMIT = 256
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.: ")
_RESERVED = ("mirror", "raidz", "spare", "log")


def pool(name: str) -> str:
    return name.split("/", 1)[0].split("@", 1)[0]


def parent(name: str) -> str | None:
    head, slash, _ = name.rpartition("/")
    return head if slash else None


def split(name: str) -> tuple[str, str | None]:
    """("zones/x", "s") of "zones/x@s"; the second is None for a dataset."""
    dataset, at, snapshot = name.partition("@")
    return dataset, (snapshot if at else None)


def is_snapshot(name: str) -> bool:
    return "@" in name


def below(name: str, ancestor: str) -> bool:
    return name == ancestor or name.startswith(ancestor + "/")


def fault(name: str, *, snapshot: bool | None = False) -> str | None:
    """Why this cannot be a name (zfs's words), or None; snapshot None allows both kinds."""
    if snapshot is False and "@" in name:
        return "snapshot delimiter '@' is not expected here"
    if snapshot is True and "@" not in name:
        return "missing '@' delimiter in snapshot name"
    if "#" in name:
        return "bookmark delimiter '#' is not expected here"
    if "%" in name:
        return "invalid character % in name"
    return _component_fault(name)


def _component_fault(name: str) -> str | None:
    if len(name.encode(errors="surrogateescape")) >= _LIMIT:
        return "name is too long"
    if name.startswith("/"):
        return "leading slash in name"
    if name.endswith("/"):
        return "trailing slash in name"
    dataset, at, snapshot = name.partition("@")
    for part in dataset.split("/"):
        if why := _text_fault(part):
            return why
    if at and (why := _text_fault(snapshot)):
        return why
    return None


def _text_fault(part: str) -> str | None:
    if not part or part in (".", ".."):
        return "empty component or misplaced '@' or '#' delimiter in name"
    for char in part:
        if char == "@":
            return "multiple '@' and/or '#' delimiters in name"
        if char == "/":
            return "invalid character '/' in name"
        if char not in _ALLOWED:
            shown = char.encode(errors="surrogateescape")[:1].decode(errors="surrogateescape")
            return f"invalid character '{shown}' in name"
    return None


def pool_fault(name: str) -> str | None:
    """Why this cannot be a pool's name."""
    if not name[:1].isascii() or not name[:1].isalpha():
        return "name must begin with a letter"
    if any(name.startswith(word) for word in _RESERVED):
        return "name is reserved"
    if any(char not in _ALLOWED for char in name):
        char = next(char for char in name if char not in _ALLOWED)
        return f"invalid character '{char}' in pool name"
    return None
