# SPDX-License-Identifier: Apache-2.0
"""Neutron on SmartOS: ML2's mechanism driver `smartos`."""
