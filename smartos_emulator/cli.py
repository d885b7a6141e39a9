# SPDX-License-Identifier: Apache-2.0
"""The command `smartos-emulator`: bring nodes up and down, run their tools, spoil them."""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import typing

from smartos_emulator import client, control

_START_SECONDS = 60
_STOP_SECONDS = 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Failure(Exception):
    """The command cannot be carried out; the text says why."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) >= 3 and words[0] == "exec":
        client.end(client.call(words[1], words[3:] if words[2] == "--" else words[2:]))
    options = _parser().parse_args(words)
    try:
        status = options.command(options)
    except Failure as failure:
        sys.exit(f"smartos-emulator: {failure}")
    sys.exit(status)


def up(options: argparse.Namespace) -> int:
    """Bring the node up; say where it is."""
    directory = options.directory.resolve()
    if _answers(directory):
        raise Failure(f"a node is already up in {directory}")
    _write_config(directory, options)
    _install_tools(directory)
    _start_daemon(directory)
    print(f"{directory}: up")
    return 0


def down(options: argparse.Namespace) -> int:
    """Power the node off."""
    _stop_daemon(options.directory.resolve())
    print(f"{options.directory}: down")
    return 0


def reboot(options: argparse.Namespace) -> int:
    """Power off and on again: the RAM root is lost, VMs with autoboot start."""
    directory = options.directory.resolve()
    _stop_daemon(directory)
    _install_tools(directory)
    _start_daemon(directory)
    print(f"{directory}: rebooted")
    return 0


def show_env(options: argparse.Namespace) -> int:
    """Print what makes the node's tools first in PATH."""
    folder = options.directory.resolve() / "bin"
    print(f'export PATH={shlex.quote(str(folder))}:"$PATH"')
    return 0


def status(options: argparse.Namespace) -> int:
    """Say what the node is and does."""
    facts = _control(options.directory, "status")
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    config, ssh = facts["config"], facts["ssh"]
    print(f"{config['name']} ({config['uuid']}), platform {config['platform']}, up")
    print(f"  {config['cpus']} CPUs, {config['memory_mib']} MiB, speed {config['speed']:g}")
    print(f"  ssh: {ssh['user']}@{ssh['host']}:{ssh['port']}" if ssh else "  ssh: no (local only)")
    print(f"  vminfod: {'up' if facts['vminfod']['up'] else 'DOWN'}; images: {facts['images']}")
    for vm in facts["vms"]:
        print(f"  {vm['uuid']}  {vm['brand']:<14}  {vm['state']:<12}  {vm['alias'] or '-'}")
    for fault in facts["faults"]:
        print(f"  fault {fault['id']}: {fault['kind']} {fault['tool']} {fault['match']}")
    return 0


def fault_add(options: argparse.Namespace) -> int:
    """Add a fault to a tool."""
    names = "kind tool match count probability status stdout stderr seconds bytes"
    document = {name: getattr(options, name) for name in names.split()}
    print(_control(options.directory, "fault-add", document)["id"])
    return 0


def fault_list(options: argparse.Namespace) -> int:
    """List the faults."""
    print(json.dumps(_control(options.directory, "fault-list"), indent=2))
    return 0


def fault_clear(options: argparse.Namespace) -> int:
    """Clear one fault; without a number all, a full disk and a stopped vminfod too."""
    _control(options.directory, "fault-clear", {"number": options.number})
    return 0


def fault_vminfod(options: argparse.Namespace) -> int:
    """Take vminfod down, or bring it up again."""
    _control(options.directory, "fault-vminfod", {"up": options.state == "up"})
    return 0


def fault_disk(options: argparse.Namespace) -> int:
    """Fill a pool, or free it again."""
    document = {"pool": options.pool, "full": options.state == "full"}
    _control(options.directory, "fault-disk", document)
    return 0


def fault_guest(options: argparse.Namespace) -> int:
    """Say how the software inside a VM behaves."""
    document = {"uuid": options.uuid, **dict(options.settings)}
    _control(options.directory, "fault-guest", document)
    return 0


def load(options: argparse.Namespace) -> int:
    """Put load on a VM: what its metrics count from now on."""
    rates = {key: float(value) for key, value in options.settings}
    _control(options.directory, "load", {"uuid": options.uuid, **rates})
    return 0


def image(options: argparse.Namespace) -> int:
    """Write a small sample image for `imgadm install -m … -f …`."""
    from smartos_emulator.imgadm import sample

    fields = {"uuid": options.uuid, "version": options.version, "image_size": options.size}
    manifest, stream = sample.build(
        options.kind, options.name, **{key: value for key, value in fields.items() if value}
    )
    base = options.output or options.name
    pathlib.Path(f"{base}.imgmanifest").write_text(json.dumps(manifest, indent=2) + "\n")
    pathlib.Path(f"{base}.zfs.gz").write_bytes(stream)
    print(manifest["uuid"])
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what this machine gives the emulator."""
    from smartos_emulator import doctor as checks

    return checks.main(options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smartos-emulator", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: typing.Callable[..., int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        added.set_defaults(command=command)
        if name not in ("doctor", "image", "fault"):
            added.add_argument("directory", type=pathlib.Path, metavar="DIR")
        return added

    _add_up_options(add("up", up))
    add("down", down)
    add("reboot", reboot)
    add("env", show_env)
    running = add("exec", lambda _: 2)
    running.description = "Run a tool of the node: exec DIR -- TOOL ARGS…"
    running.add_argument("words", nargs="+", metavar="-- TOOL ARGS")
    add("status", status).add_argument("--json", action="store_true")
    loaded = add("load", load)
    loaded.add_argument("uuid")
    loaded.add_argument("settings", nargs="+", type=_pair, metavar="KEY=VALUE")
    sample = add("image", image)
    sample.add_argument("kind", choices=("zone", "minimal", "lx", "zvol"))
    sample.add_argument("name")
    sample.add_argument("--uuid")
    sample.add_argument("--version")
    sample.add_argument("--size", type=int, metavar="MIB", help="of a zvol")
    sample.add_argument("--output", help="write OUTPUT.imgmanifest and OUTPUT.zfs.gz")
    add("doctor", doctor).add_argument("--json", action="store_true")
    _add_fault_commands(commands.add_parser("fault", help="Spoil a node, or heal it."))
    return parser


def _add_up_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", help="the node's host name")
    add("--uuid", help="the server's UUID")
    add("--cpus", type=int)
    add("--memory", type=_size, metavar="SIZE", help="as 32G")
    add("--pool-size", type=_size, metavar="SIZE", help="the size of the pool `zones`, as 512G")
    add("--pool", type=_pair, action="append", metavar="NAME=SIZE", help="one more pool")
    add("--nic-tag", action="append", metavar="TAG", help="admin and these exist")
    add("--etherstub", action="append", metavar="NAME")
    add("--overlay-rule", action="append", metavar="NAME")
    add("--platform", help="the platform's time stamp")
    add("--no-bhyve", action="store_true", help="a machine that cannot run bhyve")
    add("--no-probe", action="append", metavar="PROBE", help="what dtrace lacks, as fbt:::")
    add("--ssh", metavar="ADDR:PORT", help="serve SSH there; port 0 picks a free one")
    add("--vminfod-port", type=int, help="vminfod's HTTP port (default: a free one)")
    add("--speed", type=float, help="node seconds in a second (default 1)")
    add("--seed", type=int, help="the seed of all that is drawn")


def _add_fault_commands(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    adding = commands.add_parser("add", help=fault_add.__doc__)
    adding.set_defaults(command=fault_add)
    add = adding.add_argument
    add("tool", help="the tool's name, or *")
    add(
        "kind",
        choices=(
            *("fail", "hang", "slow", "truncate"),
            *("die-before", "die-after", "lose-before", "lose-after"),
            *("say", "stall", "die"),
        ),
    )
    add("--match", default="", metavar="REGEX", help="only runs whose arguments match")
    add("--count", type=int, default=0, help="only the first COUNT runs")
    add("--probability", type=float, default=1.0)
    add("--status", type=int, default=1, help="fail, die: the exit status")
    add("--stdout", default="", help="fail: what it prints")
    add("--stderr", default="", help="fail, say, die: what it prints")
    add("--seconds", type=float, default=1.0, help="slow: node seconds")
    add("--bytes", type=int, default=0, help="truncate: how many bytes pass")
    commands.add_parser("list", help=fault_list.__doc__).set_defaults(command=fault_list)
    clearing = commands.add_parser("clear", help=fault_clear.__doc__)
    clearing.set_defaults(command=fault_clear)
    clearing.add_argument("number", type=int, nargs="?")
    vminfod = commands.add_parser("vminfod", help=fault_vminfod.__doc__)
    vminfod.set_defaults(command=fault_vminfod)
    vminfod.add_argument("state", choices=("up", "down"))
    disk = commands.add_parser("disk", help=fault_disk.__doc__)
    disk.set_defaults(command=fault_disk)
    disk.add_argument("state", choices=("full", "free"))
    disk.add_argument("--pool", default="zones")
    guest = commands.add_parser("guest", help=fault_guest.__doc__)
    guest.set_defaults(command=fault_guest)
    guest.add_argument("uuid")
    guest.add_argument("settings", nargs="+", type=_pair, metavar="KEY=VALUE")


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (as 32G)")
    return int(match[1]) * _UNITS[match[2].upper()]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"not KEY=VALUE: {text!r}")
    return key, value


def _write_config(directory: pathlib.Path, options: argparse.Namespace) -> None:
    """Keep the node's configuration: what is given now over what was."""
    from smartos_emulator import node, state

    file = state.File(directory / "node.json")
    kept = file.load()
    document = node.Config(name=directory.name).to_json() if kept is None else kept
    document |= {key: value for key, value in _given(options).items() if value is not None}
    if options.pool_size or options.pool:
        pools = dict(document["pools"])
        pools |= {name: _size(size) for name, size in options.pool or ()}
        document["pools"] = pools | ({"zones": options.pool_size} if options.pool_size else {})
    config = node.Config.from_json(document)
    file.save(dataclasses.replace(config, ssh=_listening(config.ssh)).to_json())


def _listening(ssh: str) -> str:
    """ADDR:PORT, with a free port where 0 was asked for."""
    if not ssh:
        return ssh
    address, _, port = ssh.rpartition(":")
    if not address or not port.isdigit():
        raise Failure(f"--ssh takes ADDR:PORT, not {ssh!r}")
    if int(port) == 0:
        with socket.create_server((address, 0)) as free:
            port = str(free.getsockname()[1])
    return f"{address}:{port}"


def _given(options: argparse.Namespace) -> dict[str, typing.Any]:
    tags = options.nic_tag
    return {
        "name": options.name,
        "uuid": options.uuid,
        "cpus": options.cpus,
        "memory_mib": options.memory and options.memory >> 20,
        "nic_tags": tags and tuple(dict.fromkeys(["admin", *tags])),
        "etherstubs": options.etherstub,
        "overlay_rules": options.overlay_rule,
        "platform": options.platform,
        "bhyve": False if options.no_bhyve else None,
        "lacking_probes": options.no_probe,
        "ssh": options.ssh,
        "vminfod_port": options.vminfod_port,
        "speed": options.speed,
        "seed": options.seed,
    }


def _install_tools(directory: pathlib.Path) -> None:
    """Put an executable for each tool into the node's bin folder."""
    from smartos_emulator import tools

    folder = directory / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = pathlib.Path(client.__file__).read_text()
    interpreter = os.path.realpath(sys.executable)
    programs = dict.fromkeys(tools.NAMES, f"#!{interpreter} -IS\n{source}")
    # the node's only user is its root, whoever runs it here
    programs["pfexec"] = '#!/bin/sh\nexec "$@"\n'
    for name, text in programs.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)


def _start_daemon(directory: pathlib.Path) -> None:
    """Start the daemon; it serves when this returns."""
    (directory / "log").mkdir(exist_ok=True)
    reading, writing = os.pipe()
    argv = [
        sys.executable,
        "-m",
        "smartos_emulator.daemon",
        str(directory),
        "--ready",
        str(writing),
    ]
    with open(directory / "log" / "daemon.log", "ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        said = select.select([ready], [], [], _START_SECONDS)[0] and ready.readline()
    if said != b"ready\n":
        process.kill()
        process.wait()
        raise Failure(f"the node did not come up: {_last_line(directory)}")
    process.returncode = 0  # it lives on; this process does not wait for it


def _last_line(directory: pathlib.Path) -> str:
    lines = (directory / "log" / "daemon.log").read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _stop_daemon(directory: pathlib.Path) -> None:
    """Ask the daemon to stop, wait until it has; insist when it does not."""
    pid = _control(directory, "status")["pid"]
    process = os.pidfd_open(pid)
    try:
        _control(directory, "stop")
        if not select.select([process], [], [], _STOP_SECONDS)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], _STOP_SECONDS)
    finally:
        os.close(process)


def _answers(directory: pathlib.Path) -> bool:
    try:
        _control(directory, "status")
    except Failure:
        return False
    return True


def _control(
    directory: pathlib.Path, request: str, document: dict[str, typing.Any] | None = None
) -> typing.Any:
    """Ask the node's daemon; its answer."""
    words = [control.NAME, request, json.dumps(document or {})]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno(), out.fileno(), err.fileno())
            status = client.call(directory, words, streams)
        out.seek(0)
        err.seek(0)
        said, complaint = out.read(), err.read().decode()
    if status == client.NODE_DOWN:
        raise Failure(f"no node is up in {directory}")
    if request != "stop" and status != 0:
        raise Failure(complaint.strip() or f"{request} ended with status {status}")
    return json.loads(said) if said else None
