# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping VMs, and what else is done to running ones."""

import contextlib
import re
import signal
import typing

from smartos_emulator import hvm, js, zones
from smartos_emulator.vmadm import conflicts, errors, failures, nocloud, record

if typing.TYPE_CHECKING:
    from smartos_emulator.vmadm import lifecycle

Vm = dict[str, typing.Any]

_KVM_MODELS = ("virtio", "scsi", "ide")
_VMINFOD_SECONDS = 60.0
_PROVISION_SECONDS = 300.0
_STOP_SECONDS = 60.0
_HVM_STOP_SECONDS = 180.0
_DOCKER_STOP_SECONDS = 10.0
_REBOOT_SECONDS = 180.0
_RESET_SECONDS = 0.2


def start(vms: "lifecycle.Vms", uuid: str, extra: Vm | None = None) -> None:
    """Boot a stopped VM, for good: it comes up with the node from now on."""
    vm = vms.load(uuid)
    state = vm["state"]
    if state == "running":
        raise failures.VmError(f"VM {uuid} is already 'running'", "EALREADYRUNNING")
    fresh = state == "provisioning" and vm["zone_state"] == "installed"
    if state != "stopped" and not fresh:
        raise failures.VmError(f'Cannot start vm from state "{state}", must be "stopped".')
    check_nic_tags(vms, vm)
    if vm.get("docker"):
        _count_docker_restart(vms, vm)
    if vm["hvm"] and extra:
        _check_extra_disks(vms, vm, extra.get("disks", []))
    boot(vms, uuid)


def check_nic_tags(vms: "lifecycle.Vms", vm: Vm) -> None:
    """A VM whose nic tags are gone must not boot."""
    try:
        conflicts.check_tags(vm.get("nics", []), vms.environment)
    except errors.PayloadError as error:
        raise failures.VmError(str(error)) from None


def _count_docker_restart(vms: "lifecycle.Vms", vm: Vm) -> None:
    internal = {**record.metadata_of(vm, "internal_metadata"), "docker:restartcount": 0}
    vms.write_metadata(vm["uuid"], {"internal_metadata": internal})


def _check_extra_disks(vms: "lifecycle.Vms", vm: Vm, disks: list[Vm]) -> None:
    known = [disk["path"] for disk in vm.get("disks", [])]
    root = vms.node.zones.inside(vm["uuid"])
    for disk in disks:
        if disk["path"] not in known and not root.host(disk["path"]).exists():
            raise failures.VmError(f"Cannot find disk: {disk['path']}")
        if disk["model"] not in _KVM_MODELS:
            raise failures.VmError(
                f'"{disk["model"]}" is not a valid disk model for kvm brand.'
                f" Valid are: {','.join(_KVM_MODELS)}"
            )


def boot(vms: "lifecycle.Vms", uuid: str) -> None:
    """Boot the zone, wait until vminfod shows it, and remember that it is to be up."""
    nocloud.write(vms, vms.load(uuid))
    try:
        vms.node.zones.boot(uuid)
    except zones.ZoneError as error:
        raise failures.several(failures.command_failed(str(error))) from None
    vms.follow_provisioning(uuid)
    if not vms.wait(lambda: _settled(vms.get(uuid)), _PROVISION_SECONDS):
        raise failures.several(
            failures.VmError(f'vminfod watchForChanges "VM.js startZone ({uuid})" timeout exceeded')
        )
    _remember_up(vms, uuid)


def _settled(vm: Vm | None) -> bool:
    return vm is not None and vm["state"] in ("running", "stopped")


def _remember_up(vms: "lifecycle.Vms", uuid: str) -> None:
    vm = vms.get(uuid) or {}
    policy = record.metadata_of(vm, "internal_metadata").get("docker:restartpolicy")
    if not vm.get("docker") or policy:
        vms.configure(uuid, autoboot=True)


def stop(
    vms: "lifecycle.Vms", uuid: str, *, force: bool = False, timeout: float | None = None
) -> None:
    """Bring a VM down, in the way of its brand, for good."""
    if force:
        halt(vms, uuid)
        return
    vm = vms.find(uuid)
    vms.configure(uuid, autoboot=False)
    if vm["state"] != "running":
        raise _not_running(vm)
    try:
        _stopper(vm)(vms, vm, timeout)
    except failures.VmError as error:
        raise failures.several(error) from None
    vms.wait(lambda: _is_down(vms.get(uuid)), _VMINFOD_SECONDS)


def _is_down(vm: Vm | None) -> bool:
    return vm is None or vm["state"] in ("stopped", "failed")


def _not_running(vm: Vm) -> failures.VmError:
    return failures.VmError(
        f"VM {vm['uuid']} is already not 'running' (currently: {vm['state']})", "ENOTRUNNING"
    )


_Stopper = typing.Callable[["lifecycle.Vms", Vm, float | None], None]


def _stopper(vm: Vm) -> _Stopper:
    if vm.get("docker"):
        return _stop_docker
    return {"kvm": _stop_kvm, "bhyve": _stop_bhyve}.get(vm["brand"], _stop_zone)


def _stop_docker(vms: "lifecycle.Vms", vm: Vm, timeout: float | None) -> None:
    vms.node.zones.kill(vm["uuid"], signal.SIGTERM)
    if not _comes_down(vms, vm, timeout or _DOCKER_STOP_SECONDS):
        vms.node.zones.kill(vm["uuid"], signal.SIGKILL)
        if not _comes_down(vms, vm, _DOCKER_STOP_SECONDS):
            _pull_plug(vms, vm)


def _stop_bhyve(vms: "lifecycle.Vms", vm: Vm, timeout: float | None) -> None:
    """The hypervisor turns the signal into a press of the guest's power button."""
    vms.node.zones.kill(vm["uuid"], signal.SIGTERM)
    if not _comes_down(vms, vm, timeout or _HVM_STOP_SECONDS):
        _pull_plug(vms, vm)


def _stop_kvm(vms: "lifecycle.Vms", vm: Vm, timeout: float | None) -> None:
    seconds = timeout or _HVM_STOP_SECONDS
    vms.begin_transition(vm["uuid"], "stopping", "stopped", seconds)
    vms.node.zones.guest_shutdown(vm["uuid"])
    try:
        if not _comes_down(vms, vm, seconds):
            _pull_plug(vms, vm)
    finally:
        vms.end_transition(vm["uuid"])


def _stop_zone(vms: "lifecycle.Vms", vm: Vm, timeout: float | None) -> None:
    if timeout:
        raise failures.VmError(
            "Timeout option is only supported for bhyve, KVM and docker containers."
        )
    vms.node.zones.guest_shutdown(vm["uuid"])
    if not _comes_down(vms, vm, _STOP_SECONDS):
        _pull_plug(vms, vm)


def _pull_plug(vms: "lifecycle.Vms", vm: Vm) -> None:
    """Halt a zone that did not go down in time; that it just did is as good."""
    with contextlib.suppress(zones.ZoneError):
        vms.node.zones.halt(vm["uuid"])


def _comes_down(vms: "lifecycle.Vms", vm: Vm, seconds: float) -> bool:
    zone = vms.node.zones.get(vm["uuid"])
    return zone is None or vms.node.zones.wait(
        zone.name, lambda: zone.state == "installed", seconds
    )


def halt(vms: "lifecycle.Vms", uuid: str) -> None:
    """Pull the plug."""
    vm = vms.load(uuid)
    try:
        vms.node.zones.halt(uuid)
    except zones.ZoneError:
        vms.end_transition(uuid)
        raise failures.several(_not_running(vm)) from None
    vms.configure(uuid, autoboot=False)
    if vm["state"] == "stopping":
        vms.end_transition(uuid)


def reboot(
    vms: "lifecycle.Vms", uuid: str, *, force: bool = False, timeout: float | None = None
) -> None:
    """Bring a VM down and up again."""
    if force:
        reset(vms, uuid)
        return
    vm = vms.load(uuid)
    docker = vm.get("docker")
    if vm["state"] != "running" and not (docker and vm["state"] == "stopped"):
        raise failures.VmError(f'Cannot reboot vm from state "{vm["state"]}", must be "running"')
    try:
        check_nic_tags(vms, vm)
    except failures.VmError as error:
        raise failures.VmError(f"Cannot reboot vm: {error}") from None
    if docker or vm["brand"] in ("bhyve", "kvm"):
        _stop_and_start(vms, vm, timeout)
    else:
        _reboot_zone(vms, vm)


def _stop_and_start(vms: "lifecycle.Vms", vm: Vm, timeout: float | None) -> None:
    usual = None if vm["brand"] == "kvm" else _DOCKER_STOP_SECONDS
    if vm["state"] == "running":
        stop(vms, vm["uuid"], timeout=timeout or usual)
    start(vms, vm["uuid"])


def _reboot_zone(vms: "lifecycle.Vms", vm: Vm) -> None:
    zone = vms.node.zones.get(vm["uuid"])
    before = zone.id if zone else None
    vms.node.zones.guest_shutdown(vm["uuid"], again=True)
    again = zone is not None and vms.node.zones.wait(
        zone.name, lambda: zone.state == "running" and zone.id != before, _REBOOT_SECONDS
    )
    if not again:
        raise failures.VmError("timed out waiting for zone to reboot")


def reset(vms: "lifecycle.Vms", uuid: str) -> None:
    """Press the reset button."""
    vm = vms.load(uuid)
    if vm["state"] != "running":
        raise failures.VmError(f'Cannot reset vm from state "{vm["state"]}", must be "running".')
    if vm["brand"] == "kvm":
        vms.node.clock.sleep(_RESET_SECONDS)
        return
    try:
        vms.node.zones.reboot(uuid)
    except zones.ZoneError as error:
        raise failures.VmError(str(error).rstrip()) from None


def kill(vms: "lifecycle.Vms", uuid: str, name: typing.Any) -> None:
    """Send a signal to the VM's init process."""
    vm = vms.load(uuid)
    if vm["zone_state"] != "running" or not vm.get("pid"):
        raise failures.VmError(f"Cannot find running init PID for VM {uuid}", "ENOTRUNNING")
    vms.node.zones.kill(uuid, signal_number(name))


def signal_number(name: typing.Any) -> int:
    """The number of a signal that is named as a number, SIGNAME or NAME."""
    text = js.text(name)
    if re.fullmatch("[0-9]+", text):
        return int(text)
    full = text if text.startswith("SIG") else f"SIG{text}"
    known = {one.name: int(one) for one in signal.Signals}
    if full not in known:
        raise failures.VmError(f'Unknown signal "{text}"')
    return known[full]


def info(vms: "lifecycle.Vms", uuid: str, types: list[str]) -> Vm:
    """What the hypervisor of a running VM says of itself."""
    vm = vms.load(uuid)
    if vm["state"] not in ("running", "stopping"):
        raise failures.VmError(
            f'Unable to get info for vm from state "{vm["state"]}", '
            'must be "running" or "stopping".'
        )
    known = hvm.INFO_TYPES.get(vm["brand"])
    if known is None:
        raise failures.VmError(f"no info types supported for brand {vm['brand']}")
    for kind in types:
        if kind not in known:
            raise failures.VmError(f"unknown info type {kind}")
    return hvm.info(vms.node, vm, types)


def sysrq(vms: "lifecycle.Vms", uuid: str, request: str) -> None:
    """Send a hypervisor a request that its guest cannot refuse."""
    vm = vms.load(uuid)
    if vm["state"] not in ("running", "stopping"):
        raise failures.VmError(
            f'Unable to send request to vm from state "{vm["state"]}", '
            'must be "running" or "stopping".'
        )
    if vm["brand"] not in ("bhyve", "kvm"):
        raise failures.VmError(
            'The sysrq command is only supported for VMs  with brand "bhyve" or "kvm".'
        )
    valid = ("nmi", "screenshot") if vm["brand"] == "kvm" else ("nmi",)
    if request not in valid:
        listed = '","'.join(valid)
        raise failures.VmError(f'Invalid sysrq "{request}" valid values: "{listed}".')
    if request == "screenshot":
        picture = vms.node.zones.inside(uuid).host("/tmp/vm.ppm")
        picture.parent.mkdir(parents=True, exist_ok=True)
        hvm.screenshot(picture)
