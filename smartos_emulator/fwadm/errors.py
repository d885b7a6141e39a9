# SPDX-License-Identifier: Apache-2.0
"""What fwadm refuses with: one error, or several that it prints one a line."""

import collections.abc
import typing


class FirewallError(Exception):
    """An error that fwadm prints; `code` shows up only in its JSON form."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def parts(self) -> list["FirewallError"]:
        """The errors to print, each on its own."""
        return [self]


class InvalidParam(FirewallError):
    """A property of a rule that does not pass; `details` says where a rule's text went wrong."""

    def __init__(
        self, field: str, message: str, details: dict[str, typing.Any] | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.details = details


class Several(FirewallError):
    """More than one error at once."""

    def __init__(self, errors: collections.abc.Sequence[FirewallError]) -> None:
        plural = "" if len(errors) == 1 else "s"
        super().__init__(f"first of {len(errors)} error{plural}: {errors[0].message}")
        self.errors = list(errors)

    def parts(self) -> list[FirewallError]:
        return self.errors


class UsageError(FirewallError):
    """Wrong arguments; `help` is the usage that follows the message."""

    def __init__(self, message: str, usage: str = "", code: str = "Usage") -> None:
        super().__init__(message, code)
        self.usage = usage


class Crash(Exception):
    """An exception that the real program does not catch: node prints it and exits with 8."""


def combined(errors: collections.abc.Sequence[FirewallError]) -> FirewallError:
    """One error for many; a single one stays itself."""
    return errors[0] if len(errors) == 1 else Several(errors)
