"""Pictures of statistics: PDFs, spectra and space-time correlation by parameter value; probabilities of events and their times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from eddycast.report.canvas import INK, LINES, new_figure, plain, styled, with_units

if TYPE_CHECKING:
    from eddycast.evaluation.event_study import EventStudy, Side
    from eddycast.evaluation.likeness import Density, Reach, Spectrum
    from eddycast.evaluation.statistics import GroupStatistics, Statistics

MOST_ROWS = 6
LEVELS = (0.1, 0.37, 0.7)


def statistics_picture(found: Statistics) -> Figure:
    """One row for each set of parameters: PDFs of field and first derivative, spectrum, correlation; the truth is the wide grey line."""
    groups = found.groups[:MOST_ROWS]
    with styled():
        figure = new_figure(12.4, 2.7 * len(groups) + 0.4)
        rows = figure.subplots(len(groups), 4, squeeze=False)
        for axes, group in zip(rows, groups, strict=True):
            title = ", ".join(f"{name} = {value:g}" for name, value in group.parameters.items())
            for place, one in zip(axes[:2], group.densities[:2], strict=True):
                _density(place, one)
            axes[0].set_title(plain(title or found.field))
            _spectrum(axes[2], group.spectrum)
            _correlation(axes[3], found, group)
        figure.legend(*_names(rows[0, 0]), loc="outside lower center", ncols=2)
    return figure


def event_picture(found: EventStudy) -> Figure:
    """One row for each start: probability by lead with intervals, and the spread of times to the event, 50 % thick and 90 % thin."""
    cases = found.cases[:MOST_ROWS]
    with styled():
        figure = new_figure(9.6, 2.5 * len(cases) + 0.6)
        rows = figure.subplots(len(cases), 2, squeeze=False, gridspec_kw={"width_ratios": [3, 2]})
        for axes, case in zip(rows, cases, strict=True):
            sides = [("forecast", case.forecast, LINES[0])]
            if case.truth is not None:
                sides.insert(0, ("solver", case.truth, INK))
            for name, side, colour in sides:
                axes[0].plot(found.leads, side.probability, color=colour, label=name)
                axes[0].fill_between(found.leads, side.low, side.high, color=colour, alpha=0.2, linewidth=0)
            axes[0].set_ylim(0, None)
            axes[0].set_ylabel("probability")
            start = "" if case.trajectory is None else f"trajectory {case.trajectory}, frame {case.frame}"
            axes[0].set_title(plain(start or found.event))
            _spans(axes[1], sides, found.leads[-1])
            for place in axes:
                place.set_xlim(0, found.leads[-1])
                place.set_xlabel(with_units("lead time", found.time_units))
        rows[0, 1].set_title("time to the event")
        rows[0, 0].legend(loc="upper left")
        figure.suptitle(plain(f"{found.field}: {found.event}"), x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def _density(axes: Axes, one: Density) -> None:
    edges = np.asarray(one.edges)
    middle = (edges[1:] + edges[:-1]) / 2
    for name, values in (("truth", one.truth), ("forecast", one.forecast)):
        if values is not None:
            shown = np.where(np.asarray(values) > 0, values, np.nan)
            axes.plot(middle, shown, label=name if one.forecast is not None else "data", **_look(name))
    axes.set_yscale("log")
    axes.set_xlabel(plain(one.quantity))
    axes.set_ylabel("density")


def _spectrum(axes: Axes, one: Spectrum | None) -> None:
    if one is None:
        axes.set_visible(False)
        return
    k = np.asarray(one.wavenumber)[1:]
    top = 0.0
    for name, side in (("truth", one.truth), ("forecast", one.forecast)):
        if side is None:
            continue
        mean, low, high = (np.asarray(side[part])[1:] for part in ("mean", "low", "high"))
        top = max(top, float(np.nanmax(mean)))
        axes.plot(k, np.where(mean > 0, mean, np.nan), **_look(name))
        axes.fill_between(k, low, high, color=_look(name)["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if top > 0:
        axes.set_ylim(top * 1e-9, top * 3)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("wavenumber")
    axes.set_ylabel("power")


def _correlation(axes: Axes, found: Statistics, group: GroupStatistics) -> None:
    """Lines of equal correlation over offset and lag: the truth's filled, the forecast's drawn."""
    sides: list[tuple[str, Reach]] = [
        (name, one) for name, one in (("truth", group.truth_reach), ("forecast", group.reach)) if one is not None
    ]
    if not sides or len(sides[0][1].lags) < 2:
        axes.set_visible(False)
        return
    for name, one in sides:
        table = np.asarray(one.correlation, dtype=float)
        if not np.isfinite(table).any():
            continue
        if name == "truth" or len(sides) == 1:
            axes.contourf(one.offsets, one.lags, table, levels=[-1.0, *LEVELS, 1.01], cmap="Greys", alpha=0.6)
        else:
            axes.contour(one.offsets, one.lags, table, levels=LEVELS, colors=LINES[0], linewidths=1.2)
    reach = [one.time for _, one in sides if math.isfinite(one.time)]
    if reach:
        axes.set_ylim(0, min(sides[0][1].lags[-1], 4 * max(reach)))
    axes.set_xlabel(with_units(f"offset in {plain(found.axis)}", found.length_units))
    axes.set_ylabel(with_units("lag", found.time_units))


def _spans(axes: Axes, sides: list[tuple[str, Side, str]], last: float) -> None:
    """Central intervals of the times, cut at the horizon."""
    for height, (_, side, colour) in enumerate(sides):
        for ends, width in ((side.times.most, 1.4), (side.times.half, 5.0)):
            low, high = (min(end, last) for end in ends)
            axes.plot([low, high], [height, height], color=colour, linewidth=width, solid_capstyle="butt")
        if math.isfinite(side.times.median):
            axes.plot([side.times.median], [height], marker="|", markersize=12, color=colour)
    axes.set_yticks(range(len(sides)), [name for name, _, _ in sides])
    axes.set_ylim(-0.6, len(sides) - 0.4)


def _look(name: str) -> dict:
    if name == "truth":
        return {"color": INK, "alpha": 0.45, "linewidth": 3.5}
    return {"color": LINES[0]}


def _names(axes: Axes) -> tuple[list, list]:
    return axes.get_legend_handles_labels()
