# SPDX-License-Identifier: Apache-2.0
"""ZFS as far as a SmartOS node shows it: datasets, snapshots, space and streams over files."""

from smartos_emulator.storage.backend import Storage
from smartos_emulator.storage.errors import StorageError

__all__ = ["Storage", "StorageError"]
