# SPDX-License-Identifier: Apache-2.0
"""Paths inside a zone: whatever its symbolic links say, they never lead out of its root."""

import errno
import os
import pathlib
import typing

_LINKS = 40

Mount = tuple[pathlib.Path, bool]


class Root:
    """A file tree that is a world of its own, with places where others show through.

    `mounted` says which: the other's path and whether it may be written to.
    """

    def __init__(
        self,
        top: pathlib.Path,
        mounted: typing.Callable[[tuple[str, ...]], Mount | None] = lambda parts: None,
    ) -> None:
        self.top = top
        self._mounted = mounted

    def host(self, path: str, *, follow: bool = True, write: bool = False) -> pathlib.Path:
        """The host path of a path in the tree; `write` refuses what is mounted read-only."""
        todo = _parts(path)
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                del done[-1:]
                continue
            other = self._mounted((*done, part))
            if other is not None:
                folder, writable = other
                if write and not writable:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
                return Root(folder).host("/".join(todo), follow=follow)
            here = self.top.joinpath(*done, part)
            if (follow or todo) and here.is_symlink():
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(here)
                done = [] if target.startswith("/") else done
                todo[:0] = _parts(target)
            else:
                done.append(part)
        return self.top.joinpath(*done)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
