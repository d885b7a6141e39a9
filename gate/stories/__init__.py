# SPDX-License-Identifier: Apache-2.0
"""What people do with a cloud, as tests."""
