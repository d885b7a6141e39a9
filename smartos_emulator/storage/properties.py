# SPDX-License-Identifier: Apache-2.0
"""The properties of datasets: which exist, for which kinds, their defaults, what they accept."""

import dataclasses
import functools
from typing import Literal

from smartos_emulator.storage import units

Access = Literal["inherit", "default", "once", "readonly"]

_KINDS = {"f": "filesystem", "v": "volume", "s": "snapshot"}
_SIZE = "<size> | none"
_YES_NO = "on | off"


@dataclasses.dataclass(frozen=True)
class Property:
    """One row of the table; default "" means that there is none."""

    name: str
    kinds: frozenset[str]
    access: Access
    default: str
    values: str
    column: str
    number: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are accepted, empty where any text or number is."""
        if "<" in self.values or self.number:
            return ()
        return _CHOICES.get(self.name) or tuple(self.values.split(" | "))


_CHECKSUMS = (
    "on",
    "off",
    "fletcher2",
    "fletcher4",
    "sha256",
    "noparity",
    "sha512",
    "skein",
    "edonr",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "checksum": _CHECKSUMS,
    "compression": (
        "on",
        "off",
        "lzjb",
        "gzip",
        *(f"gzip-{n}" for n in range(1, 10)),
        "zle",
        "lz4",
    ),
    "dedup": (
        "on",
        "off",
        "verify",
        "sha256",
        "sha256,verify",
        "sha512",
        "sha512,verify",
        "skein",
        "skein,verify",
        "edonr,verify",
    ),
    "version": ("1", "2", "3", "4", "5", "current"),
}

# name, kinds, access, default, accepted values, column heading; in the order of `zfs get all`.
_ROWS: tuple[tuple[str, str, Access, str, str, str], ...] = (
    ("type", "fvs", "readonly", "", "filesystem | volume | snapshot | bookmark", "TYPE"),
    ("creation", "fvs", "readonly", "", "<date>", "CREATION"),
    ("used", "fvs", "readonly", "", "<size>", "USED"),
    ("available", "fv", "readonly", "", "<size>", "AVAIL"),
    ("referenced", "fvs", "readonly", "", "<size>", "REFER"),
    ("compressratio", "fvs", "readonly", "", "<1.00x or higher if compressed>", "RATIO"),
    ("mounted", "f", "readonly", "", "yes | no", "MOUNTED"),
    ("origin", "fv", "readonly", "", "<snapshot>", "ORIGIN"),
    ("quota", "f", "default", "0", _SIZE, "QUOTA"),
    ("reservation", "fv", "default", "0", _SIZE, "RESERV"),
    ("volsize", "vs", "default", "", "<size>", "VOLSIZE"),
    ("volblocksize", "v", "once", "8192", "512 to 128k, power of 2", "VOLBLOCK"),
    ("recordsize", "f", "inherit", "131072", "512 to 1M, power of 2", "RECSIZE"),
    ("mountpoint", "f", "inherit", "", "<path> | legacy | none", "MOUNTPOINT"),
    ("sharenfs", "f", "inherit", "off", "on | off | share(1M) <options>", "SHARENFS"),
    (
        "checksum",
        "fv",
        "inherit",
        "on",
        "on | off | fletcher2 | fletcher4 | sha256 | sha512 | skein | edonr",
        "CHECKSUM",
    ),
    (
        "compression",
        "fv",
        "inherit",
        "off",
        "on | off | lzjb | gzip | gzip-[1-9] | zle | lz4",
        "COMPRESS",
    ),
    ("atime", "f", "inherit", "on", _YES_NO, "ATIME"),
    ("devices", "fs", "inherit", "on", _YES_NO, "DEVICES"),
    ("exec", "fs", "inherit", "on", _YES_NO, "EXEC"),
    ("setuid", "fs", "inherit", "on", _YES_NO, "SETUID"),
    ("readonly", "fv", "inherit", "off", _YES_NO, "RDONLY"),
    ("zoned", "f", "inherit", "off", _YES_NO, "ZONED"),
    ("snapdir", "f", "inherit", "hidden", "hidden | visible", "SNAPDIR"),
    (
        "aclmode",
        "f",
        "inherit",
        "discard",
        "discard | groupmask | passthrough | restricted",
        "ACLMODE",
    ),
    (
        "aclinherit",
        "f",
        "inherit",
        "restricted",
        "discard | noallow | restricted | passthrough | passthrough-x",
        "ACLINHERIT",
    ),
    ("createtxg", "fvs", "readonly", "", "<uint64>", "CREATETXG"),
    ("canmount", "f", "default", "on", "on | off | noauto", "CANMOUNT"),
    ("xattr", "fs", "inherit", "on", _YES_NO, "XATTR"),
    ("copies", "fv", "inherit", "1", "1 | 2 | 3", "COPIES"),
    ("version", "fs", "default", "5", "1 | 2 | 3 | 4 | 5 | current", "VERSION"),
    ("utf8only", "fs", "once", "off", _YES_NO, "UTF8ONLY"),
    (
        "normalization",
        "fs",
        "once",
        "none",
        "none | formC | formD | formKC | formKD",
        "NORMALIZATION",
    ),
    ("casesensitivity", "fs", "once", "sensitive", "sensitive | insensitive | mixed", "CASE"),
    ("vscan", "f", "inherit", "off", _YES_NO, "VSCAN"),
    ("nbmand", "fs", "inherit", "off", _YES_NO, "NBMAND"),
    ("sharesmb", "f", "inherit", "off", "on | off | sharemgr(1M) <options>", "SHARESMB"),
    ("refquota", "f", "default", "0", _SIZE, "REFQUOTA"),
    ("refreservation", "fv", "default", "0", _SIZE, "REFRESERV"),
    ("guid", "fvs", "readonly", "", "<uint64>", "GUID"),
    ("primarycache", "fvs", "inherit", "all", "all | none | metadata", "PRIMARYCACHE"),
    ("secondarycache", "fvs", "inherit", "all", "all | none | metadata", "SECONDARYCACHE"),
    ("usedbysnapshots", "fv", "readonly", "", "<size>", "USEDSNAP"),
    ("usedbydataset", "fv", "readonly", "", "<size>", "USEDDS"),
    ("usedbychildren", "fv", "readonly", "", "<size>", "USEDCHILD"),
    ("usedbyrefreservation", "fv", "readonly", "", "<size>", "USEDREFRESERV"),
    ("defer_destroy", "s", "readonly", "", "yes | no", "DEFER_DESTROY"),
    ("userrefs", "s", "readonly", "", "<count>", "USERREFS"),
    ("logbias", "fv", "inherit", "latency", "latency | throughput", "LOGBIAS"),
    (
        "dedup",
        "fv",
        "inherit",
        "off",
        "on | off | verify | sha256[,verify], sha512[,verify], skein[,verify], edonr,verify",
        "DEDUP",
    ),
    ("mlslabel", "fvs", "inherit", "none", "<sensitivity label>", "MLSLABEL"),
    ("sync", "fv", "inherit", "standard", "standard | always | disabled", "SYNC"),
    ("dnodesize", "f", "inherit", "legacy", "legacy | auto | 1k | 2k | 4k | 8k | 16k", "DNSIZE"),
    ("refcompressratio", "fvs", "readonly", "", "<1.00x or higher if compressed>", "REFRATIO"),
    ("written", "fvs", "readonly", "", "<size>", "WRITTEN"),
    ("clones", "s", "readonly", "", "<dataset>[,...]", "CLONES"),
    ("logicalused", "fv", "readonly", "", "<size>", "LUSED"),
    ("logicalreferenced", "fvs", "readonly", "", "<size>", "LREFER"),
    ("filesystem_limit", "f", "default", "none", "<count> | none", "FSLIMIT"),
    ("snapshot_limit", "fv", "default", "none", "<count> | none", "SSLIMIT"),
    ("filesystem_count", "f", "readonly", "", "<count>", "FSCOUNT"),
    ("snapshot_count", "fv", "readonly", "", "<count>", "SSCOUNT"),
    ("redundant_metadata", "fv", "inherit", "all", "all | most", "REDUND_MD"),
    ("receive_resume_token", "fv", "readonly", "", "<string token>", "RESUMETOK"),
    (
        "encryption",
        "fvs",
        "once",
        "off",
        "on | off | aes-128-ccm | aes-192-ccm | aes-256-ccm | aes-128-gcm | aes-192-gcm | "
        "aes-256-gcm",
        "ENCRYPTION",
    ),
    ("keylocation", "fv", "default", "none", "prompt | <file URI>", "KEYLOCATION"),
    ("keyformat", "fv", "once", "none", "none | raw | hex | passphrase", "KEYFORMAT"),
    ("pbkdf2iters", "fv", "once", "0", "<iters>", "PBKDF2ITERS"),
    (
        "special_small_blocks",
        "f",
        "inherit",
        "0",
        "zero or 512 to 128K, power of 2",
        "SPECIAL_SMALL_BLOCKS",
    ),
)
_HIDDEN: tuple[tuple[str, str, Access, str, str, str], ...] = (
    ("name", "fvs", "readonly", "", "<name>", "NAME"),
    ("prevsnap", "fv", "readonly", "", "<snapshot>", "PREVSNAP"),
    ("unique", "fvs", "readonly", "", "<size>", "UNIQUE"),
    ("inconsistent", "fvs", "readonly", "", "yes | no", "INCONSISTENT"),
    ("numclones", "s", "readonly", "", "<count>", "NUMCLONES"),
)
SIZES = frozenset(
    (
        "used",
        "available",
        "referenced",
        "quota",
        "reservation",
        "volsize",
        "volblocksize",
        "recordsize",
        "refquota",
        "refreservation",
        "usedbysnapshots",
        "usedbydataset",
        "usedbychildren",
        "usedbyrefreservation",
        "written",
        "logicalused",
        "logicalreferenced",
        "special_small_blocks",
        "unique",
    )
)
COUNTS = frozenset(
    (
        "creation",
        "createtxg",
        "guid",
        "userrefs",
        "filesystem_limit",
        "snapshot_limit",
        "filesystem_count",
        "snapshot_count",
        "pbkdf2iters",
        "numclones",
    )
)
SPACE = frozenset(
    (
        "used",
        "available",
        "referenced",
        "compressratio",
        "usedbysnapshots",
        "usedbydataset",
        "usedbychildren",
        "usedbyrefreservation",
        "refcompressratio",
        "written",
        "logicalused",
        "logicalreferenced",
        "unique",
    )
)
NONE_IF_ZERO = frozenset(("quota", "reservation", "refquota", "refreservation"))
LIMITS = frozenset(("filesystem_limit", "snapshot_limit"))
RIGHT_ALIGNED = (SIZES | COUNTS | {"compressratio", "refcompressratio"}) - {"creation"}


def _property(row: tuple[str, str, Access, str, str, str]) -> Property:
    name, kinds, access, default, values, column = row
    return Property(
        name,
        frozenset(_KINDS[kind] for kind in kinds),
        access,
        default,
        values,
        column,
        name in SIZES or name in COUNTS,
    )


TABLE: dict[str, Property] = {row[0]: _property(row) for row in _ROWS}
HIDDEN: dict[str, Property] = {row[0]: _property(row) for row in _HIDDEN}
_ALIASES = {prop.column.lower(): prop.name for prop in (*TABLE.values(), *HIDDEN.values())}


@functools.cache
def find(word: str) -> Property | None:
    """The property a user means by this word, which may be the column's heading."""
    name = word if word in TABLE or word in HIDDEN else _ALIASES.get(word.lower(), "")
    return TABLE.get(name) or HIDDEN.get(name)


def is_user(name: str) -> bool:
    """A user property: lower case, with a colon in it."""
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-+.:_"
    return ":" in name and all(char in allowed for char in name)


def is_space_at(name: str) -> bool:
    return name.startswith("written@")


def is_user_space(name: str) -> bool:
    prefixes = (
        "userused@",
        "userquota@",
        "groupused@",
        "groupquota@",
        "userobjused@",
        "userobjquota@",
        "groupobjused@",
        "groupobjquota@",
        "projectused@",
        "projectquota@",
        "projectobjused@",
        "projectobjquota@",
    )
    return name.startswith(prefixes)


def _block_size(prop: Property, number: int) -> str | None:
    largest = 2**20 if prop.name == "recordsize" else 2**17
    if 512 <= number <= largest and number & (number - 1) == 0:
        return None
    return f"'{prop.name}' must be power of 2 from 512B to {units.nice(largest)}"


def _number(prop: Property, value: str, kind: str) -> str:
    if value == "none":
        return "none" if prop.name in LIMITS else "0"
    if value == "auto":
        if prop.name != "refreservation":
            raise ValueError(f"'auto' is invalid value for '{prop.name}'")
        if kind != "volume":
            raise ValueError(f"'{prop.name}=auto' only allowed on volumes")
        return value
    number = units.parse(value)
    if number == 0 and prop.name in ("quota", "refquota"):
        raise ValueError("use 'none' to disable quota/refquota")
    if prop.name in ("recordsize", "volblocksize") and (why := _block_size(prop, number)):
        raise ValueError(why)
    if prop.name in LIMITS and number == units.UNLIMITED:
        return "none"
    return str(number)


def _mountpoint(value: str) -> None:
    if value in ("none", "legacy"):
        return
    if not value.startswith("/"):
        raise ValueError("'mountpoint' must be an absolute path, 'none', or 'legacy'")
    if any(len(part) >= 256 for part in value.split("/")):
        raise ValueError("component of 'mountpoint' is too long")


def parse(prop: Property, value: str, kind: str) -> str:
    """The value as it is kept; ValueError carries zfs's reason."""
    if prop.number:
        return _number(prop, value, kind)
    choices = prop.choices
    if choices and value not in choices:
        raise ValueError(f"'{prop.name}' must be one of '{prop.values}'")
    if prop.name == "mountpoint":
        _mountpoint(value)
    if prop.name == "mlslabel" and value != "none":
        raise ValueError("mlslabels are unsupported")
    if prop.name == "version" and value == "current":
        return "5"
    if len(value) >= 4096:
        raise ValueError(f"'{prop.name}' is too long")
    return value
