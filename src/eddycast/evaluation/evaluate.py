"""Score a forecast or an analysis against the truth, reading both piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast import distributed
from eddycast.data import Dataset
from eddycast.data.gridded import open_xarray
from eddycast.data.opening import existing
from eddycast.errors import InputError
from eddycast.evaluation.derive import Quantity, derivation
from eddycast.evaluation.scores import MEASURED, Scores
from eddycast.evaluation.tally import Leads, Tally, has_truth
from eddycast.evaluation.trajectories import high_correlation_times, trajectory_deviations
from eddycast.evaluation.verification import Verification, case_coordinates, climatology, numeric_leads, verification
from eddycast.labelled import check_ensemble, values_of
from eddycast.metrics import Score, case_blocks, mask_weights, scores_for

# A lead time this close to a whole step is one: lead times are often stored in float32.
SAME_PLACE = 1e-3
"""Largest difference of coordinates, relative to the largest of them, that single precision and other units of storage explain."""
WHOLE = 1e-3


def evaluate(
    forecast: xr.Dataset | str | Path,
    truth: Dataset | xr.Dataset | str | Path,
    *,
    scores: Sequence[Score] | None = None,
    lyapunov_time: float | None = None,
    threshold: float = 0.8,
    derive: Quantity | None = None,
    given: int = 0,
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
        resamples: Of the block bootstrap.
        level: Probability of its intervals.
        block: Consecutive inits of a trajectory that make a block; see `metrics.case_blocks` for None.
        seed: Of the bootstrap.
        memory: Bytes that one piece of the forecast may take.

    Processes that have joined (`distributed.process_group`) all call it and share the cases; each gets the scores.

    Returns: scores. A non-finite member makes those that see it NaN at its field and lead (correlation: 0): a blow-up
        is reported (`nonfinite`, first bad lead), never averaged away. `runaway` counts members that are finite but
        outside the training data's range doubled about its middle.
    Raises: InputError where forecast and truth do not fit, or nothing can be derived.
    """
    if given < 0:
        raise InputError(f"given counts the states that a forecast starts from, got {given}: pass 0 or more.")
    if isinstance(forecast, (str, Path)):
        with open_xarray(existing(forecast), decode=False) as opened:
            check_ensemble(opened, str(forecast))
            return evaluate(
                opened,
                truth,
                scores=scores,
                lyapunov_time=lyapunov_time,
                threshold=threshold,
                derive=derive,
                given=given,
                resamples=resamples,
                level=level,
                block=block,
                seed=seed,
                memory=memory,
            )
    forecast = forecast.expand_dims([name for name in ("init", "member") if name not in forecast.dims])
    if "lead_time" not in forecast.dims:
        raise InputError(
            f"A forecast needs the dimension 'lead_time'; this one has {', '.join(map(str, forecast.dims))}."
        )
    dims = _space_dims(forecast)
    attribute = forecast["lead_time"].attrs.get("step")
    known = verification(truth, dims, None if attribute is None else float(attribute))
    if set(dims) == set(known.grid.names):  # by name, so that a square field cannot be compared with its transpose
        dims = known.grid.names
    channels = _match(forecast, known, dims)
    stored, taken = known, channels  # as in the files; what is scored may be derived
    derived = None if derive is None else derivation(derive, known, channels)
    if derived is not None:
        known, channels = derived.truth, list(range(len(derived.truth.names)))
    kind = str(forecast.attrs.get("eddycast_kind", "forecast"))
    leads, notes = _whole_leads(forecast, known, from_zero=kind == "analysis")
    trajectories, frames = case_coordinates(forecast)
    weights = mask_weights(known.grid.weights(), known.valid)
    pieces = known.train or tuple(
        (int(one), int(frame + leads.frames[0]), int(frame + leads.frames[-1]) + 1)
        for one, frame in zip(trajectories, frames, strict=True)
    )
    climate = climatology(known, pieces, weights)
    members = forecast.sizes["member"]
    points = int((weights > 0).sum())
    chosen = tuple(scores) if scores is not None else scores_for(members, points)
    if small := [score.name for score in chosen if score.min_members > members]:
        raise InputError(
            f"The score {small[0]!r} needs more members than the {members} of this forecast: leave it out, or draw more."
        )
    if small := [score.name for score in chosen if score.min_points > points]:
        raise InputError(
            f"The score {small[0]!r} compares patterns in space, this grid has {points} point that counts: leave it out."
        )
    tally = Tally(chosen, known.grid, climate, channels, weights, members, len(trajectories), leads)
    per_lead = members * len(taken) * known.grid.num_points * 8
    span = max(1, memory // (4 * per_lead))  # scores hold about four copies of a piece
    own = distributed.part(len(trajectories))
    for case in range(own.start, own.stop):
        for first in range(0, len(leads.index), span):
            part = slice(first, first + span)
            states = known.fetch(int(trajectories[case]), int(frames[case]) + leads.frames[part])[:, channels]
            if not has_truth(states, weights).any():
                continue
            ensemble = _members(forecast, case, leads.index[part], stored, taken, dims)
            tally.add(case, part, ensemble if derived is None else derived.apply(ensemble), states)
    tally.join(own)
    if not tally.available.any():
        raise InputError(
            f"No lead time of the forecast ({leads.times[0]:g} to {leads.times[-1]:g}) lies within the truth; "
            "start earlier, or pass truth that goes on."
        )
    short = int((~tally.available.any(dim=-1)).sum())
    if short:
        notes.append(
            f"{short} of {tally.available[..., 0].numel()} (case, lead time) pairs have no truth and are left out."
        )
    if derived is not None:
        notes.append(derived.note)
    if not known.train:
        notes.append("The truth has no training split: the climatological deviation is that of the verified states.")
    lyapunov = _lyapunov_time(lyapunov_time, forecast, known)
    blocks = case_blocks(torch.as_tensor(trajectories), torch.as_tensor(frames), length=block)
    generator = torch.Generator().manual_seed(seed)
    names = [known.names[channel] for channel in channels]
    data = tally.finish(blocks, names, generator, resamples, level)
    if kind != "analysis" and {"correlation_mean", "correlation_member"} <= set(tally.parts):
        curves = {name: tally.parts[f"correlation_{name}"][0] for name in ("member", "mean")}
        times = high_correlation_times(
            curves,
            tally.available,
            leads.times,
            blocks,
            generator,
            threshold=threshold,
            resamples=resamples,
            level=level,
            given=given * (known.dt if attribute is None else float(attribute)),
        )
        data = data.merge(times)
    if {"rmse_mean", "rmse_member"} <= set(tally.parts):
        squares = {name: tally.parts[f"rmse_{name}"][0] for name in ("member", "mean")}
        deviations = trajectory_deviations(
            squares,
            tally.available,
            points,
            blocks,
            torch.Generator().manual_seed(seed),
            resamples=resamples,
            level=level,
            given=0 if kind == "analysis" else given,
        )
        data = data.merge(deviations)
    again = torch.Generator().manual_seed(seed)
    data = data.merge(tally.behaviour.finish(tally.available, blocks, again, resamples, level))
    bad = np.flatnonzero(data["nonfinite"].values + data["runaway"].values)
    attributes: dict[str, Any] = {
        "kind": kind,
        "members": members,
        "num_cases": len(trajectories),
        "num_blocks": int(blocks.max()) + 1,
        "scores": [score.name for score in chosen],
        "about": {
            score.name: {
                "description": score.description,
                "better": score.better,
                "target": score.target,
                "physical": score.physical,
            }
            for score in chosen
        },
        "time_units": str(forecast["lead_time"].attrs.get("units", known.time_units)),
        "units": {known.names[channel]: known.units[channel] for channel in channels},
        "lyapunov_time": lyapunov,
        "threshold": threshold,
        "derived": derive or "",
        "given": given,
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "nonfinite_members": int(tally.nonfinite.any(dim=-1).sum()),
        "runaway_members": int((tally.runaway.any(dim=-1) & ~tally.nonfinite.any(dim=-1)).sum()),
        "first_bad_lead": float(leads.times[bad[0]]) if len(bad) else None,
        "notes": notes,
        **{key: str(value) for key, value in forecast.attrs.items() if key.startswith("eddycast_")},
        **{key: _measured(forecast.attrs[key]) for key in MEASURED if key in forecast.attrs},
    }
    return Scores(data, attributes)


def _members(
    forecast: xr.Dataset, case: int, leads: np.ndarray, known: Verification, channels: list[int], dims: tuple[str, ...]
) -> Tensor:
    """One case (member, lead, channel, *space)."""
    piece = slice(int(leads[0]), int(leads[-1]) + 1)
    arrays = []
    for channel in channels:
        array = forecast[known.names[channel]].isel(init=case, lead_time=piece).transpose("member", "lead_time", *dims)
        values = values_of(array, f"The field {known.names[channel]!r} of the forecast")
        arrays.append(torch.as_tensor(values[:, leads - leads[0]]))
    return torch.stack(arrays, dim=2)


def _space_dims(forecast: xr.Dataset) -> tuple[str, ...]:
    outer = {"init", "member", "lead_time"}
    for item in forecast.data_vars.values():
        if "lead_time" in item.dims and len(rest := [str(name) for name in item.dims if name not in outer]):
            return tuple(rest)
    raise InputError("The forecast has no variable with 'lead_time' and at least one space dimension.")


def _match(forecast: xr.Dataset, known: Verification, dims: tuple[str, ...]) -> list[int]:
    """Channels of the truth that the forecast has."""
    fields = [str(name) for name, item in forecast.data_vars.items() if {"lead_time", *dims} <= set(item.dims)]
    unknown = [name for name in fields if name not in known.names]
    if unknown:
        raise InputError(f"The truth has no field {unknown[0]!r} of the forecast; it has {', '.join(known.names)}.")
    shape = tuple(forecast.sizes[name] for name in dims)
    if shape != known.grid.shape:
        raise InputError(
            f"The forecast has {'x'.join(map(str, shape))} points along {', '.join(dims)}, the truth has "
            f"{'x'.join(map(str, known.grid.shape))} along {', '.join(known.grid.names)}; pass its own data."
        )
    for name, axis in zip(dims, known.grid.axes, strict=True):
        if name in forecast.coords and forecast[name].dtype.kind == "f":
            here, there = forecast[name].values.astype(float), np.asarray(axis.coordinates, dtype=float)
            if np.abs(here - there).max() > SAME_PLACE * max(np.abs(there).max(), 1e-300):
                raise InputError(
                    f"The forecast's {name} runs from {here[0]:g} to {here[-1]:g}, that of the truth from {there[0]:g} to {there[-1]:g}: "
                    "pass the data it was made from."
                )
    return [channel for channel, name in enumerate(known.names) if name in fields]


def _whole_leads(forecast: xr.Dataset, known: Verification, *, from_zero: bool) -> tuple[Leads, list[str]]:
    times = numeric_leads(forecast["lead_time"])
    attributes = forecast["lead_time"].attrs
    if bool((np.diff(times) <= 0).any()):
        raise InputError("The forecast's lead_time must increase; sort it with forecast.sortby('lead_time').")
    step = float(attributes.get("step", known.dt))
    same_unit = str(attributes.get("units", known.time_units)) == known.time_units
    frames_per_step = max(1, round(step / known.dt)) if same_unit or not known.time_units else 1
    frames = times / step * frames_per_step
    whole = np.abs(frames - np.rint(frames)) < WHOLE * np.maximum(1, np.abs(frames) * 1e-3)
    kept = whole & ((times >= 0) if from_zero else (frames > 0.5))
    if not kept.any():
        raise InputError(
            f"No lead time is a whole number of steps of {step:g} after the start, so the truth has no frame for it; "
            "forecast whole steps too (--leads 1,2,3)."
        )
    notes = []
    if between := int((~whole).sum()):
        notes.append(f"{between} of {len(times)} lead times fall between frames of the truth and are left out.")
    index = np.flatnonzero(kept)
    return Leads(index, times[index], np.rint(frames[index]).astype(int)), notes


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
