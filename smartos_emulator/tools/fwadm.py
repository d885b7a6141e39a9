# SPDX-License-Identifier: Apache-2.0
"""fwadm(8): rules of the firewall, remote VMs, and the firewall of each VM."""

import collections.abc
import re
import typing

from smartos_emulator import call as call_module
from smartos_emulator import js, js_scanner
from smartos_emulator.fwadm import cmdln, commands, errors, lexer, output
from smartos_emulator.vmadm import failures

Document = dict[str, typing.Any]
Arguments = list[str]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHOWN = ["uuid", "enabled", "rule"]
_PARSE_TRACE = """\
    at Object.parse (native)
    at /usr/fw/lib/cli.js:182:36
    at fs.js:266:14
    at Object.oncomplete (fs.js:107:15)
"""


def main(call: call_module.Call) -> int:
    """One run of fwadm; its exit status."""
    run = _Run(call)
    try:
        run.dispatch(call.argv[1:])
    except errors.UsageError as error:
        run.show(error, usage=True)
        return 2
    except errors.Crash as crash:
        raise call_module.Exit(8, f"\n{crash}\n") from None
    except errors.FirewallError as error:
        run.show(error)
        return run.failure
    return 0


class _Run:
    """One command line: its options and where its answers go."""

    def __init__(self, call: call_module.Call) -> None:
        self.call = call
        self.options: cmdln.Values = {}
        self.firewall = call.node.firewall
        # What a failed command exits with; some fail before they get to work.
        self.failure = 1

    def dispatch(self, arguments: Arguments) -> None:
        try:
            self.options, rest = cmdln.parse(commands.TOP, arguments, interspersed=False)
        except ValueError as error:
            raise cmdln.option_error(error, "fwadm", commands.TOP) from None
        if self.options.get("help"):
            self.print(commands.overview())
        elif not rest:
            self.print(commands.overview())
            raise errors.UsageError("no command given", code="NoCommand")
        elif rest[0] in ("help", "?"):
            self.help(rest[1:])
        else:
            self.command(rest[0], rest[1:])

    def help(self, arguments: Arguments) -> None:
        if not arguments:
            self.print(commands.overview())
        elif arguments[0] in ("help", "?"):
            self.print("Help on a specific sub-command.")
        else:
            self.print(_known(arguments[0]).help())

    def command(self, name: str, arguments: Arguments) -> None:
        command = _known(name)
        try:
            options, arguments = cmdln.parse(command.options, arguments)
        except ValueError as error:
            raise cmdln.option_error(error, f"fwadm {name}", command.options) from None
        self.options |= options
        if options.get("help"):
            self.print(command.help())
            return
        _HANDLERS[name](self, arguments)

    # -- output --

    def print(self, text: str) -> None:
        self.call.out(lexer.text(f"{text}\n"))

    def print_json(self, value: typing.Any) -> None:
        self.print(js.dumps(value, 2))

    def show(self, error: errors.FirewallError, usage: bool = False) -> None:
        """Print what went wrong, each error on its own."""
        parts = error.parts()
        if self.options.get("json"):
            shown = [output.error_document(part, usage) for part in parts]
            self.call.err(lexer.text(js.dumps({"errors": shown}, 2) + "\n"))
            return
        for part in parts:
            self.call.err(lexer.text(f"{part.message}\n"))
            if isinstance(part, errors.UsageError) and part.code != "NoCommand":
                self.call.err(f"\n{part.usage if usage else ''}\n")

    def changed(self, result: Document, action: str) -> None:
        """Print what a change did."""
        if self.options.get("json"):
            self.print_json(result)
            return
        if self.options.get("stdout"):
            for name, text in result.get("files", {}).items():
                self.call.out(f"=== {name}\n{text}\n\n")
        lines = []
        if result["rules"]:
            lines.append(f"{action} rules:")
            lines += map(output.rule_line, result["rules"])
        if result.get("remoteVMs"):
            lines += [f"{action} remote VMs:", *result["remoteVMs"]]
        if self.options.get("verbose"):
            lines += ["", "VMs affected:", *result["vms"]]
        self.print("\n".join(lines))

    def list_rules(self, rules: list[Document]) -> None:
        if self.options.get("json"):
            self.print_json(rules)
            return
        fields = self.options["fields"].split(",") if self.options.get("fields") else _SHOWN
        if self.options.get("parseable"):
            self.call.out(output.parseable(rules, fields, self.options.get("delim") or ":"))
        elif rules:
            self.call.out(output.table(rules, fields))

    # -- input --

    def uuid(self, arguments: Arguments) -> str:
        return _uuid(arguments[0] if arguments else "")

    def records(self) -> list[Document]:
        try:
            return self.call.node.vms.seen()
        except failures.VmError as error:
            raise errors.FirewallError(str(error), error.code or None) from None

    def record(self, uuid: str) -> Document | None:
        return next((vm for vm in self.records() if vm["uuid"] == uuid), None)

    def payload(self, arguments: Arguments) -> typing.Any:
        """The document on the command line, in the file or on stdin."""
        file = self.options.get("file")
        if not file and arguments:
            return {"rule": " ".join(arguments)}
        if not file and self.call.stdin_is_tty():
            raise errors.UsageError("Must supply file!")
        if file in (None, "", "-", "/dev/stdin"):
            return _parsed(self.call.read_stdin())
        try:
            with self.call.open_path(file) as stream:
                return _parsed(stream.read())
        except FileNotFoundError:
            raise errors.FirewallError(f'File "{file}" does not exist.') from None
        except OSError as error:
            what = _SYSTEM_ERRORS.get(type(error), "EIO, read")
            raise errors.FirewallError(f'Error reading "{file}": {what}') from None

    def prepared(self, payload: typing.Any, name: str = "opts") -> Document:
        """The payload as add and update take it; a lone rule becomes a list of one."""
        if isinstance(payload, dict):
            lone = {"rule", "enabled", "description", "owner_uuid", "version"}
            payload = {"rules": [payload]} if lone & payload.keys() else dict(payload)
        elif isinstance(payload, list) or not payload:
            payload = {}
        else:
            raise errors.FirewallError(f"{name} (object) is required")
        payload["dryrun"] = self.options.get("dryrun", False)
        payload["filecontents"] = self.options.get("stdout", False)
        for option, key in (("enable", "enabled"), ("global", "global")):
            if self.options.get(option):
                _set_on_rules(payload, key, True)
        if self.options.get("owner_uuid") and payload.get("rules"):
            _set_on_rules(payload, "owner_uuid", self.options["owner_uuid"])
        return payload


_SYSTEM_ERRORS: dict[type[OSError], str] = {
    IsADirectoryError: "EISDIR, read",
    PermissionError: "EACCES, open",
    NotADirectoryError: "ENOTDIR, open",
}


def _known(name: str) -> cmdln.Subcommand:
    if name not in commands.COMMANDS:
        raise cmdln.unknown_command(name, commands.NAMES)
    return commands.COMMANDS[name]


def _uuid(text: str) -> str:
    if not text:
        raise call_module.Exit(1, "Error: missing UUID\n")
    if not _UUID.fullmatch(text):
        raise call_module.Exit(1, f'Error: invalid UUID "{text}"\n')
    return text


def _parsed(data: bytes) -> typing.Any:
    text = data.decode("utf-8", "replace")
    try:
        return js.loads(text)
    except js.JavaScriptError as error:
        place = js_scanner.stopping_place(text)
        before = text[:place].split("\n")
        line = before[-1] + text[place:].split("\n")[0]
        caret = re.sub(r"[^\t]", " ", before[-1]) + "^"
        trace = _PARSE_TRACE.rstrip("\n")
        raise errors.Crash(
            f"undefined:{len(before)}\n{line}\n{caret}\nSyntaxError: {error}\n{trace}"
        ) from None


def _set_on_rules(payload: Document, key: str, value: typing.Any) -> None:
    rules = payload.get("rules")
    if not isinstance(rules, list):
        shown = "undefined" if rules is None else str(rules)
        raise errors.Crash(f"TypeError: Cannot call method 'forEach' of {shown}")
    for rule in rules:
        if isinstance(rule, dict):
            rule[key] = value


# -- subcommands --


def _add(run: _Run, arguments: Arguments) -> None:
    payload = _late_payload(run, arguments)
    run.changed(run.firewall.add(run.prepared(payload), run.records()), "Added")


def _late_payload(run: _Run, arguments: Arguments) -> typing.Any:
    try:
        return run.payload(arguments)
    except errors.UsageError as error:
        # Too late for the usage text: the command has begun.
        run.show(error)
        raise call_module.Exit(1) from None


def _add_rvm(run: _Run, arguments: Arguments) -> None:
    payload = _late_payload(run, arguments)
    given = isinstance(payload, dict) and "remoteVMs" in payload
    remote = payload["remoteVMs"] if given else [payload]
    run.changed(run.firewall.add({"remoteVMs": remote}, run.records()), "Added")


def _update(run: _Run, arguments: Arguments) -> None:
    uuid = arguments.pop(0) if arguments else ""
    run.failure = 2
    try:
        given = run.payload(arguments)
    except errors.UsageError as error:
        raise errors.UsageError(error.message, commands.COMMANDS["update"].usage()) from None
    run.failure = 1
    payload = run.prepared(given, "payload")
    rules = payload.get("rules")
    if uuid and isinstance(rules, list) and len(rules) == 1:
        rules[0]["uuid"] = _uuid(uuid)
    run.changed(run.firewall.update(payload, run.records()), "Updated")


def _enable(run: _Run, arguments: Arguments) -> None:
    _switch(run, arguments, "enable", "Enabled")


def _disable(run: _Run, arguments: Arguments) -> None:
    _switch(run, arguments, "disable", "Disabled")


def _switch(run: _Run, arguments: Arguments, name: str, action: str) -> None:
    if not arguments:
        usage = commands.COMMANDS[name].usage()
        raise errors.UsageError("Must specify rules to enable!", usage)
    rules = [{"uuid": _uuid(uuid), "enabled": name == "enable"} for uuid in arguments]
    run.changed(run.firewall.update(run.prepared({"rules": rules}), run.records()), action)


def _delete(run: _Run, arguments: Arguments) -> None:
    uuids = _several(arguments, "rules")
    run.changed(run.firewall.delete(run.prepared({}), run.records(), rule_uuids=uuids), "Deleted")


def _delete_rvm(run: _Run, arguments: Arguments) -> None:
    uuids = _several(arguments, "remote VMs")
    run.changed(run.firewall.delete(run.prepared({}), run.records(), remote_uuids=uuids), "Deleted")


def _several(arguments: Arguments, what: str) -> list[str]:
    if not arguments:
        raise call_module.Exit(0, f"Must specify {what} to delete!\n")
    return [_uuid(uuid) for uuid in arguments]


def _get(run: _Run, arguments: Arguments) -> None:
    run.print_json(run.firewall.get_rule(run.uuid(arguments)))


def _get_rvm(run: _Run, arguments: Arguments) -> None:
    run.print_json(run.firewall.remote_vm(run.uuid(arguments)))


def _list(run: _Run, arguments: Arguments) -> None:
    usage = commands.COMMANDS["list"].usage()
    if run.options.get("delim") and not run.options.get("parseable"):
        raise errors.UsageError("-d requires -p", usage)
    if run.options.get("json") and run.options.get("parseable"):
        raise errors.UsageError("cannot specify both -j and -p", usage)
    if run.options.get("fields"):
        rules = run.firewall.list_rules(run.options["fields"].split(","))
    else:
        rules = run.firewall.list_rules()
    run.list_rules(rules)


def _list_rvms(run: _Run, arguments: Arguments) -> None:
    run.print_json(run.firewall.remote_vms())


def _rules(run: _Run, arguments: Arguments) -> None:
    run.list_rules(run.firewall.rules_of(run.uuid(arguments), run.records()))


def _rvm_rules(run: _Run, arguments: Arguments) -> None:
    run.list_rules(run.firewall.rules_of_remote_vm(run.uuid(arguments), run.records()))


def _start(run: _Run, arguments: Arguments) -> None:
    _turn(run, arguments, True)


def _stop(run: _Run, arguments: Arguments) -> None:
    _turn(run, arguments, False)


def _turn(run: _Run, arguments: Arguments, enabled: bool) -> None:
    uuid = run.uuid(arguments)
    try:
        run.call.node.vms.update_firewall(uuid, enabled)
    except failures.VmError as error:
        raise errors.FirewallError(str(error), error.code or None) from None
    if run.options.get("json"):
        run.print_json({"result": "success"})
    else:
        run.print(f"Firewall {'started' if enabled else 'stopped'} for VM {uuid}")


def _status(run: _Run, arguments: Arguments) -> None:
    status = run.firewall.status(run.record(run.uuid(arguments)))
    if run.options.get("json"):
        run.print_json(status)
    elif run.options.get("verbose"):
        run.print("\n".join(f"{key}: {js.text(value)}" for key, value in status.items()))
    else:
        run.print("running" if status["running"] else "stopped")


def _stats(run: _Run, arguments: Arguments) -> None:
    uuid = run.uuid(arguments)
    lines = run.firewall.stats(uuid, run.record(uuid))
    if run.options.get("json"):
        run.print_json(lines)
        return
    for line in lines:
        run.print(f"{line['hits']} {line['rule']}")


def _vms(run: _Run, arguments: Arguments) -> None:
    uuids = run.firewall.vms_of(run.uuid(arguments), run.records())
    if run.options.get("json"):
        run.print_json(uuids)
    else:
        run.print("\n".join(uuids))


_HANDLERS: dict[str, collections.abc.Callable[[_Run, Arguments], None]] = {
    "add": _add,
    "add-rvm": _add_rvm,
    "delete": _delete,
    "delete-rvm": _delete_rvm,
    "disable": _disable,
    "enable": _enable,
    "get": _get,
    "get-rvm": _get_rvm,
    "list": _list,
    "list-rvms": _list_rvms,
    "rules": _rules,
    "rvm-rules": _rvm_rules,
    "start": _start,
    "stats": _stats,
    "status": _status,
    "stop": _stop,
    "update": _update,
    "vms": _vms,
}
