# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a D program, before it runs and while it does."""


class CompileError(Exception):
    """The program cannot be compiled; the text is the compiler's."""

    def __init__(self, message: str, line: int = 0, region: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.region = region

    def text(self, of_file: bool) -> str:
        """As dtrace says it: lines belong to files, regions to the command line."""
        if of_file and self.line:
            return f"line {self.line}: {self.message}"
        return f"in {self.region}: {self.message}" if self.region else self.message


class Fault(Exception):
    """A clause failed at a probe: the rest of it is not carried out."""
