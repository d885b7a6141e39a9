# SPDX-License-Identifier: Apache-2.0
"""vmadm's command line: each subcommand's arguments, and where its messages go (stderr, all)."""

import errno
import re
import typing

from smartos_emulator import call as call_module
from smartos_emulator import js, storage, zones
from smartos_emulator.vmadm import (
    bundle,
    console,
    errors,
    failures,
    listing,
    nopt,
    stream,
    usage,
    validate,
)

_BOOLEAN = (nopt.BOOLEAN,)
_STRING = (nopt.STRING,)

_ALIASES = {
    "boot": "start",
    "destroy": "delete",
    "halt": "stop",
    "json": "get",
    "recv": "receive",
}
_FILE_SHORTS = {"f": ["--file"]}
_POWER = (
    {"timeout": (nopt.NUMBER,), "force": _BOOLEAN},
    {"t": ["--timeout"], "F": ["--force", "true"]},
)
_OPTIONS: dict[str, tuple[nopt.Types, nopt.Shorthands]] = {
    "events": (
        {"full": _BOOLEAN, "json": _BOOLEAN, "ready": _BOOLEAN},
        {"f": ["--full"], "j": ["--json"], "r": ["--ready"]},
    ),
    "lookup": (
        {"json": _BOOLEAN, "output": _STRING, "unique": _BOOLEAN},
        {"j": ["--json"], "o": ["--output"], "1": ["--unique"]},
    ),
    "kill": ({"signal": _STRING}, {"s": ["--signal"]}),
    "create": ({}, _FILE_SHORTS),
    "receive": ({}, _FILE_SHORTS),
    "reprovision": ({}, _FILE_SHORTS),
    "update": ({}, _FILE_SHORTS),
    "validate": ({}, _FILE_SHORTS),
    "list": (
        {"order": _STRING, "sortby": _STRING, "parsable": _BOOLEAN, "header": _BOOLEAN},
        {
            "o": ["--order"],
            "s": ["--sortby"],
            "p": ["--parsable", "true"],
            "h": ["--header", "true"],
            "H": ["--header", "false"],
        },
    ),
    "stop": _POWER,
    "reboot": _POWER,
}

# node 0.10's numbers for what can go wrong when a file is read
_ERRNO = {
    errno.EACCES: (3, "EACCES"),
    errno.EISDIR: (28, "EISDIR"),
    errno.ENOTDIR: (27, "ENOTDIR"),
    errno.ELOOP: (51, "ELOOP"),
    errno.ENAMETOOLONG: (52, "ENAMETOOLONG"),
}

_START_DEVICES = ("disk", "cdrom")


class Run:
    """One run of vmadm: what it was asked for, and the node that answers."""

    def __init__(self, call: call_module.Call, command: str, parsed: nopt.Parsed) -> None:
        self.call = call
        self.vms = call.node.vms
        self.command = command
        self.options = parsed.options
        self.words = parsed.remain

    def uuid(self, command: str = "") -> str:
        """The next word, which must look like a uuid: vmadm only counts its dashes."""
        if self.words and looks_like_uuid(word := self.words.pop(0)):
            return word
        raise usage.usage(f"Invalid or missing UUID for {command or self.command}")

    def one_word(self) -> str:
        if len(self.words) != 1:
            raise usage.usage(f'Wrong number of parameters to "{self.command}"')
        return self.words[0]

    def payload(self, verb: str = "") -> typing.Any:
        """The JSON document in the file of -f, or on stdin."""
        name = self.options.get("file", "-")
        if name == "-" and self.call.stdin_is_tty():
            verb = verb or self.command
            raise usage.usage(f"Will not {verb} from stdin when stdin is a tty.")
        if not isinstance(name, str):
            raise js.JavaScriptError("path must be a string")
        data = self.call.read_stdin() if name == "-" else self._file(name)
        try:
            return js.loads(data.decode("utf-8", "replace"))
        except js.JavaScriptError as error:
            raise failures.VmError(f"Invalid JSON payload: {error}") from None

    def _file(self, name: str) -> bytes:
        try:
            with self.call.open_path(name) as file:
                return file.read()
        except FileNotFoundError:
            raise failures.VmError(f"File: {name} does not exist.") from None
        except OSError as error:
            number, code = _ERRNO.get(error.errno or 0, (-1, "UNKNOWN"))
            facts = {"errno": number, "code": code}
            if code != "EISDIR":
                facts["path"] = name
            raise failures.VmError(f"Error reading: {name} {js.dumps(facts)}") from None


def main(call: call_module.Call) -> int:
    """One run of vmadm; the exit status."""
    words = call.argv[1:]
    if not words:
        raise usage.usage()
    typed = words[0]
    if typed in ("-h", "-?"):
        raise usage.usage()
    command = _ALIASES.get(typed, typed)
    if command not in _COMMANDS:
        raise usage.usage(f'Invalid command: "{typed}".')
    parsed = nopt.parse(words[1:], *_options(command))
    run = Run(call, typed, parsed)
    try:
        message = _COMMANDS[command](run)
    except (failures.VmError, errors.PayloadError) as error:
        call.err(f"{error}\n")
        return 1
    except (storage.StorageError, zones.ZoneError) as error:
        # somebody took away, in the meantime, what this run had found
        call.err(f"{failures.command_failed(str(error).rstrip())}\n")
        return 1
    except js.JavaScriptError as error:
        raise call_module.Abort(_uncaught(str(error))) from None
    if message:
        call.err(f"{message}\n")
    return 0


def _options(command: str) -> tuple[nopt.Types, nopt.Shorthands]:
    types, shorthands = _OPTIONS.get(command, ({}, {}))
    common = {"verbose": _BOOLEAN, "debug": _BOOLEAN}
    shorts = {"v": ["--verbose", "true"], "d": ["--debug", "true"]}
    return {**common, **types}, {**shorts, **shorthands}


def _uncaught(text: str) -> str:
    """What the engine prints of an exception before it aborts; few are no TypeError."""
    if re.match(r"[A-Z][A-Za-z]*Error: ", text):
        return f"Uncaught {text}"
    if re.search(r"\(\w+\) is required$", text):
        return f"Uncaught AssertionError: {text}"
    kind = "RangeError" if text.startswith("Maximum call stack") else "TypeError"
    return f"Uncaught {kind}: {text}"


def looks_like_uuid(word: str) -> bool:
    """All that vmadm asks of a uuid on its command line."""
    return len(word) == 36 and all(word[at] == "-" for at in (8, 13, 18, 23))


def is_uuid(word: typing.Any) -> bool:
    return isinstance(word, str) and bool(
        re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", word, re.I)
    )


def key_values(words: list[str]) -> dict[str, str]:
    """`key=value` words as an object; a word without a value has an empty one."""
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def _create(run: Run) -> str:
    return f"Successfully created VM {run.vms.create(run.payload('create'))}"


def _console(run: Run) -> str:
    console.attach(run.call, run.vms.load(run.uuid()))
    return ""


def _create_snapshot(run: Run) -> str:
    uuid, name = run.uuid(), run.one_word()
    run.vms.create_snapshot(uuid, name)
    return f"Created snapshot {name} for VM {uuid}"


def _delete(run: Run) -> str:
    uuid = run.uuid()
    try:
        run.vms.delete(uuid)
    except failures.VmError as error:
        raise failures.VmError(f"Failed to delete VM {uuid}: {error}") from None
    return f"Successfully deleted VM {uuid}"


def _delete_snapshot(run: Run) -> str:
    uuid, name = run.uuid(), run.one_word()
    run.vms.delete_snapshot(uuid, name)
    return f"Deleted snapshot {name} for VM {uuid}"


def _events(run: Run) -> str:
    known = bool(run.words) and looks_like_uuid(run.words[0])
    full, as_json, ready = (bool(run.options.get(name)) for name in ("full", "json", "ready"))
    stream.follow(run.call, run.words[0] if known else "", full, as_json, ready)
    return ""


def _get(run: Run) -> str:
    uuid = run.uuid()
    try:
        vm = run.vms.load(uuid)
    except failures.VmError as error:
        if error.code == "404":
            raise failures.VmError(f"zoneadm: {uuid}: No such zone configured") from None
        raise
    run.call.out(js.dumps(vm, 2) + "\n")
    return ""


def _help(_run: Run) -> str:
    raise usage.usage()


def _info(run: Run) -> str:
    uuid = run.uuid()
    types = [part for word in run.words for part in word.split(",")] or ["all"]
    try:
        facts = run.vms.info(uuid, types)
    except failures.VmError as error:
        raise failures.VmError(f"Unable to get VM info for VM {uuid}: {error}") from None
    run.call.out(js.dumps(facts, 2) + "\n")
    return ""


def _install(run: Run) -> str:
    uuid = run.uuid()
    run.vms.install(uuid)
    return f"Successfully installed VM {uuid}"


def _kill(run: Run) -> str:
    signal, uuid = _signal_and_uuid(run)
    if run.words:
        raise usage.usage("Too many arguments.")
    if not is_uuid(uuid):
        raise usage.usage("Invalid or missing argument UUID")
    run.vms.kill(uuid, signal)
    return f'Sent signal "{signal}" to init process for VM {uuid}'


def _signal_and_uuid(run: Run) -> tuple[str, str]:
    if "signal" in run.options:
        return run.options["signal"], run.uuid()
    if len(run.words) == 1 and is_uuid(run.words[0]):
        return "SIGTERM", run.words.pop()
    signal = uuid = ""
    unexpected = []
    for name, value in run.options.items():
        if uuid or not is_uuid(value):
            unexpected.append(name)
        else:
            signal, uuid = name, value
    if unexpected:
        raise usage.usage(f"Unexpected args: {js.dumps(unexpected)}")
    return signal, uuid


def _list(run: Run) -> str:
    parsable = bool(run.options.get("parsable"))
    header = run.options.get("header", not parsable)
    order = run.options.get("order", listing.DEFAULT_ORDER)
    sort = run.options.get("sortby", listing.DEFAULT_SORT)
    spec = key_values(run.words)
    listing.check(spec, order, sort)
    run.call.out(listing.table(run.vms.seen(), spec, order, sort, parsable, bool(header)))
    return ""


def _lookup(run: Run) -> str:
    spec = key_values(run.words)
    if "output" in run.options and not run.options.get("json"):
        raise failures.VmError("Cannot specify -o without -j")
    listing.check_keys(spec, "lookup")
    found = [vm for vm in run.vms.seen() if not spec or listing.matches_with_fakes(vm, spec)]
    fields = run.options["output"].split(",") if "output" in run.options else None
    if fields is not None:
        whole = [listing.with_fake_fields(vm) for vm in found]
        found = [kept for vm in whole if (kept := {k: vm[k] for k in vm if k in fields})]
    if run.options.get("unique") and len(found) != 1:
        raise failures.VmError(f"Requested unique lookup but found {len(found)} results.")
    if not run.options.get("json"):
        run.call.out("".join(f"{vm['uuid']}\n" for vm in found))
    elif fields is not None:
        run.call.out(js.dumps(found, 2) + "\n")
    else:
        run.call.out(run.vms.documents(found) + "\n")
    return ""


def _reboot(run: Run) -> str:
    uuid = run.uuid()
    run.vms.reboot(uuid, force=bool(run.options.get("force")))
    return f"Successfully completed reboot for VM {uuid}"


def _receive(run: Run) -> str:
    uuid = bundle.receive(run.vms, run.call.stdin)
    return f"Successfully received VM {uuid}"


def _reprovision(run: Run) -> str:
    uuid = run.uuid()
    if run.options.get("file", "-") == "-" and run.call.stdin_is_tty():
        raise usage.usage("Will not take payload from stdin when stdin is a tty.")
    payload = run.payload()
    try:
        run.vms.reprovision(uuid, payload)
    except failures.VmError as error:
        raise failures.VmError(f"Failed to reprovision VM {uuid}: {error}") from None
    return f"Successfully reprovisioned VM {uuid}"


def _rollback_snapshot(run: Run) -> str:
    uuid, name = run.uuid(), run.one_word()
    run.vms.rollback_snapshot(uuid, name)
    return f"Rolled back snapshot {name} for VM {uuid}"


def _send(run: Run) -> str:
    uuid = run.uuid()
    if run.call.stdout_is_tty():
        raise failures.VmError("Cannot send VM to a TTY.")
    bundle.send(run.vms, uuid, run.call.stdout)
    return f"Successfully sent VM {uuid}"


def _start(run: Run) -> str:
    uuid = run.uuid()
    extra = _start_extra(run.words)
    try:
        run.vms.start(uuid, extra)
    except failures.VmError as error:
        text = f"Unable to start VM {uuid}: {error}"
        if error.code == "EALREADYRUNNING":
            return text
        raise failures.VmError(text) from None
    return f"Successfully started VM {uuid}"


def _start_extra(words: list[str]) -> dict[str, typing.Any]:
    """What one boot of an HVM is to do otherwise: its boot order, more disks."""
    extra: dict[str, typing.Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key == "order":
            if "boot" in extra:
                raise usage.usage("You can only specify 'order' once when starting a VM")
            extra["boot"] = f"order={value}"
        elif key in _START_DEVICES:
            path, _, model = value.partition(",")
            model = model.split(",")[0]
            if not path or not model:
                raise usage.usage(f"Parameter to {key} must be: path,model")
            extra.setdefault("disks", []).append({"path": path, "model": model, "media": key})
        else:
            raise usage.usage(f"Invalid argument to start: {key}")
    return extra


def _stop(run: Run) -> str:
    uuid = run.uuid("stop")
    try:
        timeout = run.options.get("timeout") or None
        run.vms.stop(uuid, force=bool(run.options.get("force")), timeout=timeout)
    except failures.VmError as error:
        if error.code == "ENOTRUNNING":
            return str(error)
        raise
    return f"Successfully completed stop for VM {uuid}"


def _sysrq(run: Run) -> str:
    uuid, kind = run.uuid(), run.one_word()
    if kind not in ("nmi", "screenshot"):
        raise usage.usage(f"Invalid sysrq type: {kind}")
    run.vms.sysrq(uuid, kind)
    return f"Sent NMI to VM {uuid}" if kind == "nmi" else f"Sent {kind} sysrq to VM {uuid}"


def _update(run: Run) -> str:
    uuid = run.uuid()
    changes = key_values(run.words) or run.payload("update")
    run.vms.update(uuid, changes)
    return f"Successfully updated VM {uuid}"


def _validate(run: Run) -> str:
    if run.options.get("file", "-") == "-" and run.call.stdin_is_tty():
        raise usage.usage("Will not validate from stdin when stdin is a tty.")
    if not run.words:
        raise usage.usage("Will not validate without a valid action.")
    if run.words[0] == "update" and len(run.words) != 2:
        raise usage.usage("Will not validate without a valid action and brand.")
    action = run.words[0]
    payload = run.payload()
    brand = run.words[1] if action == "update" else js.get(payload, "brand")
    verdict = validate.validate(brand, action, payload, run.vms.environment)
    if not verdict.ok:
        raise failures.VmError(js.dumps(verdict.to_json(), 2))
    return f"VALID '{action}' payload for {js.text(brand)} brand VMs."


_COMMANDS: dict[str, typing.Callable[[Run], str]] = {
    "console": _console,
    "create": _create,
    "create-snapshot": _create_snapshot,
    "delete": _delete,
    "delete-snapshot": _delete_snapshot,
    "events": _events,
    "get": _get,
    "help": _help,
    "info": _info,
    "install": _install,
    "kill": _kill,
    "list": _list,
    "lookup": _lookup,
    "reboot": _reboot,
    "receive": _receive,
    "reprovision": _reprovision,
    "rollback-snapshot": _rollback_snapshot,
    "send": _send,
    "start": _start,
    "stop": _stop,
    "sysrq": _sysrq,
    "update": _update,
    "validate": _validate,
}
