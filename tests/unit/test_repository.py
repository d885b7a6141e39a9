# SPDX-License-Identifier: Apache-2.0
"""What the tree promises about itself."""

import configparser
import pathlib
import re
import subprocess
import sys

from smartos_emulator import zones
from smartos_emulator.metrics import meter

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = (
    "nova_smartos",
    "ceilometer_plugin",
    "neutron_plugin",
    "smartos_emulator",
    "bench",
    "demo",
    "devstack",
    "gate",
    "tests",
    "doc",
)
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
# imports every module of the emulator where nothing but the standard library can be found
ALONE = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import smartos_emulator
for module in pkgutil.walk_packages(smartos_emulator.__path__, "smartos_emulator."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_source_file_names_its_licence() -> None:
    line = "# SPDX-License-Identifier: Apache-2.0"
    assert [path for path in SOURCES if line not in path.read_text().splitlines()[:2]] == []


def test_the_emulator_needs_the_standard_library_only() -> None:
    words = [sys.executable, "-I", "-S", "-c", ALONE, str(ROOT)]
    subprocess.run(words, check=True, timeout=60)


def test_the_readme_shows_the_folders_that_there_are() -> None:
    shown = set(re.findall(r"^``(\w+)/``", (ROOT / "README.rst").read_text(), re.MULTILINE))
    passing = {"build", "dist", "nova_smartos.egg-info"}
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert shown == there - passing


def test_make_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert targets == explained


def test_every_folder_of_the_product_is_a_declared_package() -> None:
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    packages = options["options"]["packages"].split()
    folders = dict(
        line.split(" = ") for line in options["options"]["package_dir"].strip().splitlines()
    )
    declared = {folders.get(name, name.replace(".", "/")) for name in packages}
    there = {
        str(path.parent.relative_to(ROOT))
        for name in (*FOLDERS[:4], "dtrace_scripts")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert declared == there


def test_declared_packages_are_used() -> None:
    """What `pip install` brings is imported somewhere in the product."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    product = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in FOLDERS[:3]]
    text = "\n".join(path.read_text() for path in product)
    names = re.findall(r"^([\w.]+)", setup["options"]["install_requires"], re.MULTILINE)
    for name in names:
        module = name.replace(".", "_")
        assert re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE), name


def test_the_emulators_document_names_every_guest_and_load_key() -> None:
    text = (ROOT / "doc/source/emulator.rst").read_text()
    assert [key for key in (*zones.SCRIPT, *meter.KEYS) if f"``{key}``" not in text] == []
