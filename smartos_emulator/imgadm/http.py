# SPDX-License-Identifier: Apache-2.0
"""HTTP as an emulated node speaks it: only servers on this machine are in reach."""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import IO, Any

from smartos_emulator import js
from smartos_emulator.imgadm import errors

ShortAnswer = http.client.IncompleteRead

_TIMEOUT = 60
_HEADERS = {
    "Accept": "application/json",
    "Accept-Version": "~2",
    "User-Agent": "imgadm/3.9.5 (node/0.10.26; OpenSSL/1.0.1t)",
}


class NetworkError(errors.PlainError):
    """A connection that failed: the code is the system call's."""

    def __init__(self, code: str, call: str) -> None:
        super().__init__(f"{call} {code}", code=code)


class ServerError(errors.PlainError):
    """An answer of the server that refuses: the code is the one in its body."""

    def __init__(self, status: int, document: Any) -> None:
        body = document if isinstance(document, dict) else {}
        code = js.text(body.get("code", "")) or f"Http{status}"
        super().__init__(js.text(body.get("message", "")), code=code)
        self.name = code if code.endswith("Error") else f"{code}Error"
        self.http_status = status
        self.details = body.get("errors") or []
        self.has_body_code = bool(body.get("code"))


class NotJSON(errors.PlainError):
    """An answer that is no JSON document."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"statusCode {status}, response not JSON:\n{text}")
        self.http_status = status


class Client:
    """Requests below one URL."""

    def __init__(self, url: str, request: str = "") -> None:
        self._url = urllib.parse.urlsplit(url)
        self._headers = {**_HEADERS, **({"x-request-id": request} if request else {})}

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """The JSON document at a path."""
        return self.send("GET", path, query)

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        document: Any = None,
        file: IO[bytes] | None = None,
        size: int = 0,
    ) -> Any:
        """One request, with a JSON document or a file as its body; the JSON document it answers."""
        headers, body = dict(self._headers), file or b""
        if document is not None:
            body = js.dumps(document).encode()
            headers["Content-Type"] = "application/json"
        if file is not None:
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Length"] = str(size)
        with self._response(method, path, query, body, headers) as response:
            return _document(response)

    @contextlib.contextmanager
    def stream(self, path: str, query: dict[str, Any] | None = None) -> Iterator[Any]:
        """The response to a GET, to be read in pieces."""
        with self._response("GET", path, query, b"", self._headers) as response:
            if response.status >= 400:
                _document(response)
            yield response

    @contextlib.contextmanager
    def _response(
        self, method: str, path: str, query: dict[str, Any] | None, body: Any, headers: Any
    ) -> Iterator[http.client.HTTPResponse]:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        target = self._url.path.rstrip("/") + path
        if given:
            target += "?" + urllib.parse.urlencode(given)
        connection = self._connection()
        try:
            with network_errors():
                connection.request(method, target, body=body, headers=headers)
                response = connection.getresponse()
            yield response
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        _check_reachable(host)
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, self._url.port, timeout=_TIMEOUT)
        return http.client.HTTPConnection(host, self._url.port, timeout=_TIMEOUT)


def _check_reachable(host: str) -> None:
    """Only this machine is in reach: a node here has neither a resolver nor a route."""
    if host == "localhost":
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise NetworkError("EADDRINFO", "getaddrinfo") from None
    if not address.is_loopback:
        raise NetworkError("ENETUNREACH", "connect")


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turn what can go wrong on a connection into imgadm's errors."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(error) from None


def _network_error(error: Exception) -> errors.PlainError:
    if isinstance(error, ConnectionRefusedError):
        return NetworkError("ECONNREFUSED", "connect")
    if isinstance(error, socket.timeout):
        return NetworkError("ETIMEDOUT", "connect")
    if isinstance(error, ssl.SSLError):
        return errors.PlainError("DEPTH_ZERO_SELF_SIGNED_CERT")
    return errors.PlainError("socket hang up", code="ECONNRESET")


def _document(response: http.client.HTTPResponse) -> Any:
    with network_errors():
        text = response.read().decode("utf-8", "replace")
    try:
        document = js.loads(text) if text else {}
    except js.JavaScriptError:
        raise NotJSON(response.status, _indented(text)) from None
    if response.status >= 400:
        raise ServerError(response.status, document)
    return document


def _indented(text: str) -> str:
    shown = text if len(text) <= 1024 else text[:1024] + "..."
    return "\n".join(f"    {line}" for line in shown.splitlines() or [""])
