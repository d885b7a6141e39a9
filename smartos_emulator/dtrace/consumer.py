# SPDX-License-Identifier: Apache-2.0
"""A run of a D program on a node: from BEGIN to END, a step of node time after the other."""

import signal
import typing

from smartos_emulator import call as call_module
from smartos_emulator import faults
from smartos_emulator.dtrace import compiler, events, formats, machine, probes

# How long a wait lasts, in real seconds, before it is looked whether to go on.
_SLICE = 0.05
# How often what events have printed is looked for, in nanoseconds of the node.
_LOOK = probes.NANO
# A timer that is late by so many of its intervals, and by so many nanoseconds, leaves some out.
_LATE = (5, 5 * probes.NANO)

Write = typing.Callable[[str], None]


class Consumer:
    """Runs a compiled program for a call."""

    def __init__(
        self,
        call: call_module.Call,
        on: machine.Machine,
        compiled: compiler.Compiled,
        write: Write,
    ) -> None:
        self._call = call
        self._node = call.node
        self._machine = on
        self._compiled = compiled
        self._write = write
        on.enable(compiled.clauses)
        self._watch = self._node.metrics.watch()
        config = self._node.config
        self._load = events.Load(on, self._watch, config.seed, config.cpus)
        enabled = on.enabled()
        self._timers = {
            probe: self._watch.at + probe.interval
            for probe in enabled
            if probe.interval and probe.name.startswith("tick-")
        }
        of_load = [
            clause
            for clause in compiled.clauses
            if any(not _is_own(probe) for probe in clause.probes)
        ]
        #: Whether events print, so that they must not wait for a timer to look at them.
        self._prints = any(
            clause.prints and any(not _is_rare(probe) for probe in clause.probes)
            for clause in of_load
        )
        self._look = self._watch.at + _LOOK
        #: What events change or look at, besides aggregations.
        self._touched = {
            site
            for clause in of_load
            for site in (*clause.reads, *clause.asks, *clause.writes)
            if not site[0]
        }

    def run(self) -> int:
        """Trace until it is over; the exit status."""
        try:
            return self._run()
        finally:
            self._watch.close()

    def _run(self) -> int:
        self._named("BEGIN", self._watch.at)
        self._print()
        while not self._machine.done and not self._call.signals:
            if not self._step():
                continue
            fault = self._node.faults.strike(self._call.argv)
            if fault is not None and (status := self._struck(fault)) is not None:
                return status
        interrupted = bool(self._call.signals) and not self._machine.done
        if interrupted:
            self._write("\n")
        self._end()
        return self._machine.status

    def _end(self) -> None:
        """Stop tracing: what has happened so far counts, and END is the last."""
        if not self._machine.done:
            now = self._node.metrics.settle()
            while (due := self._next()) is not None and due <= now and not self._machine.done:
                self._tick(due)
            self._advance(now)
        now = max(self._load.at, self._machine.event.at)
        self._machine.done = False
        self._named("END", now)
        self._print()
        if len(self._call.signals) < 2:
            self._write("\n" + self._unprinted())

    def _unprinted(self) -> str:
        """Aggregations that no clause printed."""
        found = []
        for each in self._compiled.gathered.values():
            if not each.printed:
                found += [formats.plain(each, key) for key in self._machine.sort.keys(each)]
        return "".join(found)

    # -- time --

    def _next(self) -> int | None:
        return min(self._timers.values(), default=None)

    def _step(self) -> bool:
        """Wait a little for what comes next, and let it happen; whether it did."""
        due = self._next()
        now = self._node.metrics.hrtime()
        if now >= self._look and (due is None or due > self._look):
            self._look_around(self._node.metrics.settle())
            return due is None
        if due is None or due > now:
            slice_ns = int(_SLICE * self._node.clock.speed * probes.NANO)
            until = min(self._look, due) if due is not None else self._look
            self._node.clock.sleep(min(slice_ns, until - now) / probes.NANO)
            return False
        self._node.metrics.settle()
        self._tick(due)
        self._print()
        return True

    def _look_around(self, now: int) -> None:
        """See to it that what events print comes out soon."""
        self._look = now + _LOOK
        if self._prints or any(change.kind == "halt" for change in self._watch.changes.copy()):
            self._advance(min(now, self._next() or now))
            self._print()

    def _tick(self, due: int) -> None:
        """The timers that are due at a moment fire, in the order of their probes."""
        ready = [probe for probe, at in self._timers.items() if at == due]
        for probe in ready:
            self._timers[probe] = self._after(due, probe.interval)
            self._machine.locals.clear()
            for clause in self._machine.clauses(probe):
                self._time(due)
                self._machine.event.probe = probe
                self._fire_late(clause, due)

    def _after(self, due: int, interval: int) -> int:
        late = self._node.metrics.hrtime() - due
        if late > max(_LATE[0] * interval, int(_LATE[1] * self._node.clock.speed)):
            return due + late // interval * interval
        return due + interval

    def _fire_late(self, clause: compiler.Clause, due: int) -> None:
        """Run a timer's clause; the events before it only happen where it can tell."""
        on = self._machine
        if clause.asks & self._touched:
            self._advance(due)
        if on.done or not on.applies(clause):
            return
        if clause.prints or (clause.reads | clause.writes) & self._touched:
            probe = on.event.probe
            self._advance(due)
            on.event.probe = probe
        self._time(due)
        on.run(clause)

    def _advance(self, to: int) -> None:
        event = self._machine.event
        event.wall = self._wall()
        numbers = {each for each in self._compiled.numbers if each > self._load.at}
        for (scope, _), held in self._compiled.variables.items():
            if not scope and isinstance(held.get(0), int):
                numbers.add(held[0])
        self._load.advance(to, numbers)

    def _time(self, at: int) -> None:
        """Nothing but time: what happens now happens in no zone's thread."""
        event = self._machine.event
        self._load.speak_for(self._load.kernel)
        event.at, event.wall, event.errno = at, self._wall(), 0
        event.args, event.typed = (0, 0, 0), ()

    def _wall(self) -> int:
        return int(self._node.clock.now().timestamp() * 10**6) * 1000

    def _named(self, name: str, at: int) -> None:
        for probe in self._machine.enabled():
            if (probe.provider, probe.name) == ("dtrace", name):
                self._time(at)
                self._machine.event.execname = "dtrace"
                self._machine.fire(probe)

    # -- output --

    def _print(self) -> None:
        if text := self._machine.take_complaints():
            self._call.err(text)
        if text := self._machine.take_output():
            self._write(text)

    def _struck(self, fault: faults.Fault) -> int | None:
        """A fault that meets a run in its midst; the exit status if that ends it."""
        self._call.err(fault.stderr)
        if fault.kind == faults.Kind.DIE:
            return fault.status or -signal.SIGKILL
        if fault.kind == faults.Kind.STALL:
            while not fault.cleared.is_set() and not self._call.signals:
                self._node.clock.sleep(_SLICE * self._node.clock.speed)
        return None


def _is_rare(probe: probes.Probe) -> bool:
    """Whether a probe fires only with what happens to zones."""
    return probe.function == "zone_kstat_delete" or _is_own(probe)


def _is_own(probe: probes.Probe) -> bool:
    """Whether a probe fires by time or by dtrace itself, and not by what the node does."""
    return probe.provider == "dtrace" or probe.name.startswith("tick-")
