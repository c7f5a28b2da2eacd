"""Two-dimensional states of a solver, data or forecasts, as the fewer numbers that its data may hold instead."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import overload

import torch
import xarray as xr
from torch import Tensor

from eddycast import data
from eddycast.api.data import opened
from eddycast.data import Dataset, Field
from eddycast.data.source import Source
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.simulators import SYSTEMS, Reduction

NAME = "zonal-mean"


@overload
def zonal_mean(states: xr.Dataset) -> xr.Dataset: ...
@overload
def zonal_mean(states: Dataset | str | Path) -> Dataset | xr.Dataset: ...
def zonal_mean(states: xr.Dataset | Dataset | str | Path) -> xr.Dataset | Dataset:
    """The zonal mean of the zonal velocity, U(y), of states of `beta-plane`: what `simulate(..., store="zonal-mean")` stores.

    Args:
        states: A forecast (say of `system:beta-plane`, from states to restart from), a data set, or the path of one of them.

    Returns: for a forecast (or its file) one with the field `zonal_velocity` on the axis y; for data such a data set, which reads and
        reduces frames as they are asked for.
    Raises: InputError for another system, and for what is reduced already.
    """
    if isinstance(states, str | Path) and Path(states).suffix in (".nc", ".zarr"):
        states = data.read(states)
    return _forecast(states) if isinstance(states, xr.Dataset) else _data(opened(states))


def _data(dataset: Dataset) -> Dataset:
    found = _reduction(str(dataset.attributes.get("system", "")), dataset.field_names, dataset.grid)
    source = _ReducedSource(dataset.source, found, dataset.grid)
    return replace(
        dataset, source=source, fields=tuple(Field(**asdict(one)) for one in found.fields), grid=found.grid(dataset.grid), static=None,
        static_names=(), attributes={**dataset.attributes, "stored": NAME},
    )  # fmt: skip


def _forecast(forecast: xr.Dataset) -> xr.Dataset:
    system = str(forecast.attrs.get("eddycast_system", ""))
    names = str(forecast.attrs.get("eddycast_fields", "")).split()
    grid = data.grid_of(forecast)
    found = _reduction(system, tuple(names), grid)
    arrays = [forecast[name].transpose(..., *grid.names) for name in names]
    values = torch.stack([torch.from_numpy(array.to_numpy()) for array in arrays], dim=-1 - len(grid.axes))
    reduced, own, fields = found(values, grid)
    gone = [name for name, array in forecast.variables.items() if set(array.dims) & (set(grid.names) - set(own.names))]
    dims = (*arrays[0].dims[: -len(grid.axes)], *own.names)
    result = forecast.drop_vars({*names, *gone})
    for channel, field in enumerate(fields):
        part = reduced.select(-1 - len(own.axes), channel).numpy()
        result[field.name] = (dims, part, {"units": field.units, "long_name": field.long_name})
    labels = {"eddycast_fields": " ".join(field.name for field in fields), "eddycast_stored": NAME}
    return result.assign_attrs(labels)


def _reduction(system: str, names: tuple[str, ...], grid: Grid) -> Reduction:
    """Raises: InputError for a system without this reduction, or other fields or axes than its states have."""
    if system not in SYSTEMS or NAME not in SYSTEMS[system].info.reductions:
        able = ", ".join(name for name, one in SYSTEMS.items() if NAME in one.info.reductions)
        raise InputError(f"The zonal mean is that of states of {able}; these are of {system or 'no known system'}.")
    info = SYSTEMS[system].info
    own, axes = tuple(field.name for field in info.fields), SYSTEMS[system].grid().names
    if names != own or grid.names != axes:
        raise InputError(
            f"The zonal mean of {system} needs {', '.join(own)} along {', '.join(axes)}; here is {', '.join(names)} along "
            f"{', '.join(grid.names)}."
        )
    return info.reductions[NAME]


@dataclass(frozen=True, eq=False)
class _ReducedSource:
    """Frames of another source, reduced as they are read."""

    source: Source
    reduction: Reduction
    grid: Grid

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.source.lengths

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        return self.reduction.values(self.source.read(trajectory, start, stop, stride), self.grid)
