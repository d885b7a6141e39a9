# SPDX-License-Identifier: Apache-2.0
"""The options of dtrace: -x, and `#pragma D option`."""

import re

from smartos_emulator.dtrace import aggregations

_SIZES = ("aggsize", "bufsize", "dynvarsize", "specsize", "strsize", "jstackstrsize")
_RATES = ("aggrate", "cleanrate", "statusrate", "switchrate")
_NUMBERS = (
    *("aggsortkeypos", "aggsortpos", "cpu", "jstackframes", "nspec", "stackframes"),
    *("stackindent", "ustackframes"),
)
_FLAGS = (
    *("agghist", "aggpack", "aggpercpu", "aggsortkey", "aggsortrev", "aggzoom", "argref"),
    *("defaultargs", "destructive", "droptags", "empty", "errtags", "flowindent", "grabanon"),
    *("knodefs", "late", "lazyload", "nolibs", "pspec", "quiet", "rawbytes", "temporal", "udefs"),
    *("unodefs", "verbose", "zdefs", "cpp", "debug"),
)
_TEXTS = ("bufpolicy", "bufresize", "define", "incdir", "libdir", "stdc", "syslibdir", "version")
_SIZE = re.compile(r"(\d+)([kKmMgGtT]?)")
_RATE = re.compile(r"(\d+)\s*(hz|ns|nsec|us|usec|ms|msec|s|sec|m|min|h|hour|d|day)?")


class Options:
    """What was set, by name."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def set(self, name: str, value: str | None) -> None:
        """Set an option; ValueError says why not, in libdtrace's words."""
        shape = {**dict.fromkeys(_SIZES, _SIZE), **dict.fromkeys(_RATES, _RATE)}.get(name)
        if shape is not None:
            good = value is not None and shape.fullmatch(value) is not None
        elif name in _NUMBERS:
            good = value is None or value.isdecimal()
        elif name in _FLAGS:
            good = True
        elif name in _TEXTS:
            good = value is not None
        else:
            raise ValueError("Invalid option name")
        if not good:
            raise ValueError("Invalid value for specified option")
        self._values[name] = "1" if value is None else value

    def has(self, name: str) -> bool:
        return self._values.get(name, "0") not in ("0", "disable", "unset")

    @property
    def sort(self) -> aggregations.Sort:
        """The order that aggregations are printed in."""
        position = self._values.get("aggsortkeypos", "0")
        return aggregations.Sort(self.has("aggsortkey"), self.has("aggsortrev"), int(position))
