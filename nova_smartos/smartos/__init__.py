# SPDX-License-Identifier: Apache-2.0
"""The toolkit: typed tools of one SmartOS global zone. It knows no OpenStack."""
