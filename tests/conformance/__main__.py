# SPDX-License-Identifier: Apache-2.0
"""Compare an emulated node with answers recorded from the real tools.

    python -m tests.conformance DATA [KIND…]
    python -m tests.conformance DATA --up DIR

DATA is a folder with vmadm_payloads.jsonl, environment.json, fwrules.jsonl, manifests.jsonl and
transcripts.jsonl; see README.md beside this file. Every difference is printed with its reason; the
last line has the agreement of each kind in per cent. The exit status is 1 when one is below 97.
With --up, nothing is compared: a node as environment.json describes it is left up in DIR.
"""

import argparse
import json
import pathlib
import sys
import typing

from tests.conformance import pipeline, transcripts, verdicts, world

WANT = 97.0
KINDS: dict[str, tuple[str, typing.Callable[[world.World, list[world.Case]], world.Verdict]]] = {
    "payloads": ("vmadm_payloads.jsonl", verdicts.payloads),
    "pipeline": ("vmadm_payloads.jsonl", pipeline.pipeline),
    "fwrules": ("fwrules.jsonl", verdicts.fwrules),
    "manifests": ("manifests.jsonl", verdicts.manifests),
    "transcripts": ("transcripts.jsonl", transcripts.transcripts),
}


def main() -> None:
    """Judge the kinds asked for, print what differs, end with the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--up", type=pathlib.Path, metavar="DIR", help="leave a node there")
    options = parser.parse_args()
    if options.up:
        with world.up(_environment(options.data), options.up) as node:
            print(f"{node.node.directory}: up, with the images, tags and pools of the records")
        return
    found = judge(options.data, options.kinds or [*KINDS])
    for verdict in found:
        show(verdict)
    scores = " ".join(f"{verdict.kind} {verdict.agreement:.1f}" for verdict in found)
    print(f"conformance: {scores}")
    sys.exit(0 if found and all(verdict.agreement >= WANT for verdict in found) else 1)


def judge(data: pathlib.Path, kinds: list[str]) -> list[world.Verdict]:
    """A node for each kind, and what it says to the cases."""
    environment = _environment(data)
    found = []
    for kind in kinds:
        file, judged = KINDS[kind]
        if recorded := world.cases(data, file):
            with world.up(environment) as node:
                found.append(judged(node, recorded))
    return found


def _environment(data: pathlib.Path) -> dict[str, typing.Any]:
    environment: dict[str, typing.Any] = json.loads((data / "environment.json").read_text())
    return environment


def show(verdict: world.Verdict) -> None:
    """Print the differences and the count of one kind."""
    for difference in verdict.differences:
        print(f"{verdict.kind}: {difference.label}\n    {difference.reason}")
    agreed = verdict.cases - len(verdict.differences)
    print(f"{verdict.kind}: {agreed} of {verdict.cases} agree")


if __name__ == "__main__":
    main()
