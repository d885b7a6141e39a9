# SPDX-License-Identifier: Apache-2.0
"""The simulated guests: what runs in a zone when somebody logs in."""

from smartos_emulator.guest.shell import run, run_line

__all__ = ["run", "run_line"]
