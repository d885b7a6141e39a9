# SPDX-License-Identifier: Apache-2.0
"""Consoles through Nova's proxies, and what they showed before.

Nova's proxies are the only way in. They connect to a port of this host and must name a path that
holds the instance, a time and a code that only this process can make; so a port that is used
again, by us or by others, opens nothing that the token was not given for. Whatever the path leads
to is looked up when it is used. To the node goes a command, so that nothing listens there.
"""

import contextlib
import functools
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from nova import exception
from nova.console import type as console_type
from oslo_log import log

from nova_smartos.operations import recorder
from nova_smartos.smartos import console, errors, node, transport, vms

LOG = log.getLogger(__name__)

SERIAL, DISPLAY = "serial", "display"
#: Sessions at once. Each is a command on a connection that carries nothing else.
MOST_SESSIONS = 24
#: Consoles of kvm VMs that are recorded at once, each by such a command, too.
MOST_RECORDED = 8

_PATH = re.compile(r"/(serial|display)/([0-9a-f-]{36})/([0-9]{1,12})/([0-9a-f]{64})")
# A path outlives its token by this: Nova, not we, says when a token is over.
_SLACK_SECONDS = 60
# How long who was connected before may take to leave.
_TAKE_OVER_SECONDS = 5.0
_FRAMEBUFFER = re.compile(r"(?:^|\s|,)fbuf,")

Find = Callable[[str], vms.Vm]


def has_display(vm: vms.Vm) -> bool:
    """Whether a VM has a screen: bhyve has none with vnc_port=-1, unless its options add one."""
    if vm.brand == "kvm":
        return not vm.document.get("qemu_opts") and vm.document.get("vga") != "none"
    added = _FRAMEBUFFER.search(str(vm.document.get("bhyve_extra_opts") or ""))
    return vm.brand == "bhyve" and (vm.vnc_port != -1 or added is not None)


def ports(configured: str) -> range:
    """The ports of Nova's option FIRST:END."""
    first, end = (int(number) for number in configured.split(":"))
    if not 0 < first < end <= 65536:
        raise exception.InvalidConfiguration(
            f"[serial_console] port_range: {configured} is no range of ports"
        )
    return range(first, end)


class Consoles:
    """The consoles of a node's VMs."""

    def __init__(
        self,
        gz: node.Node,
        connect: Callable[[], node.Node],
        find: Find,
        *,
        ports: Iterable[int],
        token_seconds: float,
    ) -> None:
        """Look at logs through `gz`; `connect` makes a node of its own for what takes long.

        `find` says which VM an instance's uuid stands for now, or raises NotFound.
        """
        self._gz = gz
        self._connect = connect
        self._find = find
        self._ports = ports
        self._token_seconds = token_seconds
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._listeners: dict[str, transport.Listener] = {}
        self._node: node.Node | None = None
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._recorders: dict[str, recorder.Recorder] = {}
        self._closed = False

    # what Nova asks

    def output(self, uuid: str) -> bytes:
        """The last that the console has shown, from before a reboot as well."""
        vm = self._find(uuid)
        if vm.brand == "kvm":
            with self._lock:
                found = self._recorders.get(vm.uuid)
            return found.shown() if found else b""
        try:
            return self._gz.console.log(_zonepath(vm))
        except errors.NotFound as error:
            if error.code != "NoLog":
                raise
            # it has never been up
            return b""

    def serial(self, uuid: str, address: str) -> console_type.ConsoleSerial:
        """Where nova-serialproxy reaches the console."""
        self._running(uuid)
        port, path = self._way_in(SERIAL, uuid, address)
        return console_type.ConsoleSerial(address, port, path)

    def display(self, uuid: str, address: str) -> console_type.ConsoleVNC:
        """Where nova-novncproxy reaches the screen."""
        vm = self._running(uuid)
        if not has_display(vm):
            raise exception.ConsoleTypeUnavailable(console_type="novnc")
        port, path = self._way_in(DISPLAY, uuid, address)
        return console_type.ConsoleVNC(address, port, path)

    # what becomes of it

    def record(self, vm: vms.Vm | None) -> None:
        """Follow the console of a VM of ours, if nobody else keeps what it shows."""
        if vm is None or vm.brand != "kvm" or not self._is_up(vm.uuid):
            return
        with self._lock:
            known = self._recorders.get(vm.uuid)
            if self._closed or (known and known.following):
                return
            active = sum(each.following for each in self._recorders.values())
            if active >= MOST_RECORDED:
                LOG.warning("The console of %s is not recorded: %d are already", vm.uuid, active)
                return
            before = known.shown() if known else b""
            opened = functools.partial(self._line, _zonepath(vm))
            is_up = functools.partial(self._is_up, vm.uuid)
            self._recorders[vm.uuid] = recorder.Recorder(vm.uuid, opened, is_up, before)

    def _is_up(self, uuid: str) -> bool:
        try:
            return self._find(uuid).zone_state == "running"
        except errors.SmartOSError:
            return False

    def gone(self, uuid: str) -> None:
        """A VM was deleted: nobody stays connected."""
        with self._lock:
            ended = [self._sessions[key] for key in list(self._sessions) if key[1] == uuid]
            known = self._recorders.pop(uuid, None)
        for session in ended:
            session.end()
        if known is not None:
            known.stop(wait=False)

    def close(self) -> None:
        """End all sessions, and listen no more."""
        with self._lock:
            self._closed = True
            listeners, self._listeners = list(self._listeners.values()), {}
            gz, self._node = self._node, None
            recorders, self._recorders = list(self._recorders.values()), {}
        for listener in listeners:
            listener.close()
        for known in recorders:
            known.stop()
        if gz is not None:
            gz.close()

    # the way in

    def _running(self, uuid: str) -> vms.Vm:
        vm = self._find(uuid)
        if vm.state not in (vms.State.RUNNING, vms.State.STOPPING):
            raise exception.InstanceNotReady(instance_id=uuid)
        return vm

    def _way_in(self, kind: str, uuid: str, address: str) -> tuple[int, str]:
        expires = str(int(time.time() + self._token_seconds + _SLACK_SECONDS))
        return self._listener(address).port, (
            f"/{kind}/{uuid}/{expires}/{self._code(kind, uuid, expires)}"
        )

    def _listener(self, address: str) -> transport.Listener:
        with self._lock:
            if self._closed:
                raise exception.HypervisorUnavailable
            if address not in self._listeners:
                try:
                    listener = transport.Listener(address, self._ports, self._admit)
                except transport.NoFreePort:
                    raise exception.SocketPortRangeExhaustedException(host=address) from None
                self._listeners[address] = listener
                LOG.info("Consoles are at %s, port %d", address, listener.port)
            return self._listeners[address]

    def _code(self, kind: str, uuid: str, expires: str) -> str:
        named = f"{kind} {uuid} {expires}".encode()
        return hmac.new(self._key, named, hashlib.sha256).hexdigest()

    @contextlib.contextmanager
    def _admit(self, path: str, end: Callable[[], None]) -> Iterator[transport.Process]:
        found = _PATH.fullmatch(path)
        if found is None:
            raise transport.Refused("404 Not Found")
        kind, uuid, expires, code = found.groups()
        if not hmac.compare_digest(code, self._code(kind, uuid, expires)):
            raise transport.Refused("403 Forbidden")
        if int(expires) < time.time():
            raise transport.Refused("410 Gone")
        try:
            vm = self._running(uuid)
        except (errors.NotFound, exception.InstanceNotReady):
            raise transport.Refused("409 Conflict") from None
        with self._only((kind, uuid), end), self._opened(kind, vm) as process:
            LOG.info("A console session (%s) of instance %s begins", kind, uuid)
            try:
                yield process
            finally:
                LOG.info("A console session (%s) of instance %s has ended", kind, uuid)

    @contextlib.contextmanager
    def _only(self, key: tuple[str, str], end: Callable[[], None]) -> Iterator[None]:
        """Be the one session there is: consoles take one client, and the last who came stays."""
        session = _Session(end)
        with self._lock:
            before = self._sessions.get(key)
            if before is None and len(self._sessions) >= MOST_SESSIONS:
                raise transport.Refused("503 Service Unavailable")
            self._sessions[key] = session
        try:
            if before is not None:
                before.end()
                before.over.wait(_TAKE_OVER_SECONDS)
            yield
        finally:
            session.over.set()
            with self._lock:
                if self._sessions.get(key) is session:
                    del self._sessions[key]

    def _opened(
        self, kind: str, vm: vms.Vm
    ) -> contextlib.AbstractContextManager[transport.Process]:
        if kind == DISPLAY:
            return self._tool().display(_zonepath(vm))
        if vm.brand != "kvm":
            return self._tool().zone(vm.uuid)
        with self._lock:
            known = self._recorders.get(vm.uuid)
        if known is not None and known.following:
            return known.joined()
        return self._tool().line(_zonepath(vm))

    def _line(self, zonepath: str) -> contextlib.AbstractContextManager[transport.Process]:
        return self._tool().line(zonepath)

    def _tool(self) -> console.Console:
        with self._lock:
            if self._closed:
                raise transport.Refused("503 Service Unavailable")
            # one of its own: sessions must not take the connections that Nova's work needs
            self._node = self._node or self._connect()
            return self._node.console


class _Session:
    """One who is connected."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end = end
        self.over = threading.Event()


def _zonepath(vm: vms.Vm) -> str:
    return vm.zonepath or f"/zones/{vm.uuid}"
