"""Observations on the points of the grid of a run, from xarray: NaN where nothing is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.observations.columns import AXIS_NAMES, MOST_FRAMES, NAMES, Steps, require_unit
from eddycast.observations.observation_table import WHOLE
from eddycast.observations.observations import Observations
from eddycast.observations.stencils import SLACK

if TYPE_CHECKING:
    import xarray as xr


def dimension_of(content: xr.Dataset, axis: str) -> str | None:
    """The dimension that is an axis of the grid, by its name or another usual one; None for none."""
    words = next((words for words in AXIS_NAMES if axis.lower() in words), (axis,))
    return next((str(dim) for dim in content.dims if str(dim) == axis or str(dim).lower() in words), None)


def is_gridded(content: xr.Dataset, grid: Grid) -> bool:
    """Whether all axes of the grid are dimensions; otherwise it is a table."""
    return all(dimension_of(content, axis) is not None for axis in grid.names)


def observations_from_grid(
    content: xr.Dataset,
    *,
    grid: Grid,
    fields: tuple[tuple[str, str], ...],
    dt: float,
    steps: Steps | None = None,
    error: float | Mapping[str, float] | None = None,
    num_times: int | None = None,
    where: str = "The data",
    **settings: Any,
) -> Observations:
    """Fields over (trajectory, time, *space), of which trajectory and time may lack; points, times and fields that lack are not observed.

    Args:
        content: Its fields have the names of those of the run. Positions lie on points of the grid, in any order; the errors are the
            attribute `noise_std` of each field, or `error`.
        grid, fields, dt, steps, error, num_times, where: As for tables (`table_from_frame`).
        settings: Of `Observations`; `parameters` and `time` of one case are those of all.

    Raises: InputError, one line, for positions or times between those of the run, other units, or a field without an error.
    """
    found = [name for name, _ in fields if name in content.data_vars]
    if not found:
        raise InputError(
            f"{where} has no field of the run ({', '.join(name for name, _ in fields)}): it has {', '.join(map(str, content.data_vars))}."
        )
    dims = [str(dimension_of(content, axis)) for axis in grid.names]
    time = next((str(dim) for dim in content.dims if str(dim).lower() in NAMES["time"]), None)
    case = next((str(dim) for dim in content.dims if str(dim).lower() in NAMES["trajectory"]), None)
    lead = [dim for dim in (case, time) if dim is not None]
    for name in found:
        if set(content[name].dims) != {*dims, *lead}:
            raise InputError(
                f"{where}: {name!r} has the dimensions {', '.join(map(str, content[name].dims))}, expected {', '.join([*lead, *dims])}."
            )
        require_unit(name, str(content[name].attrs.get("units", "")), fields, where)
    numbers = {name: content[name].transpose(*lead, *dims).values.astype(np.float64) for name in found}
    if case is None:
        numbers = {name: values[None] for name, values in numbers.items()}
    if time is None:
        numbers = {name: values[:, None] for name, values in numbers.items()}
    places = [_points(content, dim, axis, where) for dim, axis in zip(dims, grid.axes, strict=True)]
    cases, count = next(iter(numbers.values())).shape[:2]
    if time is None or time not in content.coords:
        at = np.arange(count)
    else:
        plain = content[time].values
        seen = np.any([~np.isnan(values).all(axis=(0, *range(2, values.ndim))) for values in numbers.values()], axis=0)
        step = plain.astype(np.float64) / dt if steps is None else steps(plain, seen)
        at = np.rint(step)
        off = np.flatnonzero(seen & (np.abs(step - at) > 1e3 * WHOLE))
        if len(off):
            raise InputError(
                f"{where}: time {plain[off[0]]} lies between frames of the run, which are {dt:g} apart; as a table "
                "(dataset.to_dataframe().reset_index()) it can be interpolated."
            )
        at = np.where(seen, at, -1).astype(np.int64)
    num_times = 1 + max(int(at.max(initial=0)), 0) if num_times is None else num_times
    if num_times > MOST_FRAMES:
        raise InputError(
            f"{where} needs {num_times} frames from the first one on: say the time at which the first one is (start)."
        )
    values = np.full((cases, num_times, len(fields), *grid.shape), np.nan)
    inside = np.flatnonzero((at >= 0) & (at < num_times))
    for channel, (name, _) in enumerate(fields):
        if name in found:
            values[np.ix_(np.arange(cases), at[inside], np.array([channel]), *places)] = numbers[name][:, inside, None]
    trajectories = np.arange(cases)
    if case is not None and case in content.coords:
        trajectories = content[case].values.astype(np.int64)
    for key in ("parameters", "time"):
        if settings.get(key) is not None:
            settings[key] = settings[key].expand(cases, *settings[key].shape[1:])
    return Observations(
        values=torch.from_numpy(values.astype(np.float32)),
        noise_std=torch.tensor([_std(content, name, error, name in found, where) for name, _ in fields]),
        grid=grid,
        fields=fields,
        dt=dt,
        trajectories=torch.from_numpy(trajectories),
        frames=torch.zeros(cases, dtype=torch.long),
        **settings,
    )


def _points(content: xr.Dataset, dim: str, axis: Axis, where: str) -> np.ndarray:
    """Number of the grid point of each position of a dimension. Raises: InputError for one between the points, or twice."""
    x = np.asarray(axis.coordinates, dtype=np.float64)
    if dim not in content.coords:
        if content.sizes[dim] != axis.size:
            raise InputError(
                f"{where}: {dim!r} has {content.sizes[dim]} points and no coordinate, the run has {axis.size}."
            )
        return np.arange(axis.size)
    position = content[dim].values.astype(np.float64)
    distance = np.abs(position[:, None] - x)
    if axis.period is not None:
        distance = np.minimum(distance % axis.period, -distance % axis.period)
    nearest = distance.argmin(axis=1)
    spacing = np.abs(np.diff(x)).min() if len(x) > 1 else 1.0
    if (off := np.flatnonzero(distance.min(axis=1) > SLACK * spacing)).size:
        raise InputError(
            f"{where}: {dim} = {position[off[0]]:g} lies between points of the run, the nearest is {x[nearest[off[0]]]:g}; as a table "
            "(dataset.to_dataframe().reset_index()) it can be interpolated."
        )
    if len(np.unique(nearest)) < len(nearest):
        raise InputError(f"{where}: two positions along {dim} are the same point of the grid.")
    return nearest


def _std(
    content: xr.Dataset, name: str, error: float | Mapping[str, float] | None, observed: bool, where: str
) -> float:
    """The error of a field; 1 for one that is not observed."""
    stated = content[name].attrs.get("noise_std") if observed else 1.0
    given = error.get(name) if isinstance(error, Mapping) else error
    std = given if stated is None else stated
    if std is None:
        raise InputError(
            f"{where}: the error of {name!r} is not stated: give --error (in Python error=), such as {name}=0.1."
        )
    return float(std)
