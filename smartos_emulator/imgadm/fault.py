# SPDX-License-Identifier: Apache-2.0
"""What a validation of a manifest finds: a field, a code, and mostly a message."""

from typing import Any

from smartos_emulator.imgadm import values

Errors = list[dict[str, str]]


def invalid(field: str, message: str = "", *arguments: Any) -> dict[str, str]:
    """An error of code Invalid."""
    error = {"field": field, "code": "Invalid"}
    if message:
        error["message"] = values.text(message, *arguments)
    return error


def missing(field: str, message: str = "") -> dict[str, str]:
    """An error of code MissingParameter."""
    error = {"field": field, "code": "MissingParameter"}
    if message:
        error["message"] = message
    return error
