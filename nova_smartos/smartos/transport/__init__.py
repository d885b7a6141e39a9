# SPDX-License-Identifier: Apache-2.0
"""The only door to processes and sockets: one command to a node, one result back."""

from nova_smartos.smartos.transport.command import (
    MASK,
    Command,
    Process,
    Result,
    Timeout,
    Timeouts,
    Transport,
    masked,
)
from nova_smartos.smartos.transport.connection import CHANNELS
from nova_smartos.smartos.transport.local import Local
from nova_smartos.smartos.transport.relay import Listener, NoFreePort, Refused
from nova_smartos.smartos.transport.ssh import SSH

__all__ = [
    "CHANNELS",
    "MASK",
    "SSH",
    "Command",
    "Listener",
    "Local",
    "NoFreePort",
    "Process",
    "Refused",
    "Result",
    "Timeout",
    "Timeouts",
    "Transport",
    "masked",
]
