"""Scores as text: a table of one forecast, and one row per forecast side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from eddycast.evaluation.convention_table import convention_lines
from eddycast.evaluation.horizon_table import COLUMNS as HORIZON_COLUMNS
from eddycast.evaluation.horizon_table import horizons_table
from eddycast.evaluation.physics_words import physics_lines
from eddycast.evaluation.signatures import looked_for, signatures
from eddycast.evaluation.trajectories import PUBLISHED
from eddycast.evaluation.wording import align, number, signed, spread_out
from eddycast.metrics import SCORES, rank_flatness

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

PASSES = {way: f"eddycast_network_passes_{way}" for way in ("forward", "backward")}
"""Attributes that count what a forecast or an analysis cost, per member and case."""

# Columns of `table`, where the scores exist: name, heading, whether divided by the climatological deviation.
COLUMNS = (
    ("rmse_mean", "RMSE mean", True),
    ("rmse_member", "RMSE member", True),
    ("vrmse_member", "VRMSE member", False),
    ("crps", "CRPS", True),
    ("energy_score", "energy", True),
    ("variogram_score", "variogram", True),
    ("spread_skill", "spread/skill", False),
    ("correlation_mean", "corr mean", False),
    ("correlation_member", "corr member", False),
    ("coverage_80", "cover 80 %", False),
)


def table(scores: Scores, *, leads: int = 7) -> str:
    """A few lead times per field; scores with a unit in climatological standard deviations, with interval half widths."""
    unit = scores.time_units if scores.time_units not in ("", "1") else ""
    lines = []
    known = [column for column in COLUMNS if column[0] in scores.attributes["scores"]]
    physical = {score.name for score in SCORES if score.physical}
    physical |= {name for name, about in scores.attributes.get("about", {}).items() if about["physical"]}
    extra = [(name, name, name in physical) for name in scores.attributes["scores"] if name not in STANDARD_NAMES]
    for field in scores.fields:
        std = float(scores.data["climatology_std"].sel(field=field))
        own = scores.attributes["units"].get(field, "1")
        lines.append(
            f"{field}: RMSE, CRPS, energy, variogram in climatological standard deviations ({std:.4g}{_unit(own)})"
        )
        head = ["time" if scores.analysis else "lead", *(["Lyapunov"] if scores.lyapunov_time else [])]
        rows = [[*head, *(title for _, title, _ in (*known, *extra)), "cases"]]
        for place in chosen_leads(scores, leads):
            time = float(scores.lead_times[place])
            row = [f"{time:g}{' ' + unit if unit else ''}"]
            if scores.lyapunov_time:
                row.append(f"{time / scores.lyapunov_time:.2f}")
            for name, _, divided in (*known, *extra):
                scale = std if divided and std > 0 else 1.0
                row.append(_with_interval(scores, name, field, place, scale))
            rows.append([*row, str(int(scores.data["cases"].values[place]))])
        lines += [*align(rows), *_single_numbers(scores, field), ""]
    lines += horizons_table(scores, tuple(name for name, _, _ in extra))
    lines += [*convention_lines(scores), *physics_lines(scores)]
    lines += _remarks(scores)
    return "\n".join(lines).rstrip() + "\n"


def compare_table(scores: Mapping[str, Scores], *, leads: int = 3) -> str:
    """One row per forecast and one block per field; lead times within reach of the shortest forecast.

    Args:
        scores: By name, on the same cases (otherwise the table says so).
        leads: Number of lead times for CRPS and spread/skill. RMSD is that of the first member per point, over all leads.

    Raises: ValueError without scores.
    """
    if not scores:
        raise ValueError("compare_table needs at least one entry.")
    shortest = min(scores.values(), key=lambda one: float(one.lead_times[-1]))
    times = _compared_times(shortest, leads)
    lines = []
    for field in dict.fromkeys(field for one in scores.values() for field in one.fields):
        lyapunov = next((one.lyapunov_time for one in scores.values() if one.lyapunov_time), None)
        name = "HCT (Lyapunov times)" if lyapunov else "HCT"
        head = ["", f"{name} member", "mean", *(f"CRPS/sd {time:g}" for time in times)]
        head += [*(f"sp/sk {time:g}" for time in times), "RMSD/sd", "spectrum log10", "blown up"]
        head += ["passes", "failures", "cases"]
        rows = [head]
        for label, one in scores.items():
            if field not in one.fields:
                continue
            places = [int(np.abs(one.lead_times - time).argmin()) for time in times]
            row = [label, _hct(one, field, "member"), _hct(one, field, "mean")]
            row += [number(one.normalised("crps", field)[place]) if "crps" in one.data else "-" for place in places]
            ratio = "spread_skill" in one.data
            row += [f"{one.value('spread_skill', field, place):.2f}" if ratio else "-" for place in places]
            std = float(one.data["climatology_std"].sel(field=field))
            row.append(number(deviation(one, field, "member", "point")[0] / std if std > 0 else math.nan))
            row.append(number(spectral(one, field, "all", "mean")))
            bad = one.attributes["nonfinite_members"] + one.attributes["runaway_members"]
            row.append(f"{bad}/{one.members * one.attributes['num_cases']}")
            row += [passes(one), failures(one), str(one.attributes["num_cases"])]
            rows.append(row)
        lines += [field, *align(rows), ""]
    if len({one.attributes["num_cases"] for one in scores.values()}) > 1:
        lines.append("Careful: the forecasts were not scored on the same number of cases.")
    return "\n".join(lines).rstrip() + "\n"


def chosen_leads(scores: Scores, number: int) -> list[int]:
    """Indices of a few lead times: first and last, and powers of two between, of Lyapunov times where known."""
    times = scores.lead_times
    if len(times) <= number:
        return list(range(len(times)))
    unit = scores.lyapunov_time
    if unit and times[-1] > 2 * unit:
        top = math.floor(math.log2(times[-1] / unit))
        marks = [times[0], *(unit * 2.0 ** (top - i) for i in range(number - 2)), times[-1]]
    else:
        marks = np.geomspace(times[0] or times[1], times[-1], number).tolist()
    return sorted({int(np.abs(times - mark).argmin()) for mark in marks})


def _compared_times(scores: Scores, number: int) -> list[float]:
    """1, 2, 4, ... Lyapunov times where the forecast reaches that far, otherwise `chosen_leads`."""
    last, unit = float(scores.lead_times[-1]), scores.lyapunov_time
    if unit and last >= unit * 2 ** (number - 1):
        places = [int(np.abs(scores.lead_times - unit * 2**i).argmin()) for i in range(number)]
    else:
        places = chosen_leads(scores, number)
    return [float(scores.lead_times[place]) for place in places]


def spectral(scores: Scores, field: str, band: str, statistic: str) -> float:
    """Spectral error pooled over lead times, in decades; NaN where there is no spectrum."""
    if "spectral_error_pooled" not in scores.data:
        return math.nan
    return float(scores.data["spectral_error_pooled"].sel(field=field, band=band, statistic=statistic))


def _single_numbers(scores: Scores, field: str) -> list[str]:
    lines = []
    data, unit = scores.data, scores.lyapunov_time
    if "high_correlation_time" in data:
        scale, name = (unit, "Lyapunov times") if unit else (1.0, scores.time_units.replace("1", "") or "time units")
        threshold = scores.attributes["threshold"]
        for forecast in data["forecast"].values:
            parts = []
            for convention, average, words in (
                ("count", "cases", "counted, mean of cases"),
                (
                    PUBLISHED,
                    "cases",
                    f"the same with the {scores.attributes.get('given', 0)} given states, as published",
                ),
                ("first", "cases", "first crossing"),
                ("count", "curve", "counted, of the mean curve"),
                ("first", "curve", "first crossing of the mean curve"),
            ):
                if convention not in data["convention"].values:
                    continue
                key = {"field": field, "forecast": forecast, "convention": convention, "average": average}
                value, low, high = (
                    float(data[f"high_correlation_time{end}"].sel(key)) / scale for end in ("", "_low", "_high")
                )
                error = float(data["high_correlation_time_se"].sel(key)) / scale if _has_errors(scores) else math.nan
                words += f", s.e. {error:.2f}" if math.isfinite(error) else ""
                parts.append(f"{_time(value, low, high)} ({words})")
            open_end = float(data["censored"].sel(field=field, forecast=forecast))
            tail = f"; {open_end:.0%} of cases never fall below" if open_end > 0 else ""
            who = "first member" if forecast == "member" else "ensemble mean"
            if scores.members == 1 and forecast == "mean":
                continue
            lines.append(f"  time with correlation >= {threshold:g}, {who}, {name}: {'; '.join(parts)}{tail}")
    lines += _deviations(scores, field)
    if "spectral_error_pooled" in data:
        parts = [
            f"{band} {number(spectral(scores, field, str(band), 'mean'))}"
            for band in data["band"].values
            if band != "all"
        ]
        mean, largest = (number(spectral(scores, field, "all", kind)) for kind in ("mean", "largest"))
        lines.append(
            f"  spectrum, |log10| of member over truth: {', '.join(parts)}; all modes {mean}, at most {largest}"
        )
    if "spectrum_bands" in data:
        stages = [str(stage) for stage in data["stage"].values]
        power = data["spectrum_bands"].sel(field=field)
        parts = [
            f"{band} {' / '.join(signed(float(value)) for value in power.sel(spectrum_band=band).values)}"
            for band in data["spectrum_band"].values
        ]
        lines.append(f"  power by band, log10 of members over truth, {' / '.join(stages)}: {', '.join(parts)}")
    if "rank_histogram" in data:
        ranks = data["rank_histogram"].sel(field=field).values
        ranks = ranks[np.isfinite(ranks).all(axis=-1)]
        if len(ranks):
            off = float(rank_flatness(torch.as_tensor(ranks.mean(axis=0))))
            most = 2 * scores.members / (scores.members + 1)
            lines.append(f"  rank histogram, distance from flat: {off:.3f} (0 is flat, {most:.2f} all in one rank)")
    return lines


def _has_errors(scores: Scores) -> bool:
    """Scores of older files carry no standard errors."""
    return "high_correlation_time_se" in scores.data


def _deviations(scores: Scores, field: str) -> list[str]:
    """RMSD over all lead times, in both conventions."""
    if "rmsd" not in scores.data:
        return []
    lines = []
    meaning = {
        "point": "per point",
        "state": "summed over points, as published",
        "state-given": "with the given states",
    }
    for forecast, who in (("member", "first member"), ("mean", "ensemble mean")):
        if scores.members == 1 and forecast == "mean":
            continue
        parts = []
        for norm in scores.data["norm"].values:
            value, low, high, error = deviation(scores, field, forecast, str(norm))
            ends = f" [{number(low)}, {number(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
            words = f", s.e. {number(error)}" if math.isfinite(error) else ""
            parts.append(f"{number(value)}{ends} ({meaning[str(norm)]}{words})")
        unit = _unit(scores.attributes["units"].get(field, "1"))
        lines.append(f"  RMSD over all lead times, {who}{',' if unit else ''}{unit}: {'; '.join(parts)}")
    return lines


def deviation(scores: Scores, field: str, forecast: str, norm: str) -> tuple[float, float, float, float]:
    """RMSD, its interval and its standard error, in units of the field; NaN where there is none."""
    if "rmsd" not in scores.data or field not in scores.fields or norm not in scores.data["norm"].values:
        return math.nan, math.nan, math.nan, math.nan
    key = {"field": field, "forecast": forecast, "norm": norm}
    value, low, high, error = (float(scores.data[f"rmsd{end}"].sel(key)) for end in ("", "_low", "_high", "_se"))
    return value, low, high, error


def passes(scores: Scores) -> str:
    """Network passes per member and case, forward + backward; `-` where they were not counted."""
    counts = [scores.attributes.get(name) for name in PASSES.values()]
    known = [float(count) for count in counts if count is not None and math.isfinite(float(count))]
    return " + ".join(f"{count:.6g}" for count in known) if len(known) == 2 else "-"


def failures(scores: Scores) -> str:
    """Names of the failure signatures, or `none`."""
    return ", ".join(dict.fromkeys(one.name for one in signatures(scores))) or "none"


def _remarks(scores: Scores) -> list[str]:
    facts = scores.attributes
    members = f"{facts['members']} member{'s' if facts['members'] > 1 else ''}"
    blocks = facts["num_blocks"]
    intervals = (
        f"+- and [ ] are {facts['level']:.0%} block-bootstrap intervals over cases"
        if blocks > 1
        else "too few cases for intervals"
    )
    cases = f"{facts['num_cases']} case{'s' if facts['num_cases'] > 1 else ''}"
    lines = [f"{cases} in {blocks} block{'s' if blocks > 1 else ''}, {members}; {intervals}."]
    total = facts["members"] * facts["num_cases"]
    if facts["nonfinite_members"] or facts["runaway_members"]:
        lines.append(
            f"{facts['nonfinite_members']} of {total} members become non-finite and {facts['runaway_members']} leave "
            f"the range of the data, first at {facts['first_bad_lead']:g}."
        )
    else:
        lines.append(f"All {total} members stay finite and within the range of the data.")
    if passes(scores) != "-":
        lines.append(f"Network passes per member and case, forward + backward: {passes(scores)}.")
    lines += [*facts["notes"], *(f"Failure: {one.sentence}" for one in signatures(scores))]
    if failures(scores) == "none":
        lines.append(f"No failure signature ({', '.join(looked_for(scores))}).")
    return lines


def _hct(scores: Scores, field: str, forecast: str) -> str:
    if "high_correlation_time" not in scores.data:
        return "-"
    key = {"field": field, "forecast": forecast, "convention": "count", "average": "cases"}
    scale = scores.lyapunov_time or 1.0
    value, low, high = (
        float(scores.data[f"high_correlation_time{end}"].sel(key)) / scale for end in ("", "_low", "_high")
    )
    return _time(value, low, high)


def _time(value: float, low: float, high: float) -> str:
    """A time with its interval, if there is one: a single block of cases says nothing of the next."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) and math.isfinite(high) else f"{value:.2f}"


def _with_interval(scores: Scores, name: str, field: str, place: int, scale: float) -> str:
    value = scores.value(name, field, place) / scale
    if not math.isfinite(value):
        return "blow-up" if scores.data["nonfinite"].values[place] else "-"
    low, high = (scores.value(f"{name}{end}", field, place) / scale for end in ("_low", "_high"))
    return spread_out(value, low, high)


def _unit(units: str) -> str:
    return "" if units in ("", "1") else f" {units}"


STANDARD_NAMES = frozenset(
    {name for name, _, _ in COLUMNS}
    | {name for name, _ in HORIZON_COLUMNS}
    | {"mae_mean", "vrmse_mean", "crps_biased", "spread"}
)
"""Scores that have a place in a table, or say the same as one that has."""
