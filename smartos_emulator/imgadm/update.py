# SPDX-License-Identifier: Apache-2.0
"""imgadm update: manifests and @final snapshots of what was installed by other means."""

from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import context, errors, options, remote, sources_command
from smartos_emulator.storage import errors as storage_errors

Info = dict[str, Any]
Manifest = dict[str, Any]


def update(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm update [UUID...]"""
    infos = run.node.images.all()
    if parsed.arguments:
        known = {info["manifest"]["uuid"]: info for info in infos}
        missing = [uuid for uuid in parsed.arguments if uuid not in known]
        if missing:
            shown = ", ".join(missing)
            raise errors.usage(f"no installed image with the given UUID(s): {shown}")
        infos = [known[uuid] for uuid in parsed.arguments]
    for info in infos:
        _update(run, info, bool(parsed.dry_run))


def _update(run: context.Run, info: Info, dry_run: bool) -> None:
    uuid = info["manifest"]["uuid"]
    found = remote.find(sources_command.configured(run), uuid, active=False)
    if not found:
        if info["manifest"].get("type") != "docker":
            run.log(f"warning: Could not find image {uuid} in image sources (skipping)")
        return
    snapshots, _ = run.node.images.children(f"{info['zpool']}/{uuid}")
    document, source = found
    change = _change(info["manifest"], document, source.url)
    if change:
        if not dry_run:
            run.node.images.database.save(info["zpool"], document, source.url)
        run.log(change)
    _ensure_final(run, info["zpool"], document, snapshots)


def _change(old: Manifest, new: Manifest, url: str) -> str:
    """What is to be said about a manifest that differs from the source's."""
    uuid = old["uuid"]
    if not old.get("name"):
        return f'Added manifest info for image {uuid} from "{url}"'
    fields = differing_fields(old, new)
    if not fields:
        return ""
    plural = "" if len(fields) == 1 else "s"
    count = f"{len(fields)} manifest field{plural}"
    return f'Updated {count} for image {uuid} from "{url}": {", ".join(fields)}'


def differing_fields(old: Manifest, new: Manifest) -> list[str]:
    """The fields in which two manifests differ, those of `requirements` one by one."""
    plain = [field for field in new if field != "requirements" and _differ(old, new, field)]
    if "requirements" in new and "requirements" not in old:
        plain.insert(_position(new, plain), "requirements")
    gone = [field for field in old if field not in new]
    inner: list[str] = []
    before, after = old.get("requirements"), new.get("requirements")
    if before and after:
        changed = [field for field in after if _differ(before, after, field)]
        inner = changed + [field for field in before if field not in after]
    return plain + gone + [f"requirements.{field}" for field in inner]


def _position(new: Manifest, fields: list[str]) -> int:
    order = list(new)
    return sum(order.index(field) < order.index("requirements") for field in fields)


def _differ(old: Manifest, new: Manifest, field: str) -> bool:
    return field not in old or js.dumps(old[field]) != js.dumps(new[field])


def _ensure_final(run: context.Run, pool: str, document: Manifest, snapshots: list[str]) -> None:
    uuid = document["uuid"]
    final = f"{pool}/{uuid}@final"
    if final in snapshots:
        return
    if not snapshots:
        raise _no_original(uuid, "")
    wanted = js.get(document["files"][0], "dataset_guid")
    if not js.truthy(wanted):
        run.warn(
            f'imgadm: warn: cannot determine original snapshot for image "{uuid}" '
            '(source info has no "dataset_guid")'
        )
        return
    storage = run.node.storage
    original = next((one for one in snapshots if storage.get(one, "guid") == wanted), None)
    if not original:
        raise _no_original(uuid, f" (expected a snapshot with guid {wanted})")
    try:
        storage.rename(original, final, recursive=True)
    except storage_errors.StorageError as error:
        raise errors.PlainError(f"Command failed: {error}\n") from None
    run.log(f"Renamed image {uuid} original snapshot from {original} to {final}")


def _no_original(uuid: str, extra: str) -> errors.ImgadmError:
    message = f'image "{uuid}" is missing its original snapshot{extra}'
    return errors.ImgadmError("ImageMissingOriginalSnapshot", message)
