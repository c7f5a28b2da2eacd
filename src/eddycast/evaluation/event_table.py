"""An event study as text: probabilities at a few leads, then times to the event; of the first starts, and of their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from eddycast.evaluation.wording import align, number

if TYPE_CHECKING:
    from eddycast.evaluation.event_study import EventCase, EventStudy, PooledEvents, Side
    from eddycast.metrics.events import EventTimes

MOST_CASES = 4


def event_table(study: EventStudy, rows: int = 7) -> str:
    """At `rows` leads, evenly spread."""
    most = len(study.leads)
    places = sorted({round(place) for place in torch.linspace(0, most - 1, min(rows, most)).tolist()})
    unit = "" if study.time_units in ("", "1") else f" {study.time_units}"
    leads = {place: f"{study.leads[place]:g}{unit}" for place in places}
    lines = [f"Probability that {study.event} ({study.field}), with {study.level:.0%} intervals"]
    for case in study.cases[:MOST_CASES]:
        lines += _case(case, leads, unit)
    if len(study.cases) > MOST_CASES:
        lines.append(f"({len(study.cases) - MOST_CASES} more starts in the file)")
    if study.pooled is not None:
        lines += [f"mean over {len(study.cases)} starts", *_pooled(study.pooled, leads)]
    return "\n".join([*lines, *study.notes]) + "\n"


def _case(case: EventCase, leads: dict[int, str], unit: str) -> list[str]:
    start = "" if case.trajectory is None else f"trajectory {case.trajectory}, frame {case.frame}: "
    truth = "" if case.truth is None else f", solver {case.truth.members}"
    table = [_head(case.truth is not None)]
    for place, lead in leads.items():
        row = [lead, _with_ends(case.forecast, place)]
        if case.truth is not None and case.difference is not None:
            assert case.difference_low is not None and case.difference_high is not None
            ends = f"[{case.difference_low[place]:+.3f}, {case.difference_high[place]:+.3f}]"
            row += [_with_ends(case.truth, place), f"{case.difference[place]:+.3f} {ends}"]
        table.append(row)
    lines = [f"{start}{case.forecast.members} members{truth}", *align(table)]
    for name, side in (("forecast", case.forecast), ("solver", case.truth)):
        if side is not None:
            lines.append(f"  time to the event, {name}: {_times(side.times)}")
    if case.distance is not None and case.distance_by_chance is not None and case.p_value is not None:
        lines.append(
            f"  Wasserstein distance of these times {number(case.distance)}{unit} (between draws of one law "
            f"{number(case.distance_by_chance)}; p = {case.p_value:.3f})"
        )
    return lines


def _pooled(pooled: PooledEvents, leads: dict[int, str]) -> list[str]:
    table = [_head(pooled.truth is not None)]
    for place, lead in leads.items():
        row = [
            lead,
            f"{pooled.forecast[place]:.3f} [{pooled.forecast_low[place]:.3f}, {pooled.forecast_high[place]:.3f}]",
        ]
        if pooled.truth and pooled.difference and pooled.difference_low and pooled.difference_high:
            ends = f"[{pooled.difference_low[place]:+.3f}, {pooled.difference_high[place]:+.3f}]"
            row += [f"{pooled.truth[place]:.3f}", f"{pooled.difference[place]:+.3f} {ends}"]
        table.append(row)
    return align(table)


def _head(with_truth: bool) -> list[str]:
    return ["by", "forecast", *(["solver", "difference"] if with_truth else [])]


def _with_ends(side: Side, place: int) -> str:
    return f"{side.probability[place]:.3f} [{side.low[place]:.3f}, {side.high[place]:.3f}]"


def _times(times: EventTimes) -> str:
    def word(value: float) -> str:
        return "beyond" if value == float("inf") else f"{value:g}"

    def span(ends: tuple[float, float]) -> str:
        return f"{word(ends[0])} to {word(ends[1])}"

    return f"median {word(times.median)}, 50 % {span(times.half)}, 90 % {span(times.most)}"
