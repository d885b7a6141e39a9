# SPDX-License-Identifier: Apache-2.0
"""What a DTrace consumer gives, whichever of the three reads: program, libdtrace or replay.

Values count from the start of a run and only grow while it lasts, so what is read late, twice or
not at all costs resolution and no usage. A consumer begins a new run when it must: values of two
runs add up, values of one do not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

#: The name of a number and its keys, as text: ("ops", "3", "1").
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one script has counted so far, taken at one moment of the node's clock.

    A distribution maps the lower bound of a bucket to its count.
    """

    script: str
    hrtime_ns: int
    wall_ns: int
    values: Mapping[Key, int]
    distributions: Mapping[Key, Mapping[int, int]]
    run: str = ""


@dataclasses.dataclass(frozen=True)
class Final:
    """The last counters of a zone that went away."""

    zonename: str
    zoneid: int
    hrtime_ns: int
    wall_ns: int
    counters: Mapping[str, int]


class Consumer(Protocol):
    """Reads what scripts count on one node. Every method is safe to call from any thread."""

    @property
    def run(self) -> str:
        """The run that frames() shows; "" before the first."""

    @property
    def drops(self) -> Mapping[str, int]:
        """What was lost since start(), by kind, as dtrace names it; it only grows."""

    @property
    def unsupported(self) -> Mapping[str, str]:
        """The scripts that this node cannot run, and why. Their meters have no data, and not 0."""

    @property
    def failure(self) -> str | None:
        """Why it is not running now."""

    @property
    def down_ns(self) -> int:
        """How long nothing counted: from the last frame of a run to the start of the next."""

    @property
    def restarts(self) -> int:
        """How often a run ended unasked."""

    def start(self) -> None:
        """Begin; it reads in a thread of its own and starts anew by itself."""

    def frames(self) -> dict[str, Frame]:
        """The newest whole frame of each script of this run."""

    def ended(self) -> list[Frame]:
        """The last frames of runs that are over, each given once."""

    def finals(self) -> list[Final]:
        """The last counters of zones that went away, each given once."""

    def close(self) -> None:
        """End it; what it has read stays."""
