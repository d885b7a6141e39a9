# SPDX-License-Identifier: Apache-2.0
"""A lint for the D scripts: the syntax of our subset, and what every script keeps to.

No D compiler runs where these tests do, and none would know our rules: what keeps a script safe on
a node under load, and what its frames owe the program that reads them.
"""

import dataclasses
import re
from collections.abc import Iterator

#: What each option must be; None is any or none. All scripts say the same, so that they can run as
#: one program; no other option may stand there.
OPTIONS = {
    "quiet": "",
    "defaultargs": "",
    "aggsortkey": "",
    "strsize": "64",
    "aggsize": "512k",
    "bufsize": "128k",
    "aggrate": "4hz",
    "switchrate": "4hz",
}
#: The same for scripts that keep variables for each thread or key.
DYNAMIC_OPTIONS = {"dynvarsize": "16m", "cleanrate": "101hz"}
AGGREGATIONS = {"count": "A", "sum": "A", "quantize": "Q"}
CALLS = {"printf", "printa", "ntohl", "substr", "stringof", *AGGREGATIONS}
BUILTINS = {"arg0", "arg1", "arg2", "args", "errno", "probefunc", "timestamp", "walltimestamp"}
#: The probes that a script may ask for, and whether their thread is one of the zone's: elsewhere
#: the variable zonename names whatever the probe interrupted.
PROBES = {
    "dtrace:::BEGIN": False,
    "dtrace:::END": False,
    "profile:::tick-1sec": False,
    "profile:::profile-997": True,
    "sdt:::zfs-zone-latency": False,
    "sdt:::zfs-zone-wait": False,
    "sched:::enqueue": False,
    "sched:::dequeue": False,
    "sched:::on-cpu": True,
    "sched:::off-cpu": True,
    "sched:::cpucaps-sleep": False,
    "sched:::cpucaps-wakeup": False,
    "fbt::fop_read:entry": True,
    "fbt::fop_read:return": True,
    "fbt::fop_write:entry": True,
    "fbt::fop_write:return": True,
    "fbt::zone_kstat_delete:entry": False,
    "syscall:::entry": True,
    "syscall:::return": True,
    "ip:::send": False,
    "ip:::receive": False,
    "tcp:::send": False,
}
WINDOW = "timestamp>=$2&&($3==0||timestamp<$3)"
HEAD = ("Question: ", "Keys: ", "Cost: ", "Error: ", "Needs ")
RULES = {
    "syntax",
    "head",
    "option",
    "action",
    "probe",
    "zonename",
    "prefix",
    "unset",
    "printed",
    "format",
    "frame",
    "window",
}

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<string>"(?:[^"\\\n]|\\.)*") | (?P<number>0x[0-9a-fA-F]+|\d+)\b
    | (?P<macro>\$[1-9]) | (?P<aggregation>@[A-Za-z_]\w*) | (?P<name>[A-Za-z_]\w*)
    | (?P<operator>->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^!~<>=?:;,.()[\]{}])""",
    re.VERBOSE,
)
# loosest first
_LEVELS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="),
    ("<<", ">>"), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip
_HEAD_OF_CLAUSE = re.compile(r"(?P<probes>[^{}/;]+?)\s*(?P<predicate>/.*?/)?\s*\{", re.DOTALL)
_INLINE = re.compile(r"inline (?:u?int\d+_t|int) (?P<name>\w+) = (?P<value>[^;]+);")
_PRAGMA = re.compile(r"#pragma D option (\w+)(?:=(\S+))?(?=\n)")
_CONVERSION = re.compile(r"%(@?[a-z%])")


class Wrong(Exception):
    """What is no D of our subset."""


@dataclasses.dataclass
class Node:
    """A piece of an expression: what it is, its word, what it consists of."""

    kind: str
    word: str
    parts: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclasses.dataclass
class Clause:
    """Probes, a predicate, and statements."""

    line: int
    probes: list[str]
    predicate: Node | None
    window: str
    statements: list[Node]

    def walk(self) -> Iterator[Node]:
        for root in ([self.predicate] if self.predicate else []) + self.statements:
            yield from root.walk()

    def calls(self, *names: str) -> list[Node]:
        return [each for each in self.walk() if each.kind == "call" and each.word in names]

    def counts(self) -> dict[str, str]:
        """The aggregations that this clause adds to, and by which function."""
        return {
            each.parts[0].word: each.parts[1].word
            for each in self.statements
            if each.kind == "=" and each.parts[0].kind == "aggregation"
        }


@dataclasses.dataclass
class Script:
    """A script taken apart."""

    options: list[tuple[str, str]]
    inlines: list[str]
    clauses: list[Clause]


class _Parser:
    """Statements and expressions."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                raise Wrong(f"no token: {text[place : place + 20]!r}")
            place = found.end()
            if found.lastgroup != "space":
                self._tokens.append((str(found.lastgroup), found[0]))

    def statements(self) -> list[Node]:
        found = []
        while self._tokens:
            found.append(self._statement())
            self._expect(";")
        return found

    def expression(self) -> Node:
        node = self._ternary()
        if self._tokens:
            raise Wrong(f"unexpected {self._tokens[0][1]!r}")
        return node

    def _statement(self) -> Node:
        target = self._ternary()
        if self._next("="):
            if target.kind not in ("aggregation", "index", "name", "member"):
                raise Wrong(f"cannot assign to {target.word!r}")
            value = self._ternary()
            known = value.kind == "call" and value.word in AGGREGATIONS
            if (target.kind == "aggregation") != known:
                raise Wrong(f"{target.word} and {value.word} do not fit")
            return Node("=", "=", (target, value))
        if target.kind not in ("++", "--", "call"):
            raise Wrong(f"a statement without effect: {target.word!r}")
        return target

    def _ternary(self) -> Node:
        node = self._binary(0)
        if self._next("?"):
            yes = self._ternary()
            self._expect(":")
            node = Node("?", "?", (node, yes, self._ternary()))
        return node

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._binary(level + 1)
        while operator := self._next(*_LEVELS[level]):
            node = Node("binary", operator, (node, self._binary(level + 1)))
        return node

    def _unary(self) -> Node:
        if operator := self._next("!", "~", "-"):
            return Node("unary", operator, (self._unary(),))
        node = self._primary()
        while operator := self._next("->", ".", "[", "++", "--"):
            if operator in ("++", "--"):
                node = Node(operator, node.word, (node,))
            elif operator == "[":
                kind = "aggregation" if node.kind == "aggregation" else "index"
                node = Node(kind, node.word, (node, *self._list("]")))
            else:
                node = Node("member", f"{node.word}{operator}{self._take('name')}", (node,))
        return node

    def _primary(self) -> Node:
        if self._next("("):
            node = self._ternary()
            self._expect(")")
            return node
        if not self._tokens:
            raise Wrong("it ends too early")
        kind, word = self._tokens.pop(0)
        if kind == "operator":
            raise Wrong(f"unexpected {word!r}")
        if kind == "name" and self._next("("):
            return Node("call", word, tuple(self._list(")")))
        return Node(kind, word)

    def _list(self, end: str) -> list[Node]:
        found: list[Node] = []
        while not self._next(end):
            if found:
                self._expect(",")
            found.append(self._ternary())
        return found

    def _next(self, *words: str) -> str | None:
        if self._tokens and self._tokens[0][0] == "operator" and self._tokens[0][1] in words:
            return self._tokens.pop(0)[1]
        return None

    def _expect(self, word: str) -> None:
        if not self._next(word):
            there = self._tokens[0][1] if self._tokens else "the end"
            raise Wrong(f"{word!r} is missing before {there!r}")

    def _take(self, kind: str) -> str:
        if not self._tokens or self._tokens[0][0] != kind:
            raise Wrong(f"a {kind} is missing")
        return self._tokens.pop(0)[1]


def parse(text: str) -> Script:
    """Take a script apart, or raise Wrong."""
    text = _without_comments(text.partition("\n")[2] if text.startswith("#!") else text)
    script = Script([], [], [])
    place = 0
    while place := _skip(text, place):
        line = text.count("\n", 0, place) + 2
        try:
            if found := _PRAGMA.match(text, place):
                script.options.append((found[1], found[2] or ""))
            elif found := _INLINE.match(text, place):
                _Parser(found["value"]).expression()
                script.inlines.append(found["name"])
            elif found := _HEAD_OF_CLAUSE.match(text, place):
                end = text.find("\n}", found.end())
                if end < 0:
                    raise Wrong("a clause without an end")
                script.clauses.append(_clause(line, found, text[found.end() : end]))
                place = end + 2
                continue
            else:
                raise Wrong(f"unexpected {text[place : place + 30]!r}")
        except Wrong as error:
            raise Wrong(f"line {line}: {error}") from None
        place = found.end()
    return script


def lint(name: str, text: str) -> list[str]:
    """What is wrong with the script called `name`, each as "rule: words"."""
    try:
        script = parse(text)
    except Wrong as error:
        return [f"syntax: {error}"]
    return [
        *_head(name, text),
        *_options(script),
        *(problem for clause in script.clauses for problem in _clause_alone(name, clause)),
        *_unset(script),
        *_frames(name, script),
    ]


def _clause(line: int, found: re.Match[str], body: str) -> Clause:
    words = (found["predicate"] or "//")[1:-1]
    predicate = _Parser(words).expression() if found["predicate"] else None
    probes = [probe.strip() for probe in found["probes"].split(",")]
    return Clause(line, probes, predicate, re.sub(r"\s", "", words), _Parser(body).statements())


def _skip(text: str, place: int) -> int:
    """Where the next thing begins; 0 when nothing is left."""
    found = re.compile(r"\S").search(text, place)
    # the text begins with a newline at least, so that no thing stands at 0
    return found.start() if found else 0


def _without_comments(text: str) -> str:
    """The same, each comment blank: lines keep their numbers."""
    pattern = re.compile(r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/', re.DOTALL)
    return "\n" + pattern.sub(
        lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text
    )


def _head(name: str, text: str) -> Iterator[str]:
    head = text.partition("*/")[0]
    if not head.startswith("#!/usr/sbin/dtrace -s\n/*\n * SPDX-License-Identifier: Apache-2.0\n"):
        yield "head: the interpreter and the licence come first"
    words = re.sub(r"\s*\n \*\s*", " ", head)
    for word in HEAD:
        if f" {word}" not in words:
            yield f"head: it does not say {word.strip(': ')!r}"
    if not re.search(r"Question: [^.]*\?", words):
        yield "head: the question is none"
    if f"dtrace -s {name}.d [PERIOD [FROM [UNTIL]]]" not in head:
        yield "head: it does not say how to run it"
    for line in text.splitlines():
        if len(line) > 100:
            yield f"head: a line of more than 100 characters: {line[:30]}…"


def _options(script: Script) -> Iterator[str]:
    assigned = [part for clause in script.clauses for part in _targets(clause)]
    dynamic = any(part.kind == "index" or part.word.startswith("self->") for part in assigned)
    wanted = OPTIONS | (DYNAMIC_OPTIONS if dynamic else {})
    for name, value in script.options:
        if wanted.get(name) != value:
            yield f"option: {name}={value} may not stand there"
    for name in wanted.keys() - dict(script.options).keys():
        yield f"option: {name} is missing"


def _targets(clause: Clause) -> Iterator[Node]:
    """What a clause assigns to, aggregations left out."""
    for each in clause.statements:
        if each.kind in ("=", "++", "--") and each.parts[0].kind != "aggregation":
            yield each.parts[0]


def _variable(node: Node) -> str | None:
    """The variable that a piece is: its name, with self-> or this-> if it has that."""
    if node.kind == "member":
        return node.word if re.fullmatch(r"(self|this)->\w+", node.word) else None
    return node.word if node.kind == "name" and node.word not in ("self", "this") else None


def _clause_alone(name: str, clause: Clause) -> Iterator[str]:
    where = f"line {clause.line}"
    for call in (each for each in clause.walk() if each.kind == "call"):
        if call.word not in CALLS:
            yield f"action: {where}: {call.word}() is not of our subset"
    for probe in clause.probes:
        if probe not in PROBES:
            yield f"probe: {where}: {probe} is not known"
    names = {each.word for each in clause.walk() if each.kind == "name"}
    if "zonename" in names and not all(PROBES.get(probe) for probe in clause.probes):
        yield f"zonename: {where}: another zone's thread may run here"
    counts = clause.counts()
    for variable in {*filter(None, map(_variable, _targets(clause))), *counts}:
        bare = variable.removeprefix("self->").removeprefix("this->").removeprefix("@")
        if not bare.startswith(f"{name}_"):
            yield f"prefix: {where}: {variable} would be shared with another script"
    final = [each for each in clause.calls("printf") if each.parts[0].word.startswith('"F|')]
    # as a conjunct of its own: behind an || it would bound nothing
    bounded = clause.window == WINDOW or clause.window.endswith(f"&&{WINDOW}")
    whole = clause.predicate is None or clause.predicate.word != "||"
    if (counts or final) and not (bounded and whole):
        yield f"window: {where}: it counts outside FROM and UNTIL"


def _unset(script: Script) -> Iterator[str]:
    """A compiler refuses variables that no clause before has assigned to."""
    known = {"self", "this", "zonename", *BUILTINS, *script.inlines}
    for clause in script.clauses:
        fresh = set(filter(None, map(_variable, _targets(clause))))
        fresh |= {part.word for part in _targets(clause) if part.kind == "index"}
        before = list(clause.predicate.walk()) if clause.predicate else []
        for node in clause.walk():
            variable = _variable(node)
            # a predicate runs before what its own clause assigns
            there = known if any(node is each for each in before) else known | fresh
            if variable and variable not in there:
                yield f"unset: line {clause.line}: {variable}"
        known |= fresh


def _frames(name: str, script: Script) -> Iterator[str]:
    kinds: dict[str, str] = {}
    keys: dict[str, int] = {}
    for clause in script.clauses:
        kinds |= clause.counts()
        for each in clause.statements:
            if each.kind == "=" and each.parts[0].kind == "aggregation":
                keys[each.parts[0].word] = max(0, len(each.parts[0].parts) - 1)
    for clause in script.clauses:
        yield from _printing(name, clause, kinds, keys)
    by_probe = {
        probe: [clause for clause in script.clauses if probe in clause.probes]
        for probe in ("dtrace:::BEGIN", "profile:::tick-1sec", "dtrace:::END")
    }
    begin = [call for clause in by_probe["dtrace:::BEGIN"] for call in clause.calls("printf")]
    if [_text(call) for call in begin] != [f"H|{name}|1|%d|%d\\n"]:
        yield "frame: BEGIN does not print the format and both clocks"
    for probe in ("profile:::tick-1sec", "dtrace:::END"):
        printed = [call for clause in by_probe[probe] for call in clause.calls("printa")]
        there = [call.parts[1].word for call in printed if len(call.parts) == 2]
        for missing in sorted(kinds.keys() - set(there)):
            yield f"printed: {missing} is not in the frame of {probe}"
        if len(there) != len(set(there)):
            yield f"printed: something comes twice in the frame of {probe}"


def _printing(
    name: str, clause: Clause, kinds: dict[str, str], keys: dict[str, int]
) -> Iterator[str]:
    where = f"line {clause.line}"
    calls = [each for each in clause.statements if each.kind == "call"]
    for call in calls:
        conversions = [c for c in _CONVERSION.findall(_text(call)) if c not in ("%", "@d")]
        given = len(call.parts) - 1 if call.word == "printf" else keys.get(_aggregation(call), -1)
        if len(conversions) != given:
            yield f"format: {where}: {_text(call)} does not fit what is given"
    lines = "".join(_text(call) for call in calls).split("\\n")
    if not any(call.word == "printa" for call in calls):
        if any(not re.match(rf"(?:[HF]\|{name}\||$)", line) for line in lines):
            yield f"frame: {where}: a line outside a frame is neither H nor F"
        return
    first, *inner, last, rest = lines if len(lines) > 2 else ["", "", ""]
    if (first, last, rest) != (f"S|{name}|%d|%d", f"E|{name}", ""):
        yield f"frame: {where}: a frame begins with S and ends with E"
    for line, call in zip(inner, [call for call in calls if call.word == "printa"], strict=False):
        kind = AGGREGATIONS.get(kinds.get(_aggregation(call), ""))
        if not re.fullmatch(rf"{kind}\|{name}\|\w+\|(?:%[ds]\|)*%@d", line):
            yield f"frame: {where}: not a line of {_aggregation(call)}: {line}"


def _text(call: Node) -> str:
    """The format of a printf or printa."""
    return call.parts[0].word[1:-1] if call.parts and call.parts[0].kind == "string" else ""


def _aggregation(call: Node) -> str:
    return call.parts[1].word if len(call.parts) == 2 else ""
