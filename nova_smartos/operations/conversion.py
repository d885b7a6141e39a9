# SPDX-License-Identifier: Apache-2.0
"""A file that must be read out of order: kept on this machine for as long as that takes.

It has no name, so that nothing is left of it however this process ends.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from nova import exception

#: What others who write there keep.
SPARE_BYTES = 1 << 30


@contextlib.contextmanager
def kept(source: Any, size_bytes: int, directory: str) -> Iterator[BinaryIO]:
    """A source of so many bytes as a file; refused where there is no room for it."""
    with tempfile.TemporaryFile(dir=directory) as file:
        found = os.statvfs(file.fileno())
        if size_bytes > found.f_bavail * found.f_frsize - SPARE_BYTES:
            raise exception.ComputeResourcesUnavailable(
                reason=f"{directory} has no room for the {size_bytes} bytes of an image"
            )
        # others who ask at the same time see what is taken
        os.posix_fallocate(file.fileno(), 0, size_bytes)
        shutil.copyfileobj(source, file)
        file.flush()
        yield file
