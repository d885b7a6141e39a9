# SPDX-License-Identifier: Apache-2.0
"""The consumer that calls libdtrace in this process, and python-dtrace's classes on top of it.

The library is loaded when it is first used, so that this module imports where there is none. Its
structures are those of a 64 bit system; their layout is checked before anything is called.

Whoever knows python-dtrace's dtrace_ctypes finds the same names and callbacks here: DTraceConsumer,
DTraceConsumerThread, simple_walk and the rest. Callbacks get the raw structures; aggregation()
decodes them, whatever the sizes of keys are.
"""

import contextlib
import ctypes
import ctypes.util
import dataclasses
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import frames, kept, source

LOG = logging.getLogger(__name__)

#: The version of the interface that we speak.
VERSION = 3
PROBESPEC_NAME = 3
ABORT, OKAY = -1, 0
WORK_ERROR, WORK_DONE = -1, 1
#: How often the library is called. The kernel ends a consumer that says nothing for 30 seconds.
PULSE_SECONDS = 0.25
#: What a script without options of its own gets, for each CPU and twice.
OPTIONS = {"bufsize": "128k", "aggsize": "512k", "strsize": "64"}
#: Nobody reads the frames that a program prints when its aggregations are read here.
NO_FRAMES_SECONDS = 10**9
PAUSE_SECONDS = 30.0

_DROPS = (
    *("drops", "aggregation drops", "dynamic variable drops"),
    "dynamic variable drops with non-empty rinsing list",
    "dynamic variable drops with non-empty dirty list",
    "speculative drops",
    "failed speculations (available buffer(s) still busy)",
    "failed speculations (no speculative buffer available)",
    *("stack string overflows", "errors in ERROR probes"),
)
_COUNT, _MIN, _MAX, _AVG, _SUM, _STDDEV, _QUANTIZE, _LQUANTIZE, _LLQUANTIZE = range(0x701, 0x70A)
_NUMBERS = {1: "=b", 2: "=h", 4: "=i", 8: "=q"}
#: The lower bound of what lies below all bounds.
LOWEST = -(2**63)


class Unavailable(Exception):
    """There is no libdtrace here, or none that we can use."""


class DTraceError(Exception):
    """What libdtrace says that went wrong."""


class Undecodable(Exception):
    """A record whose sizes do not fit."""


class RecordDescription(ctypes.Structure):
    """dtrace_recdesc_t: where a datum lies."""

    _fields_ = (
        ("dtrd_action", ctypes.c_uint16),
        ("dtrd_size", ctypes.c_uint32),
        ("dtrd_offset", ctypes.c_uint32),
        ("dtrd_alignment", ctypes.c_uint16),
        ("dtrd_format", ctypes.c_uint16),
        ("dtrd_arg", ctypes.c_uint64),
        ("dtrd_uarg", ctypes.c_uint64),
    )


class AggregationDescription(ctypes.Structure):
    """dtrace_aggdesc_t; its records follow at dtagd_rec."""

    _fields_ = (
        ("dtagd_name", ctypes.c_char_p),
        ("dtagd_varid", ctypes.c_int64),
        ("dtagd_flags", ctypes.c_int),
        ("dtagd_id", ctypes.c_uint32),
        ("dtagd_epid", ctypes.c_uint32),
        ("dtagd_size", ctypes.c_uint32),
        ("dtagd_nrecs", ctypes.c_int),
        ("dtagd_pad", ctypes.c_uint32),
        ("dtagd_rec", RecordDescription * 1),
    )


class AggregationData(ctypes.Structure):
    """dtrace_aggdata_t, as far as every version has it."""

    _fields_ = (
        ("dtada_handle", ctypes.c_void_p),
        ("dtada_desc", ctypes.POINTER(AggregationDescription)),
        ("dtada_edesc", ctypes.c_void_p),
        ("dtada_pdesc", ctypes.c_void_p),
        ("dtada_data", ctypes.c_void_p),
        ("dtada_normal", ctypes.c_uint64),
        ("dtada_size", ctypes.c_size_t),
        ("dtada_delta", ctypes.c_void_p),
        ("dtada_percpu", ctypes.c_void_p),
        ("dtada_percpu_delta", ctypes.c_void_p),
    )


class ProbeData(ctypes.Structure):
    """dtrace_probedata_t."""

    _fields_ = (
        ("dtpda_handle", ctypes.c_void_p),
        ("dtpda_edesc", ctypes.c_void_p),
        ("dtpda_pdesc", ctypes.c_void_p),
        ("dtpda_cpu", ctypes.c_int),
        ("dtpda_data", ctypes.c_void_p),
        ("dtpda_flow", ctypes.c_int),
        ("dtpda_prefix", ctypes.c_char_p),
        ("dtpda_indent", ctypes.c_int),
    )


class BufferedData(ctypes.Structure):
    """dtrace_bufdata_t."""

    _fields_ = (
        ("dtbda_handle", ctypes.c_void_p),
        ("dtbda_buffered", ctypes.c_char_p),
        ("dtbda_probe", ctypes.POINTER(ProbeData)),
        ("dtbda_recdesc", ctypes.POINTER(RecordDescription)),
        ("dtbda_aggdata", ctypes.POINTER(AggregationData)),
        ("dtbda_flags", ctypes.c_uint32),
    )


class DropData(ctypes.Structure):
    """dtrace_dropdata_t."""

    _fields_ = (
        ("dtdda_handle", ctypes.c_void_p),
        ("dtdda_cpu", ctypes.c_int),
        ("dtdda_kind", ctypes.c_int),
        ("dtdda_drops", ctypes.c_uint64),
        ("dtdda_total", ctypes.c_uint64),
        ("dtdda_msg", ctypes.c_char_p),
    )


class ErrorData(ctypes.Structure):
    """dtrace_errdata_t."""

    _fields_ = (
        ("dteda_handle", ctypes.c_void_p),
        ("dteda_edesc", ctypes.c_void_p),
        ("dteda_pdesc", ctypes.c_void_p),
        ("dteda_cpu", ctypes.c_int),
        ("dteda_action", ctypes.c_int),
        ("dteda_offset", ctypes.c_int),
        ("dteda_fault", ctypes.c_int),
        ("dteda_addr", ctypes.c_uint64),
        ("dteda_msg", ctypes.c_char_p),
    )


#: Where some fields lie on every 64 bit system that has DTrace, and how large the whole is.
LAYOUT: tuple[tuple[type[ctypes.Structure], int, Mapping[str, int]], ...] = (
    (RecordDescription, 32, {"dtrd_size": 4, "dtrd_offset": 8, "dtrd_arg": 16}),
    (AggregationDescription, 72, {"dtagd_id": 20, "dtagd_nrecs": 32, "dtagd_rec": 40}),
    (AggregationData, 80, {"dtada_desc": 8, "dtada_data": 32, "dtada_size": 48}),
    (ProbeData, 64, {"dtpda_cpu": 24, "dtpda_data": 32, "dtpda_indent": 56}),
    (BufferedData, 48, {"dtbda_buffered": 8, "dtbda_aggdata": 32}),
    (DropData, 40, {"dtdda_kind": 12, "dtdda_drops": 16, "dtdda_msg": 32}),
    (ErrorData, 56, {"dteda_fault": 36, "dteda_addr": 40, "dteda_msg": 48}),
)

CHEW_FUNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ProbeData), ctypes.c_void_p)
CHEWREC_FUNC = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ProbeData), ctypes.POINTER(RecordDescription), ctypes.c_void_p
)
BUFFERED_FUNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(BufferedData), ctypes.c_void_p)
WALK_FUNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(AggregationData), ctypes.c_void_p)
DROP_FUNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(DropData), ctypes.c_void_p)
ERROR_FUNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ErrorData), ctypes.c_void_p)

_HANDLE = ctypes.c_void_p
_ARGUMENTS = ctypes.POINTER(ctypes.c_char_p)
_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "dtrace_open": (_HANDLE, (ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int))),
    "dtrace_close": (None, (_HANDLE,)),
    "dtrace_errno": (ctypes.c_int, (_HANDLE,)),
    "dtrace_errmsg": (ctypes.c_char_p, (_HANDLE, ctypes.c_int)),
    "dtrace_setopt": (ctypes.c_int, (_HANDLE, ctypes.c_char_p, ctypes.c_char_p)),
    "dtrace_handle_buffered": (ctypes.c_int, (_HANDLE, BUFFERED_FUNC, ctypes.c_void_p)),
    "dtrace_handle_drop": (ctypes.c_int, (_HANDLE, DROP_FUNC, ctypes.c_void_p)),
    "dtrace_handle_err": (ctypes.c_int, (_HANDLE, ERROR_FUNC, ctypes.c_void_p)),
    "dtrace_program_strcompile": (
        ctypes.c_void_p,
        (_HANDLE, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_int, _ARGUMENTS),
    ),
    "dtrace_program_exec": (ctypes.c_int, (_HANDLE, ctypes.c_void_p, ctypes.c_void_p)),
    "dtrace_go": (ctypes.c_int, (_HANDLE,)),
    "dtrace_stop": (ctypes.c_int, (_HANDLE,)),
    "dtrace_status": (ctypes.c_int, (_HANDLE,)),
    "dtrace_work": (
        ctypes.c_int,
        (_HANDLE, ctypes.c_void_p, CHEW_FUNC, CHEWREC_FUNC, ctypes.c_void_p),
    ),
    "dtrace_aggregate_snap": (ctypes.c_int, (_HANDLE,)),
    "dtrace_aggregate_walk_keysorted": (ctypes.c_int, (_HANDLE, WALK_FUNC, ctypes.c_void_p)),
}
#: Linux wants this before anything is compiled; others have not got it.
_OPTIONAL: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "dtrace_init": (ctypes.c_int, (_HANDLE,)),
}


def load(library: Any = None) -> Any:
    """The library, each of its functions with its types; Unavailable says what is wrong."""
    for structure, size, offsets in LAYOUT:
        there = {name: getattr(structure, name).offset for name in offsets}
        if ctypes.sizeof(structure) != size or there != offsets:
            raise Unavailable(f"{structure.__name__} lies otherwise here: {there}")
    if library is None:
        path = ctypes.util.find_library("dtrace")
        if path is None:
            raise Unavailable("there is no libdtrace")
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise Unavailable(f"libdtrace cannot be loaded: {error}") from error
    for name, (restype, argtypes) in {**_FUNCTIONS, **_OPTIONAL}.items():
        function = getattr(library, name, None)
        if function is None and name in _FUNCTIONS:
            raise Unavailable(f"this libdtrace has no {name}")
        if function is not None:
            function.restype, function.argtypes = restype, argtypes
    return library


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """One entry of an aggregation: a number, or a distribution from lower bounds to counts."""

    name: str
    keys: tuple[int | str, ...]
    value: int | Mapping[int, int]


def aggregation(data: AggregationData) -> Aggregation:
    """Decode what a walk is given. The first record is the aggregation's own, the last its value.

    What a script normalized is divided, and quotients are cut off, as dtrace prints them.
    """
    description = data.dtada_desc.contents
    number = description.dtagd_nrecs
    address = ctypes.addressof(description) + AggregationDescription.dtagd_rec.offset
    records = (RecordDescription * max(number, 0)).from_address(address)
    if number < 2:
        raise Undecodable(f"{number} records")
    pieces = [_piece(data, record) for record in records]
    keys = tuple(_datum(piece) for piece in pieces[1:-1])
    value = _value(records[number - 1].dtrd_action, pieces[-1], data.dtada_normal or 1)
    return Aggregation((description.dtagd_name or b"").decode("utf-8", "replace"), keys, value)


def _piece(data: AggregationData, record: RecordDescription) -> bytes:
    if not data.dtada_data or record.dtrd_offset + record.dtrd_size > data.dtada_size:
        raise Undecodable(f"a record of {record.dtrd_size} bytes at {record.dtrd_offset}")
    return ctypes.string_at(data.dtada_data + record.dtrd_offset, record.dtrd_size)


def _datum(piece: bytes) -> int | str:
    """A key: an integer by its size, else a string that ends with NUL."""
    if len(piece) in _NUMBERS:
        return int(struct.unpack(_NUMBERS[len(piece)], piece)[0])
    return piece.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _value(action: int, piece: bytes, normal: int) -> int | Mapping[int, int]:
    if len(piece) % 8 or not piece:
        raise Undecodable(f"a value of {len(piece)} bytes")
    words = struct.unpack(f"={len(piece) // 8}q", piece)
    if action in (_COUNT, _MIN, _MAX, _SUM) and len(words) == 1:
        return _quotient(words[0], normal)
    if action == _AVG and len(words) == 2:
        return _quotient(_quotient(words[1], normal), words[0]) if words[0] else 0
    if action == _QUANTIZE and len(words) == 127:
        return _counted(_powers(), words, normal)
    if action in (_LQUANTIZE, _LLQUANTIZE):
        bounds = _steps(words[0]) if action == _LQUANTIZE else _orders(words[0])
        if len(words) == 1 + len(bounds):
            return _counted(bounds, words[1:], normal)
    raise Undecodable(f"action {action:#x} with a value of {len(piece)} bytes")


def _quotient(number: int, divisor: int) -> int:
    """As C divides."""
    return -(-number // divisor) if number < 0 else number // divisor


def _counted(bounds: Sequence[int], words: Sequence[int], normal: int) -> dict[int, int]:
    return {
        bound: _quotient(word, normal) for bound, word in zip(bounds, words, strict=True) if word
    }


def _powers() -> list[int]:
    """The bounds of quantize(), with its sign: -2^62 … -1, 0, 1 … 2^62."""
    powers = [1 << power for power in range(63)]
    return [*(-power for power in reversed(powers)), 0, *powers]


def _steps(word: int) -> list[int]:
    """The lower bounds of lquantize(): base in 32 bits, then levels and step in 16 each."""
    base = struct.unpack("=i", struct.pack("=I", word & 0xFFFFFFFF))[0]
    levels, step = word >> 32 & 0xFFFF, word >> 48 & 0xFFFF
    return [LOWEST, *(base + step * level for level in range(levels + 1))]


def _orders(word: int) -> list[int]:
    """The lower bounds of llquantize(): factor, low, high and steps, 16 bits each."""
    factor, low, high, steps = (word >> shift & 0xFFFF for shift in (48, 32, 16, 0))
    if factor < 2 or not steps or high - low > 64:
        raise Undecodable(f"no llquantize: {word:#x}")
    bounds = [LOWEST]
    value = factor**low
    for _ in range(low, high + 1):
        following = value * factor
        width = max(following // steps, 1)
        bounds += range(value, following, width)
        value = following
    return [*bounds, value]


class _Session:
    """One open handle, and callbacks that must not be forgotten while it is."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._kept: list[Any] = []
        #: what a callback raised: it cannot pass through C
        self._raised: Exception | None = None
        code = ctypes.c_int(0)
        self._handle = library.dtrace_open(VERSION, 0, ctypes.byref(code))
        if not self._handle:
            said = library.dtrace_errmsg(None, code.value)
            raise DTraceError(f"dtrace_open: {_text(said)}")

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            self._library.dtrace_close(handle)

    def callback(self, prototype: Any, function: Callable[..., object]) -> Any:
        """A function as C calls it. What it raises ends the call, and comes out of check()."""

        def guarded(*arguments: Any) -> int:
            try:
                answer = function(*arguments)
            except Exception as error:
                self._raised = self._raised or error
                return ABORT
            return answer if isinstance(answer, int) else OKAY

        made = prototype(guarded)
        self._kept.append(made)
        return made

    def check(self, name: str, *arguments: Any) -> Any:
        """Call a function that answers -1 or NULL when it fails."""
        answer = getattr(self._library, name)(self._handle, *arguments)
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        failed = answer is None if name == "dtrace_program_strcompile" else answer == -1
        if failed:
            raise DTraceError(f"{name}: {self._said()}")
        return answer

    def prepare(
        self,
        out: Callable[..., object],
        drop: Callable[[str, int], None],
        options: Mapping[str, str],
    ) -> None:
        """Set options, and who hears what is printed and what is lost."""

        def dropped(data: Any, _argument: Any) -> int:
            there = data.contents
            known = 0 <= there.dtdda_kind < len(_DROPS)
            drop(_DROPS[there.dtdda_kind] if known else "other drops", there.dtdda_drops)
            return OKAY

        def failed(data: Any, _argument: Any) -> int:
            LOG.warning("dtrace: %s", _text(data.contents.dteda_msg))
            drop("probe errors", 1)
            return OKAY

        if getattr(self._library, "dtrace_init", None) is not None:
            self.check("dtrace_init")
        for name, value in options.items():
            self.check("dtrace_setopt", name.encode(), value.encode())
        self.check("dtrace_handle_buffered", self.callback(BUFFERED_FUNC, out), None)
        self.check("dtrace_handle_drop", self.callback(DROP_FUNC, dropped), None)
        self.check("dtrace_handle_err", self.callback(ERROR_FUNC, failed), None)

    @contextlib.contextmanager
    def going(self, script: str, arguments: Sequence[str] = ()) -> Iterator[None]:
        """Compile and run a program; it is stopped on the way out, whatever happens."""
        words = [b"dtrace", *(argument.encode() for argument in arguments)]
        array = (ctypes.c_char_p * len(words))(*words)
        # no flags: a probe that matches nothing is an error, and not a 0 for ever
        program = self.check(
            "dtrace_program_strcompile", script.encode(), PROBESPEC_NAME, 0, len(words), array
        )
        self.check("dtrace_program_exec", program, None)
        self.check("dtrace_go")
        try:
            yield
        finally:
            self._library.dtrace_stop(self._handle)

    def work(self, chew: Any, chew_rec: Any) -> bool:
        """Take what the CPUs have; False when the program has ended. This tells our life, too."""
        status = self.check("dtrace_work", None, chew, chew_rec, None)
        self.check("dtrace_status")
        return bool(status != WORK_DONE)

    def walk(self, function: Any) -> None:
        """Show every aggregation, as it stands now."""
        self.check("dtrace_aggregate_snap")
        self.check("dtrace_aggregate_walk_keysorted", function, None)

    def _said(self) -> str:
        code = self._library.dtrace_errno(self._handle)
        return _text(self._library.dtrace_errmsg(self._handle, code))


def _text(said: bytes | None) -> str:
    return (said or b"no message").decode("utf-8", "replace").strip()


class Libdtrace(kept.Kept):
    """Scripts (name → text) on the node that this process runs on, in one handle.

    A run lasts until it fails or is closed: who wants to give back the memory that keys of dead
    zones take chooses the program. `library` is for tests; None finds it.
    """

    def __init__(
        self,
        name: str,
        scripts: Mapping[str, str],
        *,
        period_seconds: float = 10,
        pause_seconds: float = PAUSE_SECONDS,
        library: Any = None,
    ) -> None:
        super().__init__()
        self._name = name
        self._scripts = source.Scripts(scripts)
        self._period = period_seconds
        self._pause = pause_seconds
        self._library = library
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name=f"libdtrace {name}")
        self._thread.daemon = True

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._changed:
            self._failure = "it was closed"

    def _keep_running(self) -> None:
        while not self._closing.is_set():
            try:
                self._run_through()
            except DTraceError as error:
                if self._refuse(str(error)):
                    continue
                self._failed(error)
            except Exception as error:
                # whatever it is, a thread that ended unseen would be a silent stop
                self._failed(error)
            self._closing.wait(self._pause)

    def _run_through(self) -> None:
        scripts = self._scripts.without(self.unsupported)
        if not scripts.texts:
            raise Unavailable("none of the scripts can run here")
        parser = frames.Parser(
            scripts.shapes,
            begun=self._began,
            # it prints none; numbers are read from the aggregations
            frame=lambda frame: None,
            final=self.keep_final,
            drops=self.keep_drops,
        )

        def printed(data: Any, _argument: Any) -> None:
            parser.feed(data.contents.dtbda_buffered or b"")

        session = _Session(load(self._library))
        with contextlib.closing(session):
            session.prepare(printed, self.keep_drops, {})
            chew = session.callback(CHEW_FUNC, noop_chew_func)
            chew_rec = session.callback(CHEWREC_FUNC, noop_chewrec_func)
            with session.going(scripts.text, (str(NO_FRAMES_SECONDS), "0", "0")):
                self._read(session, scripts, chew, chew_rec)

    def _read(self, session: _Session, scripts: source.Scripts, chew: Any, chew_rec: Any) -> None:
        found: list[Aggregation] = []
        walk = session.callback(
            WALK_FUNC, lambda data, _argument: found.append(aggregation(data.contents))
        )
        due, closing = 0.0, False
        while not closing:
            closing = self._closing.wait(PULSE_SECONDS)
            if not session.work(chew, chew_rec):
                raise DTraceError("the program ended by itself")
            if time.monotonic() >= due or closing:
                due = time.monotonic() + self._period
                found.clear()
                session.walk(walk)
                self._framed(scripts, found)

    def _began(self, hrtime_ns: int, _wall_ns: int) -> None:
        with self._changed:
            self._run = f"{self._name}:{hrtime_ns}"
            self._failure = None
            self.keep_counting()

    def _framed(self, scripts: source.Scripts, found: Sequence[Aggregation]) -> None:
        # the clock of the variable timestamp, on illumos
        hrtime_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        values: dict[str, dict[consumer.Key, int]] = {name: {} for name in scripts.texts}
        distributions: dict[str, dict[consumer.Key, Mapping[int, int]]] = {
            name: {} for name in scripts.texts
        }
        for each in found:
            script = max(
                (name for name in scripts.texts if each.name.startswith(f"{name}_")),
                key=len,
                default=None,
            )
            if script is None:
                self.keep_drops("aggregations not understood")
                continue
            word = each.name.removeprefix(f"{script}_").removesuffix("_distribution")
            key = (word, *map(str, each.keys))
            if isinstance(each.value, int):
                values[script][key] = each.value
            else:
                distributions[script][key] = each.value
        with self._changed:
            if not self._run:
                # what BEGIN prints has not come: its numbers would belong to no run
                return
            self.keep_counting()
            for name in scripts.texts:
                self._frames[name] = consumer.Frame(
                    name, hrtime_ns, wall_ns, values[name], distributions[name], self._run
                )

    def _refuse(self, said: str) -> bool:
        refused = self._scripts.without(self.unsupported).refused(said)
        with self._changed:
            self._unsupported |= refused
        return bool(refused)

    def _failed(self, error: Exception) -> None:
        LOG.warning("libdtrace on %s: %s", self._name, error)
        with self._changed:
            self._failure = str(error) or type(error).__name__
            self.keep_down()
            if self._run:
                self._restarts += 1
            self.keep_ended(self._frames.values())
            self._run, self._frames = "", {}


def simple_chew_func(data: Any, _arg: Any) -> int:
    """Print the CPU of each probe that fired."""
    print("CPU :", data.contents.dtpda_cpu)
    return OKAY


def noop_chew_func(_data: Any, _arg: Any) -> int:
    """Take every probe."""
    return OKAY


def simple_chewrec_func(_data: Any, rec: Any, _arg: Any) -> int:
    """Take every record; without one the probe is done."""
    return OKAY if rec else 1


noop_chewrec_func = simple_chewrec_func


def simple_buffered_out_writer(bufdata: Any, _arg: Any) -> int:
    """Print what the program prints."""
    print("out >", (bufdata.contents.dtbda_buffered or b"").strip())
    return OKAY


def noop_buffered_out_writer(_bufdata: Any, _arg: Any) -> int:
    """Leave it."""
    return OKAY


def simple_walk(data: Any, _arg: Any) -> int:
    """Print an entry of an aggregation."""
    found = aggregation(data.contents)
    print(*found.keys, ":", found.value)
    return OKAY


def noop_walk(_data: Any, _arg: Any) -> int:
    """Leave it."""
    return OKAY


class DTraceConsumer:
    """Runs a script for a while and gives what comes of it to four functions."""

    def __init__(
        self,
        chew_func: Callable[..., object] | None = simple_chew_func,
        chew_rec_func: Callable[..., object] | None = simple_chewrec_func,
        walk_func: Callable[..., object] | None = simple_walk,
        out_func: Callable[..., object] | None = simple_buffered_out_writer,
        *,
        options: Mapping[str, str] = OPTIONS,
        library: Any = None,
    ) -> None:
        self._chew = chew_func or noop_chew_func
        self._chew_rec = chew_rec_func or noop_chewrec_func
        self._walk = walk_func or noop_walk
        self._out = out_func or noop_buffered_out_writer
        self._options = options
        self._library = library
        #: what was lost, by kind
        self.drops: dict[str, int] = {}

    def run(self, script: str, runtime: float = 1) -> None:
        """Run it for so many seconds, then walk its aggregations."""
        end = time.monotonic() + runtime
        pause = threading.Event()
        with self._going(script) as (session, chew, chew_rec, walk):
            while session.work(chew, chew_rec) and (left := end - time.monotonic()) > 0:
                pause.wait(min(PULSE_SECONDS, left))
            session.walk(walk)

    def run_until(self, script: str, stopped: threading.Event) -> None:
        """Run it until the event, walking its aggregations all the time."""
        with self._going(script) as (session, chew, chew_rec, walk):
            while session.work(chew, chew_rec):
                session.walk(walk)
                if stopped.wait(PULSE_SECONDS):
                    return

    @contextlib.contextmanager
    def _going(self, script: str) -> Iterator[tuple[_Session, Any, Any, Any]]:
        session = _Session(load(self._library))
        with contextlib.closing(session):
            session.prepare(self._out, self._drop, self._options)
            functions = (
                session.callback(CHEW_FUNC, self._chew),
                session.callback(CHEWREC_FUNC, self._chew_rec),
                session.callback(WALK_FUNC, self._walk),
            )
            with session.going(script):
                yield session, *functions

    def _drop(self, kind: str, number: int) -> None:
        self.drops[kind] = self.drops.get(kind, 0) + number


class DTraceConsumerThread(threading.Thread):
    """Runs a script until stop(), walking its aggregations all the time.

    What went wrong comes out of join().
    """

    def __init__(
        self,
        script: str,
        chew_func: Callable[..., object] | None = simple_chew_func,
        chew_rec_func: Callable[..., object] | None = simple_chewrec_func,
        walk_func: Callable[..., object] | None = simple_walk,
        out_func: Callable[..., object] | None = simple_buffered_out_writer,
        *,
        options: Mapping[str, str] = OPTIONS,
        library: Any = None,
    ) -> None:
        super().__init__(daemon=True)
        self.script = script
        self.consumer = DTraceConsumer(
            chew_func, chew_rec_func, walk_func, out_func, options=options, library=library
        )
        # not _stop: that is threading.Thread's own
        self._asked = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self.consumer.run_until(self.script, self._asked)
        except Exception as error:
            self._error = error

    def stop(self) -> None:
        """Let it end."""
        self._asked.set()

    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._asked.is_set()

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self._error is not None:
            raise self._error
