# SPDX-License-Identifier: Apache-2.0
"""The metadata agent: what guests ask on a socket or a serial line, in both of its protocols.

One line is one request. Version 1 writes values as lines that end with a dot; version 2 frames
request and answer with their length and checksum, and knows how to change values.
"""

import base64
import binascii
import contextlib
import os
import pathlib
import re
import resource
import selectors
import socket
import threading
import typing

from smartos_emulator import unix
from smartos_emulator.guest import metadata
from smartos_emulator.vmadm import failures

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module
    from smartos_emulator import zones

#: Where a virtual machine's second serial line lies, seen from its zone.
SERIAL = "/tmp/vm.ttyb"

_FRAME = re.compile(r"\s*([0-9]+)\s+([0-9a-f]+)\s+(([0-9a-f]+)\s+(.*))", re.DOTALL)
_LONGEST_LINE = 1 << 24
_FILES = 1 << 16


class Agent:
    """All guests' sockets. One thread waits for guests, and one serves each that is connected."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.Lock()
        self._listeners: dict[str, socket.socket] = {}
        self._paths: dict[str, pathlib.Path] = {}
        self._connections: dict[str, list[socket.socket]] = {}
        self._selector = selectors.DefaultSelector()
        self._wakes, self._wake = os.pipe()
        self._selector.register(self._wakes, selectors.EVENT_READ, None)
        self._thread: threading.Thread | None = None

    def open(self, zone: "zones.Zone") -> None:
        """Serve a guest until close(): a zone finds its socket below its /.zonecontrol."""
        path = self._node.path(f"/var/zonecontrol/{zone.name}/metadata.sock")
        if zone.brand in ("bhyve", "kvm"):
            path = self._node.zones.inside(zone.name).host(SERIAL, follow=False)
        uuid = zone.uuid
        listener = unix.listen(path)
        listener.setblocking(False)
        with self._lock:
            if self._thread is None:
                _allow_files()
                self._thread = threading.Thread(target=self._accept, name="mdata", daemon=True)
                self._thread.start()
            self._listeners[uuid], self._paths[uuid] = listener, path
            self._selector.register(listener, selectors.EVENT_READ, uuid)

    def close(self, uuid: str) -> None:
        """The guest is gone: its socket, and whoever is connected to it."""
        with self._lock:
            listener = self._listeners.pop(uuid, None)
            if listener is None:
                return
            self._selector.unregister(listener)
            listener.close()
            self._paths.pop(uuid).unlink(missing_ok=True)
            for connection in self._connections.pop(uuid, []):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close all."""
        for uuid in list(self._listeners):
            self.close(uuid)
        os.write(self._wake, b".")
        if self._thread is not None:
            self._thread.join()

    def _accept(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with self._lock, contextlib.suppress(OSError):
                    listener = self._listeners.get(key.data)
                    if listener is None:
                        continue
                    connection, _ = listener.accept()
                    connection.setblocking(True)
                    self._connections.setdefault(key.data, []).append(connection)
                    threading.Thread(
                        target=self._serve, args=(key.data, connection), daemon=True
                    ).start()

    def _serve(self, uuid: str, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            while line := lines.readline(_LONGEST_LINE):
                answer = self.answer(uuid, line.decode("utf-8", "surrogateescape"))
                connection.sendall(answer.encode("utf-8", "surrogateescape"))
        with self._lock:
            others = self._connections.get(uuid, [])
            if connection in others:
                others.remove(connection)

    def answer(self, uuid: str, line: str) -> str:
        """The answer to one line; nothing at all to a frame that is damaged."""
        command, _, rest = line.strip().partition(" ")
        if command == "V2":
            return self._framed(uuid, rest)
        if not command or (command in ("NEGOTIATE", "GET") and not rest):
            return "invalid command\n"
        if command == "NEGOTIATE":
            return "V2_OK\n" if rest == "V2" else "FAILURE\n"
        status, said = self._done(uuid, command, rest, framed=False)
        if status != "SUCCESS":
            return f"{status}\n"
        return "SUCCESS\n" + re.sub(r"^\.", "..", said, flags=re.MULTILINE) + "\n.\n"

    def _framed(self, uuid: str, frame: str) -> str:
        found = _FRAME.fullmatch(frame)
        if not found or int(found[1]) != len(found[3]) or found[2] != _checksum(found[3]):
            return ""
        command, _, argument = found[5].strip().partition(" ")
        status, said = self._done(uuid, command, _decoded(argument), framed=True)
        body = f"{found[4]} {status}"
        if said:
            data = said.encode("utf-8", "surrogateescape")
            body += " " + base64.b64encode(data).decode()
        return f"V2 {len(body)} {_checksum(body)} {body}\n"

    def _done(self, uuid: str, command: str, argument: str, *, framed: bool) -> tuple[str, str]:
        vm = self._node.vms.get(uuid) or {}
        if command == "GET" and argument.strip():
            found = metadata.value(vm, argument.strip())
            told = metadata.text(found)
            if told is None:
                return ("NOTFOUND", "") if found is None else ("FAILURE", "")
            return "SUCCESS", told
        if command == "KEYS":
            return "SUCCESS", "\n".join(metadata.keys(vm))
        try:
            if command == "PUT" and framed and len(argument.split(" ")) == 2:
                key, text = (_decoded(word) for word in argument.split(" "))
                metadata.change(self._node, uuid, key.strip(), text)
                return "SUCCESS", "OK"
            if command == "DELETE" and framed and argument.strip():
                metadata.change(self._node, uuid, argument.strip(), None)
                return "SUCCESS", "OK"
        except (metadata.Refused, failures.VmError) as error:
            return "FAILURE", str(error)
        return "FAILURE", f"Unknown command {command}"


def _checksum(text: str) -> str:
    return f"{binascii.crc32(text.encode('utf-8', 'surrogateescape')):08x}"


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode("utf-8", "replace")
    except ValueError:
        return ""


def _allow_files() -> None:
    """A socket a guest: more files than a process may have open by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
