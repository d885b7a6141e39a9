# SPDX-License-Identifier: Apache-2.0
"""What there is to show so far, as commands with their output."""
