# SPDX-License-Identifier: Apache-2.0
"""The simulated guests' programs: a few commands over the files in a zone's root."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import shlex
import stat
import typing

from smartos_emulator import zoneroot, zones

if typing.TYPE_CHECKING:
    from smartos_emulator import call as call_module
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

_CHUNK = 1 << 17
_NOT_FOUND = 127
_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/native/usr/sbin/", "/opt/local/bin/")
_SUFFIXES = {"k": 1 << 10, "b": 512, "m": 1 << 20, "g": 1 << 30, "w": 2}


class Failed(Exception):
    """A program ends with a status, having said why on stderr."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclasses.dataclass
class Process:
    """One program's run in a zone."""

    node: "node_module.Node"
    zone: zones.Zone
    root: zoneroot.Root
    argv: list[str]
    stdin: typing.BinaryIO
    stdout: typing.BinaryIO
    stderr: typing.BinaryIO

    @property
    def name(self) -> str:
        return self.argv[0]

    def out(self, text: str) -> None:
        self.stdout.write(text.encode("utf-8", "surrogateescape"))

    def vm(self) -> Vm:
        return self.node.vms.get(self.zone.uuid) or {}

    def dataset(self) -> str:
        return self.zone.path.lstrip("/")

    def charge(self) -> None:
        """Account for what was written; a full dataset is an OSError."""
        self.node.storage.charge(self.dataset())


def run(call: "call_module.Call", zone: zones.Zone, argv: list[str]) -> int:
    """Run a command in a running zone on the caller's streams; its exit status."""
    root = call.node.zones.inside(zone.name)
    process = Process(call.node, zone, root, argv, call.stdin, call.stdout, call.stderr)
    return execute(process)


def execute(process: Process) -> int:
    """Run one program."""
    name = process.argv[0]
    for folder in _FOLDERS:
        name = name.removeprefix(folder)
    program = _PROGRAMS.get(name)
    if program is None:
        _complain(process, f"{_shell(process)}: line 1: exec: {process.argv[0]}: not found")
        return _NOT_FOUND
    process = dataclasses.replace(process, argv=[name, *process.argv[1:]])
    try:
        return program(process)
    except Failed as failure:
        if str(failure):
            _complain(process, f"{name}: {failure}")
        return failure.status
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        _complain(process, f"{name}: {_shown(process, error)}{error.strerror}")
        return 1


def _shown(process: Process, error: OSError) -> str:
    """The file an error is about, as the zone names it."""
    if error.filename is None or error.filename == process.dataset():
        return ""
    path = str(error.filename)
    inside = path.removeprefix(str(process.root.top))
    return f"{inside or '/'}: "


def _shell(process: Process) -> str:
    return "ksh" if process.zone.brand != "lx" else "sh"


def _complain(process: Process, text: str) -> None:
    process.stderr.write(f"{text}\n".encode("utf-8", "surrogateescape"))


def _split(process: Process, letters: str) -> tuple[set[str], list[str]]:
    """The flags and the operands of a program."""
    flags: set[str] = set()
    words = process.argv[1:]
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        for letter in word[1:]:
            if letter not in letters:
                raise Failed(f"illegal option -- {letter}", 2)
            flags.add(letter)
    return flags, words


def _copy(source: typing.BinaryIO, *targets: typing.BinaryIO) -> None:
    while chunk := source.read(_CHUNK):
        for target in targets:
            target.write(chunk)


class _Counted(io.RawIOBase):
    """A file being written, whose size the zone's dataset is asked about as it grows."""

    def __init__(self, process: Process, file: typing.BinaryIO) -> None:
        self._process = process
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: typing.Any) -> int:
        size = len(data)
        self._process.node.storage.check(self._process.dataset(), size)
        self._file.write(data)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            self._process.charge()


def _create(process: Process, path: str, mode: str = "wb") -> typing.BinaryIO:
    if path == "/dev/null":
        return typing.cast(typing.BinaryIO, pathlib.Path(os.devnull).open(mode))
    file = process.root.host(path, write=True).open(mode)
    return typing.cast(typing.BinaryIO, _Counted(process, typing.cast(typing.BinaryIO, file)))


def _cat(process: Process) -> int:
    _, paths = _split(process, "u")
    for path in paths or ["-"]:
        if path == "-":
            _copy(process.stdin, process.stdout)
        else:
            with process.root.host(path).open("rb") as file:
                _copy(file, process.stdout)
    return 0


def _tee(process: Process) -> int:
    flags, paths = _split(process, "a")
    with contextlib.ExitStack() as stack:
        mode = "ab" if "a" in flags else "wb"
        files = [stack.enter_context(_create(process, path, mode)) for path in paths]
        _copy(process.stdin, process.stdout, *files)
    return 0


def _dd(process: Process) -> int:
    operands = dict(word.partition("=")[::2] for word in process.argv[1:])
    unknown = set(operands) - {"if", "of", "bs", "count"}
    if unknown:
        raise Failed(f'bad argument: "{unknown.pop()}"', 2)
    size = _number(operands.get("bs", "512"))
    limit = _number(operands["count"]) if "count" in operands else None
    with contextlib.ExitStack() as stack:
        source, target = process.stdin, process.stdout
        if "if" in operands:
            source = stack.enter_context(_source(process, operands["if"]))
        if "of" in operands:
            target = stack.enter_context(_create(process, operands["of"]))
        whole, partial = _blocks(source, target, size, limit)
    _complain(process, f"{whole}+{partial} records in\n{whole}+{partial} records out")
    return 0


def _source(process: Process, path: str) -> typing.BinaryIO:
    devices = {"/dev/zero": "/dev/zero", "/dev/urandom": "/dev/urandom", "/dev/null": os.devnull}
    host = pathlib.Path(devices[path]) if path in devices else process.root.host(path)
    return typing.cast(typing.BinaryIO, host.open("rb"))


def _blocks(
    source: typing.BinaryIO, target: typing.BinaryIO, size: int, limit: int | None
) -> tuple[int, int]:
    whole = partial = 0
    while limit is None or whole + partial < limit:
        block = source.read(size)
        if not block:
            break
        target.write(block)
        whole, partial = whole + (len(block) == size), partial + (len(block) < size)
    return whole, partial


def _number(text: str) -> int:
    factor = _SUFFIXES.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit():
        raise Failed(f'bad numeric argument: "{text}"', 2)
    return int(digits) * factor


def _ls(process: Process) -> int:
    flags, paths = _split(process, "la1Ad")
    for path in paths or ["/"]:
        host = process.root.host(path)
        status = host.lstat()
        if stat.S_ISDIR(status.st_mode) and "d" not in flags:
            names = sorted(os.listdir(host))
            shown = [name for name in names if flags & {"a", "A"} or not name.startswith(".")]
            entries = [(name, host / name) for name in shown]
        else:
            entries = [(path, host)]
        for name, where in entries:
            process.out(_long(where, name) if "l" in flags else f"{name}\n")
    return 0


def _long(path: pathlib.Path, name: str) -> str:
    status = path.lstat()
    link = f" -> {os.readlink(path)}" if path.is_symlink() else ""
    mode = stat.filemode(status.st_mode)
    return f"{mode} {status.st_nlink:3} root     root     {status.st_size:7} {name}{link}\n"


def _rm(process: Process) -> int:
    flags, paths = _split(process, "rRf")
    for path in paths:
        host = process.root.host(path, follow=False, write=True)
        if not os.path.lexists(host):
            if "f" not in flags:
                raise Failed(f"{path}: No such file or directory", 2)
        elif host.is_dir() and not host.is_symlink():
            if not flags & {"r", "R"}:
                raise Failed(f"{path} is a directory", 2)
            _remove_tree(host)
        else:
            host.unlink()
    process.charge()
    return 0


def _remove_tree(path: pathlib.Path) -> None:
    for below, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(below, name))
        for name in folders:
            where = os.path.join(below, name)
            (os.unlink if os.path.islink(where) else os.rmdir)(where)
    path.rmdir()


def _mkdir(process: Process) -> int:
    flags, paths = _split(process, "p")
    for path in paths:
        host = process.root.host(path, write=True)
        host.mkdir(parents="p" in flags, exist_ok="p" in flags)
    process.charge()
    return 0


def _touch(process: Process) -> int:
    _, paths = _split(process, "")
    for path in paths:
        process.root.host(path, write=True).touch()
    process.charge()
    return 0


def _mv(process: Process) -> int:
    _, paths = _split(process, "f")
    if len(paths) != 2:
        raise Failed("Insufficient arguments (1)", 2)
    source = process.root.host(paths[0], follow=False, write=True)
    target = process.root.host(paths[1], write=True)
    if target.is_dir():
        target = target / source.name
    os.replace(source, target)
    return 0


def _echo(process: Process) -> int:
    words = process.argv[1:]
    end = "\n"
    if words[:1] == ["-n"]:
        words, end = words[1:], ""
    process.out(" ".join(words) + end)
    return 0


def _sleep(process: Process) -> int:
    process.node.clock.sleep(float(process.argv[1]) if process.argv[1:] else 0)
    return 0


def _exit(process: Process) -> int:
    return int(process.argv[1]) & 0xFF if process.argv[1:] else 0


def _hostname(process: Process) -> int:
    process.out(process.node.zones.hostname(process.zone.name) + "\n")
    return 0


def _uname(process: Process) -> int:
    flags, _ = _split(process, "asnrvmpi")
    lx = process.zone.brand == "lx"
    vm = process.vm()
    facts = {
        "s": "Linux" if lx else "SunOS",
        "n": process.node.zones.hostname(process.zone.name),
        "r": vm.get("kernel_version", "5.10.0") if lx else "5.11",
        "v": "BrandZ virtual linux" if lx else f"joyent_{process.node.config.platform}",
        "m": "x86_64" if lx else "i86pc",
        "p": "x86_64" if lx else "i386",
        "i": "x86_64" if lx else "i86pc",
    }
    wanted = set("snrvmpi") if "a" in flags else flags or {"s"}
    process.out(" ".join(facts[letter] for letter in "snrvmpi" if letter in wanted) + "\n")
    return 0


def _id(process: Process) -> int:
    process.out("uid=0(root) gid=0(root)\n")
    return 0


def _pwd(process: Process) -> int:
    process.out("/root\n" if process.zone.brand == "lx" else "/\n")
    return 0


def _true(_process: Process) -> int:
    return 0


def _false(_process: Process) -> int:
    return 1 if _process.zone.brand == "lx" else 255


def _mount(process: Process) -> int:
    """The remount that vmadm runs when a tmpfs grows; there is no tmpfs to grow."""
    words = process.argv[1:]
    if "remount" not in " ".join(words) or words[-1:] != ["/tmp"]:
        raise Failed("only a remount of /tmp is emulated")
    return 0


def _svcs(process: Process) -> int:
    services = (
        "svc:/smartdc/mdata:execute",
        "svc:/smartdc/mdata:fetch",
        "svc:/system/boot-config:default",
        "svc:/system/zoneinit:default",
        "svc:/milestone/multi-user:default",
        "svc:/network/ssh:default",
    )
    flags, wanted = _split(process, "aHxvp")
    if "x" in flags:
        return 0
    if "H" not in flags:
        process.out("STATE          STIME    FMRI\n")
    for service in services:
        if not wanted or any(word in service for word in wanted):
            process.out(f"online         {_stime(process)} {service}\n")
    return 0


def _stime(process: Process) -> str:
    booted = process.zone.booted
    return f"{booted:%H:%M:%S}" if booted else "-"


def _svcadm(_process: Process) -> int:
    return 0


def _shutdown(process: Process) -> int:
    """shutdown, halt, poweroff, reboot: the zone goes down by itself."""
    words = process.argv[1:]
    again = process.name == "reboot" or "-r" in words or _init_level(words) == "6"
    process.node.zones.guest_shutdown(process.zone.name, again=again)
    return 0


def _init_level(words: list[str]) -> str:
    return words[words.index("-i") + 1] if "-i" in words[:-1] else ""


def _mdata_get(process: Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    value = _metadata_value(process, key)
    if value is None:
        _complain(process, f"No metadata for '{key}'")
        return 1
    process.out(value + "\n")
    return 0


def _metadata_value(process: Process, key: str) -> str | None:
    vm = process.vm()
    if key.startswith("sdc:"):
        return _synthesized(vm, key.removeprefix("sdc:"))
    if key in _metadata_of(vm, key):
        value = _metadata_of(vm, key)[key]
        return value if isinstance(value, str) else json.dumps(value)
    return None


def _metadata_of(vm: Vm, key: str) -> Vm:
    """Passwords, and keys in the VM's own namespaces, are kept where customers cannot write."""
    spaces = vm.get("internal_metadata_namespaces", [])
    internal = key.endswith("_pw") or any(key.startswith(f"{space}:") for space in spaces)
    return vm.get("internal_metadata" if internal else "customer_metadata", {})


def _synthesized(vm: Vm, name: str) -> str | None:
    made: dict[str, typing.Callable[[Vm], typing.Any]] = {
        "hostname": lambda vm: vm.get("hostname") or vm.get("zonename"),
        "routes": lambda vm: [
            {"linklocal": False, "dst": where, "gateway": via}
            for where, via in vm.get("routes", {}).items()
        ],
        "operator-script": lambda vm: vm.get("internal_metadata", {}).get("operator-script"),
    }
    value = made[name](vm) if name in made else vm.get(name)
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _mdata_put(process: Process) -> int:
    words = process.argv[1:]
    if len(words) not in (1, 2):
        raise Failed("usage: mdata-put <keyname> [ <value> ]", 2)
    text = words[1] if len(words) == 2 else process.stdin.read().decode("utf-8", "surrogateescape")
    return _change_metadata(process, words[0], text)


def _mdata_delete(process: Process) -> int:
    key = process.argv[1] if process.argv[1:] else ""
    if _metadata_value(process, key) is None:
        _complain(process, f"No metadata for '{key}'")
        return 1
    return _change_metadata(process, key, None)


def _change_metadata(process: Process, key: str, value: str | None) -> int:
    vm = process.vm()
    known = _metadata_of(vm, key)
    if key.startswith("sdc:") or known is vm.get("internal_metadata"):
        raise Failed(f"Cannot update '{key}'")
    with process.node.vms.lock(process.zone.uuid):
        fresh = dict((process.vm()).get("customer_metadata", {}))
        fresh.pop(key, None)
        if value is not None:
            fresh[key] = value
        process.node.vms.write_metadata(process.zone.uuid, {"customer_metadata": fresh})
    return 0


def _mdata_list(process: Process) -> int:
    process.out("".join(f"{key}\n" for key in process.vm().get("customer_metadata", {})))
    return 0


def _sh(process: Process) -> int:
    """A shell as far as it goes: commands joined by &&, `;` or `||`, with > and >> and <."""
    words = process.argv[1:]
    if words[:1] in (["-l"], ["-e"]):
        words = words[1:]
    if words[:1] == ["-c"] and len(words) > 1:
        return _lines(process, words[1])
    if not words:
        return _lines(process, process.stdin.read().decode("utf-8", "surrogateescape"))
    raise Failed("only -c and a script on standard input are emulated")


def _lines(process: Process, script: str) -> int:
    status = 0
    for line in script.splitlines() or [script]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
        lexer.whitespace_split = True
        try:
            status = _sequence(process, list(lexer))
        except ValueError as error:
            raise Failed(f"syntax error: {error}", 2) from None
        except _Ended as end:
            return end.status
    return status


class _Ended(Exception):
    """The script ran `exit`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _sequence(process: Process, words: list[str]) -> int:
    status, joint = 0, ";"
    while words:
        end = next((at for at, word in enumerate(words) if word in (";", "&&", "||")), len(words))
        command, after = words[:end], words[end : end + 1]
        skip = (joint == "&&" and status != 0) or (joint == "||" and status == 0)
        if command and not skip:
            status = _simple(process, command)
        joint = after[0] if after else ";"
        words = words[end + 1 :]
    return status


def _simple(process: Process, words: list[str]) -> int:
    """One command with its redirections."""
    refused = next((word for word in words if re.fullmatch(r"[|&()]+", word)), None)
    if refused:
        raise Failed(f"`{refused}' is not emulated", 2)
    with contextlib.ExitStack() as stack:
        argv, stdin, stdout = [], process.stdin, process.stdout
        left = iter(words)
        for word in left:
            if word in (">", ">>"):
                mode = "wb" if word == ">" else "ab"
                stdout = stack.enter_context(_create(process, next(left), mode))
            elif word == "<":
                stdin = stack.enter_context(_source(process, next(left)))
            else:
                argv.append(word)
        if argv[:1] == ["exit"]:
            raise _Ended(int(argv[1]) & 0xFF if argv[1:] else 0)
        command = dataclasses.replace(process, argv=argv, stdin=stdin, stdout=stdout)
        return execute(command) if argv else 0


_PROGRAMS: dict[str, typing.Callable[[Process], int]] = {
    "bash": _sh,
    "cat": _cat,
    "dd": _dd,
    "echo": _echo,
    "exit": _exit,
    "false": _false,
    "halt": _shutdown,
    "hostname": _hostname,
    "id": _id,
    "ls": _ls,
    "mdata-delete": _mdata_delete,
    "mdata-get": _mdata_get,
    "mdata-list": _mdata_list,
    "mdata-put": _mdata_put,
    "mkdir": _mkdir,
    "mount": _mount,
    "mv": _mv,
    "poweroff": _shutdown,
    "pwd": _pwd,
    "reboot": _shutdown,
    "rm": _rm,
    "sh": _sh,
    "shutdown": _shutdown,
    "sleep": _sleep,
    "svcadm": _svcadm,
    "svcs": _svcs,
    "tee": _tee,
    "touch": _touch,
    "true": _true,
    "uname": _uname,
}
