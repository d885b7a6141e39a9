# SPDX-License-Identifier: Apache-2.0
"""Making VMs: their volumes, their zone, its installation, and the wait for the guest's word."""

import json
import pathlib
import typing

from smartos_emulator import events, storage, zones
from smartos_emulator.vmadm import (
    create,
    errors,
    failures,
    metadata,
    normalize,
    power,
    properties,
    record,
    volumes,
)

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

PayloadError = errors.PayloadError

PROVISION_SECONDS = 300
_HALT_SECONDS = 5.0
_RAM_STEP = 4096
_CORES_QUOTA = "100G"
_OLD_MARKERS = ("root/zoneinit.d/04-mdata.sh", "var/zoneinit/includes/04-mdata.sh")
_ZONEINIT = "var/zoneinit/zoneinit.json"
_DATASET_SETTINGS = (
    ("zfs_root_compression", "compression"),
    ("zfs_root_recsize", "recordsize"),
    ("zfs_snapshot_limit", "snapshot_limit"),
    ("zfs_filesystem_limit", "filesystem_limit"),
)
_DEFAULTS = {"zfs_root_compression": "off", "zfs_root_recsize": 131072}


def make(vms: "lifecycle.Vms", payload: typing.Any) -> str:
    """Create a VM as a payload wants it; its uuid. A failure leaves what was made so far."""
    vms.ask()
    wanted = create.prepare(normalize.normalize(vms.environment, payload))
    _check_provisionable(vms, wanted)
    if wanted["brand"] == "bhyve" and not vms.node.config.bhyve:
        raise failures.VmError("Bhyve not supported")
    vm = create.vm_object(wanted, vms.environment)
    if properties.BRANDS[wanted["brand"]].hvm:
        _make_hardware(vms, wanted, vm)
    _make_zone(vms, wanted, vm)
    if not wanted.get("create_only"):
        install(vms, wanted)
    return str(vm["uuid"])


def _check_provisionable(vms: "lifecycle.Vms", wanted: Vm) -> None:
    """An image must be one whose zone says when it is provisioned."""
    brand = properties.BRANDS[wanted["brand"]]
    if brand.marks_provisioning or brand.type == "LX":
        return
    image = wanted.get("image_uuid")
    name = f"{wanted['zpool']}/{image}"
    if not vms.node.storage.exists(name) or not _says_when(vms.node.storage.directory(name)):
        raise failures.VmError(
            f"provisioning dataset {image} with brand {wanted['brand']} is not supported"
        )


def _says_when(folder: pathlib.Path) -> bool:
    document = folder / "root" / _ZONEINIT
    facts = json.loads(document.read_text()) if document.exists() else {}
    if "features" in facts:
        return bool(facts["features"].get("var_svc_provisioning"))
    return any((folder / "root" / marker).exists() for marker in _OLD_MARKERS)


def _make_hardware(vms: "lifecycle.Vms", wanted: Vm, vm: Vm) -> None:
    """The volumes of a hardware VM, before there is any zone."""
    store = vms.node.storage
    name = f"{wanted['zpool']}/{vm['uuid']}"
    if wanted["brand"] == "bhyve":
        with volumes.as_program():
            store.create(name)
    try:
        if not wanted.get("create_only"):
            volumes.make_all(store, name, wanted.get("add_disks", []))
        if wanted["brand"] == "bhyve":
            flexible = wanted.get("flexible_disk_size")
            volumes.set_quota(store, "bhyve", name, wanted["quota"], flexible)
    except failures.VmError:
        if wanted["brand"] == "bhyve" and vms.records.get(vm["uuid"]) is None:
            store.destroy(name, recursive=True)
        raise


def _make_zone(vms: "lifecycle.Vms", wanted: Vm, vm: Vm) -> None:
    """The zone's configuration: from here on vminfod knows the VM."""
    transition = wanted.get("transition")
    now = vms.node.clock.now()
    config = record.configuration(vm)
    made = record.Record(vm["uuid"], config, provisioning=True)
    if transition:
        made.transition = vms.transition(
            transition["transition"], transition["target"], transition["timeout"] / 1000
        )
    elif wanted.get("autoboot", True):
        made.transition = vms.transition("provisioning", "running", _patience(wanted))
    if not (transition and "create_timestamp" in wanted):
        config["create_timestamp"] = events.date_text(now)
    try:
        vms.node.zones.configure(
            vm["uuid"], wanted["brand"], vm["zonepath"], bool(vm.get("docker"))
        )
    except zones.ZoneError as error:
        raise failures.command_failed(str(error)) from None
    vms.records.add(made)


def _patience(wanted: Vm) -> float:
    """How long a guest may take; large hardware VMs get more."""
    steps = 1
    if properties.BRANDS[wanted["brand"]].hvm:
        steps = max(1, int(wanted.get("ram", 0)) // _RAM_STEP)
    return PROVISION_SECONDS * steps


def install(vms: "lifecycle.Vms", wanted: Vm) -> None:
    """Install the zone of a VM that is configured, and boot it if it is to be up."""
    uuid = wanted["uuid"]
    vm = vms.load(uuid)
    receiving = vm["state"] == "receiving"
    if receiving:
        _check_complete(vm)
    reprovisioning = wanted.get("reprovisioning", False)
    if not reprovisioning:
        _install_zone(vms, wanted, vm)
    _apply_settings(vms, wanted, vm)
    if not receiving and not reprovisioning:
        _write_documents(vms, wanted, vm)
    _prepare_root(vms, vm, receiving)
    if not reprovisioning:
        vms.node.firewall.vm_created(vms.load(uuid), None, vms.all())
    _settle(vms, uuid, receiving)
    if wanted.get("autoboot") and not receiving:
        _boot(vms, uuid)


def _check_complete(vm: Vm) -> None:
    missing = vm.get("missing", {})
    lacking = [
        f" {len(missing[kind])} {kind}"
        for kind in ("datasets", "filesystems", "disks")
        if missing.get(kind)
    ]
    if lacking:
        raise failures.VmError(
            f"Unable to complete install for {vm['uuid']} zone is still missing:"
            + ",".join(lacking)
        )


def _install_zone(vms: "lifecycle.Vms", wanted: Vm, vm: Vm) -> None:
    def work() -> None:
        vms.node.zones.mark(vm["uuid"], "incomplete")
        with volumes.as_program():
            _make_datasets(vms.node.storage, wanted, vm)
        vms.node.clock.sleep(zones.INSTALL_SECONDS)
        vms.node.zones.mark(vm["uuid"], "installed")

    try:
        vms.node.zones.perform(work)
    except failures.VmError as error:
        raise failures.several(error) from None


def _make_datasets(store: storage.Storage, wanted: Vm, vm: Vm) -> None:
    """What the brand's install script makes: the zone's root and the place for its cores."""
    name = record.dataset(vm)
    if not store.exists(name):
        settings = {"quota": f"{wanted['quota']}G"} if wanted.get("quota") else {}
        if "image_uuid" in wanted:
            clone_image(store, name, wanted["image_uuid"], vm["uuid"], settings)
        else:
            store.create(name, properties=settings)
    cores = f"{name.partition('/')[0]}/cores/{vm['uuid']}"
    if store.exists(cores.rpartition("/")[0]) and not store.exists(cores):
        place = {"quota": _CORES_QUOTA, "mountpoint": f"{vm['zonepath']}/cores"}
        store.create(cores, properties=place)


def clone_image(
    store: storage.Storage, name: str, image: str, uuid: str, settings: dict[str, str]
) -> None:
    """Clone an image's dataset, from its final snapshot or from one made for this VM."""
    origin = f"{name.partition('/')[0]}/{image}"
    snapshot = f"{origin}@final"
    if not store.exists(snapshot):
        snapshot = f"{origin}@{uuid}"
        if not store.exists(snapshot):
            store.snapshot(snapshot)
    store.clone(snapshot, name, properties=settings)


def _apply_settings(vms: "lifecycle.Vms", wanted: Vm, vm: Vm) -> None:
    store = vms.node.storage
    name = record.dataset(vm)
    with volumes.as_program():
        for key, prop in _DATASET_SETTINGS:
            if key in wanted and wanted[key] not in (_DEFAULTS.get(key), None, "none"):
                store.set(name, prop, str(wanted[key]))
        if wanted.get("delegate_dataset"):
            _delegate(store, f"{name}/data", wanted)
        for key, where in (("zoneroot", name), ("delegated", f"{name}/data")):
            if wanted.get(f"indestructible_{key}") and store.exists(where):
                hold(store, where)


def _delegate(store: storage.Storage, name: str, wanted: Vm) -> None:
    keys = (("zfs_data_compression", "compression"), ("zfs_data_recsize", "recordsize"))
    settings = {prop: str(wanted[key]) for key, prop in keys if key in wanted}
    store.create(name, properties=settings)
    store.set(name, "zoned", "on")


def hold(store: storage.Storage, name: str) -> None:
    """Keep a dataset from being destroyed."""
    snapshot = f"{name}@indestructible"
    if not store.exists(snapshot):
        store.snapshot(snapshot)
    if "do_not_destroy" not in store.holds(snapshot):
        store.hold("do_not_destroy", [snapshot])


def release(store: storage.Storage, name: str) -> None:
    """Let a dataset be destroyed again."""
    snapshot = f"{name}@indestructible"
    if store.exists(snapshot):
        for tag in list(store.holds(snapshot)):
            store.release(tag, [snapshot])
        store.destroy(snapshot)


def _write_documents(vms: "lifecycle.Vms", wanted: Vm, vm: Vm) -> None:
    name = record.dataset(vm)
    metadata.make_directory(vms.node.storage.directory(name))
    documents = {
        key: _first(wanted, key, f"set_{key}")
        for key in ("customer_metadata", "internal_metadata", "tags", "routes")
    }
    vms.write_metadata(vm["uuid"], documents)


def _first(wanted: Vm, *keys: str) -> Vm:
    return next((wanted[key] for key in keys if key in wanted), {})


def _prepare_root(vms: "lifecycle.Vms", vm: Vm, receiving: bool) -> None:
    """The file that the guest renames when it is provisioned."""
    root = vms.node.zones.inside(vm["uuid"])
    if not receiving:
        for usual in ("/etc", "/root", "/tmp", "/var/svc"):
            root.host(usual).mkdir(parents=True, exist_ok=True)
        root.host("/var/svc/provisioning").write_text("")
        for outcome in ("success", "failure"):
            old = root.host(f"/var/svc/provision_{outcome}", follow=False)
            old.unlink(missing_ok=True)
    root.host("/.zonecontrol/metadata.sock", follow=False).unlink(missing_ok=True)


def _settle(vms: "lifecycle.Vms", uuid: str, receiving: bool) -> None:
    made = vms.records.get(uuid)
    if made is None:
        raise failures.not_found(uuid)
    made.provisioning = False
    if receiving:
        made.transition = None
    vms.records.save(made)


def _gave_up(vms: "lifecycle.Vms", uuid: str) -> bool:
    vm = vms.get(uuid) or {}
    return vm.get("state") == "failed" and vm.get("zone_state") == "installed"


def _boot(vms: "lifecycle.Vms", uuid: str) -> None:
    vm = vms.find(uuid)
    try:
        power.start(vms, uuid)
    except failures.VmError as error:
        if vm["state"] == "provisioning" and vms.wait(lambda: _gave_up(vms, uuid), _HALT_SECONDS):
            late = failures.VmError(
                f"timed out waiting for /var/svc/provisioning to move for {uuid}"
            )
            raise failures.several(late, error) from None
        raise failures.several(error) from None
