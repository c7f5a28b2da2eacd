"""Tables of what is few numbers per forecast: high-correlation times, RMSD, power by band, averages over horizons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from eddycast.report.html import Table
from eddycast.report.scorecard import number, time_words

if TYPE_CHECKING:
    from eddycast.evaluation import Scores

_TIMES = (
    ("count", "cases", "counted, cases"),
    ("count-given", "cases", "counted with given states, cases"),
    ("first", "cases", "first crossing, cases"),
    ("count", "curve", "counted, mean curve"),
    ("first", "curve", "first crossing, mean curve"),
)
_NORMS = (("point", "per point"), ("state", "summed over points"), ("state-given", "summed, with given states"))
_WHO = (("member", "first member"), ("mean", "ensemble mean"))


def conventions_table(scores: Mapping[str, Scores], field: str) -> Table | None:
    """A row for each convention and a column for each method: high-correlation time and RMSD with intervals and errors.

    None where no method has any of them.
    """
    first = next(iter(scores.values()))
    unit = "Lyapunov times" if first.lyapunov_time else first.time_units.replace("1", "") or "time units"
    rows = []
    for forecast, who in _WHO:
        for convention, average, words in _TIMES:
            key = {"field": field, "forecast": forecast, "convention": convention, "average": average}
            cells = [
                _cell(one, "high_correlation_time", key, 1 / (one.lyapunov_time or 1.0)) for one in scores.values()
            ]
            rows.append((f"High-correlation time, {who}, {words} ({unit})", *cells))
        for norm, words in _NORMS:
            cells = [
                _cell(one, "rmsd", {"field": field, "forecast": forecast, "norm": norm}) for one in scores.values()
            ]
            rows.append((f"RMSD over all leads, {who}, {words}", *cells))
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    if not rows:
        return None
    level = 100 * float(first.attributes.get("level", 0.95))
    caption = (
        f"Field {field}. In brackets {level:.3g} % block-bootstrap intervals, after ± one standard error over cases. Published "
        "numbers of conditional diffusion are of one member, counted over all states (given ones too), and summed over points."
    )
    return Table(("Convention", *scores), tuple(rows), caption)


def bands_table(scores: Mapping[str, Scores], field: str) -> Table | None:
    """log10 of the members' over the truth's power, a row for each method and a column for each stage and band."""
    shown = {name: one for name, one in scores.items() if "spectrum_bands" in one.data and field in one.fields}
    if not shown:
        return None
    first = next(iter(shown.values()))
    stages, bands = ([str(value) for value in first.data[name].values] for name in ("stage", "spectrum_band"))
    header = ["Method", *(f"{band}, {stage}" for stage in stages for band in bands)]
    rows = []
    for name, one in shown.items():
        power = one.data["spectrum_bands"].sel(field=field).reindex(stage=stages, spectrum_band=bands)
        rows.append((name, *(f"{value:+.2f}" if np.isfinite(value) else "–" for value in power.values.ravel())))
    ends = [
        f"{stage} from {time_words(first, float(start))} to {time_words(first, float(stop))}"
        for stage, start, stop in zip(
            stages, first.data["stage_start"].values, first.data["stage_stop"].values, strict=True
        )
    ]
    caption = (
        f"Field {field}, log10 of the members' over the truth's power in thirds of the resolved wavenumbers (of their "
        f"logarithm): 0 is right, -0.30 half, +0.30 twice. Lead times: {'; '.join(ends)}."
    )
    return Table(tuple(header), tuple(rows), caption)


def horizons_table(scores: Mapping[str, Scores]) -> Table | None:
    """Averages over horizons and fields, a row for each horizon and method; None where no method has any."""
    from eddycast.evaluation.horizon_table import COLUMNS  # and with it torch, which pictures do without

    shown = {name: one for name, one in scores.items() if "horizon_means" in one.data}
    if not shown:
        return None
    labels = list(dict.fromkeys(str(label) for one in shown.values() for label in one.data["horizon"].values))
    rows = []
    for label in labels:
        for name, one in shown.items():
            known = set(one.data["score"].values)
            if label not in one.data["horizon"].values:
                continue
            cells = [one.horizon(score, label) if score in known else (np.nan,) * 3 for score, _ in COLUMNS]
            rows.append((label, name, *(_between(*cell) for cell in cells)))
    kept = [0, 1, *(place for place in range(2, len(rows[0])) if any(row[place] != "–" for row in rows))]
    header = ("Leads", "Method", *(title[0].upper() + title[1:] for _, title in COLUMNS))
    caption = (
        "Means over fields and over the lead times of a horizon, both ends included, in steps of the data; the first lead is told "
        "apart. CRPS and Wasserstein distance in climatological deviations. In brackets block-bootstrap intervals over cases."
    )
    return Table(
        tuple(header[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows), caption
    )


def _between(value: float, low: float, high: float) -> str:
    """`1.23 [1.10, 1.40]`, as far as it is known."""
    ends = f" [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else ""
    return number(value) + ends


def _cell(scores: Scores, name: str, key: Mapping[str, str], scale: float = 1.0) -> str:
    """`1.23 [1.10, 1.40] ± 0.05`, as far as the scores tell."""
    data = scores.data
    if name not in data or any(value not in data[axis].values for axis, value in key.items()):
        return "–"
    if scores.members == 1 and key["forecast"] == "mean":
        return "–"
    value, low, high, error = (
        float(data[name + end].sel(key)) * scale if name + end in data else float("nan")
        for end in ("", "_low", "_high", "_se")
    )
    if not np.isfinite(value):
        return "–"
    return _between(value, low, high) + (f" ± {number(error)}" if np.isfinite(error) else "")
