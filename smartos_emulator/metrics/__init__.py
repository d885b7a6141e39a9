# SPDX-License-Identifier: Apache-2.0
"""What the node counts: kernel statistics that follow from time, a seed and scripted load."""

from smartos_emulator.metrics.collector import Change, Metrics, Watch, Watched

__all__ = ["Change", "Metrics", "Watch", "Watched"]
