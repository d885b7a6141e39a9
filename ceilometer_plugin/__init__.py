# SPDX-License-Identifier: Apache-2.0
"""Meters of SmartOS zones for Ceilometer, read from a node's kstats through the toolkit."""
