# SPDX-License-Identifier: Apache-2.0
"""imgadm's errors: a code, a text, an exit status."""

import contextlib
from collections.abc import Iterator, Sequence

from smartos_emulator import call as call_module
from smartos_emulator import js


class ImgadmError(Exception):
    """An error that imgadm reports; `cause` is the text of the error behind it."""

    name: str = "WError"

    def __init__(self, code: str, message: str, *, status: int = 1, cause: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.cause = cause

    @property
    def kind(self) -> str:
        """The name of the error's class, as a stack trace shows it."""
        return self.code if self.code.endswith("Error") else f"{self.code}Error"

    def __str__(self) -> str:
        """The error as text that is put into another text."""
        return f"{self.name}: {self.message}" + (f"; caused by {self.cause}" if self.cause else "")


class CommandLineError(ImgadmError):
    """A fault in the command line, found before a subcommand runs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.name = self.kind


class PlainError(ImgadmError):
    """An error of the platform under imgadm, not one of its own."""

    def __init__(self, message: str, *, code: str = "", name: str = "Error") -> None:
        super().__init__(code, message)
        self.name = name

    @property
    def kind(self) -> str:
        return self.name


def internal(message: str, *, cause: str = "") -> ImgadmError:
    return ImgadmError("InternalError", message, cause=cause)


def usage(message: str) -> ImgadmError:
    return ImgadmError("Usage", message)


def image_not_installed(pool: str, uuid: str) -> ImgadmError:
    message = f'image "{uuid}" was not found on zpool "{pool}"'
    return ImgadmError("ImageNotInstalled", message, status=3)


def invalid_manifest(cause: str) -> ImgadmError:
    message = f"manifest is invalid: {cause}"
    return ImgadmError("InvalidManifest", message, cause=cause)


def manifest_validation(errors: Sequence[dict[str, str]]) -> ImgadmError:
    """The error that sums up what a validation found."""
    return ImgadmError(
        "ManifestValidation", "invalid manifest: " + ", ".join(map(_complaint, errors))
    )


def _complaint(error: dict[str, str]) -> str:
    if error.get("message"):
        return f"{error['field']} ({error['message']})"
    return error["field"] if error["code"] == "Invalid" else f"{error['field']} ({error['code']})"


def multi(errors: Sequence[ImgadmError]) -> ImgadmError:
    """One error for several; a single one stays itself."""
    if len(errors) == 1:
        return errors[0]
    lines = [f"multiple ({len(errors)}) errors"]
    lines += [f"    error ({error.code or 'undefined'}): {error.message}" for error in errors]
    return ImgadmError("MultiError", "\n".join(lines), cause=str(errors[0]))


def abort(message: str, kind: str = "TypeError") -> call_module.Abort:
    """The end of a process whose JavaScript met what it did not expect."""
    return call_module.Abort(f"Uncaught {kind}: {message}\n\nFROM")


@contextlib.contextmanager
def crashing() -> Iterator[None]:
    """Code that the real tool runs where nothing catches an exception."""
    try:
        yield
    except js.JavaScriptError as error:
        raise abort(str(error)) from None


def assertion(message: str) -> PlainError:
    """A failed assertion about a function's arguments."""
    return PlainError(message, name="AssertionError")


def of_javascript(error: js.JavaScriptError) -> PlainError:
    """An exception that imgadm catches and reports as it is."""
    return PlainError(str(error), name="TypeError")
