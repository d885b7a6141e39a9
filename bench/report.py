# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: figures, the bounds they must keep, and the forms they are shown in."""

import dataclasses
import json
import operator
import pathlib
import re
import typing

BOUNDS: dict[str, typing.Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}


def bound(want: str) -> tuple[typing.Callable[[float, float], bool], float]:
    """The comparison and the number of a bound such as "<= 1.15"."""
    match = re.fullmatch(r"(<=|<|>=|>) (\d+(?:\.\d+)?)", want)
    if match is None:
        raise ValueError(f"not a bound: {want!r}; it looks like '<= 1.15'")
    return BOUNDS[match[1]], float(match[2])


@dataclasses.dataclass
class Report:
    """The figures of one run, filled in by the benchmark as it goes."""

    name: str
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    wants: dict[str, str] = dataclasses.field(default_factory=dict)
    series: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    meanings: dict[str, str] = dataclasses.field(default_factory=dict)

    def figure(self, name: str, value: float, meaning: str, want: str | None = None) -> None:
        """Note a figure, what it means and, where there is one, the bound it must keep."""
        self.figures[name] = round(value, 4)
        self.meanings[name] = meaning
        if want is not None:
            bound(want)
            self.wants[name] = want

    def holds(self, name: str) -> bool:
        """Whether a figure keeps its bound; one without a bound always does."""
        if name not in self.wants:
            return True
        compare, limit = bound(self.wants[name])
        return compare(self.figures[name], limit)

    def all_hold(self) -> bool:
        """Whether every figure keeps its bound."""
        return all(self.holds(name) for name in self.wants)

    def table(self) -> str:
        """The figures as people read them."""
        width = max(map(len, self.figures))
        rows = [f"{'figure':<{width}}  {'value':>10}  {'want':<10}       meaning"]
        for name, value in self.figures.items():
            verdict = ("ok" if self.holds(name) else "BROKEN") if name in self.wants else ""
            want = self.wants.get(name, "")
            rows.append(
                f"{name:<{width}}  {value:>10.4g}  {want:<10} {verdict:<6} {self.meanings[name]}"
            )
        return "\n".join(rows) + "\n"

    def write(self, path: pathlib.Path) -> None:
        """Write the figures, the bounds and whether they hold, for programs."""
        holds = {name: self.holds(name) for name in self.wants}
        document = {"figures": self.figures, "wants": self.wants, "holds": holds}
        path.write_text(json.dumps(document, indent=2) + "\n")
