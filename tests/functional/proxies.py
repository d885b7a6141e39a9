# SPDX-License-Identifier: Apache-2.0
"""Nova's console proxies in this process, and those who come to them.

The proxy, its handler and its checks are Nova's own. Only the process that it forks for each client
is a thread here: the database and the messages of a test are in memory.
"""

import contextlib
import os
import pathlib
import socket
import threading
import time
import warnings
from urllib import parse

import fixtures
from websockify import websocket

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova.console import websocketproxy

SECONDS = 60


class Proxy(fixtures.Fixture):
    """nova-novncproxy with a folder of web pages, nova-serialproxy without one."""

    def __init__(self, web: pathlib.Path | None = None) -> None:
        super().__init__()
        self._web = web

    def _setUp(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        before = os.getcwd()
        self._proxy = websocketproxy.NovaWebSocketProxy(
            listen_host="127.0.0.1",
            listen_port=self.port,
            source_is_ipv6=False,
            cert="none",
            ssl_only=False,
            daemon=False,
            record=False,
            traffic=False,
            web=str(self._web or ""),
            file_only=True,
            RequestHandlerClass=websocketproxy.NovaProxyRequestHandler,
            security_proxy=None,
        )
        # pages are looked for in the folder in which the proxy was made
        self.addCleanup(os.chdir, before)
        self._clients: list[tuple[socket.socket, threading.Thread]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.addCleanup(self._close)

    def _serve(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(client, address), daemon=True)
            self._clients.append((client, thread))
            thread.start()

    def _talk(self, client: socket.socket, address: tuple[str, int]) -> None:
        with client:
            self._proxy.top_new_client(client, address)

    def _close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._listener.close()
        for client, thread in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)
            assert not thread.is_alive()


class _Socket(websocket.WebSocket):
    """websockify's own client drops what stands behind a question mark."""

    def __init__(self, query: str) -> None:
        super().__init__()
        self._query = query

    def send_request(self, verb: str, path: str) -> None:
        super().send_request(verb, f"{path}?{self._query}")


class Client:
    """Who has a console's URL, and talks to it without a browser."""

    def __init__(self, url: str) -> None:
        self.socket = _Socket(parse.urlparse(url).query)
        self.socket.connect(url.replace("http://", "ws://"), protocols=["binary"])
        self.socket.socket.settimeout(SECONDS)
        self.said = b""

    def send(self, data: bytes) -> None:
        self.socket.sendmsg(data)

    def read(self, wanted: bytes) -> bytes:
        """Read until something was said; what was said until then."""
        end = time.monotonic() + SECONDS
        while wanted not in self.said:
            assert time.monotonic() < end, self.said
            data = self._receive()
            assert data is not None, self.said
            self.said += data
        before, self.said = self.said.split(wanted, 1)
        return before + wanted

    def _receive(self) -> bytes | None:
        """The next message, or None when the other side has hung up."""
        while True:
            try:
                found: bytes | None = self.socket.recvmsg()
                return found
            except websocket.WebSocketWantReadError:
                # a part of a message is there, or what is none
                continue

    def exactly(self, count: int) -> bytes:
        while len(self.said) < count:
            data = self._receive()
            assert data is not None, self.said
            self.said += data
        found, self.said = self.said[:count], self.said[count:]
        return found

    def ended(self, *, at_once: bool = False) -> bool:
        """Whether the other side hangs up; whatever it says before does not count, or does."""
        end = time.monotonic() + SECONDS
        try:
            while self._receive() is not None:
                if at_once or time.monotonic() > end:
                    return False
        except ConnectionError:
            return True
        return True

    def close(self) -> None:
        if self.socket.socket is not None:
            self.socket.socket.close()
