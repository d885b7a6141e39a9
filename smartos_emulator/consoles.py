# SPDX-License-Identifier: Apache-2.0
"""The zones' consoles: who is connected, and the log that zoneadmd keeps of all but kvm's.

From source (illumos-joyent, zoneadmd's zcons.c and log.c): one client at a time; what is shown
goes to ZONEPATH/logs/console.log, a JSON document a line, whether a client is there or not. A
kvm guest's first serial line is a socket of QEMU's: what it shows is lost when nobody is there.
"""

import contextlib
import datetime
import io
import json
import os
import queue
import socket
import threading
import typing

from smartos_emulator import doors, guest, unix
from smartos_emulator.guest import terminal

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module
    from smartos_emulator import zones

#: Where a kvm guest's first serial line is, as its zone sees it.
SOCKET = "/tmp/vm.console"

_WAITING = 4096
_CHUNK = 4096
# What a guest with a kernel of its own knows; its files are not in the zone.
_IN_MACHINES = (
    *("echo", "false", "halt", "hostname", "id", "poweroff", "pwd", "reboot", "shutdown"),
    *("sleep", "true", "uname"),
)


class Busy(Exception):
    """Somebody else is connected."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


class Client:
    """One who is connected. What he is too slow for is lost to him."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)

    def hear(self, data: bytes) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(data)

    def disconnect(self) -> None:
        """Let his reading end; what waits is lost."""
        while True:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()
                continue
            return

    def next(self) -> bytes | None:
        """What is shown next; None when he is disconnected."""
        return self._waiting.get()


class Console:
    """One zone's console, for as long as the zone is there."""

    def __init__(self, node: "node_module.Node", name: str, brand: str) -> None:
        self._node = node
        self._name = name
        self._hvm = brand in ("bhyve", "kvm")
        self._logged = brand != "kvm"
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._unlogged = b""
        self.terminal = terminal.Terminal(self._run)
        if self._logged:
            self.terminal.listen(self._log)

    # who is connected

    def connect(self, pid: int) -> Client:
        """Connect somebody, or raise Busy."""
        with self._lock:
            if self._client is not None:
                raise Busy(self._client.pid)
            self._client = Client(pid)
            self.terminal.listen(self._client.hear)
            return self._client

    def disconnect(self, client: Client) -> None:
        with self._lock:
            self.terminal.forget(client.hear)
            if self._client is client:
                self._client = None
        client.disconnect()

    def notice(self, text: str, *, last: bool = False) -> None:
        """Tell who is connected what becomes of the zone; the log does not have it."""
        with self._lock:
            if self._client is not None:
                self._client.hear(f"\r\n[NOTICE: {text}]\r\n".encode())
                if last:
                    self._client.disconnect()

    # what becomes of the guest

    def booting(self) -> None:
        self._event("open")
        self.notice("Zone booting up")
        if self._hvm:
            self.terminal.show("Booting from Hard Disk...\nLinux version 6.1.0\n")
        else:
            version = f"joyent_{self._node.config.platform}"
            self.terminal.show(
                f"SunOS Release 5.11 Version {version} 64-bit\n"
                "Copyright (c) 2010-2026 the owners of SmartOS. All rights reserved.\n"
                f"Hostname: {self._node.zones.hostname(self._name)}\n"
            )

    def ready(self) -> None:
        self.terminal.ready(self._node.zones.hostname(self._name))

    def halted(self) -> None:
        self.terminal.down()
        self.terminal.show("\nsyncing file systems... done\n")
        self.notice("Zone halted")
        self._event("close")

    # the log

    def _log(self, data: bytes) -> None:
        """Lines are logged when they are whole."""
        *lines, self._unlogged = (self._unlogged + data).split(b"\n")
        for line in lines:
            self._write("console", line.decode("latin-1") + "\n")

    def _event(self, text: str) -> None:
        if self._logged:
            if self._unlogged:
                self._write("console", self._unlogged.decode("latin-1"))
                self._unlogged = b""
            self._write("logfile", text)

    def _write(self, stream: str, text: str) -> None:
        folder = self._node.zones.directory(self._name) / "logs"
        if not folder.parent.is_dir():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        document = {
            "time": time,
            "v": 0,
            "hostname": self._node.config.name,
            "name": "zoneadmd",
            "pid": os.getpid(),
            "level": 30,
            "msg": text,
            "stream": stream,
        }
        file = os.open(folder / "console.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "w") as log:
            log.write(f"{{ {json.dumps(document)[1:-1]} }}\n")

    # the guest's shell

    def _run(self, line: str) -> str:
        zone = self._node.zones.get(self._name)
        if zone is None:
            return ""
        name = line.split(maxsplit=1)[0]
        if self._hvm and (name not in _IN_MACHINES or set(line) & set("<>;&|()")):
            return f"{name}: command not found\n"
        out = io.BytesIO()
        guest.run_line(self._node, zone, line, out)
        return out.getvalue().decode("latin-1")


class Consoles:
    """The consoles of all zones."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.Lock()
        self._consoles: dict[str, Console] = {}
        self._doors = doors.Doors("consoles")

    def get(self, name: str) -> Console:
        """A zone's console, from the first time that somebody asks for it."""
        with self._lock:
            zone = self._node.zones.get(name)
            if zone is None:
                raise KeyError(name)
            if name not in self._consoles:
                self._consoles[name] = Console(self._node, name, zone.brand)
            return self._consoles[name]

    def up(self, zone: "zones.Zone", vm: dict[str, typing.Any] | None) -> None:
        """The zone boots; its hypervisor opens what it draws on."""
        console = self.get(zone.name)
        if zone.brand == "kvm":
            path = self._node.zones.inside(zone.name).host(SOCKET, follow=False)
            self._doors.open(zone.name, unix.listen(path), _Line(console).serve, path)
        if vm is not None:
            self._node.displays.up(vm, console.terminal)
        console.booting()

    def ready(self, zone: "zones.Zone") -> None:
        """The guest has booted."""
        self.get(zone.name).ready()

    def down(self, zone: "zones.Zone") -> None:
        """The zone is down."""
        self._node.displays.down(zone.name)
        self._doors.close(zone.name)
        self.get(zone.name).halted()

    def gone(self, name: str) -> None:
        """The zone is no more."""
        with self._lock:
            console = self._consoles.pop(name, None)
        if console is not None:
            console.notice("Zone is being uninstalled.  Disconnecting...", last=True)

    def stop(self) -> None:
        """The node goes down."""
        self._doors.stop()


class _Line:
    """QEMU's end of a serial line: the second who comes waits for the first to leave."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._turn = threading.Lock()

    def serve(self, connection: socket.socket) -> None:
        with self._turn:
            client = self._console.connect(0)
            pump = threading.Thread(target=_pump, args=(client, connection), daemon=True)
            pump.start()
            try:
                while data := connection.recv(_CHUNK):
                    self._console.terminal.type(data)
            finally:
                self._console.disconnect(client)
                pump.join()


def _pump(client: Client, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while (data := client.next()) is not None:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)
