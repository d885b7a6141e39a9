# SPDX-License-Identifier: Apache-2.0
"""vmadm send and receive: a VM as one stream, its object first, then its datasets."""

import contextlib
import io
import typing

from smartos_emulator import js, storage
from smartos_emulator.vmadm import failures, provision, record, volumes

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

HEADER_BYTES = 512
_MAGIC = b"MAGIC-VMBUNDLE"
_VERSION = b"1"
_SNAPSHOT = "sending"
_RECEIVING_SECONDS = 86400
_VMINFOD_SECONDS = 60.0


def header(name: str, size: int) -> bytes:
    """What stands before a chunk; a dataset's size is not known and given as 0."""
    padded = size + -size % HEADER_BYTES
    fields = (_MAGIC, _VERSION, b"CHECKSUM", name.encode(), b"%d" % size, b"%d" % padded)
    return b"".join(field + b"\0" for field in fields).ljust(HEADER_BYTES, b"\0")


def send(vms: "lifecycle.Vms", uuid: str, out: typing.BinaryIO) -> None:
    """Stop a VM and write it to a stream. It stays stopped, and stays."""
    vm = vms.load(uuid)
    names = _datasets(vm)
    if not names:
        raise failures.VmError("VM has no datasets.")
    if vm["state"] != "stopped":
        vms.stop(uuid)
    document = f"{js.dumps(vm, 2)}\n".encode("utf-8", "surrogateescape")
    out.write(header("JSON", len(document)))
    out.write(document)
    out.write(bytes(-len(document) % HEADER_BYTES))
    for name in names:
        _send_dataset(vms.node.storage, name, out)


def _datasets(vm: Vm) -> list[str]:
    """The zone's dataset, with all below it, and the disks that are not below it."""
    top = vm.get("zfs_filesystem")
    names = [top] if top else []
    for disk in vm.get("disks", []):
        name = disk.get("zfs_filesystem")
        if name and not name.startswith(f"{top}/"):
            names.append(name)
    return names


def _send_dataset(store: storage.Storage, name: str, out: typing.BinaryIO) -> None:
    snapshot = f"{name}@{_SNAPSHOT}"
    with contextlib.suppress(storage.StorageError):
        store.destroy(snapshot, recursive=True)
    with volumes.as_program():
        store.snapshot(snapshot, recursive=True)
        try:
            out.write(header(name, 0))
            store.send(snapshot, out, replicate=True)
        finally:
            store.destroy(snapshot, recursive=True)


def receive(vms: "lifecycle.Vms", source: typing.BinaryIO) -> str:
    """Make a VM from a stream; its uuid. A failure leaves what has come so far."""
    vms.ask()
    sent = _read_document(source)
    uuid = _make(vms, sent)
    started = vms.node.clock.monotonic()
    late = False
    if sent.get("brand") == "bhyve":
        _lift_quota(vms.node.storage, record.dataset(vms.load(uuid)))
    while (name := _read_dataset_name(source)) is not None:
        begun = vms.node.clock.monotonic()
        _receive_dataset(vms.node.storage, name, source)
        vms.node.events.refresh(uuid)
        late = late or vms.node.clock.monotonic() - begun > _VMINFOD_SECONDS
    if sent.get("brand") == "bhyve":
        _restore_quota(vms.node.storage, record.dataset(vms.load(uuid)), sent)
    if late or vms.node.clock.monotonic() - started > _VMINFOD_SECONDS:
        raise _too_late(uuid)
    vms.install(uuid)
    return uuid


def _lift_quota(store: storage.Storage, name: str) -> None:
    """The disks arrive below the zone, whose own quota has no room for them yet."""
    with volumes.as_program():
        for prop in ("refreservation", "reservation", "quota"):
            store.set(name, prop, "none")


def _restore_quota(store: storage.Storage, name: str, sent: Vm) -> None:
    if store.exists(name):
        quota = int(sent.get("quota", 0))
        volumes.set_quota(store, "bhyve", name, quota, sent.get("flexible_disk_size"))


def _too_late(uuid: str) -> failures.VmError:
    """vmadm gives vminfod one minute, counted from the start, to show what was received."""
    text = f'vminfod watchForEvent "VM.js receive global ({uuid})" timeout exceeded'
    return failures.several(failures.VmError(text), failures.VmError(text))


def _read_document(source: typing.BinaryIO) -> Vm:
    chunk = _read_header(source)
    if chunk is None:
        raise failures.several(failures.VmError("Failed to get JSON!"))
    name, size, padded = chunk
    text = source.read(padded)[:size]
    if name != "JSON" or not text:
        raise failures.several(failures.VmError("Failed to get JSON!"))
    try:
        document = js.loads(text.decode("utf-8", "surrogateescape"))
    except js.JavaScriptError as error:
        raise failures.several(failures.VmError(str(error))) from None
    if not isinstance(document, dict):
        raise failures.several(failures.VmError("Failed to get JSON!"))
    return document


def _read_header(source: typing.BinaryIO) -> tuple[str, int, int] | None:
    """The next chunk's name, size and padded size; None where there is no header."""
    fields = source.read(HEADER_BYTES).split(b"\0")
    if len(fields) < 6 or fields[:2] != [_MAGIC, _VERSION]:
        return None
    if not (fields[4].isdigit() and fields[5].isdigit()):
        return None
    return fields[3].decode("utf-8", "replace"), int(fields[4]), int(fields[5])


def _read_dataset_name(source: typing.BinaryIO) -> str | None:
    """The name of the next dataset, or None at the end of the bundle."""
    start = source.peek(1) if isinstance(source, io.BufferedReader) else b"?"
    if not start:
        return None
    chunk = _read_header(source)
    if chunk is None:
        raise failures.several(failures.several(failures.VmError("vmunbundle exited with code 1")))
    return chunk[0]


def _make(vms: "lifecycle.Vms", sent: Vm) -> str:
    """The zone without its datasets: the document keeps them to be installed later."""
    payload = {
        key: value
        for key, value in sent.items()
        if key not in ("customer_metadata", "internal_metadata", "tags")
    }
    payload["create_only"] = True
    payload["transition"] = {
        "transition": "receiving",
        "target": "stopped",
        "timeout": _RECEIVING_SECONDS * 1000,
    }
    for disk in payload.get("disks", []):
        disk["nocreate"] = True
        if disk.get("image_uuid"):
            disk.pop("block_size", None)
    try:
        uuid = provision.make(vms, payload)
    except (failures.VmError, provision.PayloadError) as error:
        raise failures.several(error) from None
    kept = {key: value for key, value in payload.items() if key != "transition"}
    zonepath = (vms.get(uuid) or {}).get("zonepath", "")
    defaults = {"zonepath": zonepath, "zfs_filesystem": zonepath.lstrip("/"), "uuid": uuid}
    vms.records.receiving(uuid).save({**defaults, **kept})
    return uuid


def _receive_dataset(store: storage.Storage, name: str, source: typing.BinaryIO) -> None:
    try:
        store.receive(name, source, force=True)
    except storage.StorageError:
        raise failures.several(
            failures.several(failures.VmError("vmunbundle exited with code 1"))
        ) from None
    with contextlib.suppress(storage.StorageError):
        store.destroy(f"{name}@{_SNAPSHOT}", recursive=True)
