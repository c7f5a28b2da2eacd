"""Ways to spoil the structure of HDF5 and NetCDF."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from fuzz_bytes import Mutation, Rng, pick
from fuzz_text import mutated_tree


def _objects(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return sorted(names)


def _datasets(file: h5py.File) -> list[str]:
    return [name for name in _objects(file) if isinstance(file[name], h5py.Dataset)]


def _attributes(file: h5py.File) -> list[tuple[str, str]]:
    return [(name, key) for name in ["/", *_objects(file)] for key in sorted(file[name].attrs)]


def _replace(file: h5py.File, name: str, data: Any, **options: Any) -> None:
    """Another array under the same name with the same attributes."""
    kept = {key: value for key, value in file[name].attrs.items() if key not in ("DIMENSION_LIST", "REFERENCE_LIST")}
    del file[name]
    new = file.create_dataset(name, data=data, **options) if data is not None else file.create_dataset(name, **options)
    for key, value in kept.items():
        new.attrs[key] = value


def h5_attribute_lost(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        name, key = pick(_attributes(file), rng)
        del file[name].attrs[key]


def h5_attribute_odd(path: Path, rng: Rng) -> None:
    odd = (np.nan, np.inf, -1, 10**12, "text", "", np.zeros((2, 2)), np.zeros(0), h5py.Empty("f4"), b"\xff\xfe", "1e999",
           np.array(["a", "b"], dtype=h5py.string_dtype()), True, 2.5)  # fmt: skip
    with h5py.File(path, "r+") as file:
        name, key = pick(_attributes(file), rng)
        file[name].attrs[key] = pick(list(odd), rng)


def h5_object_lost(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        del file[pick(_objects(file), rng)]


def h5_dtype(path: Path, rng: Rng) -> None:
    """Text, booleans, complex numbers, structures or references where numbers are expected."""
    with h5py.File(path, "r+") as file:
        name = pick(_datasets(file), rng)
        shape = file[name].shape
        kinds = (h5py.string_dtype(), "S3", "bool", "c8", [("a", "f4"), ("b", "i2")], h5py.ref_dtype, "i1", "u8", "f2")
        kind = kinds[int(rng.integers(len(kinds)))]
        _replace(file, name, None, shape=shape, dtype=kind)


def h5_shape(path: Path, rng: Rng) -> None:
    with h5py.File(path, "r+") as file:
        name = pick(_datasets(file), rng)
        shape = file[name].shape or (1,)
        choices = ((), (0,) * len(shape), (*shape[:-1], shape[-1] + 1), (*shape[:-1], max(shape[-1] - 1, 0)), (*shape, 2), shape[1:],
                   (1,) * len(shape), shape[::-1])  # fmt: skip
        new = choices[int(rng.integers(len(choices)))]
        _replace(file, name, np.linspace(0, 1, int(np.prod(new, dtype=int))).reshape(new).astype("f4"))


def h5_values(path: Path, rng: Rng) -> None:
    """NaN, infinite, huge, negative, equal or unsorted numbers."""
    with h5py.File(path, "r+") as file:
        names = [name for name in _datasets(file) if file[name].dtype.kind in "fiu" and file[name].size]
        name = pick(names, rng)
        values = np.asarray(file[name], dtype="f8")
        flat = values.reshape(-1)
        how = int(rng.integers(8))
        place = int(rng.integers(flat.size))
        if how == 0:
            flat[place] = np.nan
        elif how == 1:
            flat[place] = np.inf
        elif how == 2:
            flat[:] = 1e300
        elif how == 3:
            flat[:] = -flat
        elif how == 4:
            flat[:] = flat[0]
        elif how == 5:
            rng.shuffle(flat)
        elif how == 6:
            flat[:] = np.nan
        else:
            flat[:] = 1e18 * (1 + np.arange(flat.size))
        _replace(file, name, values)


def h5_huge(path: Path, rng: Rng) -> None:
    """A declared size of terabytes, of which nothing is stored."""
    with h5py.File(path, "r+") as file:
        name = pick(_datasets(file), rng)
        shape = list(file[name].shape or (1,))
        shape[int(rng.integers(len(shape)))] = int(pick([2**34, 2**45, 2**60], rng))
        _replace(file, name, None, shape=tuple(shape), dtype="f4", chunks=(1,) * len(shape))


def h5_link(path: Path, rng: Rng) -> None:
    """Links to other files, to themselves, to nothing, or to the group above."""
    with h5py.File(path, "r+") as file:
        name = pick(_objects(file), rng)
        del file[name]
        file[name] = pick(
            [
                h5py.ExternalLink("/etc/passwd", "/"),
                h5py.ExternalLink("nowhere.h5", "/a"),
                h5py.ExternalLink(path.name, f"/{name}"),
                h5py.SoftLink(f"/{name}"),
                h5py.SoftLink("/nothing"),
                h5py.SoftLink("/"),
            ],
            rng,
        )


def h5_kind(path: Path, rng: Rng) -> None:
    """A group where an array is expected, or an array where a group is."""
    with h5py.File(path, "r+") as file:
        name = pick(_objects(file), rng)
        was_group = isinstance(file[name], h5py.Group)
        kept = dict(file[name].attrs)
        del file[name]
        new = file.create_dataset(name, data=np.arange(3.0)) if was_group else file.create_group(name)
        for key, value in kept.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                new.attrs[key] = value


HDF5: tuple[Mutation, ...] = (
    h5_attribute_lost,
    h5_attribute_odd,
    h5_object_lost,
    h5_dtype,
    h5_shape,
    h5_values,
    h5_huge,
    h5_link,
    h5_kind,
)


# NetCDF of any kind, through xarray


def _edited(path: Path, edit: Callable[[xr.Dataset], xr.Dataset]) -> None:
    classic = path.read_bytes()[:3] == b"CDF"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = xr.load_dataset(path, engine="scipy" if classic else "h5netcdf", decode_cf=False)
        content = edit(content)
        other = path.with_name("other.nc")
        try:
            content.to_netcdf(other, engine="scipy" if classic else "h5netcdf")
        except (ValueError, TypeError):  # what the format cannot hold stays out
            other.unlink(missing_ok=True)
        else:
            os.replace(other, path)


def nc_units(path: Path, rng: Rng) -> None:
    odd = ("days since never", "fortnights since 2000-01-01", "seconds since 0000-00-00", "K", "", "days since 99999-01-01",
           "months since 2000-01-01", "days since 2000-01-01 25:61", "days since", "\u00e9")  # fmt: skip

    def edit(content: xr.Dataset) -> xr.Dataset:
        content[pick(sorted(map(str, content.variables)), rng)].attrs["units"] = pick(list(odd), rng)
        return content

    _edited(path, edit)


def nc_attribute(path: Path, rng: Rng) -> None:
    """An attribute that means something, with a value that does not."""

    def edit(content: xr.Dataset) -> xr.Dataset:
        name = pick(["calendar", "scale_factor", "add_offset", "_FillValue", "missing_value", "coordinates", "axis", "bounds",
                      "eddycast_boundary", "eddycast_period", "standard_name", "eddycast_cycle", "step", "dtype"], rng)  # fmt: skip
        value = pick(["mars", "nan", "lat lon", -1.0, np.nan, 1e300, 0.0, np.arange(3.0), "T", "time", ""], rng)
        content[pick(sorted(map(str, content.variables)), rng)].attrs[name] = value
        return content

    _edited(path, edit)


def nc_rename(path: Path, rng: Rng) -> None:
    def edit(content: xr.Dataset) -> xr.Dataset:
        dim = pick(sorted(map(str, content.dims)), rng)
        return content.rename_dims({dim: "other"}) if rng.random() < 0.5 else content.drop_vars(dim, errors="ignore")

    _edited(path, edit)


def nc_cut(path: Path, rng: Rng) -> None:
    """A dimension of no, one or two entries."""

    def edit(content: xr.Dataset) -> xr.Dataset:
        return content.isel({pick(sorted(map(str, content.dims)), rng): slice(0, int(rng.integers(0, 3)))})

    _edited(path, edit)


def nc_values(path: Path, rng: Rng) -> None:
    def edit(content: xr.Dataset) -> xr.Dataset:
        names = [str(name) for name, item in content.variables.items() if item.size and item.dtype.kind in "fiu"]
        name = pick(names, rng)
        values = content[name].values.astype("f8")
        flat, how = values.reshape(-1), int(rng.integers(6))
        if how == 0:
            flat[int(rng.integers(flat.size))] = np.nan
        elif how == 1:
            flat[int(rng.integers(flat.size))] = np.inf
        elif how == 2:
            rng.shuffle(flat)
        elif how == 3:
            flat[:] = flat[0]
        elif how == 4:
            flat[:] = 1e300
        else:
            flat[:] = -1e15 * np.arange(flat.size)
        content[name] = (content[name].dims, values, content[name].attrs)
        return content

    _edited(path, edit)


NETCDF: tuple[Mutation, ...] = (nc_units, nc_attribute, nc_rename, nc_cut, nc_values)


def nc_header(path: Path, rng: Rng) -> None:
    """The JSON that observations in NetCDF carry."""
    with h5py.File(path, "r+") as file:
        content = json.loads(file.attrs["eddycast_observations"])
        file.attrs["eddycast_observations"] = json.dumps(mutated_tree(content, rng))
