"""Forecasts and analyses as labelled files.

Layout: dimensions (init, member, lead_time, *space), one variable per field; `init` carries trajectory, frame and time
of lead 0. CF attributes, provenance in the attributes of the file.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from eddycast import __version__
from eddycast.data.axes import space_axis
from eddycast.data.dataset import Initial
from eddycast.data.gridded import open_xarray
from eddycast.data.opening import existing, file_format
from eddycast.errors import InputError
from eddycast.files import atomic_output, require_space
from eddycast.grid import Grid
from eddycast.labelled import check_ensemble

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".nc", ".zarr")
CONVENTIONS = "CF-1.11"


def _plain(value: Any) -> Any:
    """A value that NetCDF can hold as an attribute."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return value if isinstance(value, (str, int, float, np.number, np.ndarray)) else str(value)


def _space_coordinates(grid: Grid) -> dict[str, Any]:
    coordinates = {}
    for axis in grid.axes:
        attributes: dict[str, Any] = {"units": axis.units, "eddycast_boundary": " ".join(axis.boundary)}
        if axis.period is not None:
            attributes["eddycast_period"] = axis.period
        units = axis.units.lower()
        if units.startswith("degree") and ("east" in units or "north" in units):
            attributes["standard_name"] = "longitude" if "east" in units else "latitude"
            attributes["axis"] = "X" if "east" in units else "Y"
        coordinates[axis.name] = (axis.name, np.asarray(axis.coordinates), attributes)
    return coordinates


def to_xarray(
    states: Tensor,
    *,
    initial: Initial,
    lead_times: Tensor | Sequence[float],
    kind: Literal["forecast", "analysis"] = "forecast",
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Label an ensemble.

    Args:
        states: Physical, (member, init, lead, channel, *space).
        initial: Data set, trajectories and frames of lead 0 (an analysis: of its first frame).
        lead_times: In steps since lead 0, (lead,), fractions allowed.
        kind: What it is.
        attributes: Provenance and the rest, over the defaults: `eddycast_run`, `eddycast_recipe`, `eddycast_seed`,
            `title`, ...; None is left out.

    Returns: dimensions (init, member, lead_time, *space); points that are not valid are NaN; `lead_time` in the unit of
        time of the data, and where the data have a calendar `valid_time` too.
    Raises: ValueError for shapes that disagree.
    """
    import xarray as xr

    data, stride = initial.data, initial.stride
    steps = np.asarray([float(step) for step in lead_times])
    members = states.shape[0]
    expected = (members, len(initial), len(steps), *data.state_shape)
    if tuple(states.shape) != expected:
        raise ValueError(
            f"states must be (member, init, lead, channel, *space) = {expected}, got {tuple(states.shape)}."
        )
    frames = initial.frames
    if frames is None:
        raise ValueError("The frames of lead 0 are not known yet: call initial.resolved(context) first.")
    values = states.detach().to("cpu").float()
    if data.valid is not None:
        values = values.masked_fill(~data.valid, float("nan"))
    array = values.movedim(1, 0).numpy()
    dims = ("init", "member", "lead_time", *data.grid.names)
    variables = {}
    for channel, field in enumerate(data.fields):
        labels = {"units": field.units, "long_name": field.long_name, "standard_name": field.standard_name}
        labels["eddycast_vector"] = field.vector
        variables[field.name] = (dims, array[:, :, :, channel], {key: text for key, text in labels.items() if text})
    trajectories, begins = initial.trajectories.tolist(), frames.tolist()
    dated = data.clock.calendar is not None
    time_labels = {"long_name": "time of lead 0", "standard_name": "forecast_reference_time"}
    coordinates: dict[str, Any] = {
        "member": ("member", np.arange(members), {"standard_name": "realization", "units": "1"}),
        "lead_time": (
            "lead_time",
            steps * data.dt * stride,
            {"standard_name": "forecast_period", "units": data.time_units, "step": data.dt * stride},
        ),
        "trajectory": ("init", np.asarray(trajectories), {"long_name": "trajectory of the data"}),
        "frame": ("init", np.asarray(begins), {"long_name": "frame of lead 0 within its trajectory"}),
        "time": ("init", initial.times(), time_labels if dated else {**time_labels, "units": data.time_units}),
        **_space_coordinates(data.grid),
    }
    if dated:
        valid_times = np.stack(
            [data.times(one, at + steps * stride) for one, at in zip(trajectories, begins, strict=True)]
        )
        coordinates["valid_time"] = (("init", "lead_time"), valid_times, {"standard_name": "time"})
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    system = str(data.attributes.get("system", "")) or "data"
    labels = {
        "Conventions": CONVENTIONS,
        "title": f"Ensemble {kind} of {system}",
        "source": f"eddycast {__version__}",
        "history": f"{now} eddycast {kind}",
        "eddycast_kind": kind,
        "eddycast_system": system,
        "eddycast_fields": " ".join(data.field_names),
        "lyapunov_time": data.attributes.get("lyapunov_time"),
        **(attributes or {}),
    }
    labels = {name: _plain(value) for name, value in labels.items() if value is not None}
    return xr.Dataset(variables, coordinates, labels)


def check_output(path: str | Path) -> Path:
    """A path that an output may get, so that a long computation is not started for nothing.

    Raises: InputError for an unknown suffix or a missing folder.
    """
    target = Path(path).expanduser()
    if target.suffix not in SUFFIXES:
        raise InputError(f"{path}: the output must end in .nc (NetCDF) or .zarr, not {target.suffix or 'nothing'!r}.")
    if not target.parent.is_dir():
        raise InputError(f"Cannot write {path}: the folder {target.parent} does not exist; create it first.")
    return target


def _is_ours(path: Path) -> bool:
    try:
        with open_xarray(path, decode=False) as content:
            return "eddycast_kind" in content.attrs
    except InputError:
        return False


def _zarr_encoding(content: xr.Dataset) -> dict[Hashable, dict[str, Any]]:
    """One chunk per member, one shard (file) per initial time."""
    encoding: dict[Hashable, dict[str, Any]] = {}
    for name, array in content.data_vars.items():
        if array.dims[:2] == ("init", "member"):
            encoding[name] = {"chunks": (1, 1, *array.shape[2:]), "shards": (1, *array.shape[1:])}
    return encoding


def write(content: xr.Dataset, path: str | Path, *, overwrite: bool = True) -> Path:
    """Write NetCDF (`.nc`, compressed) or Zarr (`.zarr`, one shard per initial time), whole or not at all.

    Args:
        content: From `to_xarray`.
        path: Target.
        overwrite: Replace an existing output of ours; anything else that exists is never replaced.

    Raises: InputError where the suffix is unknown, the place cannot be written, or something else is there.
    """
    target = check_output(path)
    content = content.copy()
    for array in content.variables.values():
        array.encoding = {key: array.encoding[key] for key in ("units", "calendar") if key in array.encoding}
    with atomic_output(target, overwrite=overwrite, is_ours=_is_ours) as temporary:
        if target.suffix == ".zarr":
            try:
                content.to_zarr(
                    temporary, mode="w", zarr_format=3, consolidated=False, encoding=_zarr_encoding(content)
                )
            except ImportError as error:
                raise InputError(
                    "Zarr output needs the zarr package: pip install 'eddycast[zarr]', or write .nc."
                ) from error
        else:
            encoding = {
                name: {"zlib": True, "complevel": 4, "shuffle": True}
                for name, array in content.data_vars.items()
                if array.dtype.kind in "fiu"
            }
            require_space(temporary, content.nbytes)
            content.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
    return target


def read(path: str | Path) -> xr.Dataset:
    """Open a forecast or analysis, lazily.

    Raises: InputError for a missing or damaged file, or one that is neither.
    """
    found = existing(path)
    if file_format(found) != "gridded":
        raise InputError(f"{path}: expected a forecast or analysis of eddycast (.nc or .zarr).")
    content = open_xarray(found, decode=True)
    if "eddycast_kind" not in content.attrs:
        raise InputError(f"{path}: not a forecast or analysis of eddycast (no attribute 'eddycast_kind').")
    check_ensemble(content, str(path))
    if lost := [name for name in ("trajectory", "frame") if name not in content.variables]:
        raise InputError(f"{path}: the forecast or analysis does not say its {lost[0]!r}; make it again.")
    names = [name for name in str(content.attrs.get("eddycast_fields", "")).split() if name in content.data_vars]
    return content[names] if set(names) == set(content.data_vars) else content


def grid_of(content: xr.Dataset) -> Grid:
    """The grid of a forecast or analysis, with boundaries and quadrature weights."""
    array = next(iter(content.data_vars.values()))
    space = [dim for dim in array.dims if dim not in ("init", "member", "lead_time")]
    return Grid(tuple(space_axis(content, dim, periodic=False, where="The file")[0] for dim in space))
