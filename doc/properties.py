# SPDX-License-Identifier: Apache-2.0
"""The table of specs.py for people and for Glance: `make gendocs` writes it anew."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from doc import tables
from nova_smartos.translate import specs

ROOT = pathlib.Path(__file__).parents[1]
_TYPES = {"boolean": "boolean", "integer": "integer"}
_INTRODUCTION = """\
================================
Extra specs and image properties
================================

.. Written by `make gendocs` from nova_smartos/translate/specs.py

A flavor asks for something as ``smartos:NAME``, an image as ``smartos_NAME``. Names of Nova's own
that mean the same are honoured too. A key that is misspelt, a value that does not fit, a property
that the brand does not have, and a flavor and an image that contradict each other are faults: the
launch fails before anything is made, and the fault names the key.

What gives privilege or a share of the node comes from flavors alone, since a tenant makes images.

Where nova-smartos is installed beside nova-api, a wrong ``smartos:`` key or value is refused when
the flavor is written. ``glance-manage db_load_metadefs PATH`` with the files of ``etc/metadefs``
shows the properties in Horizon.

Which brand a VM becomes
========================

The first of these that says something decides; whatever else says something must agree.

1. the flavor's ``smartos:brand``
2. the image's ``smartos_brand``
3. the image's ``img_hv_type``, when it is ``bhyve`` or ``kvm``
4. the kind of the image's data, ``smartos_image_type``: ``zone-dataset`` becomes joyent,
   ``lx-dataset`` lx, and ``zvol`` or a raw disk bhyve

``hw_vm_mode`` is ``exe`` for joyent, joyent-minimal and lx, and ``hvm`` for bhyve and kvm.

Processors, memory and disks
============================

- A VM may use 100 % of a core for each vCPU, and has 100 shares for each, so that on a busy node
  every VM gets in proportion to its vCPUs whatever ``cpu_allocation_ratio`` is.
- ``quota:cpu_quota`` and ``quota:cpu_period`` count for each vCPU, as elsewhere in Nova: 25000 of
  100000 microseconds with one vCPU is a cap of 25 % of a core.
- A zone's memory is the flavor's, its virtual memory the flavor's memory and swap together. An
  HVM's guest has the flavor's memory; the hypervisor takes up to 1280 MiB (bhyve) or 1024 MiB
  (kvm) beside it.
- A zone's quota is the flavor's root and ephemeral disk together, 10 GiB where the flavor's root
  disk is 0; an ephemeral disk makes a delegated dataset. An HVM's disks are root, ephemeral and
  swap disks in this order; a root disk of 0 is as large as the image.
- A resize in place changes all of this but the brand and what only a new VM gets (delegated
  dataset, number of ephemeral disks). Disks do not shrink, but for those of a zone that moves to
  another node and whose data fit; devices of the node are not taken back.

Every property
==============

"""
_UNABLE = """
What cannot be had
==================

Names of Nova's that ask for what SmartOS does not do are refused. Wishes that change nothing a
guest may rely on, such as the topology of its CPUs, are left alone, and so are traits, resources
and the keys of others.

"""


def document() -> str:
    """doc/source/user/properties.rst"""
    rows = (
        (
            row.name,
            _allowed(row),
            " ".join(_brands(row.brands)),
            _names(row),
            _quoted(row.vmadm) if row.vmadm != "-" else "",
            " ".join([row.text, *_words(row)]),
        )
        for row in specs.TABLE
    )
    unable = (
        (_quoted(each.flavor), _quoted(each.image) if each.image else "",
         ", ".join(sorted(each.harmless)), each.reason)
        for each in specs.UNABLE
    )  # fmt: skip
    return (
        _INTRODUCTION
        + tables.table(("Name", "Values", "Brands", "Written as", "vmadm's", "Meaning"), rows)
        + _UNABLE
        + tables.table(("Flavor", "Image", "But these are taken", "Why not"), unable)
    )


def metadefs(kind: str) -> str:
    """etc/metadefs/smartos-KIND.json, for glance-manage db_load_metadefs."""
    resource, prefix = {
        "flavor": ("OS::Nova::Flavor", specs.FLAVOR_PREFIX),
        "image": ("OS::Glance::Image", specs.IMAGE_PREFIX),
    }[kind]
    namespace = {
        "namespace": f"OS::Compute::SmartOS::{kind.capitalize()}",
        "display_name": f"SmartOS, for {kind}s",
        "description": f"What {kind}s ask of VMs on SmartOS.",
        "visibility": "public",
        "protected": True,
        "resource_type_associations": [{"name": resource}],
        "properties": {
            prefix + row.name: _schema(row) for row in specs.TABLE if getattr(row, kind)
        },
    }
    return json.dumps(namespace, indent=4) + "\n"


def files() -> dict[pathlib.Path, str]:
    """Every file that is written from the table, with its text."""
    folder = ROOT / "etc" / "metadefs"
    return {
        ROOT / "doc" / "source" / "user" / "properties.rst": document(),
        **{folder / f"smartos-{kind}.json": metadefs(kind) for kind in ("flavor", "image")},
    }


def _schema(row: specs.Property) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "title": row.name.replace("_", " ").capitalize(),
        "description": f"{row.text} For {', '.join(_brands(row.brands))}.",
        "type": _TYPES.get(row.kind.name, "string"),
    }
    if row.kind.minimum is not None:
        schema |= {"minimum": row.kind.minimum, "maximum": row.kind.maximum}
    elif row.kind.words and row.kind.name != "boolean":
        schema["enum"] = list(row.kind.words)
    elif row.kind.pattern:
        schema["pattern"] = f"^(?:{row.kind.pattern})$"
    return schema


def _allowed(row: specs.Property) -> str:
    """The values, with the brands of those that only some know."""
    if not row.only:
        return row.kind.allowed
    return ", ".join(
        word if row.only[word] >= row.brands else f"{word} ({' '.join(_brands(row.only[word]))})"
        for word in row.kind.words
    )


def _names(row: specs.Property) -> str:
    image = [row.image_key] if row.image else []
    flavor = [row.flavor_key] if row.flavor else []
    nova_image = [row.nova_image] if row.nova_image else []
    return ", ".join(map(_quoted, [*flavor, *row.nova_flavor, *image, *nova_image]))


def _words(row: specs.Property) -> list[str]:
    """What words of Nova's mean that are others than vmadm's."""
    others = {word: ours for word, ours in row.nova_words.items() if word != ours}
    return [f"``{row.nova_image}={word}`` is {ours}." for word, ours in others.items()]


def _brands(names: Iterable[str]) -> list[str]:
    return [brand for brand in specs.BRANDS if brand in names]


def _quoted(text: str) -> str:
    return f"``{text}``"


def write() -> None:
    """Write every file."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    write()
