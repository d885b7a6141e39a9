# SPDX-License-Identifier: Apache-2.0
"""What runs compiled clauses: the event that they look at, and what they leave to be printed."""

import collections.abc
import typing

from smartos_emulator.dtrace import (
    aggregations,
    builtins,
    compiler,
    errors,
    formats,
    probes,
    types,
)

_HEADING = f"{'CPU':>3} {'ID':>6} {'FUNCTION:NAME':>32}\n"


class Event:
    """What happens at a probe, as clauses see it."""

    def __init__(self) -> None:
        self.at = self.wall = self.pid = self.tid = self.cpu = self.errno = 0
        self.zone = "global"
        self.execname = "sched"
        self.args: tuple[int, ...] = (0, 0, 0)
        self.typed: tuple[typing.Any, ...] = ()
        self.probe = probes.Probe(0, "", "", "", "")
        nowhere: dict[str, typing.Any] = builtins.NULL
        self.curpsinfo = self.curlwpsinfo = self.curcpu = self.curthread = nowhere
        #: The structures that casts of addresses find.
        self.structures: dict[int, dict[str, typing.Any]] = {}

    def structure(self, address: int) -> dict[str, typing.Any]:
        """What lies at an address."""
        return self.structures.get(address) or builtins.Null(address & types.MASK)


class Machine:
    """Runs clauses at probes."""

    null = builtins.NULL

    def __init__(self) -> None:
        self.event = Event()
        #: Variables of `this`: they live as long as an event.
        self.locals: dict[str, typing.Any] = {}
        self.sort = aggregations.Sort()
        self.quiet = False
        self.done = False
        self.status = 0
        self._output: list[str] = []
        self._complaints: list[str] = []
        self._heading = False
        self._clauses: dict[int, list[compiler.Clause]] = {}
        self._at_error: list[compiler.Clause] = []

    def enable(self, clauses: collections.abc.Iterable[compiler.Clause]) -> None:
        """Let clauses run at their probes, in the order in which they stand."""
        for clause in clauses:
            for probe in clause.probes:
                self._clauses.setdefault(probe.id, []).append(clause)

    def enabled(self) -> list[probes.Probe]:
        """The probes at which something is to be done."""
        found = {p.id: p for clauses in self._clauses.values() for c in clauses for p in c.probes}
        return [found[number] for number in self._clauses]

    def clauses(self, probe: probes.Probe) -> list[compiler.Clause]:
        return self._clauses.get(probe.id, [])

    def fire(self, probe: probes.Probe, weight: int = 1) -> None:
        """`weight` events, all alike, happen at a probe."""
        if self.done:
            return
        event = self.event
        event.probe = probe
        if self.locals:
            self.locals.clear()
        for clause in self._clauses[probe.id]:
            try:
                if clause.single and weight != 1:
                    self._run_each(clause, weight)
                elif clause.applies is None or clause.applies(event):
                    if not clause.prints:
                        clause.run(event, weight)
                        continue
                    self._run_printing(clause)
                    if self.done:
                        return
            except errors.Fault as fault:
                self._failed(clause, fault)

    def _run_each(self, clause: compiler.Clause, weight: int) -> None:
        for _ in range(weight):
            if self.done:
                return
            if clause.applies is None or clause.applies(self.event):
                if clause.prints:
                    self._run_printing(clause)
                else:
                    clause.run(self.event, 1)

    def applies(self, clause: compiler.Clause) -> bool:
        """Whether a clause's predicate holds."""
        try:
            return clause.applies is None or clause.applies(self.event)
        except errors.Fault as fault:
            self._failed(clause, fault)
            return False

    def run(self, clause: compiler.Clause) -> None:
        """Run one clause of which it is known that it applies."""
        try:
            if clause.prints:
                self._run_printing(clause)
            else:
                clause.run(self.event, 1)
        except errors.Fault as fault:
            self._failed(clause, fault)

    def _run_printing(self, clause: compiler.Clause) -> None:
        if self.quiet:
            clause.run(self.event, 1)
            return
        if not self._heading:
            self._output.append(_HEADING)
            self._heading = True
        probe = self.event.probe
        name = f"{probe.function}:{probe.name}"
        self._output.append(f"{self.event.cpu:>3} {probe.id:>6} {name:>32} ")
        clause.run(self.event, 1)
        self._output.append("\n")

    def _failed(self, clause: compiler.Clause, fault: errors.Fault) -> None:
        probe = self.event.probe
        self._complaints.append(
            f"dtrace: error on enabled probe ID {clause.number} (ID {probe.id}: {probe}): "
            f"{fault} in action #1\n"
        )
        event = self.event
        error = next((p for p in self.enabled() if p.name == "ERROR"), None)
        if error and probe.name != "ERROR":
            before, event.args = event.args, (0, clause.number, 1, -1, 0, 0)
            self.fire(error)
            event.args, event.probe = before, probe

    # -- what actions do --

    def out(self, text: str) -> None:
        self._output.append(text)

    def trace(self, value: int | str, kind: types.Type) -> None:
        self._output.append(formats.traced(value, kind, self.quiet))

    def exit(self, status: int) -> None:
        self.status = status & 255
        self.done = True

    def least(
        self,
        data: dict[aggregations.Key, int],
        key: aggregations.Key,
        value: int,
        weight: int,
        sign: int,
    ) -> None:
        """Keep the least value, or with a sign of 1 the greatest."""
        if weight > 0 and (key not in data or (value - data[key]) * sign > 0):
            data[key] = value

    def normalize(self, of: aggregations.Aggregation, by: int) -> None:
        if by <= 0:
            raise errors.Fault("Invalid normalization")
        of.normal = by

    def print_entries(self, of: aggregations.Aggregation, shape: formats.Format) -> None:
        """printa() with a format."""
        of.printed = True
        self._output += [shape.show_entry(of, key) for key in self.sort.keys(of)]

    def print_plainly(self, of: aggregations.Aggregation) -> None:
        """printa() without one."""
        of.printed = True
        self._output.append("\n")
        self._output += [formats.plain(of, key) for key in self.sort.keys(of)]

    # -- what is printed --

    def take_output(self) -> str:
        text = "".join(self._output)
        self._output.clear()
        return text

    def take_complaints(self) -> str:
        text = "".join(self._complaints)
        self._complaints.clear()
        return text
