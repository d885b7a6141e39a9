# SPDX-License-Identifier: Apache-2.0
"""SmartOS for OpenStack: the options, and the toolkit that speaks to a node."""
