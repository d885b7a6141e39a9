# SPDX-License-Identifier: Apache-2.0
"""What imgadm knows and does: manifests, the image data base, sources, install, create."""

from smartos_emulator.imgadm.images import Images

__all__ = ["Images"]
