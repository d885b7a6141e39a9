# SPDX-License-Identifier: Apache-2.0
"""D scripts, one question each: arguments, not templates; framed output for a program to read."""

import pathlib


def path(name: str) -> pathlib.Path:
    """The script called `name`, without its suffix: path("zone_io")."""
    found = pathlib.Path(__file__).parent / f"{name}.d"
    if not found.is_file():
        raise FileNotFoundError(f"there is no D script called {name!r} in {found.parent}")
    return found
