# SPDX-License-Identifier: Apache-2.0
"""vminfod's HTTP service on the loopback address: the VMs as JSON and their events as a stream."""

import http.server
import json
import os
import threading
import time
import typing
import urllib.parse

from smartos_emulator import events, js

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

_SLICE = 0.05


class Server:
    """Listens while vminfod is up; gone, connections are refused."""

    def __init__(self, node: "node_module.Node", port: int) -> None:
        self._node = node
        self._port = port
        self._http: _Http | None = None

    @property
    def port(self) -> int:
        """Where it listens, or last listened."""
        return self._port

    def start(self) -> None:
        if self._http is None:
            self._http = _Http(("127.0.0.1", self._port), _Handler, self._node)
            self._port = self._http.server_address[1]
            threading.Thread(
                target=self._http.serve_forever, args=(_SLICE,), name="vminfod-http", daemon=True
            ).start()

    def stop(self) -> None:
        if self._http is not None:
            self._http.stopping.set()
            self._http.shutdown()
            self._http.server_close()
            self._http = None


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type, node: "node_module.Node") -> None:
        super().__init__(address, handler)
        self.node = node
        self.started = time.monotonic()
        self.stopping = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: typing.Any) -> None:
        """vminfod's own log is no part of what is emulated."""

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        name, _, rest = os.path.normpath(url.path).lstrip("/").partition("/")
        if name == "ping":
            self._answer(200, json.dumps({"ping": "pong"}, separators=(",", ":")))
        elif name == "status":
            self._answer(200, json.dumps(self._status("full" in url.query)))
        elif name == "vms":
            self._vms(urllib.parse.unquote(rest))
        elif name == "events":
            self._events()
        else:
            self._answer(404, "Unsupported URL Path")

    def _refuse(self) -> None:
        self._answer(400, "")

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _refuse

    def _answer(self, status: int, body: str) -> None:
        data = body.encode("utf-8", "surrogateescape")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _vms(self, zonename: str) -> None:
        hub = self.server.node.events
        if not zonename:
            self._answer(200, text(hub.all()))
        elif vm := hub.get(zonename):
            self._answer(200, text(vm))
        else:
            self._answer(404, f"VM Not Found: {zonename}")

    def _status(self, full: bool) -> dict[str, typing.Any]:
        node = self.server.node
        status = {
            "pid": os.getpid(),
            "uptime": f"{int(time.monotonic() - self.server.started)}s",
            "memory": {},
            "state": "running",
            "status": "listening on /events and processing events",
            "numVms": len(node.events.all()),
            "curDate": events.date_text(node.clock.now()),
            "queue": {"paused": False, "working": False, "outstanding": []},
            "lastRefresh": None,
            "refreshErrors": [],
            "eventsListeners": {},
        }
        return {**status, "refreshLog": [], "fswatcher": {}} if full else status

    def _events(self) -> None:
        """An endless answer: one JSON document a line."""
        stream = self.server.node.events.subscribe()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        ready = {**stream.ready, "vms": text(list(stream.ready["vms"].values()))}
        try:
            self._line(ready)
            while not self.server.stopping.is_set():
                if event := stream.get(_SLICE):
                    self._line(event)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            stream.close()

    def _line(self, event: dict[str, typing.Any]) -> None:
        data = text(event).encode("utf-8", "surrogateescape") + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def text(document: typing.Any) -> str:
    """A document on one line, as JavaScript writes it."""
    return js.dumps(document)
