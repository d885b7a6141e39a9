# SPDX-License-Identifier: Apache-2.0
"""kvm's monitor: QEMU 0.14's QMP on a unix socket in the VM's zone, for one client at a time."""

import contextlib
import json
import pathlib
import socket
import threading
import time
import typing

from smartos_emulator import unix

#: Where it listens, as the zone sees it.
PATH = "/tmp/vm.qmp"

Document = dict[str, typing.Any]

_GREETING: Document = {
    "QMP": {
        "version": {
            "qemu": {"micro": 1, "minor": 14, "major": 0},
            "package": " (qemu-kvm-devel)",
        },
        "capabilities": [],
    }
}
_SLICE = 0.2
_LONGEST_REQUEST = 65536


class Monitor:
    """One VM's monitor, while its QEMU runs. `power_down` and `reset` are the machine's buttons."""

    def __init__(
        self,
        path: pathlib.Path,
        power_down: typing.Callable[[], None],
        reset: typing.Callable[[], None],
    ) -> None:
        self.running = True
        self._path = path
        self._listener = unix.listen(path)
        self._listener.settimeout(_SLICE)
        self._closing = threading.Event()
        self._orders: dict[str, typing.Callable[[], None]] = {
            "system_powerdown": power_down,
            "system_reset": reset,
        }
        self._thread = threading.Thread(target=self._serve, name="qmp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """QEMU ends: so do its socket and who is connected to it."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        with self._listener:
            while not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = self._listener.accept()
                    with connection, contextlib.suppress(OSError):
                        _Client(connection, self._answer, self._closing).serve()

    def _answer(self, client: "_Client", name: str) -> Document | None:
        if name in ("cont", "stop"):
            self._set(client, name == "cont")
        elif name == "query-status":
            status = "running" if self.running else "paused"
            facts = {"status": status, "running": self.running}
            return {**facts, "singlestep": False, "hwsetup": True}
        elif name == "query-version":
            return dict(_GREETING["QMP"]["version"])
        elif name in self._orders:
            self._orders[name]()
        else:
            return None
        return {}

    def _set(self, client: "_Client", running: bool) -> None:
        if self.running != running:
            self.running = running
            seconds, fraction = divmod(time.time(), 1)
            stamp = {"seconds": int(seconds), "microseconds": int(fraction * 1e6)}
            client.say({"timestamp": stamp, "event": "RESUME" if running else "STOP"})


class _Client:
    """A conversation: greeting, negotiation, then questions and answers, a line each."""

    def __init__(
        self,
        connection: socket.socket,
        ask: typing.Callable[["_Client", str], Document | None],
        closing: threading.Event,
    ) -> None:
        self._connection = connection
        self._ask = ask
        self._closing = closing
        self._negotiated = False

    def say(self, document: Document) -> None:
        self._connection.sendall(json.dumps(document).encode() + b"\r\n")

    def serve(self) -> None:
        """Answer until the client closes its side, or QEMU ends."""
        self._connection.settimeout(_SLICE)
        self.say(_GREETING)
        pending = ""
        while not self._closing.is_set() and len(pending) < _LONGEST_REQUEST:
            try:
                data = self._connection.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            pending = self._answer_all(pending + data.decode("utf-8", "replace"))

    def _answer_all(self, text: str) -> str:
        """Answer each whole document; what is left. They need no newline between them."""
        decoder = json.JSONDecoder()
        while text := text.lstrip():
            try:
                document, end = decoder.raw_decode(text)
            except ValueError:
                if "\n" not in text:
                    return text
                self.say(_error("JSONParsing", "Invalid JSON syntax"))
                text = text.partition("\n")[2]
                continue
            text = text[end:]
            self._answer(document)
        return ""

    def _answer(self, document: typing.Any) -> None:
        if not isinstance(document, dict) or "execute" not in document:
            self.say(_error("QMPBadInputObject", "Expected 'execute' in QMP input"))
            return
        name = str(document["execute"])
        answer: Document | None = None
        if self._negotiated:
            answer = self._ask(self, name)
        elif name == "qmp_capabilities":
            self._negotiated, answer = True, {}
        said: Document = {"return": answer}
        if answer is None:
            said = _error("CommandNotFound", f"The command {name} has not been found")
        self.say({**said, "id": document["id"]} if "id" in document else said)


def _error(kind: str, text: str) -> Document:
    return {"error": {"class": kind, "desc": text, "data": {}}}
