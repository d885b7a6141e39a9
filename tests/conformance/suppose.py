# SPDX-License-Identifier: Apache-2.0
"""The state that a recorded command supposes, rebuilt from what the records say of it.

The recorded series have gaps, so the commands that are there do not make the state by
themselves. What a case supposes is read from its own answer ("is already not 'running'
(currently: stopped)"), and what a VM looked like from the nearest records that show it: the
payload that made it, or a `get`. Where several are possible they are tried in turn.
"""

import copy
import functools
import json
import re
import subprocess
import time
import typing

from tests.conformance import build, compare, records, suppose_images, suppose_rules, world

Vm = records.Vm
Arrange = typing.Callable[[], None]
Arranges = typing.Iterator[Arrange]

_ABSENT = re.compile(r"VM \S+ not found|bad statusCode: 404|No such zone|ENOENT, open")
_STATES = (r"currently: (\w+)", r"is already '(\w+)'", r"(?:state is|state) \"(\w+)\"")
_READY = {
    **dict.fromkeys(("stop", "halt", "reboot", "kill", "info", "sysrq"), "running"),
    **dict.fromkeys(("start", "boot"), "stopped"),
    "install": "receiving",
}
# What an answer tells of the VM that it speaks of.
_TRAITS: tuple[tuple[str, Vm], ...] = (
    (r"no info types supported for brand joyent-minimal", {"brand": "joyent-minimal"}),
    (r"no info types supported for brand joyent", {"brand": "joyent"}),
    (r"no info types supported for brand lx", {"brand": "lx"}),
    (r"does not yet support reprovision", {"brand": "kvm"}),
    (r"Timeout option is only supported", {"brand": "joyent"}),
    (r"sysrq command is only supported", {"brand": "joyent", "state": "running"}),
    (r"Sent NMI|Sent screenshot", {"brand": "kvm", "state": "running"}),
    (r"Cannot find running init PID", {"state": "stopped"}),
    (r"indestructible_zoneroot is set", {"indestructible_zoneroot": True}),
    (r"indestructible_delegated is set", {"indestructible_delegated": True}),
)
_SIZE = re.compile(r"current size\. \((\d+) >")
_MOST = 8
_EVENT_SECONDS = 3.0


class State:
    """One series: what is known of its VMs, images and rules, and the node to put them on."""

    def __init__(self, node: world.World, series: list[world.Case]) -> None:
        self._node = node
        self._series = series
        self._vms = records.known_vms(series)
        self._images = suppose_images.Images(node, series, self)
        self._rules = suppose_rules.Rules(node, series, self)
        self._bundle = b""
        self._bundled = ""

    def clear(self) -> None:
        """Begin a series on a fresh node."""
        self.remove_all()
        self._rules.clear()
        self._images.clear()

    def run(self, case: world.Case) -> world.Done:
        """Run the recorded command line."""
        argv = compare.argv_of(case)
        if argv[:2] == ["vmadm", "events"] and case["rc"] == 124:
            return self._first_event(argv, case)
        if self._bundle:
            return self._receive(argv, slowly="timeout exceeded" in case["stderr"])
        return self._node.run(argv[0], *argv[1:], raw=case["stdin"] or "")

    def after(self, case: world.Case) -> None:
        """Heal what was broken for a case."""
        self._bundle = b""
        if "ECONNREFUSED" in case["stderr"]:
            self._node.fault("vminfod", "up")

    def candidates(self, case: world.Case) -> Arranges:
        """The states to try, the likeliest first."""
        argv = compare.argv_of(case)
        if "ECONNREFUSED" in case["stderr"]:
            yield functools.partial(self._node.fault, "vminfod", "down")
        elif argv[0] == "imgadm":
            yield from self._images.candidates(case, argv)
        elif argv[0] == "fwadm":
            yield from self._rules.candidates(case, argv)
        elif argv[1:2] == ["create"]:
            yield from self._for_create(case)
        elif argv[1:2] in (["list"], ["lookup"], ["events"]):
            yield from self._for_listing(case, argv)
        elif argv[1:2] in (["receive"], ["recv"]):
            yield from self._for_receive(case)
        elif any(map(records.UUID.fullmatch, argv[2:])):
            yield from self._for_vm(case, argv)
        elif argv[1:2] == ["validate"]:
            yield functools.partial(self._images.ensure_for, records.document(case["stdin"]))
        else:
            yield nothing

    # one VM

    def _for_vm(self, case: world.Case, argv: list[str]) -> Arranges:
        uuid = next(word for word in argv[2:] if records.UUID.fullmatch(word))
        if _ABSENT.search(case["stderr"]) and "snapshot" not in case["stderr"]:
            yield functools.partial(self.without, uuid)
            return
        state = _supposed_state(case, argv)
        payload = records.document(case["stdin"])
        for image in {payload.get("image_uuid"), *records.UUID.findall(case["stderr"])}:
            self._images.ensure(image)
        yield functools.partial(self.vm_in_state, uuid, state, case, argv)
        for vm in self._likely(uuid, case, argv, payload)[:_MOST]:
            yield functools.partial(self.rebuild, vm, state, case, argv)

    def _likely(self, uuid: str, case: world.Case, argv: list[str], payload: Vm) -> list[Vm]:
        """What the VM may look like, the likeliest first."""
        shown = records.document(case["stdout"])
        if argv[1] in ("get", "json") and shown.get("uuid") == uuid:
            return [shown]
        traits = _traits(case)
        devices = {*re.findall(r'"device": "virtio(\d+)"', case["stdout"] or "")}
        known = [vm for vm in self.nearest(uuid, case) if _fits(vm, traits)]
        known += [vm for vm in self._any_brand(uuid) if _fits(vm, traits)]
        found = []
        for vm in known:
            vm = {**vm, **traits}
            if devices and vm.get("disks"):
                vm["disks"] = vm["disks"][: len(devices)]
            more = _with_parts(vm, payload, case["stderr"])
            found += [more] if more != vm and "no existing" not in case["stderr"] else []
            found.append(vm)
        return found

    def nearest(self, uuid: str, case: world.Case) -> list[Vm]:
        """What is known of a VM, the nearest record before the case first, then those after."""
        known = sorted(
            self._vms.get(uuid, ()),
            key=lambda entry: (entry[0] > case["seq"], abs(entry[0] - case["seq"])),
        )
        there = [vm for vm in self._node.environment["vmobjs"].values() if vm["uuid"] == uuid]
        if not known and not there:
            return [self.plain(uuid)]
        return [*(vm for _, vm in known), *there]

    def knows(self, uuid: str) -> bool:
        """Whether the records tell of such a VM."""
        return uuid in self._vms

    def plain(self, uuid: str) -> Vm:
        """A small zone: what a VM is taken for of which nothing is known."""
        image = self._images.of_type("zone-dataset")
        return {"uuid": uuid, "brand": "joyent", "image_uuid": image}

    def _any_brand(self, uuid: str) -> list[Vm]:
        """A VM of each brand as environment.json has one, with another uuid and no addresses."""
        made = []
        for vm in self._node.environment["vmobjs"].values():
            text = json.dumps({**vm, "nics": [], "routes": {}, "disks": vm.get("disks", [])})
            made.append(json.loads(text.replace(vm["uuid"], uuid)))
        return made

    def vm_in_state(self, uuid: str, state: str | None, case: world.Case, argv: list[str]) -> None:
        """Keep the VM that is there, in the wanted state; make one when there is none."""
        vm = self._node.vm(uuid)
        if vm is None:
            return self.rebuild(self.nearest(uuid, case)[0], state, case, argv)
        if state and vm["state"] != state:
            if {state, vm["state"]} != {"running", "stopped"}:
                return self.rebuild(vm, state, case, argv)
            self._node.must("vmadm", "start" if state == "running" else "stop", uuid)
        self._unprotect(uuid, vm, case, argv)
        self._snapshots(uuid, case, argv)

    def rebuild(self, vm: Vm, state: str | None, case: world.Case, argv: list[str]) -> None:
        """Make the VM anew, after whatever cannot be beside it went."""
        self.without(vm["uuid"])
        self._images.ensure_for(vm)
        for other in self._node.uuids():
            if _clash(vm, self._node.vm(other) or {}):
                self._node.remove_vm(other)
        build.make(self._node, vm, state)
        self._unprotect(vm["uuid"], vm, case, argv)
        self._snapshots(vm["uuid"], case, argv)

    def _unprotect(self, uuid: str, vm: Vm, case: world.Case, argv: list[str]) -> None:
        if argv[1] not in ("delete", "destroy", "reprovision") or case["rc"] != 0:
            return
        for key in ("indestructible_zoneroot", "indestructible_delegated"):
            if vm.get(key):
                self._node.must("vmadm", "update", uuid, document={key: False})

    def _snapshots(self, uuid: str, case: world.Case, argv: list[str]) -> None:
        if not argv[1].endswith("-snapshot") or len(argv) < 4:
            return
        name = argv[3]
        present = {s["name"] for s in (self._node.vm(uuid) or {}).get("snapshots", ())}
        wanted = "already exists" in case["stderr"] or (
            argv[1] != "create-snapshot" and case["rc"] == 0
        )
        if wanted and name not in present:
            self._node.must("vmadm", "create-snapshot", uuid, name)
        elif not wanted and name in present:
            self._node.must("vmadm", "delete-snapshot", uuid, name)

    def without(self, uuid: str) -> None:
        """Have no such VM, nor what one that was never installed leaves."""
        vm = self._node.vm(uuid)
        if vm is None:
            return
        self._node.remove_vm(uuid)
        if vm["zone_state"] == "configured":
            for name in self._node.must("zfs", "list", "-H", "-o", "name").stdout.split():
                if name.startswith(f"zones/{uuid}"):
                    self._node.run("zfs", "destroy", "-r", name)

    def remove_all(self) -> None:
        """Have no VM."""
        for uuid in self._node.uuids():
            self._node.remove_vm(uuid)

    # creation and receiving

    def _for_create(self, case: world.Case) -> Arranges:
        payload, argv = records.document(case["stdin"]), compare.argv_of(case)
        uuid = payload.get("uuid", "")
        self._images.ensure_for(payload)
        if "timed out" in case["stderr"]:
            self.without(uuid)
            yield functools.partial(self._node.fault, "guest", uuid, "provision=never")
        if "already exists" in case["stderr"]:
            yield functools.partial(self.vm_in_state, uuid, None, case, argv)
        yield functools.partial(self.without, uuid)
        if "Invalid value(s)" in case["stderr"]:
            yield functools.partial(self._images.without_those_of, payload)
        if case["rc"] == 0:
            yield self.remove_all
        if "Conflict detected" in case["stderr"]:
            known = [vm for entries in self._vms.values() for _, vm in entries]
            other = {**self.plain("ffffffff-0000-4000-8000-000000000001")}
            other["nics"] = payload.get("nics") or payload.get("add_nics") or []
            for vm in [*filter(functools.partial(_clash, payload), known), other]:
                yield functools.partial(self.rebuild, vm, "running", case, argv)

    def _for_receive(self, case: world.Case) -> Arranges:
        named = records.UUID.findall(case["stderr"])
        if case["stdin"] or not named:
            yield nothing
            return
        for vm in self.nearest(named[0], case):
            yield functools.partial(self._have_bundle, vm, case)

    def _have_bundle(self, vm: Vm, case: world.Case) -> None:
        self.rebuild(vm, "stopped", case, ["vmadm", "receive"])
        self._bundle = build.bundle(self._node, vm["uuid"])
        self._bundled = vm["uuid"]
        if "already exists" in case["stderr"]:
            self.rebuild(vm, "stopped", case, ["vmadm", "receive"])

    def _receive(self, argv: list[str], *, slowly: bool) -> world.Done:
        """Receive the bundle; slowly is with more than vminfod's minute before its last bytes."""
        program = f"{self._node.node.tools}/{argv[0]}"
        with subprocess.Popen([program, *argv[1:]], **_PIPES) as process:
            assert process.stdin
            process.stdin.write(self._bundle[:-1])
            process.stdin.flush()
            if slowly:
                self._outlast_the_minute(process)
            out, err = process.communicate(self._bundle[-1:], timeout=world.SECONDS)
        return world.Done(process.returncode, out.decode(), err.decode())

    def _outlast_the_minute(self, process: "subprocess.Popen[bytes]") -> None:
        """Send nothing for 90 of the node's seconds, from when the VM shows as receiving."""
        deadline = time.monotonic() + world.SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if (self._node.vm(self._bundled) or {}).get("state") == "receiving":
                time.sleep(90 / world.SPEED)
                return

    # listings

    def _for_listing(self, case: world.Case, argv: list[str]) -> Arranges:
        yield nothing
        if case["rc"] not in (0, 124):
            yield functools.partial(self._as_many, case, argv)
            return
        yield functools.partial(self._only, case, argv)
        yield functools.partial(self._only, case, argv, anew=True)

    def _as_many(self, case: world.Case, argv: list[str]) -> None:
        """Have as many VMs that a unique lookup finds as it complains of."""
        found = re.search(r"but found (\d+) results", case["stderr"])
        wanted = int(found[1]) if found else 0
        for uuid in records.population(self._series, case["seq"]) - {*self._node.uuids()}:
            self.vm_in_state(uuid, None, case, argv)
        query = [word for word in argv if word not in ("-1", "-u", "--unique")]
        here = self._node.run(*query).stdout.split()
        for uuid in here[wanted:]:
            self._node.remove_vm(uuid)
        shape = records.rows({**case, "stdout": _numbered(wanted)}, argv)
        for row in shape[len(here) :]:
            self.rebuild({**self.plain(row["uuid"]), **row}, None, case, argv)

    def _only(self, case: world.Case, argv: list[str], *, anew: bool = False) -> None:
        """Have the VMs that the listing shows, and no other that it would show.

        Where nothing sorts them they stand as they were made: `anew` makes all in that order.
        """
        wanted = self._identified(case, argv)
        filtered = any("=" in word for word in argv[2:])
        if filtered:
            here = set(records.UUID.findall(self._node.run(*argv).stdout))
        else:
            here = set(self._node.uuids())
        for uuid in here - (set() if anew else {row["uuid"] for row in wanted}):
            self._node.remove_vm(uuid)
        for row in wanted:
            vm = row if build.is_shown(row) else self._completed(row, case)
            present = self._node.vm(row["uuid"])
            if present is None or build.is_shown(row) or not _looks_like(present, row):
                self.rebuild(vm, vm.get("state"), case, argv)

    def _completed(self, row: Vm, case: world.Case) -> Vm:
        """A VM that shows what a row shows, made of what is known of it or of its brand."""
        known = [*self.nearest(row["uuid"], case), *self._any_brand(row["uuid"])]
        kind = records.kind_of(row)
        like = next((vm for vm in known if kind in (None, records.kind_of(vm))), known[0])
        brand = {"brand": like["brand"]} if "type" in row else {}
        return {**like, **row, **brand}

    def _identified(self, case: world.Case, argv: list[str]) -> list[Vm]:
        """The rows of a listing, each with a uuid: it may not show them."""
        found = []
        for number, row in enumerate(records.rows(case, argv)):
            like = (u for u, told in self._vms.items() if any(_fits(vm, row) for _, vm in told))
            spare = f"ffffffff-0000-4000-8000-{number:012d}"
            found.append({**row, "uuid": row.get("uuid") or next(like, spare)})
        return found

    def _first_event(self, argv: list[str], case: world.Case) -> world.Done:
        """What `vmadm events` says before anything happens."""
        with subprocess.Popen([f"{self._node.node.tools}/vmadm", *argv[1:]], **_PIPES) as process:
            assert process.stdout
            line = process.stdout.readline().decode() if case["stdout"] else ""
            process.kill()
        return world.Done(124, line, "")


_PIPES: dict[str, typing.Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


def nothing() -> None:
    """Suppose what is there."""


def _supposed_state(case: world.Case, argv: list[str]) -> str | None:
    for pattern in _STATES:
        if match := re.search(pattern, case["stderr"]):
            return match[1]
    shown = _traits(case).get("state") or records.document(case["stdout"]).get("state")
    if shown:
        return str(shown)
    return _READY.get(argv[1]) if case["rc"] == 0 else None


def _traits(case: world.Case) -> Vm:
    found: Vm = {}
    for pattern, traits in _TRAITS:
        if re.search(pattern, case["stderr"]):
            found = {**traits, **found}
    return found


def _fits(vm: Vm, traits: Vm) -> bool:
    """Whether the brand, the uuid and the name that are wanted are those of a VM."""
    return all(vm.get(key) == traits[key] for key in ("brand", "uuid", "alias") if key in traits)


def _looks_like(vm: Vm, row: Vm) -> bool:
    """Whether a VM shows what a row of a listing shows."""
    shown = {key: value for key, value in row.items() if key not in ("type", "ram")}
    return all(str(vm.get(key)) == str(value) for key, value in shown.items())


def _with_parts(vm: Vm, payload: Vm, said: str) -> Vm:
    """The VM with the nics and disks that an update of it takes away or changes."""
    named = [*(payload.get("remove_nics") or ()), *_each(payload, "update_nics", "mac")]
    here = [nic.get("mac") for nic in vm.get("nics") or ()]
    nics = [
        {"mac": mac, "nic_tag": "internal", "ips": [f"192.168.5.{5 + number}/24"]}
        for number, mac in enumerate(named)
        if mac not in here
    ]
    disks = _missing_disks(vm, payload, said)
    more = _with_size(vm, payload, said)
    if nics:
        more["nics"] = [*(vm.get("nics") or ()), *nics]
    if disks:
        more["disks"] = [*(vm.get("disks") or ()), *disks]
    return more


def _with_size(vm: Vm, payload: Vm, said: str) -> Vm:
    """The VM with the size that an update found its disk to have."""
    size, more = _SIZE.search(said), copy.deepcopy(vm)
    paths = _each(payload, "update_disks", "path")
    for number, disk in enumerate(more.get("disks") or ()):
        if size and any(str(path).endswith(f"disk{number}") for path in paths):
            disk["size"] = int(size[1])
    return more


def _missing_disks(vm: Vm, payload: Vm, said: str) -> list[Vm]:
    paths = [*(payload.get("remove_disks") or ()), *_each(payload, "update_disks", "path")]
    numbers = [int(n) for path in paths for n in re.findall(r"disk(\d+)$", str(path))]
    size = _SIZE.search(said)
    shown = {disk.get("path") for disk in vm.get("disks") or ()}
    if not numbers or shown & set(paths):
        return []
    disk = {"model": "virtio", "media": "disk", "boot": False, "size": 1024}
    if size:
        disk["size"] = int(size[1])
    start = len(vm.get("disks") or ())
    wanted = range(start, max(numbers) + 1)
    if not build.is_shown(vm):
        return [disk for _ in wanted]
    top = f"/dev/zvol/rdsk/zones/{vm['uuid']}"
    gap = "-" if vm["brand"] == "kvm" else "/"
    return [{**disk, "path": f"{top}{gap}disk{number}"} for number in wanted]


def _each(payload: Vm, array: str, key: str) -> list[typing.Any]:
    return [one.get(key) for one in payload.get(array) or () if isinstance(one, dict)]


def _numbered(count: int) -> str:
    return "".join(f"ffffffff-0000-4000-8000-{number:012d}\n" for number in range(count))


def _clash(one: Vm, other: Vm) -> bool:
    """Whether two VMs cannot be on one node: an address that both have."""

    def addresses(vm: Vm) -> set[str]:
        nics = [nic for nic in vm.get("nics") or () if isinstance(nic, dict)]
        ips = [ip.partition("/")[0] for nic in nics for ip in nic.get("ips", [nic.get("ip", "")])]
        return {*ips, *(nic.get("mac", "") for nic in nics)} - {"", "dhcp", "addrconf"}

    return one.get("uuid") != other.get("uuid") and bool(addresses(one) & addresses(other))
