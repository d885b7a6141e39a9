# SPDX-License-Identifier: Apache-2.0
"""A shell script cut into words and operators; what is not emulated is refused, never misread."""

import dataclasses
import re

_OPERATOR = re.compile(r"&&|\|\||[012]?>>?&[012]|[012]?>>?|0?<|[;\n|&()]")
_ESCAPED_WITHIN = '"\\$`\n'
_EXPANDED = {"$": "an expansion with $", "`": "a command in backquotes"}
_PATTERNS = "*?["


class Refused(Exception):
    """The script asks for something that is not emulated."""


@dataclasses.dataclass(frozen=True)
class Token:
    """A word without its quotes, or an operator."""

    text: str
    operator: bool = False


def tokens(text: str) -> list[Token]:
    """The tokens of a script; ValueError when a quotation does not end."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        operator = _OPERATOR.match(text, at)
        if operator:
            found.append(Token(operator[0], operator=True))
            at = operator.end()
        elif text[at] in " \t\r" or text.startswith("\\\n", at):
            at += 1 if text[at] != "\\" else 2
        elif text[at] == "#":
            at = end if (end := text.find("\n", at)) >= 0 else len(text)
        else:
            word, at = _word(text, at)
            found.append(Token(word))
    return found


def _word(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(text) and text[at] not in " \t\r\n;|&<>()":
        letter = text[at]
        if letter == "'":
            end = _closing(text, at, "'")
            parts.append(text[at + 1 : end])
            at = end + 1
        elif letter == '"':
            part, at = _quoted(text, at + 1)
            parts.append(part)
        elif letter == "\\":
            parts.append(text[at + 1 : at + 2].replace("\n", ""))
            at += 2
        else:
            parts.append(_plain(letter))
            at += 1
    return "".join(parts), at


def _closing(text: str, at: int, mark: str) -> int:
    end = text.find(mark, at + 1)
    if end < 0:
        raise ValueError(f"no closing {mark}")
    return end


def _quoted(text: str, at: int) -> tuple[str, int]:
    """What stands between double quotes, and where it ends."""
    parts: list[str] = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and text[at + 1 : at + 2] in _ESCAPED_WITHIN:
            parts.append(text[at + 1 : at + 2].replace("\n", ""))
            at += 2
            continue
        if text[at] in _EXPANDED:
            raise Refused(_EXPANDED[text[at]])
        parts.append(text[at])
        at += 1
    if at >= len(text):
        raise ValueError('no closing "')
    return "".join(parts), at + 1


def _plain(letter: str) -> str:
    if letter in _EXPANDED:
        raise Refused(_EXPANDED[letter])
    if letter in _PATTERNS:
        raise Refused(f"a pattern with {letter}")
    return letter
