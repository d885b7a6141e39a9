# SPDX-License-Identifier: Apache-2.0
"""Image files: their checksums, their compression, and the files of a docker layer."""

import bz2
import hashlib
import io
import lzma
import pathlib
import shutil
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any

MAGIC = {
    "bzip2": b"BZh",
    "gzip": b"\x1f\x8b\x08",
    "xz": b"\xfd7zXZ\x00",
}
EXTENSIONS = {"none": "", "bzip2": ".bz2", "gzip": ".gz", "xz": ".xz"}

# Small, for what it unpacks to can be a thousand times as large.
_PACKED_CHUNK = 1 << 14
_CORRUPT = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
_UNPACKERS: dict[str, Callable[[], Any]] = {
    "bzip2": bz2.BZ2Decompressor,
    "gzip": lambda: zlib.decompressobj(31),
    "xz": lzma.LZMADecompressor,
}


def checksum(path: pathlib.Path) -> str:
    """The SHA-1 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def compression_of(path: pathlib.Path) -> str:
    """The compression that a file's first bytes tell."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for name, magic in MAGIC.items() if start.startswith(magic)), "none")


class Inflated:
    """What a compressed file holds. Data that is not compressed passes as it is; data that is
    broken ends early and leaves its fault in `fault`."""

    def __init__(self, file: IO[bytes], compression: str) -> None:
        self.compression = compression
        self.fault: Exception | None = None
        self._file = file
        self._ready = b""
        start = file.read(6)
        file.seek(0)
        self._packed = compression != "none" and start.startswith(MAGIC[compression])
        self._unpacker: Any = _UNPACKERS[compression]() if self._packed else None

    def read(self, size: int = -1) -> bytes:
        if not self._packed:
            return self._file.read(size)
        while not self.fault and (size < 0 or not self._ready) and self._fill():
            pass
        end = len(self._ready) if size < 0 else size
        piece, self._ready = self._ready[:end], self._ready[end:]
        return piece

    def _fill(self) -> bool:
        """Unpack some more; False at the end."""
        chunk = self._file.read(_PACKED_CHUNK)
        try:
            self._ready += self._unpack(chunk)
            if not chunk and not self._unpacker.eof:
                raise EOFError
        except _CORRUPT as error:
            self.fault = error
        return bool(chunk)

    def _unpack(self, chunk: bytes) -> bytes:
        """Files of several streams, one after the other, are one file."""
        data = b""
        while chunk:
            if self._unpacker.eof:
                if not chunk.startswith(MAGIC[self.compression][:1]):
                    break
                self._unpacker = _UNPACKERS[self.compression]()
            data += self._unpacker.decompress(chunk)
            chunk = self._unpacker.unused_data
        return data

    def fault_text(self) -> str:
        """What the decompressor prints of its fault."""
        ended = isinstance(self.fault, EOFError)
        if self.compression == "gzip":
            why = "unexpected end of file" if ended else "invalid compressed data--format violated"
            return f"\ngzip: stdin: {why}\n"
        if self.compression == "xz":
            why = "Unexpected end of input" if ended else "Compressed data is corrupt"
            return f"/usr/bin/xz: (stdin): {why}\n"
        return ""


class Deflated(io.RawIOBase):
    """A writer that compresses into a file and counts what it wrote there."""

    def __init__(self, file: IO[bytes], compression: str) -> None:
        self.size = 0
        self.sha1 = hashlib.sha1()
        self._file = file
        self._packer = _packer(compression)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._emit(self._packer.compress(data) if self._packer else data)
        return len(data)

    def finish(self) -> None:
        """Write what the compressor still holds."""
        if self._packer:
            self._emit(self._packer.flush())

    def _emit(self, data: Any) -> None:
        self._file.write(data)
        self.sha1.update(data)
        self.size += len(data)


def _packer(compression: str) -> Any:
    if compression == "gzip":
        return zlib.compressobj(6, zlib.DEFLATED, 31)
    if compression == "bzip2":
        return bz2.BZ2Compressor()
    return lzma.LZMACompressor() if compression == "xz" else None


def unpack_layer(path: pathlib.Path, root: pathlib.Path) -> None:
    """Unpack a docker layer below `root`, then apply its white-outs."""
    with path.open("rb") as file:
        source = Inflated(file, compression_of(path))
        with tarfile.open(fileobj=source, mode="r|") as archive:  # type: ignore[call-overload]
            # not extractall(): Debian 12's Python has no filters yet
            for member in archive:
                if not member.isdev():
                    archive.extract(_inside(member, root), root)
    for mark in sorted(root.rglob(".wh.*")):
        _remove(mark.with_name(mark.name.removeprefix(".wh.")))
        _remove(mark)


def _inside(member: tarfile.TarInfo, root: pathlib.Path) -> tarfile.TarInfo:
    """The member as an unprivileged process can make it; one that leaves the root is refused."""
    member.name = member.name.lstrip("/")
    member.mode &= 0o755
    if member.islnk():
        member.linkname = member.linkname.lstrip("/")
    for name in (member.name, member.linkname) if member.islnk() else (member.name,):
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise tarfile.ExtractError(f"{name} would be outside the image")
    return member


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
