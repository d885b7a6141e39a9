# SPDX-License-Identifier: Apache-2.0
"""make bench NAME=x: run bench/x.py and leave its table, picture and figures in build/bench."""

import importlib
import pathlib
import sys

from bench import picture, report

HARNESS = ("__init__", "__main__", "picture", "report", "nodes")


def names() -> list[str]:
    """The benchmarks that there are."""
    here = pathlib.Path(__file__).parent
    stems = (path.stem for path in here.glob("*.py") if path.stem not in HARNESS)
    return sorted(stem.replace("_", "-") for stem in stems)


def main(arguments: list[str]) -> int:
    """Run one benchmark; 1 when a figure does not keep its bound."""
    if len(arguments) != 1 or arguments[0] not in names():
        print(
            f"which benchmark? make bench NAME=… with one of: {' '.join(names())}", file=sys.stderr
        )
        return 2
    found = report.Report(arguments[0])
    importlib.import_module(f"bench.{found.name.replace('-', '_')}").run(found)
    folder = pathlib.Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder / f"{found.name}.json")
    picture.draw(found, folder / f"{found.name}.png")
    print(found.table(), end="")
    print(f"{folder / found.name}.json  {folder / found.name}.png")
    return 0 if found.all_hold() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
