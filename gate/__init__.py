# SPDX-License-Identifier: Apache-2.0
"""Real OpenStack services on emulated nodes: `tox -e gate`."""
