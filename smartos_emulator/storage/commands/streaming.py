# SPDX-License-Identifier: Apache-2.0
"""zfs send and zfs receive."""

import contextlib
import io
import threading
import time
import typing
from collections.abc import Iterator

from smartos_emulator import call as call_module
from smartos_emulator.storage import errors, model, names, sending, units
from smartos_emulator.storage.commands import options, selecting, usage

_LONG = {
    "replicate": "R",
    "props": "p",
    "parsable": "P",
    "dedup": "D",
    "verbose": "v",
    "dryrun": "n",
    "large-block": "L",
    "embed": "e",
    "resume": "t",
    "compressed": "c",
    "raw": "w",
    "backup": "b",
    "holds": "h",
}


def send(call: call_module.Call, words: list[str]) -> int:
    """zfs send"""
    given = options.parse(words, "i:I:RDpvnPLeht:cwb", long=_LONG)
    token = given.last("t")
    if len(given.all("i")) + len(given.all("I")) > 1:
        raise usage.Wrong
    if token is not None:
        if any(given.has(letter) for letter in "iIRpbD"):
            raise usage.Wrong("invalid flags combined with -t")
        if given.operands:
            raise usage.Wrong("no additional arguments are permitted with -t")
    else:
        options.count(given.operands, "snapshot")
    if not given.has("n") and call.stdout_is_tty():
        call.err(
            "Error: Stream can not be written to a terminal.\nYou must redirect standard output.\n"
        )
        return 1
    if token is not None:
        return _send(call, given, [call.node.storage.resumed_part(token)], None)
    return _send_named(call, given, given.operands[0])


def _send_named(call: call_module.Call, given: options.Options, name: str) -> int:
    storage = call.node.storage
    if "@" not in name:
        return _send_live(call, given, name)
    head = names.split(name)[0]
    selecting.open_node(storage, head, ("filesystem", "volume"))
    base = given.last("i") or given.last("I")
    if base is not None:
        base = _base(call, head, base)
    if not storage.exists(name):
        call.err(_absent(name, given))
        return 1
    parts, package = storage.send_plan(
        name,
        base=base,
        intermediates=given.has("I"),
        replicate=given.has("R"),
        properties=given.has("p"),
    )
    return _send(call, given, parts, package)


def _absent(name: str, given: options.Options) -> str:
    recursively = " recursively" if given.has("R") else ""
    return f"cannot send {name}{recursively}: snapshot {name} does not exist\n"


def _send_live(call: call_module.Call, given: options.Options, name: str) -> int:
    """Sending a filesystem without a snapshot goes from a snapshot that nobody sees."""
    storage = call.node.storage
    if any(given.has(letter) for letter in "RIpbDhnv"):
        call.err("Error: Unsupported flag with filesystem or bookmark.\n")
        return 1
    node = selecting.open_node(storage, name, ("filesystem", "volume"))
    assert isinstance(node, model.Dataset)
    if node.mounted:
        raise errors.StorageError(f"warning: cannot send '{name}'", "dataset is busy")
    base = given.last("i")
    if base is not None and base.startswith("@"):
        base = name + base
    temporary = f"{name}@--head--"
    storage.snapshot(temporary)
    try:
        parts, _ = storage.send_plan(
            temporary,
            base=base,
            intermediates=False,
            replicate=False,
            properties=False,
        )
        return _send(call, given, parts, None)
    finally:
        storage.destroy(temporary)


def _base(call: call_module.Call, head: str, base: str) -> str:
    storage = call.node.storage
    if "@" in base and not base.startswith("@"):
        dataset, short = names.split(base)
        if dataset != head and storage.origin(head) != base:
            raise usage.Wrong("incremental source must be in same filesystem")
        if not short or "@" in short or "/" in short:
            raise usage.Wrong("invalid incremental source")
        return base
    return f"{head}@{base.removeprefix('@')}"


def _send(
    call: call_module.Call,
    given: options.Options,
    parts: list[sending.Part],
    package: dict[str, object] | None,
) -> int:
    storage = call.node.storage
    if given.has("v") or given.has("P"):
        _describe(call, given, parts)
    if not given.has("n"):
        counted = _Counted(call, parsable=given.has("P"))
        with counted.told() if given.has("v") else contextlib.nullcontext():
            out = typing.cast(typing.BinaryIO, counted)
            storage.send_parts(parts, package, out, begin=counted.begin)
    return 0


class _Counted(io.RawIOBase):
    """What goes to the tool's standard output; how much, it can tell every second."""

    def __init__(self, call: call_module.Call, *, parsable: bool) -> None:
        self._call = call
        self._parsable = parsable
        self._snapshot = ""
        self._bytes = 0

    def begin(self, snapshot: str) -> None:
        """Note that another snapshot begins."""
        self._snapshot, self._bytes = snapshot, 0

    def write(self, data: typing.Any) -> int:
        self._bytes += len(data)
        return self._call.stdout.write(data)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Print to standard error how much has gone, for as long as this lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=self._tell, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _tell(self, ended: threading.Event) -> None:
        titled = ""
        while not ended.wait(1 / self._call.node.clock.speed):
            when, size = time.strftime("%H:%M:%S"), self._bytes
            line = f"{when}\t{size}\t{self._snapshot}\n"
            if not self._parsable:
                line = f"{when}   {units.nice(size):>5}   {self._snapshot}\n"
                if titled != self._snapshot:
                    line = f"TIME        SENT   SNAPSHOT\n{line}"
            titled = self._snapshot
            try:
                self._call.err(line)
            except BrokenPipeError:
                # SIGPIPE ends the process, whatever else it does
                self._call.cancelled.set()
                return


def _describe(call: call_module.Call, given: options.Options, parts: list[sending.Part]) -> None:
    storage = call.node.storage
    parsable = given.has("P")
    lines, total = [], 0
    for part in parts:
        size = storage.part_size(part)
        total += size
        if parsable:
            what = (
                f"incremental\t{part.base.short}\t{part.snap.name}"
                if part.base
                else f"full\t{part.snap.name}"
            )
            lines.append(f"{what}\t{size}")
        else:
            what = (
                f"send from @{part.base.short} to {part.snap.name}"
                if part.base
                else f"full send of {part.snap.name}"
            )
            lines.append(f"{what} estimated size is {units.nice(size)}")
    lines.append(f"size\t{total}" if parsable else f"total estimated size is {units.nice(total)}")
    # With -n there is no stream, and the words go where it would have gone.
    write = call.out if given.has("n") else call.err
    write("\n".join(lines) + "\n")


def receive(call: call_module.Call, words: list[str]) -> int:
    """zfs receive"""
    given = options.parse(words, "o:x:dehnuvFsA")
    if given.has("d") and given.has("e"):
        raise usage.Wrong("invalid option combination: -d and -e are mutually exclusive")
    try:
        props = options.assignments(given.all("o"))
        exclude = options.exclusions(given.all("x"), props)
    except ValueError as error:
        raise usage.Wrong(str(error)) from None
    options.count(given.operands, "snapshot")
    name = given.operands[0]
    if given.has("A"):
        return _abort(call, given, name)
    if call.stdin_is_tty():
        call.err(
            "Error: Backup stream can not be read from a terminal.\n"
            "You must redirect standard input.\n"
        )
        return 1
    begun = time.monotonic()
    tail = "d" if given.has("d") else "e" if given.has("e") else ""
    origin = props.pop("origin", None)
    if tail:
        selecting.open_node(call.node.storage, name, ("filesystem", "volume"))
    storage = call.node.storage
    received = storage.receive(
        name,
        call.stdin,
        unmounted=given.has("u"),
        resumable=given.has("s"),
        force=given.has("F"),
        exclude=exclude,
        set=props,
        tail=tail,
        origin=origin,
        dry_run=given.has("n"),
        progress=call.out if given.has("v") else None,
    )
    if given.has("v") and not given.has("n") and received:
        seconds = max(int(time.monotonic() - begun), 1)
        arrived = sum(storage.number(one, "written") for one in received)
        size, rate = units.nice(arrived), units.nice(arrived // seconds)
        call.out(f"received {size} stream in {seconds} seconds ({rate}/sec)\n")
    return 0


def _abort(call: call_module.Call, given: options.Options, name: str) -> int:
    if any(given.has(letter) for letter in "densu"):
        raise usage.Wrong("invalid option")
    storage = call.node.storage
    with contextlib.suppress(KeyError):
        if not storage.datasets[name].partial:
            call.err(f"'{name}' does not have any resumable receive state to abort\n")
            return 1
    try:
        selecting.open_node(storage, name, ("filesystem", "volume"))
    except errors.StorageError as error:
        raise usage.Wrong(str(error)) from None
    storage.abort_receive(name)
    return 0
