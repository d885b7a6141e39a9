# SPDX-License-Identifier: Apache-2.0
"""vmadm: manage the virtual machines of the node."""

from smartos_emulator import call as call_module
from smartos_emulator.vmadm import cli


def main(call: call_module.Call) -> int:
    """One run of vmadm."""
    return cli.main(call)
