# SPDX-License-Identifier: Apache-2.0
"""A libdtrace that is none: real C functions to call, and memory laid out as the real one does.

It runs no D. A test says what aggregations hold, what is printed and what is lost; that reaches the
caller through the same callbacks and structures as from the kernel. The structures are written here
byte by byte, apart from those that read them, so that a mistake in one cannot hide in the other.
"""

import ctypes
import struct
from collections.abc import Callable, Mapping
from typing import Any

_P, _I, _U = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_AGGREGATION = 0x0700
COUNT, MIN, MAX, AVG, SUM, STDDEV, QUANTIZE, LQUANTIZE, LLQUANTIZE = range(
    _AGGREGATION + 1, _AGGREGATION + 10
)
HANDLE = 0xD7ACE
PROGRAM = 0xB0B
_CALLBACK = ctypes.CFUNCTYPE(_I, _P, _P)
_CHEW_REC = ctypes.CFUNCTYPE(_I, _P, _P, _P)
_SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "dtrace_open": (_P, _I, _I, ctypes.POINTER(_I)),
    "dtrace_close": (None, _P),
    "dtrace_errno": (_I, _P),
    "dtrace_errmsg": (_P, _P, _I),
    "dtrace_init": (_I, _P),
    "dtrace_setopt": (_I, _P, ctypes.c_char_p, ctypes.c_char_p),
    "dtrace_handle_buffered": (_I, _P, _P, _P),
    "dtrace_handle_drop": (_I, _P, _P, _P),
    "dtrace_handle_err": (_I, _P, _P, _P),
    "dtrace_program_strcompile": (
        *(_P, _P, ctypes.c_char_p, _I, _U, _I),
        ctypes.POINTER(ctypes.c_char_p),
    ),
    "dtrace_program_exec": (_I, _P, _P, _P),
    "dtrace_go": (_I, _P),
    "dtrace_stop": (_I, _P),
    "dtrace_status": (_I, _P),
    "dtrace_sleep": (None, _P),
    "dtrace_work": (_I, _P, _P, _P, _P, _P),
    "dtrace_aggregate_snap": (_I, _P),
    "dtrace_aggregate_walk": (_I, _P, _P, _P),
    "dtrace_aggregate_walk_keysorted": (_I, _P, _P, _P),
    "dtrace_aggregate_walk_valsorted": (_I, _P, _P, _P),
}


class Entry:
    """One entry of an aggregation, as memory: a variable's id, keys, and a value."""

    def __init__(
        self,
        name: str,
        keys: tuple[int | str, ...],
        action: int,
        words: list[int],
        *,
        normal: int = 1,
        strsize: int = 64,
        key_bytes: int = 8,
    ) -> None:
        data = bytearray(struct.pack("=q", 1))
        records = [(0, 0, 8)]
        for key in keys:
            if isinstance(key, str):
                piece = key.encode("utf-8", "surrogateescape").ljust(strsize, b"\0")[:strsize]
            else:
                piece = key.to_bytes(key_bytes, "little", signed=True)
            data += b"\xee" * (-len(data) % min(len(piece), 8))
            records.append((0, len(data), len(piece)))
            data += piece
        # what lies between is not zero, so that whoever reads past a key is seen
        data += b"\xee" * (-len(data) % 8)
        records.append((action, len(data), 8 * len(words)))
        data += struct.pack(f"={len(words)}q", *words)
        self._name = ctypes.create_string_buffer(name.encode())
        self._data = ctypes.create_string_buffer(bytes(data), len(data))
        described = struct.pack(
            "=QqiIIIiI",
            *(ctypes.addressof(self._name), 1, 0, 5, 6, len(data), len(records), 0),
        )
        for kind, offset, size in records:
            described += struct.pack("=HxxIIHHQQ", kind, size, offset, 8, 0, 0, 0)
        self._description = ctypes.create_string_buffer(described, len(described))
        self.memory = ctypes.create_string_buffer(
            struct.pack(
                "=QQQQQQQQQQ",
                *(HANDLE, ctypes.addressof(self._description), 0, 0),
                *(ctypes.addressof(self._data), normal, len(data), 0, 0, 0),
            ),
            80,
        )


def number(name: str, keys: tuple[int | str, ...], value: int, **options: Any) -> Entry:
    """An entry of count() or sum()."""
    return Entry(name, keys, SUM, [value], **options)


def quantized(
    name: str, keys: tuple[int | str, ...], counts: Mapping[int, int], **options: Any
) -> Entry:
    """An entry of quantize(); `counts` are by the power of two that a bucket begins with."""
    words = [0] * 127
    for bound, count in counts.items():
        place = abs(bound).bit_length()
        words[63 + place if bound > 0 else 63 - place] = count
    return Entry(name, keys, QUANTIZE, words, **options)


class Library:
    """What a caller gets for libdtrace. Its functions are C functions; `calls` are their names."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.entries: list[Entry] = []
        #: what is printed at the next dtrace_work, lost (kind, number) and failed
        self.printed: list[bytes] = []
        self.lost: list[tuple[int, int]] = []
        self.errors: list[bytes] = []
        #: the CPUs on which a probe fires at the next dtrace_work
        self.fired: list[int] = []
        #: what the library says of functions that are to fail, by name
        self.failing: dict[str, str] = {}
        #: what the compiler says of programs with these words
        self.refused: dict[str, str] = {}
        self.options: dict[str, str] = {}
        self.program = ""
        self.flags = -1
        self.arguments: list[str] = []
        #: called at each dtrace_work
        self.at_work: Callable[[], object] = lambda: None
        self.ended = False
        self._handlers: dict[str, Any] = {}
        self._message = ctypes.create_string_buffer(b"no error")
        for name, (restype, *argtypes) in _SIGNATURES.items():
            setattr(self, name, self._function(name, restype, argtypes))

    def _function(self, name: str, restype: Any, argtypes: list[Any]) -> Any:
        own = getattr(self, f"_{name}", lambda *_: 0)

        def called(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                said = self.failing[name].encode()
                self._message = ctypes.create_string_buffer(said)
                return None if restype is _P else -1
            return own(*arguments)

        return ctypes.CFUNCTYPE(restype, *argtypes)(called)

    # functions with something to do, by the name that C gives them

    def _dtrace_open(self, _version: int, _flags: int, code: Any) -> int:
        return HANDLE

    def _dtrace_close(self, _handle: int) -> None:
        self._handlers.clear()

    def _dtrace_sleep(self, _handle: int) -> None:
        """It has slept."""

    def _dtrace_errmsg(self, _handle: int, _code: int) -> int:
        return ctypes.addressof(self._message)

    def _dtrace_setopt(self, _handle: int, name: bytes, value: bytes) -> int:
        self.options[name.decode()] = value.decode()
        return 0

    def _dtrace_handle_buffered(self, _handle: int, function: int, _argument: int) -> int:
        self._handlers["buffered"] = _CALLBACK(function)
        return 0

    def _dtrace_handle_drop(self, _handle: int, function: int, _argument: int) -> int:
        self._handlers["drop"] = _CALLBACK(function)
        return 0

    def _dtrace_handle_err(self, _handle: int, function: int, _argument: int) -> int:
        self._handlers["error"] = _CALLBACK(function)
        return 0

    def _dtrace_program_strcompile(
        self, _handle: int, text: bytes, _spec: int, flags: int, number: int, arguments: Any
    ) -> int | None:
        for word, said in self.refused.items():
            if word.encode() in text:
                self._message = ctypes.create_string_buffer(said.encode())
                return None
        self.program, self.flags = text.decode(), flags
        self.arguments = [arguments[place].decode() for place in range(number)]
        return PROGRAM

    def _dtrace_work(
        self, _handle: int, _file: int, chew: int, chew_rec: int, argument: int
    ) -> int:
        self.at_work()
        for cpu in self._taken(self.fired):
            memory = _memory(struct.pack("=QQQiIQiIQiI", HANDLE, 0, 0, cpu, 0, 0, 2, 0, 0, 0, 0))
            at = ctypes.addressof(memory)
            if _CALLBACK(chew)(at, argument) == 0:
                _CHEW_REC(chew_rec)(at, None, argument)
        answers = [self._told("drop", "=QiiQQQ", HANDLE, -1, kind, lost, lost)
                   for kind, lost in self._taken(self.lost)]  # fmt: skip
        answers += [
            self._told("error", "=QQQiiiiQQ", *(HANDLE, 0, 0, 0, 1, 0, 1, 0), said=said)
            for said in self._taken(self.errors)
        ]
        for text in self._taken(self.printed):
            said = ctypes.create_string_buffer(text)
            at = ctypes.addressof(said)
            memory = _memory(struct.pack("=QQQQQII", HANDLE, at, 0, 0, 0, 0, 0))
            answers.append(self._call("buffered", memory))
        if -1 in answers:
            self._message = ctypes.create_string_buffer(b"Abort due to drop")
            return -1
        return 1 if self.ended else 0

    def _walk(self, _handle: int, function: int, argument: int) -> int:
        for entry in list(self.entries):
            if _CALLBACK(function)(ctypes.addressof(entry.memory), argument) == -1:
                return -1
        return 0

    _dtrace_aggregate_walk = _walk
    _dtrace_aggregate_walk_keysorted = _walk
    _dtrace_aggregate_walk_valsorted = _walk

    def _told(self, handler: str, form: str, *values: int, said: bytes = b"lost\n") -> int:
        message = ctypes.create_string_buffer(said)
        memory = _memory(struct.pack(form, *values, ctypes.addressof(message)))
        return self._call(handler, memory)

    def _call(self, handler: str, memory: Any) -> int:
        """As the real one: without a handler for it, it gives up."""
        function = self._handlers.get(handler)
        return int(function(ctypes.addressof(memory), None)) if function else -1

    @staticmethod
    def _taken(waiting: list[Any]) -> list[Any]:
        taken = list(waiting)
        waiting.clear()
        return taken


def _memory(data: bytes) -> Any:
    return ctypes.create_string_buffer(data, len(data))
