# SPDX-License-Identifier: Apache-2.0
"""The picture of a report: each figure against its bound, and every single measurement."""

import pathlib

from matplotlib import axes, figure

from bench import report as report_module


def draw(report: report_module.Report, path: pathlib.Path) -> None:
    """Write the picture as a PNG."""
    panels = 2 if report.series else 1
    sheet = figure.Figure(figsize=(6 * panels, 1.6 + 0.5 * max(4, len(report.wants))))
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
    cell.bar_label(bars, [f" {report.figures[n]:.4g} ({report.wants[n]})" for n in names])
    cell.axvline(1, color="black", linewidth=1)
    cell.set_xlim(0, 1.6 * max([1.0, *parts]))
    cell.set_xlabel("part of the bound")
    cell.invert_yaxis()


def _measurements(report: report_module.Report, cell: axes.Axes) -> None:
    """A row of points a series, the median marked."""
    for row, values in enumerate(report.series.values()):
        cell.plot(values, [row] * len(values), "o", alpha=0.4)
        cell.plot([sorted(values)[len(values) // 2]], [row], "k|", markersize=18)
    cell.set_yticks(range(len(report.series)), list(report.series))
    cell.set_xscale("log")
    cell.set_xlabel("each measurement (| median)")
    cell.invert_yaxis()
