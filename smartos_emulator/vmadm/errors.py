# SPDX-License-Identifier: Apache-2.0
"""How vmadm refuses."""


class PayloadError(Exception):
    """vmadm refuses a payload; the text is what it prints."""
