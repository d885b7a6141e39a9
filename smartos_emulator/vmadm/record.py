# SPDX-License-Identifier: Apache-2.0
"""What is kept of each VM, and the object that `vmadm get` shows: record, zone and datasets."""

import copy
import dataclasses
import datetime
import json
import pathlib
import threading
import typing

from smartos_emulator import events, js, state, storage, zoneroot, zones
from smartos_emulator.vmadm import zone_config

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

MIB = 1 << 20
GIB = 1 << 30
ZVOL = "/dev/zvol/rdsk/"
_UNLIMITED = (0, 2**64 - 1)

# What the object has from elsewhere than the zone's configuration, in the order in which it comes.
COMPUTED = (
    *zone_config.FACTS,
    *zone_config.COMPUTED,
    "provisioning",
    "failed",
    "transition_to",
    "transition_expire",
)
_DISK_COMPUTED = (
    "zfs_filesystem",
    "zpool",
    "size",
    "compression",
    "refreservation",
    "block_size",
    "missing",
)
_METADATA = ("customer_metadata", "internal_metadata", "routes", "tags")


@dataclasses.dataclass
class Transition:
    """A state that a VM passes through: its name, where it leads, when it is over."""

    name: str
    to: str
    expire: int


@dataclasses.dataclass
class Record:
    """The configuration of one VM, as /etc/zones keeps it."""

    uuid: str
    config: Vm
    modified: int = 0
    provisioning: bool = False
    failed: str = ""
    transition: Transition | None = None

    def to_json(self) -> dict[str, typing.Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, typing.Any]) -> "Record":
        transition = document.pop("transition")
        made = cls(**document)
        made.transition = Transition(**transition) if transition else None
        return made


class Records:
    """The records of the node, a file each."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._folder: pathlib.Path = node.path("/etc/zones")
        self._records: dict[str, Record] = {}
        self.lock = threading.RLock()
        for path in sorted(self._folder.glob("*.json")):
            if not path.name.endswith("-receiving.json"):
                made = Record.from_json(state.File(path).load())
                self._records[made.uuid] = made

    def get(self, uuid: str) -> Record | None:
        return self._records.get(uuid)

    def frozen(self, record: Record) -> Record:
        """A record as it is now, for one who may change it."""
        with self.lock:
            return dataclasses.replace(record, config=copy.deepcopy(record.config))

    def uuids(self) -> list[str]:
        return list(self._records)

    def add(self, record: Record) -> None:
        with self.lock:
            self._records[record.uuid] = record
        self.save(record)

    def save(self, record: Record) -> None:
        """Write a record; vminfod sees it."""
        with self.lock:
            if record.uuid not in self._records:
                return
            record.modified = int(self._node.clock.now().timestamp())
            self._file(record.uuid).save(record.to_json())
        self._node.events.refresh(record.uuid)

    def remove(self, uuid: str) -> None:
        with self.lock:
            self._records.pop(uuid, None)
            self._file(uuid).delete()
        self._node.events.refresh(uuid)

    def receiving(self, uuid: str) -> state.File:
        """The document that says what is still to be received."""
        return state.File(self._folder / f"{uuid}-receiving.json")

    def _file(self, uuid: str) -> state.File:
        return state.File(self._folder / f"{uuid}.json")


def configuration(vm: Vm) -> Vm:
    """The part of a VM object that stands in the zone's configuration."""
    kept = {key: value for key, value in vm.items() if key not in COMPUTED}
    if not kept.get("resolvers", True):
        del kept["resolvers"]
    if not kept.get("firewall_enabled", True):
        del kept["firewall_enabled"]
    if "disks" in kept:
        kept["disks"] = [
            {key: value for key, value in disk.items() if key not in _DISK_COMPUTED}
            for disk in kept["disks"]
        ]
    return copy.deepcopy(kept)


def dataset(vm: Vm) -> str:
    """The dataset of a VM's zone path."""
    path: str = vm["zonepath"]
    return path.lstrip("/")


def view(
    node: "node_module.Node", record: Record, zone: zones.Zone, *, with_datasets: bool = True
) -> Vm:
    """The object of a VM."""
    vm = _configured(record)
    vm |= _zone_facts(record, zone)
    if zone.state != "running" and with_datasets:
        vm |= _last_exited(node, zone)
    vm.setdefault("resolvers", [])
    vm.setdefault("firewall_enabled", False)
    vm["server_uuid"] = node.config.uuid
    vm["platform_buildstamp"] = node.config.platform
    vm["state"] = _state(record, zone)
    vm |= _runtime(zone)
    name = zone.path.lstrip("/") if with_datasets else ""
    with node.storage.lock:
        vm |= _datasets(node.storage, vm, name)
    if vm["state"] == "receiving":
        vm["missing"] = _missing(node.storage, vm)
    return vm


def _configured(record: Record) -> Vm:
    vm = record.config
    if record.provisioning:
        vm = _insert(vm, "v", {"provisioning": True})
    if record.transition:
        facts = {
            "state": record.transition.name,
            "transition_to": record.transition.to,
            "transition_expire": record.transition.expire,
        }
        vm = _insert_after(vm, "create_timestamp", facts)
    if record.failed:
        vm = _insert(vm, "cpu_shares", {"failed": record.failed})
    return vm


def _insert(vm: Vm, before: str, facts: Vm) -> Vm:
    made: Vm = {}
    for key, value in vm.items():
        if key == before:
            made |= facts
        made[key] = value
    return made | facts


def _insert_after(vm: Vm, key: str, facts: Vm) -> Vm:
    keys = [*vm, ""]
    return _insert(vm, keys[keys.index(key) + 1], facts) if key in vm else vm | facts


def _zone_facts(record: Record, zone: zones.Zone) -> Vm:
    modified = datetime.datetime.fromtimestamp(record.modified, datetime.UTC)
    return {
        "uuid": zone.uuid,
        "zone_state": zone.state,
        "zonepath": zone.path,
        "hvm": zone.brand in ("bhyve", "kvm"),
        "zoneid": zone.id,
        "zonedid": zone.did,
        "last_modified": events.date_text(modified),
    }


def _state(record: Record, zone: zones.Zone) -> str:
    if record.failed:
        return "failed"
    if record.transition:
        return record.transition.name
    if zone.state != "installed":
        return zone.state
    return "provisioning" if record.provisioning else "stopped"


def _last_exited(node: "node_module.Node", zone: zones.Zone) -> Vm:
    name = zone.path.lstrip("/")
    if not node.storage.exists(name):
        return {}
    try:
        fields = (node.storage.directory(name) / "lastexited").read_text().split()
    except FileNotFoundError:
        return {}
    if len(fields) != 2:
        return {}
    moment = datetime.datetime.fromtimestamp(int(float(fields[0])), datetime.UTC)
    return {
        "exit_status": _exit_status(int(fields[1])),
        "exit_timestamp": events.date_text(moment),
    }


def _exit_status(status: int) -> int:
    if status == zones.NORMAL_EXIT:
        return 0
    return status >> 8 if status & 0xFF == 0 else -(status & 0xFF)


def _runtime(zone: zones.Zone) -> Vm:
    if zone.state != "running" or zone.booted is None:
        return {}
    return {
        "boot_timestamp": events.date_text(zone.booted.replace(microsecond=0)),
        "init_restarts": zone.restarts,
        "pid": zone.pid,
    }


def _datasets(store: storage.Storage, vm: Vm, name: str) -> Vm:
    facts: Vm = {key: {} for key in _METADATA}
    there = bool(name) and store.exists(name)
    if there:
        facts |= read_metadata(store.directory(name))
        facts |= _root_facts(store, vm, name)
        if store.exists(f"{name}/data"):
            facts |= _delegated_facts(store, f"{name}/data")
    for disk in vm.get("disks", []):
        disk |= _disk_facts(store, disk)
    facts["snapshots"] = _snapshots(store, name) if there else []
    if "flexible_disk_size" in vm and not any("missing" in disk for disk in vm.get("disks", [])):
        facts["free_space"] = _free_space(store, vm)
    return facts


def read_metadata(folder: pathlib.Path) -> dict[str, Vm]:
    """Metadata, tags and routes as the files in a zone path's config directory have them."""
    documents = {kind: _document(folder, kind) for kind in ("metadata", "tags", "routes")}
    return {
        "customer_metadata": documents["metadata"].get("customer_metadata", {}),
        "internal_metadata": documents["metadata"].get("internal_metadata", {}),
        "routes": documents["routes"],
        "tags": documents["tags"],
    }


def metadata_of(vm: Vm, kind: str) -> Vm:
    """Metadata as an object, whatever a payload put there."""
    value = vm.get(kind)
    return value if isinstance(value, dict) else {}


def _document(folder: pathlib.Path, kind: str) -> Vm:
    try:
        path = zoneroot.Root(folder).host(f"config/{kind}.json")
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    return json.loads(text)


def _root_facts(store: storage.Storage, vm: Vm, name: str) -> Vm:
    facts: Vm = {}
    if _held(store, name):
        facts["indestructible_zoneroot"] = True
    quota = store.number(name, "refquota" if vm["brand"] == "bhyve" else "quota")
    facts["quota"] = js.tidy(quota / GIB)
    compression = store.get(name, "compression")
    if compression != "off":
        facts["zfs_root_compression"] = compression
    facts["zfs_root_recsize"] = store.number(name, "recordsize")
    for limit in ("filesystem_limit", "snapshot_limit"):
        if (number := store.number(name, limit)) not in _UNLIMITED:
            facts[f"zfs_{limit}"] = number
    return facts | {"zfs_filesystem": name, "zpool": name.partition("/")[0]}


def _delegated_facts(store: storage.Storage, name: str) -> Vm:
    facts: Vm = {}
    if _held(store, name):
        facts["indestructible_delegated"] = True
    compression = store.get(name, "compression")
    if compression != "off":
        facts["zfs_data_compression"] = compression
    return facts | {"zfs_data_recsize": store.number(name, "recordsize")}


def _held(store: storage.Storage, name: str) -> bool:
    snapshot = f"{name}@indestructible"
    return store.exists(snapshot) and store.number(snapshot, "userrefs") > 0


def _disk_facts(store: storage.Storage, disk: Vm) -> Vm:
    name = disk["path"].removeprefix(ZVOL)
    if name == disk["path"] or not store.exists(name):
        return {"missing": True}
    return {
        "zfs_filesystem": name,
        "zpool": name.partition("/")[0],
        "size": js.tidy(store.number(name, "volsize") / MIB),
        "compression": store.get(name, "compression"),
        "refreservation": -(-store.number(name, "refreservation") // MIB),
        "block_size": store.number(name, "volblocksize"),
    }


def _snapshots(store: storage.Storage, name: str) -> list[Vm]:
    found = []
    for snapshot in store.children(name, kinds={"snapshot"}, recursive=False):
        short = snapshot.partition("@")[2]
        if short.startswith("vmsnap-") and short != "vmsnap-":
            created = datetime.datetime.fromtimestamp(
                store.number(snapshot, "creation"), datetime.UTC
            )
            found.append(
                {
                    "name": short.removeprefix("vmsnap-"),
                    "size": js.tidy(store.number(snapshot, "written") / MIB),
                    "created_at": events.date_text(created),
                }
            )
    return sorted(found, key=lambda snapshot: snapshot["created_at"], reverse=True)


def _free_space(store: storage.Storage, vm: Vm) -> int:
    names = [disk["zfs_filesystem"] for disk in vm.get("disks", [])]
    taken = sum(
        store.number(name, "volsize") + store.number(name, "usedbysnapshots") for name in names
    )
    return int((vm["flexible_disk_size"] * MIB - taken) // MIB)


def _missing(store: storage.Storage, vm: Vm) -> Vm:
    name = dataset(vm)
    datasets = [] if store.exists(name) else [name]
    datasets += [one for one in vm.get("datasets", []) if not store.exists(one)]
    disks = [disk["path"] for disk in vm.get("disks", []) if "missing" in disk]
    filesystems = [one["source"] for one in vm.get("filesystems", []) if "source" in one]
    return {"datasets": datasets, "disks": disks, "filesystems": filesystems}
