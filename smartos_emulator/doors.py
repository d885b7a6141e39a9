# SPDX-License-Identifier: Apache-2.0
"""Sockets that guests and daemons of the node listen on: one thread waits at all of them."""

import contextlib
import os
import pathlib
import selectors
import socket
import threading
import typing

Serve = typing.Callable[[socket.socket], None]

_MOST_CONNECTIONS = 64


class _Door(typing.NamedTuple):
    listener: socket.socket
    path: pathlib.Path | None
    serve: Serve
    connections: list[socket.socket]


class Doors:
    """Doors by name. Who comes through one is served in a thread of his own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._doors: dict[str, _Door] = {}
        self._selector: selectors.BaseSelector | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None

    def open(
        self, name: str, listener: socket.socket, serve: Serve, path: pathlib.Path | None = None
    ) -> None:
        """Serve who comes, until close(); the path of a unix socket goes with it."""
        listener.setblocking(False)
        with self._lock:
            self._start()
            self._doors[name] = _Door(listener, path, serve, [])
            assert self._selector is not None
            self._selector.register(listener, selectors.EVENT_READ, name)

    def close(self, name: str) -> None:
        """Nobody comes any more, and who is there is sent away."""
        with self._lock:
            door = self._doors.pop(name, None)
            if door is None:
                return
            assert self._selector is not None
            self._selector.unregister(door.listener)
            door.listener.close()
            if door.path is not None:
                door.path.unlink(missing_ok=True)
            for connection in door.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close all."""
        for name in list(self._doors):
            self.close(name)
        if self._thread is not None:
            os.write(self._wake, b".")
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            wakes, self._wake = os.pipe()
            self._selector = selectors.DefaultSelector()
            self._selector.register(wakes, selectors.EVENT_READ, None)
            self._thread = threading.Thread(target=self._accept, name=self._name, daemon=True)
            self._thread.start()

    def _accept(self) -> None:
        assert self._selector is not None
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with self._lock, contextlib.suppress(OSError):
                    self._welcome(self._doors.get(key.data))

    def _welcome(self, door: _Door | None) -> None:
        if door is None:
            return
        connection, _ = door.listener.accept()
        if len(door.connections) >= _MOST_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(True)
        door.connections.append(connection)
        threading.Thread(
            target=self._serve, args=(door, connection), name=self._name, daemon=True
        ).start()

    def _serve(self, door: _Door, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            door.serve(connection)
        with self._lock:
            door.connections.remove(connection)
        connection.close()
