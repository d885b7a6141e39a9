# SPDX-License-Identifier: Apache-2.0
"""The VMs of the node as last heard of: one command serves every instance.

`vmadm events -jr` tells all VMs once and then each change. It has no heartbeat, and may break: what
is asked here is answered from memory only while that is current.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures

from oslo_log import log

from nova_smartos.smartos import errors, node, spans, vmadm, vms
from nova_smartos.translate import identity, state

LOG = log.getLogger(__name__)

# a class below has a method named vms
Vm = vms.Vm
Event = vms.Event

Changed = Callable[[Vm | None, Vm | None], None]

#: A stream that is quiet for longer is not believed before one look at the node.
VERIFY_SECONDS = 300.0
#: A VM that went down is told of after this: in a reboot it may show as stopped for a moment.
SETTLE_SECONDS = 0.3
#: Between two attempts to follow the node.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0

# What a look found, or that it failed, serves those who ask within this time of it while the
# stream is down: a look at 1,000 instances in turn must not take 1,000 commands.
_RECENT_SECONDS = 2.0
# After a change of ours, how long to wait for the stream to tell of it.
_ECHO_SECONDS = 0.5
# How long what it told then is as good as asking.
_CONFIRMED_SECONDS = 2.0
# While something is awaited, how often to ask the node if the stream says nothing.
_POLL_SECONDS = 5.0
_POLL_BLIND_SECONDS = 1.0
# Lines in a row that are not understood, after which the stream begins anew.
_MOST_ODD_LINES = 100
_JOIN_SECONDS = 2.0


@dataclasses.dataclass
class _News:
    """A change that `changed` has not heard of yet; several of one VM become one."""

    uuid: str
    old: Vm | None
    new: Vm | None
    due: float


class Watch:
    """All VMs of the node, and word of those that change by themselves."""

    def __init__(
        self,
        node_: node.Node,
        changed: Changed,
        *,
        ours: Callable[[Vm], bool] = lambda vm: identity.of(vm) is not None,
        verify_seconds: float = VERIFY_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Tell `changed` of the VMs that are `ours`, from a thread of its own."""
        self._node = node_
        self._changed = changed
        self._ours = ours
        self._verify_seconds = verify_seconds
        self._settle_seconds = settle_seconds
        self._lock = threading.Condition()
        self._vms: dict[str, Vm] = {}
        self._filled = False
        self._current = False
        # when all VMs were last compared with the node's, and when that last failed
        self._known = self._failed = float("-inf")
        self._failure: errors.SmartOSError | None = None
        self._look: futures.Future[None] | None = None
        # VMs that the stream told of while a command's answer, now older, was under way
        self._heard: set[str] = set()
        self._asking = 0
        self._paused: set[str] = set()
        self._changing: dict[str, int] = {}
        # VMs that the stream showed as our last command was to make them, and when
        self._confirmed: dict[str, float] = {}
        self._news: dict[str, _News] = {}
        self._events: vmadm.Events | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def current(self) -> bool:
        """Whether the stream is up and has told of all VMs."""
        return self._current

    def start(self) -> None:
        """Follow the node from now on."""
        for name, work in (("smartos-watch", self._follow), ("smartos-news", self._tell)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop following; a thread that waits for a connection ends with that."""
        with self._lock:
            self._stopping.set()
            events = self._events
            self._lock.notify_all()
        if events is not None:
            events.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    # What is known

    def vms(self) -> Mapping[str, Vm]:
        """All VMs of the node, Nova's or not, by uuid; raises when the node cannot be asked."""
        self._ensure()
        with self._lock:
            return dict(self._vms)

    def get(self, uuid: str, fresh: bool = False, *, echo: bool = False) -> Vm:
        """One VM; NotFound only when the node itself has just said so.

        With `echo` a power state is fresh that the stream told of our own change, a moment ago:
        Nova looks after each. Of the VM's other properties that says nothing.
        """
        if not fresh or (echo and self._is_confirmed(uuid)):
            self._ensure()
            # one step, for which nobody need wait for whoever holds the lock
            vm = self._vms.get(uuid)
            if vm is not None:
                return vm
        return self._ask(uuid)

    def heard(self, uuid: str) -> Vm | None:
        """What was last heard of a VM, if anything; the node is not asked."""
        return self._vms.get(uuid)

    def wait(self, uuid: str, wanted: Callable[[Vm | None], bool], seconds: float) -> Vm | None:
        """The VM once it is as wanted, or as it is when the time is over.

        The node is asked in between, in case the stream tells nothing.
        """
        with self._lock:
            if wanted(self._vms.get(uuid)):
                return self._vms.get(uuid)
        with spans.span("wait for the node's events", "wait"):
            return self._await(uuid, wanted, time.monotonic() + seconds)

    def _await(self, uuid: str, wanted: Callable[[Vm | None], bool], end: float) -> Vm | None:
        while True:
            with self._lock:
                pause = _POLL_SECONDS if self._current else _POLL_BLIND_SECONDS
                left = max(0.0, min(pause, end - time.monotonic()))
                if self._lock.wait_for(lambda: wanted(self._vms.get(uuid)), left):
                    return self._vms.get(uuid)
            vm = self._find(uuid)
            if wanted(vm) or time.monotonic() >= end:
                return vm

    # What our own changes do

    @contextlib.contextmanager
    def changing(
        self, uuid: str, until: Callable[[Vm | None], bool] | None = None
    ) -> Iterator[None]:
        """While Nova itself changes the power state of a VM: nobody is told what Nova knows.

        Ends when the stream has told of the state that is expected, or was given a moment to. If
        the change fails, whatever it has done is news.
        """
        with self._lock:
            untold = self._news.pop(uuid, None)
            before = untold.old if untold else self._vms.get(uuid)
            self._confirmed.pop(uuid, None)
            self._changing[uuid] = self._changing.get(uuid, 0) + 1
        failed = True
        try:
            yield
            failed = False
        finally:
            # what is entered first ends last: a span is not written with the lock held
            with contextlib.ExitStack() as waiting, self._lock:
                if until is not None and not failed and self._current:
                    if not until(self._vms.get(uuid)):
                        waiting.enter_context(spans.span("wait for the node's events", "wait"))
                    echoed = self._lock.wait_for(
                        lambda: until(self._vms.get(uuid)) or not self._current, _ECHO_SECONDS
                    )
                    self._known = self._known if echoed else float("-inf")
                    if echoed and self._current and uuid in self._vms:
                        self._confirmed[uuid] = time.monotonic()
                if not self._current:
                    self._known = float("-inf")
                self._changing[uuid] -= 1
                if not self._changing[uuid]:
                    del self._changing[uuid]
                if failed:
                    self._report(uuid, before, self._vms.get(uuid))

    def note_paused(self, uuid: str, paused: bool) -> None:
        """Remember whether a VM stands still, which vmadm does not tell, until it goes down."""
        with self._lock:
            (self._paused.add if paused else self._paused.discard)(uuid)

    def paused(self, uuid: str) -> bool:
        """Whether a VM was last known to stand still."""
        return uuid in self._paused

    # Asking the node

    def _is_confirmed(self, uuid: str) -> bool:
        with self._lock:
            age = time.monotonic() - self._confirmed.get(uuid, float("-inf"))
            if age >= _CONFIRMED_SECONDS:
                self._confirmed.pop(uuid, None)
            return self._current and age < _CONFIRMED_SECONDS

    def _ensure(self) -> None:
        """Make sure that what is known is as current as it can be; raises when it is not."""
        if self._is_known():
            return
        with self._lock:
            if self._is_known():
                return
            now = time.monotonic()
            if self._failure is not None and now - self._failed < _RECENT_SECONDS:
                raise self._failure
            look, mine = self._look, self._look is None
            if look is None:
                look = self._look = futures.Future()
        if mine:
            self._look_at_all(look)
        look.result()

    def _is_known(self) -> bool:
        limit = self._verify_seconds if self._current else _RECENT_SECONDS
        return time.monotonic() - self._known < limit

    def _look_at_all(self, look: "futures.Future[None]") -> None:
        try:
            with self._question():
                began = time.monotonic()
                with self._lock:
                    known = dict(self._vms)
                found = {vm.uuid: vm for vm in self._node.vmadm.lookup(known=known)}
                with self._lock:
                    self._adopt(found, began)
        except BaseException as error:
            with self._lock:
                self._look = None
                if isinstance(error, errors.SmartOSError):
                    self._failure, self._failed = error, time.monotonic()
            look.set_exception(error)
        else:
            with self._lock:
                self._look = None
            look.set_result(None)

    def _ask(self, uuid: str) -> Vm:
        with self._question():
            try:
                vm = self._node.vmadm.get(uuid)
            except errors.NotFound:
                with self._lock:
                    if uuid not in self._heard:
                        self._apply(uuid, None)
                raise
            with self._lock:
                if uuid not in self._heard:
                    self._apply(uuid, vm)
            return vm

    def _find(self, uuid: str) -> Vm | None:
        try:
            return self._ask(uuid)
        except errors.NotFound:
            return None

    @contextlib.contextmanager
    def _question(self) -> Iterator[None]:
        with self._lock:
            self._asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    self._heard.clear()

    # Following the node

    def _follow(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow_once()
                problem = "the stream ended"
            except errors.SmartOSError as error:
                problem = str(error)
            except Exception as error:
                # a mistake of ours must not leave Nova blind for ever
                LOG.exception("following the node's events")
                problem = repr(error)
            with self._lock:
                self._current = False
                self._known = float("-inf")
                self._lock.notify_all()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            LOG.warning("vmadm events: %s; following again in %.1f s", problem, pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _follow_once(self) -> None:
        with self._node.vmadm.events() as events:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._events = events
            try:
                for event in self._understood(events):
                    self._take(event)
            finally:
                with self._lock:
                    self._events = None

    def _understood(self, events: vmadm.Events) -> Iterator[Event]:
        """The events, but for those that are not understood: after one of these we look again."""
        odd = 0
        while odd < _MOST_ODD_LINES:
            try:
                event = next(events, None)
            except errors.OutputError as error:
                odd += 1
                LOG.warning("%s", error)
                with self._lock:
                    self._known = float("-inf")
                continue
            if event is None:
                return
            odd = 0
            yield event

    def _take(self, event: Event) -> None:
        with self._lock:
            if event.type == "ready":
                self._adopt({vm.uuid: vm for vm in event.vms.values()}, time.monotonic())
                self._current = True
            elif event.type == "delete":
                self._hear(event.uuid, None)
            elif event.type in ("create", "modify") and event.vm is not None:
                self._hear(event.uuid, event.vm)
            else:
                LOG.debug("an event of another kind: %s", event.type)
            self._lock.notify_all()

    # All of these hold the lock

    def _hear(self, uuid: str, vm: Vm | None) -> None:
        if self._asking:
            self._heard.add(uuid)
        self._apply(uuid, vm)

    def _adopt(self, found: Mapping[str, Vm], asked: float) -> None:
        """Take the answer about all VMs, but for those of which we have heard since."""
        for uuid in (found.keys() | self._vms.keys()) - self._heard:
            self._apply(uuid, found.get(uuid), quiet=not self._filled)
        self._filled = True
        self._known = asked
        self._failure = None

    def _apply(self, uuid: str, new: Vm | None, *, quiet: bool = False) -> None:
        old = self._vms.get(uuid)
        if new is None:
            self._vms.pop(uuid, None)
        else:
            self._vms[uuid] = new
        if new is None or not state.is_running(new) or (old and old.zoneid != new.zoneid):
            self._paused.discard(uuid)
        if old is not new and old != new:
            if not quiet:
                self._report(uuid, old, new)
            self._lock.notify_all()

    def _report(self, uuid: str, old: Vm | None, new: Vm | None) -> None:
        known = new or old
        if uuid in self._changing or known is None or old == new or not self._ours(known):
            return
        earlier = self._news.pop(uuid, None)
        down = new is not None and state.is_off(new)
        due = time.monotonic() + (self._settle_seconds if down else 0.0)
        self._news[uuid] = _News(uuid, earlier.old if earlier else old, new, due)
        self._lock.notify_all()

    # Telling

    def _tell(self) -> None:
        while (news := self._wait_for_news()) is not None:
            try:
                self._changed(news.old, news.new)
            except Exception:
                # one VM that cannot be told of must not hide the others
                LOG.exception("telling of a change of VM %s", news.uuid)

    def _wait_for_news(self) -> _News | None:
        with self._lock:
            while not self._stopping.is_set():
                now = time.monotonic()
                due = [uuid for uuid, news in self._news.items() if news.due <= now]
                if due:
                    return self._news.pop(due[0])
                nearest = min((news.due for news in self._news.values()), default=None)
                self._lock.wait(None if nearest is None else nearest - now)
        return None
