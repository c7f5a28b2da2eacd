"""Calibration and laws of values, read off the profiles of an evaluation for pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from eddycast.report.canvas import with_units
from eddycast.report.curves import Chart, Curve, Diagram

if TYPE_CHECKING:
    from eddycast.evaluation import Scores

MIN_COUNT = 30  # points below which a bin of a reliability diagram says nothing


def calibration_diagrams(scores: Mapping[str, Scores], field: str, units: str) -> list[Diagram]:
    """Coverage, reliability of the event, and error over spread by point; those for which there are numbers."""
    found = (
        Diagram("central intervals", "nominal coverage", "observed coverage", coverage_curves(scores, field), 1.0),
        Diagram("event", "forecast probability", "observed frequency", event_curves(scores, field), 1.0),
        Diagram(
            "spread by point", with_units("spread", units), "RMSE of the mean", binned_spread_curves(scores, field)
        ),
    )
    return [diagram for diagram in found if diagram.curves]


def coverage_curves(scores: Mapping[str, Scores], field: str) -> tuple[Curve, ...]:
    """Observed over nominal coverage of central intervals, averaged over the groups of leads."""
    curves = []
    for name, one in _having("interval_coverage", scores, field):
        observed = one.data["interval_coverage"].sel(field=field).values
        whole = np.isfinite(observed).all(axis=-1)
        if whole.any() and observed.shape[-1] > 1:
            curves.append(Curve(name, one.data["interval"].values, observed[whole].mean(axis=0)))
    return tuple(curves)


def event_curves(scores: Mapping[str, Scores], field: str) -> tuple[Curve, ...]:
    """Frequency of the event over its forecast probability, all leads pooled; probabilities hardly used are left out."""
    curves = []
    for name, one in _having("event_mass", scores, field):
        data = one.data.sel(field=field)
        mass, hits, count = (data[part].values.sum(axis=0) for part in ("event_mass", "event_hits", "event_count"))
        shown = count >= MIN_COUNT
        if shown.sum() > 1:
            curves.append(Curve(name, data["votes"].values[shown], hits[shown] / mass[shown]))
    return tuple(curves)


def binned_spread_curves(scores: Mapping[str, Scores], field: str) -> tuple[Curve, ...]:
    """Error of the mean over spread, points binned by spread, all leads pooled; nearly empty bins are left out."""
    curves = []
    for name, one in _having("binned_spread", scores, field):
        data = one.data.sel(field=field)
        count = data["binned_count"].values
        total = count.sum(axis=0)
        shown = total >= MIN_COUNT
        if shown.sum() > 1:
            spread, error = (
                np.sqrt(np.nansum(count * data[part].values ** 2, axis=0)[shown] / total[shown])
                for part in ("binned_spread", "binned_error")
            )
            curves.append(Curve(name, spread, error))
    return tuple(curves)


def density_charts(scores: Mapping[str, Scores], field: str, charts: int = 3) -> list[Chart]:
    """Probability density of the values of truth and members at an early, a middle and the last group of lead times."""
    known = dict(_having("pdf_member", scores, field))
    if not known:
        return []
    first = next(iter(known.values()))
    groups, drawn = first.data.sizes["group"], []
    for group in sorted({int(g) for g in np.linspace(0, groups - 1, min(charts, groups)).round()}):
        start, stop = (float(first.data[name].values[group]) for name in ("group_start", "group_stop"))
        curves = [_density("truth", first, "pdf_truth", field, group)]
        for name, one in known.items():
            starts = one.data["group_start"].values
            if len(starts) > group and abs(float(starts[group]) - start) < 1e-6 * max(1, start):
                curves.append(_density(name, one, "pdf_member", field, group))
        units = "" if first.time_units in ("1", "") else f" {first.time_units}"
        title = f"lead {start:.4g}" if start == stop else f"leads {start:.4g} to {stop:.4g}"
        drawn.append(Chart(title + units, tuple(curves)))
    return drawn


def _density(method: str, scores: Scores, name: str, field: str, group: int) -> Curve:
    edges = scores.data["pdf_edges"].sel(field=field).values
    inside = scores.data[name].sel(field=field).values[group][1:-1]
    return Curve(method, (edges[1:] + edges[:-1]) / 2, inside / np.diff(edges))


def _having(variable: str, scores: Mapping[str, Scores], field: str) -> Iterator[tuple[str, Scores]]:
    return ((name, one) for name, one in scores.items() if variable in one.data and field in one.fields)
