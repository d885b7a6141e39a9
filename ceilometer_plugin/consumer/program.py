# SPDX-License-Identifier: Apache-2.0
"""The consumer that runs the program dtrace on the node, whether that is here or behind SSH.

All scripts are one program in one process. Each run counts in a window of the node's clock, and
the next one starts before that closes, counting from where it closes: nothing is counted twice or
left out, and the memory that keys of dead zones take is given back.
"""

import dataclasses
import functools
import logging
import re
import threading
from collections.abc import Mapping, Sequence

from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import frames, kept, source
from nova_smartos.smartos import dtrace, errors, kstat, node

LOG = logging.getLogger(__name__)

NS = 10**9
#: Seconds before the next try, by how many runs in a row came to nothing.
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: A frame that is this much younger than an event has counted it: dtrace gathers what the CPUs
#: counted four times a second.
SETTLING_NS = 2 * NS
LATE = "late hand-overs"
CROWDED = "aggregation drops"
#: The most that a script's aggsize is multiplied with: 8 MiB, twice for each CPU.
MOST_ROOM = 16
#: How long a killed dtrace may take to be gone.
END_SECONDS = 30.0
#: A dtrace that says nothing for so long, or for three frames, is taken for dead.
SILENCE_SECONDS = 60.0

_DROPS = re.compile(
    r"dtrace: (?P<number>\d+) (?P<what>(?:[a-z]+ )*)(?P<noun>drop|failed speculation)s?"
    r"(?: on CPU \d+)?(?P<why> (?:with |\().*)?"
)
#: What a whole frame ends with: then is the time to listen to standard error.
_END = b"E|"
_PROBE_ERROR = re.compile(r"dtrace: error on enabled probe ID ")


class Program(kept.Kept):
    """Scripts (name → text) on one node, as one process of dtrace.

    `name` tells the runs of this node from another's. A frame comes every `period_seconds`; a run
    takes over from the one before every `window_seconds`, and starts `lead_seconds` earlier.
    """

    def __init__(
        self,
        gz: node.Node,
        name: str,
        scripts: Mapping[str, str],
        *,
        period_seconds: int = 10,
        window_seconds: int = 3600,
        lead_seconds: int = 60,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        super().__init__()
        self._node = gz
        self._name = name
        self._scripts = source.Scripts(scripts)
        self._period = period_seconds
        self._window_ns = window_seconds * NS
        self._lead_ns = lead_seconds * NS
        self._pauses = pauses
        #: the run that frames() shows
        self._current: _Run | None = None
        #: the one that was started last, to take over from it
        self._following: _Run | None = None
        #: scripts that the node's compiler does not take
        self._refused: dict[str, str] = {}
        #: how many times the memory for aggregations the scripts ask for, and drops for want of it
        self._room, self._crowded = 1, 0
        self._closing = self._asked = False
        self._thread = threading.Thread(target=self._keep_running, name=f"dtrace {name}")
        self._thread.daemon = True

    def start(self) -> None:
        self._thread.start()

    def roll(self) -> None:
        """Start the next run now; it counts from where the window of this one closes."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._failure = "it was closed"
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    # what a run tells

    def began(self, run: "_Run", hrtime_ns: int, wall_ns: int) -> None:
        """A run counts from now on."""
        with self._changed:
            run.name = f"{self._name}:{hrtime_ns}"
            run.now_ns = hrtime_ns
            if 0 < run.from_ns < hrtime_ns:
                self.keep_drops(LATE)
            if run is self._current:
                self._show(run)
            self._said()
            self._changed.notify_all()

    def framed(self, run: "_Run", frame: consumer.Frame) -> None:
        """A frame is whole."""
        with self._changed:
            run.newest[frame.script] = frame = dataclasses.replace(frame, run=run.name)
            run.now_ns = max(run.now_ns, frame.hrtime_ns)
            if run is self._current:
                self._frames[frame.script] = frame
            self._said()
            self._changed.notify_all()

    def heard(self, text: str) -> None:
        """What dtrace says on standard error."""
        for line in text.splitlines():
            if found := _DROPS.fullmatch(line):
                kind = f"{found['what']}{found['noun']}s{found['why'] or ''}"
                self.keep_drops(kind, int(found["number"]))
            elif _PROBE_ERROR.match(line):
                self.keep_drops("probe errors")
            elif line:
                LOG.warning("%s: %s", self._name, line)

    def over(self, run: "_Run", error: Exception) -> None:
        """A run ended."""
        with self._changed:
            run.error = error
            if not run.is_stopping and not self._is_open():
                self.keep_down()
            self._changed.notify_all()

    def _said(self) -> None:
        if self._is_open():
            self.keep_counting()
        else:
            self.keep_down()

    def _is_open(self) -> bool:
        """Whether a run is in its window, and so counts."""
        runs = [
            run
            for run in (self._current, self._following)
            if run is not None and run.name and run.error is None
        ]
        now_ns = max((run.now_ns for run in runs), default=0)
        return any(run.from_ns <= now_ns < run.until_ns for run in runs)

    # the thread that keeps it running

    def _keep_running(self) -> None:
        fruitless = 0
        while not self._closing:
            try:
                self._run_through()
            except _Ended as ended:
                if self._refuse(ended):
                    continue
                fruitless = 0 if ended.run.newest else fruitless + 1
                self._failed(ended.error)
            except Exception as error:
                # whatever it is, a thread that ended unseen would be a silent stop
                fruitless += 1
                self._failed(error)
            with self._changed:
                pause = self._pauses[min(fruitless, len(self._pauses) - 1)]
                self._changed.wait_for(lambda: self._closing, pause)

    def _run_through(self) -> None:
        """Run, and hand over from run to run, until one ends before its time or we close."""
        supported = self._supported()
        run = self._begin(supported, 0)
        self._become(run)
        following: _Run | None = None
        try:
            while self._wait(run, following):
                if run.error is not None:
                    self._end(run)
                    if following is None:
                        raise _Ended(run, run.error)
                    # what was not counted before this one's window opens is lost
                    self._failed(run.error)
                    self._restarted()
                    run, following = following, None
                    self._become(run)
                elif following is None:
                    following = self._begin(supported, run.until_ns)
                elif following.error is not None:
                    self._failed(following.error)
                    following = None
                    self._rest(run)
                else:
                    self._end(run)
                    run, following = following, None
                    self._become(run)
        finally:
            for each in filter(None, (run, following)):
                each.stop()

    def _wait(self, run: "_Run", following: "_Run | None") -> bool:
        """Wait until there is something to do; False when that is to end."""

        def due() -> bool:
            if self._closing or run.error is not None:
                return True
            if following is None:
                return self._asked or run.now_ns >= run.until_ns - self._lead_ns > 0
            return following.error is not None or (bool(following.name) and run.is_settled())

        with self._changed:
            self._changed.wait_for(due)
            if following is None:
                self._asked = False
            return not self._closing

    def _rest(self, run: "_Run") -> None:
        """A little patience with a run that did not come to be, while another still counts."""
        with self._changed:
            pause = self._pauses[len(self._pauses) // 2]
            self._changed.wait_for(lambda: self._closing or run.error is not None, pause)
            self._asked = True

    def _supported(self) -> source.Scripts:
        """The scripts whose probes this node has."""
        needs = self._scripts.probes()
        distinct = sorted({probe for probes in needs.values() for probe in probes})
        missing = {probe for probe in distinct if not self._node.dtrace.list(probe)}
        unsupported = {
            name: f"there is no probe {min(probes & missing)}"
            for name, probes in needs.items()
            if probes & missing
        }
        with self._changed:
            self._unsupported = unsupported | self._refused
            left = self._scripts.without(self._unsupported)
        if not left.texts:
            raise errors.Unsupported("none of the scripts can run here")
        return left

    def _begin(self, scripts: source.Scripts, from_ns: int) -> "_Run":
        start = from_ns or self._hrtime()
        run = _Run(self, self._roomy(scripts), from_ns, start + self._window_ns)
        with self._changed:
            self._following = run
        run.start(self._node, self._period)
        return run

    def _roomy(self, scripts: source.Scripts) -> source.Scripts:
        """The scripts with twice the memory that the last run had, if that was not enough."""
        crowded = self.drops.get(CROWDED, 0)
        if crowded > self._crowded and self._room < MOST_ROOM:
            self._room *= 2
            LOG.warning("dtrace on %s: %d times the aggsize from now on", self._name, self._room)
        self._crowded = crowded
        return scripts.with_room(self._room)

    def _hrtime(self) -> int:
        """The node's clock, as any kstat tells it."""
        selector = kstat.Selector(module="zones", instance=0)
        found = self._node.kstat.read([selector])
        if not found:
            raise errors.OutputError("the node shows no kstat of its global zone")
        return found[0].snaptime_ns

    def _become(self, run: "_Run") -> None:
        with self._changed:
            self._current = run
            self._asked = False
            if run.name:
                self._show(run)

    def _show(self, run: "_Run") -> None:
        self._run = run.name
        self._frames = dict(run.newest)
        if not self._closing:
            self._failure = None

    def _end(self, run: "_Run") -> None:
        """Stop a run and keep its last frames."""
        run.stop()
        with self._changed:
            self.keep_ended(run.newest.values())

    def _failed(self, error: Exception) -> None:
        known = isinstance(error, errors.SmartOSError)
        LOG.warning("dtrace on %s: %s", self._name, error, exc_info=None if known else error)
        with self._changed:
            if not self._closing:
                self._failure = str(error) or type(error).__name__

    def _restarted(self) -> None:
        with self._changed:
            self._restarts += 1
            # the node may have come up with another platform
            self._refused = {}

    def _refuse(self, ended: "_Ended") -> bool:
        """Leave out the script that the compiler stumbled over, if it was one."""
        if ended.run.name:
            self._restarted()
            return False
        said = ended.error.stderr if isinstance(ended.error, errors.ToolError) else ""
        refused = ended.run.scripts.refused(said)
        for script, why in refused.items():
            LOG.warning("dtrace on %s refuses %s: %s", self._name, script, why)
        self._refused |= refused
        return bool(refused)


class _Ended(Exception):
    """A run ended before its time, and no other has taken over."""

    def __init__(self, run: "_Run", error: Exception) -> None:
        super().__init__(str(error))
        self.run = run
        self.error = error


class _Run:
    """One process of dtrace and the thread that reads it."""

    def __init__(
        self, owner: Program, scripts: source.Scripts, from_ns: int, until_ns: int
    ) -> None:
        self.scripts = scripts
        self.from_ns = from_ns
        self.until_ns = until_ns
        #: "" until it has begun
        self.name = ""
        self.now_ns = 0
        self.newest: dict[str, consumer.Frame] = {}
        self.error: Exception | None = None
        self._owner = owner
        self._stream: dtrace.Running | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, gz: node.Node, period_seconds: int) -> None:
        self._thread = threading.Thread(target=self._read, args=(gz, period_seconds), daemon=True)
        self._thread.start()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """End it; what it has said until then is kept."""
        self._stopping.set()
        if self._stream is not None:
            self._stream.kill()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                LOG.warning("%s: dtrace does not end", self.name)

    def is_settled(self) -> bool:
        """Whether everything in its window stands in its frames."""
        there = [frame.hrtime_ns for frame in self.newest.values()]
        return len(there) == len(self.scripts.texts) and min(there) >= self.until_ns + SETTLING_NS

    def _read(self, gz: node.Node, period_seconds: int) -> None:
        owner = self._owner
        parser = frames.Parser(
            self.scripts.shapes,
            begun=functools.partial(owner.began, self),
            frame=functools.partial(owner.framed, self),
            final=owner.keep_final,
            drops=owner.keep_drops,
        )
        words = (str(period_seconds), str(self.from_ns), str(self.until_ns))
        silence = max(SILENCE_SECONDS, 3.0 * period_seconds)
        try:
            with gz.dtrace.run(self.scripts.text, *words, seconds=silence) as stream:
                self._stream = stream
                try:
                    while not self._stopping.is_set():
                        piece = stream.readline(frames.LINE_BYTES)
                        if not piece:
                            raise errors.ToolError("dtrace ended by itself")
                        parser.feed(piece)
                        if piece.startswith(_END):
                            owner.heard(stream.take_stderr())
                finally:
                    owner.heard(stream.take_stderr())
        except Exception as error:
            # whatever it is, the owner has to know that this thread is gone
            if not self._stopping.is_set():
                parser.end()
            owner.over(self, error)
