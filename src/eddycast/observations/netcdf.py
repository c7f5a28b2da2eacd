"""Observations as NetCDF-4 with CF attributes, one variable per field, missing where unobserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eddycast.errors import InputError
from eddycast.files import atomic_output
from eddycast.grid import Grid

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
    import xarray

    if not path.exists():
        raise InputError(f"{path}: no such file of observations.")
    try:
        dataset = xarray.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a readable NetCDF-4 file: {str(error).splitlines()[0]}") from error
    attributes = dict(dataset.attrs)
    if attributes.get("eddycast_kind") != "observations":
        raise InputError(
            f"{path} holds no observations (eddycast_kind is {attributes.get('eddycast_kind')!r}): make it with "
            "`observe`."
        )
    content = json.loads(attributes["eddycast_observations"])
    grid = Grid.from_dict(content["grid"])
    fields = tuple((name, units) for name, units in content["fields"])
    lost = [name for name, _ in fields if name not in dataset]
    if lost:
        raise InputError(f"{path} lacks the field {lost[0]!r} that its header announces.")
    values = torch.from_numpy(np.stack([dataset[name].values for name, _ in fields], axis=2))

    def tensor(name: str) -> torch.Tensor | None:
        return torch.from_numpy(dataset[name].values.copy()) if name in dataset else None

    valid = tensor("eddycast_valid")
    return {
        "values": values,
        "noise_std": torch.tensor(
            [float(dataset[name].attrs["noise_std"]) for name, _ in fields], dtype=torch.float64
        ).to(getattr(torch, content["std_dtype"])),
        "grid": grid,
        "fields": fields,
        "dt": content["dt"],
        "trajectories": torch.from_numpy(dataset["trajectory"].values.copy()),
        "frames": torch.from_numpy(dataset["frame"].values.copy()),
        "kind": content["kind"],
        "factor": tuple(content["factor"]),
        "valid": None if valid is None else valid.bool(),
        "time_units": content["time_units"],
        "parameters": tensor("eddycast_parameters"),
        "parameter_names": tuple(content["parameter_names"]),
        "time": tensor("eddycast_time"),
        "cycle": content["cycle"],
        "attributes": content["attributes"],
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
    return {
        "title": f"Observations ({observations.kind}) of {', '.join(name for name, _ in observations.fields)}",
        "eddycast_kind": "observations",
        "eddycast_observations": json.dumps(header(observations)),
    }
