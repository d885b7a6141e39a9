# SPDX-License-Identifier: Apache-2.0
"""Files behind the datasets: copied byte for byte with their holes, modes, times and links."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator, Set

_FICLONE = 0x40049409
_BLOCK = 8 << 20
_NOTHING: frozenset[str] = frozenset()


def regions(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of everything in the file that is not a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size:
            return
        yield start, position


def copy_file(source: str | pathlib.Path, target: str | pathlib.Path) -> None:
    """Copy the data of one file; holes stay holes, and blocks are shared where the host can."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        if not size or _shared(old.fileno(), new.fileno()):
            return
        for start, end in regions(old.fileno(), size):
            _copy_range(old.fileno(), new.fileno(), start, end)
        os.ftruncate(new.fileno(), size)


def _shared(old: int, new: int) -> bool:
    try:
        fcntl.ioctl(new, _FICLONE, old)
    except OSError:
        return False
    return True


def _copy_range(old: int, new: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(old, new, min(_BLOCK, end - start), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            done = os.pwrite(new, os.pread(old, min(_BLOCK, end - start), start), start)
        if not done:
            return
        start += done


def copy_tree(source: pathlib.Path, target: pathlib.Path, mounts: Set[str] = _NOTHING) -> None:
    """Copy a tree into a new folder; of the folders in mounts only the empty folder is copied."""
    links: dict[tuple[int, int], str] = {}
    os.mkdir(target)
    _copy_folder(str(source), str(target), mounts, links)


def copy_volume(source: pathlib.Path, target: pathlib.Path, size: int) -> None:
    """Copy a volume's file with its time, so that the copy counts as unchanged."""
    copy_file(source, target)
    status = os.stat(source)
    os.truncate(target, size)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _copy_folder(
    source: str, target: str, mounts: Set[str], links: dict[tuple[int, int], str]
) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            there = f"{target}/{entry.name}"
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(there)
                if entry.path not in mounts:
                    _copy_folder(entry.path, there, mounts, links)
                continue
            _copy_entry(entry.path, there, status, links)
    copy_status(os.stat(source), target)


def _copy_entry(
    path: str, there: str, status: os.stat_result, links: dict[tuple[int, int], str]
) -> None:
    if status.st_nlink > 1:
        identity = (status.st_dev, status.st_ino)
        if identity in links:
            os.link(links[identity], there, follow_symlinks=False)
            return
        links[identity] = there
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(path), there)
        os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        return
    if stat.S_ISREG(status.st_mode):
        copy_file(path, there)
    elif stat.S_ISFIFO(status.st_mode):
        os.mkfifo(there)
    else:
        return
    copy_status(status, there)


def copy_status(status: os.stat_result, path: str) -> None:
    """Give a file or folder the mode, times and, where we may, the owner of another."""
    set_status(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)


def set_status(path: str, mode: int, uid: int, gid: int, mtime_ns: int) -> None:
    """Owner only as root: an unprivileged node keeps everything as its own user's."""
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
    os.chmod(path, mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def remove(path: pathlib.Path) -> None:
    """Remove a tree or file, also what its owner may not write; nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_allow_and_retry)
    else:
        path.unlink(missing_ok=True)


def _allow_and_retry(function: object, path: str, _: object) -> None:
    for folder in (os.path.dirname(path), path):
        with contextlib.suppress(FileNotFoundError):
            if not os.path.islink(folder):
                os.chmod(folder, 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


def entries(top: str, mounts: Set[str] = _NOTHING) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, status) of everything below, folders before their content, sorted."""
    stack = [""]
    while stack:
        folder = stack.pop()
        here = f"{top}/{folder}" if folder else top
        names = sorted(os.listdir(here))
        inner = []
        for name in names:
            path = f"{folder}/{name}" if folder else name
            status = os.lstat(f"{top}/{path}")
            yield path, status
            if stat.S_ISDIR(status.st_mode) and f"{top}/{path}" not in mounts:
                inner.append(path)
        stack.extend(reversed(inner))
