# SPDX-License-Identifier: Apache-2.0
"""smartos-cloud: a private OpenStack cloud on SmartOS nodes, one command up and one down."""

import argparse
import os
import pathlib
import sys

from gate.cloud import call, install, processes

# `up` and the rest run in the environment that `up` makes; here is what may run before it
_NAME = "smartos-cloud"
#: How long `up` and `down` wait for another that may be about to end.
_PATIENCE = 60.0


def main(words: list[str]) -> int:
    """Entry point."""
    options = parser().parse_args(words)
    options.directory = options.directory.resolve()
    call.end_as_by_ctrl_c()
    try:
        if options.command == "down" and not options.directory.exists():
            # nor need there be an environment any more
            with call.alone(options.directory, _PATIENCE):
                processes.stop(options.directory)
            return 0
        if options.command == "up":
            sets = frozenset(options.sets)
            install.packages(sets)
            _enter(install.environment(sets), words)
        elif not _entered():
            _enter(install.made(), words)
        from gate.cloud import commands

        call.clean(os.environ)
        if options.command in ("up", "down"):
            with call.alone(options.directory, _PATIENCE):
                return commands.run(options)
        return commands.run(options)
    except (call.Busy, install.Missing) as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_NAME}: interrupted", file=sys.stderr)
        return 130


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """The options that name real nodes, and how they are reached."""
    parser.add_argument(
        "--node",
        dest="nodes",
        action="append",
        default=[],
        metavar="ssh://USER@HOST[:PORT]",
        help="a real SmartOS node, instead of emulated ones; may be repeated",
    )
    parser.add_argument(
        "--identity", type=_path, help="their SSH key (default: those of the agent)"
    )
    parser.add_argument(
        "--known-hosts", type=_path, help="their host keys (default ~/.ssh/known_hosts)"
    )
    parser.add_argument(
        "--nic-tag",
        default="external",
        help="their nic tag under the cloud's networks (default external)",
    )
    parser.add_argument(
        "--image",
        dest="images",
        action="append",
        default=[],
        type=_image,
        metavar="NAME=MANIFEST",
        help="what to boot as smartos-NAME instead of the emulator's small image: a manifest, with"
        " its file beside; may be repeated",
    )


def _path(text: str) -> str:
    """A path that means the same wherever it is read."""
    return str(pathlib.Path(text).expanduser().resolve())


def _image(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MANIFEST")
    return name, _path(path)


def node_words(options: argparse.Namespace) -> list[str]:
    """Those options as `up` takes them."""
    words = [word for node in options.nodes for word in ("--node", node)]
    words += [word for image in options.images for word in ("--image", "=".join(image))]
    for name in ("identity", "known_hosts", "nic_tag"):
        if value := getattr(options, name):
            words += [f"--{name.replace('_', '-')}", value]
    return words


def _entered() -> bool:
    return pathlib.Path(sys.prefix).resolve() == install.VENV.resolve()


def _enter(python: pathlib.Path, words: list[str]) -> None:
    """Go on in the virtual environment."""
    if not _entered():
        sys.stdout.flush()
        script = install.ROOT / "gate/smartos-cloud"
        os.execv(python, [str(python), str(script), *words])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog=_NAME, description=__doc__)
    made.add_argument(
        "--directory",
        "-d",
        type=pathlib.Path,
        default=pathlib.Path(os.environ.get("SMARTOS_CLOUD", install.ROOT / "build/cloud")),
        help="the cloud's own folder (default: $SMARTOS_CLOUD, or build/cloud)",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="install what is missing, and start the cloud")
    up.add_argument("--fresh", action="store_true", help="end a cloud that is up, and start anew")
    up.add_argument(
        "--with",
        dest="sets",
        action="append",
        default=[],
        choices=["bench", "consoles", "gate", "telemetry", "volumes"],
        help="an optional set of services; may be repeated",
    )
    up.add_argument("--speed", default="20", help="node seconds in a second (default 20)")
    up.add_argument(
        "--emulated",
        action="append",
        choices=["local", "ssh"],
        help="how an emulated node is reached (default: ssh, ssh and local); may be repeated",
    )
    add_node_options(up)
    commands.add_parser("down", help="stop the cloud, and remove all that it left")
    status = commands.add_parser("status", help="what runs, and what it costs")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--seconds",
        type=float,
        help="measure processor time this long (default 1, with --json a minute)",
    )
    logs = commands.add_parser("logs", help="show a service's log, or which there are")
    logs.add_argument("service", nargs="?")
    logs.add_argument("--follow", "-f", action="store_true")
    execute = commands.add_parser("exec", help="run a command as the cloud's administrator")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …")
    return made
