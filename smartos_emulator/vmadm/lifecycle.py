# SPDX-License-Identifier: Apache-2.0
"""The node's VMs: one door for vmadm and for the other tools, and vmadm's background daemon."""

import contextlib
import errno
import logging
import threading
import time
import typing

from smartos_emulator import call as call_module
from smartos_emulator import js, storage, vminfod, zones
from smartos_emulator.vmadm import (
    environment,
    failures,
    listing,
    metadata,
    modify,
    power,
    provision,
    record,
    remove,
    reprovision,
    site,
    snapshots,
)

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

LOG = logging.getLogger("smartos_emulator")

Vm = dict[str, typing.Any]

_LOCK_SECONDS = 24 * 3600


class Vms:
    """The VMs of a node. `load` and `find` are vmadm's two ways to miss one."""

    def __init__(self, node: "node_module.Node") -> None:
        self.node = node
        self.environment: environment.Environment = site.Site(node)
        self.records = record.Records(node)
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self._followed: set[str] = set()
        self._boots: list[threading.Thread] = []
        self._info = vminfod.Server(node, node.config.vminfod_port)
        node.events.view = self.view
        node.storage.subscribe(self._storage_changed)
        for uuid in self.records.uuids():
            node.events.touch(uuid)

    # vminfod

    @property
    def vminfod_port(self) -> int:
        """Where vminfod listens."""
        return self._info.port

    def set_vminfod(self, up: bool) -> None:
        """Let vminfod die, or come back."""
        self.node.vminfod_up = up
        if up:
            self._info.start()
        else:
            self._info.stop()

    def ask(self) -> None:
        """Every command begins with a question to vminfod."""
        if not self.node.vminfod_up:
            raise failures.VmError("connect ECONNREFUSED", "ECONNREFUSED")

    def view(self, uuid: str) -> Vm | None:
        """The object of a VM as the node is now."""
        kept, zone = self.records.get(uuid), self.node.zones.get(uuid)
        if kept is None or zone is None:
            return None
        try:
            return record.view(self.node, self.records.frozen(kept), zone)
        except (OSError, ValueError, storage.StorageError) as error:
            # Files come and go outside the locks; whoever moves them tells when that is over.
            LOG.debug("%s is seen without its datasets: %s", uuid, error)
            kept = self.records.frozen(kept)
            return record.view(self.node, kept, zone, with_datasets=False)

    def _storage_changed(self, _kind: str, name: str) -> None:
        for part in name.partition("@")[0].split("/")[1:2]:
            uuid = part[:36]
            if self.records.get(uuid) is not None:
                self.node.events.touch(uuid)

    # Looking

    def all(self) -> list[Vm]:
        """Every VM. The objects are shared: read them only."""
        return self.node.events.all()

    def get(self, uuid: str) -> Vm | None:
        return self.node.events.get(uuid)

    def seen(self) -> list[Vm]:
        """Every VM, for a command."""
        self.ask()
        return self.all()

    def load(self, uuid: str) -> Vm:
        """A VM, for a command that asks vminfod for it by name."""
        self.ask()
        vm = self.get(uuid)
        if vm is None:
            raise failures.bad_status(404)
        return vm

    def find(self, uuid: str) -> Vm:
        """A VM, for a command that looks for it among all."""
        self.ask()
        vm = self.get(uuid)
        if vm is None:
            raise failures.not_found(uuid)
        return vm

    def documents(self, vms: list[Vm]) -> str:
        """VMs as the JSON array that `vmadm lookup -j` prints."""
        if not vms:
            return "[]"
        written = (self.node.events.text(vm["uuid"], _indented) for vm in vms)
        return "[\n" + ",\n".join(written) + "\n]"

    def wait(self, wanted: typing.Callable[[], bool], seconds: float) -> bool:
        return self.node.events.wait(wanted, seconds)

    def wait_state(self, uuid: str, state: str, seconds: float) -> bool:
        """Wait at most `seconds` of node time until a VM is in a state."""
        return self.wait(lambda: (self.get(uuid) or {}).get("state") == state, seconds)

    # Changing

    def configure(self, uuid: str, **values: typing.Any) -> None:
        """Set values in a VM's configuration."""
        kept = self.records.get(uuid)
        if kept is not None:
            with self.records.lock:
                kept.config |= values
            self.records.save(kept)

    def write_metadata(self, uuid: str, documents: Vm) -> None:
        """Write metadata, tags or routes of a VM."""
        kept = self.records.get(uuid)
        zone = self.node.zones.get(uuid)
        if kept is None or zone is None:
            raise failures.not_found(uuid)
        try:
            metadata.write(self.node, uuid, {"zonepath": zone.path, **documents})
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "UNKNOWN")
            raise failures.VmError(f"{code}, write", code) from None
        self.records.save(kept)

    @contextlib.contextmanager
    def lock(self, uuid: str) -> typing.Iterator[None]:
        """The lock of a VM's configuration, which some commands take and others do not."""
        with self._locks_lock:
            lock = self._locks.setdefault(uuid, threading.Lock())
        condition = threading.Condition()
        with condition:
            self.node.clock.wait(condition, lambda: lock.acquire(blocking=False), _LOCK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    # Transitions

    def transition(self, name: str, to: str, seconds: float) -> record.Transition:
        """A state to pass through, that is over in so many seconds of node time."""
        over = time.time() + seconds / self.node.clock.speed
        return record.Transition(name, to, int(over * 1000))

    def begin_transition(self, uuid: str, name: str, to: str, seconds: float) -> None:
        kept = self.records.get(uuid)
        if kept is not None:
            kept.transition = self.transition(name, to, seconds)
            self.records.save(kept)

    def end_transition(self, uuid: str) -> None:
        kept = self.records.get(uuid)
        if kept is not None and kept.transition is not None:
            kept.transition = None
            self.records.save(kept)

    def follow_provisioning(self, uuid: str) -> None:
        """Wait, aside, for the guest to say that it is provisioned, as the daemon does."""
        kept = self.records.get(uuid)
        if kept is None or kept.transition is None or kept.transition.name != "provisioning":
            return
        with self._locks_lock:
            if uuid in self._followed:
                return
            self._followed.add(uuid)
        threading.Thread(target=self._follow, args=(kept,), name="vmadmd", daemon=True).start()

    def _follow(self, kept: record.Record) -> None:
        try:
            self._await_word(kept)
        except (call_module.Cancelled, zones.ZoneError) as error:
            LOG.debug("no longer following %s: %r", kept.uuid, error)
        finally:
            with self._locks_lock:
                self._followed.discard(kept.uuid)

    def _await_word(self, kept: record.Record) -> None:
        if kept.transition is None:
            return
        mark = self.node.zones.inside(kept.uuid).host("/var/svc/provisioning", follow=False)
        left = (kept.transition.expire / 1000 - time.time()) * self.node.clock.speed
        seconds = max(1.0, left)
        gone = self.node.zones.wait(kept.uuid, lambda: not mark.exists(), seconds)
        if self.records.get(kept.uuid) is not kept:
            return
        kept.transition = None
        if not gone:
            kept.failed = "provisioning"
        self.records.save(kept)
        if not gone and self.node.zones.state(kept.uuid) != "installed":
            self.node.zones.halt(kept.uuid)

    # The node

    def node_boot(self) -> None:
        """The node is up: so is vminfod, and the VMs that are to be up boot."""
        self._info.start()
        for uuid in self.records.uuids():
            boot = threading.Thread(target=self.autoboot, args=(uuid,), name="zones", daemon=True)
            boot.start()
            self._boots.append(boot)

    @property
    def booting(self) -> int:
        """How many VMs the node, which has just come up, has still to see to."""
        return sum(boot.is_alive() for boot in self._boots)

    def autoboot(self, uuid: str) -> None:
        """Boot a VM as the node does, which asks each for its autoboot when its turn has come."""
        kept = self.records.get(uuid)
        if kept is None or kept.failed or not kept.config.get("autoboot"):
            return
        if kept.transition and kept.transition.name == "stopping":
            self.end_transition(uuid)
        try:
            if self.node.zones.state(uuid) == "installed":
                self.node.zones.boot(uuid)
                self.follow_provisioning(uuid)
        except (call_module.Cancelled, zones.ZoneError) as error:
            LOG.warning("%s did not boot: %s", uuid, error)

    # The commands

    def create(self, payload: typing.Any) -> str:
        return provision.make(self, payload)

    def create_snapshot(self, uuid: str, name: str) -> None:
        snapshots.create(self, uuid, name)

    def delete(self, uuid: str) -> None:
        remove.delete(self, uuid)

    def delete_snapshot(self, uuid: str, name: str) -> None:
        snapshots.delete(self, uuid, name)

    def info(self, uuid: str, types: list[str]) -> Vm:
        return power.info(self, uuid, types)

    def install(self, uuid: str) -> None:
        """Finish what a receive began."""
        self.ask()
        wanted = self.records.receiving(uuid).load()
        if wanted is None:
            raise failures.VmError(f"ENOENT, open '/etc/zones/{uuid}-receiving.json'", "ENOENT")
        provision.install(self, wanted)

    def kill(self, uuid: str, signal: typing.Any = "SIGTERM") -> None:
        power.kill(self, uuid, signal)

    def reboot(self, uuid: str, *, force: bool = False) -> None:
        power.reboot(self, uuid, force=force)

    def reprovision(self, uuid: str, payload: typing.Any) -> None:
        reprovision.reprovision(self, uuid, payload)

    def rollback_snapshot(self, uuid: str, name: str) -> None:
        snapshots.rollback(self, uuid, name)

    def start(self, uuid: str, extra: Vm | None = None) -> None:
        power.start(self, uuid, extra)

    def stop(self, uuid: str, *, force: bool = False, timeout: float | None = None) -> None:
        power.stop(self, uuid, force=force, timeout=timeout)

    def sysrq(self, uuid: str, request: str) -> None:
        power.sysrq(self, uuid, request)

    def update(self, uuid: str, changes: typing.Any) -> None:
        modify.update(self, uuid, changes)

    def update_firewall(self, uuid: str, enabled: bool) -> None:
        """`vmadm update UUID firewall_enabled=…`, as fwadm runs it."""
        self.update(uuid, {"firewall_enabled": enabled})


def _indented(vm: Vm) -> str:
    """A VM as an element of an indented array, with the fields that exist in lists only."""
    lines = js.dumps(listing.with_fake_fields(vm), 2).split("\n")
    return "\n".join(f"  {line}" for line in lines)
