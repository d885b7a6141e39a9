# SPDX-License-Identifier: Apache-2.0
"""D programs on the emulated node: read, compiled, and answered from the node's own load."""
