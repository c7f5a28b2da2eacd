"""The truth a forecast is verified against, whatever it comes from: frames of a trajectory on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.data import Dataset
from eddycast.data.axes import space_axis
from eddycast.data.opening import open_dataset
from eddycast.errors import InputError
from eddycast.grid import Grid

# Frames read to learn the climatological mean, deviation and range of a field.
CLIMATOLOGY_FRAMES = 256


@dataclass(frozen=True)
class Verification:
    """What evaluation knows of the truth.

    Args:
        names: Field names, in the order of the channels.
        units: CF unit of each.
        grid: Axes of `*space`.
        dt: Time between frames.
        time_units: Unit of `dt`, empty where unknown.
        fetch: Takes a trajectory and frames (ascending), returns states (frame, channel, *space), NaN where there is
            none, as for frames beyond the end.
        valid: Mask (*space) of defined points, or None.
        train: Pieces (trajectory, start, stop) that training used, for the climatology; empty where unknown.
        attributes: `system`, `lyapunov_time`, ...
        dataset: The opened data, where the truth comes from such.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    dt: float
    time_units: str
    fetch: Callable[[int, np.ndarray], Tensor]
    valid: Tensor | None = None
    train: tuple[tuple[int, int, int], ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Climatology:
    """Mean, standard deviation, and lowest and highest value of each field over time and space, each (channel,)."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def verification(truth: Dataset | xr.Dataset | str | Path, dims: tuple[str, ...], step: float | None) -> Verification:
    """Truth from an opened data set, a path, or xarray.

    Args:
        truth: A `Dataset` (anything with its `fields`, `grid`, `dt`, `lengths` and `read`); a path for `open_dataset`;
            or an `xarray.Dataset` with dimensions (trajectory, time, *space) or (init, lead_time, *space).
        dims: Names of the space dimensions of the forecast, for an aligned truth.
        step: Time step of the forecast, for an aligned truth without its own.

    Raises: InputError for a truth that cannot be understood.
    """
    if isinstance(truth, xr.Dataset) and "lead_time" in truth.dims:
        return _aligned(truth, dims, step)
    data = open_dataset(truth) if isinstance(truth, (str, Path, xr.Dataset)) else truth
    lengths = data.lengths  # asked for once: there may be many trajectories

    def fetch(trajectory: int, frames: np.ndarray) -> Tensor:
        if not 0 <= trajectory < len(lengths):
            raise InputError(
                f"The forecast starts from trajectory {trajectory}, the truth has {len(lengths)}; "
                "pass the data it was made from."
            )
        return _gather(data.read, trajectory, frames, lengths[trajectory], (len(data.fields), *data.grid.shape))

    pieces = tuple((piece.trajectory, piece.start, piece.stop) for piece in data.splits.get("train", ()))
    return Verification(
        names=tuple(item.name for item in data.fields),
        units=tuple(item.units for item in data.fields),
        grid=data.grid,
        dt=float(data.dt),
        time_units=data.time_units,
        fetch=fetch,
        valid=data.valid,
        train=pieces,
        attributes=data.attributes,
        dataset=data,
    )


def climatology(truth: Verification, pieces: tuple[tuple[int, int, int], ...], weights: Tensor) -> Climatology:
    """Statistics over at most `CLIMATOLOGY_FRAMES` frames, evenly taken from the pieces (trajectory, start, stop).

    Raises: InputError when none of the frames exists.
    """
    lengths = np.array([stop - start for _, start, stop in pieces])
    ends = lengths.cumsum()
    total = int(ends[-1])
    chosen = np.unique(np.linspace(0, total - 1, min(total, CLIMATOLOGY_FRAMES)).round().astype(int))
    owner = np.searchsorted(ends, chosen, side="right")
    space = weights.ndim
    first, second, count, low, high = 0.0, 0.0, 0.0, None, None
    for piece in np.unique(owner):
        trajectory, start, _ = pieces[piece]
        frames = chosen[owner == piece] - (ends[piece] - lengths[piece]) + start
        states = truth.fetch(trajectory, frames).to(torch.float64).movedim(1, 0).flatten(2)  # (channel, frame, point)
        mass = torch.where(torch.isfinite(states), weights.to(torch.float64).reshape(1, 1, -1), 0.0)
        kept = torch.where(mass > 0, states, 0.0)
        first = first + (mass * kept).sum(dim=(1, 2))
        second = second + (mass * kept.square()).sum(dim=(1, 2))
        count = count + mass.sum(dim=(1, 2))
        least = torch.where(mass > 0, states, torch.inf).amin(dim=(1, 2))
        most = torch.where(mass > 0, states, -torch.inf).amax(dim=(1, 2))
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
    assert isinstance(first, Tensor) and isinstance(second, Tensor) and low is not None and high is not None
    if not bool((torch.as_tensor(count) > 0).all()):
        raise InputError(f"The truth has no finite value at a valid point ({space}-D grid); nothing can be scored.")
    mean = first / count
    return Climatology(mean, (second / count - mean.square()).clamp(min=0).sqrt(), low, high)


def _gather(
    read: Callable[..., Tensor], trajectory: int, frames: np.ndarray, length: int, shape: tuple[int, ...]
) -> Tensor:
    """Frames of one trajectory by as few reads as their spacing allows; NaN outside of [0, length)."""
    states = torch.full((len(frames), *shape), torch.nan)
    inside = np.flatnonzero((frames >= 0) & (frames < length))
    if len(inside) == 0:
        return states
    wanted = frames[inside]
    strides = np.unique(np.diff(wanted))
    if len(strides) <= 1:
        stride = int(strides[0]) if len(strides) else 1
        states[inside] = read(trajectory, int(wanted[0]), int(wanted[-1]) + 1, stride)
    else:
        for place, frame in zip(inside, wanted, strict=True):
            states[place] = read(trajectory, int(frame), int(frame) + 1)[0]
    return states


def _aligned(truth: xr.Dataset, dims: tuple[str, ...], step: float | None) -> Verification:
    """Truth laid out like the forecast, found by trajectory, frame and lead time."""
    if missing := [name for name in dims if name not in truth.dims]:
        found = ", ".join(map(str, truth.dims))
        raise InputError(f"The truth has no dimension {missing[0]!r} of the forecast; it has {found}: rename it.")
    names = tuple(str(name) for name, item in truth.data_vars.items() if {"lead_time", *dims} <= set(item.dims))
    axes = (space_axis(truth, name, periodic=False, where="The truth")[0] for name in dims)
    grid = Grid(tuple(axes))
    dt = float(truth["lead_time"].attrs.get("step", step or 1.0))
    truth = truth if "init" in truth.dims else truth.expand_dims("init")
    steps = np.rint(numeric_leads(truth["lead_time"]) / dt).astype(int)
    places = {
        (int(one), int(frame) + int(lead)): (case, place)
        for case, (one, frame) in enumerate(zip(*case_coordinates(truth), strict=True))
        for place, lead in enumerate(steps)
    }
    arrays = [truth[name].transpose("init", "lead_time", *dims) for name in names]

    def fetch(trajectory: int, frames: np.ndarray) -> Tensor:
        states = torch.full((len(frames), len(names), *grid.shape), torch.nan)
        found = [places.get((trajectory, int(frame))) for frame in frames]
        rows = [row for row, place in enumerate(found) if place is not None]
        if rows:
            cases, leads = zip(*(place for place in found if place is not None), strict=True)
            index = {"init": xr.DataArray(list(cases), dims="row"), "lead_time": xr.DataArray(list(leads), dims="row")}
            picked = np.stack([array.isel(index).transpose("row", *dims).values for array in arrays], axis=1)
            states[rows] = torch.as_tensor(picked, dtype=torch.float32)
        return states

    return Verification(
        names=names,
        units=tuple(str(truth[name].attrs.get("units", "1")) for name in names),
        grid=grid,
        dt=dt,
        time_units=str(truth["lead_time"].attrs.get("units", "")),
        fetch=fetch,
        valid=_constant_mask(arrays, dims),
        attributes=dict(truth.attrs),
    )


def _constant_mask(arrays: list[xr.DataArray], dims: tuple[str, ...]) -> Tensor | None:
    """Points that every field has at some time; None for all of them."""
    masks = [array.notnull().any(dim=["init", "lead_time"]).transpose(*dims).values for array in arrays]
    valid = torch.as_tensor(np.logical_and.reduce(masks))
    return None if bool(valid.all()) else valid


def numeric_leads(lead_time: xr.DataArray) -> np.ndarray:
    """Lead times as numbers in their unit, also where xarray decoded them to time differences."""
    values = lead_time.values
    if values.dtype.kind != "m":
        return values.astype(np.float64)
    units = str(lead_time.attrs.get("units", lead_time.encoding.get("units", "days")))
    seconds = {"day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0}.get(units.rstrip("s"))
    if seconds is None:
        raise InputError(
            f"lead_time was decoded to time differences, but its unit {units!r} is not one; open undecoded."
        )
    return values / np.timedelta64(1, "ns") / (seconds * 1e9)


def case_coordinates(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Trajectory and frame of lead 0 of each init; without the coordinates: trajectories in order, frame 0."""
    count = data.sizes["init"]
    trajectories = data["trajectory"].values if "trajectory" in data else np.arange(count)
    frames = data["frame"].values if "frame" in data else np.zeros(count)
    return np.broadcast_to(trajectories, count).astype(int), np.broadcast_to(frames, count).astype(int)
