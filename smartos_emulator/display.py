# SPDX-License-Identifier: Apache-2.0
"""The hypervisors' displays: an RFB 3.8 server on a unix socket, and vmadmd's way to it.

From source (bhyve's boot program, vmadmd.js): kvm always has a display. bhyve's brand leaves out
its framebuffer with vnc_port=-1; the VM's own options may bring it back. vmadmd listens on the
node's admin address, unless vnc_port is -1, at that port or a free one, and passes on all bytes.
"""

import contextlib
import logging
import pathlib
import re
import secrets
import socket
import struct
import threading
import typing

from smartos_emulator import des, doors, unix
from smartos_emulator.guest import font, terminal

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

LOG = logging.getLogger("smartos_emulator")

#: Where the display is, as its zone sees it.
SOCKET = "/tmp/vm.vnc"
WIDTH, HEIGHT = terminal.COLUMNS * font.WIDTH, terminal.ROWS * font.HEIGHT

Vm = dict[str, typing.Any]

_FRAMEBUFFER = re.compile(rf"(^|\s)-s\s+[\d:]+,fbuf,(\S*,)?unix={re.escape(SOCKET)}(,|\s|$)")
_VERSIONS = {b"RFB 003.003\n": 3, b"RFB 003.007\n": 7, b"RFB 003.008\n": 8}
_NONE, _PASSWORD = 1, 2
_RAW = 0
_INK, _PAPER = (0xD0, 0xD0, 0xD0), (0x10, 0x18, 0x28)
_KEYS = {0xFF08: b"\x7f", 0xFF09: b"\t", 0xFF0D: b"\r", 0xFF8D: b"\r", 0xFF1B: b"\x1b"}
_CHUNK = 65536


def has_display(vm: Vm) -> bool:
    """Whether a running VM of this configuration has a framebuffer."""
    if vm["brand"] == "kvm":
        return not vm.get("qemu_opts")
    if vm["brand"] != "bhyve":
        return False
    added = _FRAMEBUFFER.search(vm.get("bhyve_extra_opts") or "")
    return vm.get("vnc_port") != -1 or added is not None


class Displays:
    """The displays of all running machines, and where vmadmd listens for each."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._sockets = doors.Doors("display")
        self._ports = doors.Doors("vmadmd-vnc")
        self._lock = threading.Lock()
        self._listening: dict[str, tuple[int, typing.Any]] = {}
        self._paths: dict[str, pathlib.Path] = {}

    def up(self, vm: Vm, shown: terminal.Terminal) -> None:
        """A VM boots; only a machine has a display."""
        if not has_display(vm):
            return
        name = vm["zonename"]
        path = self._paths[name] = self._node.zones.inside(name).host(SOCKET, follow=False)
        password = vm.get("vnc_password") or ""

        def serve(connection: socket.socket) -> None:
            _Viewer(connection, shown, str(vm.get("alias") or name), password).serve()

        self._sockets.open(name, unix.listen(path), serve, path)
        self.reload(vm)

    def down(self, name: str) -> None:
        """A machine is down."""
        with self._lock:
            self._paths.pop(name, None)
            self._hang_up(name)
        self._sockets.close(name)

    def reload(self, vm: Vm) -> None:
        """Listen as the VM's configuration says now."""
        name, wanted = vm["zonename"], vm.get("vnc_port") or 0
        with self._lock:
            if name not in self._paths or self._listening.get(name, (0, None))[1] == wanted:
                return
            self._hang_up(name)
            path = self._paths[name]
            if wanted == -1:
                return
            try:
                listener = socket.create_server((self._node.config.admin_ip, wanted))
            except OSError as error:
                LOG.warning("vmadmd cannot listen for %s: %s", name, error)
                return
            self._listening[name] = listener.getsockname()[1], wanted
            self._ports.open(name, listener, lambda connection: _join(connection, path))

    def port(self, vm: Vm) -> int | None:
        """Where vmadmd listens for a VM; None when it does not."""
        self.reload(vm)
        with self._lock:
            return self._listening.get(vm["zonename"], (None, None))[0]

    def stop(self) -> None:
        """The node goes down."""
        self._ports.stop()
        self._sockets.stop()

    def _hang_up(self, name: str) -> None:
        if self._listening.pop(name, None) is not None:
            self._ports.close(name)


def _join(connection: socket.socket, path: pathlib.Path) -> None:
    """Pass on the bytes of both sides, as vmadmd does for who comes to the admin address."""
    with unix.connect(path) as display:
        back = threading.Thread(target=_pour, args=(display, connection), daemon=True)
        back.start()
        _pour(connection, display)
        back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class _Format:
    """How a client wants its pixels."""

    def __init__(self, wanted: bytes) -> None:
        depth = struct.unpack("!BBBBHHHBBB3x", wanted)
        bits, _, big_endian, true_colour, *colours = depth
        if bits not in (8, 16, 32) or not true_colour:
            raise OSError(f"pixels of {bits} bits are not emulated")
        self._bytes, self._order = bits // 8, "big" if big_endian else "little"
        self._most, self._shift = colours[:3], colours[3:]
        self._lines: dict[str, list[bytes]] = {}

    def pixel(self, colour: tuple[int, int, int]) -> bytes:
        value = sum(
            (part * most // 255) << shift
            for part, most, shift in zip(colour, self._most, self._shift, strict=True)
        )
        # bits of no colour are set: noVNC 1.3 takes some of them for how opaque a pixel is
        coloured = sum(most << shift for most, shift in zip(self._most, self._shift, strict=True))
        value |= ((1 << 8 * self._bytes) - 1) & ~coloured
        order: typing.Any = self._order
        return value.to_bytes(self._bytes, order)

    def row(self, text: str) -> bytes:
        """A row of text as pixels."""
        letters = [self._letter(letter) for letter in text]
        return b"".join(letter[line] for line in range(font.HEIGHT) for letter in letters)

    def _letter(self, letter: str) -> list[bytes]:
        if letter not in self._lines:
            dots = (self.pixel(_PAPER), self.pixel(_INK))
            self._lines[letter] = [
                b"".join(dots[line >> bit & 1] for bit in range(7, -1, -1))
                for line in font.lines(letter)
            ]
        return self._lines[letter]


_USUAL = struct.pack("!BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class _Viewer:
    """One who looks at a display."""

    def __init__(
        self, connection: socket.socket, shown: terminal.Terminal, name: str, password: str
    ) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._terminal = shown
        self._screen = shown.screen
        self._name = name.encode()
        self._password = password
        self._format = _Format(_USUAL)
        self._asked: bool | None = None
        self._gone = False
        self._seen = -1

    def serve(self) -> None:
        """Talk until he leaves."""
        with self._stream:
            if not self._agree():
                return
            self._exactly(1)
            size = struct.pack("!HH", WIDTH, HEIGHT)
            named = struct.pack("!I", len(self._name)) + self._name
            self._connection.sendall(size + _USUAL + named)
            painter = threading.Thread(target=self._paint, name="painter", daemon=True)
            painter.start()
            try:
                self._listen()
            finally:
                with self._screen.changed:
                    self._gone = True
                    self._screen.changed.notify_all()
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
                painter.join()

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise ConnectionResetError
        return data

    def _agree(self) -> bool:
        """Version and security; whether he may look."""
        self._connection.sendall(b"RFB 003.008\n")
        version = _VERSIONS.get(self._exactly(12), 3)
        kind = _PASSWORD if self._password else _NONE
        if version == 3:
            self._connection.sendall(struct.pack("!I", kind))
        else:
            self._connection.sendall(bytes([1, kind]))
            if self._exactly(1)[0] != kind:
                return False
        if kind == _NONE and version < 8:
            return True
        allowed = kind == _NONE or self._knows_password()
        self._connection.sendall(struct.pack("!I", not allowed))
        if not allowed and version == 8:
            reason = b"Authentication failed"
            self._connection.sendall(struct.pack("!I", len(reason)) + reason)
        return allowed

    def _knows_password(self) -> bool:
        challenge = secrets.token_bytes(16)
        self._connection.sendall(challenge)
        return self._exactly(16) == des.vnc_response(self._password, challenge)

    def _listen(self) -> None:
        while kind := self._stream.read(1):
            match kind[0]:
                case 0:
                    wanted = self._exactly(19)[3:]
                    with self._screen.changed:
                        self._format = _Format(wanted)
                case 2:
                    self._exactly(4 * struct.unpack("!xH", self._exactly(3))[0])
                case 3:
                    (incremental,) = struct.unpack("!B8x", self._exactly(9))
                    with self._screen.changed:
                        self._asked = bool(incremental) and self._asked is not False
                        self._screen.changed.notify_all()
                case 4:
                    down, key = struct.unpack("!B2xI", self._exactly(7))
                    if down:
                        self._press(key)
                case 5:
                    self._exactly(5)
                case 6:
                    self._exactly(struct.unpack("!3xI", self._exactly(7))[0] & 0xFFFFF)
                case other:
                    raise OSError(f"message {other} is not emulated")

    def _press(self, key: int) -> None:
        if key in _KEYS:
            self._terminal.type(_KEYS[key])
        elif 0x20 <= key <= 0x7E:
            self._terminal.type(bytes([key]))

    def _paint(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._screen.changed:
                    self._screen.changed.wait_for(self._due)
                    if self._gone:
                        return
                    since = self._seen if self._asked else -1
                    self._asked, self._seen = None, self._screen.version
                    rows, wanted = self._screen.rows(), self._format
                self._update(rows, since, wanted)

    def _due(self) -> bool:
        news = not self._asked or self._screen.version != self._seen
        return self._gone or (self._asked is not None and news)

    def _update(self, rows: list[tuple[str, int]], since: int, wanted: _Format) -> None:
        changed = [(at, text) for at, (text, version) in enumerate(rows) if version > since]
        parts = [struct.pack("!BxH", 0, len(changed))]
        for at, text in changed:
            place = struct.pack("!HHHHi", 0, at * font.HEIGHT, WIDTH, font.HEIGHT, _RAW)
            parts += [place, wanted.row(text)]
        self._connection.sendall(b"".join(parts))
