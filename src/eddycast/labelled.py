"""NetCDF and Zarr through xarray, opened with care: the one place where what its back ends raise becomes an `InputError`."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eddycast.errors import InputError, reading
from eddycast.files import require_stored
from eddycast.hdf5 import require_finite_heaps

if TYPE_CHECKING:
    import xarray as xr

NETCDF3_MAGIC = b"CDF"
COORDINATE_BYTES = 2**28
LARGEST_INDEX = 2**31
NAMES = ("eddycast_kind", "eddycast_system", "eddycast_fields", "eddycast_run", "eddycast_recipe", "eddycast_method")
"""Attributes of our own files that are text."""


def engine_of(path: Path) -> Literal["zarr", "scipy", "h5netcdf"]:
    """The back end of xarray for a file or store, from its first bytes. Raises: InputError when it cannot be read."""
    if path.is_dir():
        return "zarr"
    with reading(path, "check the path and its permissions"):
        with path.open("rb") as file:
            if file.read(3) == NETCDF3_MAGIC:
                return "scipy"
        require_finite_heaps(path)
        return "h5netcdf"


def open_labelled(path: Path, *, decode_times: bool, decode_coords: bool | Literal["all"] = True) -> xr.Dataset:
    """Open lazily, with the coordinates in memory; time spans stay numbers.

    Raises: InputError for a file that is damaged, announces more than it holds, or whose dates cannot be decoded.
    """
    import xarray as xr

    engine = engine_of(path)
    if importlib.util.find_spec(engine) is None:
        extra = " (pip install 'eddycast[zarr]')" if engine == "zarr" else ""
        raise InputError(f"{path}: the {engine} package is needed to read it{extra}.")
    own: dict[str, Any] = {"phony_dims": "access"} if engine == "h5netcdf" else {}
    if engine == "zarr":
        own["consolidated"] = False
    with reading(path):
        content = xr.open_dataset(
            path, engine=engine, decode_times=decode_times, decode_timedelta=False, decode_coords=decode_coords,
            chunks=None, **own,
        )  # fmt: skip
        announced = sum(array.size * max(array.dtype.itemsize, 1) for array in content.variables.values())
    require_stored(path, announced)
    with reading(path):
        for name in content.coords:
            if content[name].nbytes <= COORDINATE_BYTES:
                announced = content[name].shape
                if content[name].load().values.shape != announced:
                    raise InputError(
                        f"{path}: the coordinate {str(name)!r} has another shape than {announced}, which was announced; "
                        "it is damaged, fetch or write it again."
                    )
    return content


def values_of(array: xr.DataArray, what: str) -> np.ndarray:
    """Read the numbers of a lazy array. Raises: InputError where they cannot be read, or are not of the announced shape."""
    announced = array.shape  # before it is read: xarray takes over what comes, whatever was announced
    with reading(what, kind="array"):
        values = np.asarray(array.values)
    if values.shape != announced or values.dtype.kind not in "fiub":
        raise InputError(
            f"{what}: holds {values.dtype} of shape {values.shape}, numbers of shape {announced} were announced; "
            "it is damaged, fetch or write it again."
        )
    return values


def check_ensemble(content: xr.Dataset, where: str) -> xr.Dataset:
    """What every reader of forecasts, analyses and observations relies on, checked once; returns the content.

    Numbers over (init, member, lead_time, *space), lead times that increase, trajectories and frames that can be counted.

    Raises: InputError, in one line.
    """
    if "lead_time" not in content.dims:
        found = ", ".join(map(str, content.dims)) or "none"
        raise InputError(
            f"{where}: expected the dimensions (init, member, lead_time, *space), found {found}; "
            "give a file written by `eddycast forecast` or `eddycast assimilate`."
        )
    if lost := [str(name) for name, size in content.sizes.items() if size < 1]:
        raise InputError(f"{where}: the dimension {lost[0]!r} has no entries; make the file again.")
    if "lead_time" not in content.coords:
        raise InputError(f"{where}: the dimension 'lead_time' has no coordinate; make the file again.")
    leads = content["lead_time"]
    if leads.dims != ("lead_time",) or leads.dtype.kind not in "fium" or not _increase(leads.values):
        raise InputError(f"{where}: lead times must be finite numbers that increase; make the file again.")
    for name in ("trajectory", "frame"):
        if name in content.variables:
            _check_counts(content[name], name, where)
    for name, array in content.data_vars.items():
        if "lead_time" in array.dims and array.dtype.kind not in "fiub":
            raise InputError(f"{where}: the field {str(name)!r} holds {array.dtype}, expected numbers.")
        for dim in array.dims if "lead_time" in array.dims else ():
            place = content.coords.get(dim)
            if place is not None and (
                place.dims != (dim,) or place.dtype.kind not in "fium" or not _ordered(place.values)
            ):
                raise InputError(f"{where}: the coordinate {str(dim)!r} must hold numbers that increase or decrease.")
    for name, attributes in (("step", leads.attrs), ("lyapunov_time", content.attrs)):
        if name in attributes and not _positive(attributes[name]):
            raise InputError(f"{where}: {name} is {attributes[name]!r}, expected a positive number.")
    if wrong := [name for name in NAMES if not isinstance(content.attrs.get(name, ""), str)]:
        raise InputError(f"{where}: the attribute {wrong[0]!r} is {content.attrs[wrong[0]]!r}, expected text.")
    return content


def _increase(values: np.ndarray) -> bool:
    if values.dtype.kind == "m" and bool(np.isnat(values).any()):
        return False
    numbers = values.astype(np.float64)  # durations, where the caller has decoded them, by their count
    with np.errstate(over="ignore"):
        return bool(np.isfinite(numbers).all() and (np.diff(numbers) > 0).all() and np.isfinite(np.ptp(numbers)))


def _ordered(values: np.ndarray) -> bool:
    return _increase(values) or _increase(values[::-1])


def _check_counts(array: xr.DataArray, name: str, where: str) -> None:
    values = array.values
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values == np.floor(values)).all()))
    if array.dims not in ((), ("init",)) or not whole or not bool(((values >= 0) & (values < LARGEST_INDEX)).all()):
        raise InputError(f"{where}: {name!r} must hold a whole number for each initial time; make the file again.")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and 0 < float(value) < math.inf
