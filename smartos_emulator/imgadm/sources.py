# SPDX-License-Identifier: Apache-2.0
"""Image sources: where images come from."""

import contextlib
import dataclasses
import re
import urllib.parse
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import errors, http, install, upgrade

Manifest = dict[str, Any]

TYPES = ("imgapi", "dsapi", "docker")
_LIMIT = 1000


@dataclasses.dataclass(frozen=True)
class Source:
    """One image source. A dsapi one differs in its paths; a docker one is never in reach."""

    url: str
    type: str = "imgapi"
    insecure: bool | None = None
    channel: str | None = None
    request: str = dataclasses.field(default="", compare=False)

    @property
    def normal_url(self) -> str:
        return normal_url(self.url)

    def to_json(self) -> dict[str, Any]:
        """The source as the configuration has it."""
        document = {"type": self.type, "url": self.url}
        if self.insecure is not None:
            document["insecure"] = self.insecure  # type: ignore[assignment]
        if self.channel is not None:
            document["channel"] = self.channel
        return document

    def same_as(self, other: "Source") -> bool:
        mine = (self.normal_url, self.type, self.insecure, self.channel)
        return mine == (other.normal_url, other.type, other.insecure, other.channel)

    def __str__(self) -> str:
        extra = " (insecure)" if self.insecure else ""
        extra += f" (channel={self.channel})" if self.channel else ""
        return f'"{self.type}" image source "{self.url}"{extra}'

    def ping(self) -> None:
        """Check that a server of the right kind answers."""
        try:
            pong = self._client().get("/v2/" if self.type == "docker" else "/ping")
        except errors.PlainError as error:
            raise self._ping_error(f"{error.name}: {error.message}") from None
        if self.type == "imgapi" and not js.truthy(js.get(pong, "imgapi")):
            raise self._ping_error("")

    def images(self) -> list[Manifest]:
        """Every image that the source offers."""
        try:
            if self.type == "dsapi":
                return list(self._client().get("/datasets"))
            return self._pages()
        except errors.PlainError as error:
            raise self._wrapped(error) from None

    def find(self, uuid: str, *, active: bool, must_exist: bool = False) -> Manifest | None:
        """An image's manifest; None when there is none, or none that is active."""
        if self.type == "docker":
            return None
        try:
            found: Manifest = self._client().get(f"{self._images()}/{uuid}", self._query())
        except http.ServerError as error:
            if error.http_status != 404 or must_exist:
                raise
            return None
        if not active:
            return found
        try:
            found = upgrade.upgrade(found)
        except js.JavaScriptError as error:
            raise errors.invalid_manifest(str(error)) from None
        return found if found.get("state") == "active" else None

    def find_docker(self, name: str) -> None:
        """Look for a docker image: its registry is out of reach."""
        if self.type == "docker":
            self._client().get(f"/v2/{name}/manifests/latest")

    def ancestry(self, manifest: Manifest) -> list[Manifest]:
        """An image and its origins, down to the one that has none."""
        chain = [manifest]
        while origin := chain[-1].get("origin"):
            found = self.find(origin, active=False, must_exist=True)
            assert found is not None
            chain.append(found)
        return chain

    def file(self, manifest: Manifest) -> contextlib.AbstractContextManager[Any]:
        """The response that carries an image's file."""
        if self.type == "dsapi":
            url = urllib.parse.urlsplit(manifest["files"][0].get("url", ""))
            return self._client().stream(url.path)
        return self._client().stream(f"/images/{manifest['uuid']}/file", self._query())

    def _client(self) -> http.Client:
        url = self.normal_url.partition("?")[0]
        if self.type == "dsapi":
            if not re.search(r"/datasets/?$", url):
                message = f'"dsapi" source URL does not end with "/datasets": "{url}"'
                raise errors.ImgadmError("ConfigError", message)
            url = url.rpartition("/")[0]
        return http.Client(url, self.request)

    def _images(self) -> str:
        return "/datasets" if self.type == "dsapi" else "/images"

    def _query(self) -> dict[str, Any]:
        return {"channel": self.channel or _channel_of(self.url)}

    def _pages(self) -> list[Manifest]:
        images: list[Manifest] = []
        marker, limit = None, None
        while True:
            page = self._client().get(
                "/images", {**self._query(), "marker": marker, "limit": limit}
            )
            last = len(page) < _LIMIT
            if marker and page and page[0].get("uuid") == marker:
                page = page[1:]
            if not page or page[-1]["uuid"] == marker:
                return images
            images += page
            if last:
                return images
            marker, limit = page[-1]["uuid"], _LIMIT

    def _ping_error(self, details: str) -> errors.ImgadmError:
        message = f'unexpected ping error with "{self.type}" image source "{self.url}"'
        message += f": {details}" if details else ""
        return errors.ImgadmError("SourcePing", message, cause=details)

    def _wrapped(self, error: errors.PlainError) -> errors.ImgadmError:
        """A client's error as the error of this source."""
        return wrapped(self.url, error)


def wrapped(url: str, error: errors.PlainError) -> errors.ImgadmError:
    """A client's error as the error of a URL."""
    cause = f"{error.name}: {error.message}"
    if isinstance(error, http.ServerError) and error.has_body_code:
        lines = [f"{url}: {error.message}"]
        for one in error.details:
            more = f": {one['message']}" if one.get("message") else ""
            lines.append(f"    {one.get('field')}: {one.get('code')}{more}")
        return errors.ImgadmError(error.code, "\n".join(lines), cause=cause)
    if isinstance(error, http.NetworkError):
        return errors.ImgadmError("ClientError", f"{url}: {cause}", cause=cause)
    return errors.internal(error.message, cause=cause)


def normal_url(url: str) -> str:
    """A URL in the form in which sources are compared."""
    if not re.match(r"\w+://", url, re.ASCII):
        url = f"http://{url}"
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.lower()
    default = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    if default and host.endswith(default):
        host = host.removesuffix(default)
    path = parts.path.removesuffix("/")
    return urllib.parse.urlunsplit((parts.scheme, host, path, parts.query, parts.fragment))


def _channel_of(url: str) -> str | None:
    found = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query).get("channel")
    return found[0] if found else None


def create(info: dict[str, Any], request: str, channel: str | None = None) -> Source:
    """The source that a configuration describes."""
    if info["type"] not in TYPES:
        raise js.JavaScriptError("format is not defined")
    return Source(
        info["url"], info["type"], info.get("insecure"), channel or info.get("channel"), request
    )


def title(manifest: Manifest) -> str:
    """`uuid (name@version)`."""
    return f"{manifest['uuid']} ({install.title(manifest)})"
