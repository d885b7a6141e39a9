# SPDX-License-Identifier: Apache-2.0
"""From D to functions of Python.

An event stands for `w` events that are alike, so that what is added up is added that often. A
clause that cannot be taken so is run once for each: it prints, or it reads what it changes.
It is Python's own compiler that makes them fast enough for a thousand zones.
"""

import collections.abc
import dataclasses
import typing

from smartos_emulator.dtrace import aggregations, builtins, errors, formats, probes, syntax, types

_FUNCTIONS = {
    "count": (0, 0), "sum": (1, 1), "min": (1, 1), "max": (1, 1), "avg": (1, 1),
    "stddev": (1, 1), "quantize": (1, 2), "lquantize": (3, 5), "llquantize": (5, 6),
}  # fmt: skip
_PRINTING = ("printf", "printa", "trace", "exit", "normalize", "denormalize", "clear", "trunc")
_BITS = {"+", "-", "*", "&", "|", "^", "<<", ">>", "/", "%"}
_COMPARING = ("==", "!=", "<", ">", "<=", ">=")
_LOGICAL = {"&&": "and", "||": "or"}

Run = collections.abc.Callable[[typing.Any, int], None]
Site = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Clause:
    """A clause, ready to run at its probes."""

    number: int
    probes: tuple[probes.Probe, ...]
    #: Whether the clause applies.
    applies: collections.abc.Callable[[typing.Any], bool] | None
    run: Run
    #: It is run once for each event, and not once for many.
    single: bool
    #: It leaves something for the consumer to print.
    prints: bool
    reads: frozenset[Site]
    writes: frozenset[Site]
    #: What its predicate reads.
    asks: frozenset[Site]


@dataclasses.dataclass
class Compiled:
    """All clauses of all scripts, and what they work on."""

    clauses: list[Clause] = dataclasses.field(default_factory=list)
    gathered: dict[str, aggregations.Aggregation] = dataclasses.field(default_factory=dict)
    variables: dict[Site, typing.Any] = dataclasses.field(default_factory=dict)
    #: Every whole number in the programs: one of them may bound a window of time.
    numbers: set[int] = dataclasses.field(default_factory=set)
    destructive: bool = False


class Compiler:
    """Compiles scripts one after the other into one program."""

    def __init__(self, table: probes.Table, machine: typing.Any, *, zdefs: bool = False) -> None:
        self._table = table
        self._zdefs = zdefs
        self.compiled = Compiled()
        self._types: dict[Site, types.Type] = {}
        self._arrays: dict[Site, tuple[types.Type, ...]] = {}
        self._inlines: dict[str, syntax.Inline] = {}
        self._names: dict[str, typing.Any] = {
            "r": machine,
            "signed": builtins.signed,
            "narrow": builtins.narrow,
            "divide": builtins.divide,
            "remainder": builtins.remainder,
            "quantize": aggregations.quantize,
            "lquantize": aggregations.lquantize,
            "llquantize": aggregations.llquantize,
            "average": aggregations.average,
            "deviation": aggregations.deviation,
            "assign": _assign,
            "bump": _bump,
            "locals_": machine.locals,
            **{f"f_{name}": code for name, code in builtins.CODE.items()},
        }

    def add(self, program: syntax.Program) -> int:
        """Take in a script; how many probes it matched."""
        for inline in program.inlines:
            self._inlines[inline.name] = inline
        for declared in program.declarations:
            site = (declared.scope, declared.name)
            self._types[site] = declared.type
            if declared.keys:
                self._arrays[site] = declared.keys
        matched = 0
        for clause in program.clauses:
            found = self._probes(clause)
            matched += len(found)
            self.compiled.clauses.append(self._clause(clause, found))
        return matched

    def _probes(self, clause: syntax.Clause) -> tuple[probes.Probe, ...]:
        found: dict[int, probes.Probe] = {}
        for description in clause.probes:
            matching = self._table.match(description)
            if not matching and not self._zdefs:
                whole = ":".join(probes.fields(description))
                message = f"probe description {whole} does not match any probes"
                raise errors.CompileError(message, clause.line)
            found |= {probe.id: probe for probe in matching}
        return tuple(found.values())

    def _clause(self, clause: syntax.Clause, found: tuple[probes.Probe, ...]) -> Clause:
        number = len(self.compiled.clauses) + 1
        code = _Code(self, found)
        applies = None
        asks: frozenset[Site] = frozenset()
        if clause.predicate is not None:
            condition = code.condition(clause.predicate, "predicate")
            applies = self._function(f"lambda e: {condition}")
            asks = frozenset(code.reads)
        lines = code.statements(clause.actions or ())
        body = "".join(f"    {line}\n" for line in lines) or "    return\n"
        name = f"clause_{number}"
        exec(compile(f"def {name}(e, w):\n{body}", name, "exec"), self._names)
        self.compiled.numbers |= {
            node.value
            for part in (clause.predicate, clause.actions or ())
            for node in syntax.walk(part or ())
            if isinstance(node, syntax.Number)
        }
        return Clause(
            number,
            found,
            applies,
            self._names[name],
            code.single or code.prints or clause.actions is None,
            code.prints or clause.actions is None,
            frozenset(code.reads),
            frozenset(code.writes),
            asks,
        )

    def _function(self, code: str) -> typing.Any:
        return eval(code, self._names)

    # -- what clauses share --

    def storage(self, site: Site, kind: types.Type) -> str:
        """The name of what holds a variable: its one value, or one for each key or thread."""
        scope, name = site
        label = f"v_{scope}_{name}"
        if site not in self.compiled.variables:
            held: typing.Any = {}
            if not scope and site not in self._arrays:
                held = {0: empty(kind)}
            self.compiled.variables[site] = held
            self._names[label] = held
        return label

    def type_of(self, site: Site) -> types.Type | None:
        return self._types.get(site)

    def declare(self, site: Site, kind: types.Type, keys: tuple[types.Type, ...] = ()) -> None:
        self._types[site] = kind
        if keys:
            self._arrays[site] = keys

    def keys_of(self, site: Site) -> tuple[types.Type, ...] | None:
        return self._arrays.get(site)

    def inline(self, name: str) -> syntax.Inline | None:
        return self._inlines.get(name)

    def hold(self, prefix: str, value: typing.Any) -> str:
        """A name by which clauses reach an object."""
        label = f"{prefix}_{len(self._names)}"
        self._names[label] = value
        return label

    def aggregation(
        self,
        node: syntax.Aggregation,
        function: str,
        parameters: tuple[int, ...],
        keys: tuple[types.Type, ...],
    ) -> str:
        """The name of what holds an aggregation's values."""
        known = self.compiled.gathered.get(node.name)
        if known is None:
            known = aggregations.Aggregation(node.name, function, parameters, keys, node.line)
            self.compiled.gathered[node.name] = known
            self._names[f"a_{node.name}"] = known
        if (known.function, known.parameters) != (function, parameters):
            message = (
                f"aggregation redefined: @{node.name}\n\t current: @{node.name} = {function}( )\n"
                f"\tprevious: @{node.name} = {known.function}( ) : line {known.line}\n"
            )
            raise errors.CompileError(message.rstrip(), node.line, "action list")
        if len(known.keys) != len(keys):
            message = f"@{node.name}[ ] prototype mismatch: {len(keys)} keys passed, "
            message += f"{len(known.keys)} expected"
            raise errors.CompileError(message, node.line, "action list")
        for place, (was, now) in enumerate(zip(known.keys, keys, strict=True), 1):
            if was.is_string != now.is_string:
                message = (
                    f"@{node.name}[ ] key #{place} is incompatible with prototype:\n"
                    f"\tprototype: {was.name}\n\t argument: {now.name}"
                )
                raise errors.CompileError(message, node.line, "action list")
        return f"a_{node.name}"


class _Code:
    """The code of one clause."""

    def __init__(self, compiler: Compiler, found: tuple[probes.Probe, ...]) -> None:
        self._compiler = compiler
        self._probes = found
        self._region = "action list"
        #: Threads pass these probes in pairs: what is a thread's own changes once, not w times.
        self._own = "1" if found and all(probe.paired for probe in found) else "w"
        self.single = False
        self.prints = False
        self.reads: set[Site] = set()
        self.writes: set[Site] = set()
        self._stepped: set[Site] = set()

    def _error(self, message: str, node: syntax.Expression) -> errors.CompileError:
        return errors.CompileError(message, node.line, self._region)

    # -- statements --

    def statements(self, actions: tuple[syntax.Expression, ...]) -> list[str]:
        """The lines of a body."""
        lines = [self._statement(action) for action in actions]
        if self._stepped & self.reads:
            self.single = True
        return lines

    def _target(self, action: syntax.Expression) -> Site | None:
        if not isinstance(action, syntax.Assignment):
            return None
        target = action.target.array if isinstance(action.target, syntax.Index) else action.target
        return (target.scope, target.name) if isinstance(target, syntax.Variable) else None

    def _statement(self, action: syntax.Expression) -> str:
        if isinstance(action, syntax.Assignment):
            if isinstance(action.target, syntax.Aggregation):
                return self._aggregating(action.target, action)
            return self._assigning(action)
        if isinstance(action, syntax.Call) and action.function in _PRINTING:
            self.prints = True
            return getattr(self, f"_{action.function}")(action)
        if isinstance(action, syntax.Call) and action.function in builtins.DESTRUCTIVE:
            self._compiler.compiled.destructive = True
            return "pass"
        if isinstance(action, syntax.Aggregation):
            raise self._error("expression may not be an aggregation", action)
        if not isinstance(action, syntax.Call):
            raise self._error("expression has null effect", action)
        return self.value(action)[0]

    def _assigning(self, node: syntax.Assignment) -> str:
        site = self._target(node)
        if site is None:
            raise self._error("operator = requires modifiable lvalue as an operand", node)
        if node.operator:
            return self._stepping(node, site)
        already = set(self.reads)
        self.reads.clear()
        code, kind = self.value(node.value)
        if site in self.reads and site[0] != "this":
            # what is assigned depends on what was there
            self.single = True
        self.reads |= already
        place, target = self._place(node.target, kind)
        self.writes.add(site)
        stored = self._stored(code, kind, target, node)
        if site[0] == "self" or isinstance(node.target, syntax.Index):
            # nothing is kept of what is zero
            holder, key = place
            if isinstance(node.value, syntax.Number) and node.value.value == 0:
                return f"{holder}.pop({key}, None)"
        return f"{place[0]}[{place[1]}] = {stored}"

    def _stepping(self, node: syntax.Assignment, site: Site) -> str:
        code, kind = self.value(node.value)
        place, target = self._place(node.target, None)
        if target.is_string or target.struct:
            message = f"operator {node.operator}= requires operands of integral type"
            raise self._error(message, node)
        self.writes.add(site)
        holder, key = place
        weight = ""
        if site[0] == "self":
            weight = "" if self._own == "1" else " * w"
        elif site[0] != "this":
            weight = " * w"
        if site[0] != "this" and not (site[0] == "self" and self._own == "1"):
            self._stepped.add(site)
        current = f"{holder}.get({key}, 0)"
        if node.operator in "+-":
            return (
                f"{holder}[{key}] = {_fit(f'{current} {node.operator} ({code}){weight}', target)}"
            )
        self.single = True
        result, result_type = self._computed(node.operator, (current, target), (code, kind), node)
        return f"{holder}[{key}] = {self._stored(result, result_type, target, node)}"

    def _place(
        self, target: syntax.Expression, kind: types.Type | None
    ) -> tuple[tuple[str, str], types.Type]:
        """Where a variable is kept, and its type: what is first assigned to it makes that."""
        compiler = self._compiler
        keys: tuple[tuple[str, types.Type], ...] = ()
        if isinstance(target, syntax.Index):
            keys = tuple(self.value(key) for key in target.keys)
            target = target.array
        if not isinstance(target, syntax.Variable):
            raise self._error("operator = requires modifiable lvalue as an operand", target)
        site = (target.scope, target.name)
        if not target.scope and (target.name in builtins.VARIABLES or _is_argument(target.name)):
            raise self._error("operator = requires modifiable lvalue as an operand", target)
        known = compiler.type_of(site)
        if known is None:
            if kind is None:
                kind = types.INT64
            known = types.STRING if kind.is_string else kind
            compiler.declare(site, known, tuple(each for _, each in keys))
        expected = compiler.keys_of(site)
        if (expected is None) == bool(keys) or (expected and len(expected) != len(keys)):
            raise self._error(f"{target.name} is used with the wrong number of keys", target)
        if target.scope == "this":
            return ("locals_", repr(target.name)), known
        holder = compiler.storage(site, known)
        if keys:
            # the address of a structure is its key
            parts = [code if not each.struct else f"{code}['@']" for code, each in keys]
            return (holder, f"({', '.join(parts)},)"), known
        return (holder, "e.tid" if target.scope == "self" else "0"), known

    def _stored(
        self, code: str, kind: types.Type, target: types.Type, node: syntax.Expression
    ) -> str:
        alike = target.is_string == kind.is_string and bool(target.struct) == bool(kind.struct)
        pointed = (target.is_integer and kind.struct) or (target.struct and code == "0")
        if not alike and not pointed:
            message = f'operands have incompatible types: "{target.name}" = "{kind.name}"'
            raise self._error(message, node)
        if target.is_integer and kind.struct:
            return f"{code}['@']"
        if target.is_integer:
            fits = code.isdecimal() and int(code) < 1 << (target.size * 8 - 1)
            return code if fits else _fit(code, target)
        return code

    # -- actions --

    def _aggregating(self, target: syntax.Aggregation, node: syntax.Assignment) -> str:
        call = node.value
        if not isinstance(call, syntax.Call) or call.function not in _FUNCTIONS or node.operator:
            message = f"@{target.name} may only be assigned the result of an aggregating function"
            raise self._error(message, node)
        name, given = call.function, call.arguments
        least, most = _FUNCTIONS[name]
        if not least <= len(given) <= most and not (name == "lquantize" and len(given) == 3):
            message = f"{name}( ) prototype mismatch: {len(given)} args passed, {most} expected"
            raise self._error(message, node)
        keys = [self.value(key) for key in target.keys]
        values = [self._integer(each) for each in given]
        fixed: tuple[int, ...] = ()
        weight = "w"
        if name in ("lquantize", "llquantize"):
            count = 4 if name == "llquantize" else min(3, len(given) - 1)
            fixed = tuple(self._constant(each) for each in given[1 : count + 1])
            fixed = (*fixed, 1) if len(fixed) == 2 else fixed
            self._check_steps(name, fixed, node)
            weight = f"w * {values[count + 1]}" if len(values) > count + 1 else "w"
        elif name == "quantize" and len(values) > 1:
            weight = f"w * {values[1]}"
        kinds = tuple(_key_type(kind) for _, kind in keys)
        holder = f"{self._compiler.aggregation(target, name, fixed, kinds)}.data"
        parts = [f"{code}['@']" if kind.struct else code for code, kind in keys]
        key = f"({''.join(f'{part}, ' for part in parts)})"
        value = values[0] if values else ""
        return {
            "count": f"d = {holder}; k = {key}; d[k] = d.get(k, 0) + w",
            "sum": f"d = {holder}; k = {key}; d[k] = d.get(k, 0) + {value} * w",
            "min": f"r.least({holder}, {key}, {value}, w, -1)",
            "max": f"r.least({holder}, {key}, {value}, w, 1)",
            "avg": f"average({holder}, {key}, {value}, w)",
            "stddev": f"deviation({holder}, {key}, {value}, w)",
            "quantize": f"quantize({holder}, {key}, {value}, {weight})",
            "lquantize": f"lquantize({holder}, {key}, {value}, {weight}, {fixed})",
            "llquantize": f"llquantize({holder}, {key}, {value}, {weight}, {fixed})",
        }[name]

    def _check_steps(self, name: str, fixed: tuple[int, ...], node: syntax.Expression) -> None:
        if name == "lquantize":
            base, limit, step = fixed
            if step <= 0 or limit <= base:
                message = "lquantize( ) argument #3 must be greater than argument #2"
                raise self._error(message, node)
        elif fixed[0] < 2 or fixed[1] >= fixed[2] or fixed[3] < fixed[0]:
            raise self._error("llquantize( ) has improper arguments", node)

    def _integer(self, node: syntax.Expression) -> str:
        """A number as an aggregation adds it up: with a sign."""
        code, kind = self.value(node)
        if not kind.is_integer:
            message = f"aggregating function argument is no integer: {kind.name}"
            raise self._error(message, node)
        return code if kind.signed or code.isdecimal() else _fit(code, types.INT64)

    def _constant(self, node: syntax.Expression) -> int:
        if isinstance(node, syntax.Unary) and node.operator == "-":
            return -self._constant(node.operand)
        if not isinstance(node, syntax.Number):
            raise self._error("aggregating function argument is no integer constant", node)
        return node.value

    def _printf(self, node: syntax.Call) -> str:
        shape = self._format(node, 0)
        values = [self.value(each) for each in node.arguments[1:]]
        kinds = tuple(kind for _, kind in values)
        label = self._compiler.hold("format", formats.Format(shape, "printf", node.line, kinds))
        parts = "".join(f"{code}, " for code, _ in values)
        return f"r.out({label}.show(({parts})))"

    def _format(self, node: syntax.Call, place: int) -> str:
        shape = node.arguments[place] if len(node.arguments) > place else None
        if not isinstance(shape, syntax.Text):
            message = (
                f"{node.function}( ) argument #1 is incompatible with prototype:\n"
                "\tprototype: string constant"
            )
            raise self._error(message, node)
        return shape.value

    def _known(self, node: syntax.Call, place: int) -> aggregations.Aggregation:
        """The aggregation that an action is given."""
        given = node.arguments[place] if len(node.arguments) > place else None
        if not isinstance(given, syntax.Aggregation):
            message = (
                f"{node.function}( ) argument #{place + 1} is incompatible with prototype:\n"
                "\tprototype: aggregation"
            )
            raise self._error(message, node)
        known = self._compiler.compiled.gathered.get(given.name)
        if known is None:
            raise self._error(f"undefined aggregation: @{given.name}", node)
        return known

    def _printa(self, node: syntax.Call) -> str:
        shaped = bool(node.arguments) and isinstance(node.arguments[0], syntax.Text)
        if len(node.arguments) > 1 + shaped:
            raise self._error("the emulated node prints one aggregation at a time", node)
        known = self._known(node, int(shaped))
        label = self._compiler.hold("aggregation", known)
        if not shaped:
            return f"r.print_plainly({label})"
        shape = formats.Format(self._format(node, 0), "printa", node.line, known.keys)
        return f"r.print_entries({label}, {self._compiler.hold('format', shape)})"

    def _trace(self, node: syntax.Call) -> str:
        self._count(node, 1, 1)
        code, kind = self.value(node.arguments[0])
        if kind.struct:
            raise self._error("trace( ) may not be applied to a dynamic expression", node)
        return f"r.trace({code}, {self._compiler.hold('type', kind)})"

    def _exit(self, node: syntax.Call) -> str:
        self._count(node, 1, 1)
        return f"r.exit({self.value(node.arguments[0])[0]})"

    def _normalize(self, node: syntax.Call) -> str:
        self._count(node, 2, 2)
        label = self._compiler.hold("aggregation", self._known(node, 0))
        return f"r.normalize({label}, {self.value(node.arguments[1])[0]})"

    def _denormalize(self, node: syntax.Call) -> str:
        self._count(node, 1, 1)
        return f"r.normalize({self._compiler.hold('aggregation', self._known(node, 0))}, 1)"

    def _clear(self, node: syntax.Call) -> str:
        self._count(node, 1, 1)
        return f"{self._compiler.hold('aggregation', self._known(node, 0))}.clear()"

    def _trunc(self, node: syntax.Call) -> str:
        self._count(node, 1, 2)
        label = self._compiler.hold("aggregation", self._known(node, 0))
        keep = self.value(node.arguments[1])[0] if len(node.arguments) > 1 else "0"
        return f"{label}.trunc({keep}, r.sort)"

    def _count(self, node: syntax.Call, least: int, most: int) -> None:
        if not least <= len(node.arguments) <= most:
            message = f"prototype mismatch: {len(node.arguments)} args passed, {most} expected"
            raise self._error(f"{node.function}( ) {message}", node)

    # -- expressions --

    def condition(self, node: syntax.Expression, region: str = "") -> str:
        """An expression as a truth of Python's."""
        before, self._region = self._region, region or self._region
        code = self._condition(node)
        self._region = before
        return code

    def _condition(self, node: syntax.Expression) -> str:
        if isinstance(node, syntax.Binary) and node.operator in _LOGICAL:
            left, right = self._condition(node.left), self._condition(node.right)
            return f"({left} {_LOGICAL[node.operator]} {right})"
        if isinstance(node, syntax.Binary) and node.operator == "^^":
            return f"(bool({self._condition(node.left)}) != bool({self._condition(node.right)}))"
        if isinstance(node, syntax.Binary) and node.operator in _COMPARING:
            return self._compared(node)
        if isinstance(node, syntax.Unary) and node.operator == "!":
            return f"(not {self._condition(node.operand)})"
        code, kind = self.value(node)
        if kind.is_string:
            raise self._error("expression must promote to integer or pointer type", node)
        return f"({code}['@'] != 0)" if kind.struct else f"({code} != 0)"

    def _compared(self, node: syntax.Binary) -> str:
        left, right = self.value(node.left), self.value(node.right)
        if left[1].is_string and right[1].is_string:
            return f"({left[0]} {node.operator} {right[0]})"
        left, right = (
            (f"{code}['@']", types.UINT64) if kind.struct else (code, kind)
            for code, kind in (left, right)
        )
        self._need_integers(node.operator, left[1], right[1], node)
        kind = types.common(left[1], right[1])
        return f"({_as(left, kind)} {node.operator} {_as(right, kind)})"

    def value(self, node: syntax.Expression) -> tuple[str, types.Type]:
        """The code of an expression, and its type."""
        method = getattr(self, f"_value_{type(node).__name__.lower()}")
        return method(node)

    def _value_number(self, node: syntax.Number) -> tuple[str, types.Type]:
        unsigned = "u" in node.suffix or node.value >= 2**63
        wide = "l" in node.suffix or not -(2**31) <= node.value < 2**31
        kinds = {
            (False, False): types.INT, (True, False): types.UINT,
            (False, True): types.INT64, (True, True): types.UINT64,
        }  # fmt: skip
        code = str(node.value) if node.value >= 0 else f"({node.value})"
        return code, kinds[unsigned, wide]

    def _value_text(self, node: syntax.Text) -> tuple[str, types.Type]:
        return repr(node.value), types.STRING

    def _value_variable(self, node: syntax.Variable) -> tuple[str, types.Type]:
        if not node.scope:
            if inline := self._compiler.inline(node.name):
                code, has = self.value(inline.value)
                if inline.type.is_integer:
                    return (code if code.isdecimal() else _fit(code, inline.type)), inline.type
                return code, has
            if _is_argument(node.name):
                return self._argument(int(node.name[3:])), types.INT64
            if node.name in builtins.VARIABLES:
                return builtins.VARIABLES[node.name]
            if node.name.startswith("`"):
                raise self._error(f"failed to resolve {node.name}: Unknown symbol name", node)
        site = (node.scope, node.name)
        kind = self._compiler.type_of(site)
        if kind is None:
            prefix = {"self": "self->", "this": "this->"}.get(node.scope, "")
            if not node.scope:
                message = f"failed to resolve {node.name}: Unknown variable name"
                raise self._error(message, node)
            message = f"{prefix}{node.name} has not yet been declared or assigned"
            raise self._error(message, node)
        if self._compiler.keys_of(site):
            raise self._error(f"array {node.name} may not be used without its keys", node)
        self.reads.add(site)
        nothing = _nothing(kind)
        if node.scope == "this":
            return f"locals_.get({node.name!r}, {nothing})", kind
        holder = self._compiler.storage(site, kind)
        if node.scope == "self":
            return f"{holder}.get(e.tid, {nothing})", kind
        return f"{holder}[0]", kind

    def _argument(self, place: int) -> str:
        return (
            f"(e.args[{place}] if len(e.args) > {place} else 0)"
            if place > 2
            else (f"e.args[{place}]")
        )

    def _value_index(self, node: syntax.Index) -> tuple[str, types.Type]:
        if node.array.name == "args" and not node.array.scope:
            return self._typed_argument(node)
        site = (node.array.scope, node.array.name)
        kind = self._compiler.type_of(site)
        if kind is None:
            prefix = "self->" if node.array.scope == "self" else ""
            message = f"{prefix}{node.array.name} has not yet been declared or assigned"
            raise self._error(message, node)
        (holder, key), kind = self._place(node, None)
        self.reads.add(site)
        return f"{holder}.get({key}, {_nothing(kind)})", kind

    def _typed_argument(self, node: syntax.Index) -> tuple[str, types.Type]:
        place = self._constant(node.keys[0])
        for probe in self._probes:
            if place < 0 or place >= len(probe.arguments):
                message = f"index {place} is out of range for {probe} args[ ]"
                raise self._error(message, node)
        names = {probe.arguments[place] for probe in self._probes}
        if len(names) > 1:
            message = f"args[{place}] has not the same type at each of the clause's probes"
            raise self._error(message, node)
        found = types.find(names.pop()) if names else types.INT64
        assert found is not None
        return f"e.typed[{place}]", found

    def _value_member(self, node: syntax.Member) -> tuple[str, types.Type]:
        code, kind = self.value(node.of)
        if not kind.struct:
            message = f'operator -> cannot be applied to type "{kind.name}"; must be applied to '
            raise self._error(message + "a struct or union pointer", node)
        fields = types.STRUCTS[kind.struct]
        if node.name not in fields:
            tag = kind.struct if kind.struct.endswith("info_t") else f"struct {kind.struct[:-2]}"
            raise self._error(f"{node.name} is not a member of {tag}", node)
        found = types.find(fields[node.name])
        assert found is not None
        return f"{code}[{node.name!r}]", found

    def _value_call(self, node: syntax.Call) -> tuple[str, types.Type]:
        if node.function == "stringof":
            self._count(node, 1, 1)
            code, kind = self.value(node.arguments[0])
            if not kind.is_string:
                message = f"stringof( ) cannot be applied to type {kind.name}"
                raise self._error(message, node)
            return code, types.STRING
        if node.function in ("stack", "ustack", "jstack"):
            raise self._error(f"the emulated node has no stacks for {node.function}( )", node)
        if node.function not in builtins.FUNCTIONS:
            known = node.function in (*_PRINTING, *_FUNCTIONS, *builtins.DESTRUCTIVE)
            message = f"undefined function name: {node.function}"
            if known:
                message = f"{node.function}( ) may not be called from a D expression"
            raise self._error(message, node)
        wanted, result = builtins.FUNCTIONS[node.function]
        least = len(wanted) - (node.function == "substr")
        self._count(node, least, len(wanted))
        parts = []
        for place, (each, kind) in enumerate(zip(node.arguments, wanted, strict=False), 1):
            code, has = self.value(each)
            if has.is_string != kind.is_string or has.struct:
                message = (
                    f"{node.function}( ) argument #{place} is incompatible with prototype:\n"
                    f"\tprototype: {kind.name}\n\t argument: {has.name}"
                )
                raise self._error(message, each)
            parts.append(code if kind.is_string else _fit(code, kind))
        if node.function == "rand":
            self.single = True
        return f"f_{node.function}({', '.join(parts)})", result

    def _value_cast(self, node: syntax.Cast) -> tuple[str, types.Type]:
        code, kind = self.value(node.operand)
        to = node.type
        if to.struct:
            return (code if kind.struct else f"e.structure({code})"), to
        if to.is_integer:
            if kind.is_string:
                message = f'invalid cast expression: "{kind.name}" to "{to.name}"'
                raise self._error(message, node)
            return _fit(f"{code}['@']" if kind.struct else code, to), to
        if to.is_string and kind.is_string:
            return code, to
        raise self._error(f'invalid cast expression: "{kind.name}" to "{to.name}"', node)

    def _value_unary(self, node: syntax.Unary) -> tuple[str, types.Type]:
        if node.operator == "!":
            return f"(0 if {self._condition(node.operand)} else 1)", types.INT
        code, kind = self.value(node.operand)
        if node.operator == "*" and kind.struct and kind.pointer:
            return code, dataclasses.replace(kind, name=kind.struct, pointer=False)
        if not kind.is_integer or node.operator in "*&":
            message = f"operator {node.operator} requires an operand of integral type"
            raise self._error(message, node)
        result = types.common(kind, types.INT)
        return (
            code if node.operator == "+" else _wrapped(f"{node.operator}{code}", result)
        ), result

    def _value_binary(self, node: syntax.Binary) -> tuple[str, types.Type]:
        if node.operator not in _BITS:
            return f"(1 if {self._condition(node)} else 0)", types.INT
        return self._computed(node.operator, self.value(node.left), self.value(node.right), node)

    def _computed(
        self,
        operator: str,
        left: tuple[str, types.Type],
        right: tuple[str, types.Type],
        node: syntax.Expression,
    ) -> tuple[str, types.Type]:
        self._need_integers(operator, left[1], right[1], node)
        if operator in ("<<", ">>"):
            kind = types.common(left[1], types.INT)
            return _wrapped(f"{_as(left, kind)} {operator} ({right[0]} & 63)", kind), kind
        kind = types.common(left[1], right[1])
        one, other = _as(left, kind), _as(right, kind)
        if operator in "/%":
            function = "divide" if operator == "/" else "remainder"
            return f"{function}({one}, {other})", kind
        if operator in "&|^":
            return f"({one} {operator} {other})", kind
        return _wrapped(f"{one} {operator} {other}", kind), kind

    def _need_integers(
        self, operator: str, left: types.Type, right: types.Type, node: syntax.Expression
    ) -> None:
        if not left.is_integer or not right.is_integer:
            message = f'operands have incompatible types: "{left.name}" {operator} "{right.name}"'
            raise self._error(message, node)

    def _value_choice(self, node: syntax.Choice) -> tuple[str, types.Type]:
        condition = self._condition(node.condition)
        (yes, kind), (no, other) = self.value(node.yes), self.value(node.no)
        if kind.is_string and other.is_string:
            return f"({yes} if {condition} else {no})", types.STRING
        if kind.struct or other.struct:
            return f"({yes} if {condition} else {no})", kind
        self._need_integers("?:", kind, other, node)
        both = types.common(kind, other)
        return f"({_as((yes, kind), both)} if {condition} else {_as((no, other), both)})", both

    def _value_assignment(self, node: syntax.Assignment) -> tuple[str, types.Type]:
        """An assignment within an expression: its value counts, so it is done each time."""
        if isinstance(node.target, syntax.Aggregation):
            raise self._error("an aggregation may not be assigned within an expression", node)
        self.single = True
        code, kind = self.value(node.value)
        (holder, key), target = self._place(node.target, None if node.operator else kind)
        site = self._target(node)
        assert site is not None
        self.writes.add(site)
        if not node.operator:
            return f"assign({holder}, {key}, {self._stored(code, kind, target, node)})", target
        current = f"{holder}.get({key}, 0)"
        result, of = self._computed(node.operator, (current, target), (code, kind), node)
        stored = self._stored(result, of, target, node)
        if node.postfix:
            return f"bump({holder}, {key}, {current}, {stored})", target
        return f"assign({holder}, {key}, {stored})", target

    def _value_aggregation(self, node: syntax.Aggregation) -> tuple[str, types.Type]:
        raise self._error(f"aggregation @{node.name} may not be used as an expression", node)


def empty(kind: types.Type) -> typing.Any:
    """What a variable holds that nobody assigned."""
    return "" if kind.is_string else builtins.NULL if kind.struct else 0


def _nothing(kind: types.Type) -> str:
    return "''" if kind.is_string else "r.null" if kind.struct else "0"


def _key_type(kind: types.Type) -> types.Type:
    return types.UINT64 if kind.struct else types.STRING if kind.is_string else kind


def _is_argument(name: str) -> bool:
    return name[:3] == "arg" and name[3:].isdecimal() and len(name) == 4


def _fit(code: str, kind: types.Type) -> str:
    """A number as a variable of some bytes holds it."""
    if kind.size == 8:
        return _wrapped(code, kind)
    if kind.signed:
        return f"narrow({code}, {kind.size * 8})"
    return f"(({code}) & {(1 << kind.size * 8) - 1})"


def _wrapped(code: str, kind: types.Type) -> str:
    """A number as 64 bits hold it."""
    if kind.signed:
        return f"((({code}) + {types.HALF} & {types.MASK}) - {types.HALF})"
    return f"(({code}) & {types.MASK})"


def _as(value: tuple[str, types.Type], kind: types.Type) -> str:
    """A number in another type's form."""
    code, has = value
    if has.signed == kind.signed or code.isdecimal():
        return code
    return _wrapped(code, kind)


def _assign(holder: dict[typing.Any, typing.Any], key: typing.Any, value: typing.Any) -> typing.Any:
    holder[key] = value
    return value


def _bump(
    holder: dict[typing.Any, typing.Any], key: typing.Any, before: typing.Any, after: typing.Any
) -> typing.Any:
    holder[key] = after
    return before
