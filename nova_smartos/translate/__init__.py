# SPDX-License-Identifier: Apache-2.0
"""Pure functions between Nova's objects and SmartOS's documents."""
