# SPDX-License-Identifier: Apache-2.0
"""The trace: what its file holds, whose each span is, and that it costs nothing when it is off."""

import inspect
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from tests import openstack, traces, waits

pytestmark = openstack.QUIET

import nova.conf  # noqa: E402
from oslo_context import context as oslo_context  # noqa: E402

from nova_smartos import conf as smartos_conf  # noqa: E402
from nova_smartos import driver, entries  # noqa: E402
from nova_smartos.operations import locks  # noqa: E402
from nova_smartos.smartos import errors, spans, transport  # noqa: E402

CONF = nova.conf.CONF
ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 60
UUID = "3bd3b0d5-9f4f-4c2f-a6f9-6d2a3fd2b1c7"
BEGIN = """
import os, sys, threading
from nova_smartos.smartos import spans
spans.start(sys.argv[1])
"""


@pytest.fixture
def file(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with traces.into(tmp_path / "trace.json") as path:
        yield path


class Child:
    """A process that traces, and runs some code."""

    def __init__(self, code: str, path: pathlib.Path) -> None:
        words = [sys.executable, "-c", BEGIN + code, str(path)]
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        self.process = subprocess.Popen(words, stdout=pipe, stderr=both, text=True, cwd=ROOT)

    def ended(self) -> tuple[int, str]:
        """How it ended, and what it said."""
        with self.process:
            try:
                said, _ = self.process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        return self.process.returncode, said


def test_spans_lie_within_those_around_them(file: pathlib.Path) -> None:
    def work() -> None:
        with spans.span("outer", "operation"):
            for _ in range(3):
                with spans.span("inner", "operation"):
                    pass

    worker = threading.Thread(target=work, name="a worker")
    worker.start()
    worker.join()
    *inner, outer = traces.spans(file)
    assert [each["name"] for each in inner] == ["inner"] * 3 and outer["name"] == "outer"
    assert all(traces.within(each, outer) for each in inner)
    names = {
        (each["name"], each["tid"]): each["args"]["name"]
        for each in traces.events(file)
        if each["ph"] == "M"
    }
    assert names["thread_name", outer["tid"]] == "a worker"
    assert [what for what, _ in names] == ["process_name", "thread_name"]


def test_an_error_in_a_span_is_named_not_told(file: pathlib.Path) -> None:
    with pytest.raises(ValueError), spans.span("fails", "operation"):
        raise ValueError("a tenant's words")
    assert traces.spans(file)[0]["args"] == {"error": "ValueError"}
    assert "tenant" not in file.read_text()


def test_lines_of_many_threads_stay_whole(file: pathlib.Path) -> None:
    def work() -> None:
        for _ in range(200):
            with spans.span("x" * 500, "operation"):
                pass

    with futures.ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(work) for _ in range(4)]:
            each.result(SECONDS)
    assert len(traces.spans(file)) == 800


def test_a_killed_process_leaves_a_file_that_can_be_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.json"
    child = Child(
        """
while True:
    with spans.span("work", "operation"):
        pass
""",
        path,
    )
    try:
        waits.until(lambda: path.exists() and path.stat().st_size > 10_000, "spans")
    finally:
        child.process.kill()
        assert child.ended() == (-signal.SIGKILL, "")
    assert {each["name"] for each in traces.spans(path)} == {"work"}
    assert {each["pid"] for each in traces.spans(path)} == {child.process.pid}


def test_processes_may_share_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.json"
    code = """
for _ in range(100):
    with spans.span("work", "operation"):
        pass
"""
    children = [Child(code, path) for _ in range(3)]
    assert [each.ended() for each in children] == [(0, "")] * 3
    found = traces.spans(path)
    assert len(found) == 300
    assert {each["pid"] for each in found} == {each.process.pid for each in children}


def test_a_forked_child_says_who_it_is(tmp_path: pathlib.Path) -> None:
    code = """
with spans.span("parent", "operation"):
    pass
pid = os.fork()
with spans.span("child" if not pid else "parent", "operation"):
    pass
if pid:
    os.waitpid(pid, 0)
"""
    path = tmp_path / "trace.json"
    child = Child(code, path)
    assert child.ended() == (0, "")
    pids = {each["name"]: each["pid"] for each in traces.spans(path)}
    assert pids["parent"] == child.process.pid != pids["child"]
    named = [each["pid"] for each in traces.events(path) if each["name"] == "process_name"]
    assert sorted(named) == sorted(pids.values())


def test_a_disk_that_is_full_ends_the_trace_and_nothing_else(tmp_path: pathlib.Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for _ in range(50):
    with spans.span("work", "operation"):
        pass
print(spans.on(), spans.span("a", "b") is spans.span("c", "d"))
"""
    path = tmp_path / "trace.json"
    returncode, said = Child(code, path).ended()
    warning, *rest = said.splitlines()
    assert (returncode, rest) == (0, ["False True"])
    assert warning == f"Tracing has ended: {path}: No space left on device"
    assert 0 < len(traces.spans(path)) < 50


@pytest.mark.parametrize("where", ["no/such/folder", ""])
def test_a_path_that_cannot_be_written_is_one_warning(
    where: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    spans.start(str(tmp_path / where))
    assert not spans.on()
    assert len(caplog.messages) == 1 and "Nothing is traced" in caplog.text
    with spans.span("work", "operation"):
        pass
    assert len(caplog.messages) == 1


def test_others_cannot_read_it(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        with traces.into(tmp_path / "trace.json") as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_later_start_goes_on_in_the_same_file(tmp_path: pathlib.Path) -> None:
    for name in ("first", "second"):
        with traces.into(tmp_path / "trace.json") as path, spans.span(name, "operation"):
            # of the same path: nothing changes
            spans.start(str(path))
    assert [each["name"] for each in traces.spans(path)] == ["first", "second"]


def test_what_is_off_opens_nothing_and_makes_nothing() -> None:
    code = """
import gc, sys
from nova_smartos import entries
from nova_smartos.smartos import spans

@spans.step
def operation():
    return spans.on()

@entries.traced
class Driver:
    def spawn(self):
        with spans.span("work", "operation"):
            return operation()

opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event == "open" else None)
made = []
sys.setprofile(lambda frame, event, _: made.append(frame.f_code) if event == "call" else None)
driver = Driver()
assert not driver.spawn()
sys.setprofile(None)
names = [code.co_qualname for code in made if code.co_filename == spans.__file__]
print(opened, names)
"""
    # only the two questions are asked: no span is made, no label looked up, nothing recorded
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, cwd=ROOT
    )
    asked = ["on", "span", "step.<locals>.stepped", "span", "on"]
    assert (done.stderr, done.stdout.strip()) == ("", f"[] {asked}")
    assert spans.span("one", "operation") is spans.span("another", "wait")


def test_labels_go_to_nested_spans_and_to_threads_that_carry_them(file: pathlib.Path) -> None:
    @spans.step
    def work() -> None:
        """An operation."""

    with spans.about(request="req-1", instance=None), spans.about(instance=UUID):
        threads = [threading.Thread(target=spans.carried(work)), threading.Thread(target=work)]
        for each in threads:
            each.start()
            each.join()
    work()
    found = traces.spans(file)
    assert {each["name"] for each in found} == {f"test_trace.{work.__qualname__}"}
    assert [each["args"] for each in found] == [{"request": "req-1", "instance": UUID}, {}, {}]


class Instance:
    uuid = UUID


@entries.traced
class Traced:
    """Methods as Nova's."""

    def spawn(self, context: Any, instance: Any, more: int = 0) -> int:
        """Creates."""
        return self._made(more)

    def cleanup(self, context: Any, instance: Any) -> int:
        return self.spawn(context, instance)

    def pause(self, instance: Any) -> None:
        """Pauses."""

    def _made(self, more: int) -> int:
        return more


def test_entry_points_say_whose_they_are(file: pathlib.Path) -> None:
    context, own = oslo_context.RequestContext(), oslo_context.RequestContext()

    def ask() -> None:
        own.update_store()
        assert Traced().spawn(context, Instance(), more=3) == 3
        assert Traced().spawn(instance=Instance(), context=context) == 0
        Traced().cleanup(context, Instance())
        Traced().pause(Instance())

    # a thread of its own, which keeps the context that it works for
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(ask).result(SECONDS)
    found = [(each["name"], each["cat"], each["args"]) for each in traces.spans(file)]
    theirs = {"request": context.request_id, "instance": UUID}
    assert found == [
        ("spawn", "entry", theirs),
        ("spawn", "entry", theirs),
        ("spawn", "entry", theirs),
        ("cleanup", "entry", theirs),
        ("pause", "entry", {"request": own.request_id, "instance": UUID}),
    ]


def test_the_option_turns_it_on(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.json"
    smartos_conf.register(CONF)
    CONF.set_override("trace_file", str(path), smartos_conf.GROUP)
    try:
        driver.SmartOSDriver(None).plug_vifs(Instance(), None)
    finally:
        spans.stop()
        CONF.clear_override("trace_file", smartos_conf.GROUP)
    (found,) = traces.spans(path)
    assert (found["name"], found["args"]["instance"]) == ("plug_vifs", UUID)


def test_every_public_method_of_the_driver_is_traced() -> None:
    methods = {
        name: method
        for name, method in vars(driver.SmartOSDriver).items()
        if inspect.isfunction(method)
    }
    traced = {name for name, method in methods.items() if hasattr(method, "__wrapped__")}
    public = {name for name in methods if not name.startswith("_")}
    assert public <= traced and {"spawn", "destroy", "get_info", "init_host"} <= public


def test_a_command_shows_no_more_than_its_first_words(file: pathlib.Path) -> None:
    local = transport.Local()
    local.run(transport.Command(("cat",), b"a payload", secrets=("a payload",)))
    local.run(transport.Command(("sh", "-c", "echo tenant; exit 3", UUID)))
    with local.stream(transport.Command(("sort", "-r"))) as process:
        process.stdin.write(b"1\n2\n")
        process.wait()
    with pytest.raises(errors.NotStarted):
        local.run(transport.Command(("no-such-tool", "sub-command", "tenant", "x")))
    found = traces.spans(file)
    assert [(each["name"], each["cat"]) for each in found] == [
        ("cat", "command"),
        ("sh", "command"),
        ("sort", "command"),
        ("no-such-tool sub-command", "command"),
    ]
    assert [each["args"] for each in found] == [
        {"node": "local", "returncode": 0, "bytes_in": 9, "bytes_out": 9},
        {"node": "local", "uuid": UUID, "returncode": 3, "bytes_in": 0, "bytes_out": 7},
        {"node": "local", "returncode": 0, "bytes_in": 4, "bytes_out": 4},
        {"node": "local", "error": "NotStarted", "bytes_in": 0, "bytes_out": 0},
    ]
    text = file.read_text()
    assert "payload" not in text and "tenant" not in text


def test_only_a_wait_for_a_lock_has_a_span(file: pathlib.Path) -> None:
    held = locks.Locks()

    def change() -> None:
        with spans.about(instance=UUID), held.hold(UUID):
            pass

    def contend() -> bool:
        """Once it may come too late to wait."""
        with futures.ThreadPoolExecutor(1) as pool:
            with held.hold(UUID):
                waiting = pool.submit(change)
                waits.until(waiting.running)
            waiting.result(SECONDS)
        return bool(traces.spans(file))

    with held.hold(UUID), held.hold(UUID):
        pass
    assert traces.spans(file) == []
    waits.until(contend, "one to wait")
    assert [(each["name"], each["cat"], each["args"]) for each in traces.spans(file)] == [
        ("wait for the VM's lock", "wait", {"instance": UUID})
    ]
