# SPDX-License-Identifier: Apache-2.0
"""As much of a node as its network, its metrics and the tools that show them touch."""

import dataclasses
import datetime
import importlib
import io
import pathlib
import threading

from smartos_emulator import call as call_module
from smartos_emulator import faults, metrics, network, state

ONE = "0b6b1c52-7a9e-4d63-8f57-000000000001"
TWO = "0b6b1c52-7a9e-4d63-8f57-000000000002"


class HandClock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.booted = datetime.datetime(2026, 3, 1, 8, 0, tzinfo=datetime.UTC)
        self.seconds = 100.0
        self.speed = 1.0
        self.stopping = threading.Event()

    def monotonic(self):
        return self.seconds

    def now(self):
        return self.booted + datetime.timedelta(seconds=self.seconds)

    def sleep(self, seconds):
        self.seconds += seconds


@dataclasses.dataclass
class Config:
    name: str = "emu0"
    uuid: str = "4d3c2b1a-0000-4000-8000-0123456789ab"
    platform: str = "20260312T000000Z"
    cpus: int = 4
    memory_mib: int = 16384
    pools: dict = dataclasses.field(default_factory=lambda: {"zones": 10 << 30})
    nic_tags: tuple = ("admin", "external")
    etherstubs: tuple = ("stub0",)
    overlay_rules: tuple = ("sdc_overlay",)
    bhyve: bool = True
    lacking_probes: tuple = ()
    admin_ip: str = "10.0.0.2"
    seed: int = 7


class Storage:
    def exists(self, name):
        return name == "zones"

    def number(self, name, prop):
        return {"used": 1 << 30, "available": 9 << 30, "creation": 1700000000}[prop]


class Vms:
    def __init__(self):
        self.records = []
        self.vminfod = True

    def all(self):
        return self.records

    seen = all

    def get(self, uuid):
        return next((vm for vm in self.records if vm["uuid"] == uuid), None)

    def set_vminfod(self, up):
        self.vminfod = up


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str


class Node:
    def __init__(self, directory, **settings):
        self.dir = directory
        self.config = Config(**settings)
        self.clock = HandClock()
        self.storage = Storage()
        self.vms = Vms()
        self.network = network.Network(self)
        self.metrics = metrics.Metrics(self)
        self.faults = faults.Faults(self.config.seed)

    def path(self, node_path):
        return self.dir / "root" / node_path.lstrip("/")

    def host_path(self, path):
        return pathlib.Path(path)

    def state_file(self, name):
        return state.File(self.dir / "state" / f"{name}.json")

    def start(self, zoneid, uuid=ONE, **properties):
        """A running zone with one nic; its record."""
        vm = {
            "uuid": uuid,
            "zonename": uuid,
            "brand": "joyent",
            "state": "running",
            "max_physical_memory": 256,
            "max_swap": 512,
            "boot_timestamp": "2026-03-01T08:01:00.000Z",
            "nics": [
                {
                    "interface": "net0",
                    "mac": "02:08:20:01:02:03",
                    "nic_tag": "external",
                    "ips": ["10.0.0.9/24"],
                }
            ],
            **properties,
        }
        self.vms.records = [*(r for r in self.vms.records if r["uuid"] != uuid), vm]
        self.network.plug(vm, zoneid)
        self.metrics.boot(vm, zoneid)
        return vm

    def halt(self, vm, zoneid):
        vm["state"] = "stopped"
        self.metrics.halt(zoneid)
        self.network.unplug(vm)

    def run(self, *words):
        """A run of one of the node's tools."""
        tool = importlib.import_module(f"smartos_emulator.tools.{words[0]}")
        out, err = io.BytesIO(), io.BytesIO()
        call = call_module.Call(list(words), self, {}, "/", io.BytesIO(), out, err)
        status = call.serve(tool.main)
        return Result(status, out.getvalue().decode(), err.getvalue().decode())

    def kstat(self, module, name, instance=None):
        """The values of one kstat."""
        (found,) = [
            each
            for each in self.metrics.read()
            if (each.module, each.name) == (module, name) and instance in (None, each.instance)
        ]
        return found
