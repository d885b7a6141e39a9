# SPDX-License-Identifier: Apache-2.0
"""A zone's files in a tar archive, as a clean archive for the node's gtar.

gtar runs as root in the global zone, and knows no way to keep an archive inside a folder that is
worth more than a stranger's skill. So it never sees the stranger's archive: this one is read here,
a member at a time, and written anew with what a tree of files needs. A name that leads up or
starts at the root is refused, and so is whatever would go through a link of the archive's own,
since gtar would follow it. Devices are refused: a zone has those that its platform gives it.

The new archive is unpacked into a dataset of its own, which no zone has and in which neither
devices nor setuid bits mean anything. What is unknown here (sparse files, volumes, attributes of
file systems) is refused or left out, never passed on. What the platform itself writes into a zone's
root when it boots it guards against links, as it must against any zone's own root.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

#: The folder of an image that becomes the zone's root.
ROOT = "root"

_BLOCK = 512
_PIECE = 1 << 18
_MAX_MEMBERS = 2_000_000
#: Links are remembered, so there is an end to them.
_MAX_LINKS = 250_000
# illumos takes paths of 1023 bytes, and the dataset stands before these
_MAX_PATH = 900
_MAX_NAME = 255
#: Of a header that says more about the next member.
_MAX_EXTRA = 1 << 20
#: What xz -9 needs; an archive may ask for 4 GiB.
_XZ_BYTES = 96 << 20

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_ENCODING = ("utf-8", "surrogateescape")


class Wrong(Exception):
    """The archive is not what it must be; str() says why."""


def clean(source: Any, *, most_bytes: int) -> "Cleaned":
    """The archive (plain, gzip, bzip2 or xz) as one that gtar may read, all below ROOT."""
    return Cleaned(_members(_Plain(source), most_bytes))


class Cleaned:
    """What is read of a clean archive."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return b""
        end = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:end], self._rest[end:]
        return data


def _members(plain: "_Plain", most_bytes: int) -> Iterator[bytes]:
    """The new archive, piece by piece."""
    checked = _Checked()
    yield _header(_folder(ROOT))
    total = 0
    while (member := _next(plain)) is not None:
        total += member.size
        if total > most_bytes:
            raise Wrong(f"its files have more than {most_bytes} bytes")
        made = checked.member(member)
        yield _header(made)
        left = member.size
        while left:
            piece = plain.exactly(min(left, _PIECE))
            left -= len(piece)
            yield piece
        yield plain.exactly(-member.size % _BLOCK)
    if not checked.has_system:
        raise Wrong("it holds no system: there is no etc at its top")
    # to the end: only then is it certain that everything came, and came right
    while plain.read(_PIECE):
        pass
    yield bytes(2 * _BLOCK)


class _Checked:
    """The members so far, as far as they matter for those that follow."""

    def __init__(self) -> None:
        self._links: set[str] = set()
        self._count = 0
        self.has_system = False

    def member(self, found: tarfile.TarInfo) -> tarfile.TarInfo:
        """A member with nothing in it but what a tree of files needs."""
        self._count += 1
        if self._count > _MAX_MEMBERS:
            raise Wrong(f"it has more than {_MAX_MEMBERS} members")
        path = _path(found.name, "member")
        # which a link of that name would be as well
        self._no_link_on_the_way(f"{path}/", found.name)
        self.has_system = self.has_system or path.partition("/")[0] == "etc"
        if found.size and found.type not in _FILES:
            raise Wrong(f"{found.name!r} has data, and is no file")
        made = _folder(f"{ROOT}/{path}" if path else ROOT)
        made.mode, made.uid, made.gid, made.mtime = found.mode & 0o7777, *_numbers(found)
        if found.type in _DEVICES:
            raise Wrong(f"{found.name!r} is a device: leave dev/* out")
        if found.isdir():
            return made
        if not path:
            raise Wrong("its top is no folder")
        made.type, made.size = found.type, found.size
        if found.type == tarfile.SYMTYPE:
            self._remember(path)
            made.linkname = _target(found.linkname)
        elif found.type == tarfile.LNKTYPE:
            target = _path(found.linkname, "link")
            self._no_link_on_the_way(f"{target}/", found.linkname)
            made.linkname = f"{ROOT}/{target}"
        elif found.type in _FILES:
            made.type = tarfile.REGTYPE
        elif found.type != tarfile.FIFOTYPE:
            raise Wrong(f"{found.name!r} is of type {found.type!r}, which is not supported")
        return made

    def _no_link_on_the_way(self, path: str, name: str) -> None:
        where = path.find("/")
        while where >= 0:
            if path[:where] in self._links:
                raise Wrong(f"{name!r} goes through the link {path[:where]!r}")
            where = path.find("/", where + 1)

    def _remember(self, path: str) -> None:
        self._links.add(path)
        if len(self._links) > _MAX_LINKS:
            raise Wrong(f"it has more than {_MAX_LINKS} links")


def _next(plain: "_Plain") -> tarfile.TarInfo | None:
    """The next member, with what the headers before it say of it; None at the end."""
    said: dict[str, str] = {}
    while True:
        data = plain.exactly(_BLOCK)
        if not data.strip(b"\0"):
            if said:
                raise Wrong("it ends within a member")
            return None
        try:
            found = tarfile.TarInfo.frombuf(data, *_ENCODING)
        except (tarfile.HeaderError, ValueError) as error:
            raise Wrong(f"it is no tar archive, or a damaged one: {error}") from error
        if found.size < 0:
            raise Wrong(f"{found.name!r} has {found.size} bytes")
        if found.type in _LONG:
            said[_LONG[found.type]] = _extra(plain, found).rstrip(b"\0").decode(*_ENCODING)
        elif found.type in _PAX:
            said |= _records(_extra(plain, found))
        elif found.type == tarfile.XGLTYPE:
            # about the archive as a whole, such as a comment
            _extra(plain, found)
        else:
            return _amended(found, said)


def _amended(found: tarfile.TarInfo, said: dict[str, str]) -> tarfile.TarInfo:
    if any(key.startswith("GNU.sparse") for key in said):
        raise Wrong(f"{found.name!r} is a sparse file, which is not supported")
    found.name = said.get("path", found.name)
    found.linkname = said.get("linkpath", found.linkname)
    for key in ("size", "uid", "gid"):
        text = said.get(key)
        if text is None:
            continue
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise Wrong(f"{found.name!r} has {key} {text[:40]!r}")
        setattr(found, key, int(text))
    return found


def _extra(plain: "_Plain", found: tarfile.TarInfo) -> bytes:
    if found.size > _MAX_EXTRA:
        raise Wrong(f"a header has {found.size} bytes")
    data = plain.exactly(found.size)
    plain.exactly(-found.size % _BLOCK)
    return data


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header: LENGTH KEY=VALUE, and a newline."""
    found: dict[str, str] = {}
    where = 0
    while where < len(data) and data[where]:
        text, _, _ = data[where : where + 12].partition(b" ")
        length = int(text) if text.isdigit() else 0
        record = data[where : where + length]
        key, equals, value = record[len(text) + 1 : -1].partition(b"=")
        if length <= len(text) + 1 or len(record) < length or not equals or record[-1:] != b"\n":
            raise Wrong("a header is damaged")
        found[key.decode(*_ENCODING)] = value.decode(*_ENCODING)
        where += length
    return found


def _path(name: str, what: str) -> str:
    """A name as a path below the root; "" is the root itself."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise Wrong(f"the {what} {name[:200]!r} leads out of it")
    path = "/".join(part for part in parts if part not in ("", "."))
    _check_text(path, name)
    if any(len(part.encode(*_ENCODING)) > _MAX_NAME for part in path.split("/")):
        raise Wrong(f"the name {name[:200]!r} is too long")
    return path


def _target(text: str) -> str:
    """Where a symbolic link points: anywhere, since only the zone will follow it."""
    if not text:
        raise Wrong("a link points nowhere")
    _check_text(text, text)
    return text


def _check_text(text: str, name: str) -> None:
    if "\0" in text or len(text.encode(*_ENCODING)) > _MAX_PATH:
        raise Wrong(f"the name {name[:200]!r} is too long, or none")


def _numbers(found: tarfile.TarInfo) -> tuple[int, int, int]:
    """Owner, group and time, within what a header can say."""
    owner, group = (each if 0 <= each < 1 << 31 else 0 for each in (found.uid, found.gid))
    return owner, group, int(min(max(found.mtime, 0), (1 << 33) - 1))


def _folder(path: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(path)
    made.type, made.mode = tarfile.DIRTYPE, 0o755
    return made


def _header(made: tarfile.TarInfo) -> bytes:
    return made.tobuf(tarfile.GNU_FORMAT, *_ENCODING)


class _Plain:
    """The archive without its compression; at no time more of it than is asked for."""

    def __init__(self, source: Any) -> None:
        self._read = _expanding(_Begun(source))

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        pieces, left = [], size
        while left:
            piece = self.read(left)
            if not piece:
                raise Wrong("it is cut off")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def read(self, size: int) -> bytes:
        """Some bytes, at most so many; b"" is the end."""
        try:
            return self._read(size)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise Wrong(f"it cannot be decompressed: {error}") from error


class _Begun:
    """A source whose first bytes have been looked at."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._begun = b""
        while len(self._begun) < 6 and (piece := source.read(_PIECE)):
            self._begun += piece
        self.start = self._begun[:6]

    def read(self, size: int = -1, /) -> bytes:
        if not self._begun:
            data: bytes = self._source.read(size)
            return data
        end = len(self._begun) if size < 0 else size
        data, self._begun = self._begun[:end], self._begun[end:]
        return data


def _expanding(source: _Begun) -> Callable[[int], bytes]:
    if source.start.startswith(b"\x1f\x8b"):
        # all that it asks of a file is read()
        return gzip.GzipFile(fileobj=source, mode="rb").read1  # type: ignore[call-overload,no-any-return]
    if source.start.startswith(b"BZh"):
        return _Streams(source, bz2.BZ2Decompressor).read
    if source.start == b"\xfd7zXZ\0":
        return _Streams(source, lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES)).read
    return source.read


class _Streams:
    """One or more streams of bzip2 or xz, one after the other."""

    def __init__(self, source: _Begun, make: Callable[[], Any]) -> None:
        self._source = source
        self._make = make
        self._now = make()

    def read(self, size: int) -> bytes:
        while True:
            data = b""
            if self._now.eof:
                data = self._now.unused_data.lstrip(b"\0") or self._source.read(_PIECE)
                if not data.strip(b"\0"):
                    # xz allows zeros at the end; the source's own end must be seen
                    while rest := self._source.read(_PIECE):
                        if rest.strip(b"\0"):
                            raise Wrong("something follows its end")
                    return b""
                self._now = self._make()
            elif self._now.needs_input:
                data = self._source.read(_PIECE)
                if not data:
                    raise EOFError("it is cut off")
            try:
                found: bytes = self._now.decompress(data, size)
            except OSError as error:
                # of bzip2
                raise Wrong(f"it cannot be decompressed: {error}") from error
            if found:
                return found
