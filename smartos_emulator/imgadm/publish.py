# SPDX-License-Identifier: Apache-2.0
"""imgadm publish: an image's manifest and file go to an image repository."""

import pathlib
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import context, errors, http, options, sources

Manifest = dict[str, Any]


def publish(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm publish -m MANIFEST -f FILE URL"""
    url = context.only_argument(parsed)
    document, path = context.image_files(run, parsed)
    upload(run, document, path, parsed.f, url)


def upload(run: context.Run, document: Manifest, path: pathlib.Path, shown: str, url: str) -> None:
    """Import the manifest, add the file, activate; what is half done is deleted again."""
    file = _file_of(document)
    client = http.Client(sources.normal_url(url), run.request)
    image = f"/images/{js.text(document.get('uuid', js.UNDEFINED))}"
    imported = False
    try:
        made = client.send("POST", image, {"action": "import"}, document)
        imported = True
        name = f"{made.get('name')}, {made.get('version')}, state={made.get('state')}"
        run.log(f"Imported image {made.get('uuid')} ({name})")
        _add_file(run, client, image, file, path, shown)
        client.send("POST", image, {"action": "activate"})
        run.log(f"Activated image {document['uuid']}")
    except errors.ImgadmError as error:
        if imported:
            _roll_back(run, client, image)
        if isinstance(error, errors.PlainError):
            raise sources.wrapped(url, error) from None
        raise
    run.log(f"Successfully published image {document['uuid']} to {url}")


def _file_of(document: Manifest) -> dict[str, Any]:
    files = js.get(document, "files")
    if not isinstance(files, list) or not all(isinstance(one, dict) for one in files):
        raise errors.assertion("options.manifest.files ([object]) required")
    if not files:
        raise errors.assertion("options.manifest.files[0] (object) is required")
    if not isinstance(files[0].get("compression"), str):
        raise errors.assertion("options.manifestFile.files[0].compression (string) is required")
    return dict(files[0])


def _add_file(
    run: context.Run,
    client: http.Client,
    image: str,
    file: dict[str, Any],
    path: pathlib.Path,
    shown: str,
) -> None:
    compression, uuid = file["compression"], image.rpartition("/")[2]
    query = {"compression": compression, "sha1": file.get("sha1")}
    with path.open("rb") as stream:
        size = path.stat().st_size
        answer = client.send("PUT", f"{image}/file", query, file=stream, size=size)
    run.log(f'Added file "{shown}" (compression "{compression}") to image {uuid}')
    stored = answer["files"][0]
    for key in ("sha1", "size"):
        if file.get(key) != stored.get(key):
            message = f"{key} expected to be {file.get(key)}, but was {stored.get(key)}"
            raise errors.ImgadmError("UploadError", message)


def _roll_back(run: context.Run, client: http.Client, image: str) -> None:
    try:
        client.send("DELETE", image)
    except errors.PlainError as error:
        uuid = image.rpartition("/")[2]
        run.log(
            f"Warning: Could not delete partially published image {uuid}: "
            f"{error.name}: {error.message}"
        )
