# SPDX-License-Identifier: Apache-2.0
"""The grammar of D, as far as scripts use it."""

import collections.abc

from smartos_emulator.dtrace import errors, lexer, syntax, types

_BINARY = (
    ("||",),
    ("^^",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", ">", "<=", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
_ASSIGNING = ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
_TYPE_WORDS = ("unsigned", "signed", "char", "short", "int", "long", "struct", "void", "string")

#: What takes an option that the program sets: its name, its value if it has one.
Setter = collections.abc.Callable[[str, str | None], None]


class Parser:
    """Reads one program."""

    def __init__(self, text: str, macros: lexer.Macros, set_option: Setter) -> None:
        self._lexer = lexer.Lexer(text, macros)
        self._set_option = set_option
        self._in_predicate = False
        self._clauses: list[syntax.Clause] = []
        self._declarations: list[syntax.Declaration] = []
        self._inlines: list[syntax.Inline] = []

    def program(self) -> syntax.Program:
        """All of it; CompileError where it is no D."""
        while True:
            self._lexer.skip()
            pragma = self._lexer.pragma()
            if pragma is not None:
                self._pragma(pragma)
                continue
            at, line = self._lexer.at, self._lexer.line
            if not self._lexer.description() and not self._lexer.peek().kind:
                break
            self._lexer.at, self._lexer.line = at, line
            if not self._declaration():
                self._clauses.append(self._clause())
        return syntax.Program(tuple(self._clauses), tuple(self._declarations), tuple(self._inlines))

    def _pragma(self, text: str) -> None:
        """`#pragma D option NAME[=VALUE]`; other pragmas change nothing here."""
        line = self._lexer.line
        words = text.lstrip("#").split()
        if not words or words[0] not in ("pragma", "line", "ident"):
            raise errors.CompileError("invalid control directive", line)
        if words[:3] != ["pragma", "D", "option"]:
            return
        if len(words) != 4:
            what = "malformed #pragma option <option>=<val>"
            if len(words) > 4:
                what = "superfluous arguments specified for #pragma option"
            raise errors.CompileError(what, line)
        name, equals, value = words[3].partition("=")
        try:
            self._set_option(name, value if equals else None)
        except ValueError as error:
            option = f"'{name}' to '{value}'" if equals else f"'{name}'"
            message = f"failed to set option {option}: {error}"
            raise errors.CompileError(message, line) from None

    # -- declarations --

    def _declaration(self) -> bool:
        """Take a declaration, if one stands here."""
        at, line = self._lexer.at, self._lexer.line
        try:
            word = self._lexer.peek()
        except errors.CompileError:
            return False
        if word.text == "inline":
            self._lexer.next()
            self._inline(line)
            return True
        scope = word.text if word.text in ("self", "this") else ""
        if scope:
            self._lexer.next()
        kind = self._type() if self._lexer.peek().kind == "name" else None
        if kind is not None and self._lexer.peek().kind == "name":
            self._declared(line, scope, kind)
            return True
        self._lexer.at, self._lexer.line = at, line
        return False

    def _declared(self, line: int, scope: str, kind: types.Type) -> None:
        while True:
            name = self._lexer.next().text
            keys: list[types.Type] = []
            if self._accept("["):
                while not keys or self._accept(","):
                    keys.append(self._need_type())
                self._expect("]")
            self._declarations.append(syntax.Declaration(line, scope, name, kind, tuple(keys)))
            if not self._accept(","):
                break
        self._expect(";")

    def _inline(self, line: int) -> None:
        kind = self._need_type()
        name = self._lexer.next()
        if name.kind != "name":
            raise self._unexpected(name)
        self._expect("=")
        value = self._expression()
        self._expect(";")
        self._inlines.append(syntax.Inline(line, name.text, kind, value))

    def _need_type(self) -> types.Type:
        word = self._lexer.peek()
        kind = self._type()
        if kind is None:
            raise self._unexpected(word)
        return kind

    def _type(self) -> types.Type | None:
        """The name of a type, if one stands here."""
        at, line = self._lexer.at, self._lexer.line
        words: list[str] = []
        while (word := self._lexer.peek()).kind == "name":
            if word.text not in _TYPE_WORDS and (
                (words and words != ["struct"]) or not _is_type(word.text)
            ):
                break
            words.append(self._lexer.next().text)
        stars = ""
        while words and self._accept("*"):
            stars += "*"
        found = types.find(" ".join([*words, stars]).strip()) if words else None
        if found is None:
            self._lexer.at, self._lexer.line = at, line
        return found

    # -- clauses --

    def _clause(self) -> syntax.Clause:
        line = self._lexer.line
        probes = [self._probe()]
        while self._accept(","):
            probes.append(self._probe())
        predicate = None
        if self._accept("/"):
            self._in_predicate = True
            predicate = self._expression()
            self._in_predicate = False
            self._expect("/")
        after = self._lexer.peek()
        if after.text == "{":
            return syntax.Clause(line, tuple(probes), predicate, self._actions() or None)
        if after.text == ";":
            self._lexer.next()
        elif predicate is not None:
            message = "expected actions { } following probe description and predicate"
            raise errors.CompileError(message, after.line)
        elif after.kind:
            raise self._unexpected(after)
        return syntax.Clause(line, tuple(probes), predicate, None)

    def _probe(self) -> str:
        text = self._lexer.description()
        if not text:
            raise self._unexpected(self._lexer.next())
        if text.count(":") > 3:
            message = f"overspecified probe description {text}"
            raise errors.CompileError(message, self._lexer.line)
        return text

    def _actions(self) -> tuple[syntax.Expression, ...]:
        self._expect("{")
        found: list[syntax.Expression] = []
        while not self._accept("}"):
            if self._accept(";"):
                continue
            word = self._lexer.peek()
            if word.text in ("if", "for", "while", "do", "switch", "return", "goto", "else"):
                raise self._unexpected(word)
            found.append(self._expression())
            if self._lexer.peek().text != "}":
                self._expect(";")
        return tuple(found)

    # -- expressions --

    def _expression(self) -> syntax.Expression:
        left = self._choice()
        word = self._lexer.peek()
        if word.kind != "operator" or word.text not in _ASSIGNING:
            return left
        if self._in_predicate:
            message = "predicates may not contain side-effects"
            raise errors.CompileError(message, word.line, "predicate")
        if not isinstance(left, (syntax.Variable, syntax.Index, syntax.Aggregation)):
            message = f"operator {word.text} requires modifiable lvalue as an operand"
            raise errors.CompileError(message, word.line, "action list")
        self._lexer.next()
        return syntax.Assignment(word.line, left, word.text[:-1], self._expression())

    def _choice(self) -> syntax.Expression:
        condition = self._binary(0)
        word = self._lexer.peek()
        if word.text != "?" or word.kind != "operator":
            return condition
        self._lexer.next()
        yes = self._expression()
        self._expect(":")
        return syntax.Choice(word.line, condition, yes, self._choice())

    def _binary(self, level: int) -> syntax.Expression:
        if level == len(_BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while True:
            word = self._lexer.peek()
            if word.kind != "operator" or word.text not in _BINARY[level]:
                return left
            if word.text == "/" and self._in_predicate and self._ends_predicate():
                return left
            self._lexer.next()
            left = syntax.Binary(word.line, word.text, left, self._binary(level + 1))

    def _ends_predicate(self) -> bool:
        """Whether the slash here is the predicate's last: a clause's body follows, or the end."""
        at, line = self._lexer.at, self._lexer.line
        self._lexer.next()
        try:
            after = self._lexer.peek().text
        except errors.CompileError:
            after = ""
        self._lexer.at, self._lexer.line = at, line
        return after in ("{", ";", "")

    def _unary(self) -> syntax.Expression:
        word = self._lexer.peek()
        if word.kind == "operator" and word.text in ("-", "+", "!", "~", "*", "&"):
            self._lexer.next()
            return syntax.Unary(word.line, word.text, self._unary())
        if word.kind == "operator" and word.text in ("++", "--"):
            self._lexer.next()
            return self._step(self._unary(), word, postfix=False)
        if word.text == "sizeof":
            raise errors.CompileError("the emulated node's compiler has no sizeof", word.line)
        if word.kind == "operator" and word.text == "(":
            return self._parenthesis()
        return self._postfix()

    def _parenthesis(self) -> syntax.Expression:
        at, line = self._lexer.at, self._lexer.line
        self._lexer.next()
        kind = self._type()
        if kind is not None and self._accept(")"):
            return syntax.Cast(line, kind, self._unary())
        self._lexer.at, self._lexer.line = at, line
        return self._postfix()

    def _postfix(self) -> syntax.Expression:
        found = self._primary()
        while True:
            word = self._lexer.peek()
            if word.kind != "operator":
                return found
            if word.text in ("->", "."):
                self._lexer.next()
                found = self._member(found, word)
            elif word.text == "[":
                found = self._indexed(found, word)
            elif word.text in ("++", "--"):
                self._lexer.next()
                found = self._step(found, word, postfix=True)
            else:
                return found

    def _member(self, of: syntax.Expression, word: lexer.Token) -> syntax.Expression:
        name = self._lexer.next()
        if name.kind != "name":
            raise self._unexpected(name)
        if isinstance(of, syntax.Variable) and of.name in ("self", "this") and word.text == "->":
            return syntax.Variable(word.line, name.text, of.name)
        return syntax.Member(word.line, of, name.text)

    def _indexed(self, of: syntax.Expression, word: lexer.Token) -> syntax.Expression:
        self._lexer.next()
        keys = self._arguments("]")
        if isinstance(of, syntax.Aggregation) and not of.keys:
            return syntax.Aggregation(of.line, of.name, keys)
        if not isinstance(of, syntax.Variable):
            raise self._unexpected(word)
        return syntax.Index(word.line, of, keys)

    def _step(
        self, of: syntax.Expression, word: lexer.Token, *, postfix: bool
    ) -> syntax.Expression:
        if self._in_predicate:
            message = "predicates may not contain side-effects"
            raise errors.CompileError(message, word.line, "predicate")
        if not isinstance(of, (syntax.Variable, syntax.Index)):
            message = f"operator {word.text} requires modifiable lvalue as an operand"
            raise errors.CompileError(message, word.line, "action list")
        one = syntax.Number(word.line, 1)
        return syntax.Assignment(word.line, of, word.text[0], one, postfix)

    def _primary(self) -> syntax.Expression:
        word = self._lexer.next()
        if word.kind == "number":
            suffix = word.text[len(word.text.rstrip("uUlL")) :].lower()
            return syntax.Number(word.line, int(word.value), suffix)
        if word.kind == "string":
            return syntax.Text(word.line, str(word.value))
        if word.kind == "aggregation":
            return syntax.Aggregation(word.line, word.text[1:])
        if word.text == "(":
            found = self._expression()
            while self._accept(","):
                found = self._expression()
            self._expect(")")
            return found
        if word.kind != "name":
            raise self._unexpected(word)
        if word.text == "stringof" and self._lexer.peek().text != "(":
            return syntax.Call(word.line, "stringof", (self._unary(),))
        if self._lexer.peek().text == "(" and self._lexer.peek().kind == "operator":
            self._lexer.next()
            return syntax.Call(word.line, word.text, self._arguments(")"))
        return syntax.Variable(word.line, word.text)

    def _arguments(self, end: str) -> tuple[syntax.Expression, ...]:
        found: list[syntax.Expression] = []
        if self._accept(end):
            return ()
        while not found or self._accept(","):
            found.append(self._expression())
        self._expect(end)
        return tuple(found)

    # -- words --

    def _accept(self, text: str) -> bool:
        word = self._lexer.peek()
        if word.kind == "operator" and word.text == text:
            self._lexer.next()
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(self._lexer.next())

    def _unexpected(self, word: lexer.Token) -> errors.CompileError:
        if not word.kind:
            return errors.CompileError("syntax error near end of input", word.line)
        return errors.CompileError(f'syntax error near "{word.text}"', word.line)


def _is_type(name: str) -> bool:
    return types.find(name) is not None or types.find(f"{name} *") is not None
