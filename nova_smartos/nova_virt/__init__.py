# SPDX-License-Identifier: Apache-2.0
"""Installed as nova.virt.smartos, the only place where Nova looks: smartos.SmartOSDriver."""

from nova_smartos.driver import SmartOSDriver

__all__ = ["SmartOSDriver"]
