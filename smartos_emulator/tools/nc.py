# SPDX-License-Identifier: Apache-2.0
"""nc: joins the tool's streams with a unix socket of the node's tree, wherever links lead."""

import contextlib
import os
import pathlib
import socket
import threading

from smartos_emulator import call as call_module
from smartos_emulator import unix, zoneroot

_USAGE = "usage: nc -U path\n"
_CHUNK = 65536
_SLICE = 0.2


def main(call: call_module.Call) -> int:
    """nc -U PATH"""
    words = call.argv[1:]
    if len(words) != 2 or words[0] != "-U":
        raise call_module.Exit(1, _USAGE)
    try:
        connection = unix.connect(_place(call, words[1]))
    except OSError:
        # nothing is said without -v
        return 1
    with connection:
        writer = threading.Thread(target=_send, args=(call, connection), daemon=True)
        writer.start()
        _receive(call, connection)
    return 0


def _place(call: call_module.Call, path: str) -> pathlib.Path:
    """Links are the node's: an absolute one begins at the node's root, not at this machine's."""
    return zoneroot.Root(call.node.root).host(os.path.join(call.cwd, path))


def _send(call: call_module.Call, connection: socket.socket) -> None:
    # the other side may go first, and a client that is gone ends the run elsewhere
    with contextlib.suppress(OSError, ValueError, call_module.Cancelled):
        while data := call.stdin.read1(_CHUNK):  # type: ignore[attr-defined]
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def _receive(call: call_module.Call, connection: socket.socket) -> None:
    connection.settimeout(_SLICE)
    while True:
        try:
            data = connection.recv(_CHUNK)
        except TimeoutError:
            if call.cancelled.is_set() or call.node.clock.stopping.is_set():
                raise call_module.Cancelled from None
            continue
        except ConnectionResetError:
            return
        if not data:
            return
        call.stdout.write(data)
