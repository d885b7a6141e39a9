# SPDX-License-Identifier: Apache-2.0
"""The node under contract, and what tests make on it: all named nst-…, all removed afterwards."""

import contextlib
import dataclasses
import json
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib import parse

import pytest

from nova_smartos.smartos import errors, transport
from nova_smartos.smartos import node as node_module
from tests import emulated
from tests.contract import fidelity

#: Node seconds in a second on the emulator: boots in milliseconds, time-outs in seconds.
SPEED = "40"
TYPES = {"zone": "zone-dataset", "lx": "lx-dataset", "zvol": "zvol"}


@dataclasses.dataclass(frozen=True)
class Target:
    """The node, and the emulator behind it if there is one."""

    node: node_module.Node
    emulator: emulated.EmulatedNode | None

    def run(self, *argv: str, document: Any = None, raw: str | None = None) -> transport.Result:
        """Run a tool as it is: exit status and streams, whatever they are."""
        text = raw if raw is not None else "" if document is None else json.dumps(document)
        command = transport.Command(argv, text.encode(), timeout=transport.Timeout.CHANGE)
        return self.node.transport.run(command)


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """What --node names."""
    name = request.config.getoption("--node")
    with contextlib.ExitStack() as stack:
        if name.startswith("ssh://"):
            yield _real(stack, parse.urlsplit(name), request.config.getoption("--identity"))
        elif name in ("emulator", "emulator+ssh"):
            yield _emulated(stack, over_ssh=name.endswith("+ssh"))
        else:
            raise pytest.UsageError(f"--node={name}: emulator, emulator+ssh or ssh://USER@HOST")


def _real(stack: contextlib.ExitStack, url: parse.SplitResult, identity: str | None) -> Target:
    reached = node_module.Node.ssh(
        url.hostname or "", port=url.port or 22, user=url.username or "root", key_file=identity
    )
    return Target(stack.enter_context(reached), None)


def _emulated(stack: contextlib.ExitStack, *, over_ssh: bool) -> Target:
    options = ["--ssh", "127.0.0.1:0"] if over_ssh else []
    emulator = emulated.EmulatedNode("--speed", SPEED, "--nic-tag", "external", *options)
    stack.enter_context(emulator)
    if not over_ssh:
        return Target(
            stack.enter_context(node_module.Node.local(tool_path=emulator.tools)), emulator
        )
    ssh = emulator.facts()["ssh"]
    reached = node_module.Node.ssh(
        ssh["host"],
        port=ssh["port"],
        user=ssh["user"],
        key_file=ssh["identity"],
        known_hosts_file=ssh["known_hosts"],
        pfexec=False,
    )
    return Target(stack.enter_context(reached), emulator)


@pytest.fixture(scope="session")
def platform(target: Target) -> str:
    """The platform of a real node; nothing for an emulated one."""
    return "" if target.emulator else target.node.sysinfo.get().live_image


@pytest.fixture(autouse=True)
def _known(request: pytest.FixtureRequest, platform: str) -> None:
    request.node.user_properties.extend(fidelity.known(request, platform))


@pytest.fixture(scope="session")
def node(target: Target) -> node_module.Node:
    """The toolkit on the node under contract."""
    return target.node


@pytest.fixture(scope="session")
def image(target: Target) -> Callable[[str], str]:
    """A function from a kind (zone, lx, zvol) to the uuid of an installed image of that kind."""
    known: dict[str, str] = {}

    def find(kind: str) -> str:
        if kind not in known:
            known[kind] = (
                target.emulator.image(kind) if target.emulator else _installed(target, kind)
            )
        return known[kind]

    return find


def _installed(target: Target, kind: str) -> str:
    for found in target.node.imgadm.list():
        if found.manifest.type == TYPES[kind]:
            return found.manifest.uuid
    pytest.skip(f"missing: an image of type {TYPES[kind]}; imgadm import one")


@pytest.fixture
def name() -> str:
    """A name of our own."""
    return f"nst-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def payload(image: Callable[[str], str], name: str) -> Callable[..., dict[str, Any]]:
    """A function that makes the smallest payload of a brand, and adds to it."""

    def make(brand: str, **more: Any) -> dict[str, Any]:
        smallest: dict[str, Any] = {"brand": brand, "alias": name, "uuid": str(uuid.uuid4())}
        if brand in ("bhyve", "kvm"):
            disk = {"image_uuid": image("zvol"), "boot": True, "model": "virtio"}
            smallest |= {"ram": 512, "vcpus": 1, "disks": [disk], "vnc_port": -1}
        elif brand == "lx":
            smallest |= {"image_uuid": image("lx"), "kernel_version": "5.10.0"}
            smallest |= {"max_physical_memory": 256, "quota": 5}
        else:
            smallest |= {"image_uuid": image("zone"), "max_physical_memory": 256, "quota": 5}
        return {**smallest, **more}

    return make


@pytest.fixture
def create(target: Target, payload: Callable[..., dict[str, Any]]) -> Iterator[Callable[..., str]]:
    """A function that creates a VM of a brand; it is deleted after the test."""
    made: list[str] = []

    def make(brand: str, **more: Any) -> str:
        document = payload(brand, **more)
        _require_brand(target, brand)
        made.append(document["uuid"])
        return target.node.vmadm.create(document)

    yield make
    for each in made:
        _delete(target, each)


def _require_brand(target: Target, brand: str) -> None:
    if brand == "bhyve" and not target.node.sysinfo.get().bhyve:
        pytest.skip("the node is not capable of bhyve")
    if brand == "kvm" and target.node.sysinfo.get().document.get("HVM API") is not True:
        pytest.skip("the node is not capable of kvm")


def _delete(target: Target, vm: str) -> None:
    with contextlib.suppress(errors.NotFound):
        document = target.node.vmadm.get(vm).document
        protected = [key for key in document if key.startswith("indestructible_")]
        if protected:
            target.node.vmadm.update(vm, dict.fromkeys(protected, False))
        target.node.vmadm.delete(vm)


def pytest_configure(config: pytest.Config) -> None:
    """Take the marker, and write FIDELITY.rst where it is asked for."""
    config.addinivalue_line("markers", "known(mark): how the behaviour is known, see FIDELITY.rst")
    path = config.getoption("--fidelity")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(fidelity.Writer(pathlib.Path(path)))
