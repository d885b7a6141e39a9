# SPDX-License-Identifier: Apache-2.0
"""vmadm: VMs of every brand. Its traps are handled here, once.

Success is reported on stderr. A VM that is not there has five texts, one a group of subcommands.
create and update drop properties that a brand does not have and report success: see validate().
"""

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from nova_smartos.smartos import _tool, errors, records, transport, vms
from nova_smartos.smartos._tool import text

#: A VM that waits for its guest longer than this has failed, says vmadm; HVM wait by their RAM.
PROVISION_SECONDS = 300
#: What stands before each chunk of a bundle.
_BUNDLE_HEADER_BYTES = 512
#: One event may carry every VM of the node.
MAX_EVENT_BYTES = 256 * 2**20

_CHANGE = transport.Timeout.CHANGE
_ALREADY_RUNNING = re.compile(r"VM \S+ is already 'running'")
_ALREADY_STOPPED = re.compile(r"VM \S+ is already not 'running' \(currently: (\S+)\)")
_DONE = re.compile(
    r"^(?:Successfully |Sent |(?:Created|Deleted|Rolled back) snapshot "
    r"|(?:Unable to start VM \S+: )?VM \S+ is already )",
    re.MULTILINE,
)
_CREATED = re.compile(r"Successfully (?:created|received) VM (\S+)")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.*:-]*")
_NAMED = re.compile(r"(?:Invalid value\(s\) for|Missing required properties): (.+)")
_PASSWORD = re.compile(
    r".*_pw|.*password|(?:cloud-init:)?(?:user-(?:data|script)|vendor-data)", re.IGNORECASE
)
_SIGNAL = re.compile(r"[A-Z0-9][A-Z0-9+-]*")
_SNAPSHOT = re.compile(r"[A-Za-z0-9_.:%-]{1,64}")
_METADATA = ("customer_metadata", "internal_metadata")
# What vmadm works out when it is asked for VMs, and events lack: ram is that of zones, which have
# max_physical_memory.
_ADDED = frozenset({"ram", "type"})
# What _PASSWORD and _METADATA say, in JSON that may be cut off anywhere: the members' values.
_TOLD = re.compile(
    r'("(?:[^"\\]*(?:_pw|password)|(?:cloud-init:)?(?:user-(?:data|script)|vendor-data)'
    r'|internal_metadata)"\s*:\s*)'
    r'(?:"(?:[^"\\]|\\.)*+|\{(?:[^"{}]|"(?:[^"\\]|\\.)*+"?+)*+)',
    re.IGNORECASE | re.DOTALL,
)

TEXTS = (
    # the VM is not there
    text(r"zoneadm: \S+: No such zone configured", errors.NotFound, "VmNotFound"),
    text(r"bad statusCode: 404", errors.NotFound, "VmNotFound"),
    text(r"VM \S+ not found", errors.NotFound, "VmNotFound"),
    text(r"No snapshot named ", errors.NotFound, "SnapshotNotFound"),
    # something of this name is
    text(r"VM with UUID \S+ already exists", errors.AlreadyExists, "VmExists"),
    text(r"snapshot with name .* already exists", errors.AlreadyExists, "SnapshotExists"),
    # no room
    *_tool.SPACE,
    # not now
    text(r"VM \S+ is already ", errors.InvalidState, "AlreadyInState"),
    text(r"Cannot (?:start|reboot|reset) vm from state", errors.InvalidState, "State"),
    text(r"Cannot start VM ", errors.InvalidState, "State"),
    text(r"Unable to (?:get info for|send request to) vm from state", errors.InvalidState, "State"),
    text(r"cannot connect to console when state is", errors.InvalidState, "State"),
    text(r".*updates? to (?:disks|pci_devices) (?:is|are) only allowed", errors.InvalidState,
         "State"),
    text(r"Cannot find running init PID for VM", errors.InvalidState, "State"),
    text(r"indestructible_(?:zoneroot|delegated) is set", errors.InvalidState, "Indestructible"),
    text(r"Unable to delete VM \S+ the following VMs", errors.InvalidState, "VolumesShared"),
    text(r"ENOENT, open '/etc/zones/\S+-receiving.json'", errors.InvalidState, "NotReceiving"),
    text(r"Unable to complete install for \S+ zone is still missing", errors.InvalidState,
         "DatasetsMissing"),
    # never for this brand or platform
    text(r".*snapshots for \S+ VMs currently unsupported", errors.Unsupported, "Snapshots"),
    text(r"Cannot currently snapshot zones that have datasets", errors.Unsupported, "Snapshots"),
    text(r"brand .* does not yet support|Unsupported brand", errors.Unsupported, "Brand"),
    text(r"cannot support reprovision with", errors.Unsupported, "Brand"),
    text(r"no info types supported for brand", errors.Unsupported, "Brand"),
    text(r"Cannot get console for brand", errors.Unsupported, "Brand"),
    text(r"The sysrq command is only supported for VMs", errors.Unsupported, "Brand"),
    text(r"(?:Invalid|Unsupported) sysrq ", errors.Unsupported, "Sysrq"),
    text(r"Timeout option is only supported for", errors.Unsupported, "StopTimeout"),
    text(r"Bhyve not supported|sysinfo does not have \"Bhyve", errors.Unsupported, "Bhyve"),
    # the payload is wrong; the image first, it means another thing to a caller
    text(r"Invalid value\(s\) for: (?:\S*[,.])?image_uuid\b", errors.InvalidPayload, "Image"),
    text(r"provisioning dataset \S+ with brand", errors.InvalidPayload, "Image"),
    text(r"[Ii]mage \S+ (?:is type|not found in zpool) ", errors.InvalidPayload, "Image"),
    text(r"(?:incorrect image_size|invalid bootrom) value for ", errors.InvalidPayload, "Image"),
    text(r"cannot find 'manifest' for image|unable to find dataset: ", errors.InvalidPayload,
         "Image"),
    text(r"Cannot reprovision: image ", errors.InvalidPayload, "DiskTooSmall"),
    text(r"Invalid value(?:\(s\))? for:? ", errors.InvalidPayload, "InvalidValues"),
    text(r"Missing required properties: |payload (?:is )?missing ", errors.InvalidPayload,
         "MissingProperties"),
    text(r"Invalid JSON payload: ", errors.InvalidPayload, "InvalidJSON"),
    text(r"Invalid brand while validating payload", errors.InvalidPayload, "InvalidBrand"),
    text(r"[Uu]nable to determine brand for ", errors.InvalidPayload, "InvalidBrand"),
    text(r"Error validating nic tags: |Invalid nic tag", errors.InvalidPayload, "NicTag"),
    text(r"[Ii]nvalid (?:or missing )?\.nic_tag option", errors.InvalidPayload, "NicTag"),
    text(r"Conflict detected with another vm", errors.InvalidPayload, "AddressConflict"),
    text(r"There is no existing NIC|Unknown NIC: ", errors.InvalidPayload, "NicNotFound"),
    text(r"Cannot add multiple NICs with|NIC object needs ", errors.InvalidPayload, "Nic"),
    text(r"(?:[Mm]issing|[Ii]nvalid) .*\bNIC\b", errors.InvalidPayload, "Nic"),
    text(r"nics?\b.* (?:contains|MTU is below) ", errors.InvalidPayload, "Nic"),
    text(r"Static gateways must |Specified netmask |.*vrrp_|VM cannot contain only VRRP",
         errors.InvalidPayload, "Nic"),
    text(r"(?:More than|Maximum of) \d+ |Need a single existing IPv4", errors.InvalidPayload,
         "Nic"),
    text(r"(?:Invalid r|R)oute ", errors.InvalidPayload, "Route"),
    text(r"VNC password is too long", errors.InvalidPayload, "Vnc"),
    text(r"cannot (?:resize|find) disk: |Cannot find disk: ", errors.InvalidPayload, "Disk"),
    text(r"missing \.model option for disk|.* is not a valid disk model", errors.InvalidPayload,
         "Disk"),
    text(r"you cannot specify a path for a disk|setting both \.block_size", errors.InvalidPayload,
         "Disk"),
    text(r"cannot change |duplicate disk |multiple boot disks|.*pci_slot", errors.InvalidPayload,
         "Disk"),
    text(r"Invalid snapshot name", errors.InvalidPayload, "SnapshotName"),
    text(r"Unknown signal ", errors.InvalidPayload, "Signal"),
    text(r"[Ii]nvalid (?:filter|lookup|order|sort) (?:key|field)", errors.InvalidPayload, "Filter"),
    text(r"(?:[Ii]nvalid|[Mm]issing|Cannot specify both) ", errors.InvalidPayload, "Payload"),
    text(r"\S+ (?:must be an array|must be [<>]=|\(.*\) cannot be lower than)",
         errors.InvalidPayload, "Payload"),
    text(r"payload specifies |VM (?:has more than|has no PCI)", errors.InvalidPayload, "Payload"),
    # neither our fault nor the payload's
    text(r"connect ECONNREFUSED|VminfodEventStream ended", errors.ToolError, "VminfodDown"),
    text(r".*(?:timed out waiting for|timeout exceeded)", errors.ToolError, "Timeout"),
    text(r"FATAL: cannot run because: ", errors.ToolError, "CannotRun"),
    text(r"Failed to get \w+!", errors.ToolError, "InvalidStream"),
    # a mistake of the JavaScript that somebody caught
    text(r"Cannot (?:read property|call method|set property)|Object .* has no method|undefined is ",
         errors.ToolError, "Abort"),
)  # fmt: skip


class Events:
    """A stream of events: `with vmadm.events() as events: for event in events: …`"""

    def __init__(self, context: contextlib.AbstractContextManager[_tool.Stream]) -> None:
        self._stopped = False
        self._stack = contextlib.ExitStack()
        self._stream = self._stack.enter_context(context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped = True
        self._stack.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> vms.Event:
        """The next event. After an OutputError, which is about one line, there may be more."""
        line = self._line()
        if not line:
            raise StopIteration
        return _event(line)

    def stop(self) -> None:
        """End the command from another thread, and with it the iteration."""
        self._stopped = True
        self._stream.kill()

    def _line(self) -> bytes:
        try:
            return self._stream.readline(MAX_EVENT_BYTES)
        except errors.SmartOSError:
            if self._stopped:
                return b""
            raise


class Vmadm(_tool.Tool):
    """vmadm(8)."""

    name = "vmadm"
    texts = TEXTS
    prefix = re.compile(
        r"(?:first of \d+ errors?: |Failed to (?:delete|reprovision) VM \S+: "
        r"|Unable to (?:start VM|get VM info for VM) \S+: |Cannot reboot vm: )*"
    )

    def console_argv(self, uuid: str) -> tuple[str, ...]:
        """vmadm console UUID: what to run on a terminal; not for run()."""
        return (self.name, "console", self._uuid(uuid))

    def create(self, payload: Mapping[str, Any], *, seconds: float | None = None) -> str:
        """vmadm create < PAYLOAD: return the uuid once the guest has provisioned itself."""
        limit = seconds or _create_seconds(payload)
        result = self._send("create", payload=payload, seconds=limit)
        uuid = _created(result)
        if payload.get("uuid", uuid) != uuid:
            raise self._not_understood(result, f"the VM that was created is another: {uuid}")
        return uuid

    def create_snapshot(self, uuid: str, name: str) -> None:
        """vmadm create-snapshot UUID NAME"""
        self._change("create-snapshot", self._uuid(uuid), self._snapshot(name))

    def delete(self, uuid: str) -> None:
        """vmadm delete UUID"""
        self._change("delete", self._uuid(uuid))

    def delete_snapshot(self, uuid: str, name: str) -> None:
        """vmadm delete-snapshot UUID NAME"""
        self._change("delete-snapshot", self._uuid(uuid), self._snapshot(name))

    def events(self, uuid: str | None = None) -> Events:
        """vmadm events -jr [UUID]: until stopped; to connect again is the caller's.

        There is no heartbeat, so a quiet stream is no sign of trouble.
        """
        operands = () if uuid is None else (self._uuid(uuid),)
        return Events(self._output("events", "-jr", *operands, seconds=float("inf")))

    def get(self, uuid: str) -> vms.Vm:
        """vmadm get UUID"""
        found = self._read(_vm, "get", self._uuid(uuid))
        if found.uuid != uuid:
            raise errors.OutputError(f"vmadm get {uuid}: {found.uuid} is another VM")
        return found

    def info(self, uuid: str, *types: str) -> dict[str, Any]:
        """vmadm info UUID [TYPE,…]: of a running HVM; {} when there is nothing to tell."""
        wanted = [",".join(self._operand(each, "type", _KEY) for each in types)] if types else []
        return self._read(records.object_, "info", self._uuid(uuid), *wanted)

    def install(self, uuid: str) -> None:
        """vmadm install UUID: finish a receive that was cut off after its data had arrived."""
        self._change("install", self._uuid(uuid))

    def kill(self, uuid: str, signal: str = "SIGTERM") -> None:
        """vmadm kill -s SIGNAL UUID: to the zone's init process."""
        self._change("kill", "-s", self._operand(signal, "signal", _SIGNAL), self._uuid(uuid))

    def lookup(
        self,
        filters: Mapping[str, str] | None = None,
        *,
        known: Mapping[str, vms.Vm] | None = None,
    ) -> list[vms.Vm]:
        """vmadm lookup -j [KEY=VALUE …]: whole objects, all VMs without filters.

        A VM that is still as in `known`, by uuid, is the very one: that takes much less time.
        """
        read = functools.partial(_vms, known or {})
        return self._read(read, "lookup", "-j", *self._filters(filters or {}))

    def lookup_fields(
        self, fields: tuple[str, ...], filters: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """vmadm lookup -j -o FIELD,… [KEY=VALUE …]: objects with these properties only."""
        wanted = ",".join(self._operand(field, "field", _KEY) for field in fields)
        return self._read(_objects, "lookup", "-j", "-o", wanted, *self._filters(filters or {}))

    def reboot(self, uuid: str, *, force: bool = False) -> None:
        """vmadm reboot UUID [-F]"""
        self._change("reboot", self._uuid(uuid), *(["-F"] if force else []))

    def receive(self, source: _tool.Readable) -> str:
        """vmadm receive < BUNDLE: return the uuid.

        Code Timeout: a dataset took longer than a minute. The data has arrived nevertheless, the
        VM stays in state receiving and install() finishes it.
        """
        return _created(self._input(source, "receive"))

    def receive_record(self, document: Mapping[str, Any]) -> str:
        """vmadm receive < BUNDLE of the VM's object alone: its datasets are there already.

        Code DatasetsMissing: they are not. The VM stays in state receiving, and install() finishes
        it once they are.
        """
        return self.receive(io.BytesIO(_bundle(self._document(document))))

    def reprovision(self, uuid: str, image_uuid: str, *, seconds: float | None = None) -> None:
        """vmadm reprovision UUID < {"image_uuid": …}"""
        payload = {"image_uuid": self._uuid(image_uuid)}
        self._confirmed(
            self._send("reprovision", self._uuid(uuid), payload=payload, seconds=seconds)
        )

    def rollback_snapshot(self, uuid: str, name: str) -> None:
        """vmadm rollback-snapshot UUID NAME: always leaves the VM running."""
        self._change("rollback-snapshot", self._uuid(uuid), self._snapshot(name))

    @contextlib.contextmanager
    def send(self, uuid: str) -> Iterator[_tool.Stream]:
        """vmadm send UUID: a readable bundle. The VM is stopped, and stays so."""
        with self._output("send", self._uuid(uuid)) as stream:
            yield stream

    def start(
        self,
        uuid: str,
        *,
        order: str | None = None,
        cdrom: tuple[str, str] | None = None,
        disk: tuple[str, str] | None = None,
    ) -> bool:
        """vmadm start UUID [order=cd] [cdrom=PATH,MODEL] [disk=PATH,MODEL]

        Return False when it was running already.
        """
        options = {"order": order, "cdrom": cdrom, "disk": disk}
        given = [
            f"{name}={value if isinstance(value, str) else ','.join(value)}"
            for name, value in options.items()
            if value is not None
        ]
        result = self._change("start", self._uuid(uuid), *given)
        return not _ALREADY_RUNNING.search(result.stderr)

    def stop(self, uuid: str, *, force: bool = False, seconds: int | None = None) -> bool:
        """vmadm stop UUID [-F] [-t SECONDS]

        Return False when it was not running, which is success with and without -F. That includes
        states failed and provisioning, in which nothing is stopped: look at the state.
        """
        options = (["-F"] if force else []) + (["-t", str(int(seconds))] if seconds else [])
        # seconds are how long the guest may take; the command may take a while longer
        limit = max(900, seconds + 300) if seconds else None
        argv = ("stop", self._uuid(uuid), *options)
        command = self._command(*argv, timeout=_CHANGE, seconds=limit)
        result = self._transport.run(command)
        if _ALREADY_STOPPED.search(result.stderr):
            return False
        self._confirmed(self._checked(result))
        return True

    def sysrq(self, uuid: str, request: str) -> None:
        """vmadm sysrq UUID nmi|screenshot"""
        self._change("sysrq", self._uuid(uuid), self._operand(request, "request", _KEY))

    def update(self, uuid: str, payload: Mapping[str, Any]) -> None:
        """vmadm update UUID < PAYLOAD

        Success does not mean that every property was taken: validate() first, or read back.
        """
        self._confirmed(self._send("update", self._uuid(uuid), payload=payload))

    def validate(
        self, action: str, payload: Mapping[str, Any], brand: str | None = None
    ) -> vms.Verdict:
        """vmadm validate create|receive|update [BRAND] < PAYLOAD: a verdict, whichever it is."""
        if (action == "update") != (brand is not None):
            raise self._refused("the brand goes with update; create takes it from the payload")
        operands = [self._operand(each, "word", _KEY) for each in (action, brand) if each]
        command = self._command(
            "validate", *operands, stdin=self._document(payload), secrets=_secrets(payload)
        )
        result = self._transport.run(command)
        if result.returncode == 0:
            return vms.Verdict()
        if result.returncode != 1 or not result.stderr.startswith("{"):
            raise self._failure(result)
        return self._parsed(_verdict, dataclasses.replace(result, stdout=result.stderr))

    def _change(self, *arguments: str, stdin: bytes = b"") -> transport.Result:
        return self._confirmed(super()._change(*arguments, stdin=stdin))

    def _confirmed(self, result: transport.Result) -> transport.Result:
        """What vmadm did it tells on stderr: an exit status of 0 without a word proves nothing."""
        if not _DONE.search(result.stderr):
            said = records.excerpt(result.stderr)
            raise self._not_understood(result, f"success that vmadm does not confirm: {said}")
        return result

    def _failure(self, result: transport.Result) -> errors.ToolError:
        if result.returncode == 2 and "FATAL: " not in result.stderr:
            return errors.InvalidPayload.from_result(result, code="Usage")
        return super()._failure(result)

    def _filters(self, filters: Mapping[str, str]) -> list[str]:
        for name, value in filters.items():
            self._operand(name, "key", _KEY)
            if value.startswith("~"):
                # key=~value is vmadm's way to write a regular expression
                raise self._refused(f"a filter cannot look for a leading ~: {name}")
        return [f"{name}={value}" for name, value in filters.items()]

    def _not_understood(self, result: transport.Result, message: str) -> errors.OutputError:
        told = dataclasses.replace(result, stdout=_TOLD.sub(rf"\1{transport.MASK}", result.stdout))
        return errors.OutputError.from_result(told, _untold(message))

    def _send(
        self,
        *arguments: str,
        payload: Mapping[str, Any],
        seconds: float | None = None,
    ) -> transport.Result:
        secrets = tuple(each for each in _secrets(payload) if each not in "\0".join(arguments))
        command = self._command(
            *arguments,
            stdin=self._document(payload),
            timeout=_CHANGE,
            secrets=secrets,
            seconds=seconds,
        )
        return self._run(command)

    def _snapshot(self, name: str) -> str:
        return self._operand(name, "snapshot name", _SNAPSHOT)


def properties(error: errors.ToolError) -> tuple[str, ...]:
    """The properties that a refused payload is refused for, as vmadm names them."""
    found = _NAMED.search(error.stderr)
    return tuple(found[1].split(",")) if found else ()


def _bundle(document: bytes) -> bytes:
    """One chunk as vmadm send writes it: a header of fields that end in NUL, and whole blocks."""
    padding = bytes(-len(document) % _BUNDLE_HEADER_BYTES)
    size, padded = len(document), len(document) + len(padding)
    fields = ("MAGIC-VMBUNDLE", "1", "CHECKSUM", "JSON", size, padded)
    header = b"".join(b"%s\0" % str(field).encode() for field in fields)
    return header.ljust(_BUNDLE_HEADER_BYTES, b"\0") + document + padding


def _create_seconds(payload: Mapping[str, Any]) -> float:
    # a large HVM may take 300 s for every 4 GiB; what comes before needs some time as well
    # and vmadm takes a number as text
    ram = str(payload.get("ram"))
    steps = int(ram) // 4096 if ram.isdecimal() else 0
    return 2 * PROVISION_SECONDS + PROVISION_SECONDS * max(1, steps)


def _created(result: transport.Result) -> str:
    found = _CREATED.search(result.stderr)
    if not found or not _tool.UUID.fullmatch(found[1]):
        raise errors.OutputError.from_result(
            result, f"success without the VM's uuid: {records.excerpt(result.stderr)}"
        )
    return found[1]


def _event(line: bytes) -> vms.Event:
    if not line.endswith(b"\n"):
        # the end of the stream, or an event beyond all measure
        said = records.excerpt(repr(line[:200]))
        raise errors.OutputError(_untold(f"vmadm events: cut off: {said}"))
    try:
        return vms.Event.from_json(records.object_(line.decode("utf-8", "surrogateescape")))
    except errors.OutputError as error:
        raise errors.OutputError(_untold(f"vmadm events: {error.message}")) from None


def _objects(output: str) -> list[dict[str, Any]]:
    found = records.array(output)
    for each in found:
        if not isinstance(each, dict):
            raise errors.OutputError(f"an object is expected: {records.excerpt(repr(each))}")
    return found


def _secrets(payload: Mapping[str, Any]) -> tuple[str, ...]:
    found = [payload.get("vnc_password"), payload.get("spice_password")]
    for kind in _METADATA:
        for prefix in ("", "set_"):
            found += _secret_values(kind, payload.get(prefix + kind))
    return tuple({each for each in found if isinstance(each, str) and len(each) > 2})


def _secret_values(kind: str, metadata: object) -> list[object]:
    if not isinstance(metadata, Mapping):
        return []
    return [
        value
        for name, value in metadata.items()
        if _PASSWORD.fullmatch(name) or (kind == "internal_metadata" and len(str(value)) > 7)
    ]


def _untold(message: str) -> str:
    """A message up to the first secret in it."""
    # an excerpt is escaped once more, so that the end of a value is hard to tell
    secret = _TOLD.search(message)
    return message[: secret.end(1)] + transport.MASK if secret else message


def _verdict(output: str) -> vms.Verdict:
    return vms.Verdict.from_json(records.object_(output))


def _vm(output: str) -> vms.Vm:
    return vms.Vm.from_json(records.object_(output))


def _is_still(vm: vms.Vm, told: dict[str, Any]) -> bool:
    """Whether a VM is as it was, of which an event may have told last."""
    if vm.document == told:
        return True
    before = vm.document.keys()
    return vm.document == {
        name: value for name, value in told.items() if name in before or name not in _ADDED
    }


def _vms(known: Mapping[str, vms.Vm], output: str) -> list[vms.Vm]:
    found = []
    for each in records.elements(output):
        uuid = each.get("uuid") if isinstance(each, dict) else None
        vm = known.get(uuid) if isinstance(uuid, str) else None
        if vm is None or not _is_still(vm, each):
            vm = vms.Vm.from_json(records.compact(each))
        found.append(vm)
    return found
