# SPDX-License-Identifier: Apache-2.0
"""An emulated SmartOS node: real executables over kept state, on any Linux machine."""
