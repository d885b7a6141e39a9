# SPDX-License-Identifier: Apache-2.0
"""The node's executables, a module each: `main(call)` is one run of the tool."""

NAMES = (
    "dd",
    "dladm",
    "dtrace",
    "fwadm",
    "hostname",
    "imgadm",
    "isainfo",
    "kstat",
    "nictagadm",
    "prctl",
    "psrinfo",
    "rm",
    "svcadm",
    "svcs",
    "sysinfo",
    "uname",
    "uptime",
    "vmadm",
    "zfs",
    "zlogin",
    "zoneadm",
    "zonememstat",
    "zpool",
)
