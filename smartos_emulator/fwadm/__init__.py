# SPDX-License-Identifier: Apache-2.0
"""The node's firewall: rules, which VMs they affect, and the ipf texts they become."""

from smartos_emulator.fwadm.firewall import Firewall

__all__ = ["Firewall"]
