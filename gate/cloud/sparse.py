# SPDX-License-Identifier: Apache-2.0
"""A backend for Cinder that keeps volumes as sparse files, which nothing can attach."""

import os
import pathlib
import subprocess
from typing import Any

from cinder import exception, interface
from cinder.volume import driver
from oslo_config import cfg

_GIB = 1 << 30


@interface.volumedriver
class SparseDriver(driver.VolumeDriver):
    """Volumes and snapshots, made, copied, extended and deleted: enough to try Cinder itself."""

    VERSION = "1.0"

    def do_setup(self, context: Any) -> None:
        """Find the folder."""
        self._folder = pathlib.Path(cfg.CONF.state_path) / "volumes"
        self._folder.mkdir(parents=True, exist_ok=True)

    def check_for_setup_error(self) -> None:
        """The folder is there, or do_setup has failed."""

    def create_volume(self, volume: Any) -> None:
        """An empty file, which takes no space."""
        with self._file(volume).open("xb") as made:
            made.truncate(volume.size * _GIB)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """A copy, as long as the new volume."""
        self._copy(src_vref, volume)
        self.extend_volume(volume, volume.size)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """The same of a snapshot."""
        self.create_cloned_volume(volume, snapshot)

    def delete_volume(self, volume: Any) -> None:
        """One that was never made is as good."""
        self._file(volume).unlink(missing_ok=True)

    def create_snapshot(self, snapshot: Any) -> None:
        """A copy."""
        self._copy(snapshot.volume, snapshot)

    def delete_snapshot(self, snapshot: Any) -> None:
        """As of a volume."""
        self._file(snapshot).unlink(missing_ok=True)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Only the length changes."""
        os.truncate(self._file(volume), new_size * _GIB)

    def ensure_export(self, context: Any, volume: Any) -> None:
        """There is nothing to export."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """There is nothing to export."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """There is nothing to export."""

    def initialize_connection(self, volume: Any, connector: Any) -> None:
        """Refused."""
        raise exception.VolumeDriverException(message="a sparse file cannot be attached")

    def terminate_connection(self, volume: Any, connector: Any, **options: Any) -> None:
        """There is none."""

    def _update_volume_stats(self) -> None:
        free = os.statvfs(self._folder)
        self._stats = {
            "volume_backend_name": "sparse",
            "vendor_name": "nova-smartos",
            "driver_version": self.VERSION,
            "storage_protocol": "none",
            "total_capacity_gb": free.f_blocks * free.f_frsize / _GIB,
            "free_capacity_gb": free.f_bavail * free.f_frsize / _GIB,
            "thin_provisioning_support": True,
            "max_over_subscription_ratio": "20.0",
            "provisioned_capacity_gb": 0,
        }

    def _copy(self, source: Any, target: Any) -> None:
        words = ["cp", "--sparse=always", "--", str(self._file(source)), str(self._file(target))]
        subprocess.run(words, check=True)

    def _file(self, kept: Any) -> pathlib.Path:
        return self._folder / str(kept.id)
