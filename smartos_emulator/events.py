# SPDX-License-Identifier: Apache-2.0
"""What vminfod knows: the VMs as last seen, what changed in each, and who wants to hear of it."""

import datetime
import json
import queue
import threading
import typing
import uuid as uuid_module

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

# The arrays whose objects keep their identity from one look to the next, and by which key.
IDENTITIES = {"disks": "path", "nics": "mac"}

_IDLE_SECONDS = 0.5

Vm = dict[str, typing.Any]
Change = dict[str, typing.Any]
Path = list[str | None]


def changes(old: Vm, new: Vm) -> list[Change]:
    """The differences between two VM objects, as a `modify` event lists them."""
    return _object_changes(old, new, [], IDENTITIES)


def _object_changes(old: Vm, new: Vm, prefix: Path, identities: dict[str, str]) -> list[Change]:
    found: list[Change] = []
    for key, value in old.items():
        path: Path = [*prefix, key]
        if key not in new:
            found.append(_change(path, "removed", oldValue=value))
        elif not _alike(value, new[key]):
            found += _value_changes(value, new[key], path, identities)
    added = [key for key in new if key not in old]
    return found + [_change([*prefix, key], "added", newValue=new[key]) for key in added]


def _value_changes(
    old: typing.Any, new: typing.Any, path: Path, identities: dict[str, str]
) -> list[Change]:
    if isinstance(old, list) and isinstance(new, list):
        return _array_changes(old, new, path, identities)
    if isinstance(old, dict) and isinstance(new, dict):
        return _object_changes(old, new, path, {})
    return [_change(path, "changed", oldValue=old, newValue=new)]


def _array_changes(old: list, new: list, prefix: Path, identities: dict[str, str]) -> list[Change]:
    """Arrays have no order here: an element is there or not, or is known by its identity."""
    path: Path = [*prefix, None]
    old_texts, new_texts = [_text(one) for one in old], [_text(one) for one in new]
    removed = [one for one, text in zip(old, old_texts, strict=True) if text not in new_texts]
    added = [one for one, text in zip(new, new_texts, strict=True) if text not in old_texts]
    identity = identities.get(str(prefix[0])) if len(prefix) == 1 else None
    found: list[Change] = []
    for one in list(removed) if identity else ():
        twin = next((other for other in added if other.get(identity) == one.get(identity)), None)
        if twin is not None:
            removed.remove(one)
            added.remove(twin)
            within = _object_changes(one, twin, path, {})
            found += [{**change, "ident": one.get(identity)} for change in within]
    gone = [_change(path, "removed", oldValue=one) for one in removed]
    return gone + found + [_change(path, "added", newValue=one) for one in added]


def _change(path: Path, action: str, **values: typing.Any) -> Change:
    return {"prettyPath": _dotted(path), "path": path, "action": action, **values}


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        name = "*" if part is None else part
        if any(mark in name for mark in ".[]"):
            text += "[" + name.replace("[", "\\[").replace("]", "\\]") + "]"
        else:
            text += f".{name}" if text else name
    return text


def _text(value: typing.Any) -> str:
    return json.dumps(value)


def _alike(old: typing.Any, new: typing.Any) -> bool:
    return type(old) is type(new) and bool(old == new)


def date_text(moment: datetime.datetime) -> str:
    """A moment as JavaScript writes it: UTC, milliseconds, Z."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Stream:
    """One listener's events, the first of them `ready`."""

    def __init__(self, hub: "Hub", ready: dict[str, typing.Any]) -> None:
        self._hub = hub
        self._events: queue.SimpleQueue[dict[str, typing.Any]] = queue.SimpleQueue()
        self.ready = ready

    def put(self, event: dict[str, typing.Any]) -> None:
        self._events.put(event)

    def get(self, seconds: float) -> dict[str, typing.Any] | None:
        """The next event, or None when `seconds` of real time passed without one."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._hub.forget(self)


class Hub:
    """The VMs as vminfod sees them. A change is a `touch`; whoever reads sees it."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._vms: dict[str, Vm] = {}
        self._texts: dict[str, str] = {}
        self._streams: list[Stream] = []
        self._touched: dict[str, None] = {}
        self._touched_lock = threading.Lock()
        self._work = threading.Semaphore(0)
        self.condition = threading.Condition(threading.RLock())
        self.view: typing.Callable[[str], Vm | None] = lambda uuid: None
        threading.Thread(target=self._follow, name="vminfod", daemon=True).start()

    def touch(self, uuid: str) -> None:
        """Say that a VM may have changed: it is looked at again before anyone reads it."""
        with self._touched_lock:
            self._touched[uuid] = None
        self._work.release()

    def refresh(self, uuid: str) -> None:
        """Look at a VM now and tell the listeners what changed."""
        with self.condition:
            self._look(uuid)

    def settle(self) -> None:
        """Look at every VM that was touched."""
        with self.condition:
            while touched := self._take():
                for uuid in touched:
                    self._look(uuid)

    def all(self) -> list[Vm]:
        """Every VM. The objects are shared: read them only."""
        self.settle()
        with self.condition:
            return list(self._vms.values())

    def get(self, uuid: str) -> Vm | None:
        self.settle()
        with self.condition:
            return self._vms.get(uuid)

    def text(self, uuid: str, write: typing.Callable[[Vm], str]) -> str:
        """A VM as `write` writes it, kept until the VM changes."""
        with self.condition:
            if uuid not in self._texts:
                self._texts[uuid] = write(self._vms[uuid])
            return self._texts[uuid]

    def subscribe(self) -> Stream:
        """A stream that begins with the VMs as they are now."""
        self.settle()
        with self.condition:
            ready = {
                "type": "ready",
                "date": date_text(self._node.clock.now()),
                "uuid": str(uuid_module.uuid4()),
                "vms": dict(self._vms),
            }
            stream = Stream(self, ready)
            self._streams.append(stream)
            return stream

    def forget(self, stream: Stream) -> None:
        with self.condition:
            if stream in self._streams:
                self._streams.remove(stream)

    def wait(self, wanted: typing.Callable[[], bool], seconds: float) -> bool:
        """Wait at most `seconds` of node time for something that a change brings about."""
        self.settle()
        with self.condition:
            return self._node.clock.wait(self.condition, wanted, seconds)

    def _take(self) -> list[str]:
        with self._touched_lock:
            touched = list(self._touched)
            self._touched.clear()
        return touched

    def _follow(self) -> None:
        while not self._node.clock.stopping.is_set():
            if self._work.acquire(timeout=_IDLE_SECONDS):
                self.settle()

    def _look(self, uuid: str) -> None:
        old, new = self._vms.get(uuid), self.view(uuid)
        if new is None:
            if old is not None:
                del self._vms[uuid]
                self._tell("delete", uuid)
        elif old is None:
            self._vms[uuid] = new
            self._tell("create", uuid, vm=new)
        elif found := changes(old, new):
            self._vms[uuid] = new
            self._tell("modify", uuid, vm=new, changes=found)

    def _tell(self, kind: str, uuid: str, **facts: typing.Any) -> None:
        self._texts.pop(uuid, None)
        date = date_text(self._node.clock.now())
        event = {"type": kind, "date": date, "zonename": uuid, "uuid": uuid, **facts}
        for stream in self._streams:
            stream.put(event)
        self.condition.notify_all()
