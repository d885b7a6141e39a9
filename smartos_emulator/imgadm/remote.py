# SPDX-License-Identifier: Apache-2.0
"""The subcommands that ask image sources: avail, show, import."""

import contextlib
import hashlib
import math
import pathlib
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import (
    commands,
    context,
    errors,
    http,
    install,
    options,
    rows,
    sources,
    sources_command,
    streams,
    upgrade,
)

Manifest = dict[str, Any]
Source = sources.Source

_DOWNLOADS = "/var/tmp/.imgadm-downloads"
_CHUNK = 1 << 20


def avail(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm avail [FILTERS]"""
    wanted = rows.filters(parsed.arguments)
    present = sources_command.configured(run)
    if not present:
        # The real tool trips over the list that it does not have.
        raise errors.assertion("imagesInfo ([object]) required")
    found: dict[str, dict[str, Any]] = {}
    failed = []
    # All are asked at once, and a dsapi client has its answer a moment earlier.
    for source in sorted(present, key=lambda one: one.type != "dsapi"):
        try:
            offered = source.images() if source.type != "docker" else []
        except errors.ImgadmError as error:
            failed.append(error)
            continue
        for document in offered:
            found.setdefault(document["uuid"], {"manifest": document, "source": source.url})
    columns, sort = rows.fields(parsed.o), rows.fields(parsed.s)
    infos = rows.keep(list(found.values()), wanted)
    run.call.out(
        rows.listing(infos, json=parsed.json, header=not parsed.H, columns=columns, sort=sort)
    )
    if failed:
        raise errors.multi(failed)


def show(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm show UUID"""
    name = context.only_argument(parsed)
    found = find(sources_command.configured(run), name, active=False)
    if not found:
        raise errors.ImgadmError("ImageNotFound", f'image "{name}" was not found')
    run.log(js.dumps(found[0], 2))


def find(
    present: list[Source], name: str, *, active: bool = True
) -> tuple[Manifest, Source] | None:
    """An image in the first source that has it. An error of a source before that one counts."""
    if not present:
        raise errors.ImgadmError("NoSources", "imgadm has no configured sources")
    failed = []
    found = None
    for source in present:
        try:
            if not upgrade.is_uuid(name):
                source.find_docker(name)
            elif document := source.find(name, active=active):
                found = document, source
                break
        except errors.ImgadmError as error:
            failed.append(error)
    if failed:
        raise errors.multi(failed)
    return found


def import_image(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm import UUID"""
    name, pool = context.only_argument(parsed), context.pool_of(parsed)
    if not upgrade.is_uuid(name) and not _is_docker_name(name):
        raise errors.usage(f"invalid image-id arg: {js.dumps(name)}")
    info = run.node.images.installed(name, pool) if upgrade.is_uuid(name) else None
    if info:
        run.log(f"Image {name}{commands.short_title(info)} is already installed, skipping")
        return
    found = find(_chosen(run, parsed), name)
    if not found:
        message = f'an active image "{name}" was not found in image sources'
        raise errors.ImgadmError("ActiveImageNotFound", message)
    _Import(run, pool, found[1], bool(parsed.zstream)).image(found[0])


def _is_docker_name(name: str) -> bool:
    return bool(name) and not any(character.isspace() or character.isupper() for character in name)


def _chosen(run: context.Run, parsed: options.Parsed) -> list[Source]:
    if parsed.source:
        return [Source(url, channel=parsed.channel, request=run.request) for url in parsed.source]
    return sources_command.configured(run, parsed.channel)


class _Import:
    """The import of an image and of the origins that are not there yet."""

    def __init__(self, run: context.Run, pool: str, source: Source, raw: bool) -> None:
        self.run = run
        self.pool = pool
        self.source = source
        self.raw = raw

    def image(self, top: Manifest) -> None:
        channel = f', channel "{self.source.channel}"' if self.source.channel else ""
        title = sources.title(top)
        self.run.log(f'Importing {title} from "{self.source.url}"{channel}')
        self.run.log(f"Gather image {top['uuid']} ancestry")
        missing = self._missing(self.source.ancestry(top))
        uuids = [document["uuid"] for document in missing]
        with self.run.node.images.import_locks(uuids, self.run.log):
            info = self.run.node.images.installed(top["uuid"], self.pool)
            if info:
                name = f"{top['uuid']} ({install.title(info['manifest'])})"
                self.run.log(f"Image {name} was imported while waiting on lock")
                return
            try:
                self._fetch_and_install(missing)
            except errors.ImgadmError as error:
                self.run.log(f"Aborting ({error.message})")
                raise

    def _missing(self, chain: list[Manifest]) -> list[Manifest]:
        """The images of a chain that are not installed; tells about those that are."""
        missing = []
        for document in chain:
            if self.run.node.images.installed(document["uuid"], self.pool):
                self.run.log(f"Image {document['uuid']} already installed")
            else:
                missing.append(document)
        return missing

    def _fetch_and_install(self, missing: list[Manifest]) -> None:
        for document in missing:
            install.check_platform(document, self.run.node.config.platform)
        count = len(missing)
        plural = "" if count == 1 else "s"
        sizes = [js.truthy(_file_of(document).get("size")) for document in missing]
        total = ""
        if all(sizes) and not self.raw:
            total = f" ({human_size(sum(_file_of(one)['size'] for one in missing))})"
        self.run.log(f"Must download and install {count} image{plural}{total}")
        installer = self.run.installer(self.pool)
        for document in reversed(missing):
            path = self._download(document)
            size = human_size(path.stat().st_size)
            self.run.log(f"Downloaded image {document['uuid']} ({size})")
            # What a source says is taken for valid: only a crash tells when it is not.
            with errors.crashing():
                installer.install_file(document, path, source=self.source.url, raw=self.raw)
            self.run.log(f"Imported image {sources.title(document)}")
            path.unlink()

    def _download(self, document: Manifest) -> pathlib.Path:
        """An image's file, downloaded and checked; one that an earlier import left is used."""
        uuid, file = document["uuid"], _file_of(document)
        path = self.run.node.path(f"{_DOWNLOADS}/{uuid}.file")
        if path.exists() and _is_wanted(path, file):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{uuid}.file.partial")
        try:
            with self.source.file(document) as response:
                length = self._check_length(response, file)
                _save(response, partial, uuid, "" if self.raw else file.get("sha1", ""), length)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _check_length(self, response: Any, file: dict[str, Any]) -> int | None:
        if self.raw:
            return None
        header = response.headers.get("Content-Length")
        if header is None or not header.strip().isdigit():
            shown = "undefined" if header is None else header
            raise install.download_error(
                f"unexpected missing or invalid Content-Length header: {shown}"
            )
        length, expected = int(header), file.get("size")
        if expected and expected != length:
            raise install.download_error(
                f"unexpected mismatch between expected size, {expected}, and "
                f"Content-Length header, {length}"
            )
        return length


def _file_of(document: Manifest) -> dict[str, Any]:
    files = document.get("files") or [{}]
    return dict(files[0])


def _is_wanted(path: pathlib.Path, file: dict[str, Any]) -> bool:
    if file.get("size") and file["size"] != path.stat().st_size:
        return False
    return bool(file.get("sha1")) and streams.checksum(path) == file["sha1"]


def _save(response: Any, path: pathlib.Path, uuid: str, expected: str, length: int | None) -> None:
    sha1, size = hashlib.sha1(), 0
    with path.open("wb") as file:
        while chunk := _read(response):
            file.write(chunk)
            sha1.update(chunk)
            size += len(chunk)
    faults = []
    if length is not None and size != length:
        faults.append(
            f"image {uuid} file size error: expected {length} bytes, downloaded {size} bytes"
        )
    if expected and sha1.hexdigest() != expected:
        faults.append(
            f'image {uuid} file checksum (sha1) error: expected "{expected}", downloaded '
            f'checksum was "{sha1.hexdigest()}"'
        )
    if faults:
        raise errors.multi([install.download_error(fault) for fault in faults])


def _read(response: Any) -> bytes:
    with http.network_errors(), contextlib.suppress(http.ShortAnswer):
        return bytes(response.read(_CHUNK))
    return b""


def human_size(size: int) -> str:
    """A size as imgadm shows it: one digit after the point, cut off."""
    if not size:
        return "0 B"
    power = int(math.log(size) / math.log(1024))
    whole, _, fraction = js.text(js.tidy(size / 1024**power)).partition(".")
    return f"{whole}.{fraction[:1] or '0'} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
