# SPDX-License-Identifier: Apache-2.0
"""vmadm reprovision: a VM gets another image and keeps its nics, its data and its name."""

import contextlib
import pathlib
import shutil
import typing

from smartos_emulator import js, zones
from smartos_emulator.vmadm import failures, properties, provision, record, volumes

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

_KEPT = (
    "dns_domain",
    "hostname",
    "quota",
    "resolvers",
    "tmpfs",
    "zfs_filesystem",
    "zfs_filesystem_limit",
    "zfs_snapshot_limit",
    "zfs_root_compression",
    "zfs_root_recsize",
)
_STOP_SECONDS = 60.0


def reprovision(vms: "lifecycle.Vms", uuid: str, payload: typing.Any) -> None:
    """Replace the root of a VM, or the boot disk of a bhyve one."""
    vm = vms.find(uuid)
    _check(vms, vm, payload)
    if vm["zone_state"] != "installed":
        vms.stop(uuid)
        vms.wait_state(uuid, "stopped", _STOP_SECONDS)
    vms.begin_transition(uuid, "provisioning", "running", provision.PROVISION_SECONDS)
    try:
        if vm["brand"] == "bhyve":
            _replace_disk(vms, vm, payload["image_uuid"])
        else:
            _replace_root(vms, vm, payload["image_uuid"])
    except failures.VmError:
        vms.end_transition(uuid)
        raise


def _check(vms: "lifecycle.Vms", vm: Vm, payload: typing.Any) -> None:
    if not properties.BRANDS[vm["brand"]].reprovision:
        raise failures.VmError(f'brand "{vm["brand"]}" does not yet support reprovision')
    if not js.own(payload, "image_uuid"):
        raise failures.VmError("payload is missing image_uuid")
    if vm.get("indestructible_zoneroot"):
        raise failures.VmError("indestructible_zoneroot is set, cannot reprovision")
    delegated = vm.get("datasets", [])
    if len(delegated) > 1:
        raise failures.VmError("cannot support reprovision with multiple delegated datasets")
    if delegated and delegated != [f"{vm['zfs_filesystem']}/data"]:
        raise failures.VmError(
            f'cannot support reprovision with non-standard "{delegated[0]}" dataset'
        )
    _check_image(vms, vm, payload["image_uuid"])


def _check_image(vms: "lifecycle.Vms", vm: Vm, image: typing.Any) -> None:
    manifest = vms.environment.image(image, vm["zpool"]) if isinstance(image, str) else None
    if manifest is None:
        raise failures.command_failed(
            f'imgadm get: error (ImageNotInstalled): image "{js.text(image)}" was not found on '
            f'zpool "{vm["zpool"]}"\n'
        )
    bhyve = vm["brand"] == "bhyve"
    types = ("zvol",) if bhyve else properties.BRANDS[vm["brand"]].image_types
    if manifest["type"] not in types:
        raise failures.VmError(
            f"image {image} is type {manifest['type']}, but must be one of: {js.dumps(list(types))}"
        )
    if bhyve:
        _check_size(vms, vm, manifest)


def _check_size(vms: "lifecycle.Vms", vm: Vm, manifest: Vm) -> None:
    disk = _first_disk(vm)
    if "image_size" not in manifest:
        raise failures.VmError("Missing image_size in manifest")
    size = vms.node.storage.number(volumes.name_of(disk), "volsize") // record.MIB
    if manifest["image_size"] > size:
        raise failures.VmError(
            f"Cannot reprovision: image ({manifest['image_size']} MiB) > disk0 ({size} MiB)"
        )
    for snapshot in vms.node.storage.snapshots(volumes.name_of(disk)):
        if vms.node.storage.holds(snapshot):
            raise failures.VmError(f"Cannot reprovision: snapshot {snapshot} has holds")


def _first_disk(vm: Vm) -> Vm:
    if not vm.get("disks"):
        raise failures.VmError("No disks found for bhyve VM")
    for disk in vm["disks"]:
        if disk["path"].endswith("/disk0"):
            return disk
    raise failures.VmError("disk0 not found for bhyve VM")


def _replace_disk(vms: "lifecycle.Vms", vm: Vm, image: str) -> None:
    disk = _first_disk(vm)
    if disk.get("boot") is not True:
        raise failures.VmError(
            "disk0 found but does not have boot property set to true - reprovision requires a "
            "bootable disk0"
        )
    store = vms.node.storage
    snapshot = f"{vm['zpool']}/{image}@final"
    if not store.exists(snapshot):
        raise failures.VmError(f"Image {image} not found in zpool {vm['zpool']}")
    with volumes.as_program():
        store.destroy(volumes.name_of(disk), recursive=True)
        store.clone(snapshot, volumes.name_of(disk))
    kept = vms.records.get(vm["uuid"])
    if kept is not None:
        with vms.records.lock:
            for one in kept.config["disks"]:
                if one["path"] == disk["path"]:
                    one["image_uuid"] = image
        vms.records.save(kept)
    vms.end_transition(vm["uuid"])
    if vm["autoboot"]:
        # VM.js only logs that the VM does not start again, and reports success
        with contextlib.suppress(failures.VmError):
            vms.start(vm["uuid"])


def _replace_root(vms: "lifecycle.Vms", vm: Vm, image: str) -> None:
    """A new clone takes the place of the old root; configuration and delegated data move over."""
    store = vms.node.storage
    name, old = vm["zfs_filesystem"], f"{vm['zfs_filesystem']}-reprovisioning-root"
    aside = f"{name}-reprovisioning-data"
    settings = {"quota": f"{vm['quota']}G"} if vm.get("quota") else {}
    cores = f"{vm['zpool']}/cores/{vm['uuid']}"
    with volumes.as_program():
        if vm.get("datasets"):
            store.rename(f"{name}/data", aside)
        if store.exists(cores):
            store.destroy(cores, recursive=True)
        store.rename(name, old)
        provision.clone_image(store, name, image, vm["uuid"], settings)
        _copy_configuration(store.directory(old), store.directory(name))
        store.destroy(old, recursive=True)
        if vm.get("datasets"):
            store.rename(aside, f"{name}/data")
        if store.exists(cores.rpartition("/")[0]):
            place = {"quota": "100G", "mountpoint": f"{vm['zonepath']}/cores"}
            store.create(cores, properties=place)
    vms.node.clock.sleep(zones.INSTALL_SECONDS)
    vms.configure(vm["uuid"], image_uuid=image)
    wanted = {key: vm[key] for key in _KEPT if key in vm}
    wanted |= {"autoboot": True, "reprovisioning": True, "uuid": vm["uuid"]}
    provision.install(vms, wanted)


def _copy_configuration(old: pathlib.Path, new: pathlib.Path) -> None:
    shutil.rmtree(new / "config", ignore_errors=True)
    if (old / "config").exists():
        shutil.copytree(old / "config", new / "config", symlinks=True)
