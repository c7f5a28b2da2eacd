"""One record in time that lies in many NetCDF files or Zarr stores: one per day, one per year, or all in one.

NOAA distributes its daily sea surface temperature in two such forms, which both open here as they come:

- NCEI, one file per day, `oisst-avhrr-v02r01.YYYYMMDD.nc`: `sst` (and `anom`, `err`, `ice`) over (time, zlev, lat, lon), 16-bit numbers of
  0.01 degrees, noon of the day;
- PSL, one file per year, `sst.day.mean.YYYY.nc`: `sst` over (time, lat, lon), float32, missing value -9.96921e36, midnight.

Files are opened one at a time, and only the wanted rows and columns are read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eddycast.data.axes import find_space, find_time, find_trajectories, kind_of
from eddycast.data.dataset import Field
from eddycast.data.opening import existing
from eddycast.data.tiling import Kind, contiguous
from eddycast.errors import InputError
from eddycast.labelled import open_labelled, values_of

if TYPE_CHECKING:
    import xarray as xr

FAR = 1e30  # beyond any temperature: the fill values of files that do not declare theirs
ATTRIBUTES = {"units": "1", "long_name": "", "standard_name": ""}
USUAL = "sst"  # taken where a file holds several fields and none was chosen


@dataclass(frozen=True, eq=False)
class Record:
    """Frames of many files in the order of time.

    Args:
        paths: Files.
        owner: File of each frame, (time,).
        place: Frame within that file, (time,).
        stamps: datetime64, cftime objects or numbers, increasing, (time,).
        calendar: Of the dates; of plain numbers, their unit.
        fields: One per channel.
        time: Name of the time dimension.
        space: Names of the two space dimensions.
        coordinates: Of these, as in the files.
        kinds: `latitude`, `longitude` or `plain`.
        units: Of the coordinates.
        source: Title of the first file, as far as it has one.
    """

    paths: tuple[Path, ...]
    owner: np.ndarray
    place: np.ndarray
    stamps: np.ndarray
    calendar: str
    fields: tuple[Field, ...]
    time: Hashable
    space: tuple[Hashable, Hashable]
    coordinates: tuple[np.ndarray, np.ndarray]
    kinds: tuple[Kind, Kind]
    units: tuple[str, str]
    source: str

    @property
    def dated(self) -> bool:
        """Whether times are dates."""
        return self.stamps.dtype.kind in "OM"

    def years(self) -> np.ndarray | None:
        """Year of each frame, (time,); None where times are no dates."""
        if self.stamps.dtype.kind == "M":
            return self.stamps.astype("datetime64[Y]").astype(np.int64) + 1970
        return np.array([stamp.year for stamp in self.stamps]) if self.dated else None

    def when(self, frame: int) -> str:
        """The date of a frame, as text."""
        return str(self.stamps[frame])[:10]

    def read(
        self, content: xr.Dataset, path: Path, frames: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Frames of one open file, (time, channel, row, column), float32, NaN where missing.

        Args:
            content: The file, from `open_file`.
            path: Its path.
            frames: Numbers within the file, increasing.
            rows, columns: Indices, increasing.
        """
        parts = []
        for field in self.fields:
            array = content[field.name]
            kept = (self.time, *self.space)
            array = array.isel({dim: 0 for dim in array.dims if dim not in kept}).transpose(*kept)
            blocks = [
                [self._block(array, frames, row, column, f"{path}: {field.name!r}") for column in contiguous(columns)]
                for row in contiguous(rows)
            ]
            values = np.concatenate([np.concatenate(line, axis=2) for line in blocks], axis=1)
            parts.append(np.where(np.abs(values) < FAR, values, np.nan))
        return np.stack(parts, axis=1).astype(np.float32)

    def _block(self, array: xr.DataArray, frames: np.ndarray, row: slice, column: slice, what: str) -> np.ndarray:
        first, last = int(frames[0]), int(frames[-1])
        cut = array.isel({self.time: slice(first, last + 1), self.space[0]: row, self.space[1]: column})
        return values_of(cut, what)[frames - first]


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files and stores; a folder stands for all `.nc` files in it and below. Raises: InputError for what does not exist, or nothing."""
    found: list[Path] = []
    for path in paths:
        place = existing(path)
        store = place.is_dir() and any(
            (place / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json", ".zattrs")
        )
        inside = [place] if place.is_file() or store else sorted(place.rglob("*.nc"))
        if not inside:
            raise InputError(f"{path}: no .nc files in this folder; name NetCDF files, or folders that hold some.")
        found += inside
    if not found:
        raise InputError("No files to read: name NetCDF files, or folders that hold some.")
    return found


def open_file(path: Path) -> xr.Dataset:
    """Open lazily. Raises: InputError."""
    return open_labelled(path, decode_times=True, decode_coords="all")


def open_record(
    paths: Sequence[str | Path],
    fields: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    """Put files in the order of time; their coordinates are read, their fields are not.

    Args:
        paths: Files, stores, or folders of files, in any order.
        fields: Variables, one per channel; None for the only one, or `sst`.
        progress: Called with (files opened, of how many).

    Raises: InputError for files that do not belong together, two frames of one time, or fields that are not two-dimensional.
    """
    files = list_files(paths)
    first: dict[str, Any] = {}
    owner: list[np.ndarray] = []
    stamps: list[np.ndarray] = []
    for number, path in enumerate(files):
        with open_file(path) as content:
            known = _describe(content, path, fields or [field.name for field in first.get("fields", ())] or None)
        first = first or known
        _compare(first, known, path, files[0])
        owner.append(np.full(len(known["stamps"]), number))
        stamps.append(known["stamps"])
        if progress is not None:
            progress(number + 1, len(files))
    owners, times = np.concatenate(owner), np.concatenate(stamps)
    places = np.concatenate([np.arange(len(one)) for one in stamps])
    order = np.argsort(times, kind="stable")
    owners, places, times = owners[order], places[order], times[order]
    if len(same := np.flatnonzero(times[1:] == times[:-1])):
        one, other = files[owners[same[0]]], files[owners[same[0] + 1]]
        raise InputError(f"{one} and {other} both hold {times[same[0]]}; give each time once.")
    chosen = {name: value for name, value in first.items() if name != "stamps"}
    return Record(tuple(files), owners, places, times, **chosen)


def _describe(content: xr.Dataset, path: Path, fields: Sequence[str] | None) -> dict[str, Any]:
    """Times, fields and coordinates of one file. Raises: InputError."""
    names = _choose(content, path, fields)
    dims = content[names[0]].dims
    time = find_time(content, dims, None)
    if time is None or time not in content.variables:
        raise InputError(f"{path}: {names[0]!r} has no time coordinate; boxes are cut from records in time.")
    if several := [name for name in names if set(content[name].dims) != set(dims)]:
        raise InputError(f"{path}: {several[0]!r} has other dimensions than {names[0]!r}; choose fields of one kind.")
    if runs := find_trajectories(content, dims, time):
        raise InputError(f"{path}: {str(runs[0])!r} numbers several runs; select one of them first.")
    space = find_space(content, names[0], time, [], str(path))
    if len(space) != 2 or any(dim not in content.variables for dim in space):
        found = ", ".join(f"{dim} ({content.sizes[dim]})" for dim in dims)
        raise InputError(f"{path}: boxes need two space dimensions with coordinates, {names[0]!r} has {found}.")
    kinds = [kind_of(dim, content[dim].attrs) for dim in space]
    if kinds == ["longitude", "latitude"]:
        space, kinds = space[::-1], kinds[::-1]
    stamps = content[time].values
    if stamps.dtype.kind not in "OMfiu" or (stamps.dtype.kind == "M" and np.isnat(stamps).any()):
        raise InputError(f"{path}: the time coordinate must hold dates or numbers, without gaps.")
    if stamps.dtype.kind == "O":
        calendar = str(getattr(stamps[0], "calendar", "standard"))
    elif stamps.dtype.kind == "M":
        stamps, calendar = stamps.astype("datetime64[ns]"), str(content[time].encoding.get("calendar", "standard"))
    else:
        calendar = str(content[time].attrs.get("units", "1")) or "1"
    return {
        "stamps": stamps,
        "calendar": calendar,
        "fields": tuple(
            Field(name, *(str(content[name].attrs.get(key, usual)) for key, usual in ATTRIBUTES.items()))
            for name in names
        ),
        "time": time,
        "space": tuple(space),
        "coordinates": tuple(content[dim].values.astype(np.float64) for dim in space),
        "kinds": tuple(kinds),
        "units": tuple(str(content[dim].attrs.get("units", "1")) for dim in space),
        "source": " ".join(str(content.attrs.get("title", content.attrs.get("source", ""))).split())[:200],
    }


def _choose(content: xr.Dataset, path: Path, fields: Sequence[str] | None) -> list[str]:
    """Names of the variables. Raises: InputError for unknown ones, or several without a choice."""
    bounds = {
        str(variable.attrs.get("bounds", variable.encoding.get("bounds", "")))
        for variable in content.variables.values()
    }
    found = [
        str(name)
        for name, array in content.data_vars.items()
        if array.dtype.kind in "fiu"
        and array.ndim >= 3
        and str(name) not in bounds
        and find_time(content, array.dims, None) is not None
    ]
    if fields is not None:
        if lost := [name for name in fields if name not in found]:
            raise InputError(f"{path}: no field {lost[0]!r}; valid ones: {', '.join(found) or 'none'}.")
        return list(fields)
    if len(found) == 1 or USUAL in found:
        return [USUAL if USUAL in found else found[0]]
    if not found:
        raise InputError(f"{path}: no field over time and two space dimensions.")
    raise InputError(f"{path}: several fields, {', '.join(found)}; choose with --fields.")


def _compare(first: dict[str, Any], other: dict[str, Any], path: Path, reference: Path) -> None:
    """Raise an InputError unless two files have the same grid, units and kind of time."""
    same = all(
        here.shape == there.shape and np.allclose(here, there, rtol=0, atol=1e-4 * np.abs(np.diff(here)).min())
        for here, there in zip(first["coordinates"], other["coordinates"], strict=True)
    )
    if not same:
        raise InputError(f"{path}: its grid differs from that of {reference}; give files of one grid.")
    if [field.units for field in first["fields"]] != [field.units for field in other["fields"]]:
        units = other["fields"][0].units
        raise InputError(f"{path}: its unit {units!r} differs from that of {reference}; give files of one kind.")
    dated = [one["stamps"].dtype.kind in "OM" for one in (first, other)]
    if dated[0] != dated[1] or first["calendar"] != other["calendar"]:
        raise InputError(
            f"{path}: its times are of another kind than those of {reference}; give files of one calendar."
        )
