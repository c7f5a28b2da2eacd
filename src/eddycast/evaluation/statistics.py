"""Statistics of long forecasts and of data by parameter value: laws of values, spectra, space-time correlation, jets, tracking.

A forecast beyond the reach of prediction cannot be right state by state, but its statistics can. Each distance from the truth stands
beside the distance of two parts of the truth from each other.

To add one: its sums over states in `gather` (a field of `Gathered`), what they say in `likeness`, a field of `GroupStatistics`, its
lines in `statistics_table`, its curve (if it has one) in `report.statistics`; a test of truth in `test_statistics.py`, a row in
`docs/scores.md`. What it computes from tensors is a function of its own in `metrics/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation.gather import JetSettings, Plan, check_jet_settings, extent, gather
from eddycast.evaluation.likeness import (
    Density,
    Distance,
    Jets,
    Reach,
    Spectrum,
    densities,
    distances,
    jets_of,
    reach,
    spectrum,
)
from eddycast.evaluation.runs import (
    Group,
    Run,
    Source,
    distinct,
    lyapunov_time_of,
    opened_runs,
    parameter_groups,
    physical_grid,
    shared_parameters,
)
from eddycast.evaluation.tracking import Tracking, tracking
from eddycast.grid import Grid

MOST_LAGS = 256


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """Of one set of parameters.

    Args:
        parameters: Values that tell it from the others.
        runs, states: Of the forecast, or of the data alone; `truth_runs`, `truth_states` of the truth, 0 without.
        std: Standard deviation of the truth (of the data) over space and time.
        lyapunov_time: Of these parameters, where it is known.
        distances: Marginals first, then pairs; `average`, mean Hellinger distance of field, first and second derivative, with
            its own `by_chance` and `bound`.
        densities: Of the marginals.
        spectrum, reach, truth_reach, jets, truth_jets, tracking: None where there is none.
    """

    parameters: dict[str, float]
    runs: int
    states: int
    truth_runs: int
    truth_states: int
    std: float
    lyapunov_time: float | None
    average: Distance | None
    distances: tuple[Distance, ...]
    densities: tuple[Density, ...]
    spectrum: Spectrum | None
    reach: Reach | None
    truth_reach: Reach | None
    jets: Jets | None
    truth_jets: Jets | None
    tracking: tuple[Tracking, ...]


@dataclass(frozen=True, eq=False)
class Statistics:
    """See `statistics`.

    Args:
        field, units, axis, length_units, time_units: What it is of.
        settings: Of the call.
        groups: In ascending order of their parameters.
        notes: What a reader should know.
    """

    field: str
    units: str
    axis: str
    length_units: str
    time_units: str
    compared: bool
    settings: dict[str, Any]
    groups: tuple[GroupStatistics, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None for NaN, "inf" for what lies beyond what was seen."""
        return plain(asdict(self))

    def table(self) -> str:
        """As text."""
        from eddycast.evaluation.statistics_table import statistics_table

        return statistics_table(self)


def statistics(
    source: xr.Dataset | Dataset | str | Path,
    truth: xr.Dataset | Dataset | str | Path | None = None,
    *,
    split: str = "test",
    field: str | None = None,
    axis: str | None = None,
    by: Sequence[str] | None = None,
    skip: int = 0,
    lags: int | None = None,
    jets: JetSettings | None = None,
    thresholds: Sequence[float] = (0.3, 0.5),
    bins: int = 100,
    pair_bins: int = 50,
    seed: int = 0,
) -> Statistics:
    """Statistics by parameter value, of a long forecast against the truth, or of data alone.

    Args:
        source: Forecast (init, member, lead_time, *space) whose members are runs, or data, whose trajectories are.
        truth: Data that the forecast was made from, or a forecast of the solver; None for the statistics of `source` alone.
        split: Part of data that is read: train, valid, test or all.
        field: Name; None for the first one.
        axis: Along which derivatives and correlation are taken; None for the first one.
        by: Parameters (or one) whose values tell groups apart; None for all that vary.
        skip: States left out at the start of every run, of forecast and truth: the memory of the start, or the spin-up.
        lags: Lags of the correlation in steps; None for half the shortest run, 256 at most.
        jets: Settings, where jets are wanted.
        thresholds: Of the normalised error, for the valid times of a forecast.
        bins, pair_bins: Of each quantity alone, and of each of two jointly, over the truth's range.
        seed: Of the splits of the truth.

    Raises: InputError where the two do not fit, or there is nothing to compute from.
    """
    if skip < 0 or (lags is not None and lags < 1) or bins < 2 or pair_bins < 2:
        raise InputError(
            f"Expected skip >= 0, lags >= 1 and at least two bins, got {skip}, {lags} and {bins} (pairs {pair_bins})."
        )
    if jets is not None:
        check_jet_settings(jets)
    by = (by,) if isinstance(by, str) else by
    with ExitStack() as stack:
        own = stack.enter_context(opened_runs(source, split=split, field=field, name="The forecast"))
        known = None
        if truth is not None:
            known = stack.enter_context(opened_runs(truth, split=split, field=own.field, name="The truth"))
            check_alike(own, known)
        own, same = distinct(own)
        known, other = (None, "") if known is None else distinct(known)
        data = own.data if known is None else known.data or own.data
        number = _axis(own.grid, axis)
        if jets is not None:
            check_jets(own)
        names, groups, notes = parameter_groups(own, data, by)
        notes = [*notes, *(note for note in (same, other) if note)]
        rows: dict[Group, list[Run]] = {} if known is None else {(): list(known.runs)}
        if known is not None and names:
            _, rows, _ = parameter_groups(known, data, names)
        told = []
        for key, runs in groups.items():
            facing = rows.get(key) if known is not None else None
            if known is not None and not facing:
                values = ", ".join(f"{name} = {value:g}" for name, value in zip(names, key, strict=True))
                raise InputError(
                    f"The truth has no run with {values} in its part {split!r}: choose another with --split, such as all."
                )
            wanted = _Wanted(number, skip, lags, jets, bins, pair_bins, seed)
            told.append(
                _of_group(dict(zip(names, key, strict=True)), own, runs, known, facing, data, wanted, len(groups) == 1)
            )
        if own.ensemble and known is not None and known.data is not None:
            own_times = [
                (list(runs), group.std, group.lyapunov_time) for runs, group in zip(groups.values(), told, strict=True)
            ]
            found, more = tracking(own, known.data, own_times, thresholds)
            told = [replace(group, tracking=times) for group, times in zip(told, found, strict=True)]
            notes += more
        if known is not None and any(group.average is not None and group.average.bound is None for group in told):
            notes.append("The truth is too short to be split: what chance makes of a distance is unknown.")
        if jets is not None and any(
            one is not None and not one.exposure > 0 for group in told for one in (group.jets, group.truth_jets)
        ):
            notes.append(
                f"Rates of jets are unknown (nan): a change must last {jets.hold} states (--hold), and no run is longer than that."
            )
        settings = {
            "split": split,
            "skip": skip,
            "bins": bins,
            "pair_bins": pair_bins,
            "thresholds": list(thresholds),
            "seed": seed,
        }
        settings["jets"] = None if jets is None else asdict(jets)
        along = own.grid.axes[number]
        return Statistics(
            own.field, own.units, along.name, along.units, own.time_units, known is not None, settings, tuple(told), tuple(notes)
        )  # fmt: skip


@dataclass(frozen=True)
class _Wanted:
    axis: int
    skip: int
    lags: int | None
    jets: JetSettings | None
    bins: int
    pair_bins: int
    seed: int


def check_alike(own: Source, known: Source) -> None:
    """Raises: InputError for other grids or time steps."""
    if own.grid.shape != known.grid.shape:
        shapes = ["x".join(map(str, grid.shape)) for grid in (own.grid, known.grid)]
        raise InputError(f"The forecast has {shapes[0]} points, the truth {shapes[1]}: pass the data it was made from.")
    if abs(own.dt - known.dt) > 1e-3 * known.dt:
        raise InputError(
            f"The forecast has states every {own.dt:g}, the truth every {known.dt:g}: rates, derivatives and events depend on that; "
            "make them alike."
        )


def check_jets(source: Source) -> None:
    """Raises: InputError where there can be no jets."""
    if len(source.grid.axes) != 1:
        raise InputError(
            f"Jets are maxima of a profile along one axis, {source.field!r} has {len(source.grid.axes)} "
            f"({', '.join(source.grid.names)}): give zonal means."
        )
    if not source.grid.axes[0].periodic:
        raise InputError(
            f"Jets are looked for round a periodic axis, {source.grid.names[0]!r} is bounded: open data with ?periodic=NAME."
        )
    if source.valid is not None:
        raise InputError(
            f"Jets need a value at every point, {source.field!r} has none at {int((~source.valid).sum())}."
        )


def _axis(grid: Grid, name: str | None) -> int:
    number = 0 if name is None else (grid.names.index(name) if name in grid.names else -1)
    if number < 0:
        raise InputError(f"There is no axis {name!r}: the field has {', '.join(grid.names)}.")
    if grid.shape[number] < 3:
        raise InputError(
            f"Derivatives are taken along {grid.names[number]!r}, of {grid.shape[number]} point(s); 3 are needed: choose another --axis."
        )
    return number


def _of_group(
    parameters: dict[str, float],
    own: Source,
    runs: list[Run],
    known: Source | None,
    facing: list[Run] | None,
    data: Dataset | None,
    wanted: _Wanted,
    alone: bool,
) -> GroupStatistics:
    reference = facing if facing is not None else runs
    frames = min(run.frames for run in [*runs, *reference]) - wanted.skip
    if frames < 1:
        raise InputError(
            f"Nothing is left of runs of {frames + wanted.skip} states when {wanted.skip} are left out: lower --skip."
        )
    shared = shared_parameters(runs, data)
    system = (own if known is None else known).system or own.system
    grid = physical_grid((own if known is None else known).grid, system, shared)
    lags = min(MOST_LAGS, max(1, frames // 2)) if wanted.lags is None else min(wanted.lags + 1, frames)
    valid = own.valid if known is None else known.valid
    plan = Plan(own.field, grid, wanted.axis, own.dt, valid, frames >= 3, lags, wanted.skip)
    bounds = extent(plan, reference)
    if not bool(bounds.low.isfinite().all()):
        raise InputError(
            f"{(known or own).name}: {own.field!r} has no finite value along {grid.names[wanted.axis]!r} to take statistics of."
        )
    if wanted.jets is not None:
        prominence = wanted.jets.prominence * math.sqrt(bounds.variance)
        if not prominence > 0:
            raise InputError(
                f"Jets need a field that varies and a positive prominence, got {wanted.jets.prominence:g} deviations."
            )
        plan = replace(plan, jets=replace(wanted.jets, prominence=prominence))
    bins = {"bins": wanted.bins, "pair_bins": wanted.pair_bins}
    of_truth = gather(plan, reference, bounds, **bins)
    made = None if facing is None else gather(plan, runs, bounds, **bins)
    apart, average = distances(plan, made, of_truth, wanted.seed)
    forecast = of_truth if made is None else made
    return GroupStatistics(
        parameters,
        len(runs),
        forecast.states,
        0 if made is None else of_truth.runs,
        0 if made is None else of_truth.states,
        math.sqrt(bounds.variance),
        lyapunov_time_of(system, shared, (known or own).attributes, alone=alone),
        average,
        tuple(apart),
        densities(plan, made, of_truth),
        spectrum(plan, made, of_truth, wanted.seed),
        reach(plan, forecast),
        None if made is None else reach(plan, of_truth),
        jets_of(plan, forecast),
        None if made is None else jets_of(plan, of_truth),
        (),
    )


def plain(value: Any) -> Any:
    """Values as JSON has them: None for NaN, "inf" for infinity."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
