"""How probable an event is by each lead time in an ensemble from one state, and whether the solver's ensemble says the same."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation.event_kinds import (
    Event,
    JetEvent,
    check_event,
    check_start,
    start_of,
    states_of,
    times_of,
    with_prominence,
)
from eddycast.evaluation.runs import Run, Source, opened_runs
from eddycast.evaluation.statistics import check_alike, check_jets, plain
from eddycast.metrics import block_bootstrap
from eddycast.metrics.events import (
    EventTimes,
    binomial_interval,
    compare_event_times,
    difference_interval,
    event_counts,
    event_times,
)

SAME = 1e-3
"""Difference of lead times, relative to the time step, that counts as none."""


@dataclass(frozen=True, eq=False)
class Side:
    """One ensemble from one state.

    Args:
        members: How many.
        hits: Members in which the event has happened by each lead.
        probability, low, high: With its Wilson interval; `exact_low`, `exact_high` that of Clopper and Pearson.
        times: Probability by the horizon, median and central 50 % and 90 % of the time to the event; infinite is beyond it.
    """

    members: int
    hits: list[int]
    probability: list[float]
    low: list[float]
    high: list[float]
    exact_low: list[float]
    exact_high: list[float]
    times: EventTimes


@dataclass(frozen=True, eq=False)
class EventCase:
    """One start, (trajectory, frame); None where the file does not say.

    Args:
        difference, difference_low, difference_high: Forecast less solver's probability by each lead, with Newcombe's interval.
        distance: Wasserstein-1 distance of the times to the event, cut at the horizon; `distance_by_chance` between two draws of one
            law, and the p-value of the difference (by permutation).
    """

    trajectory: int | None
    frame: int | None
    forecast: Side
    truth: Side | None
    difference: list[float] | None
    difference_low: list[float] | None
    difference_high: list[float] | None
    distance: float | None
    distance_by_chance: float | None
    p_value: float | None


@dataclass(frozen=True, eq=False)
class PooledEvents:
    """Means over the starts, with intervals that resample starts (with few starts too narrow)."""

    forecast: list[float]
    forecast_low: list[float]
    forecast_high: list[float]
    truth: list[float] | None
    difference: list[float] | None
    difference_low: list[float] | None
    difference_high: list[float] | None


@dataclass(frozen=True, eq=False)
class EventStudy:
    """See `event_study`."""

    field: str
    units: str
    time_units: str
    event: str
    level: float
    leads: list[float]
    cases: tuple[EventCase, ...]
    pooled: PooledEvents | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None for NaN, "inf" for what lies beyond the horizon."""
        content = asdict(self)
        for case, own in zip(content["cases"], self.cases, strict=True):
            for name in ("forecast", "truth"):
                side = getattr(own, name)
                if side is not None:
                    case[name]["times"] = side.times._asdict()
        return plain(content)

    def table(self, rows: int = 7) -> str:
        """As text."""
        from eddycast.evaluation.event_table import event_table

        return event_table(self, rows)


def event_study(
    forecast: xr.Dataset | Dataset | str | Path,
    truth: xr.Dataset | Dataset | str | Path | None = None,
    *,
    event: Event | None = None,
    field: str | None = None,
    split: str = "all",
    level: float = 0.95,
    permutations: int = 500,
    seed: int = 0,
) -> EventStudy:
    """Probability of an event by each lead time in an ensemble, against the solver's ensemble from the same states.

    Args:
        forecast: Ensemble (init, member, lead_time, *space), or data whose trajectories are the members of one case (their first states
            are lead 0 and do not count, see `event_kinds.check_start`).
        truth: The same of the solver, or None.
        event: What is looked for; None for a change of the number of jets.
        field: Name; None for the first one.
        split: Part of data.
        level: Of the intervals.
        permutations: Of the test that the times to the event have one law.
        seed: Of these and of the bootstrap over starts.

    Raises: InputError for a single member, trajectories that start from different states, an event that the field cannot have, ensembles
        that do not fit, or leads that are too short.
    """
    event = JetEvent() if event is None else event
    check_event(event)
    if not 0 < level < 1:
        raise InputError(f"The level of an interval lies between 0 and 1, got {level:g}.")
    with ExitStack() as stack:
        own = stack.enter_context(opened_runs(forecast, split=split, field=field, name="The forecast"))
        known = None
        if truth is not None:
            known = stack.enter_context(opened_runs(truth, split=split, field=own.field, name="The truth"))
            check_alike(own, known)
        if isinstance(event, JetEvent):
            check_jets(own)
        cases, leads = _members(own), _leads(own)
        other, its_leads = (None, leads) if known is None else (_members(known), _leads(known))
        count = min(len(leads), len(its_leads))
        if bool((leads[:count] - its_leads[:count]).abs().max() > SAME * own.dt):
            raise InputError(
                f"The forecast begins at lead time {leads[0]:g}, the solver's ensemble at {its_leads[0]:g}: make them alike."
            )
        hold = event.settings.hold if isinstance(event, JetEvent) else 1
        if count < hold:
            raise InputError(
                f"The ensembles have {count} lead times in common, a change must last {hold}: forecast longer, or lower --hold."
            )
        leads = leads[:count]
        pairs = _matched(cases, other)
        notes = []
        if isinstance(event, JetEvent):
            event, told = with_prominence(event, own if known is None else known, cases if other is None else other)
            notes.append(told)
            if hold > 1:
                notes.append(f"What happens in the last {hold - 1} leads is not known to last and does not count.")
        decided = leads[: count - hold + 1]
        told, rates = [], []
        for key, runs, facing in pairs:
            states = states_of(own, runs, count)
            against = None if facing is None or known is None else states_of(known, facing, count)
            start = start_of(event, states if against is None else against)
            times = times_of(event, states, leads, start, own)
            its_times = None if against is None or known is None else times_of(event, against, leads, start, known)
            told.append(_case(key, times, its_times, decided, level, permutations, seed))
            rates.append([_share(times, decided), None if its_times is None else _share(its_times, decided)])
        pooled = _pooled(rates, level, seed) if len(told) > 1 else None
        return EventStudy(
            own.field, own.units, own.time_units, event.words, level, decided.tolist(), tuple(told), pooled, tuple(notes)
        )  # fmt: skip


Key = tuple[int | None, int | None]


def _members(source: Source) -> dict[Key, list[Run]]:
    """Runs by start."""
    cases: dict[Key, list[Run]] = {}
    for run in source.runs:
        key = (run.trajectory, run.start) if source.ensemble and run.trajectory is not None else (None, None)
        cases.setdefault(key, []).append(run)
    if any(len(runs) < 2 for runs in cases.values()):
        raise InputError(
            f"{source.name}: an event study needs an ensemble, this has one member: forecast with --members 100 or more."
        )
    if not source.ensemble:
        check_start(source, source.runs)
    return cases


def _leads(source: Source) -> Tensor:
    if source.ensemble:
        return source.times
    shortest = min(run.frames for run in source.runs)
    if shortest < 2:
        raise InputError(f"{source.name}: members of a single state have no lead times: give longer runs.")
    return source.times[1:shortest]


def _matched(
    cases: dict[Key, list[Run]], other: dict[Key, list[Run]] | None
) -> list[tuple[Key, list[Run], list[Run] | None]]:
    if other is None:
        return [(key, runs, None) for key, runs in cases.items()]
    if len(cases) == len(other) == 1 and ((None, None) in cases or (None, None) in other):
        return [(key, runs, next(iter(other.values()))) for key, runs in cases.items()]
    common = [key for key in cases if key in other]
    if not common:
        raise InputError(
            "The forecast and the solver's ensemble share no start (trajectory and frame): make both from the same states."
        )
    return [(key, cases[key], other[key]) for key in common]


def _share(times: Tensor, leads: Tensor) -> Tensor:
    return event_counts(times, leads).double() / len(times)


def _side(times: Tensor, leads: Tensor, level: float) -> Side:
    hits = event_counts(times, leads)
    wilson = binomial_interval(hits, len(times), level=level)
    exact = binomial_interval(hits, len(times), level=level, method="exact")
    seen = torch.where(times <= leads[-1], times, torch.inf)
    return Side(
        len(times), hits.tolist(), (hits.double() / len(times)).tolist(), wilson.low.tolist(), wilson.high.tolist(),
        exact.low.tolist(), exact.high.tolist(), event_times(seen),
    )  # fmt: skip


def _case(
    key: Key, times: Tensor, other: Tensor | None, leads: Tensor, level: float, permutations: int, seed: int
) -> EventCase:
    side = _side(times, leads, level)
    if other is None:
        return EventCase(*key, side, None, None, None, None, None, None, None)
    facing = _side(other, leads, level)
    hits = [torch.tensor(one.hits) for one in (side, facing)]
    ends = difference_interval(hits[0], len(times), hits[1], len(other), level=level)
    difference = (_share(times, leads) - _share(other, leads)).tolist()
    generator = torch.Generator().manual_seed(seed)
    test = compare_event_times(times, other, float(leads[-1]), permutations=permutations, generator=generator)
    return EventCase(
        *key, side, facing, difference, ends.low.tolist(), ends.high.tolist(), test.distance, test.by_chance, test.p_value
    )  # fmt: skip


def _pooled(rates: list[list[Tensor | None]], level: float, seed: int) -> PooledEvents:
    blocks = torch.arange(len(rates))

    def interval(values: Tensor) -> tuple[list[float], list[float], list[float]]:
        ends = block_bootstrap(values, blocks, level=level, generator=torch.Generator().manual_seed(seed))
        return values.mean(dim=0).tolist(), ends.low.tolist(), ends.high.tolist()

    own = torch.stack([one for one, _ in rates if one is not None])
    facing = [other for _, other in rates if other is not None]
    forecast = interval(own)
    if not facing:
        return PooledEvents(*forecast, None, None, None, None)
    other = torch.stack(facing)
    return PooledEvents(*forecast, other.mean(dim=0).tolist(), *interval(own - other))
