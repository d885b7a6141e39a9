# SPDX-License-Identifier: Apache-2.0
"""Unit, golden and contract tests."""
