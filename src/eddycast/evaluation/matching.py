"""A forecast laid against its truth: which fields, points, lead times and cases belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation.tally import Leads
from eddycast.evaluation.verification import Verification, case_coordinates, numeric_leads, verification
from eddycast.labelled import values_of
from eddycast.simulators import reduction_hint

SAME_PLACE = 1e-3
"""Largest difference of coordinates, relative to the largest of them, that single precision and other units of storage explain."""
WHOLE = 1e-3
"""A lead time this close to a whole step is one: lead times are often stored in float32."""


@dataclass(frozen=True, eq=False)
class Match:
    """A forecast and what it is verified against.

    Args:
        forecast: With the dimensions `init` and `member`.
        dims: Its space dimensions, in the order of the truth's grid.
        truth: As it is stored; what is scored may be derived from it.
        channels: Fields of the truth that the forecast has.
        leads: Lead times that can be verified.
        trajectories, frames: Of lead 0 of each case, (case,).
        step: Time step of the lead times.
        kind: `forecast`, or `analysis`, which is scored from lead 0 on.
        notes: What was left out.
    """

    forecast: xr.Dataset
    dims: tuple[str, ...]
    truth: Verification
    channels: list[int]
    leads: Leads
    trajectories: np.ndarray
    frames: np.ndarray
    step: float
    kind: str
    notes: tuple[str, ...]

    @property
    def members(self) -> int:
        return self.forecast.sizes["member"]

    @property
    def cases(self) -> int:
        return len(self.trajectories)

    @property
    def pieces(self) -> tuple[tuple[int, int, int], ...]:
        """Verified pieces (trajectory, start, stop) of the truth."""
        first, last = self.leads.frames[0], self.leads.frames[-1]
        cases = zip(self.trajectories, self.frames, strict=True)
        return tuple((int(one), int(frame + first), int(frame + last) + 1) for one, frame in cases)

    def ensemble(self, case: int, part: slice) -> Tensor:
        """Members of one case at some of the lead times, (member, lead, channel, *space)."""
        leads = self.leads.index[part]
        piece = slice(int(leads[0]), int(leads[-1]) + 1)
        arrays = []
        for channel in self.channels:
            name = self.truth.names[channel]
            array = self.forecast[name].isel(init=case, lead_time=piece).transpose("member", "lead_time", *self.dims)
            values = values_of(array, f"The field {name!r} of the forecast")
            arrays.append(torch.as_tensor(values[:, leads - leads[0]]))
        return torch.stack(arrays, dim=2)

    def states(self, truth: Verification, channels: list[int], case: int, part: slice) -> Tensor:
        """The truth of that, (lead, channel, *space); NaN where there is none."""
        frames = int(self.frames[case]) + self.leads.frames[part]
        return truth.fetch(int(self.trajectories[case]), frames)[:, channels]


def match(forecast: xr.Dataset, truth: Dataset | xr.Dataset | str | Path) -> Match:
    """Lay a forecast against the truth; `init` and `member` may be absent from it.

    Raises: InputError where the two do not fit.
    """
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
    channels = _fields(forecast, known, dims)
    kind = str(forecast.attrs.get("eddycast_kind", "forecast"))
    step = known.dt if attribute is None else float(attribute)
    leads, notes = _whole_leads(forecast, known, step, from_zero=kind == "analysis")
    trajectories, frames = case_coordinates(forecast)
    return Match(forecast, dims, known, channels, leads, trajectories, frames, step, kind, tuple(notes))


def _space_dims(forecast: xr.Dataset) -> tuple[str, ...]:
    outer = {"init", "member", "lead_time"}
    for item in forecast.data_vars.values():
        if "lead_time" in item.dims and len(rest := [str(name) for name in item.dims if name not in outer]):
            return tuple(rest)
    raise InputError("The forecast has no variable with 'lead_time' and at least one space dimension.")


def _fields(forecast: xr.Dataset, known: Verification, dims: tuple[str, ...]) -> list[int]:
    """Channels of the truth that the forecast has."""
    fields = [str(name) for name, item in forecast.data_vars.items() if {"lead_time", *dims} <= set(item.dims)]
    unknown = [name for name in fields if name not in known.names]
    if unknown:
        hint = reduction_hint(str(known.attributes.get("system", "")), fields, known.names)
        raise InputError(
            f"The truth has no field {unknown[0]!r} of the forecast; it has {', '.join(known.names)}.{hint}"
        )
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


def _whole_leads(forecast: xr.Dataset, known: Verification, step: float, *, from_zero: bool) -> tuple[Leads, list[str]]:
    times = numeric_leads(forecast["lead_time"])
    if bool((np.diff(times) <= 0).any()):
        raise InputError("The forecast's lead_time must increase; sort it with forecast.sortby('lead_time').")
    same_unit = str(forecast["lead_time"].attrs.get("units", known.time_units)) == known.time_units
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
