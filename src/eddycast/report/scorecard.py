"""Scores in pictures, tables and headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eddycast.report.canvas import pretty_units
from eddycast.report.curves import Chart, Curve
from eddycast.report.html import KeyFigure, Table

if TYPE_CHECKING:
    from eddycast.evaluation import Scores


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, no exponent where none is needed; an en dash for what is not a number."""
    if not np.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:.{decimals}f}"


def time_words(scores: Scores, lead: float) -> str:
    """`1.5 Lyapunov times`, or `3 months` where that time is unknown."""
    if scores.lyapunov_time:
        return f"{lead / scores.lyapunov_time:.2g} Lyapunov times"
    return f"{lead:.4g}" + ("" if scores.time_units in ("1", "") else f" {_flat(scores.time_units)}")


# Scores that have a place of their own, or say the same as one that has.
_PLACED = frozenset(
    {
        "rmse_mean", "rmse_member", "mae_mean", "vrmse_mean", "vrmse_member", "crps", "crps_biased", "spread",
        "spread_skill", "correlation_mean", "correlation_member", "coverage_50", "coverage_80", "coverage_90",
        "vrmse_published", "spread_skill_published", "low_band_power_rmse", "mid_band_power_rmse", "high_band_power_rmse",
    }
)  # fmt: skip
_TITLES = {
    "energy_score": "Energy score",
    "variogram_score": "Variogram score",
    "wasserstein_values": "Wasserstein distance of values",
    "semd": "Earth mover's distance",
}


def other_scores(scores: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Scores without a place of their own, registered or the user's, each with what the evaluation says about it."""
    found: dict[str, dict[str, Any]] = {}
    for one in scores.values():
        about = one.attributes.get("about", {})
        for name in one.attributes.get("scores", ()):
            if name not in _PLACED and name in one.data:
                found.setdefault(str(name), dict(about.get(name, {})))
    return found


def title_of(name: str) -> str:
    """Heading of a score: its name in words."""
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def score_charts(scores: Mapping[str, Scores], field: str) -> list[Chart]:
    """RMSE, CRPS, correlation, spread over error and every other score, with their intervals, over lead time."""
    first = next(iter(scores.values()))
    units = str(first.attributes.get("units", {}).get(field, "1"))
    deviation = float(first.data["climatology_std"].sel(field=field))
    charts = []
    for name, title in (("rmse_mean", "RMSE of the mean"), ("crps", "CRPS")):
        curves = _curves(scores, name, field)
        ends = [curve.y if curve.high is None else np.fmax(curve.y, curve.high) for curve in curves]
        tops = [np.nanmax(values) for values in ends if np.isfinite(values).any()]
        if not tops:
            continue
        # One method that blows up must not flatten the others.
        top = min(1.08 * max(tops), 2.5 * deviation) if deviation > 0 else 1.08 * max(tops)
        guide = deviation if name == "rmse_mean" and 0 < deviation < top else None
        label = "climate" if guide else ""
        charts.append(Chart(title, curves, units, guide, label, (0.0, top or 1.0), "lower"))
    curves = _curves(scores, "correlation_member", field)
    if curves:
        threshold = float(first.attributes.get("threshold", 0.8))
        low = min(-0.05, *(float(np.nanmin(curve.y)) for curve in curves if np.isfinite(curve.y).any()), 0.0)
        chart = Chart("Correlation, first member", curves, "1", threshold, f"{threshold:g}", (low, 1.02), "higher")
        charts.append(chart)
    curves = _curves(scores, "spread_skill", field)
    if curves:
        tops = [float(np.nanmax(curve.y)) for curve in curves if np.isfinite(curve.y).any()]
        top = min(max([1.5, *(1.08 * value for value in tops)]), 2.5)
        charts.append(Chart("Spread / error", curves, "1", 1.0, "reliable", (0.0, top)))
    for name, about in other_scores(scores).items():
        if curves := _curves(scores, name, field):
            charts.append(_other_chart(name, about, curves, units))
    return charts


def _other_chart(name: str, about: Mapping[str, Any], curves: tuple[Curve, ...], units: str) -> Chart:
    target, better = about.get("target"), about.get("better", "")
    ends = [curve.y if curve.high is None else np.fmax(curve.y, curve.high) for curve in curves]
    lows = [curve.y if curve.low is None else np.fmin(curve.y, curve.low) for curve in curves]
    # Half of the methods, not the worst one, set the scale.
    top = 1.08 * min(max(np.nanmax(values) for values in ends), 4 * float(np.median([np.nanmax(v) for v in ends])))
    low = min(0.0, *(float(np.nanmin(values)) for values in lows))
    return Chart(
        title_of(name),
        curves,
        units if about.get("physical") else "1",
        None if target is None else float(target),
        "" if target is None else "reliable",
        (low, float(top)) if np.isfinite(top) and top > low else None,
        better if better in ("lower", "higher") else "",
    )


def _curves(scores: Mapping[str, Scores], name: str, field: str) -> tuple[Curve, ...]:
    found = []
    for method, one in scores.items():
        if name not in one.data or field not in one.fields:
            continue
        values = one.series(name, field)
        if not np.isfinite(values).any():
            continue
        low, high = (one.series(name + end, field) if name + end in one.data else None for end in ("_low", "_high"))
        found.append(Curve(method, one.lead_times, np.where(np.isfinite(values), values, np.nan), low, high))
    return tuple(found)


def spectra_charts(scores: Mapping[str, Scores], field: str, charts: int = 3) -> list[Chart]:
    """Power of the truth and of each method's members at an early, a middle and the last group of lead times."""
    with_power = {name: one for name, one in scores.items() if "power_member" in one.data and field in one.fields}
    if not with_power:
        return []
    first = next(iter(with_power.values()))
    groups = first.data.sizes["group"]
    drawn = []
    for group in sorted({int(g) for g in np.linspace(0, groups - 1, min(charts, groups)).round()}):
        start, stop = (float(first.data[name].values[group]) for name in ("group_start", "group_stop"))
        truth = first.data["power_truth"].sel(field=field).values[group]
        curves = [Curve("truth", first.data["wavenumber"].values, truth)]
        for name, one in with_power.items():
            if one.data.sizes["group"] > group and abs(
                float(one.data["group_start"].values[group]) - start
            ) < 1e-6 * max(1, start):
                power = one.data["power_member"].sel(field=field).values[group]
                curves.append(Curve(name, one.data["wavenumber"].values, power))
        span = f"lead {start:.4g}" if start == stop else f"leads {start:.4g} to {stop:.4g}"
        units = "" if first.time_units in ("1", "") else f" {first.time_units}"
        drawn.append(Chart(span + units, tuple(curves)))
    return drawn


def rank_counts(scores: Scores, field: str, charts: int = 4) -> dict[str, np.ndarray]:
    """Rank histograms by group of lead times; empty with a single member."""
    if "rank_histogram" not in scores.data or field not in scores.fields:
        return {}
    data = scores.data
    counts = {}
    for group in sorted(
        {int(g) for g in np.linspace(0, data.sizes["group"] - 1, min(charts, data.sizes["group"])).round()}
    ):
        values = data["rank_histogram"].sel(field=field).values[group]
        start, stop = (float(data[name].values[group]) for name in ("group_start", "group_stop"))
        if np.isfinite(values).all():
            counts[f"lead {start:.4g}" if start == stop else f"leads {start:.4g} to {stop:.4g}"] = values
    return counts


def spread_skill_curves(scores: Mapping[str, Scores], field: str) -> list[Curve]:
    """Spread and error of the mean at every lead time, for methods with several members."""
    return [
        Curve(name, one.series("spread", field), one.series("rmse_mean", field))
        for name, one in scores.items()
        if "spread" in one.data and field in one.fields and np.isfinite(one.series("spread", field)).any()
    ]


def high_correlation(scores: Scores, field: str) -> tuple[float, float, float, float] | None:
    """Mean over cases of the first member's high-correlation time, its interval, and the part of cases cut short.

    In Lyapunov times where that time is known, else in time units; counted as the leads above the threshold.
    """
    if "high_correlation_time" not in scores.data or field not in scores.fields:
        return None
    where = {"field": field, "forecast": "member", "convention": "count", "average": "cases"}
    scale = scores.lyapunov_time or 1.0
    value, low, high = (
        float(scores.data["high_correlation_time" + end].sel(where)) / scale for end in ("", "_low", "_high")
    )
    return value, low, high, float(scores.data["censored"].sel(field=field, forecast="member"))


def comparison_table(scores: Mapping[str, Scores], field: str, leads: int = 3) -> Table:
    """One row for each method: CRPS at a few lead times, RMSE, spread over error, high correlation, spectrum."""
    from eddycast.evaluation.table import failures, passes, spectral  # and with it torch, which pictures do without

    first = next(iter(scores.values()))
    times = _table_times(first, leads)
    units = str(first.attributes.get("units", {}).get(field, "1"))
    unit = "" if units == "1" else f" ({_flat(units)})"
    lyapunov = first.lyapunov_time
    when = [f"{time / lyapunov:.2g} LT" if lyapunov else time_words(first, time) for time in times]
    header = ["Method", "Members"]
    directions: list[str] = ["", ""]
    columns: list[list[tuple[float, str]]] = [
        [(np.nan, name) for name in scores],
        [(np.nan, str(one.members)) for one in scores.values()],
    ]
    middle = times[len(times) // 2]
    for name, title, shown in (("crps", "CRPS", times), ("rmse_mean", "RMSE", [middle])):
        for time in shown:
            header.append(f"{title} at {when[times.index(time)]}{unit}")
            directions.append("lower")
            columns.append([_cell(_at(one, name, field, time)) for one in scores.values()])
    if any("spread_skill" in one.data for one in scores.values()):
        header.append(f"Spread / error at {when[times.index(middle)]}")
        directions.append("one")
        columns.append([_cell(_at(one, "spread_skill", field, middle)) for one in scores.values()])
    for name, about in other_scores(scores).items():
        values = [_at(one, name, field, middle) for one in scores.values()]
        if np.isfinite(values).any():
            header.append(f"{title_of(name)} at {when[times.index(middle)]}{unit if about.get('physical') else ''}")
            directions.append(about["better"] if about.get("better") in ("lower", "higher") else "")
            columns.append([_cell(value) for value in values])
    lasting = [high_correlation(one, field) for one in scores.values()]
    if any(item is not None for item in lasting):
        header.append(f"High correlation for ({'LT' if lyapunov else _flat(first.time_units)})")
        directions.append("higher")
        columns.append([_lasting_cell(item) for item in lasting])
    if any("spectral_error_pooled" in one.data for one in scores.values()):
        header.append("Spectral error (decades)")
        directions.append("lower")
        columns.append(
            [
                _cell(spectral(one, field, "all", "mean") if field in one.fields else float("nan"))
                for one in scores.values()
            ]
        )
    for title, told in (("Network passes", passes), ("Failures", failures)):
        header.append(title)
        directions.append("")
        columns.append([(np.nan, told(one)) for one in scores.values()])
    rows = tuple(tuple(column[row][1] for column in columns) for row in range(len(scores)))
    best = frozenset(
        (row, column)
        for column, direction in enumerate(directions)
        for row in _best([cell[0] for cell in columns[column]], direction)
    )
    cases = ", ".join(sorted({str(int(one.attributes["num_cases"])) for one in scores.values()}))
    level = 100 * float(first.attributes.get("level", 0.95))
    caption = (
        f"Field {field}, {cases} cases.{' Best of each column emphasised.' if len(scores) > 1 else ''} "
        f"In brackets: {level:.3g} % intervals by block bootstrap over cases. CRPS is fair for ensembles and the "
        "absolute error for one member; spread / error is 1 for a reliable ensemble. Correlation is high while the "
        f"first member's stays above {float(first.attributes.get('threshold', 0.8)):.3g}."
        + (f" LT: Lyapunov time, {lyapunov:.4g} in units of lead time." if lyapunov else "")
        + " Network passes are windows evaluated per member and case, forward + backward; -: not counted."
    )
    return Table(tuple(header), rows, caption, best)


def key_figures(scores: Mapping[str, Scores], field: str) -> list[KeyFigure]:
    """Numbers that stand for the first method; the others are what it is compared with."""
    (name, main), *others = scores.items()
    figures = []
    lasting = high_correlation(main, field)
    if lasting is not None:
        value, low, high, censored = lasting
        unit = "Lyapunov times" if main.lyapunov_time else _flat(main.time_units)
        more = "; cut short by the end of the forecast" if censored > 0.5 else ""
        figures.append(
            KeyFigure("High correlation for", ("≥ " if censored > 0.5 else "") + number(value),
                      f"{unit} [{number(low)}, {number(high)}], first member{more}")
        )  # fmt: skip
    times = _table_times(main, 3)
    middle = times[len(times) // 2]
    for other_name, other in others:
        ours, theirs = _at(main, "crps", field, middle), _at(other, "crps", field, middle)
        if np.isfinite(ours) and np.isfinite(theirs) and theirs > 0 and "persist" in other_name.lower():
            figures.append(
                KeyFigure(
                    "CRPS below persistence",
                    f"{100 * (1 - ours / theirs):.0f} %",
                    f"at lead {time_words(main, middle)}",
                )
            )
    if "spread_skill" in main.data:
        ratio = _at(main, "spread_skill", field, middle)
        figures.append(KeyFigure("Spread / error", number(ratio), f"1 is reliable; at lead {time_words(main, middle)}"))
    error = _at(main, "rmse_mean", field, middle) / float(main.data["climatology_std"].sel(field=field))
    figures.append(
        KeyFigure("RMSE of the mean", number(error), f"climatological deviations, at lead {time_words(main, middle)}")
    )
    cases = int(main.attributes["num_cases"])
    figures.append(KeyFigure("Scored", f"{main.members} × {cases}", f"members × cases of {name}"))
    return figures


def strengths(scores: Mapping[str, Scores], field: str | None = None) -> list[str]:
    """One sentence on which methods the first one beats in CRPS from its first lead time on, and up to when."""
    (_, main), *others = scores.items()
    field = main.fields[0] if field is None else field
    always, until = [], []
    for name, other in others:
        if "crps" not in main.data or "crps" not in other.data or field not in other.fields:
            continue
        theirs = np.array([_at(other, "crps", field, float(time)) for time in main.lead_times])
        shared = np.isfinite(theirs)
        if not shared.any():
            continue
        better = main.series("crps", field)[shared] < theirs[shared]
        if better.all():
            always.append(name)
        elif better[0]:
            until.append(
                f"{name} up to {time_words(main, float(main.lead_times[shared][np.flatnonzero(~better)[0] - 1]))}"
            )
    parts = ([f"{' and '.join(always)} at every lead time"] if always else []) + until
    return [f"Beats {', '.join(parts)} (CRPS, {field})."] if parts else []


def _table_times(scores: Scores, count: int) -> list[float]:
    """An early, a middle and the last lead time, apart by ratio; whole Lyapunov times where they are known."""
    times, unit = scores.lead_times, scores.lyapunov_time
    marks = np.geomspace(max(float(times[-1]) / 8, 1e-12), float(times[-1]), count) if times[-1] > 0 else times
    if unit:
        marks[:-1] = np.maximum(np.round(marks[:-1] / unit), 1) * unit if times[-1] > 4 * unit else marks[:-1]
    return sorted({float(times[np.abs(times - mark).argmin()]) for mark in marks})


def _at(scores: Scores, name: str, field: str, time: float) -> float:
    """A score at the lead time closest to `time`; not a number where the method has none within half a step of it."""
    if name not in scores.data or field not in scores.fields:
        return float("nan")
    place = int(np.abs(scores.lead_times - time).argmin())
    step = float(np.diff(scores.lead_times).min()) if len(scores.lead_times) > 1 else abs(time) or 1.0
    return scores.value(name, field, place) if abs(scores.lead_times[place] - time) <= 0.5 * step else float("nan")


def _cell(value: float) -> tuple[float, str]:
    return value, number(value)


def _lasting_cell(item: tuple[float, float, float, float] | None) -> tuple[float, str]:
    if item is None or not np.isfinite(item[0]):
        return float("nan"), "–"
    value, low, high, censored = item
    return value, f"{'≥ ' if censored > 0.5 else ''}{number(value)} [{number(low)}, {number(high)}]"


def _best(values: Sequence[float], direction: str) -> list[int]:
    """Rows of the best value; none where there is nothing to compare."""
    array = np.asarray(values, dtype=float)
    if not direction or np.isfinite(array).sum() < 2:
        return []
    cost = {"lower": array, "higher": -array, "one": np.abs(np.log(np.maximum(array, 1e-9)))}[direction]
    return [int(np.nanargmin(np.where(np.isfinite(cost), cost, np.nan)))]


def _flat(units: str) -> str:
    """Units in plain text, for tables."""
    words = pretty_units(units)
    return units if "$" in words else words or "time units"
