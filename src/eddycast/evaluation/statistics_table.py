"""Statistics as text: one block for each set of parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eddycast.evaluation.wording import align, number

if TYPE_CHECKING:
    from eddycast.evaluation.statistics import Distance, GroupStatistics, Jets, Reach, Statistics


def statistics_table(found: Statistics) -> str:
    """Distances with what chance makes of them, spectra, e-folding times and lengths, valid times, jets."""
    lines: list[str] = []
    for group in found.groups:
        lines += [*_head(found, group), *_distances(group), *_spectrum(group), *_reach(found, group)]
        lines += [*_jets(found, group), *_tracking(found, group), ""]
    lines += found.notes
    return "\n".join(lines).rstrip() + "\n"


def _head(found: Statistics, group: GroupStatistics) -> list[str]:
    values = ", ".join(f"{name} = {value:g}" for name, value in group.parameters.items()) or found.field
    unit = "" if found.units in ("", "1") else f" {found.units}"
    truth = f"; truth {group.truth_runs} runs, {group.truth_states} states" if group.truth_runs else ""
    told = f"{values}: {group.runs} runs, {group.states} states{truth}; standard deviation {group.std:.4g}{unit}"
    if group.lyapunov_time is not None:
        told += f"; Lyapunov time {group.lyapunov_time:.4g}{_unit(found.time_units)}"
    return [told]


def _distances(group: GroupStatistics) -> list[str]:
    if group.average is None:
        lost = [one for one in group.distances if one.lost]
        return [f"  not finite: {', '.join(one.quantities)} {one.lost:.2%}" for one in lost]
    rows = [["law of", "Hellinger", "by chance", "95 %", "outside", "lost", ""]]
    rows += [_distance(", ".join(one.quantities), one) for one in group.distances]
    rows.append(_distance("average of the first three", group.average))
    return align(rows)


def _distance(name: str, one: Distance) -> list[str]:
    assert one.hellinger is not None
    said = "" if one.bound is None else ("within" if one.hellinger <= one.bound else "beyond")
    numbers = [one.hellinger, one.by_chance, one.bound]
    shares = ["" if share is None else f"{share:.2%}" for share in (one.outside, one.lost)]
    return [name, *("-" if value is None else number(value) for value in numbers), *shares, said]


def _spectrum(group: GroupStatistics) -> list[str]:
    if group.spectrum is None or group.spectrum.error is None:
        return []
    told = []
    for name, value in group.spectrum.error.items():
        bound = group.spectrum.bound[name] if group.spectrum.bound is not None else math.nan
        told.append(f"{name} {number(value)}" + (f" (95 % {number(bound)})" if math.isfinite(bound) else ""))
    return [f"  spectrum, mean |log10 ratio|: {', '.join(told)}"]


def _reach(found: Statistics, group: GroupStatistics) -> list[str]:
    told = []
    for name, reach in (("forecast", group.reach), ("truth", group.truth_reach)):
        if reach is not None:
            length = _with_error(reach.length, reach.length_error, _last(reach, "length"), _unit(found.length_units))
            time = _with_error(reach.time, reach.time_error, _last(reach, "time"), _unit(found.time_units))
            told.append(
                f"{name} {length} in {found.axis}, {time} in time"
                if found.compared
                else f"{length} in {found.axis}, {time} in time"
            )
    return [f"  correlation falls to 1/e within: {'; '.join(told)}"] if told else []


def _last(reach: Reach, which: str) -> float:
    return reach.offsets[-1] if which == "length" else reach.lags[-1]


def _with_error(value: float, error: float, last: float, unit: str) -> str:
    if math.isinf(value) and last == 0:  # one lag is no course of time
        return "unknown"
    if math.isinf(value):
        return f"more than {last:.4g}{unit}"
    spread = f" +- {number(error)}" if math.isfinite(error) else ""
    return f"{number(value)}{spread}{unit}"


def _jets(found: Statistics, group: GroupStatistics) -> list[str]:
    told = [("forecast" if found.compared else "data", group.jets), ("truth", group.truth_jets)]
    rows = [["jets of", "mean", "nucleations", "per time", "coalescences", "per time", "median wait"]]
    rows += [_jet_row(name, jets) for name, jets in told if jets is not None]
    return align(rows) if len(rows) > 1 else []


def _jet_row(name: str, jets: Jets) -> list[str]:
    rates = ["{:.3g} [{:.3g}, {:.3g}]".format(*rate) for rate in (jets.nucleation_rate, jets.coalescence_rate)]
    wait = "-" if jets.wait_quartiles is None else f"{jets.wait_quartiles[1]:.4g} ({jets.waits})"
    return [name, f"{jets.mean:.2f}", str(jets.nucleations), rates[0], str(jets.coalescences), rates[1], wait]


def _tracking(found: Statistics, group: GroupStatistics) -> list[str]:
    if not group.tracking:
        return []
    unit = (
        "Lyapunov times"
        if group.tracking[0].lyapunov is not None
        else found.time_units.replace("1", "") or "time units"
    )
    rows = [["tracks for", "error above", f"median ({unit})", "25 to 75 %", "cases", "never"]]
    for one in group.tracking:
        low, middle, high = one.quartiles if one.lyapunov is None else one.lyapunov
        rows.append(
            [
                one.forecast,
                f"{one.threshold:g}",
                _bounded(middle),
                f"{_bounded(low)} to {_bounded(high)}",
                str(one.cases),
                f"{one.censored:.0%}",
            ]
        )
    return align(rows)


def _bounded(value: float) -> str:
    return "beyond" if math.isinf(value) else f"{value:.2f}"


def _unit(units: str) -> str:
    return "" if units in ("", "1") else f" {units}"
