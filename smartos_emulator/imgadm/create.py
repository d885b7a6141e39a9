# SPDX-License-Identifier: Apache-2.0
"""imgadm create: an image from a VM."""

import copy
import re
import time
import uuid as uuid_module
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import capture, context, errors, manifest, options, publish

Manifest = dict[str, Any]
Vm = dict[str, Any]

_COMPRESSIONS = ("none", "bzip2", "gzip", "xz")
_HVM = ("kvm", "bhyve")
_NATIVE = ("joyent", "joyent-minimal")
# Images of these brands are tied to the brand, for a guest may have adapted itself to it.
_BRANDED = ("bhyve", "lx", "kvm")
_INHERITED = (
    *("type", "os", "requirements", "users", "billing_tags", "traits", "generate_passwords"),
    *("inherited_directories", "nic_driver", "disk_driver", "cpu_type", "image_size"),
)


def create(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm create VM [FIELD=VALUE...]"""
    vm_uuid = _check_options(parsed)
    given = _given_manifest(run, parsed)
    script = _read_file(run, parsed.s) if parsed.s else None
    prefix = _prefix(run, parsed, given)
    vm, dataset, origin = _source(run, vm_uuid, script)
    _check_depth(run, origin, parsed.max_origin_depth)
    document = _manifest(run, vm, given, origin, bool(parsed.incremental))
    run.log("Manifest:\n" + _indented(js.dumps(document, 2)))
    with errors.crashing():
        found = manifest.validate(document)
    if found:
        raise errors.manifest_validation(found)
    base = f"{origin['zpool']}/{document['origin']}@final" if origin and parsed.incremental else ""
    if base and not run.node.storage.exists(base):
        raise _no_final_snapshot(document["origin"])
    if not dataset:
        raise errors.abort("name (string) is required", "AssertionError")
    shot = capture.Capture(run, vm, dataset, script)
    shot.take(document, prefix, parsed.compression or "none", base)
    if parsed.publish:
        _publish(run, shot, document, parsed.publish)


def _check_options(parsed: options.Parsed) -> str:
    if not parsed.arguments:
        raise errors.usage('incorrect number of args (0): ""')
    context.check_uuid(parsed.arguments[0])
    if parsed.compression and parsed.compression not in _COMPRESSIONS:
        allowed = '", "'.join(_COMPRESSIONS)
        message = f'invalid -c,--compression "{parsed.compression}": must be one of "{allowed}"'
        raise errors.usage(message)
    if parsed.output_template and parsed.publish:
        raise errors.usage("cannot specify both -o,--output-template and -p,--publish")
    depth = parsed.max_origin_depth
    if depth is not None and depth < 2:
        raise errors.usage(f'invalid max-origin-depth "{depth}": must be greater than 1')
    return parsed.arguments[0]


def _given_manifest(run: context.Run, parsed: options.Parsed) -> Manifest:
    """The fields from -m, under those from the command line."""
    fields = dict(map(_field, parsed.arguments[1:]))
    if not parsed.m:
        return fields
    where = "on stdin" if parsed.m == "-" else f'in "{parsed.m}"'
    if parsed.m == "-":
        document = run.call.read_stdin().decode("utf-8", "replace")
    else:
        document = _read_file(run, parsed.m)
    try:
        return {**js.loads(document), **fields}
    except js.JavaScriptError as error:
        message = f"invalid manifest JSON {where}: SyntaxError: {error}"
        raise errors.usage(message) from None


def _field(argument: str) -> tuple[str, Any]:
    key, equals, text = argument.partition("=")
    if not equals:
        message = f'invalid manifest field arg "{argument}": must match "<field>=<value>"'
        raise errors.usage(message)
    try:
        return key, js.loads(text)
    except js.JavaScriptError:
        return key, text


def _read_file(run: context.Run, path: str) -> str:
    try:
        return context.read_text(run.call.host_path(path))
    except OSError as error:
        text = context.os_error_text(error)
        raise errors.PlainError(f"{text} '{path}'", code=text.partition(",")[0]) from None


def _prefix(run: context.Run, parsed: options.Parsed, given: Manifest) -> str:
    """What the paths of the two files start with."""
    if parsed.publish:
        return f"/var/tmp/.imgadm-create-{int(time.time() * 1000)}-{run.call.pid}"
    parts = (_slug(js.text(given.get(key, js.UNDEFINED))) for key in ("name", "version"))
    name = "-".join(parts)
    template = parsed.output_template
    if not template:
        return name
    if run.call.host_path(template).is_dir():
        return f"{template.rstrip('/')}/{name}"
    return str(template)


def _slug(text: str) -> str:
    kept = re.sub(r"[^\w\s._-]", "", text, flags=re.ASCII).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def _source(
    run: context.Run, uuid: str, script: str | None
) -> tuple[Vm, str, dict[str, Any] | None]:
    """The VM, the dataset to make an image of, and the image that it was made of."""
    vm = run.node.vms.get(uuid) if run.node.vminfod_up else None
    if vm is None:
        raise errors.ImgadmError("VmNotFound", f'vm "{uuid}" was not found')
    if script is None and vm["state"] != "stopped":
        raise errors.ImgadmError("VmNotStopped", f'vm "{uuid}" is not stopped')
    if vm["brand"] not in _HVM:
        return vm, vm["zfs_filesystem"], _image(run, vm.get("image_uuid"), vm["zpool"])
    disk = (vm.get("disks") or [{}])[0]
    image = disk.get("image_uuid")
    return vm, disk.get("zfs_filesystem", ""), image and _image(run, image, disk["zpool"])


def _image(run: context.Run, uuid: Any, pool: str) -> dict[str, Any] | None:
    if uuid is None:
        raise errors.abort('invalid uuid: "undefined"', "InvalidUUIDError")
    return run.node.images.installed(uuid, pool)


def _check_depth(run: context.Run, origin: dict[str, Any] | None, limit: int | None) -> None:
    if not origin or not limit or not origin["manifest"].get("origin"):
        return
    depth, current = 1, origin
    while depth <= limit and (above := current["manifest"].get("origin")):
        depth += 1
        found = run.node.images.installed(above, current["zpool"])
        if not found:
            raise errors.abort("Cannot read property 'manifest' of null")
        current = found
    if depth > limit:
        message = f'cannot create image: maximum origin depth "{limit}" has been reached'
        raise errors.ImgadmError("MaxOriginDepth", message)


def _manifest(
    run: context.Run, vm: Vm, given: Manifest, origin: dict[str, Any] | None, incremental: bool
) -> Manifest:
    document = {"v": 2, "uuid": str(uuid_module.uuid4()), **given}
    if origin:
        _inherit(run, document, origin["manifest"])
    wanted = given.get("requirements") or {}
    _require_platform(run, vm, document, wanted)
    if vm["brand"] in _BRANDED and "brand" not in wanted:
        _requirements(document)["brand"] = vm["brand"]
    if vm["brand"] == "bhyve" and vm.get("bootrom") and "bootrom" not in wanted:
        _requirements(document)["bootrom"] = vm["bootrom"]
    if incremental:
        if not origin:
            message = f'cannot create an incremental image: vm "{vm["uuid"]}" has no origin'
            raise errors.ImgadmError("VmHasNoOrigin", message)
        document["origin"] = origin["manifest"]["uuid"]
    return document


def _inherit(run: context.Run, document: Manifest, parent: Manifest) -> None:
    name, version = (js.text(parent.get(key, js.UNDEFINED)) for key in ("name", "version"))
    run.log(f"Inheriting from origin image {parent['uuid']} ({name} {version})")
    for field in _INHERITED:
        if field not in document and field in parent and parent[field] != []:
            document[field] = copy.deepcopy(parent[field])


def _requirements(document: Manifest) -> dict[str, Any]:
    if not document.get("requirements"):
        document["requirements"] = {}
    found: dict[str, Any] = document["requirements"]
    return found


def _require_platform(run: context.Run, vm: Vm, document: Manifest, wanted: dict[str, Any]) -> None:
    """An image with native binaries runs on this platform or a later one."""
    if vm["brand"] in _NATIVE and not wanted.get("min_platform"):
        _requirements(document)["min_platform"] = {"7.0": run.node.config.platform}


def _no_final_snapshot(uuid: str) -> errors.ImgadmError:
    message = (
        f'cannot create an incremental image: origin image "{uuid}" has no "@final" snapshot '
        '(sometimes this can be fixed by "imgadm update")'
    )
    return errors.ImgadmError("OriginHasNoFinalSnapshot", message)


def _publish(run: context.Run, shot: capture.Capture, document: Manifest, url: str) -> None:
    paths = [run.call.host_path(name) for name in (shot.manifest_path, shot.file_path)]
    try:
        publish.upload(run, document, paths[1], shot.file_path, url)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))
