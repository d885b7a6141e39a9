# SPDX-License-Identifier: Apache-2.0
"""fwadm's subcommands as its help shows them."""

from smartos_emulator.fwadm import cmdln

HELP = cmdln.Option(("help", "h"), "Print help and exit.")
JSON = cmdln.Option(("json", "j"), "Output JSON.")
VERBOSE = cmdln.Option(("verbose", "v"), "Verbose output.")
TOP = (HELP, JSON, VERBOSE)

_DRYRUN = cmdln.Option(("dryrun",), "Do not apply changes.")
_STDOUT = cmdln.Option(("stdout",), "Output file changes to stdout.")
_COMMON = (HELP, _DRYRUN, JSON, _STDOUT, VERBOSE)

_FILE = cmdln.Option(("file", "f"), "Input file.", "<file>")
_RULE = (
    cmdln.Option(("description", "desc"), "Rule description.", "<str>"),
    cmdln.Option(("enable", "e"), "Enable the rule"),
    _FILE,
    cmdln.Option(("global", "g"), "Global rule."),
    cmdln.Option(("owner_uuid", "O"), "Owner UUID", "<uuid>"),
)
_LIST = (
    cmdln.Option(("delim", "d"), "Output delimiter.", "<char>"),
    cmdln.Option(("fields", "o"), "Output field list", "<fields>"),
    cmdln.Option(("parseable", "p"), "Parseable output"),
)

_ADD_EXAMPLES = """\
    fwadm add -e -O $USER_UUID FROM any TO all vms ALLOW udp PORTS 67, 68
    fwadm add -g -e FROM any TO all vms ALLOW tcp PORT 22
    fwadm add <<EOF
    {
      "rules": [ {
        "description": "allow all ICMPv6 types",
        "rule": "FROM any TO all vms ALLOW icmp6 type all",
        "enabled": true,
        "global": true
      } ]
    }
    EOF
"""


def _command(
    name: str,
    summary: str,
    *synopses: str,
    options: tuple[cmdln.Option, ...] = (),
    examples: str = "",
) -> cmdln.Subcommand:
    written = tuple(f"fwadm {name} {synopsis}" for synopsis in synopses)
    return cmdln.Subcommand(name, summary, written, (*options, *_COMMON), examples)


_ALL = (
    _command(
        "add",
        "Add firewall rules or remote VMs.",
        "-f <file>",
        "[-e] [--desc <description>] [-g] [-O <owner uuid>] <rule>",
        options=_RULE,
        examples=_ADD_EXAMPLES,
    ),
    _command("add-rvm", "Add a remote VM.", "[OPTIONS]", options=(_FILE,)),
    _command("delete", "Delete a rule.", "[OPTIONS] <rule uuid>"),
    _command("delete-rvm", "Delete a remote VM.", "[OPTIONS] <rvm uuid>"),
    _command("disable", "Disable a rule.", "[OPTIONS] <vm uuid>"),
    _command("enable", "Enable a rule.", "[OPTIONS] <vm uuid>"),
    _command("get", "Get a rule.", "[OPTIONS] <rule uuid>"),
    _command("get-rvm", "Get a remote VM.", "[OPTIONS] <rvm uuid>"),
    _command("list", "List rules.", "[OPTIONS] -p [-d <char>]", "[OPTIONS] -j", options=_LIST),
    _command("list-rvms", "List remote VMs.", "[OPTIONS]"),
    _command("rules", "List rules that apply to a VM.", "[OPTIONS] <vm uuid>"),
    _command("rvm-rules", "List rules that apply to a remote VM.", "[OPTIONS] <rvm uuid>"),
    _command("start", "Start a VM's firewall.", "[OPTIONS] <vm uuid>"),
    _command("status", "Get the status of a VM's firewall.", "[OPTIONS] <vm uuid>"),
    _command("stats", "Get rule statistics for a VM's firewall.", "[OPTIONS] <vm uuid>"),
    _command("stop", "Stop a VM's firewall.", "[OPTIONS] <vm uuid>"),
    _command(
        "update",
        "Update firewall rules or data.",
        "-f <file>",
        "<rule uuid> [-e] [--desc <description>] [-g] \\\n    [-O <owner uuid>] <rule>",
        options=_RULE,
    ),
    _command("vms", "List the UUIDs of VMs affected by a rule.", "[OPTIONS] <rule uuid>"),
)
COMMANDS = {command.name: command for command in _ALL}
# Every name that may be given, help's second one included.
NAMES = ("help", "?", *COMMANDS)

_GROUPS = (
    "add delete disable enable get list update vms",
    "add-rvm delete-rvm get-rvm list-rvms rvm-rules",
    "rules start status stats stop",
    "help",
)


def overview() -> str:
    """The help of the tool as a whole."""
    lines = [
        "Manage firewall rules",
        "",
        "Usage:",
        "    fwadm [OPTIONS] COMMAND [ARGS...]",
        "    fwadm help COMMAND",
        "",
        "Options:",
        cmdln.options_help(TOP),
        "Commands:",
    ]
    for group in _GROUPS:
        lines += [_listed(name) for name in group.split()]
        if group != "help":
            lines.append("")
    return "\n".join(lines)


def _listed(name: str) -> str:
    if name == "help":
        return f"    {'help (?)':<14}  Help on a specific sub-command."
    return f"    {name:<14}  {COMMANDS[name].summary}"
