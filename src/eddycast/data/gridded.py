"""NetCDF-3, NetCDF-4 and Zarr through xarray: any names of dimensions, any CF calendar, missing values."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eddycast.data.arrays import Missing, constant_mask
from eddycast.data.axes import find_space, find_time, find_trajectories, space_axis
from eddycast.data.clock import Clock, PlainClock, calendar_clock, plain_clock
from eddycast.data.dataset import Dataset, Field
from eddycast.data.splits import DEFAULT_FRACTIONS, make_splits
from eddycast.errors import InputError, reason
from eddycast.grid import Grid
from eddycast.labelled import open_labelled, values_of

if TYPE_CHECKING:
    import xarray as xr

SCAN_BYTES = 2**29  # masks of smaller data are found from all frames at once, of larger ones from the first frame
PIECE_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class GriddedSource:
    """Frames of one file or store.

    Args:
        path: File, or Zarr directory; None for a data set already in memory.
        decode: Whether times are decoded as dates.
        names: Variables, one per channel.
        time: Name of the time dimension.
        trajectories: Names of the dimensions that number trajectories, possibly none.
        space: Names of the space dimensions, in the order of the grid.
        counts: Sizes of `trajectories`.
        frames: Number of frames.
    """

    path: str | None
    decode: bool
    names: tuple[Hashable, ...]
    time: Hashable
    trajectories: tuple[Hashable, ...]
    space: tuple[Hashable, ...]
    counts: tuple[int, ...]
    frames: int
    opened: dict[int, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # a file is opened anew in each process; what has no file travels with the source
        return {**self.__dict__, "opened": {} if self.path is not None else self.opened}

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.frames,) * int(np.prod(self.counts, dtype=int))

    def _content(self) -> xr.Dataset:
        key = os.getpid() if self.path is not None else 0
        if key not in self.opened:
            assert self.path is not None
            self.opened[key] = open_xarray(Path(self.path), decode=self.decode)
        return self.opened[key]

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        place = np.unravel_index(trajectory, self.counts) if self.counts else ()
        pick: dict[Hashable, Any] = {name: int(at) for name, at in zip(self.trajectories, place, strict=True)}
        pick[self.time] = slice(start, stop, stride)
        content, parts = self._content(), []
        for name in self.names:
            array = content[name]
            single = {dim: 0 for dim in array.dims if dim not in (*self.space, *pick)}
            part = array.isel({**single, **{dim: at for dim, at in pick.items() if dim in array.dims}})
            values = values_of(part.transpose(self.time, *self.space), f"{self.path}: {name!r}")
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and thus missing
                parts.append(values.astype(np.float32))
        return torch.from_numpy(np.stack(parts, axis=1))


def open_xarray(path: Path, *, decode: bool) -> xr.Dataset:
    """Open a NetCDF file or Zarr store lazily; the engine follows from the first bytes. Raises: InputError."""
    return open_labelled(path, decode_times=decode, decode_coords="all")


def _open_decoded(path: Path) -> tuple[xr.Dataset, bool, str]:
    """The content, whether times became dates, and a note where they could not."""
    try:
        return open_xarray(path, decode=True), True, ""
    except InputError as error:
        content = open_xarray(path, decode=False)  # fails as well where not the dates are to blame
        told = "" if error.__cause__ is None else reason(error.__cause__)[:80]
        return content, False, f"Dates could not be decoded ({told}), so time is taken as plain numbers."


def _candidates(content: xr.Dataset, where: str, time: str | None) -> dict[Hashable, Hashable]:
    """Variables that may be fields, with their time dimension: numbers with time and at least one more dimension."""
    found = {}
    for name, array in content.data_vars.items():
        bounds = str(name).endswith(("_bnds", "_bounds")) or any(
            str(other.attrs.get("bounds", other.encoding.get("bounds", ""))) == name
            for other in content.variables.values()
        )
        dim = find_time(content, array.dims, time)
        if dim is not None and array.ndim >= 2 and array.dtype.kind in "fiu" and not bounds:
            found[name] = dim
    if not found:
        shapes = ", ".join(f"{name}{tuple(map(str, array.dims))}" for name, array in content.data_vars.items())
        known = time or "time"
        raise InputError(
            f"{where}: no field with a time dimension and 1 to 3 space dimensions (looked for {known!r}); "
            f"it holds {shapes or 'no variables'}. Name the dimension with time=..."
        )
    return found


def _place(name: Hashable, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(str(name)) if name in order else len(order), str(name))


def _choose(
    content: xr.Dataset, candidates: dict[Hashable, Hashable], fields: Sequence[str] | None, where: str
) -> tuple[list[Hashable], str]:
    """Variables with the same dimensions: those asked for, or the largest group."""
    if fields is not None:
        if unknown := [name for name in fields if name not in candidates]:
            valid = ", ".join(map(str, candidates))
            raise InputError(f"{where}: no field {unknown[0]!r}; valid ones: {valid}.")
        groups = {frozenset(content[name].dims) for name in fields}
        if len(groups) > 1:
            shapes = ", ".join(f"{name}{tuple(map(str, content[name].dims))}" for name in fields)
            raise InputError(f"{where}: fields must share their dimensions, got {shapes}; choose fewer.")
        return list(fields), ""
    if Path(where).is_dir():
        # a Zarr store lists its arrays in no particular order; the channels of two runs must agree
        order = str(content.attrs.get("eddycast_fields", "")).split()
        candidates = {name: candidates[name] for name in sorted(candidates, key=lambda name: _place(name, order))}
    members: dict[frozenset[Hashable], list[Hashable]] = {}
    for name in candidates:
        members.setdefault(frozenset(content[name].dims), []).append(name)
    best = max(members.values(), key=len)
    others = [str(name) for name in candidates if name not in best]
    note = (
        f"Fields with other dimensions were left out: {', '.join(others)}; choose them with fields=..."
        if others
        else ""
    )
    return best, note


def _clock(content: xr.Dataset, time: Hashable, frames: int, dt: float | None, where: str) -> tuple[Clock, str]:
    if dt is not None:
        return PlainClock(float(dt), "1"), ""
    if time not in content.variables:
        return PlainClock(
            1.0, "1"
        ), f"The dimension {time!r} has no coordinate: the time step is taken as 1; pass dt=..."
    values = content[time].values
    if values.dtype.kind in "OM":
        stamps = values.astype("datetime64[ns]") if values.dtype.kind == "M" else values
        if values.dtype.kind == "M" and np.isnat(values).any():
            raise InputError(f"{where}: the time coordinate has missing values; give every frame its time.")
        calendar = str(content[time].encoding.get("calendar", getattr(values[0], "calendar", "standard")))
        return calendar_clock(stamps, calendar, where), ""
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where}: the time coordinate {time!r} is {values.dtype}, expected dates or numbers.")
    units = str(content[time].attrs.get("units", "1")).split(" since ")[0].strip() or "1"
    plain = (
        units.removesuffix("s").lower()
        if units.lower().removesuffix("s") in ("day", "hour", "minute", "second")
        else units
    )
    clock = plain_clock(values, plain, where)
    cycle = content[time].attrs.get("eddycast_cycle")
    return PlainClock(clock.dt, clock.units, clock.origins, None if cycle is None else float(cycle)), ""


def _field(name: Hashable, attributes: dict[str, Any]) -> Field:
    return Field(
        str(name),
        str(attributes.get("units", "1")),
        str(attributes.get("long_name", "")),
        str(attributes.get("standard_name", "")),
    )


def _mask(
    source: GriddedSource, fields: Sequence[Field], missing: Missing, where: str
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Mask of valid points (see `constant_mask`), from all frames where the data are small, else from one frame."""
    first = source.read(0, 0, 1, 1)
    frame_bytes = 4 * first.numel()
    total = frame_bytes * source.frames * len(source.lengths)
    names = [item.name for item in fields]
    if total > SCAN_BYTES and missing == "error":
        finite = torch.isfinite(first[0])
        return constant_mask(names, ~finite, finite, policy=missing, where=where)
    lost, seen = torch.zeros(first.shape[1:], dtype=torch.bool), torch.zeros(first.shape[1:], dtype=torch.bool)
    counts = torch.zeros(len(names), dtype=torch.long)
    size = max(1, PIECE_BYTES // frame_bytes)
    for trajectory, length in enumerate(source.lengths):
        for start in range(0, length, size):
            finite = torch.isfinite(source.read(trajectory, start, min(start + size, length), 1))
            lost |= ~finite.all(0)
            seen |= finite.any(0)
            counts += (~finite).transpose(0, 1).flatten(1).sum(1)
    if missing == "error" and bool((lost & seen).any()):
        where = f"{where}, {_first_gap(source, lost & seen, size)}"
    return constant_mask(names, lost, seen, policy=missing, where=where, counts=counts)


def _first_gap(source: GriddedSource, varies: Tensor, size: int) -> str:
    """First frame that lacks a value at a point that has one elsewhere, in words."""
    for trajectory, length in enumerate(source.lengths):
        for start in range(0, length, size):
            frames = source.read(trajectory, start, min(start + size, length), 1)
            gaps = (~torch.isfinite(frames) & varies).flatten(1).any(1).nonzero()
            if len(gaps):
                run = f"trajectory {trajectory}, " if len(source.lengths) > 1 else ""
                return f"from {run}frame {start + int(gaps[0])} on"
    return "somewhere"


def open_gridded(
    path: Path | xr.Dataset,
    *,
    fields: Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
    periodic: Sequence[str] = (),
    missing: Missing = "error",
    time: str | None = None,
    dt: float | None = None,
    check_missing: bool = True,
) -> Dataset:
    """Open NetCDF, Zarr, or an xarray data set.

    Time is found by its CF axis, standard name, units, dates or name; dimensions called member, realization,
    trajectory, ... number trajectories; the 1 to 3 dimensions that remain are space. Dates with steps of whole years,
    months, days, ... count in steps. Longitudes that close a ring are periodic; `periodic` names other axes that
    repeat. Latitudes have area weights.

    Args:
        path: File, store, or xarray data set.
        fields: Variables to use, in this order; all of the same dimensions otherwise.
        fractions: Shares of train, valid and test.
        periodic: Axes that repeat.
        missing: "error" refuses gaps that change in time, "union" masks every point that is ever missing.
        time: Name of the time dimension, where it cannot be found.
        dt: Time step, where the file has none or a useless one.
        check_missing: False skips the search for missing values (inspection).

    Raises: InputError for anything that cannot be understood.
    """
    notes = []
    if isinstance(path, Path):
        where = str(path)
        content, decoded, note = _open_decoded(path)
        notes += [note] if note else []
    else:
        where, content, decoded = str(path.encoding.get("source", "The data set")), path, True
    candidates = _candidates(content, where, time)
    names, note = _choose(content, candidates, fields, where)
    notes += [note] if note else []
    dims = content[names[0]].dims
    if none := [dim for dim in dims if content.sizes[dim] == 0]:
        raise InputError(
            f"{where}: the dimension {none[0]!r} of {names[0]!r} has no entries; there is nothing to read."
        )
    time_dim = candidates[names[0]]
    trajectories = find_trajectories(content, dims, time_dim)
    space = find_space(content, names[0], time_dim, trajectories, where)
    axes = []
    for dim in space:
        axis, note = space_axis(content, dim, periodic=str(dim) in periodic, where=where)
        axes.append(axis)
        notes += [note] if note else []
    if unknown := [name for name in periodic if name not in [str(dim) for dim in space]]:
        raise InputError(f"{where}: no axis {unknown[0]!r} to be periodic; valid ones: {', '.join(map(str, space))}.")
    frames = content.sizes[time_dim]
    clock, note = _clock(content, time_dim, frames, dt, where)
    notes += [note] if note else []
    source = GriddedSource(
        where if isinstance(path, Path) else None,
        decoded,
        tuple(names),
        time_dim,
        tuple(trajectories),
        tuple(space),
        tuple(content.sizes[dim] for dim in trajectories),
        frames,
        {os.getpid() if isinstance(path, Path) else 0: content},
    )
    channels = tuple(_field(name, content[name].attrs) for name in names)
    valid, found = _mask(source, channels, missing, where) if check_missing else (None, ())
    keep = ("title", "institution", "source", "history", "references", "lyapunov_time")
    attributes = {name: content.attrs[name] for name in keep if name in content.attrs}
    system = content.attrs.get("eddycast_system", Path(where).stem)
    return Dataset(
        source=source,
        fields=channels,
        grid=Grid(tuple(axes)),
        clock=clock,
        splits=make_splits(source.lengths, fractions or DEFAULT_FRACTIONS),
        parameter_values=torch.zeros(len(source.lengths), 0),
        valid=valid,
        attributes={
            "path": where,
            "format": "Zarr" if Path(where).is_dir() else "NetCDF",
            "system": system,
            **attributes,
        },
        notes=(*notes, *found),
    )
