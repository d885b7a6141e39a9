# SPDX-License-Identifier: Apache-2.0
"""Work of several steps, in order and with its undo."""
