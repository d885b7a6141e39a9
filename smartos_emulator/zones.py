# SPDX-License-Identifier: Apache-2.0
"""The node's zones: their states, how they boot and halt, and what their guests do meanwhile.

This is the simulated back end. Another one, with real guests, has the same public methods.
"""

import dataclasses
import datetime
import itertools
import logging
import os
import pathlib
import random
import re
import signal
import threading
import time
import typing

from smartos_emulator import call as call_module
from smartos_emulator import state as state_module
from smartos_emulator import zoneroot

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module
    from smartos_emulator.guest import qmp

LOG = logging.getLogger("smartos_emulator")

NORMAL_EXIT = -1

# Seconds of node time
INSTALL_SECONDS = 0.5
READY_SECONDS = 0.3
BOOT_SECONDS = 0.4
HALT_SECONDS = 0.5
_BUSY_SECONDS = 60.0
# The bhyve brand itself says that a VM is provisioned when it starts the hypervisor.
_GUEST_BOOT = {"lx": 1.5, "bhyve": 0.3, "kvm": 3.0}
_GUEST_SHUTDOWN = {"lx": 1.0, "bhyve": 4.0, "kvm": 4.0}
_GUEST_SECONDS = 2.0
_PREPARE_SECONDS = 3.0

KEPT_STATES = ("configured", "incomplete", "installed")
_RUNTIME = ("ready", "running", "shutting_down", "down")

# What `script` can be told about a guest, and the values it takes (none listed: a number).
SCRIPT: dict[str, tuple[str, ...]] = {
    "provision": ("success", "failure", "never"),
    "shutdown": ("normal", "ignore"),
    "prepare": ("success", "error", "never"),
    "boot_seconds": (),
    "shutdown_seconds": (),
}


class ZoneError(Exception):
    """A zone operation was refused; the text is what the tool prints."""


@dataclasses.dataclass
class Zone:
    """A zone as the kernel and the index of zones know it."""

    name: str
    uuid: str
    brand: str
    path: str
    did: int
    state: str = "configured"
    id: int | None = None
    pid: int | None = None
    booted: datetime.datetime | None = None
    restarts: int = 0
    docker: bool = False
    checkpoints: set[str] = dataclasses.field(default_factory=set)
    rctls: dict[str, int] = dataclasses.field(default_factory=dict)
    generation: int = 0

    def kept(self) -> dict[str, typing.Any]:
        """What of it outlives a reboot of the node."""
        at_rest = self.state if self.state in KEPT_STATES else "installed"
        return {
            "uuid": self.uuid,
            "brand": self.brand,
            "path": self.path,
            "did": self.did,
            "state": at_rest,
            "docker": self.docker,
        }


class Zones:
    """All zones of the node."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._zones: dict[str, Zone] = {}
        self._monitors: dict[str, qmp.Monitor] = {}
        self._scripts: dict[str, dict[str, str]] = node.state_file("guests").load({})
        self._ids = itertools.count(1)
        self._pids = self._new_pids(random.Random(node.config.seed))
        self._load()
        last = max((zone.did for zone in self._zones.values()), default=0)
        self._dids = itertools.count(last + 1)
        node.storage.in_use = self._holds

    def _load(self) -> None:
        folder = self._node.dir / "state" / "zones"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            kept = state_module.File(path).load()
            self._zones[path.stem] = Zone(name=path.stem, **kept)

    def _new_pids(self, draw: random.Random) -> typing.Iterator[int]:
        pid = 4000
        while True:
            pid += draw.randint(1, 40)
            yield pid

    # What there is

    def get(self, name: str) -> Zone | None:
        return self._zones.get(name)

    def all(self) -> list[Zone]:
        """Every zone, in the order in which they were configured."""
        with self._lock:
            return sorted(self._zones.values(), key=lambda zone: zone.did)

    def state(self, name: str) -> str:
        return self._need(name).state

    def root(self, name: str) -> pathlib.Path:
        """The host directory that is the zone's root."""
        return self.directory(name) / "root"

    def directory(self, name: str) -> pathlib.Path:
        """The host directory of the zone's path."""
        return self._node.storage.directory(self._need(name).path.lstrip("/"))

    def inside(self, name: str) -> zoneroot.Root:
        """The zone's file tree as its guest sees it."""
        zone = self._need(name)
        # lofs: another folder of the node shows in the zone
        shown = {
            tuple(one["target"].strip("/").split("/")): (
                self._node.path(one["source"]),
                "ro" not in one.get("options", []),
            )
            for one in (self._node.vms.get(zone.uuid) or {}).get("filesystems", [])
            if one.get("type") == "lofs" and {"source", "target"} <= one.keys()
        }

        def mounted(parts: tuple[str, ...]) -> zoneroot.Mount | None:
            if parts in shown:
                return shown[parts]
            if len(parts) != 2 or parts[0] != "checkpoints" or parts[1] not in zone.checkpoints:
                return None
            snapshot = f"{zone.path.lstrip('/')}@vmsnap-{parts[1]}"
            return self._node.storage.directory(snapshot) / "root", False

        return zoneroot.Root(self.root(name), mounted)

    def _holds(self, dataset: str) -> bool:
        """Whether a zone that is up lives on a dataset; asked with the storage's lock held."""
        pool, *rest = dataset.split("/")
        name = (rest[1:] if rest[:1] == ["cores"] else rest)[:1]
        zone = self._zones.get(re.sub(r"-disk\d+$", "", name[0])) if name else None
        return zone is not None and zone.state in _RUNTIME and zone.path.startswith(f"/{pool}/")

    def hostname(self, name: str) -> str:
        vm = self._node.vms.get(name) or {}
        return str(vm.get("hostname") or name)

    def _need(self, name: str) -> Zone:
        zone = self._zones.get(name)
        if zone is None:
            raise ZoneError(f"{name}: No such zone configured")
        return zone

    # How guests behave

    def script(self, uuid: str, **behaviour: str) -> None:
        """Say how a guest behaves from now on; the uuid "*" stands for every guest."""
        for key, value in behaviour.items():
            if key not in SCRIPT:
                raise ValueError(f"guests have no {key}: {', '.join(SCRIPT)}")
            if SCRIPT[key] and value not in SCRIPT[key]:
                raise ValueError(f"{key} is one of {', '.join(SCRIPT[key])}")
            if not SCRIPT[key]:
                float(value)
        with self._lock:
            self._scripts.setdefault(uuid, {}).update(behaviour)
            self._node.state_file("guests").save(self._scripts)

    def behaviour(self, uuid: str, key: str, default: str) -> str:
        """How a guest behaves in one respect."""
        with self._lock:
            for script in (self._scripts.get(uuid, {}), self._scripts.get("*", {})):
                if key in script:
                    return script[key]
            return default

    # The index of zones

    def configure(self, name: str, brand: str, path: str, docker: bool = False) -> None:
        with self._lock:
            if name in self._zones:
                raise ZoneError(f"zonecfg: Zone {name} already exists\n")
            zone = Zone(name, name, brand, path, next(self._dids), docker=docker)
            self._zones[name] = zone
            self._keep(zone)

    def unconfigure(self, name: str) -> None:
        with self._lock:
            zone = self._zones.get(name)
            if zone is None:
                raise ZoneError(f"zonecfg: {name}: No such zone configured\n")
            if zone.state != "configured":
                raise ZoneError(f"zonecfg: Zone {name} already installed; delete not allowed.\n")
            del self._zones[name]
            self._file(name).delete()
        self._node.consoles.gone(name)

    def mark(self, name: str, at_rest: str) -> None:
        """Set the state of a zone that is not running."""
        with self._lock:
            zone = self._need(name)
            zone.state = at_rest
            self._keep(zone)
        self._tell(zone)

    def _file(self, name: str) -> state_module.File:
        return state_module.File(self._node.dir / "state" / "zones" / f"{name}.json")

    def _keep(self, zone: Zone) -> None:
        self._file(zone.name).save(zone.kept())

    # Boot and halt

    def boot(self, name: str) -> None:
        """Bring a zone up to `running`; its guest goes on booting."""
        with self._lock:
            zone = self._need(name)
            if zone.state in ("configured", "incomplete"):
                raise ZoneError(f"zoneadm: zone '{name}': must be installed before boot.\n")
            if zone.state != "installed":
                raise ZoneError(
                    f"zone '{name}': zone is already booted\n"
                    f"zoneadm: zone '{name}': call to zoneadmd failed\n"
                )
            self._check_filesystems(zone)
            self._take_up(zone)
        self.perform(lambda: self._bring_up(zone))

    def _check_filesystems(self, zone: Zone) -> None:
        for one in (self._node.vms.get(zone.uuid) or {}).get("filesystems", []):
            if one.get("type") == "lofs" and not self._node.path(one["source"]).exists():
                raise ZoneError(
                    f"zone '{zone.name}': cannot open {one['source']}: No such file or directory\n"
                    f"zone '{zone.name}': unable to mount {one['target']}\n"
                    f"zoneadm: zone '{zone.name}': call to zoneadmd failed\n"
                )

    def _take_up(self, zone: Zone) -> None:
        zone.state = "ready"
        zone.id = next(self._ids)
        zone.generation += 1

    def _bring_up(self, zone: Zone) -> None:
        vm = self._tell(zone)
        self._node.clock.sleep(READY_SECONDS)
        if vm is not None and zone.id is not None:
            self._node.network.plug(vm, zone.id)
            zone.rctls = rctls_of(vm)
        self._node.clock.sleep(BOOT_SECONDS)
        zone.pid, zone.booted, zone.restarts = next(self._pids), self._node.clock.now(), 0
        if vm is not None and zone.id is not None:
            self._node.metrics.boot(vm, zone.id)
        if zone.brand == "kvm":
            self._monitors[zone.name] = self._start_monitor(zone)
        self._node.metadata.open(zone)
        self._node.consoles.up(zone, vm)
        self._move(zone, "running")
        self._background(lambda: self._guest_boot(zone, zone.generation))

    def halt(self, name: str, exit_status: int = NORMAL_EXIT) -> None:
        """Bring a zone down without asking its guest; ZoneError says it was down already."""
        zone = self._need(name)
        with self._lock:
            self._node.clock.wait(self._changed, lambda: zone.state != "ready", _BUSY_SECONDS)
            mine = zone.state in ("ready", "running")
            if mine:
                zone.state = "shutting_down"
        if mine:
            self.perform(lambda: self._bring_down(zone, exit_status))
            return
        self.wait(name, lambda: zone.state not in _RUNTIME, HALT_SECONDS * 20)
        raise ZoneError(f"zone '{name}': zone is already halted\n")

    def _bring_down(self, zone: Zone, exit_status: int) -> None:
        vm = self._tell(zone)
        self._node.clock.sleep(HALT_SECONDS / 2)
        self._move(zone, "down")
        self._node.clock.sleep(HALT_SECONDS / 2)
        self._tear_down(zone, vm, exit_status)
        self._move(zone, "installed")

    def _tear_down(self, zone: Zone, vm: dict[str, typing.Any] | None, exit_status: int) -> None:
        self._node.metadata.close(zone.uuid)
        self._node.consoles.down(zone)
        self._write_last_exited(zone, exit_status)
        if monitor := self._monitors.pop(zone.name, None):
            monitor.close()
        if zone.id is not None:
            self._node.metrics.halt(zone.id)
        if vm is not None:
            self._node.network.unplug(vm)
        zone.generation += 1
        zone.id = zone.pid = zone.booted = None
        zone.restarts, zone.rctls, zone.checkpoints = 0, {}, set()

    def close(self) -> None:
        """End what the guests' hypervisors keep open on this machine."""
        for monitor in self._monitors.values():
            monitor.close()

    def stands_still(self, name: str) -> bool:
        """Whether a guest was stopped by its monitor: it does nothing until that lets it go on."""
        monitor = self._monitors.get(name)
        return monitor is not None and not monitor.running

    def _start_monitor(self, zone: Zone) -> "qmp.Monitor":
        from smartos_emulator.guest import qmp  # what guests run imports this module

        # QEMU runs in the zone, so that no link leads it out of there
        return qmp.Monitor(
            self.inside(zone.name).host(qmp.PATH, follow=False),
            power_down=lambda: self.guest_shutdown(zone.name),
            reset=lambda: None,
        )

    def reboot(self, name: str) -> None:
        """Halt and boot in one go, as zoneadmd does it; the zone keeps its name only."""
        zone = self._need(name)
        with self._lock:
            if zone.state != "running":
                raise ZoneError(f"zoneadm: zone '{name}': not running\n")
            zone.state = "shutting_down"
        self.perform(lambda: self._cycle(zone))

    def _cycle(self, zone: Zone) -> None:
        vm = self._tell(zone)
        self._node.clock.sleep(HALT_SECONDS)
        self._tear_down(zone, vm, NORMAL_EXIT)
        with self._lock:
            self._take_up(zone)
        self._bring_up(zone)

    def wait(self, name: str, wanted: typing.Callable[[], bool], seconds: float) -> bool:
        """Wait for something about a zone; whether it came within `seconds` of node time."""
        with self._lock:
            return self._node.clock.wait(self._changed, wanted, seconds)

    def _move(self, zone: Zone, to: str) -> None:
        with self._lock:
            zone.state = to
            self._changed.notify_all()
        self._tell(zone)

    def _tell(self, zone: Zone) -> dict[str, typing.Any] | None:
        """vminfod looks at the zone; the VM that lives in it."""
        self._node.events.refresh(zone.name)
        return self._node.events.get(zone.name)

    def _write_last_exited(self, zone: Zone, exit_status: int) -> None:
        dataset = zone.path.lstrip("/")
        if self._node.storage.exists(dataset):
            file = self._node.storage.directory(dataset) / "lastexited"
            file.write_text(f"{time.time():.9f} {exit_status}\n")

    # The guest

    def guest_shutdown(self, name: str, again: bool = False) -> None:
        """The guest is asked to go down, or to reboot; it does so in its own time, or never."""
        zone = self._need(name)
        if self.behaviour(name, "shutdown", "normal") == "ignore" or self.stands_still(name):
            return
        self._background(lambda: self._guest_down(zone, zone.generation, again, NORMAL_EXIT))

    def _guest_down(self, zone: Zone, generation: int, again: bool, status: int) -> None:
        self._node.clock.sleep(self._guest_seconds(zone, "shutdown_seconds", _GUEST_SHUTDOWN))
        with self._lock:
            if zone.generation != generation or zone.state != "running":
                return
            zone.state = "shutting_down"
        if again:
            self._cycle(zone)
        else:
            self._bring_down(zone, status)

    def _guest_boot(self, zone: Zone, generation: int) -> None:
        """The guest boots; if it is to be provisioned, it says how that went."""
        self._node.clock.sleep(self._guest_seconds(zone, "boot_seconds", _GUEST_BOOT))
        outcome = self.behaviour(zone.name, "provision", "success")
        if zone.generation != generation:
            return
        if outcome != "never":
            self._say_provisioned(zone, outcome)
        self._node.consoles.ready(zone)
        self._run_operator_script(zone, generation)

    def _say_provisioned(self, zone: Zone, outcome: str) -> None:
        folder = self.inside(zone.name).host("/var/svc")
        if os.path.lexists(folder / "provisioning"):
            os.replace(folder / "provisioning", folder / f"provision_{outcome}")
            with self._lock:
                self._changed.notify_all()

    def _run_operator_script(self, zone: Zone, generation: int) -> None:
        """The script that imgadm gives a VM to prepare it: the guest says how it went."""
        vm = self._node.vms.get(zone.name) or {}
        outcome = self.behaviour(zone.name, "prepare", "success")
        if "operator-script" not in (vm.get("internal_metadata") or {}) or outcome == "never":
            return
        for word in ("running", outcome):
            self._node.clock.sleep(_PREPARE_SECONDS)
            if zone.generation != generation:
                return
            known = (self._node.vms.get(zone.name) or {}).get("customer_metadata")
            said = {**(known or {}), "prepare-image:state": word}
            self._node.vms.write_metadata(zone.name, {"customer_metadata": said})
        self.guest_shutdown(zone.name)

    def _guest_seconds(self, zone: Zone, key: str, usual: dict[str, float]) -> float:
        return float(self.behaviour(zone.name, key, str(usual.get(zone.brand, _GUEST_SECONDS))))

    def kill(self, name: str, number: int) -> None:
        """Send a signal to the zone's init process; what it does with it depends on the brand."""
        zone = self._need(name)
        if number == 0 or zone.state != "running":
            return
        if zone.brand in ("bhyve", "kvm") or zone.docker:
            self._kill_program(zone, number)
        elif number == signal.SIGKILL:
            self._restart_init(zone)

    def _kill_program(self, zone: Zone, number: int) -> None:
        """The zone lives as long as its one program: the hypervisor, or what docker runs."""
        if number == signal.SIGTERM and zone.brand == "bhyve":
            self.guest_shutdown(zone.name)
        elif number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT):
            ignores = self.behaviour(zone.name, "shutdown", "normal") == "ignore"
            if number == signal.SIGKILL or not ignores:
                self._background(lambda: self._die(zone, zone.generation, number))

    def _die(self, zone: Zone, generation: int, number: int) -> None:
        with self._lock:
            if zone.generation != generation or zone.state != "running":
                return
            zone.state = "shutting_down"
        self._bring_down(zone, number)

    def _restart_init(self, zone: Zone) -> None:
        zone.pid, zone.restarts = next(self._pids), zone.restarts + 1
        self._tell(zone)

    # Threads

    def perform(self, work: typing.Callable[[], None]) -> None:
        """Do what zoneadmd does, which goes on when the one who asked is gone, and wait for it."""
        done = _Done()
        self._background(lambda: done.run(work))
        with done.condition:
            self._node.clock.wait(done.condition, done.is_set, 24 * 3600)
        if done.error is not None:
            raise done.error

    def _background(self, work: typing.Callable[[], None]) -> None:
        threading.Thread(target=_quietly, args=(work,), name="zoneadmd", daemon=True).start()


class _Done:
    """The end of a piece of work in another thread."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.error: Exception | None = None
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def run(self, work: typing.Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.error = error
        finally:
            with self.condition:
                self._set = True
                self.condition.notify_all()


def _quietly(work: typing.Callable[[], None]) -> None:
    """Run a thread's work; the node's end is no error, and nobody waits for any other."""

    try:
        work()
    except call_module.Cancelled:
        return
    except Exception:
        LOG.warning("a zone went away under its guest", exc_info=True)


MIB = 1 << 20
# The limits of a zone that vmadm sets: VM property, resource control, factor
RCTLS = (
    ("cpu_shares", "zone.cpu-shares", 1),
    ("zfs_io_priority", "zone.zfs-io-priority", 1),
    ("max_lwps", "zone.max-lwps", 1),
    ("max_msg_ids", "zone.max-msg-ids", 1),
    ("max_physical_memory", "zone.max-physical-memory", MIB),
    ("max_shm_memory", "zone.max-shm-memory", MIB),
    ("max_sem_ids", "zone.max-sem-ids", 1),
    ("max_shm_ids", "zone.max-shm-ids", 1),
    ("max_locked_memory", "zone.max-locked-memory", MIB),
    ("max_swap", "zone.max-swap", MIB),
    ("cpu_cap", "zone.cpu-cap", 1),
)


def rctls_of(vm: dict[str, typing.Any]) -> dict[str, int]:
    """The resource controls that a zone boots with."""
    return {rctl: int(vm[key]) * factor for key, rctl, factor in RCTLS if vm.get(key)}
