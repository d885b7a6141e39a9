# SPDX-License-Identifier: Apache-2.0
"""make bench NAME=x: run bench/x.py and leave its table, picture and figures in build/bench.

Without a name all run, one after the other, each in a process of its own.
"""

import importlib
import pathlib
import subprocess
import sys

from bench import picture, report

HARNESS = ("__init__", "__main__", "picture", "report", "nodes", "cloud", "computes", "crowd")


def names() -> list[str]:
    """The benchmarks that there are."""
    here = pathlib.Path(__file__).parent
    stems = (path.stem for path in here.glob("*.py") if path.stem not in HARNESS)
    return sorted(stem.replace("_", "-") for stem in stems)


def main(arguments: list[str]) -> int:
    """Run one benchmark, or all; 1 when a figure does not keep its bound."""
    if not arguments:
        return _all()
    if len(arguments) != 1 or arguments[0] not in names():
        print(
            f"which benchmark? make bench NAME=… with one of: {' '.join(names())}", file=sys.stderr
        )
        return 2
    found = report.Report(arguments[0])
    try:
        importlib.import_module(f"bench.{found.name.replace('-', '_')}").run(found)
    except BaseException:
        # hours may have gone into what there is already
        print(found.table() if found.figures else "", end="", flush=True)
        raise
    folder = pathlib.Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder / f"{found.name}.json")
    picture.draw(found, folder / f"{found.name}.png")
    print(found.table(), end="")
    print(f"{folder / found.name}.json  {folder / found.name}.png")
    return 0 if found.all_hold() else 1


def _all() -> int:
    """Run every benchmark, whatever becomes of the others."""
    failed = []
    for name in names():
        print(f"{name}:", flush=True)
        if subprocess.run([sys.executable, "-m", "bench", name], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"wants that do not hold, or no figures at all: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
