# SPDX-License-Identifier: Apache-2.0
"""The subcommands that look at and change what is installed."""

import re
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import context, errors, install, options, rows

Info = dict[str, Any]

# One of the two UUID rules of imgadm takes capitals.
_ANY_UUID = re.compile("[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}")


def ancestry(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm ancestry UUID"""
    uuid: Any = context.only_argument(parsed)
    if not _ANY_UUID.fullmatch(uuid):
        raise errors.assertion("uuid (uuid) is required")
    pool = context.pool_of(parsed)
    chain: list[Info] = []
    while js.truthy(uuid):
        info = _installed(run, pool, uuid, caught=not chain)
        chain.append(info)
        uuid = info["manifest"].get("origin")
    columns = rows.fields(parsed.o)
    run.call.out(rows.listing(chain, json=parsed.json, header=not parsed.H, columns=columns))


def _installed(run: context.Run, pool: str, uuid: str, *, caught: bool) -> Info:
    try:
        context.check_uuid(uuid)
    except errors.ImgadmError as error:
        if caught:
            raise
        raise errors.abort(error.message, error.kind) from None
    info = run.node.images.installed(uuid, pool)
    if not info:
        raise errors.image_not_installed(pool, uuid)
    return info


def delete(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm delete UUID"""
    uuid = context.only_argument(parsed)
    context.check_uuid(uuid)
    run.node.images.delete(uuid, context.pool_of(parsed))
    run.log(f"Deleted image {uuid}")


def get(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm get UUID"""
    uuid = context.only_argument(parsed)
    context.check_uuid(uuid)
    pool = context.pool_of(parsed)
    info = _installed(run, pool, uuid, caught=True)
    if parsed.r:
        snapshots, clones = run.node.images.children(f"{pool}/{uuid}")
        info["children"] = {"snapshots": snapshots, "clones": clones}
    run.log(js.dumps(info, 2))


def install_image(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm install -m MANIFEST -f FILE"""
    if parsed.arguments:
        shown = " ".join(parsed.arguments)
        raise errors.usage(f'unexpected args ({len(parsed.arguments)}): "{shown}"')
    document, path = context.image_files(run, parsed)
    uuid = js.get(document, "uuid")
    context.check_uuid(uuid)
    if not js.truthy(js.get(document, "published_at")):
        document["published_at"] = context.iso_time(run.node.clock.now())
    info = run.node.images.installed(uuid, context.pool_of(parsed))
    if info:
        run.log(f"Image {uuid}{short_title(info)} is already installed, skipping")
        return
    run.log(f"Installing image {uuid} ({install.title(document)})")
    run.installer(context.pool_of(parsed)).install(document, path, parsed.f)


def short_title(info: Info) -> str:
    """` (name version)` of an image whose manifest is known."""
    manifest = info["manifest"]
    if not manifest.get("name"):
        return ""
    return f" ({js.text(manifest['name'])} {js.text(manifest.get('version', js.UNDEFINED))})"


def list_images(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm list [FILTERS]"""
    wanted = rows.filters(parsed.arguments)
    if parsed.docker:
        wanted["type"] = "docker"
    columns, sort = rows.fields(parsed.o), rows.fields(parsed.s)
    infos = rows.keep(run.node.images.all(), wanted)
    run.call.out(
        rows.listing(
            infos,
            json=parsed.json,
            header=not parsed.H,
            docker=parsed.docker,
            columns=columns,
            sort=sort,
        )
    )


def vacuum(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm vacuum"""
    if parsed.arguments:
        raise errors.usage("unexpected arguments: " + " ".join(parsed.arguments))
    unused = _unused(run.node.images.all())
    if unused and not parsed.force and not _confirmed(run, unused):
        return
    for info in unused:
        name = f"{info['manifest']['uuid']} ({install.title(info['manifest'])})"
        if parsed.dry_run:
            run.log(f"[dry-run] Deleted image {name}")
            continue
        try:
            run.node.images.delete(info["manifest"]["uuid"], info["zpool"], checked=True)
        except errors.ImgadmError as error:
            run.log(f"Error deleting image {name}: {error}")
            raise
        run.log(f"Deleted image {name}")


def _unused(infos: list[Info]) -> list[Info]:
    """The images without clones, and those whose clones are such images, last users first."""
    users = {f"{info['zpool']}/{info['manifest']['uuid']}": info for info in infos}
    left = {name: set(info["cloneNames"]) for name, info in users.items()}
    found: list[Info] = []
    while free := [name for name, clones in left.items() if not clones]:
        for name in free:
            del left[name]
            found.append(users[name])
        for clones in left.values():
            clones.difference_update(free)
    return found


def _confirmed(run: context.Run, unused: list[Info]) -> bool:
    names = (f"{info['manifest']['uuid']} ({install.title(info['manifest'])})" for info in unused)
    run.log("This will delete the following images:\n    " + "\n    ".join(names))
    if not run.call.stdin_is_tty():
        raise errors.abort("ENXIO, no such device or address '/dev/tty'", "Error")
    what = "this image" if len(unused) == 1 else f"these {len(unused)} images"
    while True:
        run.call.out(f"Delete {what}? [y/N] ")
        answer = run.call.stdin.readline().strip().lower()
        if answer in (b"y", b"yes"):
            run.log("")
            return True
        if answer in (b"", b"n", b"no"):
            run.log("Aborting")
            return False
        run.log('Please enter "y", "yes", "n" or "no".')
