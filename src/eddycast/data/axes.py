"""Which dimension of a foreign file is time, which number trajectories, which are space; CF first, names second."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eddycast.data.quadrature import is_uniform, latitude_weights, plain_axis
from eddycast.errors import InputError
from eddycast.grid import BOUNDARIES, Axis, Boundary

if TYPE_CHECKING:
    import xarray as xr

TIME_NAMES = ("time", "t", "date", "datetime", "valid_time", "lead_time")
TRAJECTORY_NAMES = (
    *("trajectory", "traj", "member", "ensemble", "ens", "realization", "realisation", "number", "sample", "case"),
    *("run", "init", "simulation", "n"),
)
LONGITUDE_UNITS = ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreee", "degreese")
LATITUDE_UNITS = ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreen", "degreesn")
RESERVED = ("init", "member", "lead_time")
RING_TOLERANCE = 0.02  # of a spacing


def _attributes(content: xr.Dataset, dim: Hashable) -> dict[str, Any]:
    return content[dim].attrs if dim in content.variables else {}


def find_time(content: xr.Dataset, dims: Sequence[Hashable], wanted: str | None) -> Hashable | None:
    """The time dimension among `dims`, or None."""
    if wanted is not None:
        return wanted if wanted in dims else None

    def rank(dim: Hashable) -> int:
        attributes, name = _attributes(content, dim), str(dim).lower()
        if str(attributes.get("axis", "")).upper() == "T" or attributes.get("standard_name") == "time":
            return 4
        if dim in content.variables:
            values = content[dim]
            if values.dtype.kind == "M" or (values.size and hasattr(values.values.reshape(-1)[0], "calendar")):
                return 3
            if " since " in str(attributes.get("units", "")):
                return 2
        return 1 if name in TIME_NAMES else 0

    best = max(dims, key=rank, default=None)
    return best if best is not None and rank(best) > 0 else None


def find_trajectories(content: xr.Dataset, dims: Sequence[Hashable], time: Hashable) -> list[Hashable]:
    """Dimensions that number trajectories."""
    return [
        dim
        for dim in dims
        if dim != time
        and (str(dim).lower() in TRAJECTORY_NAMES or _attributes(content, dim).get("standard_name") == "realization")
    ]


def find_space(
    content: xr.Dataset, name: Hashable, time: Hashable, trajectories: Sequence[Hashable], where: str
) -> list[Hashable]:
    """The 1 to 3 space dimensions of a variable; dimensions of size 1 (a single level) are dropped."""
    array = content[name]
    rest = [dim for dim in array.dims if dim != time and dim not in trajectories]
    space = [dim for dim in rest if array.sizes[dim] > 1]
    if reserved := [dim for dim in space if dim in RESERVED]:
        raise InputError(f"{where}: the name {reserved[0]!r} is kept for forecasts and is no axis of space; rename it.")
    if not 1 <= len(space) <= 3:
        found = ", ".join(f"{dim} ({array.sizes[dim]})" for dim in array.dims)
        raise InputError(f"{where}: field {name!r} needs 1 to 3 space dimensions beside time, it has {found}.")
    return space


def kind_of(dim: Hashable, attributes: dict[str, Any]) -> str:
    """`longitude`, `latitude` or `plain`."""
    units, name = str(attributes.get("units", "")).lower(), str(dim).lower()
    standard = str(attributes.get("standard_name", ""))
    if units in LONGITUDE_UNITS or standard == "longitude" or name in ("lon", "longitude"):
        return "longitude"
    if units in LATITUDE_UNITS or standard == "latitude" or name in ("lat", "latitude"):
        return "latitude"
    return "plain"


def _unwrapped(longitude: np.ndarray) -> np.ndarray:
    """Longitudes without the jump from 360 to 0 (or 180 to -180), if there is one."""
    jumps = np.diff(longitude)
    if len(jumps) < 2:
        return longitude
    usual = np.sign(np.median(jumps))
    return longitude + 360 * usual * np.concatenate([[0], np.cumsum(np.sign(jumps) == -usual)])


def _boundary(text: str) -> Boundary:
    """A kind of boundary, open where the text is none."""
    kinds: dict[str, Boundary] = {kind: kind for kind in BOUNDARIES}
    return kinds.get(text, "open")


def space_axis(content: xr.Dataset, dim: Hashable, *, periodic: bool, where: str) -> tuple[Axis, str]:
    """The axis of a dimension, and a note on what was assumed.

    Raises: InputError for coordinates that are not monotonic numbers.
    """
    name, size = str(dim), content.sizes[dim]
    if dim not in content.variables:
        axis = plain_axis(name, np.arange(size, dtype=np.float64), periodic=periodic)
        return axis, f"The dimension {name!r} has no coordinate: points are numbered, spacing 1."
    attributes, values = _attributes(content, dim), content[dim].values
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where}: the coordinate {name!r} is {values.dtype}, expected numbers.")
    values, units, kind = values.astype(np.float64), str(attributes.get("units", "1")) or "1", kind_of(dim, attributes)
    try:
        if kind == "longitude":
            return _longitude(name, _unwrapped(values), units, periodic)
        if kind == "latitude":
            return _latitude(name, values, units), ""
        sides = str(attributes.get("eddycast_boundary", "open open")).split()
        low, high = _boundary(sides[0]), _boundary(sides[-1])
        period = attributes.get("eddycast_period")
        repeats = periodic or low == "periodic"
        axis = plain_axis(
            name,
            values,
            periodic=repeats,
            boundary=(low, high),
            units=units,
            period=None if period is None or periodic else float(period),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return axis, ""


def _longitude(name: str, values: np.ndarray, units: str, periodic: bool) -> tuple[Axis, str]:
    spacing = np.abs(np.diff(values)).mean()
    ring = is_uniform(values) and abs(spacing * len(values) - 360) <= RING_TOLERANCE * spacing
    if ring or periodic:
        return plain_axis(name, values, periodic=True, units=units, period=360.0), ""
    if abs(spacing * (len(values) - 1) - 360) <= RING_TOLERANCE * spacing:
        note = (
            f"{name!r} holds its first meridian twice; it is taken as bounded. Drop the last column to close the ring."
        )
        return plain_axis(name, values, units=units), note
    return plain_axis(name, values, units=units), ""


def _latitude(name: str, values: np.ndarray, units: str) -> Axis:
    axis = plain_axis(name, values, units=units)
    if np.abs(values).max() > 90.001 or len(values) < 2:
        return axis
    spacing = np.abs(np.diff(values))
    low = "wall" if 90 - abs(values[0]) < spacing[0] else "open"
    high = "wall" if 90 - abs(values[-1]) < spacing[-1] else "open"
    weights = tuple(float(weight) for weight in latitude_weights(values))
    return Axis(axis.name, axis.coordinates, (low, high), units, None, weights)
