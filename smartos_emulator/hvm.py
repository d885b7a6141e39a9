# SPDX-License-Identifier: Apache-2.0
"""The hypervisors' answers: what `vmadm info` asks kvm's monitor, and where displays listen."""

import hashlib
import pathlib
import typing

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

_FIRST_DISPLAY_PORT = 5900
_RANDOM_PORTS = (32768, 28000)

INFO_TYPES: dict[str, tuple[str, ...]] = {
    "bhyve": ("all", "vnc"),
    "kvm": (
        "all",
        "block",
        "blockstats",
        "chardev",
        "cpus",
        "kvm",
        "pci",
        "spice",
        "status",
        "version",
        "vnc",
    ),
}


def info(node: "node_module.Node", vm: Vm, types: list[str]) -> Vm:
    """The facts of the wanted types, in the order in which the daemon asks for them."""
    questions = _KVM if vm["brand"] == "kvm" else {"vnc": vnc}
    wanted = (
        questions if "all" in types else {key: questions[key] for key in questions if key in types}
    )
    return {key: ask(node, vm) for key, ask in wanted.items()}


def vnc(node: "node_module.Node", vm: Vm) -> Vm:
    """Where vmadmd listens for the display: on the admin address, at the VM's port or any."""
    port = node.displays.port(vm)
    if port is None:
        return {}
    facts = {"host": node.config.admin_ip, "port": port}
    if port >= _FIRST_DISPLAY_PORT:
        facts["display"] = port - _FIRST_DISPLAY_PORT
    if vm.get("vnc_password"):
        facts["password"] = vm["vnc_password"]
    return facts


def _spice(node: "node_module.Node", vm: Vm) -> Vm:
    port = vm.get("spice_port")
    if port is None or port == -1:
        return {}
    facts = {"host": node.config.admin_ip, "port": port or _random_port(vm, "spice")}
    for key in ("spice_password", "spice_opts"):
        if vm.get(key):
            facts["password" if key == "spice_password" else key] = vm[key]
    return facts


def _random_port(vm: Vm, kind: str) -> int:
    """A port that stays for one boot of a VM and differs from boot to boot."""
    boot = f"{vm['uuid']} {vm.get('boot_timestamp')} {kind}".encode()
    first, count = _RANDOM_PORTS
    return first + int.from_bytes(hashlib.sha256(boot).digest()[:4]) % count


def _status(node: "node_module.Node", vm: Vm) -> Vm:
    return {"singlestep": False, "running": not node.zones.stands_still(vm["zonename"])}


def _version(_node: "node_module.Node", _vm: Vm) -> Vm:
    return {"qemu": {"micro": 1, "minor": 14, "major": 0}, "package": " (qemu-kvm-devel)"}


def _chardev(_node: "node_module.Node", _vm: Vm) -> list[Vm]:
    names = {"serial1": "vm.ttyb", "serial0": "vm.console", "qmp": "vm.qmp"}
    devices = [
        {"filename": f"unix:/tmp/{file},server", "label": name} for name, file in names.items()
    ]
    return [{"filename": "vc", "label": "monitor"}, *devices]


def _drives(vm: Vm) -> list[tuple[str, Vm]]:
    return [
        (f"{disk.get('model', 'virtio')}{index}", disk)
        for index, disk in enumerate(vm.get("disks", []))
    ]


def _block(_node: "node_module.Node", vm: Vm) -> list[Vm]:
    return [
        {
            "device": name,
            "locked": False,
            "removable": disk.get("media") == "cdrom",
            "inserted": {
                "ro": disk.get("media") == "cdrom",
                "drv": "raw",
                "encrypted": False,
                "file": disk["path"],
            },
            "type": disk.get("media", "disk").replace("disk", "hd"),
        }
        for name, disk in _drives(vm)
    ]


def _blockstats(_node: "node_module.Node", vm: Vm) -> list[Vm]:
    figures = ("wr_highest_offset", "wr_bytes", "wr_operations", "rd_bytes", "rd_operations")
    stats = dict.fromkeys(figures, 0)
    return [
        {"device": name, "parent": {"stats": dict(stats)}, "stats": dict(stats)}
        for name, _ in _drives(vm)
    ]


def _cpus(_node: "node_module.Node", vm: Vm) -> list[Vm]:
    first_thread = int(vm.get("pid") or 0)
    return [
        {
            "current": cpu == 0,
            "CPU": cpu,
            "pc": -2130506112,
            "halted": True,
            "thread_id": first_thread + cpu + 1,
        }
        for cpu in range(vm.get("vcpus", 1))
    ]


def _pci(_node: "node_module.Node", vm: Vm) -> list[Vm]:
    nics = [("Ethernet controller", 0x1000, 512) for nic in vm.get("nics", [])]
    disks = [("SCSI controller", 0x1001, 256) for disk in vm.get("disks", [])]
    fixed = [("Host bridge", 0x1237, 1536), ("ISA bridge", 0x7000, 1537)]
    devices = [
        {
            "bus": 0,
            "slot": slot,
            "function": 0,
            "class_info": {"class": number, "desc": kind},
            "id": {"device": device, "vendor": 0x8086 if slot < len(fixed) else 0x1AF4},
            "regions": [],
            "qdev_id": "",
        }
        for slot, (kind, device, number) in enumerate(fixed + nics + disks)
    ]
    return [{"bus": 0, "devices": devices}]


def _kvm(_node: "node_module.Node", _vm: Vm) -> Vm:
    return {"enabled": True, "present": True}


_Question = typing.Callable[["node_module.Node", Vm], typing.Any]
_KVM: dict[str, _Question] = {
    "status": _status,
    "version": _version,
    "chardev": _chardev,
    "block": _block,
    "blockstats": _blockstats,
    "cpus": _cpus,
    "pci": _pci,
    "kvm": _kvm,
    "vnc": vnc,
    "spice": _spice,
}


def screenshot(path: pathlib.Path) -> None:
    """A picture of the guest's screen, which is black."""
    width, height = 720, 400
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + bytes(3 * width * height))
