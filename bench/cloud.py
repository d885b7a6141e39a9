# SPDX-License-Identifier: Apache-2.0
"""A real cloud for benchmarks: servers booted at once on one of its hosts, and what that costs.

That a server is ACTIVE is taken from Nova's notifications, since to ask for it again and again
costs Nova more than the boot; processor time is the kernel's count for every service.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp

from bench import crowd as crowds
from bench import nodes, report
from gate.cloud import install, model, processes

OURS, FLOOR, LIBVIRT = "node1", "fake", "libvirt"
#: In the floor's folder: how many seconds a boot takes there.
WAIT = "boot-seconds"
#: A cloud that is up here, or will be, is used and left up.
KEPT = os.environ.get("SMARTOS_BENCH_CLOUD")
#: How often a VM is created by hand.
BY_HAND = 5
#: The longest that bringing the cloud up may take, and that N servers may until all are ACTIVE.
UP_SECONDS = 1800
BOOT_SECONDS = 300.0
#: Processor time goes on for a moment after the last server is ACTIVE.
_AFTER_SECONDS = 0.5
#: What a cloud at rest uses, as a part of one processor, and how long it may take to get there.
_REST = 0.12
_REST_SLICE = 0.5
_REST_SECONDS = 30.0
_QUEUE = "versioned_notifications.info"


@dataclasses.dataclass(frozen=True)
class Boots:
    """Servers that were made at once."""

    #: from the moment of all requests until each server was ACTIVE, the fastest first
    seconds: list[float]
    #: of that what the driver took, from task state spawning to ACTIVE
    spawning: list[float]
    #: processor time of each service until a little after the last
    cpu: dict[str, float]


class Cloud:
    """A cloud that is up, as its administrator's program sees it."""

    def __init__(self, base: pathlib.Path, known: dict[str, Any]) -> None:
        loaded = model.Cloud.load(base)
        if loaded is None:
            raise RuntimeError(f"there is no cloud in {base}")
        self.model = loaded
        self._known = known
        self._token = self._log_in()
        self._news = Notifications(loaded)

    def close(self) -> None:
        """Listen no more."""
        self._news.close()

    def floor_waits(self, found: report.Report) -> None:
        """Have a boot on the floor take as long as `vmadm create` of one on the node, by hand."""
        made, _ = self.boot(OURS, 1, port=False)
        vmadm = nodes.tool(self.node, "vmadm")
        vm = json.loads(nodes.run([vmadm, "get", made[0]]))
        self.delete(made)
        payload = {key: vm[key] for key in ("brand", "image_uuid", "max_physical_memory", "quota")}
        times = []
        for _ in range(BY_HAND):
            self.rest()
            start = time.perf_counter()
            by_hand = nodes.create(self.node, payload)
            times.append(time.perf_counter() - start)
            nodes.run([vmadm, "delete", by_hand])
        wait = statistics.median(times)
        (self.model.base / "state/nova" / FLOOR / WAIT).write_text(str(wait))
        meaning = "seconds of one `vmadm create` by hand, median: what the floor waits"
        found.figure("by_hand_s", wait, meaning)

    @property
    def node(self) -> pathlib.Path:
        """The folder of the emulated node."""
        return self.model.base / "nodes" / OURS

    def boot(self, host: str, count: int, *, port: bool) -> tuple[list[str], Boots]:
        """Boot servers at once on a host; their ids, and what that took."""
        network = [{"uuid": self._known["network"]}] if port else "none"
        server = {
            "imageRef": self._known["images"][host],
            "flavorRef": self._known["flavor"],
            "networks": network,
            "host": host,
        }
        bodies = [
            json.dumps({"server": {**server, "name": f"bench-{host}-{n}"}}) for n in range(count)
        ]
        self.rest()
        before = self.cpu()
        moment, answers = self._at_once([("POST", "/v2.1/servers", body) for body in bodies])
        ids = [str(answer["server"]["id"]) for answer in answers]
        ended = self._news.wait(ids, "ACTIVE", BOOT_SECONDS)
        begun = self._news.wait(ids, "SPAWNING", BOOT_SECONDS)
        time.sleep(_AFTER_SECONDS)
        after = self.cpu()
        used = {name: after[name] - before.get(name, 0.0) for name in after}
        spawning = sorted(end - begin for begin, end in zip(begun, ended, strict=True))
        return ids, Boots(sorted(each - moment for each in ended), spawning, used)

    def delete(self, ids: list[str]) -> None:
        """Delete servers, and wait until they are gone."""
        self._at_once([("DELETE", f"/v2.1/servers/{each}", "") for each in ids])
        self._news.wait(ids, "DELETED", BOOT_SECONDS)

    def crowd(self, host: str, server: str, count: int) -> None:
        """Let a host have so many more instances, copies of one that it has; its service restarts.

        They are written directly: Nova's records, and what the node tells of its VMs.
        """
        names = json.loads(self._computes("crowd", host, server, str(count)))
        own = names.pop(server)
        if host == OURS:
            crowds.show(self.node, server, own, names)
        self._computes("restart", host)

    def disperse(self, host: str, server: str) -> None:
        """Undo it."""
        self._computes("disperse", host, server)
        if host == OURS:
            crowds.hide(self.node)
        self._computes("restart", host)

    def providers(self) -> dict[str, str]:
        """The uuids of the hosts' resource providers."""
        found = self._ask("GET", "/v2.1/os-hypervisors/detail")["hypervisors"]
        return {each["service"]["host"]: each["id"] for each in found}

    def rss_mib(self, service: str) -> float:
        """The memory that a service has, with what it had run."""
        own = [each for each in processes.running(self.model.base) if each.service == service]
        return sum(_rss_mib(each.pid) for each in own)

    def rest(self, seconds: float = _REST_SECONDS) -> None:
        """Wait until the cloud has no more to do of what was asked before."""
        until = time.monotonic() + seconds
        before = sum(self.cpu().values())
        while time.monotonic() < until:
            time.sleep(_REST_SLICE)
            after = sum(self.cpu().values())
            if after - before < _REST * _REST_SLICE:
                return
            before = after
        raise RuntimeError(f"the cloud is not at rest after {seconds} s")

    def cpu(self) -> dict[str, float]:
        """The processor time that each service has used, with that of what it had run."""
        used: collections.Counter[str] = collections.Counter()
        for process in processes.running(self.model.base):
            used[process.service] += process.cpu_seconds()  # type: ignore[assignment]
        return dict(used)

    def _at_once(self, requests: list[tuple[str, str, str]]) -> tuple[float, list[Any]]:
        """Send requests at one moment, each on a connection of its own."""
        barrier = threading.Barrier(len(requests) + 1)

        def ready() -> None:
            barrier.wait(BOOT_SECONDS)

        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            futures = [pool.submit(self._ask, *request, ready) for request in requests]
            barrier.wait(BOOT_SECONDS)
            moment = time.monotonic()
            return moment, [future.result() for future in futures]

    def _ask(
        self, method: str, path: str, body: str = "", ready: Callable[[], None] = lambda: None
    ) -> Any:
        """Send a request to Nova, once connected and `ready`; the answer."""
        connection = http.client.HTTPConnection(
            model.HOST, self.model.ports["nova-api"], timeout=BOOT_SECONDS
        )
        headers = {
            "Content-Type": "application/json",
            "OpenStack-API-Version": "compute 2.90",
            "X-Auth-Token": self._token,
        }
        connection.connect()
        with contextlib.closing(connection):
            ready()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text) if text else None

    def _computes(self, what: str, *words: str) -> str:
        return _computes(self.model.base, what, *words)

    def _log_in(self) -> str:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.model.password}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
            }
        }
        connection = http.client.HTTPConnection(
            model.HOST, self.model.ports["keystone"], timeout=BOOT_SECONDS
        )
        with contextlib.closing(connection):
            connection.request(
                "POST", "/v3/auth/tokens", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            if answer.status != 201:
                raise RuntimeError(f"Keystone gives no token: {answer.status} {answer.read()!r}")
            return answer.headers["X-Subject-Token"]


class Ear:
    """Hears what is sent with a routing key on Nova's exchange, besides those it is for."""

    def __init__(self, cloud: model.Cloud, key: str, queue: str = "") -> None:
        """Hear it with a queue of our own, or with one of Nova's."""
        self._ended = threading.Event()
        self._broken: Exception | None = None
        self._connection = amqp.Connection(
            f"{model.HOST}:{cloud.ports['rabbitmq']}",
            userid="smartos",
            password=cloud.password,
        )
        self._connection.connect()
        channel = self._connection.channel()
        # as Nova declares it, should it have sent nothing yet
        channel.exchange_declare("nova", "topic", durable=False, auto_delete=False)
        own = not queue
        found, *_ = channel.queue_declare(queue, durable=False, exclusive=own, auto_delete=own)
        channel.queue_bind(found, "nova", key)
        channel.basic_consume(found, no_ack=True, callback=self._take)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; raises if not all was heard."""
        self._ended.set()
        self._thread.join()
        self._connection.close()
        if self._broken is not None:
            raise RuntimeError("not all was heard") from self._broken

    def _listen(self) -> None:
        try:
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    self._connection.drain_events(timeout=0.5)
        except Exception as error:
            self._broken = error
        finally:
            self._deafened()

    def _take(self, message: Any) -> None:
        self._hear(json.loads(json.loads(message.body)["oslo.message"]))

    def _hear(self, told: Any) -> None:
        raise NotImplementedError

    def _deafened(self) -> None:
        """There is nothing more to come."""


class Notifications(Ear):
    """What Nova tells of its servers, and when that arrived here."""

    def __init__(self, cloud: model.Cloud) -> None:
        self._news = threading.Condition()
        self._seen: dict[tuple[str, str], float] = {}
        self._failed: dict[str, str] = {}
        self._deaf = False
        super().__init__(cloud, _QUEUE, _QUEUE)

    def wait(self, ids: list[str], what: str, seconds: float) -> list[float]:
        """When each of these servers was SPAWNING, became ACTIVE or was DELETED."""

        def told() -> bool:
            return self._deaf or all(
                (each, what) in self._seen or each in self._failed for each in ids
            )

        with self._news:
            self._news.wait_for(told, seconds)
            if broken := [self._failed[each] for each in ids if each in self._failed]:
                raise RuntimeError(f"{len(broken)} of {len(ids)} failed, as {broken[0]}")
            if missing := [each for each in ids if (each, what) not in self._seen]:
                raise RuntimeError(f"not {what}, or not told so in {seconds:.0f} s: {missing}")
            return [self._seen[each, what] for each in ids]

    def _deafened(self) -> None:
        # who waits must not wait for us
        with self._news:
            self._deaf = True
            self._news.notify_all()

    def _hear(self, told: Any) -> None:
        now = time.monotonic()
        event = told["event_type"]
        server = told["payload"]["nova_object.data"]
        if not event.startswith("instance."):
            return
        with self._news:
            if event == "instance.update" and server["task_state"] == "spawning":
                self._seen.setdefault((server["uuid"], "SPAWNING"), now)
            elif event == "instance.update" and server["task_state"] is None:
                if server["state"] == "active":
                    self._seen.setdefault((server["uuid"], "ACTIVE"), now)
                elif server["state"] == "error":
                    self._failed[server["uuid"]] = json.dumps(server["state_update"])
            elif event == "instance.delete.end":
                self._seen.setdefault((server["uuid"], "DELETED"), now)
            self._news.notify_all()


@contextlib.contextmanager
def up(*hosts: str) -> Iterator[Cloud]:
    """A cloud with one emulated node in real time, and nova-computes with other drivers."""
    with contextlib.ExitStack() as stack:
        if KEPT is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nova-smartos-bench-"))
            base = pathlib.Path(folder) / "cloud"
            stack.callback(_command, base, "down")
        else:
            base = pathlib.Path(KEPT).resolve()
        kept = base / "bench.json"
        if not kept.exists():
            node = ("--emulated", "ssh", "--speed", "1")
            _command(base, "up", "--fresh", "--with", "bench", *node)
            kept.write_text(_computes(base, "add", *hosts))
        cloud = Cloud(base, json.loads(kept.read_text()))
        stack.callback(cloud.close)
        yield cloud


def _computes(base: pathlib.Path, what: str, *words: str) -> str:
    """Run bench.computes in the cloud's environment; the last line that it printed."""
    python = ("env", f"PYTHONPATH={install.ROOT}", "python", "-m", "bench.computes")
    return _command(base, "exec", "--", *python, what, str(base), *words).splitlines()[-1]


def _rss_mib(pid: int) -> float:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line[:6] == "VmRSS:") / 1024


def _command(base: pathlib.Path, *words: str) -> str:
    """Run smartos-cloud; what it printed."""
    script = str(install.ROOT / "gate/smartos-cloud")
    done = subprocess.run(
        [sys.executable, script, "-d", str(base), *words],
        stdout=subprocess.PIPE,
        text=True,
        timeout=UP_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"smartos-cloud {words[0]} failed:\n{done.stdout}")
    return done.stdout
