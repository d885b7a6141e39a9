# SPDX-License-Identifier: Apache-2.0
"""The images a payload names: whether they fit, and what they add to the payload."""

import dataclasses
from typing import Any

from smartos_emulator import js
from smartos_emulator.vmadm import environment, properties, values, verdict

_DATASOURCE = "org.smartos:cloudinit_datasource"


@dataclasses.dataclass
class _Use:
    """One image as a payload uses it."""

    target: Any
    name: str
    size_name: str
    types: tuple[str, ...]
    uuid: Any
    zpool: Any


def check(
    payload: Any,
    brand: properties.Brand,
    verdict: verdict.Verdict,
    environment: environment.Environment,
) -> None:
    """Judge every image of a payload, and fill in sizes, boot ROM and cloud-init source."""
    bootrom = js.get(payload, "bootrom")
    for use in _uses(payload, brand, verdict):
        manifest = environment.image(js.text(use.uuid), js.text(use.zpool))
        wanted = bootrom if js.truthy(bootrom) and _boots(use.target) else js.UNDEFINED
        fault = "image" if manifest is None else _fault(use, manifest, wanted)
        if fault:
            names = {"image": use.name, "size": use.size_name, "bootrom": "bootrom"}
            verdict.bad_values.append(names[fault])
        elif manifest is not None:
            _complete(payload, use, manifest, bootrom, verdict)


def _uses(payload: Any, brand: properties.Brand, verdict: verdict.Verdict) -> list[_Use]:
    uses = []
    image_uuid = js.get(payload, "image_uuid") if js.own(payload, "image_uuid") else None
    if isinstance(image_uuid, str) and values.is_uuid(image_uuid):
        uses.append(
            _Use(
                payload,
                "image_uuid",
                "undefined.image_size",
                brand.image_types,
                image_uuid,
                _pool(payload),
            )
        )
    for array in ("disks", "add_disks"):
        if not js.own(payload, array):
            continue
        for at, disk in enumerate(js.each(js.get(payload, array))):
            if js.own(disk, "image_uuid"):
                prefix = f"{array}.{at}"
                uses.append(
                    _Use(
                        disk,
                        f"{prefix}.image_uuid",
                        f"{prefix}.image_size",
                        ("zvol",),
                        js.get(disk, "image_uuid"),
                        _pool(disk),
                    )
                )
    return uses


def _pool(target: Any) -> Any:
    return js.get(target, "zpool") if js.own(target, "zpool") else "zones"


def _boots(target: Any) -> bool:
    return js.own(target, "boot") and js.truthy(js.get(target, "boot"))


def _fault(use: _Use, manifest: dict[str, Any], bootrom: Any) -> str:
    """Which part of a use does not fit the image; empty when all does."""
    if manifest.get("type") not in use.types:
        return "image"
    if "image_size" in manifest and js.own(use.target, "image_size"):
        size = js.get(use.target, "image_size")
        if not js.same(size, manifest["image_size"]):
            return "size"
    if bootrom is js.UNDEFINED or "requirements" not in manifest:
        return ""
    required = _required_bootrom(manifest)
    fits = bootrom in properties.BOOTROMS if required is None else js.same(bootrom, required)
    return "" if fits else "bootrom"


def _required_bootrom(manifest: dict[str, Any]) -> Any:
    return manifest.get("requirements", {}).get("bootrom")


def _complete(
    payload: Any, use: _Use, manifest: dict[str, Any], bootrom: Any, verdict: verdict.Verdict
) -> None:
    if "image_size" in manifest and not js.own(use.target, "image_size"):
        _complete_size(use, manifest["image_size"], verdict)
    required = _required_bootrom(manifest)
    if required is not None and not js.truthy(bootrom):
        js.put(payload, "bootrom", required)
    source = manifest.get("tags", {}).get(_DATASOURCE)
    if source is not None:
        metadata = js.get(payload, "internal_metadata")
        if js.typeof(metadata) == "object":
            js.put(metadata, "cloudinit_datasource", source)
        else:
            js.put(payload, "internal_metadata", {"cloudinit_datasource": source})


def _complete_size(use: _Use, size: Any, verdict: verdict.Verdict) -> None:
    js.put(use.target, "image_size", size)
    if use.size_name in verdict.missing_properties:
        verdict.missing_properties.remove(use.size_name)
    if js.own(use.target, "size") and js.less(js.get(use.target, "size"), size):
        verdict.bad_values.append("size")
