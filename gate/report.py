# SPDX-License-Identifier: Apache-2.0
"""What the gate found: from the runners' own JUnit files to a summary and a page."""

import dataclasses
import html
import json
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

_OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}
_COLOURS = {"passed": "#3a7d44", "failed": "#b3261e", "skipped": "#8a8a8a"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One test of a suite."""

    name: str
    outcome: str
    seconds: float
    text: str = ""


def cases(path: pathlib.Path) -> list[Case]:
    """The tests in a JUnit file."""
    found = []
    for element in ElementTree.parse(path).getroot().iter("testcase"):
        outcome, text = "passed", ""
        for child in element:
            if child.tag in _OUTCOMES:
                outcome = _OUTCOMES[child.tag]
                text = (child.get("message") or "") + (child.text or "")
        name = ".".join(part for part in (element.get("classname"), element.get("name")) if part)
        found.append(Case(name, outcome, float(element.get("time") or 0), text.strip()))
    return found


def counts(found: Sequence[Case]) -> dict[str, float]:
    """How many passed, failed and were skipped, and how long they took one after the other."""
    numbers: dict[str, float] = {
        outcome: sum(each.outcome == outcome for each in found) for outcome in _COLOURS
    }
    return numbers | {"seconds": round(sum(each.seconds for each in found), 1)}


def write(
    folder: pathlib.Path, left_out: Mapping[str, str], wrong: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Write summary.json and index.html from the JUnit files in a folder; the summary.

    What is wrong with a suite beyond its failures stands on the page.
    """
    suites = {
        path.name.removesuffix(".junit.xml"): cases(path)
        for path in sorted(folder.glob("*.junit.xml"))
    }
    summary = {name: counts(found) for name, found in suites.items()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "index.html").write_text(_page(suites, summary, left_out, wrong))
    return summary


def _page(
    suites: Mapping[str, Sequence[Case]],
    summary: Mapping[str, Mapping[str, float]],
    left_out: Mapping[str, str],
    wrong: Mapping[str, Sequence[str]],
) -> str:
    parts = [_HEAD]
    for name, complaints in wrong.items():
        parts += [f"<p class=w>{html.escape(f'{name}: {each}')}</p>" for each in complaints]
    for name, found in suites.items():
        numbers = summary[name]
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(
            "<p>"
            + ", ".join(f"<b>{numbers[outcome]:.0f}</b> {outcome}" for outcome in _COLOURS)
            + f"; {numbers['seconds']:.0f} s of tests</p>"
        )
        parts.append(_strip(found))
        parts.append(_longest(found))
        for each in found:
            if each.outcome == "failed":
                parts.append(f"<h3>{html.escape(each.name)}</h3>")
                parts.append(f"<pre>{html.escape(each.text[-4000:])}</pre>")
    if left_out:
        parts.append(f"<h2>Left out of Tempest: {len(left_out)}</h2><table>")
        for name, reason in left_out.items():
            parts.append(f"<tr><td>{html.escape(name)}<td>{html.escape(reason)}")
        parts.append("</table>")
    return "\n".join(parts)


def _strip(found: Sequence[Case]) -> str:
    """Every test as a bar: in order, as wide as it took, in the colour of its outcome."""
    total = sum(max(each.seconds, 0.02) for each in found) or 1.0
    position, bars = 0.0, []
    for each in found:
        width = 1000 * max(each.seconds, 0.02) / total
        title = html.escape(f"{each.name}: {each.outcome}, {each.seconds:.1f} s")
        bars.append(
            f'<rect x="{position:.2f}" width="{width:.2f}" height="28" '
            f'fill="{_COLOURS[each.outcome]}"><title>{title}</title></rect>'
        )
        position += width
    return f'<svg viewBox="0 0 1000 28" preserveAspectRatio="none">{"".join(bars)}</svg>'


def _longest(found: Sequence[Case]) -> str:
    rows = []
    most = sorted(found, key=lambda each: -each.seconds)[:10]
    for each in most:
        width = 100 * each.seconds / (most[0].seconds or 1.0)
        rows.append(
            f"<tr><td>{html.escape(each.name)}<td class=n>{each.seconds:.1f} s<td class=b>"
            f'<div style="width:{width:.1f}%;background:{_COLOURS[each.outcome]}"></div>'
        )
    return f"<details open><summary>The longest</summary><table>{''.join(rows)}</table></details>"


_HEAD = """<!doctype html>
<meta charset="utf-8">
<title>nova-smartos: the gate</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222 }
svg { width: 100%; height: 28px; background: #eee; border-radius: 3px }
table { border-collapse: collapse; width: 100%; font-size: 13px }
td { padding: 2px 8px 2px 0; overflow-wrap: anywhere }
p.w { color: #b3261e }
td.n { text-align: right; white-space: nowrap }
td.b { width: 30% }
td.b div { height: 10px; border-radius: 2px }
pre { background: #f6f6f6; padding: 8px; overflow-x: auto; font-size: 12px }
summary { cursor: pointer; margin: 8px 0 }
</style>
<h1>The gate</h1>
<p>Unmodified OpenStack on SmartOS nodes. Each bar is a test, as wide as it took: green passed, red
failed, grey was skipped.</p>"""
