"""Pictures of scores: curves over lead time with intervals, spectra, rank histograms, spread against skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from eddycast.report.canvas import INK, line_style, lyapunov_axis, new_figure, styled, with_units


@dataclass(frozen=True)
class Curve:
    """A line, with an interval where `low` and `high` are given; all of one length."""

    method: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Chart:
    """One set of axes with the curves of several methods.

    Args:
        title: What is shown; `units` its unit.
        guide: Height of a reference line (1 for spread over skill), and `guide_label` its name.
        limits: Ends of the vertical axis; left to the data when absent.
        better: Which way is good; stands beside the title.
    """

    title: str
    curves: tuple[Curve, ...]
    units: str = "1"
    guide: float | None = None
    guide_label: str = ""
    limits: tuple[float | None, float | None] | None = None
    better: Literal["lower", "higher", ""] = ""


@dataclass(frozen=True)
class Diagram:
    """Square axes in which a reliable ensemble follows the diagonal, from zero to `top` or as far as the curves go."""

    title: str
    across: str
    upwards: str
    curves: tuple[Curve, ...]
    top: float | None = None


def score_curves(
    charts: Sequence[Chart], x_label: str, *, lyapunov_time: float | None = None, ranks: Mapping[str, int] | None = None
) -> Figure:
    """Charts two in a row over one kind of horizontal axis, the legend once below; Lyapunov times above the first row.

    Args:
        ranks: Colour number of each method, so that it keeps its colour from picture to picture.
    """
    ranks = method_ranks(charts) if ranks is None else ranks
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    with styled():
        figure = new_figure(9.6 if columns == 2 else 6.2, 2.65 * rows + 0.55)
        grid = figure.subplots(rows, columns, squeeze=False)
        for position, axes in enumerate(grid.ravel()):
            if position >= len(charts):
                axes.set_visible(False)
                continue
            above = position < columns and lyapunov_time is not None
            _chart(axes, charts[position], ranks, pad=17 if above else 4)
            axes.set_xlabel(x_label)
            if above:
                lyapunov_axis(axes, lyapunov_time)
        _legend(figure)
    return figure


def method_ranks(charts: Sequence[Chart]) -> dict[str, int]:
    """Colour number of each method in order of appearance."""
    names = dict.fromkeys(curve.method for chart in charts for curve in chart.curves)
    return {name: rank for rank, name in enumerate(names)}


def spectra(
    charts: Sequence[Chart], x_label: str, *, ranks: Mapping[str, int] | None = None, reference: str = "truth"
) -> Figure:
    """Power over wavenumber, one chart for each lead time; the truth is a wide grey line below the others."""
    ranks = method_ranks(charts) if ranks is None else ranks
    with styled():
        figure = new_figure(max(3.2 * len(charts), 5.6), 3.25)
        grid = figure.subplots(1, len(charts), squeeze=False, sharey=True)[0]
        tops, bottoms = [], []
        for axes, chart in zip(grid, charts, strict=True):
            for curve in chart.curves:
                positive = (curve.x > 0) & (curve.y > 0)
                if not positive.any():
                    continue
                x, y = curve.x[positive], curve.y[positive]
                if curve.method == reference:
                    axes.plot(x, y, color=INK, alpha=0.35, linewidth=4.5, label=curve.method, solid_capstyle="round")
                    tops.append(y.max())
                    bottoms.append(y.min())
                else:
                    axes.plot(x, y, label=curve.method, **line_style(curve.method, ranks[curve.method]))
                    tops.append(y.max())
            axes.set_xscale("log")
            axes.set_yscale("log")
            low, high = axes.get_xlim()
            if high < 200 * low:  # too few powers of ten to read a value from
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(chart.title)
            axes.set_xlabel(x_label)
            _frame(axes)
        grid[0].set_ylabel(with_units("power", charts[0].units))
        if tops:
            peak = max(tops)
            floor = max(min(bottoms, default=peak * 1e-9), peak * 1e-9)
            grid[0].set_ylim(
                floor / 5, peak * 4
            )  # what lies far below the truth's own floor would only squeeze the picture
        _legend(figure)
    return figure


def rank_histogram(counts: Mapping[str, np.ndarray], ranks: Mapping[str, int] | None = None) -> Figure:
    """Rank of the truth among the members, relative to what a perfect ensemble has; flat at 1 is right.

    Args:
        counts: Counts or frequencies of each rank, shape (member + 1,), for each method or lead time.
    """
    names = list(counts)
    columns = min(4, max(1, len(names)))
    rows = -(-len(names) // columns)
    with styled():
        figure = new_figure(max(9.6 * columns / 4, 4.0), 2.15 * rows + 0.35)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        for number, (axes, name) in enumerate(zip(grid.ravel(), names, strict=False)):
            values = np.asarray(counts[name], dtype=float)
            total = values.sum()
            relative = values / total * values.size if total > 0 else values
            colour = line_style(name, 0 if ranks is None else ranks.get(name, number))["color"]
            axes.bar(np.arange(values.size), relative, width=0.86, color=colour, alpha=0.85)
            axes.axhline(1.0, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
            axes.set_title(name)
            axes.set_xlabel("rank of the truth")
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="x", integer=True, nbins=6)
            _frame(axes, across=False)
        for row in grid:
            row[0].set_ylabel("frequency / flat")
    return figure


def calibration(diagrams: Sequence[Diagram], ranks: Mapping[str, int] | None = None) -> Figure:
    """Diagrams side by side, the diagonal dashed."""
    with styled():
        figure = new_figure(3.3 * len(diagrams) + 0.2, 3.55)
        grid = figure.subplots(1, len(diagrams), squeeze=False)[0]
        for axes, diagram in zip(grid, diagrams, strict=True):
            values = np.concatenate([np.concatenate([curve.x, curve.y]) for curve in diagram.curves])
            top = diagram.top or 1.06 * float(values[np.isfinite(values)].max(initial=0.0)) or 1.0
            axes.plot([0, top], [0, top], color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
            for number, curve in enumerate(diagram.curves):
                style = line_style(curve.method, number if ranks is None else ranks.get(curve.method, number))
                axes.plot(curve.x, curve.y, marker="o", markersize=2.5, label=curve.method, **style)
            axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
            axes.set(title=diagram.title, xlabel=diagram.across, ylabel=diagram.upwards)
            _frame(axes)
        _legend(figure)
    return figure


def densities(charts: Sequence[Chart], x_label: str, *, ranks: Mapping[str, int] | None = None) -> Figure:
    """Probability densities on a logarithmic scale, one chart for each lead time; the truth is a wide grey line."""
    ranks = method_ranks(charts) if ranks is None else ranks
    with styled():
        figure = new_figure(max(3.2 * len(charts), 5.6), 2.95)
        grid = figure.subplots(1, len(charts), squeeze=False, sharey=True)[0]
        for axes, chart in zip(grid, charts, strict=True):
            for curve in chart.curves:
                y = np.where(curve.y > 0, curve.y, np.nan)
                if curve.method == "truth":
                    axes.plot(curve.x, y, color=INK, alpha=0.35, linewidth=4.5, label="truth", solid_capstyle="round")
                else:
                    axes.plot(curve.x, y, label=curve.method, **line_style(curve.method, ranks.get(curve.method, 0)))
            axes.set_yscale("log")
            axes.set_title(chart.title)
            axes.set_xlabel(x_label)
            _frame(axes)
        grid[0].set_ylabel("probability density")
        _legend(figure)
    return figure


def spread_skill(curves: Sequence[Curve], units: str, ranks: Mapping[str, int] | None = None) -> Figure:
    """Error of the ensemble mean (upwards) against spread (across); a reliable ensemble follows the diagonal.

    Args:
        curves: Spread (x) and root-mean-square error (y), one point for each lead time or bin.
    """
    with styled():
        figure = new_figure(4.6, 4.1)
        axes = figure.subplots()
        values = np.concatenate([np.concatenate([curve.x, curve.y]) for curve in curves]) if curves else np.ones(1)
        finite = values[np.isfinite(values)]
        top = 1.06 * float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        axes.plot([0, top], [0, top], color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        for number, curve in enumerate(curves):
            style = line_style(curve.method, number if ranks is None else ranks.get(curve.method, number))
            axes.plot(
                curve.x, curve.y, marker="o", markersize=2.5 if curve.x.size < 50 else 0, label=curve.method, **style
            )
        axes.text(0.06 * top, 0.94 * top, "too little spread", fontsize=8, color=INK, alpha=0.75, va="top")
        axes.text(0.95 * top, 0.06 * top, "too much spread", fontsize=8, color=INK, alpha=0.75, ha="right")
        axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axes.set_xlabel(with_units("spread", units))
        axes.set_ylabel(with_units("RMSE of the mean", units))
        _frame(axes)
        if len(curves) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def training_curve(steps: np.ndarray, losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Loss over steps, logarithmic: (steps, values) of each series; a series with many points is drawn as its running
    median.

    Args:
        steps: Steps at which a new stage starts; a line is drawn at each but the first.
    """
    with styled():
        figure = new_figure(9.6, 2.7)
        axes = figure.subplots()
        positive = True
        for rank, (name, (x, y)) in enumerate(losses.items()):
            style = line_style(name, rank)
            if y.size > 200:
                bins = np.array_split(np.arange(y.size), 200)
                x, y = (np.array([np.median(values[index]) for index in bins]) for values in (x, y))
            axes.plot(x, y, label=name, marker="o" if y.size < 30 else None, markersize=3, **style)
            positive = positive and bool(np.all(y[np.isfinite(y)] > 0))
        for step in steps[1:]:
            axes.axvline(step, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        if positive:
            axes.set_yscale("log")
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        _frame(axes)
        _legend(figure)
    return figure


def _chart(axes: Axes, chart: Chart, ranks: Mapping[str, int], pad: float) -> None:
    for curve in chart.curves:
        style = line_style(curve.method, ranks[curve.method])
        marker = "o" if curve.x.size < 15 else None
        axes.plot(curve.x, curve.y, marker=marker, markersize=3, label=curve.method, **style)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.17, linewidth=0)
    if chart.guide is not None:
        axes.axhline(chart.guide, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), alpha=0.8)
        if chart.guide_label:
            axes.annotate(
                chart.guide_label, (1, chart.guide), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=7.5, color=INK, annotation_clip=False,
            )  # fmt: skip
    arrow = {"lower": "lower is better", "higher": "higher is better", "": ""}[chart.better]
    axes.set_title(chart.title + (f"  ({arrow})" if arrow else ""), y=1.0, pad=pad)
    axes.set_ylabel(with_units(chart.title, chart.units))
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
    axes.margins(x=0.01)
    _frame(axes)


def _frame(axes: Axes, across: bool = True) -> None:
    axes.grid(True, axis="both" if across else "y")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(figure: Figure) -> None:
    """One legend below for all axes; none for a single line."""
    found: dict[str, Any] = {}
    for other in figure.axes:
        for handle, label in zip(*other.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) > 1:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(len(found), 5))
