"""Observations as NetCDF-4 with CF attributes, one variable per field, missing where unobserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eddycast.errors import InputError, reading
from eddycast.files import atomic_output
from eddycast.labelled import open_labelled
from eddycast.observations.header import parse_header

if TYPE_CHECKING:
    from eddycast.observations.observations import Observations


def write_netcdf(observations: Observations, path: Path) -> None:
    """Dimensions (init, lead_time, *space); block means stand at the centres of their blocks.

    Raises: InputError when the file cannot be written.
    """
    import xarray

    names = observations.grid.names
    coordinates: dict[str, Any] = {
        "trajectory": ("init", observations.trajectories.numpy()),
        "frame": ("init", observations.frames.numpy()),
        "lead_time": (
            "lead_time",
            np.arange(observations.num_times) * observations.dt,
            {"units": observations.time_units, "step": observations.dt, "long_name": "time since the first frame"},
        ),
    }
    for axis, cells in zip(observations.grid.axes, observations.factor, strict=True):
        centres = np.asarray(axis.coordinates).reshape(-1, cells).mean(axis=1)
        coordinates[axis.name] = (axis.name, centres, {"units": axis.units})
    variables: dict[str, Any] = {}
    for channel, (name, units) in enumerate(observations.fields):
        std = float(observations.noise_std[channel])
        attributes = {"units": units, "noise_std": std, "cell_methods": "area: mean"}
        if observations.kind != "coarsen":
            del attributes["cell_methods"]
        variables[name] = (("init", "lead_time", *names), observations.values[:, :, channel].numpy(), attributes)
    if observations.valid is not None:
        dims = tuple(f"state_{name}" for name in names)
        variables["eddycast_valid"] = (dims, observations.valid.numpy().astype("i1"), {"long_name": "defined"})
    if observations.static is not None:
        cases = ("init",) if observations.static_varies else ()
        dims = (*cases, "static", *(f"state_{name}" for name in names))
        variables["eddycast_static"] = (dims, observations.static.numpy(), {"long_name": "static fields"})
    if observations.parameters is not None:
        variables["eddycast_parameters"] = (("init", "parameter"), observations.parameters.numpy())
    if observations.time is not None:
        variables["eddycast_time"] = (("init",), observations.time.numpy())
    dataset = xarray.Dataset(variables, coordinates, {"Conventions": "CF-1.11", **_attributes(observations)})
    with atomic_output(path, overwrite=True, is_ours=Path.is_file) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")


def read_netcdf(path: Path) -> dict[str, Any]:
    """The arguments of `Observations`.

    Raises: InputError naming the file when it is missing, broken or something else.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file of observations.")
    if path.is_dir():
        raise InputError(f"{path} is a directory, expected a NetCDF-4 file of observations.")
    with reading(path), open_labelled(path, decode_times=False) as opened:
        dataset = opened.load()
    kind = dataset.attrs.get("eddycast_kind")
    if not isinstance(kind, str) or kind != "observations":
        raise InputError(f"{path} holds no observations (eddycast_kind is {kind!r}): make it with `observe`.")
    content, grid = parse_header(dataset.attrs.get("eddycast_observations"), f"The header of {path}")
    names = [name for name, _ in content.fields]
    lost = [name for name in [*names, "trajectory", "frame"] if name not in dataset.variables]
    if lost:
        raise InputError(f"{path} lacks the variable {lost[0]!r} that its header announces: write the file anew.")
    cases, times = dataset.sizes.get("init", 0), dataset.sizes.get("lead_time", 0)
    observed = tuple(size // cells for size, cells in zip(grid.shape, content.factor, strict=True))

    def array(name: str, kinds: str, *shape: int) -> np.ndarray:
        values = dataset[name].values
        if values.dtype.kind not in kinds or values.shape != shape:
            raise InputError(
                f"{path}: {name!r} is {values.dtype} of shape {values.shape}, expected numbers of shape {shape}."
            )
        return values.copy()

    def tensor(name: str, kinds: str, *shape: int) -> torch.Tensor | None:
        return torch.from_numpy(array(name, kinds, *shape)) if name in dataset.variables else None

    values = np.stack([array(name, "f", cases, times, *observed) for name in names], axis=2)
    noise = [dataset[name].attrs.get("noise_std") for name in names]
    if not all(isinstance(std, (int, float, np.number)) for std in noise):
        raise InputError(f"{path}: a field has no number as its 'noise_std'; write the file anew.")
    valid = tensor("eddycast_valid", "iub", *grid.shape)
    static = None
    if content.static_names:
        if "eddycast_static" not in dataset.variables:
            raise InputError(f"{path} lacks the static fields that its header announces: write the file anew.")
        own = (cases,) if "init" in dataset["eddycast_static"].dims else ()
        static = tensor("eddycast_static", "f", *own, len(content.static_names), *grid.shape)
    return {
        "values": torch.from_numpy(values),
        "noise_std": torch.tensor([float(std) for std in noise], dtype=torch.float64).to(  # type: ignore[arg-type]
            getattr(torch, content.std_dtype)
        ),
        "grid": grid,
        "fields": tuple(content.fields),
        "dt": content.dt,
        "trajectories": torch.from_numpy(array("trajectory", "iu", cases)),
        "frames": torch.from_numpy(array("frame", "iu", cases)),
        "kind": content.kind,
        "factor": tuple(content.factor),
        "valid": None if valid is None else valid.bool(),
        "time_units": content.time_units,
        "parameters": tensor("eddycast_parameters", "f", cases, len(content.parameter_names)),
        "parameter_names": tuple(content.parameter_names),
        "time": tensor("eddycast_time", "fiu", cases),
        "cycle": content.cycle,
        "attributes": content.attributes,
        "static": static,
        "static_names": tuple(content.static_names),
    }


def header(observations: Observations) -> dict[str, Any]:
    """All but the arrays, ready for JSON."""
    return {
        "kind": observations.kind,
        "factor": list(observations.factor),
        "grid": observations.grid.to_dict(),
        "fields": [list(entry) for entry in observations.fields],
        "dt": observations.dt,
        "time_units": observations.time_units,
        "cycle": observations.cycle,
        "parameter_names": list(observations.parameter_names),
        "attributes": observations.attributes,
        "std_dtype": str(observations.noise_std.dtype).removeprefix("torch."),
    }


def _attributes(observations: Observations) -> dict[str, str]:
    told = header(observations)
    if observations.static_names:
        told["static_names"] = list(observations.static_names)
    return {
        "title": f"Observations ({observations.kind}) of {', '.join(name for name, _ in observations.fields)}",
        "eddycast_kind": "observations",
        "eddycast_observations": json.dumps(told),
    }
