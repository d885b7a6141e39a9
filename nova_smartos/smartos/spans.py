# SPDX-License-Identifier: Apache-2.0
"""Spans: what took how long, and what waited for what, in a file that trace viewers open.

One file a process, off unless start() has named one. Each line of it is one event of the trace
event format, written as it happens: a process that is killed leaves all that has ended by then.
What stands in a span are names of ours, ids and numbers, never a payload.
"""

import contextlib
import contextvars
import errno
import fcntl
import functools
import json
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A span says when it was, as logs do; but how long it took must not depend on a clock that is set.
_EPOCH_NS = time.time_ns() - time.monotonic_ns()
_NOTHING = contextlib.nullcontext()
_labels: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("labels")


class _Trace:
    """The one of this process."""

    file: "_File | None" = None


def start(path: str | None) -> None:
    """Append spans to a file from now on, or to none. One that cannot be written is no error."""
    if _Trace.file is not None and _Trace.file.path == path:
        return
    stop()
    if path is None:
        return
    try:
        _Trace.file = _File(path)
    except OSError as error:
        LOG.warning("Nothing is traced: %s: %s", path, error.strerror)


def stop() -> None:
    """Write no spans any more."""
    file, _Trace.file = _Trace.file, None
    if file is not None:
        file.close()


def on() -> bool:
    """Whether spans are written."""
    return _Trace.file is not None


def span(name: str, kind: str) -> contextlib.AbstractContextManager[None]:
    """What its body does, as one span; while tracing is off always the same object."""
    return _NOTHING if _Trace.file is None else _Span(name, kind)


def record(name: str, kind: str, begun_ns: int, **args: str | int | None) -> None:
    """Write a span that began then, by the monotonic clock, and ends now."""
    file = _Trace.file
    if file is None:
        return
    now_us = (time.monotonic_ns() + _EPOCH_NS) // 1000
    begun_us = (begun_ns + _EPOCH_NS) // 1000
    told = {key: value for key, value in args.items() if value is not None}
    written = file.write(
        {
            "name": name,
            "cat": kind,
            "ph": "X",
            "ts": begun_us,
            # from two rounded times: no span outlasts the one around it
            "dur": now_us - begun_us,
            "args": {**_labels.get({}), **told},
        }
    )
    if not written and _Trace.file is file:
        _Trace.file = None


@contextlib.contextmanager
def about(**labels: str | None) -> Iterator[None]:
    """Say of every span in the body whose it is; carried() takes that to another thread."""
    known = {key: value for key, value in labels.items() if value is not None}
    token = _labels.set({**_labels.get({}), **known})
    try:
        yield
    finally:
        _labels.reset(token)


def carried(work: Callable[[], T]) -> Callable[[], T]:
    """The same work for another thread, whose spans are about what the caller's are."""
    return functools.partial(contextvars.copy_context().run, work)


def step(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate an operation: each call is a span that has its name, such as build.spawn."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @functools.wraps(function)
    def stepped(*args: P.args, **kwargs: P.kwargs) -> T:
        with span(name, "operation"):
            return function(*args, **kwargs)

    return stepped


class _Span:
    """A span that is under way."""

    __slots__ = ("_begun_ns", "_kind", "_name")

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._kind = kind

    def __enter__(self) -> None:
        self._begun_ns = time.monotonic_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # its text may quote what a tenant wrote
        record(self._name, self._kind, self._begun_ns, error=kind.__name__ if kind else None)


class _File:
    """Where the events go; processes may share it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pid = 0
        self._thread = threading.local()
        # NONBLOCK: nobody may be at the other end of a pipe
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(path, flags, 0o640)
        try:
            # held until the first line is there, which one process writes
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_size == 0:
                self._write(b"[\n")
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, event: dict[str, Any]) -> bool:
        """Write one event of this thread; False when there is no more writing to this file."""
        pid = os.getpid()
        here = {"pid": pid, "tid": threading.get_native_id()}
        with self._lock:
            if self._fd < 0:
                return False
            try:
                if self._pid != pid:
                    self._pid = pid
                    self._write(_named("process_name", pathlib.Path(sys.argv[0]).name, here))
                if getattr(self._thread, "pid", None) != pid:
                    self._thread.pid = pid
                    name = threading.current_thread().name
                    self._write(_named("thread_name", name, here))
                self._write(_line({**event, **here}))
            except OSError as error:
                LOG.warning("Tracing has ended: %s: %s", self.path, error.strerror)
                self._close()
                return False
            return True

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        # once: the number may soon be another file's
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: bytes) -> None:
        written = os.write(self._fd, line)
        if written < len(line):
            # a disk that is full takes a part, and with that no viewer would open the rest
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b",\n"


def _named(what: str, name: str, here: Mapping[str, int]) -> bytes:
    return _line({"name": what, "ph": "M", **here, "args": {"name": name}})
