# SPDX-License-Identifier: Apache-2.0
"""What zpool shows of a pool."""

import dataclasses

from smartos_emulator.storage import backend, errors, units

UNSET = "-"
_FEATURES_ACTIVE = (
    "async_destroy",
    "empty_bpobj",
    "lz4_compress",
    "spacemap_histogram",
    "enabled_txg",
    "hole_birth",
    "extensible_dataset",
    "embedded_data",
    "filesystem_limits",
    "spacemap_v2",
)
_FEATURES_ENABLED = (
    "multi_vdev_crash_dump",
    "bookmarks",
    "large_blocks",
    "large_dnode",
    "sha512",
    "skein",
    "edonr",
    "device_removal",
    "obsolete_counts",
    "zpool_checkpoint",
    "allocation_classes",
    "resilver_defer",
    "encryption",
    "bookmark_v2",
    "userobj_accounting",
    "project_quota",
    "log_spacemap",
)
# name, column heading, whether it is a number, default of a property that can be set
_ROWS: tuple[tuple[str, str, bool, str], ...] = (
    ("size", "SIZE", True, ""),
    ("capacity", "CAP", True, ""),
    ("altroot", "ALTROOT", False, "-"),
    ("health", "HEALTH", False, ""),
    ("guid", "GUID", True, ""),
    ("version", "VERSION", True, "-"),
    ("bootfs", "BOOTFS", False, "-"),
    ("delegation", "DELEGATION", False, "on"),
    ("autoreplace", "REPLACE", False, "off"),
    ("cachefile", "CACHEFILE", False, "-"),
    ("failmode", "FAILMODE", False, "wait"),
    ("listsnapshots", "LISTSNAPS", False, "off"),
    ("autoexpand", "EXPAND", False, "off"),
    ("dedupditto", "DEDUPDITTO", True, "0"),
    ("dedupratio", "DEDUP", True, ""),
    ("free", "FREE", True, ""),
    ("allocated", "ALLOC", True, ""),
    ("readonly", "RDONLY", False, ""),
    ("ashift", "ASHIFT", True, "0"),
    ("comment", "COMMENT", False, "-"),
    ("expandsize", "EXPANDSZ", True, ""),
    ("freeing", "FREEING", True, ""),
    ("fragmentation", "FRAG", True, ""),
    ("leaked", "LEAKED", True, ""),
    ("checkpoint", "CKPOINT", True, ""),
    ("bootsize", "BOOTSIZE", True, "-"),
    ("multihost", "MULTIHOST", False, "off"),
    ("autotrim", "AUTOTRIM", False, "off"),
)
_SIZES = ("size", "free", "allocated", "freeing", "leaked")


@dataclasses.dataclass(frozen=True)
class Column:
    name: str
    heading: str
    number: bool
    default: str


COLUMNS = {row[0]: Column(*row) for row in _ROWS}
COLUMNS["name"] = Column("name", "NAME", False, "")
FEATURES = {f"feature@{name}": "active" for name in _FEATURES_ACTIVE} | {
    f"feature@{name}": "enabled" for name in _FEATURES_ENABLED
}


def find(word: str) -> str | None:
    """The full name of a pool property; a column's heading will do."""
    if word in COLUMNS or word in FEATURES:
        return word
    aliases = {column.heading.lower(): name for name, column in COLUMNS.items()}
    return aliases.get(word.lower())


def check(storage: backend.Storage, name: str) -> None:
    if name not in storage.pools():
        raise errors.StorageError(f"cannot open '{name}'", "no such pool")


def value(storage: backend.Storage, pool: str, prop: str, *, literal: bool) -> str:
    """One property of a pool, for people or exact."""
    raw = _raw(storage, pool, prop)
    if literal or raw == UNSET:
        return raw
    if prop in _SIZES:
        return units.nice(int(raw))
    if prop in ("capacity", "fragmentation"):
        return f"{raw}%"
    return f"{raw}x" if prop == "dedupratio" else raw


def _raw(storage: backend.Storage, pool: str, prop: str) -> str:
    if prop in FEATURES:
        return FEATURES[prop]
    size, used = storage.pool_size(pool), storage.allocated(pool)
    facts = {
        "name": pool,
        "size": size,
        "allocated": used,
        "free": size - used,
        "capacity": used * 100 // size,
        "health": "ONLINE",
        "dedupratio": "1.00",
        "guid": storage.pool_fact(pool, "guid"),
        "readonly": "off",
        "freeing": 0,
        "leaked": 0,
        "fragmentation": 0,
        "expandsize": UNSET,
        "checkpoint": UNSET,
    }
    if prop in facts:
        return str(facts[prop])
    return storage.pool_setting(pool, prop) or COLUMNS[prop].default


def source(storage: backend.Storage, pool: str, prop: str) -> str:
    if prop in FEATURES or storage.pool_setting(pool, prop):
        return "local"
    return "default" if COLUMNS[prop].default else UNSET


def disks(storage: backend.Storage, pool: str) -> list[str]:
    """The disks that a pool pretends to be on."""
    return [f"c1t{storage.pools().index(pool)}d0"]
