# SPDX-License-Identifier: Apache-2.0
"""Unix sockets anywhere in the node's tree: a path of ours may have more letters than they take."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator


def connect(path: pathlib.Path) -> socket.socket:
    """A connection to the socket at a path; OSError when there is none, or nobody listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def listen(path: pathlib.Path) -> socket.socket:
    """A socket that listens at a path, in the place of whatever was there."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with _short(path) as name:
            listener.bind(name)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _short(path: pathlib.Path) -> Iterator[str]:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
