# SPDX-License-Identifier: Apache-2.0
"""The words of a D program."""

import collections.abc
import dataclasses
import re

from smartos_emulator.dtrace import errors

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\f\v]+)
    | (?P<line>\n)
    | (?P<comment>/\*.*?\*/)
    | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|[0-9]+[uUlL]*)
    | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<character>'(?:\\.|[^'\\\n])+')
    | (?P<macro>\$\$?[0-9]+|\$[a-z_]+)
    | (?P<aggregation>@[A-Za-z_]\w*|@)
    | (?P<name>`?[A-Za-z_]\w*(?:`[A-Za-z_]\w*)?)
    | (?P<operator><<=|>>=|&&|\|\||\^\^|->|\+\+|--|<<|>>|<=|>=|==|!=|\+=|-=|\*=|/=|%=|&=|\|=|\^=
        |[-+*/%&|^~!<>=?:;,.(){}\[\]])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
#: What may stand in a probe's description.
DESCRIPTION = re.compile(r"[-A-Za-z0-9_.`?*\\\[\]!:$]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Token:
    """A word, where it stands and how it was written."""

    kind: str
    text: str
    line: int
    value: int | str = 0


@dataclasses.dataclass(frozen=True)
class Macros:
    """What stands for $1 and its like."""

    words: tuple[str, ...] = ()
    #: Whether a word that is not given stands for nothing; a program may say so as it is read.
    default: collections.abc.Callable[[], bool] = bool
    variables: dict[str, int] = dataclasses.field(default_factory=dict)

    def token(self, text: str, line: int) -> Token:
        """The word that a macro stands for."""
        name = text.lstrip("$")
        if not name.isdecimal():
            if name not in self.variables:
                raise errors.CompileError(f"macro variable {text} is not defined", line)
            return Token("number", str(self.variables[name]), line, self.variables[name])
        place = int(name)
        if place >= len(self.words) and not self.default():
            raise errors.CompileError(f"macro argument {text} is not defined", line)
        word = self.words[place] if place < len(self.words) else ""
        if text.startswith("$$"):
            return Token("string", f'"{word}"', line, word)
        if found := re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|[0-9]+)", word or "0"):
            number = int(found[2], 16 if found[2][:2] in ("0x", "0X") else _base(found[2]))
            if number > 2**64 - 1:
                message = f"macro argument {text} constant {word} results in integer overflow"
                raise errors.CompileError(message, line)
            return Token("number", word, line, -number if found[1] else number)
        if re.fullmatch(r"[A-Za-z_`]\w*", word, re.ASCII):
            return Token("name", word, line, word)
        raise errors.CompileError(f'syntax error near "{word}"', line)


def _base(digits: str) -> int:
    return 8 if digits.startswith("0") and digits != "0" and digits.isdecimal() else 10


class Lexer:
    """Reads words at a place; the parser says where descriptions of probes stand instead."""

    def __init__(self, text: str, macros: Macros) -> None:
        self._text = text
        self._macros = macros
        self.at = 0
        self.line = 1

    def skip(self) -> None:
        """Go on to where something stands that is neither space nor comment."""
        while self.at < len(self._text):
            if self._text.startswith("#!", self.at) and self._at_line_start():
                end = self._text.find("\n", self.at)
                self.at = len(self._text) if end < 0 else end
                continue
            if self._text.startswith("/*", self.at) and "*/" not in self._text[self.at + 2 :]:
                message = "end-of-file encountered before matching */"
                raise errors.CompileError(message, self.line)
            found = _TOKEN.match(self._text, self.at)
            if not found or found.lastgroup not in ("space", "line", "comment"):
                return
            self._take(found[0])

    def pragma(self) -> str | None:
        """The control line that stands here, if one does."""
        if not self._text.startswith("#", self.at) or not self._at_line_start():
            return None
        end = self._text.find("\n", self.at)
        line = self._text[self.at : len(self._text) if end < 0 else end]
        self.at += len(line)
        return line

    def description(self) -> str:
        """The probe's description that stands here; it may be empty."""
        self.skip()
        found = DESCRIPTION.match(self._text, self.at)
        text = found[0] if found else ""
        self.at += len(text)
        return text

    def peek(self) -> Token:
        at, line = self.at, self.line
        token = self.next()
        self.at, self.line = at, line
        return token

    def next(self) -> Token:
        """The next word; its kind is empty at the end."""
        self.skip()
        if self.at >= len(self._text):
            return Token("", "", self.line)
        found = _TOKEN.match(self._text, self.at)
        if not found:
            message = f'syntax error near "{self._text[self.at]}"'
            raise errors.CompileError(message, self.line)
        line, kind, text = self.line, str(found.lastgroup), found[0]
        self._take(text)
        return self._token(kind, text, line)

    def _token(self, kind: str, text: str, line: int) -> Token:
        if kind == "macro":
            return self._macros.token(text, line)
        if kind == "number":
            digits = text.rstrip("uUlL")
            value = int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits, _base(digits))
            if value > 2**64 - 1:
                message = f"integer constant {text} cannot be represented in any built-in type"
                raise errors.CompileError(message, line)
            return Token(kind, text, line, value)
        if kind == "string":
            return Token(kind, text, line, _unescaped(text[1:-1]))
        if kind == "character":
            value = int.from_bytes(_unescaped(text[1:-1]).encode("latin-1", "replace"), "big")
            return Token("number", text, line, value)
        return Token(kind, text, line, text)

    def _take(self, text: str) -> None:
        self.line += text.count("\n")
        self.at += len(text)

    def _at_line_start(self) -> bool:
        return not self._text[: self.at].rpartition("\n")[2].strip()


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8) & 255)
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(plain, text)
