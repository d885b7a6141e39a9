# SPDX-License-Identifier: Apache-2.0
"""A D program as a tree."""

import collections.abc
import dataclasses
import typing

from smartos_emulator.dtrace import types


@dataclasses.dataclass(frozen=True)
class Expression:
    """Anything that has a value."""

    line: int


@dataclasses.dataclass(frozen=True)
class Number(Expression):
    value: int
    suffix: str = ""


@dataclasses.dataclass(frozen=True)
class Text(Expression):
    value: str


@dataclasses.dataclass(frozen=True)
class Variable(Expression):
    """A variable: `scope` is self, this, or empty for global ones and those that are built in."""

    name: str
    scope: str = ""


@dataclasses.dataclass(frozen=True)
class Index(Expression):
    """An element of an associative array, or of args[]."""

    array: Variable
    keys: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True)
class Aggregation(Expression):
    name: str
    keys: tuple[Expression, ...] = ()


@dataclasses.dataclass(frozen=True)
class Member(Expression):
    of: Expression
    name: str


@dataclasses.dataclass(frozen=True)
class Call(Expression):
    function: str
    arguments: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True)
class Cast(Expression):
    type: types.Type
    operand: Expression


@dataclasses.dataclass(frozen=True)
class Unary(Expression):
    operator: str
    operand: Expression


@dataclasses.dataclass(frozen=True)
class Binary(Expression):
    operator: str
    left: Expression
    right: Expression


@dataclasses.dataclass(frozen=True)
class Choice(Expression):
    condition: Expression
    yes: Expression
    no: Expression


@dataclasses.dataclass(frozen=True)
class Assignment(Expression):
    """`operator` is the one before the equals sign; ++ and -- are += 1 and -= 1."""

    target: Expression
    operator: str
    value: Expression
    postfix: bool = False


@dataclasses.dataclass(frozen=True)
class Clause:
    """What to do at some probes."""

    line: int
    probes: tuple[str, ...]
    predicate: Expression | None
    #: None where no action stands: the default one is meant.
    actions: tuple[Expression, ...] | None


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A variable whose type is said: an array has types of keys."""

    line: int
    scope: str
    name: str
    type: types.Type
    keys: tuple[types.Type, ...] = ()


@dataclasses.dataclass(frozen=True)
class Inline:
    """A name for an expression."""

    line: int
    name: str
    type: types.Type
    value: Expression


@dataclasses.dataclass(frozen=True)
class Program:
    """All that stands in a script."""

    clauses: tuple[Clause, ...]
    declarations: tuple[Declaration, ...]
    inlines: tuple[Inline, ...]


def walk(node: typing.Any) -> collections.abc.Iterator[Expression]:
    """An expression and all in it."""
    if isinstance(node, tuple):
        for each in node:
            yield from walk(each)
    elif isinstance(node, Expression):
        yield node
        for field in dataclasses.fields(node):
            yield from walk(getattr(node, field.name))
