"""Data and forecasts alike as runs: stretches of states of one field, evenly spaced in time, grouped by their parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.data import Dataset
from eddycast.data.axes import space_axis
from eddycast.data.gridded import open_xarray
from eddycast.data.opening import existing, file_format, open_dataset
from eddycast.errors import InputError
from eddycast.evaluation.verification import case_coordinates, numeric_leads
from eddycast.grid import Grid
from eddycast.labelled import check_ensemble, values_of
from eddycast.simulators import SYSTEMS, reduction_hint

WHOLE_CASE = 2**28
"""Bytes up to which all members of a case are read at once: compressed files hold them together."""
EVEN = 1e-3
OUTER = ("init", "member", "lead_time")


@dataclass(frozen=True, eq=False)
class Run:
    """One member of one case, or one piece of a trajectory.

    Args:
        trajectory: Of the data; None where a file does not say.
        start: Frame of lead 0, or the first frame.
        member: Number of the member, 0 for data.
        frames: How many states.
        fetch: Takes first and last + 1, returns (frame, *space), NaN where there is no value.
    """

    trajectory: int | None
    start: int
    member: int
    frames: int
    fetch: Callable[[int, int], Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """Runs of one field.

    Args:
        name: What a message calls it.
        field: Name of the field, and `units` its unit.
        grid: Axes of `*space`, as stored.
        times: Lead times, or times since the first frame of the longest run, (frame,).
        dt: Time between two states.
        valid: Mask (*space) of defined points, or None.
        runs: All of them.
        ensemble: Whether they are members of cases.
        data: The opened data set, where there is one behind it; tells parameters of trajectories.
        attributes: `system`, `lyapunov_time`, ...
        content: The forecast itself.
    """

    name: str
    field: str
    units: str
    grid: Grid
    times: Tensor
    dt: float
    time_units: str
    valid: Tensor | None
    runs: tuple[Run, ...]
    ensemble: bool
    data: Dataset | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    content: xr.Dataset | None = None

    @property
    def system(self) -> str:
        return str(self.attributes.get("system") or self.attributes.get("eddycast_system") or "")


@contextmanager
def opened_runs(
    source: xr.Dataset | Dataset | str | Path, *, split: str = "test", field: str | None = None, name: str = "The file"
) -> Iterator[Source]:
    """Runs of a forecast or analysis (xarray or a file with `lead_time`), or of a split of a data set; all splits for "all".

    Raises: InputError for a file that is neither, an unknown field or split, or lead times that are not evenly spaced.
    """
    if isinstance(source, Dataset):
        yield _of_data(source, split, field)
        return
    if isinstance(source, xr.Dataset):
        if "lead_time" in source.dims:
            yield _of_ensemble(source, field, name)
        else:
            yield _of_data(open_dataset(source), split, field)
        return
    path = existing(source)
    if file_format(path) == "gridded":
        with open_xarray(path, decode=False) as content:
            if "lead_time" in content.dims:
                yield _of_ensemble(check_ensemble(content, str(path)), field, str(path))
                return
    yield _of_data(open_dataset(path), split, field)


def _of_data(data: Dataset, split: str, field: str | None) -> Source:
    where = str(data.attributes.get("path", "The data"))
    hint = "" if field is None else reduction_hint(str(data.attributes.get("system", "")), (field,), data.field_names)
    channel = _place(field, data.field_names, where, hint)
    if split != "all" and split not in data.splits:
        raise InputError(f"Unknown split {split!r}; valid ones: {', '.join(data.splits)}, all.")
    names = [one for one, segments in data.splits.items() if segments] if split == "all" else [split]
    segments = [segment for one in names for segment in data.segments(one)]
    runs = tuple(
        Run(one.trajectory, one.start, 0, len(one), _reader(data, one.trajectory, one.start, channel))
        for one in segments
    )
    times = torch.arange(max(map(len, segments)), dtype=torch.float64) * data.dt
    own = data.fields[channel]
    return Source(
        where, own.name, own.units, data.grid, times, float(data.dt), data.time_units, data.valid, runs, False, data,
        data.attributes,
    )  # fmt: skip


def _reader(data: Dataset, trajectory: int, start: int, channel: int) -> Callable[[int, int], Tensor]:
    return lambda first, stop: data.read(trajectory, start + first, start + stop)[:, channel]


def _of_ensemble(content: xr.Dataset, field: str | None, where: str) -> Source:
    content = content.expand_dims([dim for dim in ("init", "member") if dim not in content.dims])
    shapes = {
        str(name): tuple(str(dim) for dim in item.dims if dim not in OUTER)
        for name, item in content.data_vars.items()
        if "lead_time" in item.dims
    }
    fields = [name for name, dims in shapes.items() if dims]
    if not fields:
        raise InputError(f"{where}: no variable has 'lead_time' and at least one space dimension.")
    order = [name for name in str(content.attrs.get("eddycast_fields", "")).split() if name in fields]
    fields = order or fields
    name = fields[_place(field, fields, where)]
    dims = shapes[name]
    array = content[name].transpose(*OUTER, *dims)
    times = torch.as_tensor(numeric_leads(content["lead_time"]), dtype=torch.float64)
    gaps = times.diff()
    if len(gaps) and bool((gaps - gaps.mean()).abs().max() > EVEN * gaps.mean().abs()):
        raise InputError(f"{where}: statistics need evenly spaced lead times: forecast with --steps, not --leads.")
    attributes = content["lead_time"].attrs
    dt = float(gaps.mean()) if len(gaps) else float(attributes.get("step", 1.0))
    trajectories, frames = case_coordinates(content) if "trajectory" in content.variables else (None, None)
    cases, members = content.sizes["init"], content.sizes["member"]
    case_bytes = int(np.prod(array.shape[1:])) * array.dtype.itemsize
    readers = [_case_reader(array, case, case_bytes <= WHOLE_CASE, f"{where}: {name!r}") for case in range(cases)]
    runs = tuple(
        Run(
            None if trajectories is None else int(trajectories[case]),
            0 if frames is None else int(frames[case]),
            member,
            len(times),
            _member_reader(readers[case], member),
        )
        for case in range(cases)
        for member in range(members)
    )
    first = readers[0](0, 0, 1)[0]
    valid = None if bool(first.isfinite().all()) else first.isfinite()
    grid = Grid(tuple(space_axis(content, dim, periodic=False, where=where)[0] for dim in dims))
    return Source(
        where, name, str(content[name].attrs.get("units", "1")), grid, times, dt, str(attributes.get("units", "1")),
        valid, runs, True, None, content.attrs, content,
    )  # fmt: skip


def _case_reader(array: xr.DataArray, case: int, whole: bool, what: str) -> Callable[[int, int, int], Tensor]:
    """Members of a case one after the other; a case that is read as a whole is let go of with its last member."""
    held: list[Tensor] = []

    def fetch(member: int, first: int, stop: int) -> Tensor:
        if not whole:
            piece = array.isel(init=case, member=member, lead_time=slice(first, stop))
            return _tensor(values_of(piece, what))
        if not held:
            held.append(_tensor(values_of(array.isel(init=case), what)))
        values = held[0][member, first:stop]
        if member == held[0].shape[0] - 1 and stop == held[0].shape[1]:
            held.clear()
        return values

    return fetch


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values.astype(values.dtype.newbyteorder("="), copy=True))


def _member_reader(fetch: Callable[[int, int, int], Tensor], member: int) -> Callable[[int, int], Tensor]:
    return lambda first, stop: fetch(member, first, stop)


def distinct(source: Source) -> tuple[Source, str]:
    """One run for members of a case that are all the same, as those of a deterministic forecast are; and a note, empty where none are.

    They are compared at the first, the middle and the last state: those that drift apart are told by the first.
    """
    if not source.ensemble:
        return source, ""
    cases: dict[tuple[int | None, int], list[Run]] = {}
    for run in source.runs:
        cases.setdefault((run.trajectory, run.start), []).append(run)
    if any(len(runs) < 2 or None in key for key, runs in cases.items()):
        return source, ""
    for runs in cases.values():
        for at in (0, runs[0].frames // 2, runs[0].frames - 1):
            state = runs[0].fetch(at, at + 1)
            for run in runs[1:]:
                if not torch.allclose(run.fetch(at, at + 1), state, rtol=0.0, atol=0.0, equal_nan=True):
                    return source, ""
    most = max(map(len, cases.values()))
    return replace(source, runs=tuple(runs[0] for runs in cases.values())), (
        f"{source.name}: the {most} members of a case are the same, as a deterministic forecast makes them: they count as one run."
    )


def _place(field: str | None, names: Sequence[str], where: str, hint: str = "") -> int:
    if field is None:
        return 0
    if field not in names:
        raise InputError(f"{where}: there is no field {field!r}; it has {', '.join(names)}.{hint}")
    return list(names).index(field)


Group = tuple[float, ...]


def parameter_groups(
    source: Source, data: Dataset | None, by: Sequence[str] | None = None, *, most: int = 16
) -> tuple[tuple[str, ...], dict[Group, list[Run]], list[str]]:
    """Runs that have the same parameters, in ascending order of these.

    Args:
        source: The runs; their trajectories are those of `data`.
        data: Tells parameters; None where they are unknown, then all are one group.
        by: Parameters that tell groups apart; None for all that vary among the runs, unless there are more than `most` combinations.

    Returns: the names, runs by their values, and notes.
    Raises: InputError for a parameter that the data do not have, or a trajectory.
    """
    if data is None or not data.parameter_names or any(run.trajectory is None for run in source.runs):
        if by:
            raise InputError(
                f"There is no parameter {by[0]!r} to tell runs apart: the truth must be a data set that has it."
            )
        return (), {(): list(source.runs)}, []
    if wrong := [name for name in by or () if name not in data.parameter_names]:
        raise InputError(f"The data have no parameter {wrong[0]!r}: they have {', '.join(data.parameter_names)}.")
    numbers = [run.trajectory for run in source.runs if run.trajectory is not None]
    if numbers and max(numbers) >= data.num_trajectories:
        raise InputError(
            f"The forecast starts from trajectory {max(numbers)}, the truth has {data.num_trajectories}; pass the data it was made from."
        )
    values = torch.stack([data.parameters(number) for number in numbers]).double()
    replaced = {
        data.parameter_names.index(name): value
        for name, value in replaced_parameters(source.attributes).items()
        if name in data.parameter_names
    }
    for column, value in replaced.items():
        values[:, column] = value
    columns = [data.parameter_names.index(name) for name in by or data.parameter_names]
    if by is None:
        columns = [
            column for column in columns if column in replaced or bool((values[:, column] != values[0, column]).any())
        ]
    names = tuple(data.parameter_names[column] for column in columns)
    groups: dict[Group, list[Run]] = {}
    for run, row in zip(source.runs, values[:, columns].tolist(), strict=True):
        groups.setdefault(tuple(float(f"{value:.7g}") for value in row), []).append(run)
    if by is None and len(groups) > most:
        note = f"Parameters ({', '.join(names)}) take {len(groups)} values: all runs are one group; choose with --by what tells them apart."
        return (), {(): list(source.runs)}, [note]
    return names, dict(sorted(groups.items())), []


def replaced_parameters(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Values with which a forecast was made instead of those of its data (`forecast --param`), by name."""
    pairs = (part.partition("=") for part in str(attributes.get("eddycast_parameters", "")).split(", ") if part)
    return {name: float(value) for name, _, value in pairs}


def shared_parameters(runs: Sequence[Run], data: Dataset | None) -> Tensor | None:
    """Parameters (P,), float64, of runs that all have the same ones; None otherwise."""
    if data is None or not data.parameter_names or any(run.trajectory is None for run in runs):
        return None
    rows = torch.stack([data.parameters(run.trajectory) for run in runs if run.trajectory is not None]).double()
    return rows[0] if bool((rows == rows[0]).all()) else None


def physical_grid(grid: Grid, system: str, parameters: Tensor | None) -> Grid:
    """The grid in physical units: data whose extent is a parameter that varies are stored on one of period 1."""
    if parameters is None or system not in SYSTEMS or len(parameters) != len(SYSTEMS[system].info.parameters):
        return grid
    try:
        own = SYSTEMS[system].grid(grid.shape, parameters)
    except InputError:  # another solver's points
        return grid
    same = own.shape == grid.shape and own.periodic == grid.periodic
    axes = (replace(one, name=stored.name) for one, stored in zip(own.axes, grid.axes, strict=True))
    return Grid(tuple(axes)) if same else grid


def lyapunov_time_of(
    system: str, parameters: Tensor | None, attributes: Mapping[str, Any], *, alone: bool
) -> float | None:
    """Lyapunov time of one set of parameters: of the system where its exponent is known there, else of the file if it is of one set.

    Args:
        alone: Whether all runs of the file have the same parameters: what the file says of several is a mean, wrong for each.
    """
    if parameters is not None and system in SYSTEMS and len(parameters) == len(SYSTEMS[system].info.parameters):
        exponent = float(SYSTEMS[system].lyapunov_exponent(parameters))
        if exponent > 0:
            return 1 / exponent
    told = attributes.get("lyapunov_time")
    return float(told) if alone and told not in (None, "") else None
