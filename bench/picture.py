# SPDX-License-Identifier: Apache-2.0
"""The picture of a report: each figure against its bound, and every single measurement."""

import logging
import pathlib
import statistics

from matplotlib import axes, figure, ticker

from bench import report as report_module

# Nova's test code has everybody tell everything, and matplotlib tells of every font
logging.getLogger("matplotlib").setLevel(logging.WARNING)

_FEWEST_ROWS = 3
#: Between the least and the most there is no room for more numbers than the powers of ten.
_WIDE = 500


def draw(report: report_module.Report, path: pathlib.Path) -> None:
    """Write the picture as a PNG."""
    panels = 2 if report.series else 1
    rows = max(_FEWEST_ROWS, len(report.wants), len(report.series))
    sheet = figure.Figure(figsize=(6.5 * panels, 1.6 + 0.4 * rows))
    sheet.suptitle(f"nova-smartos: {report.name}")
    cells = sheet.subplots(1, panels, squeeze=False)[0]
    _bounds(report, cells[0])
    if report.series:
        _measurements(report, cells[1])
    sheet.tight_layout()
    sheet.savefig(path, dpi=110)


def _bounds(report: report_module.Report, cell: axes.Axes) -> None:
    """A bar a figure, in parts of its bound: the line at 1 is the bound."""
    names = list(report.wants)
    parts = [report.figures[n] / (report_module.bound(report.wants[n])[1] or 1) for n in names]
    colours = ["tab:green" if report.holds(name) else "tab:red" for name in names]
    bars = cell.barh(names, parts, color=colours)
    cell.axvline(1, color="black", linewidth=1)
    labels = [f"{report.figures[n]:.4g} ({report.wants[n]})" for n in names]
    for text in cell.bar_label(bars, labels, padding=6):
        # where it meets the line it must stay readable
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    cell.set_xlim(0, 1.6 * max([1.0, *parts]))
    cell.set_xlabel("part of the bound")
    cell.set_ylim(max(_FEWEST_ROWS, len(names)) - 0.5, -0.5)


def _measurements(report: report_module.Report, cell: axes.Axes) -> None:
    """A row of points a series, the median marked."""
    for row, values in enumerate(report.series.values()):
        cell.plot(values, [row] * len(values), "o", alpha=0.4)
        cell.plot([statistics.median(values)], [row], "k|", markersize=18)
    cell.set_yticks(range(len(report.series)), list(report.series))
    cell.set_xscale("log")
    # few numbers, as people write them
    low, high = cell.get_xlim()
    subs = (1, 2, 5) if high < _WIDE * low else (1,)
    cell.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    cell.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    cell.xaxis.set_minor_formatter(ticker.NullFormatter())
    cell.set_xlabel("each measurement (| median)")
    cell.set_ylim(len(report.series) - 0.5, -0.5)
