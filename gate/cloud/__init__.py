# SPDX-License-Identifier: Apache-2.0
"""A private OpenStack cloud on SmartOS nodes, one command up and one down.

`cli` and `install` run on a bare Python; the rest in the virtual environment that `install` makes.
"""
