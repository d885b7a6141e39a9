# SPDX-License-Identifier: Apache-2.0
"""How vmadm's commands fail: the text they print, and the ways errors are wrapped on their way."""


class VmError(Exception):
    """A command failed; the text is what it prints."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


def several(*errors: Exception) -> VmError:
    """The error of steps that ran side by side: it names the first."""
    count = len(errors)
    return VmError(f"first of {count} error{'' if count == 1 else 's'}: {errors[0]}")


def command_failed(stderr: str) -> VmError:
    """The error of a program that vmadm ran and that ended with a status other than 0."""
    return VmError(f"Command failed: {stderr}")


def bad_status(status: int) -> VmError:
    """The error of a question that vminfod answered with an HTTP status other than 200."""
    return VmError(f"bad statusCode: {status}", str(status))


def not_found(uuid: str) -> VmError:
    """The error of a command that looks for its VM among vminfod's."""
    return VmError(f"VM {uuid} not found", "ENOENT")
