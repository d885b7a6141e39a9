# SPDX-License-Identifier: Apache-2.0
"""Tables and paragraphs of the documents that are made from code."""

import textwrap
from collections.abc import Iterable


def paragraph(text: str) -> str:
    """A text in lines that a document may have."""
    return "\n".join(_wrap(text, "")) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table with these rows under a head."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        for at, cell in enumerate(row):
            first = f"   {' ' if at else '*'} - "
            lines += _wrap(cell, first) or [first.rstrip()]
    return "\n".join(lines) + "\n"


def _wrap(text: str, first: str) -> list[str]:
    return textwrap.wrap(
        text,
        100,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
