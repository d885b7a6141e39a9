# SPDX-License-Identifier: Apache-2.0
"""The state that a recorded command supposes, rebuilt from what the records say of it.

The recorded series have gaps, so the commands that are there do not make the state by
themselves. What a case supposes is read from its own answer ("is already not 'running'
(currently: stopped)"), and what a VM looked like from the nearest records that show it: the
payload that made it, or a `get`. Where several are possible they are tried in turn.
"""

import functools
import json
import re
import shlex
import subprocess
import typing

from tests.conformance import world

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ABSENT = re.compile(
    r"VM \S+ not found|bad statusCode: 404|No such zone|ENOENT, open|was not found"
)
_STATE = re.compile(r"currently: (\w+)|is already '(\w+)'|state (?:is )?\"(\w+)\"")
_BRANDS = {"OS": "joyent", "LX": "lx", "KVM": "kvm", "BHYV": "bhyve"}
_READY = {"stop": "running", "reboot": "running", "start": "stopped", "kill": "running"}
_SECONDS = 20

Arrange = typing.Callable[[], None]


class State:
    """One series: what is known of its VMs, images and rules, and the node to put them on."""

    def __init__(self, node: world.World, series: list[world.Case]) -> None:
        self._node = node
        self._vms = _known_vms(series)
        self._manifests = {**node.environment["images"], **_known_manifests(series)}
        self._rules = _known_rules(series)

    def clear(self) -> None:
        """Begin a series on a fresh node."""
        for uuid in self._node.uuids():
            self._node.remove_vm(uuid)
        for rule in json.loads(self._node.must("fwadm", "list", "-j").stdout):
            self._node.must("fwadm", "delete", rule["uuid"])
        self._have_images(set())

    def run(self, case: world.Case) -> world.Done:
        """Run the recorded command line."""
        argv = _argv(case)
        if argv[:2] == ["vmadm", "events"]:
            return self._first_event(argv)
        return self._node.run(argv[0], *argv[1:], raw=case["stdin"] or "")

    def after(self, case: world.Case) -> None:
        """Heal what was broken for a case."""
        if "ECONNREFUSED" in case["stderr"]:
            self._node.node.command("fault", str(self._node.node.directory), "vminfod", "up")

    def candidates(self, case: world.Case) -> typing.Iterator[Arrange]:
        """The states to try, the likeliest first."""
        argv = _argv(case)
        if "ECONNREFUSED" in case["stderr"]:
            down = ("fault", str(self._node.node.directory), "vminfod", "down")
            yield functools.partial(self._node.node.command, *down)
        elif argv[0] == "imgadm":
            yield from self._for_imgadm(case, argv)
        elif argv[0] == "fwadm":
            yield from self._for_fwadm(case)
        elif argv[1:2] == ["create"]:
            yield from self._for_create(case)
        elif argv[1:2] in (["list"], ["lookup"], ["events"]):
            yield from self._for_listing(case)
        elif len(argv) > 2 and any(map(_UUID.fullmatch, argv[2:])):
            yield from self._for_vm(case, argv)
        else:
            yield _nothing

    # VMs

    def _for_vm(self, case: world.Case, argv: list[str]) -> typing.Iterator[Arrange]:
        uuid = next(word for word in argv[2:] if _UUID.fullmatch(word))
        if _ABSENT.search(case["stderr"]) and "snapshot" not in case["stderr"]:
            yield functools.partial(self._without, uuid)
            return
        state = _supposed_state(case, argv)
        payload = _json(case["stdin"])
        for image in {payload.get("image_uuid"), *_UUID.findall(case["stderr"])} - {None}:
            self._ensure_image(image)
        yield functools.partial(self._vm_in_state, uuid, state, case, argv)
        for vm in self._nearest(uuid, case):
            yield functools.partial(self._rebuild, vm, state, case, argv)
            if missing := _missing_nics(payload, vm):
                more = {**vm, "nics": [*vm.get("nics", ()), *missing]}
                yield functools.partial(self._rebuild, more, state, case, argv)

    def _nearest(self, uuid: str, case: world.Case) -> list[world.Case]:
        """What is known of a VM, what this case shows first, then the nearest before and after."""
        shown = _json(case["stdout"])
        known = sorted(
            self._vms.get(uuid, ()),
            key=lambda entry: (entry[0] > case["seq"], abs(entry[0] - case["seq"])),
        )
        here = [shown] if shown.get("uuid") == uuid else []
        there = [vm for vm in self._node.environment["vmobjs"].values() if vm["uuid"] == uuid]
        default = {"uuid": uuid, "brand": "joyent", "image_uuid": self._image_of("zone-dataset")}
        return [*here, *(vm for _, vm in known), *there, default]

    def _vm_in_state(self, uuid: str, state: str | None, case: world.Case, argv: list[str]) -> None:
        vm = self._node.vm(uuid)
        if vm is None:
            return self._rebuild(self._nearest(uuid, case)[0], state, case, argv)
        if state and vm["state"] != state:
            if {state, vm["state"]} != {"running", "stopped"}:
                return self._rebuild(vm, state, case, argv)
            self._node.must("vmadm", "start" if state == "running" else "stop", uuid)
        self._snapshots(uuid, case, argv)

    def _rebuild(
        self, vm: world.Case, state: str | None, case: world.Case, argv: list[str]
    ) -> None:
        self._without(vm["uuid"])
        self._images_for(vm)
        for other in self._node.uuids():
            if _clash(vm, self._node.vm(other) or {}):
                self._node.remove_vm(other)
        self._make(vm, state or vm.get("state", "running"))
        self._snapshots(vm["uuid"], case, argv)

    def _make(self, vm: world.Case, state: str) -> None:
        if state == "failed":
            guest = ("fault", str(self._node.node.directory), "guest", vm["uuid"])
            self._node.node.command(*guest, "provision=never")
            self._node.run("vmadm", "create", document=world.payload_of({**vm, "autoboot": True}))
        elif state == "receiving":
            self._node.make_vm(vm, "stopped")
            self._receive(vm["uuid"])
        else:
            self._node.make_vm(vm, state)
        if vm.get("exit_timestamp") and state == "stopped":
            self._node.must("vmadm", "start", vm["uuid"])
            self._node.must("vmadm", "stop", vm["uuid"])

    def _receive(self, uuid: str) -> None:
        """Send the VM, delete it, and receive it into the 60 second trap."""
        tools = self._node.node.tools
        with subprocess.Popen([f"{tools}/vmadm", "send", uuid], stdout=subprocess.PIPE) as sending:
            bundle = sending.communicate(timeout=world.SECONDS)[0]
        self._node.remove_vm(uuid)
        subprocess.run(
            [f"{tools}/vmadm", "receive"], input=bundle, timeout=world.SECONDS, check=False
        )

    def _snapshots(self, uuid: str, case: world.Case, argv: list[str]) -> None:
        action = argv[1]
        if not action.endswith("-snapshot") or len(argv) < 4:
            return
        name = argv[3]
        present = {s["name"] for s in (self._node.vm(uuid) or {}).get("snapshots", ())}
        wanted = "already exists" in case["stderr"] or (
            action != "create-snapshot" and case["rc"] == 0
        )
        if wanted and name not in present:
            self._node.must("vmadm", "create-snapshot", uuid, name)
        elif not wanted and name in present:
            self._node.must("vmadm", "delete-snapshot", uuid, name)

    def _without(self, uuid: str) -> None:
        if uuid in self._node.uuids():
            self._node.remove_vm(uuid)

    def _for_create(self, case: world.Case) -> typing.Iterator[Arrange]:
        payload = _json(case["stdin"])
        uuid = payload.get("uuid", "")
        self._images_for(payload)
        if "timed out" in case["stderr"] or "provision_failure" in case["name"]:
            outcome = "never" if "timed out" in case["stderr"] else "failure"
            guest = ("fault", str(self._node.node.directory), "guest", uuid)
            yield functools.partial(self._node.node.command, *guest, f"provision={outcome}")
        if "already exists" in case["stderr"]:
            yield functools.partial(self._vm_in_state, uuid, None, case, _argv(case))
        yield functools.partial(self._without, uuid)
        if case["rc"] == 0:
            yield self._remove_all
        for entries in self._vms.values():
            for _, vm in entries:
                if _clash(payload, vm):
                    argv = _argv(case)
                    yield functools.partial(self._rebuild, vm, "running", case, argv)

    def _remove_all(self) -> None:
        for uuid in self._node.uuids():
            self._node.remove_vm(uuid)

    def _for_listing(self, case: world.Case) -> typing.Iterator[Arrange]:
        yield _nothing
        yield functools.partial(self._only, case)

    def _only(self, case: world.Case) -> None:
        """Have the VMs that the listing shows, and no other that it would show."""
        rows = _rows(case["stdout"])
        filtered = any("=" in word for word in _argv(case)[2:])
        here = set(_UUID.findall(self.run(case).stdout)) if filtered else set(self._node.uuids())
        for uuid in here - set(rows):
            self._node.remove_vm(uuid)
        for uuid, row in rows.items():
            vm = {**self._nearest(uuid, case)[0], **row}
            self._rebuild(vm, vm.get("state"), case, ["vmadm", "list"])

    def _first_event(self, argv: list[str]) -> world.Done:
        program = f"{self._node.node.tools}/{argv[0]}"
        with subprocess.Popen([program, *argv[1:]], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            line = process.stdout.readline()
            process.kill()
        return world.Done(124, line, "")

    # images

    def _image_of(self, kind: str) -> str:
        return next(u for u, manifest in self._manifests.items() if manifest["type"] == kind)

    def _images_for(self, payload: world.Case) -> None:
        disks = [disk for disk in payload.get("disks") or () if isinstance(disk, dict)]
        for part in (payload, *disks):
            self._ensure_image(part.get("image_uuid"))

    def _ensure_image(self, uuid: typing.Any) -> None:
        if uuid in self._manifests and uuid not in self._installed():
            self._node.install_image(self._manifests[uuid])

    def _installed(self) -> set[str]:
        shown = json.loads(self._node.must("imgadm", "list", "-j").stdout)
        return {info["manifest"]["uuid"] for info in shown}

    def _have_images(self, wanted: set[str]) -> None:
        present = self._installed()
        for uuid in present - wanted:
            self._remove_clones(uuid)
            self._node.must("imgadm", "delete", uuid)
        for uuid in wanted - present:
            self._node.install_image(self._manifests[uuid])

    def _remove_clones(self, image: str) -> None:
        shown = json.loads(self._node.must("vmadm", "lookup", "-j").stdout)
        for vm in shown:
            if image in json.dumps(vm):
                self._node.remove_vm(vm["uuid"])

    def _for_imgadm(self, case: world.Case, argv: list[str]) -> typing.Iterator[Arrange]:
        if argv[1:2] == ["install"]:
            yield functools.partial(self._write_install_files, case, argv)
            return
        uuids = {word for word in argv[2:] if _UUID.fullmatch(word)}
        known = {uuid for uuid in uuids if uuid in self._manifests}
        for uuid in known if "not found" not in case["stderr"] else ():
            self._ensure_image(uuid)
        vms = {u for u in _UUID.findall(case["stderr"]) if u in self._vms} | (uuids - known)
        if argv[1:2] == ["create"] or "dependent clones" in case["stderr"]:
            for uuid in vms if not _ABSENT.search(case["stderr"]) else ():
                self._vm_in_state(uuid, None, case, argv)
        yield _nothing
        yield from self._for_sources(case)
        shown = set(_UUID.findall(case["stdout"])) & set(self._manifests)
        yield functools.partial(self._have_images, shown | known)
        yield functools.partial(self._have_images, set(self._node.environment["images"]))

    def _for_sources(self, case: world.Case) -> typing.Iterator[Arrange]:
        """The image sources that the answer names, and no other."""
        named = sorted(set(re.findall(r"https?://[^\s:\",]+", case["stderr"] + case["stdout"])))
        if named:
            yield functools.partial(self._have_sources, named)

    def _have_sources(self, named: list[str]) -> None:
        shown = json.loads(self._node.must("imgadm", "sources", "-j").stdout)
        present = {source["url"] for source in shown}
        for url in present - set(named):
            self._node.must("imgadm", "sources", "-d", url)
        for url in set(named) - present:
            kind = "dsapi" if url.endswith("datasets") else "imgapi"
            self._node.must("imgadm", "sources", "-f", "-t", kind, "-a", url)

    def _write_install_files(self, case: world.Case, argv: list[str]) -> None:
        """Make the manifest and the file that give this answer: they were not recorded."""
        said = case["stdout"] + case["stderr"]
        match = re.search(r"(?:image|Image) ([0-9a-f-]{36}) \(([^@ ]+)[@ ]([^)]+)\)", said)
        uuid, name, version = match.groups() if match else (None, "mine", "1.0")
        manifest_name, file_name = argv[argv.index("-m") + 1], argv[argv.index("-f") + 1]
        base = f"{self._node.node.directory}.sample"
        words = ["--uuid", uuid] if uuid else []
        self._node.node.command("image", "zone", name, *words, "--output", base)
        with open(f"{base}.imgmanifest") as made, open(f"{base}.zfs.gz", "rb") as stream:
            manifest, content = json.load(made), stream.read()
        manifest |= {"version": version}
        _spoil(manifest, said)
        text = json.dumps(manifest)
        if "InvalidManifest" in said:
            text = text[:-1]
        if "manifest path does not exist" not in said:
            self._node.write(manifest_name, text)
        if "file path does not exist" not in said:
            self._node.write_bytes(file_name, content)

    # rules

    def _for_fwadm(self, case: world.Case) -> typing.Iterator[Arrange]:
        for uuid in _UUID.findall(case["cmd"] + case["stdout"]):
            if uuid in self._vms and self._node.vm(uuid) is None:
                state = None
                self._vm_in_state(uuid, state, case, ["vmadm", "get"])
        uuids = _UUID.findall(case["cmd"]) + _UUID.findall(case["stdin"] or "")
        absent = case["rc"] != 0 or case["stdout"] == "\n"
        if " add" in case["cmd"]:
            yield functools.partial(self._without_rules, set(uuids))
        elif not absent:
            yield functools.partial(self._with_rules, uuids, case)
        yield functools.partial(self._only_rules, case)

    def _with_rules(self, uuids: list[str], case: world.Case) -> None:
        present = {r["uuid"] for r in json.loads(self._node.must("fwadm", "list", "-j").stdout)}
        for uuid in set(uuids) & set(self._rules) - present:
            self._node.must("fwadm", "add", document=self._rules[uuid])

    def _without_rules(self, uuids: set[str]) -> None:
        for rule in json.loads(self._node.must("fwadm", "list", "-j").stdout):
            if rule["uuid"] in uuids:
                self._node.must("fwadm", "delete", rule["uuid"])

    def _only_rules(self, case: world.Case) -> None:
        shown = _rules_shown(case["stdout"], self._rules)
        present = json.loads(self._node.must("fwadm", "list", "-j").stdout)
        self._without_rules({rule["uuid"] for rule in present})
        for rule in shown:
            self._node.must("fwadm", "add", document=rule)


def _nothing() -> None:
    """Suppose what is there."""


def _argv(case: world.Case) -> list[str]:
    argv = shlex.split(case["cmd"])
    argv = argv[2:] if argv[0] == "timeout" else argv
    return [argv[0].rpartition("/")[2], *argv[1:]]


def _json(text: str | None) -> dict[str, typing.Any]:
    try:
        document = json.loads(text or "")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _supposed_state(case: world.Case, argv: list[str]) -> str | None:
    if match := _STATE.search(case["stderr"]):
        return next(filter(None, match.groups()))
    shown = _json(case["stdout"]).get("state")
    if shown:
        return str(shown)
    return _READY.get(argv[1]) if case["rc"] == 0 else None


def _missing_nics(payload: world.Case, vm: world.Case) -> list[world.Case]:
    """Nics that an update takes away or changes and that the VM does not have."""
    macs = [nic.get("mac") for nic in vm.get("nics", ())]
    named = [*payload.get("remove_nics", ()), *(n["mac"] for n in payload.get("update_nics", ()))]
    return [
        {"mac": mac, "nic_tag": "internal", "ips": [f"192.168.5.{5 + number}/24"]}
        for number, mac in enumerate(named)
        if mac not in macs
    ]


def _clash(one: world.Case, other: world.Case) -> bool:
    """Whether two VMs cannot be on one node: an address that both have."""

    def addresses(vm: world.Case) -> set[str]:
        nics = [nic for nic in vm.get("nics") or () if isinstance(nic, dict)]
        ips = [ip.partition("/")[0] for nic in nics for ip in nic.get("ips", [nic.get("ip", "")])]
        return {*ips, *(nic.get("mac", "") for nic in nics)} - {"", "dhcp", "addrconf"}

    return one.get("uuid") != other.get("uuid") and bool(addresses(one) & addresses(other))


def _known_vms(series: list[world.Case]) -> dict[str, list[tuple[int, world.Case]]]:
    """What the records of a series show of each VM, with their place in it."""
    known: dict[str, list[tuple[int, world.Case]]] = {}
    for case in series:
        argv, documents = _argv(case), []
        if argv[:2] == ["vmadm", "create"] and case["rc"] == 0:
            documents = [_json(case["stdin"])]
        elif argv[:2] == ["vmadm", "get"] and case["rc"] == 0:
            documents = [_json(case["stdout"])]
        elif argv[:2] == ["vmadm", "events"]:
            documents = [*_json(case["stdout"].split("\n")[0]).get("vms", {}).values()]
        for vm in documents:
            if "uuid" in vm:
                known.setdefault(vm["uuid"], []).append((case["seq"], vm))
    return known


def _known_manifests(series: list[world.Case]) -> dict[str, world.Case]:
    found = {}
    for case in series:
        try:
            shown = json.loads(case["stdout"] or "")
        except ValueError:
            continue
        for info in shown if isinstance(shown, list) else [shown]:
            if isinstance(info, dict) and "manifest" in info:
                found[info["manifest"]["uuid"]] = {
                    **info["manifest"],
                    "+source": info.get("source"),
                }
    return found


def _known_rules(series: list[world.Case]) -> dict[str, world.Case]:
    """Rules by uuid, as they were added or shown."""
    found = {}
    for case in series:
        if _argv(case)[0] != "fwadm":
            continue
        added = _json(case["stdin"])
        if "uuid" in added and "rule" in added and " add" in case["cmd"]:
            found[added["uuid"]] = added
        for rule in _rules_shown(case["stdout"], {}):
            found.setdefault(rule["uuid"], rule)
    return found


def _rules_shown(text: str, known: dict[str, world.Case]) -> list[world.Case]:
    """The rules that a listing shows, completed from what is known of them."""
    try:
        shown = json.loads(text or "")
    except ValueError:
        return [rule for line in text.split("\n") for rule in _rule_of_line(line, known)]
    rules = shown.get("rules", [shown]) if isinstance(shown, dict) else shown
    return [
        {k: v for k, v in r.items() if k not in ("version", "log")} for r in rules if "rule" in r
    ]


def _rule_of_line(line: str, known: dict[str, world.Case]) -> list[world.Case]:
    match = re.match(r"([0-9a-f-]{36})[\s:,](true|-|)\s*[:,]?\s*(FROM .*?)\s*$", line)
    if match is None:
        return []
    uuid, enabled, rule = match.groups()
    base = known.get(uuid, {"uuid": uuid, "global": True})
    return [{**base, "rule": rule, "enabled": enabled == "true"}]


def _rows(text: str) -> dict[str, world.Case]:
    """The VMs of a listing, with the fields that its columns show."""
    lines = text.split("\n")
    if lines[0].startswith('{"type":"ready"'):
        return dict(json.loads(lines[0])["vms"])
    header = lines[0].split()
    if "UUID" not in header:
        header = ["UUID", "TYPE", "RAM", "STATE", "ALIAS"]
        lines = [line.replace(":", " ", 4) for line in lines]
    rows = {}
    for line in lines:
        cells = dict(zip(header, line.split(), strict=False))
        if _UUID.fullmatch(cells.get("UUID", "")):
            rows[cells["UUID"]] = _fields(cells)
    return rows


def _fields(cells: dict[str, str]) -> world.Case:
    fields: world.Case = {"uuid": cells["UUID"]}
    if "STATE" in cells:
        fields["state"] = cells["STATE"]
    if cells.get("ALIAS", "-") != "-":
        fields["alias"] = cells["ALIAS"]
    if "RAM" in cells:
        hvm = cells.get("TYPE") in ("KVM", "BHYV")
        fields["ram" if hvm else "max_physical_memory"] = int(cells["RAM"])
    return fields


def _spoil(manifest: world.Case, said: str) -> None:
    """Make a good manifest one that is answered so."""
    if match := re.search(r'manifest says "([0-9a-f]+)"', said):
        manifest["files"][0]["sha1"] = match[1]
    if match := re.search(r'invalid image type, "([^"]+)"', said):
        manifest["type"] = match[1]
    if "bad magic number" in said:
        manifest["files"][0]["compression"] = "none"
    if match := re.search(r"requirements\.(\w+)=(\{.*?\})", said):
        manifest["requirements"] = {match[1]: json.loads(match[2])}
