# SPDX-License-Identifier: Apache-2.0
"""vmadm: the rules of its payloads and the commands themselves."""

from smartos_emulator.vmadm.lifecycle import Vms

__all__ = ["Vms"]
