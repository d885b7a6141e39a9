# SPDX-License-Identifier: Apache-2.0
"""The images and image sources that a recorded imgadm command supposes."""

import functools
import json
import re
import typing

from tests.conformance import records, world

if typing.TYPE_CHECKING:
    from tests.conformance import suppose

Vm = records.Vm
Arranges = typing.Iterator[typing.Callable[[], None]]

_URL = re.compile(r"https?://[^\s:\",]+")
_DEFAULT_SOURCE = "https://images.smartos.org"
_SPARE_SOURCE = "https://example.invalid/datasets"
_DEFAULT_ORDER = "uuid,name,version,os,type,pub"
_NO_TAGS = "'docker:id' of undefined"
_TAGS: Vm = {"docker:id": "0" * 64, "docker:repo": "docker.io/library/any", "docker:tag:1": True}
_OF_CLONES = ("clones", "cloneNames")
# the keys of a manifest by which two images are told apart
_TOLD = ("name", "version", "os", "type", "published_at", "tags", "requirements")


class Images:
    """The images that are known in a series, and those that are installed."""

    def __init__(self, node: world.World, series: list[world.Case], state: "suppose.State") -> None:
        self._node = node
        self._state = state
        self._manifests = {**node.environment["images"], **records.known_manifests(series)}
        self._added = _added_sources(series)

    def clear(self) -> None:
        """Have no image, and the one source of a fresh node."""
        self._have(set(), {})
        self._have_sources({_DEFAULT_SOURCE: "imgapi"})

    def of_type(self, kind: str) -> str:
        """The uuid of a known image of a type."""
        known = self._manifests.items()
        return str(next(uuid for uuid, manifest in known if manifest["type"] == kind))

    def ensure_for(self, payload: Vm) -> None:
        """Install the images that a payload names, when they are known."""
        disks = [disk for disk in payload.get("disks") or () if isinstance(disk, dict)]
        for part in (payload, *disks):
            self.ensure(part.get("image_uuid"))

    def without_those_of(self, payload: Vm) -> None:
        """Have none of the images that a payload names."""
        self._without(records.UUID.findall(json.dumps(payload)))

    def ensure(self, uuid: typing.Any) -> None:
        """Install an image, when it is known."""
        if uuid in self._manifests and uuid not in self._installed():
            self._node.install_image(self._manifests[uuid])

    def candidates(self, case: world.Case, argv: list[str]) -> Arranges:
        """The states to try, the likeliest first."""
        command = next((word for word in argv[1:] if not word.startswith("-")), "")
        if command == "install":
            yield functools.partial(self._write_install_files, case, argv)
            return
        self._ensure_named(case, argv, command)
        yield _nothing
        yield from self._for_sources(case, argv, command)
        if command in ("list", "get", "delete", "vacuum", "ancestry", "info", "import", "create"):
            yield functools.partial(self._shown, case, argv)
        yield functools.partial(self._have, {*self._node.environment["images"]}, {})

    def _ensure_named(self, case: world.Case, argv: list[str], command: str) -> None:
        """Have the images and the VM that the command line names, unless they are missed."""
        named = {word for word in argv[2:] if records.UUID.fullmatch(word)}
        missed = re.search("not found|not installed", case["stderr"])
        absent = named if missed else set()
        if command == "create":
            vms = named if not missed else set()
        elif "dependent clones" in case["stderr"]:
            vms = {*records.UUID.findall(case["stderr"])} - named
        else:
            vms = set()
        for uuid in vms:
            state = "running" if "not stopped" in case["stderr"] else "stopped"
            state_wanted = state if command == "create" else None
            self._state.vm_in_state(uuid, state_wanted, case, argv)
        if "dependent clones" in case["stderr"] and "others" not in case["stderr"]:
            for image in named:
                self._remove_clones(image, but=case["stderr"])
        if command in ("get", "delete", "ancestry"):
            for uuid in named - absent:
                self._ensure_any(uuid)
        self._without(absent)

    def _ensure_any(self, uuid: str) -> None:
        if uuid not in self._installed():
            self._node.install_image(self._manifest(uuid, {}))

    def _manifest(self, uuid: str, row: Vm) -> Vm:
        """What is known of an image, or a small one, with what a listing shows of it."""
        like = {"type": row.get("type", "zone-dataset"), **row}
        spare = self._node.environment["images"][self.of_type(like["type"])]
        base = self._manifests.get(uuid) or {**spare, "name": "mine", "version": "1.0"}
        part = {key: value for key, value in row.items() if key not in _OF_CLONES}
        return {**base, **part, "uuid": uuid}

    def _installed(self) -> dict[str, Vm]:
        shown = json.loads(self._node.must("imgadm", "list", "-j").stdout)
        return {info["manifest"]["uuid"]: info for info in shown}

    def _shown(self, case: world.Case, argv: list[str]) -> None:
        """Have the images that an answer shows, and no other."""
        rows = self._rows(case, argv)
        if case["rc"] != 0 or not rows:
            rows = {uuid: {} for uuid in self._node.environment["images"]}
        whole = {
            uuid: self._with_docker_tags(self._manifest(uuid, row), case)
            for uuid, row in rows.items()
        }
        self._have(set(whole), whole)
        for uuid, row in rows.items():
            if row.get("clones") == 0 or "cloneNames" in row:
                self._remove_clones(uuid, but=json.dumps(row.get("cloneNames")))
            for name in row.get("cloneNames") or ():
                self._have_clone(uuid, name, case, argv)

    def _have_clone(self, image: str, name: str, case: world.Case, argv: list[str]) -> None:
        """Have the zone whose dataset has this name."""
        uuid = name.rpartition("/")[2]
        if records.UUID.fullmatch(uuid) and self._node.vm(uuid) is None:
            vm = {**self._state.nearest(uuid, case)[0], "image_uuid": image}
            self._state.rebuild(vm, None, case, argv)

    def _with_docker_tags(self, manifest: Vm, case: world.Case) -> Vm:
        """A listing that works supposes that docker images have their tags."""
        if manifest["type"] != "docker":
            return manifest
        tags = manifest.get("tags") or {}
        if _NO_TAGS in case["stderr"]:
            return {key: value for key, value in manifest.items() if key != "tags"}
        return {**manifest, "tags": tags if "docker:id" in tags else _TAGS}

    def _rows(self, case: world.Case, argv: list[str]) -> dict[str, Vm]:
        """The images that an answer shows, with what it shows of each."""
        found: dict[str, Vm] = {}
        for info in records.documents(case["stdout"]):
            if isinstance(info, dict) and "manifest" in info:
                told = {key: info[key] for key in ("clones", "cloneNames") if key in info}
                found[info["manifest"]["uuid"]] = told
        if found or "list" not in argv:
            return found or {uuid: {} for uuid in records.UUID.findall(case["stdout"] or "")}
        fields = (records.option(argv, "o") or _DEFAULT_ORDER).split(",")
        for line in (case["stdout"] or "").split("\n")[0 if "-H" in argv else 1 :]:
            row = dict(zip(fields, re.split(r"\s{2,}", line.strip()), strict=False))
            uuid = row.get("uuid") or self._named(row.get("name"))
            if uuid and records.UUID.fullmatch(uuid):
                found[uuid] = _manifest_part(row)
        return found

    def _named(self, name: str | None) -> str | None:
        return next((u for u, one in self._manifests.items() if one["name"] == name), None)

    def _without(self, uuids: typing.Collection[str | None]) -> None:
        for uuid in self._installed():
            if uuid in uuids:
                self._remove_clones(uuid)
                self._node.must("imgadm", "delete", uuid)

    def _have(self, wanted: typing.Collection[str], whole: dict[str, Vm]) -> None:
        """Have just these images, those in `whole` with that manifest."""
        present = self._installed()
        manifests = {uuid: whole.get(uuid) or self._manifest(uuid, {}) for uuid in wanted}
        kept = {
            uuid
            for uuid, info in present.items()
            if uuid in manifests and _same(info, manifests[uuid])
        }
        self._without(present.keys() - kept)
        for uuid, manifest in manifests.items():
            if uuid not in kept:
                self._node.install_image(manifest)

    def _remove_clones(self, image: str, but: str = "") -> None:
        """Delete the VMs that are clones of an image, but for those that a text names."""
        shown = json.loads(self._node.must("vmadm", "lookup", "-j").stdout)
        for vm in shown:
            if image in json.dumps(vm) and vm["uuid"] not in but:
                self._node.remove_vm(vm["uuid"])

    # sources

    def _for_sources(self, case: world.Case, argv: list[str], command: str) -> Arranges:
        """The image sources that the answer tells of."""
        said = case["stderr"] + (case["stdout"] or "")
        known = {_DEFAULT_SOURCE: "imgapi", **self._added, _SPARE_SOURCE: "dsapi"}
        named = {url: known.get(url, "imgapi") for url in _URL.findall(said)}
        if command == "sources":
            url = next(iter(_URL.findall(" ".join(argv))), None)
            others = {key: kind for key, kind in named.items() if key != url}
            if not case["stdout"] or url:
                yield functools.partial(self._have_sources, {_DEFAULT_SOURCE: "imgapi", **others})
            if url:
                more = {_DEFAULT_SOURCE: "imgapi", url: known.get(url, "imgapi")}
                yield functools.partial(self._have_sources, more)
            yield functools.partial(self._have_sources, named | _typed(case["stdout"]))
            return
        if match := re.search(r"multiple \((\d+)\) errors", said):
            several = dict([*(named | known).items()][: int(match[1])])
            yield functools.partial(self._have_sources, several)
            some = {_DEFAULT_SOURCE: "imgapi", _SPARE_SOURCE: "dsapi"}
            yield functools.partial(self._have_sources, some)
        elif named or "getaddrinfo" in said:
            yield functools.partial(self._have_sources, named or {_DEFAULT_SOURCE: "imgapi"})
            yield functools.partial(self._have_sources, {_DEFAULT_SOURCE: "imgapi"})

    def _have_sources(self, wanted: dict[str, str]) -> None:
        present = _typed(self._node.must("imgadm", "sources", "-j").stdout)
        if [*present.items()] == [*wanted.items()]:
            return
        for url in present:
            self._node.must("imgadm", "sources", "-d", url)
        for url, kind in wanted.items():
            self._node.must("imgadm", "sources", "-f", "-t", kind, "-a", url)

    # install

    def _write_install_files(self, case: world.Case, argv: list[str]) -> None:
        """Make the manifest and the file that give this answer: they were not recorded."""
        said = (case["stdout"] or "") + case["stderr"]
        match = re.search(r"(?:image|Image) ([0-9a-f-]{36}) \(([^@ ]+)[@ ]([^)]+)\)", said)
        uuid, name, version = match.groups() if match else (None, "mine", "1.0")
        manifest_name, file_name = records.option(argv, "m"), records.option(argv, "f")
        base = f"{self._node.node.directory}.sample"
        words = ["--uuid", uuid] if uuid else []
        self._node.node.command("image", "zone", name, *words, "--output", base)
        with open(f"{base}.imgmanifest") as made, open(f"{base}.zfs.gz", "rb") as stream:
            manifest, content = json.load(made), stream.read()
        manifest |= {"version": version}
        self._without({uuid})
        if "already installed" in said:
            self._node.install_image({**manifest, "type": "zone-dataset"})
        _spoil(manifest, said)
        text = json.dumps(manifest)
        if "InvalidManifest" in said:
            text = text[:-1]
        if file_name:
            self._node.write_bytes(file_name, content)
        if manifest_name:
            self._node.write(manifest_name, text)
        for missing in re.findall(r'(?:manifest|file) path does not exist: "([^"]+)"', said):
            self._node.remove(missing)


def _nothing() -> None:
    """Suppose what is there."""


def _added_sources(series: list[world.Case]) -> dict[str, str]:
    """The sources that a series adds or shows, and their types."""
    found: dict[str, str] = {}
    for case in series:
        found |= _typed(case["stdout"])
        for kind, url in re.findall(r'Added "(\w+)" image source "([^"]+)"', case["stdout"] or ""):
            found[url] = kind
    return found


def _typed(text: str | None) -> dict[str, str]:
    shown = [one for one in records.documents(text) if isinstance(one, dict)]
    return {one["url"]: one.get("type", "imgapi") for one in shown if "url" in one}


def _manifest_part(row: dict[str, str]) -> Vm:
    """What a line of a listing tells of the manifest, and of the clones."""
    names = ("name", "version", "os", "type")
    part: Vm = {key: row[key] for key in names if row.get(key, "-") != "-"}
    if "published" in row or "published_at" in row:
        part["published_at"] = row.get("published") or row["published_at"]
    if row.get("clones", "-").isdigit():
        part["clones"] = int(row["clones"])
    if row.get("source", "-") != "-":
        part["+source"] = row["source"]
    return part


def _same(info: Vm, manifest: Vm) -> bool:
    there = info["manifest"]
    told = all(there.get(key) == manifest.get(key) for key in _TOLD)
    return told and manifest.get("+source") in (None, info.get("source"))


def _spoil(manifest: Vm, said: str) -> None:
    """Make a good manifest one that is answered so."""
    if match := re.search(r'manifest says "([0-9a-f]+)"', said):
        manifest["files"][0]["sha1"] = match[1]
    if match := re.search(r'invalid image type, "([^"]+)"', said):
        manifest["type"] = match[1]
    if "bad magic number" in said:
        manifest["files"][0]["compression"] = "none"
    if match := re.search(r"requirements\.(\w+)=(\{.*?\})", said):
        manifest["requirements"] = {match[1]: json.loads(match[2])}
    for field in re.findall(r"(\w+) \(MissingParameter\)", said):
        manifest.pop(field, None)
