# SPDX-License-Identifier: Apache-2.0
"""Tokens of the rule language, with the columns that its error messages count in.

Text is handled in UTF-16 units, as the real lexer does: `units` and `text` convert.
"""

import dataclasses
import re

from smartos_emulator.fwadm import errors

# Whitespace and line ends as JavaScript's regular expressions understand them.
_SPACE = re.compile(
    "[\t\n\v\f\r \u00a0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+"
)
_NEWLINE = re.compile(r"\r\n?|\n")

_KEYWORDS = (
    "FROM TO IP SUBNET ANY ALL TAG VM VMS OR AND BLOCK ALLOW PORT PORTS TCP UDP ICMP ICMP6 AH ESP"
    " TYPE CODE PRIORITY"
).split()
_KEYWORD = re.compile(
    "(?:" + "|".join(f"{word}|{word.lower()}" for word in _KEYWORDS) + r")\b", re.ASCII
)
# Tried in this order; the first that matches wins, not the longest.
_PATTERNS = [
    ("keyword", _KEYWORD),
    ("punctuation", re.compile(r"[-,=()]")),
    (
        "STRING",
        re.compile(r'"(?:\\["bfnrt/()\\]|\\u[a-fA-F0-9]{4}|[^"\\])*"'),
    ),
    ("IPV4ADDR", re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")),
    ("IPV6ADDR", re.compile(r"[0-9a-f]*:[0-9a-f]*:[:0-9a-f]*")),
    ("CIDRSUFFIX", re.compile(r"/[0-9]{1,3}")),
    ("WORD", re.compile(r"[-a-zA-Z0-9_]+")),
]

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = {char: letter for letter, char in _ESCAPES.items()}
_SPELT_OUT = frozenset(
    [*map(chr, range(0x20)), "\x7f", "\x85", "\xa0", "\u1680", "\u180e"]
    + [*map(chr, range(0x2000, 0x200E)), "\u2028", "\u2029", "\u202f", "\u205f", "\u2060"]
    + ["\u3000", "\ufeff"]
)


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a token stands: lines from 1, columns from 0."""

    first_line: int = 1
    first_column: int = 0
    last_line: int = 1
    last_column: int = 0

    def to_json(self) -> dict[str, int]:
        return {
            "first_line": self.first_line,
            "last_line": self.last_line,
            "first_column": self.first_column,
            "last_column": self.last_column,
        }


@dataclasses.dataclass(frozen=True)
class Token:
    """A token: `raw` as it was written, `value` without quotes and escapes."""

    kind: str
    raw: str
    value: str
    location: Location
    line: int


def units(text: str) -> str:
    """The text with one character for each UTF-16 unit."""
    if text.isascii():
        return text
    data = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(data[i] | data[i + 1] << 8) for i in range(0, len(data), 2))


def text(written: str) -> str:
    """The opposite of `units`; half a pair becomes the replacement character."""
    if written.isascii():
        return written
    return written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unescaped(quoted: str) -> str:
    """The value of a quoted string's inside."""
    return re.sub(r"\\(u[a-fA-F0-9]{4}|.)", _unescape, quoted, flags=re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) == 5:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)


def quoted(value: str) -> str:
    """The value as a quoted string of a rule."""
    return '"' + "".join(map(_escape, value)) + '"'


def _escape(char: str) -> str:
    if char in '"()\\':
        return f"\\{char}"
    if char in _ESCAPED:
        return f"\\{_ESCAPED[char]}"
    return f"\\u{ord(char):04X}" if char in _SPELT_OUT else char


class Lexer:
    """Cuts a rule's text (in UTF-16 units) into tokens, the last one being EOF."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._at = 0
        self._here = Location()

    def next(self) -> Token:
        """The next token."""
        space = _SPACE.match(self._rule, self._at)
        if space:
            self._advance(space[0])
        if self._at == len(self._rule):
            return self._token("EOF", "")
        for kind, pattern in _PATTERNS:
            match = pattern.match(self._rule, self._at)
            if match:
                return self._token(kind, match[0])
        raise self._unrecognized()

    def _token(self, kind: str, raw: str) -> Token:
        self._advance(raw)
        value = raw
        if kind == "keyword":
            kind = raw.upper()
        elif kind == "punctuation":
            kind = raw
        elif kind == "STRING":
            value = unescaped(raw[1:-1])
        return Token(kind, raw, value, self._here, self._here.last_line - 1)

    def _advance(self, matched: str) -> None:
        before = self._here
        breaks = list(_NEWLINE.finditer(matched))
        if breaks:
            column = len(matched) - breaks[-1].end()
        else:
            column = before.last_column + len(matched)
        self._here = Location(
            before.last_line, before.last_column, before.last_line + len(breaks), column
        )
        self._at += len(matched)

    def _unrecognized(self) -> errors.InvalidParam:
        past = self._rule[: self._at]
        shown = ("..." if len(past) > 20 else "") + past[-20:].replace("\n", "")
        ahead = self._rule[self._at : self._at + 20].replace("\n", "")
        return errors.InvalidParam(
            "rule",
            f"Error at character {len(shown)}: '{ahead}', found: unexpected text",
            {"text": "", "token": None, "line": self._here.last_line - 1},
        )
