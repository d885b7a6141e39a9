# SPDX-License-Identifier: Apache-2.0
"""A node on which D programs run, as long as its clock, which is moved by hand, lets them."""

import io
import pathlib
import re
import signal

import dtrace_scripts
from smartos_emulator import call as call_module
from smartos_emulator.tools import dtrace
from tests.unit.emulator import metrics_node

SCRIPTS = sorted(path.stem for path in pathlib.Path(dtrace_scripts.__file__).parent.glob("*.d"))
NAMES = ("ops", "us", "ns", "bytes")


class Clock(metrics_node.HandClock):
    """Time passes while somebody sleeps; at some moments something happens."""

    def __init__(self):
        super().__init__()
        self.plans = []

    def at(self, seconds, action):
        """Do something when so many seconds have passed from now on."""
        self.plans.append((self.seconds + seconds, action))
        self.plans.sort(key=lambda plan: plan[0])

    def sleep(self, seconds):
        end = self.seconds + seconds
        while self.plans and self.plans[0][0] <= end:
            self.seconds, action = self.plans.pop(0)
            action()
        self.seconds = max(self.seconds, end)


class Node(metrics_node.Node):
    def __init__(self, directory, **settings):
        super().__init__(directory, **settings)
        self.clock = Clock()
        self.metrics = type(self.metrics)(self)

    def trace(self, *words, program="", seconds=None, signals=(signal.SIGINT,)):
        """A run of dtrace, interrupted after so many seconds."""
        out, err = io.BytesIO(), io.BytesIO()
        stdin = io.BytesIO(program.encode())
        call = call_module.Call(["dtrace", *words], self, {}, "/", stdin, out, err)
        if seconds is not None:
            self.clock.at(seconds, lambda: call.signals.extend(signals))
        status = call.serve(dtrace.main)
        return metrics_node.Result(status, out.getvalue().decode(), err.getvalue().decode())

    def values(self, module, uuid=metrics_node.ONE):
        """The values of a zone's kstat."""
        (found,) = (
            each
            for each in self.metrics.read()
            if each.module == module and each.data.get("zonename") == uuid
        )
        return found.data


def text(*names):
    """Scripts as one program."""
    return "".join(dtrace_scripts.path(name).read_text() for name in names)


def frames(output):
    """Each frame of an output: its script, its moment, its values and its distributions."""
    found, open_frames, rows = [], {}, None
    for line in output.splitlines():
        if bucket := re.fullmatch(r" *(-?\d+) \|@* *\|? *(\d+) *", line):
            rows[int(bucket[1])] = int(bucket[2])
            continue
        kind, *fields = line.split("|")
        if kind == "S":
            open_frames[fields[0]] = (fields[0], int(fields[1]), {}, {})
        elif kind == "A":
            open_frames[fields[0]][2][tuple(fields[1:-1])] = int(fields[-1])
        elif kind == "Q":
            rows = open_frames[fields[0]][3].setdefault(tuple(fields[1:-1]), {})
        elif kind == "E":
            found.append(open_frames.pop(fields[0]))
    return found
