"""The truth of a forecast as xarray, cut out of the data set that it started from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eddycast.errors import InputError
from eddycast.report.view import View, lead_times, open_result

if TYPE_CHECKING:
    from eddycast.data import Dataset


def truth_for(
    forecast: xr.Dataset | str | Path, data: Dataset | str | Path, inits: Sequence[int] | None = None
) -> xr.Dataset:
    """States of the data at the frames of a forecast, an analysis or observations.

    Args:
        forecast: Names the cases by `trajectory(init)` and `frame(init)` and the lead times.
        data: An opened data set, or its path.
        inits: Which initial times; all of them when absent.

    Returns: a data set with dimensions (init, lead_time, *space), missing beyond the end of a trajectory and at lead
    times that
        fall between frames; only what is asked for is read.
    """
    result = open_result(forecast)
    trajectories, frames = (np.atleast_1d(result[name].values).astype(int) for name in ("trajectory", "frame"))
    chosen = np.arange(trajectories.size) if inits is None else np.asarray(inits)
    leads, units = lead_times(result)
    states = states_of(data, trajectories[chosen], frames[chosen], leads)
    if "time" in result.coords and result["time"].dims == ("init",):
        states = states.assign_coords(time=("init", result["time"].values[chosen]))
    if "valid_time" in result.coords and result["valid_time"].dims == ("init", "lead_time"):
        states = states.assign_coords(valid_time=(("init", "lead_time"), result["valid_time"].values[chosen]))
    states["lead_time"].attrs["units"] = units
    return states


def truth_of_view(data: Dataset, shown: View) -> xr.Dataset | None:
    """The states at the frames that a view shows; `None` when its file does not name trajectory and frame."""
    if shown.trajectory is None or shown.start is None:
        return None
    states = states_of(data, [shown.trajectory], [shown.start], shown.leads)
    return states if shown.begin is None else states.assign_coords(time=("init", [shown.begin]))


def states_of(
    data: Dataset | str | Path,
    trajectories: Sequence[int] | np.ndarray,
    frames: Sequence[int] | np.ndarray,
    leads: np.ndarray,
) -> xr.Dataset:
    """States at `leads` (in the data's time units) after `frames` of `trajectories`, as `truth_for` lays them out."""
    if isinstance(data, (str, Path)):
        from eddycast.data import open_dataset  # and with it torch, which pictures do without

        data = open_dataset(data)
    offsets = np.asarray(leads, dtype=float) / data.dt
    steps = np.rint(offsets).astype(int)
    on_frame = np.abs(offsets - steps) < 1e-3
    values = np.full((len(trajectories), steps.size, *data.state_shape), np.nan, dtype=np.float32)
    if missing := [int(one) for one in trajectories if not 0 <= one < data.num_trajectories]:
        raise InputError(
            f"The file starts from trajectory {missing[0]}, the data have {data.num_trajectories}; "
            "give the data that it was made from."
        )
    for case, (trajectory, frame) in enumerate(zip(trajectories, frames, strict=True)):
        wanted = int(frame) + steps
        inside = on_frame & (wanted >= 0) & (wanted < data.lengths[int(trajectory)])
        for place in _runs(np.flatnonzero(inside)):
            first, last = int(wanted[place[0]]), int(wanted[place[-1]])
            states = data.read(int(trajectory), first, last + 1).numpy()
            values[case, place] = states[wanted[place] - first]
    dims = ("init", "lead_time", *data.grid.names)
    variables = {
        item.name: (dims, values[:, :, channel], {"units": item.units, "long_name": item.long_name or item.name,
                                                  "standard_name": item.standard_name})
        for channel, item in enumerate(data.fields)
    }  # fmt: skip
    coordinates: dict[str, Any] = {
        axis.name: (axis.name, np.asarray(axis.coordinates), {"units": axis.units}) for axis in data.grid.axes
    }
    coordinates |= {
        "lead_time": ("lead_time", np.asarray(leads, dtype=float), {"units": data.time_units, "step": data.dt}),
        "trajectory": ("init", np.asarray(trajectories)),
        "frame": ("init", np.asarray(frames)),
    }
    if data.clock.calendar is not None:
        dates = [data.times(int(one), int(at) + steps) for one, at in zip(trajectories, frames, strict=True)]
        coordinates["valid_time"] = (("init", "lead_time"), np.stack(dates))
    attributes = {"eddycast_kind": "truth", "eddycast_system": str(data.attributes.get("system", ""))}
    if data.attributes.get("lyapunov_time"):
        attributes["lyapunov_time"] = data.attributes["lyapunov_time"]
    return xr.Dataset(variables, coordinates, attributes)


def _runs(places: np.ndarray, most: int = 256) -> list[np.ndarray]:
    """Pieces of at most `most` places, so that one read stays small."""
    return [places[start : start + most] for start in range(0, places.size, most)]
