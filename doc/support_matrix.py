# SPDX-License-Identifier: Apache-2.0
"""What the driver does, asked of the driver itself: `make gendocs` writes it anew."""

import ast
import inspect
import pathlib
import textwrap

from nova.virt import driver as nova_driver

from nova_smartos import driver

PATH = pathlib.Path(__file__).parent / "source" / "user" / "support-matrix.rst"
#: What users and operators know an operation by, and the methods of the driver that carry it out.
OPERATIONS = (
    ("Launch a server", ("spawn",)),
    ("Delete a server", ("destroy",)),
    ("Start and stop", ("power_on", "power_off")),
    ("Reboot", ("reboot",)),
    ("Pause and unpause", ("pause", "unpause")),
    ("Suspend and resume", ("suspend", "resume")),
    ("Soft delete and restore", ("soft_delete", "restore")),
    ("Crash dump", ("trigger_crash_dump",)),
    ("Start servers again after the node has booted", ("resume_state_on_host_boot",)),
    ("Notice what guests do themselves", ("get_info",)),
    ("Rebuild", ("rebuild",)),
    ("Rescue and unrescue", ("rescue", "unrescue")),
    (
        "Resize and cold migration",
        ("migrate_disk_and_power_off", "finish_migration", "finish_revert_migration"),
    ),
    ("Live migration", ("check_can_live_migrate_destination", "live_migration")),
    ("Snapshot (make an image)", ("snapshot",)),
    ("Attach and detach a port", ("attach_interface", "detach_interface")),
    ("Attach and detach a volume", ("get_volume_connector", "attach_volume", "detach_volume")),
    ("Extend an attached volume", ("extend_volume",)),
    ("Swap a volume", ("swap_volume",)),
    ("Shares (Manila)", ("mount_share", "umount_share")),
    ("Set the administrator's password", ("set_admin_password",)),
    ("Console log", ("get_console_output",)),
    ("Serial console", ("get_serial_console",)),
    ("VNC console", ("get_vnc_console",)),
    ("SPICE console", ("get_spice_console",)),
    ("Quiesce", ("quiesce", "unquiesce")),
    ("Diagnostics", ("get_instance_diagnostics", "get_diagnostics")),
    ("Statistics of a disk", ("block_stats",)),
    ("Usage of volumes", ("get_all_volume_usage",)),
    ("Image cache", ("manage_image_cache", "cache_image")),
    ("Inventory and traits", ("get_available_resource", "update_provider_tree")),
    ("Uptime of the node", ("get_host_uptime",)),
    ("Processor statistics of the node", ("get_host_cpu_stats",)),
    ("Power of the node", ("host_power_action",)),
    ("Maintenance mode of the node", ("host_maintenance_mode",)),
)
_INTRODUCTION = """\
==============
Support matrix
==============

.. Written by `make gendocs` from the driver

What the driver carries out, read from its methods: *yes* where it has a method of its own,
*refused* where that method only says why not, *no* where Nova itself says that the driver does not
do it.
:doc:`properties` tells the brands apart.

"""
_CAPABILITIES = """
Capabilities
============

What the driver tells Nova of itself, and the trait that Placement gets for it.

"""


def status(name: str) -> str:
    """Whether the driver carries out a method of Nova's contract."""
    ours = getattr(driver.SmartOSDriver, name)
    if ours is getattr(nova_driver.ComputeDriver, name):
        return "no"
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(ours))).body
    assert isinstance(function, ast.FunctionDef)
    done = [each for each in function.body if not _is_docstring(each)]
    return "refused" if all(isinstance(each, ast.Raise) for each in done) else "yes"


def document() -> str:
    """doc/source/user/support-matrix.rst"""
    operations = []
    for title, methods in OPERATIONS:
        found = [status(name) for name in methods]
        answer = found[0] if len(set(found)) == 1 else _mixed(found)
        operations.append((title, answer, ", ".join(f"``{name}``" for name in methods)))
    capabilities = [
        (
            f"``{name}``",
            "yes" if supported else "no",
            f"``{nova_driver.CAPABILITY_TRAITS_MAP[name]}``"
            if name in nova_driver.CAPABILITY_TRAITS_MAP
            else "",
        )
        for name, supported in sorted(driver.SmartOSDriver.capabilities.items())
    ]
    return (
        _INTRODUCTION
        + _table(("Operation", "", "Methods"), operations)
        + _CAPABILITIES
        + _table(("Capability", "", "Trait"), capabilities)
    )


def _mixed(found: list[str]) -> str:
    # what is refused beforehand is never reached
    return "refused" if "refused" in found else "in part"


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (heading, *rows):
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}".rstrip() for place, cell in
                  enumerate(row)]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
