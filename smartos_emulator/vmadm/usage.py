# SPDX-License-Identifier: Apache-2.0
"""vmadm's usage text. It always goes to stderr and always ends the run with status 2."""

from smartos_emulator import call as call_module

PROGRAM = "/usr/sbin/vmadm"
STATUS = 2

_FORMS = (
    "create [-f <filename>]",
    "create-snapshot <uuid> <snapname>",
    "console <uuid>",
    "delete <uuid>",
    "delete-snapshot <uuid> <snapname>",
    "events [-fjr] [uuid]",
    "get <uuid>",
    "info <uuid> [type,...]",
    "install <uuid>",
    "kill [-s SIGNAL|-SIGNAL] <uuid>",
    "list [-p] [-H] [-o field,...] [-s field,...] [field=value ...]",
    "lookup [-j|-1] [-o field,...] [field=value ...]",
    "reboot <uuid> [-F]",
    "receive [-f <filename>]",
    "reprovision <uuid> [-f <filename>]",
    "rollback-snapshot <uuid> <snapname>",
    "send <uuid> [target]",
    "start <uuid> [option=value ...]",
    "stop <uuid> [-F] [-t timeout]",
    "sysrq <uuid> <nmi|screenshot>",
    "update <uuid> [-f <filename>]",
    " -or- update <uuid> property=value [property=value ...]",
    "validate create [-f <filename>]",
    "validate update <brand> [-f <filename>]",
)


def usage(message: str = "") -> call_module.Exit:
    """The end of a run whose command line makes no sense, or that asked for help."""
    lines = [message] if message else []
    lines += [f"Usage: {PROGRAM} <command> [options]", "", *_FORMS, ""]
    lines.append("For more detailed information on the use of this command,type 'man vmadm'.")
    return call_module.Exit(STATUS, "\n".join(lines) + "\n")
