# SPDX-License-Identifier: Apache-2.0
"""imgadm: the command line of the image tool."""

import uuid
from typing import Any

from smartos_emulator import call as call_module
from smartos_emulator import js
from smartos_emulator.imgadm import context, database, dispatch, errors, help, options

NAME = "imgadm"
VERSION = "3.9.5"
_ERROR_LEVEL = 50
_DEBUG_LEVEL = 20


def main(call: call_module.Call) -> int:
    """One run of imgadm."""
    return _Cli(call).main()


class _Cli:
    def __init__(self, call: call_module.Call) -> None:
        self.call = call
        self.command = ""
        self.given = options.Parsed({}, [])
        self.request = call.env.get("REQ_ID") or call.env.get("req_id") or str(uuid.uuid4())

    def main(self) -> int:
        try:
            self.given = options.parse(help.GLOBAL, self.call.argv[1:], interspersed=False)
            self._log_debug("cli init", args=self.given.arguments)
            self._dispatch()
        except js.JavaScriptError as error:
            return self._fail(errors.of_javascript(error))
        except errors.ImgadmError as error:
            return self._fail(error)
        self._log_debug("cli exit", exitStatus=0)
        return 0

    def _dispatch(self) -> None:
        if self.given.version:
            self.call.out(f"{NAME} {VERSION}\n")
            return
        if self.given.help:
            self.call.out(help.overview())
            return
        config = database.Config(self.call.node).load()
        if not self.given.arguments:
            self.call.out(help.overview())
            raise errors.CommandLineError("NoCommand", "no command given")
        self.command, *rest = self.given.arguments
        command = _command(self.command)
        if command.name == "help":
            self._help(rest)
            return
        parsed = options.parse(command.options, rest)
        if parsed.help:
            self.call.out(help.of_command(command))
            return
        dispatch.HANDLERS[command.name](context.Run(self.call, config, self.request), parsed)

    def _help(self, rest: list[str]) -> None:
        self.call.out(help.of_command(_command(rest[0])) if rest else help.overview())

    def _fail(self, error: errors.ImgadmError) -> int:
        self._log_debug("cli exit", exitStatus=error.status)
        stack = _stack(error)
        if self.given.E:
            shown = {"message": error.message, "name": error.name, "stack": stack}
            if error.code:
                shown["code"] = error.code
            self._log(_ERROR_LEVEL, error.message, err=shown)
        elif error.code != "NoCommand":
            code = f" ({error.code})" if error.code else ""
            where = f"{NAME} {self.command}" if self.command else NAME
            text = stack if self._verbose() else error.message
            self.call.err(f"{where}: error{code}: {text}\n")
        return error.status

    def _verbose(self) -> bool:
        level = self.call.env.get("IMGADM_LOG_LEVEL", "")
        return bool(self.given.verbose) or level in ("trace", "debug")

    def _log_debug(self, message: str, **fields: Any) -> None:
        if self._verbose():
            self._log(_DEBUG_LEVEL, message, **fields, cli=True)

    def _log(self, level: int, message: str, **fields: Any) -> None:
        """A log record in the form of the logger that SmartOS tools share."""
        record = {
            "name": NAME,
            "req_id": self.request,
            "hostname": self.call.node.config.name,
            "pid": self.call.pid,
            "level": level,
            **fields,
            "msg": message,
            "time": context.iso_time(self.call.node.clock.now()),
            "v": 0,
        }
        if self._verbose():
            record["src"] = {"file": "/usr/img/lib/cli.js", "line": 1}
        self.call.err(js.dumps(record) + "\n")


def _stack(error: errors.ImgadmError) -> str:
    """The first line of the stack trace that the real error has."""
    cause = f"; caused by {error.cause}" if error.cause else ""
    return f"{error.kind}: {error.message}{cause}"


def _command(name: str) -> help.Command:
    if name not in help.BY_NAME:
        raise errors.CommandLineError("UnknownCommand", f'unknown command: "{name}"')
    return help.BY_NAME[name]
