"""Score a forecast or an analysis against the truth, reading both piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast import distributed
from eddycast.data import Dataset
from eddycast.data.gridded import open_xarray
from eddycast.data.opening import existing, file_format
from eddycast.errors import InputError
from eddycast.evaluation.convention import PooledScores, pooled_scores
from eddycast.evaluation.derive import Derivation, Quantity, derivation
from eddycast.evaluation.horizons import HorizonsLike, horizon_scores, read_horizons
from eddycast.evaluation.matching import Match, match
from eddycast.evaluation.physics import PhysicsChecks, physics_checks
from eddycast.evaluation.resampling import Resampling
from eddycast.evaluation.scores import MEASURED, Scores
from eddycast.evaluation.tally import Tally, has_truth
from eddycast.evaluation.through import THROUGH
from eddycast.evaluation.trajectories import high_correlation_times, trajectory_deviations
from eddycast.evaluation.verification import Climatology, Verification, climatology
from eddycast.evaluation.windows import window_attributes
from eddycast.labelled import check_ensemble
from eddycast.metrics import Score, case_blocks, mask_weights, scores_for


def evaluate(
    forecast: xr.Dataset | str | Path,
    truth: Dataset | xr.Dataset | str | Path,
    *,
    scores: Sequence[Score] | None = None,
    lyapunov_time: float | None = None,
    threshold: float = 0.8,
    derive: Quantity | None = None,
    given: int = 0,
    horizons: HorizonsLike | None = None,
    convention: str | None = None,
    quantities: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    block: int | None = None,
    seed: int = 0,
    memory: int = 256 * 2**20,
) -> Scores:
    """Scores of an ensemble (or a single) forecast, per field and lead time, with intervals over cases.

    Args:
        forecast: Dimensions (init, member, lead_time, *space), one variable per field, coordinates `trajectory` and
            `frame` (of lead 0); or a NetCDF or Zarr path. `init` and `member` may be absent. An analysis
            (attribute `eddycast_kind`) is scored at every time, lead 0 included; a forecast from its first lead on.
        truth: The data it was made from: opened, a path, or xarray with (trajectory, time, *space) or aligned with
            (init, lead_time, *space). Only whole steps of the truth can be verified; other lead times are left out and
            noted, as are those beyond the end of the truth.
        scores: What to compute; None for all registered ones that the size of ensemble and grid allows.
        lyapunov_time: In units of lead time; None looks in the attributes of forecast and truth.
        threshold: Of the high-correlation time.
        derive: `vorticity` scores the vorticity of a velocity in the plane in its place, in physical units;
            `vorticity-published` in the convention of arXiv:2410.16415 (other sign, per grid step).
        given: Number of given states C. With it, high-correlation times and RMSD are also told with the given states
            counted, as published: C steps longer, and a mean over more states.
        horizons: Ranges of lead numbers, both ends included, over which every score is averaged as well: "1:20,21:60" or
            [(1, 20), (21, 60)]. Leads are numbered in steps of the truth; the first lead is always told apart.
        convention: `dyffusion` adds scores of all fields as one, as published for it, beside the fair ones; `dyffusion-normalised` in
            training deviations of each field, `dyffusion-pixelwise` in those of each field at each point. See `evaluation.convention`.
        quantities: Physics checks, of members and truth side by side: names of `evaluation.physics.QUANTITIES`. None takes those that
            the fields are plainly meant for, an empty list none.
        resamples: Of the block bootstrap.
        level: Probability of its intervals.
        block: Consecutive inits of a trajectory that make a block; see `metrics.case_blocks` for None.
        seed: Of the bootstrap; all quantities see the same resampled blocks.
        memory: Bytes that one piece of the forecast may take.

    Processes that have joined (`distributed.process_group`) all call it and share the cases; each gets the scores.

    Returns: scores. A non-finite member makes those that see it NaN at its field and lead (correlation: 0): a blow-up
        is reported (`nonfinite`, first bad lead), never averaged away. `runaway` counts members that are finite but
        outside the training data's range doubled about its middle.
    Raises: InputError where forecast and truth do not fit, nothing can be derived, or horizons leave the forecast.
    """
    if given < 0:
        raise InputError(f"given counts the states that a forecast starts from, got {given}: pass 0 or more.")
    with _opened(forecast) as labelled:
        found = match(labelled, truth)
        wanted = None if horizons is None else read_horizons(horizons, found.leads.frames)
        task = _task(found, derive, scores, convention, quantities)
        tally = _tally(task, memory)
    numbers = (torch.as_tensor(part) for part in (found.trajectories, found.frames))
    resampling = Resampling(case_blocks(*numbers, length=block), resamples, level, seed)
    names = [task.truth.names[channel] for channel in task.channels]
    data = tally.finish(names, resampling)
    if found.kind != "analysis" and {"correlation_mean", "correlation_member"} <= set(tally.parts):
        curves = {name: tally.parts[f"correlation_{name}"][0] for name in ("member", "mean")}
        shown, duration = tally.available, given * found.step
        times = found.leads.times
        data = data.merge(high_correlation_times(curves, shown, times, resampling, threshold=threshold, given=duration))
    if {"rmse_mean", "rmse_member"} <= set(tally.parts):
        squares = {name: tally.parts[f"rmse_{name}"][0] for name in ("member", "mean")}
        counted = 0 if found.kind == "analysis" else given
        data = data.merge(trajectory_deviations(squares, tally.available, task.points, resampling, given=counted))
    data = data.merge(tally.behaviour.finish(tally.available, resampling))
    if wanted is not None:
        data = data.merge(horizon_scores(tally, wanted, names, resampling))
    for extra in (task.pooled, task.physics):
        if extra is not None:
            data = data.merge(extra.finish(tally.available, resampling))
    options = {"threshold": threshold, "derived": derive or "", "given": given, "convention": convention or ""}
    options["lyapunov_time"] = _lyapunov_time(lyapunov_time, found.forecast, task.truth)
    return Scores(data, _attributes(task, tally, resampling) | options)


@dataclass(frozen=True, eq=False)
class _Task:
    """What is scored: a forecast, the truth as it is scored, and the scores."""

    match: Match
    derived: Derivation | None
    truth: Verification
    channels: list[int]
    weights: Tensor
    climate: Climatology
    scores: tuple[Score, ...]
    pooled: PooledScores | None
    physics: PhysicsChecks | None

    @property
    def points(self) -> int:
        return int((self.weights > 0).sum())


@contextmanager
def _opened(forecast: xr.Dataset | str | Path) -> Iterator[xr.Dataset]:
    if isinstance(forecast, xr.Dataset):
        yield forecast
        return
    path = existing(forecast)
    if file_format(path) != "gridded":
        raise InputError(f"{path}: expected a forecast or analysis of eddycast (.nc or .zarr).")
    with open_xarray(path, decode=False) as opened:
        check_ensemble(opened, str(forecast))
        yield opened


def _task(
    found: Match,
    derive: Quantity | None,
    scores: Sequence[Score] | None,
    convention: str | None,
    quantities: Sequence[str] | None,
) -> _Task:
    """Raises: InputError for scores that this ensemble or this grid does not allow."""
    if convention is not None and derive is not None:
        raise InputError(
            f"--convention {convention} scores the fields as they are, not {derive}: leave --derive or --convention out."
        )
    size = {"cases": found.cases, "leads": len(found.leads.times)}
    pooled = (
        None
        if convention is None
        else pooled_scores(convention, found.truth, found.channels, members=found.members, **size)
    )
    physics = physics_checks(quantities, found.truth, found.channels, **size)
    truth, channels, derived = found.truth, found.channels, None
    if derive is not None:
        derived = derivation(derive, truth, channels)
        truth, channels = derived.truth, list(range(len(derived.truth.names)))
    weights = mask_weights(truth.grid.weights(), truth.valid)
    climate = climatology(truth, truth.train or found.pieces, weights)
    points = int((weights > 0).sum())
    if scores is None:
        nonnegative = bool((climate.low[channels] >= 0).any())
        chosen = scores_for(found.members, points, nonnegative=nonnegative)
        return _Task(found, derived, truth, channels, weights, climate, chosen, pooled, physics)
    for score in scores:
        if score.min_members > found.members:
            raise InputError(
                f"The score {score.name!r} needs more members than the {found.members} of this forecast: leave it out, or draw more."
            )
        if score.min_points > points:
            raise InputError(
                f"The score {score.name!r} compares patterns in space, this grid has {points} point that counts: leave it out."
            )
    return _Task(found, derived, truth, channels, weights, climate, tuple(scores), pooled, physics)


def _tally(task: _Task, memory: int) -> Tally:
    """Read forecast and truth piece by piece; every process gets the whole.

    Raises: InputError where no lead time has a truth.
    """
    found, leads, truth = task.match, task.match.leads, task.truth
    tally = Tally(task.scores, truth.grid, task.climate, task.channels, task.weights, found.members, found.cases, leads)
    per_lead = found.members * len(found.channels) * truth.grid.num_points * 8
    span = max(1, memory // (4 * per_lead))  # scores hold about four copies of a piece
    own = distributed.part(found.cases)
    for case in range(own.start, own.stop):
        for first in range(0, len(leads.index), span):
            part = slice(first, first + span)
            states = found.states(truth, task.channels, case, part)
            if not has_truth(states, task.weights).any():
                continue
            ensemble = found.ensemble(case, part)
            tally.add(case, part, ensemble if task.derived is None else task.derived.apply(ensemble), states)
            if task.pooled is not None:
                task.pooled.add(case, part, ensemble, states)
            if task.physics is not None:
                _check(task, case, part, ensemble, states)
    tally.join(own)
    for extra in (task.pooled, task.physics):
        if extra is not None and distributed.size() > 1:
            for store in extra.stores():
                store.copy_(distributed.total(store))
    if not tally.available.any():
        raise InputError(
            f"No lead time of the forecast ({leads.times[0]:g} to {leads.times[-1]:g}) lies within the truth; "
            "start earlier, or pass truth that goes on."
        )
    return tally


def _check(task: _Task, case: int, part: slice, ensemble: Tensor, states: Tensor) -> None:
    """The physics of one piece, of the fields as they are stored."""
    assert task.physics is not None, "whoever calls has looked"
    found = task.match
    trajectory, frame = int(found.trajectories[case]), int(found.frames[case])
    known = states if task.derived is None else found.states(found.truth, found.channels, case, part)
    start = found.truth.fetch(trajectory, np.array([frame]))[0, found.channels] if part.start == 0 else None
    task.physics.add(case, part, ensemble, known, trajectory, start)


def _attributes(task: _Task, tally: Tally, resampling: Resampling) -> dict[str, Any]:
    """What was scored, and how it went; the options of the call are added to it."""
    forecast, truth = task.match.forecast, task.truth
    runaway = tally.runaway.any(dim=-1) & ~tally.nonfinite.any(dim=-1)
    bad = np.flatnonzero((tally.nonfinite | tally.runaway).any(dim=1).any(dim=0).numpy())
    return {
        "kind": task.match.kind,
        "members": task.match.members,
        "num_cases": task.match.cases,
        "num_blocks": resampling.num_blocks,
        "scores": [score.name for score in task.scores],
        "about": {
            score.name: {
                "description": score.description,
                "better": score.better,
                "target": score.target,
                "physical": score.physical,
            }
            for score in task.scores
        },
        "time_units": str(forecast["lead_time"].attrs.get("units", truth.time_units)),
        "units": {truth.names[channel]: truth.units[channel] for channel in task.channels},
        "level": resampling.level,
        "resamples": resampling.resamples,
        "seed": resampling.seed,
        "nonfinite_members": int(tally.nonfinite.any(dim=-1).sum()),
        "runaway_members": int(runaway.sum()),
        "first_bad_lead": float(task.match.leads.times[bad[0]]) if len(bad) else None,
        "truth_through": str(truth.attributes.get(THROUGH, "")),
        "notes": _notes(task, tally),
        **{key: str(value) for key, value in forecast.attrs.items() if key.startswith("eddycast_")},
        **{key: _measured(forecast.attrs[key]) for key in MEASURED if key in forecast.attrs},
        **window_attributes(forecast.attrs, max(1, round(task.match.step / truth.dt))),
    }


def _notes(task: _Task, tally: Tally) -> list[str]:
    notes = list(task.match.notes)
    if short := int((~tally.available.any(dim=-1)).sum()):
        pairs = tally.available[..., 0].numel()
        notes.append(f"{short} of {pairs} (case, lead time) pairs have no truth and are left out.")
    if task.derived is not None:
        notes.append(task.derived.note)
    if through := task.truth.attributes.get(THROUGH):
        notes.append(f"The truth, its climatology too, is the truth through {through}: encoded and decoded.")
    if not task.truth.train:
        notes.append("The truth has no training split: the climatological deviation is that of the verified states.")
    return notes


def _lyapunov_time(given: float | None, forecast: xr.Dataset, known: Verification) -> float | None:
    for value in (given, forecast.attrs.get("lyapunov_time"), known.attributes.get("lyapunov_time")):
        if value is not None and value != "":
            return float(value)
    return None


def _measured(value: Any) -> float:
    """An attribute that should be a number; NaN where a file holds something else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
