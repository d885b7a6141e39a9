# SPDX-License-Identifier: Apache-2.0
"""The driver keeps Nova's contract: its methods, its public names alone, no eventlet."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import openstack

pytestmark = openstack.QUIET

from nova.virt import driver as nova_driver  # noqa: E402

from nova_smartos import driver  # noqa: E402

ROOT = pathlib.Path(driver.__file__).parent
NOVA = {
    name: method
    for name, method in inspect.getmembers(nova_driver.ComputeDriver, inspect.isfunction)
    if not name.startswith("__")
}
OURS = {
    name: vars(driver.SmartOSDriver)[name]
    for name in vars(driver.SmartOSDriver)
    if inspect.isfunction(vars(driver.SmartOSDriver)[name])
}


def parameters(method: object) -> list[tuple[str, object, object]]:
    """What a caller can pass: names, kinds and defaults; Nova annotates nothing."""
    found = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


@pytest.mark.parametrize("name", sorted(set(OURS) & set(NOVA)))
def test_a_method_takes_what_nova_passes(name: str) -> None:
    assert parameters(OURS[name]) == parameters(NOVA[name])


def test_the_driver_has_no_public_method_that_nova_does_not_know() -> None:
    assert [name for name in OURS if name[0] != "_" and name not in NOVA] == []


def test_the_driver_overrides_none_of_novas_private_methods() -> None:
    private = {name for name in dir(nova_driver.ComputeDriver) if _private(name)}
    assert private & set(vars(driver.SmartOSDriver)) == set()


def test_every_capability_is_one_that_nova_asks_for() -> None:
    assert set(driver.SmartOSDriver.capabilities) == set(nova_driver.ComputeDriver.capabilities)


def test_no_private_name_of_nova_is_used() -> None:
    trees = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}
    # the toolkit knows no OpenStack, which the import rules say
    used = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in trees.items()
        if ROOT / "smartos" not in path.parents
        for line, name in _private_uses(tree)
        if name not in own or name in dir(nova_driver.ComputeDriver)
    ]
    assert used == []


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.Module) -> Iterator[str]:
    """The private names that our code itself gives."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) not in ("self", "cls"):
                continue
            yield node.attr


def _private_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nova."):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if _private(name))


# As nova-compute does before all else; then whoever asks for eventlet is noted. Libraries of
# OpenStack do, and go on without it.
IMPORTING = """
import sys, warnings
warnings.simplefilter("ignore")
from nova import monkey_patch
monkey_patch.patch(backend="threading")
asking = []
class Ear:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("eventlet", "greenlet"):
            return
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        asking.append(frame.f_globals["__name__"])
sys.meta_path.insert(0, Ear())
import nova.virt.smartos
assert nova.virt.smartos.SmartOSDriver.__name__ == "SmartOSDriver"
print(sorted({name for name in sys.modules if name.partition(".")[0] == "eventlet"}),
      [name for name in asking if name.startswith("nova")])
"""


def test_importing_the_driver_as_nova_does_imports_no_eventlet() -> None:
    environment = {**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": "1"}
    said = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=ROOT.parent,
    )
    assert (said.returncode, said.stdout.strip()) == (0, "[] []"), said.stderr
