# SPDX-License-Identifier: Apache-2.0
"""The subcommands of imgadm: what they are called, which options they take, what help says."""

import dataclasses
import textwrap

from smartos_emulator.imgadm import options

Option = options.Option
SUMMARY = "Manage SmartOS virtual machine images."

_HELP = Option(("help", "h"), "Show this help.")
_POOL = Option(("P",), 'The pool of the image; "zones" unless given.', "string", "<pool>")
_QUIET = Option(("quiet", "q"), "No progress bar.")
_JSON = Option(("json", "j"), "JSON output.")
_HEADER = Option(("H",), "No header row.")
_SORT = Option(("s",), "Sort by these fields.", "string", "FIELD,...", "published_at,name")
_MANIFEST = Option(("m",), "The manifest's file. Required.", "string", "<manifest>")
_FILE = Option(("f",), "The image's file. Required.", "string", "<file>")
_DRY_RUN = Option(("dry-run", "n"), "Only say what would change.")


def _columns(default: str) -> Option:
    return Option(("o",), "Print these fields.", "string", "FIELD,...", default)


_LISTING = (_HELP, _JSON, _HEADER, _columns("uuid,name,version,os,type,pub"))

GLOBAL = (
    Option(("help", "h"), "Show this help."),
    Option(("version",), "Print the version."),
    Option(("verbose", "v"), "Log to stderr, and show the stack of an error."),
    Option(("E",), "End stderr with an error's JSON record."),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand."""

    name: str
    usage: str
    summary: str
    options: tuple[Option, ...] = (_HELP,)
    aliases: tuple[str, ...] = ()


COMMANDS = (
    Command(
        "sources",
        "[<options>]",
        "List and edit image sources.",
        (
            _HELP,
            Option(("verbose", "v"), "Show types too."),
            Option(("json", "j"), "List as JSON."),
            Option(("a",), "Add a source.", "string", "<source>"),
            Option(("add-docker-hub",), "", hidden=True),
            Option(("d",), "Delete a source.", "string", "<source>"),
            Option(("e",), "Edit the sources in an editor."),
            Option(("check", "c"), "Ping all sources."),
            Option(("type", "t"), "The added source's type.", "string", "<type>", "imgapi"),
            Option(("insecure", "k"), "Do not check the added server's certificate."),
            Option(("force", "f"), "Do not ping the added source."),
        ),
    ),
    Command(
        "avail",
        "[<options>] [<filters>]",
        "List available images from all sources.",
        (*_LISTING, _SORT),
        ("available",),
    ),
    Command("show", "<uuid|docker-repo-tag>", "Show the manifest for an available image."),
    Command(
        "import",
        "[<options>] <uuid>",
        "Import an image from a source IMGAPI.",
        (
            Option(("channel", "C"), "The channel to import from.", "string", "ARG"),
            _HELP,
            _QUIET,
            _POOL,
            Option(("source", "S"), "Import from this source only.", "list", "<source>"),
            Option(("zstream",), "The source sends raw ZFS streams."),
        ),
    ),
    Command(
        "install",
        "[<options>] -m <manifest> -f <file>",
        "Install an image from local manifest and image data files.",
        (_HELP, _MANIFEST, _FILE, _QUIET, _POOL),
    ),
    Command(
        "list",
        "[<options>] [<filters>]",
        "List locally installed images.",
        (*_LISTING, _SORT, Option(("docker",), "Docker images only, as docker lists them.")),
    ),
    Command(
        "get",
        "[<options>] <uuid>",
        "Get information for an installed image.",
        (_HELP, _POOL, Option(("r",), "Show snapshots and clones too.")),
        ("info",),
    ),
    Command(
        "update",
        "[<options>] [<uuid>...]",
        "Update currently installed images, if necessary.",
        (_HELP, _DRY_RUN),
    ),
    Command(
        "delete",
        "[<options>] <uuid>",
        "Delete an image from the local zpool.",
        (_HELP, _POOL),
        ("destroy",),
    ),
    Command(
        "ancestry",
        "[<options>] <uuid>",
        'List the ancestry (the "origin" chain) for the given incremental image.',
        (_HELP, _JSON, _HEADER, _columns("uuid,name,version,published"), _POOL),
    ),
    Command(
        "vacuum",
        "[<options>]",
        "Remove unused images -- i.e. not used for any VMs or child images.",
        (_HELP, _DRY_RUN, Option(("force", "f"), "Do not ask.")),
    ),
    Command(
        "create",
        "[<options>] <vm-uuid> [<manifest-field>=<value> ...]",
        "Create an image from the given VM and manifest data.",
        (
            _HELP,
            Option(("m",), "File with manifest fields; - is stdin.", "string", "<manifest>"),
            Option(("output-template", "o"), "Where to write.", "string", "<path>"),
            Option(("compression", "c"), "none, gzip, xz or bzip2.", "string", "<comp>"),
            Option(("incremental", "i"), "Only what differs from the VM's image."),
            Option(("max-origin-depth",), "The longest chain of origins.", "count", "<num>"),
            Option(("s",), "Script that prepares the VM.", "string", "<prepare-image-path>"),
            Option(("publish", "p"), "Publish to this image repository.", "string", "<url>"),
            _QUIET,
        ),
    ),
    Command(
        "publish",
        "[<options>] -m <manifest> -f <file> <imgapi-url>",
        "Publish an image (local manifest and data) to a remote IMGAPI repo.",
        (_HELP, _MANIFEST, _FILE, _QUIET),
    ),
    Command("help", "[<command>]", "Help on a specific sub-command.", (), ("?",)),
)

BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def overview() -> str:
    """What imgadm prints without a subcommand."""
    commands = [f"    imgadm {one.name} {one.usage}" for one in COMMANDS]
    parts = [
        f"{SUMMARY}\n",
        "Usage:\n    imgadm [<options>] <command> [<args>...]\n    imgadm help <command>\n",
        f"Options:\n{_option_lines(GLOBAL)}\n",
        "Commands:\n" + "\n".join(commands) + "\n",
    ]
    return "\n".join(parts)


def of_command(command: Command) -> str:
    """What `imgadm help COMMAND` prints."""
    if not command.options:
        return f"{command.summary}\n"
    usage = f"Usage:\n    imgadm {command.name} {command.usage}\n"
    return f"{command.summary}\n\n{usage}\nOptions:\n{_option_lines(command.options)}\n"


def _option_lines(options: tuple[Option, ...]) -> str:
    shown = [(_spelling(option), option.help) for option in options if not option.hidden]
    column = min(max(len(spelling) for spelling, _ in shown) + 6, 40)
    return "\n".join(_option_line(*one, column) for one in shown)


def _spelling(option: Option) -> str:
    names = sorted(option.names, key=len)
    short = [f"-{name} {option.argument}".rstrip() for name in names if len(name) == 1]
    equals = "=" if option.argument else ""
    long = [f"--{name}{equals}{option.argument}" for name in names if len(name) > 1]
    return ", ".join(short + long)


def _option_line(spelling: str, text: str, column: int) -> str:
    indent = " " * column
    lines = textwrap.wrap(text, 80, initial_indent=indent, subsequent_indent=indent)
    first = f"    {spelling}".ljust(column)
    if len(first) > column:
        return "\n".join([first, *lines])
    return "\n".join([first + lines[0].lstrip(), *lines[1:]])
