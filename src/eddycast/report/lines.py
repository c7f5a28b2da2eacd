"""Pictures of fields on a single point: states as lines over time, and below them spread and error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from eddycast.report.canvas import INK, LINES, lyapunov_axis, new_figure, plain, styled, with_units

if TYPE_CHECKING:
    from eddycast.report.fields import Panel
    from eddycast.report.view import View


def time_lines(view: View, panels: Sequence[Panel], time_label: str, *, mark: float | None = None) -> Figure:
    """Lines over lead time: truth, mean and members of one kind of panel, spread and error of the other below.

    Args:
        view: Field with one axis of space of one point.
        panels: As for `fields.space_time`; values (lead_time, 1), observations where they are not missing.
        time_label: Name and unit of the time axis.
        mark: Draws a line at that time (end of the observations).
    """
    groups = [[panel for panel in panels if panel.scale == scale] for scale in ("state", "spread")]
    shown = [group for group in groups if group]
    with styled():
        figure = new_figure(9.6, 2.3 * len(shown) + 1.1)
        rows = figure.subplots(
            len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [2, 1][: len(shown)]}
        )[:, 0]
        for axes, group in zip(rows, shown, strict=True):
            for number, panel in enumerate(group):
                leads = view.leads if panel.leads is None else panel.leads
                values = panel.values.reshape(len(leads), -1)[:, 0]
                if panel.dots:
                    axes.plot(leads, values, linestyle="", marker="o", markersize=3.5, color=LINES[1], zorder=4,
                              label=panel.title)  # fmt: skip
                elif panel.title == "truth":
                    axes.plot(leads, values, color=INK, linewidth=1.6, linestyle=(0, (4, 1.5)), zorder=3,
                              label=panel.title)  # fmt: skip
                elif " member " in panel.title:
                    axes.plot(leads, values, color=LINES[0], linewidth=0.8, alpha=0.5, label=panel.title)
                else:
                    colour = LINES[0] if panel.scale == "state" else LINES[number % len(LINES)]
                    axes.plot(leads, values, color=colour, linewidth=2.0, label=panel.title)
            if group[0].scale == "state" and view.spread is not None:
                mean, spread = (one.reshape(len(view.leads), -1)[:, 0] for one in (view.mean, view.spread))
                axes.fill_between(view.leads, mean - spread, mean + spread, color=LINES[0], alpha=0.18, linewidth=0)
            if mark is not None:
                axes.axvline(mark, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
            axes.set_ylabel(with_units(view.label if group[0].scale == "state" else "size", view.units))
            axes.legend(loc="upper left", ncols=2, fontsize=7.5)
        if shown[-1][0].scale == "spread":
            rows[-1].set_ylim(bottom=0)
        times = np.concatenate([view.leads if panel.leads is None else panel.leads for panel in panels])
        if np.ptp(times) > 0:
            rows[0].set_xlim(float(times.min()), float(times.max()))
        rows[-1].set_xlabel(time_label)
        lyapunov_axis(rows[0], view.lyapunov_time)
        figure.suptitle(plain(view.title), x=0.01, ha="left", fontsize=10, color=INK)
    return figure
