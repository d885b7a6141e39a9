# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each prints a table, draws a picture and writes its figures beside their bounds."""
