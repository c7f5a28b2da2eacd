"""One field of one initial time, cut out of a forecast or analysis file and small enough to draw.

Files have the dimensions `(init, member, lead_time, *space)`; only what a picture shows is read, member by member, so
that memory does not grow with the ensemble or with the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eddycast.errors import InputError
from eddycast.labelled import check_ensemble, open_labelled, values_of

_OUTER = ("init", "member", "lead_time")
_POINTS = 720  # most points of an axis that a picture can show


@dataclass(frozen=True)
class SpaceAxis:
    """Name, unit and positions of one axis of space, and whether it is drawn downwards (depth, pressure)."""

    name: str
    units: str
    values: np.ndarray
    downwards: bool = False

    @property
    def latitude(self) -> bool:
        return self.units.lower().startswith(("degrees_n", "degree_n")) or self.name.lower() in ("lat", "latitude")

    @property
    def longitude(self) -> bool:
        return self.units.lower().startswith(("degrees_e", "degree_e")) or self.name.lower() in ("lon", "longitude")

    def nearest(self, positions: np.ndarray) -> np.ndarray:
        return np.abs(self.values[None, :] - np.asarray(positions)[:, None]).argmin(axis=1)


@dataclass(frozen=True)
class View:
    """What pictures need to know about one field and one initial time.

    Args:
        mean: Mean over members, shape (lead_time, *space); the only member's states where there is one.
        spread: Standard deviation over members (divisor M - 1), same shape; `None` with one member.
        examples: First members, shape (few, lead_time, *space).
        leads: Lead times in `lead_units`; counted from the first frame in an analysis.
        trajectory, start, begin: Case: its trajectory, the frame of lead time 0 on it, and its time where that is a
            number; `None` when the file does not say.
        valid: Calendar dates of the leads in words; empty without a calendar.
        plane: Where a field in 3-D was cut; empty otherwise.
        thinned: Every how many leads one is kept.
    """

    name: str
    label: str
    units: str
    hint: str
    mean: np.ndarray
    spread: np.ndarray | None
    examples: np.ndarray
    members: int
    leads: np.ndarray
    lead_units: str
    step: float | None
    space: tuple[SpaceAxis, ...]
    kind: str
    system: str
    case: str
    trajectory: int | None = None
    start: int | None = None
    begin: float | None = None
    valid: tuple[str, ...] = ()
    lyapunov_time: float | None = None
    plane: str = ""
    thinned: int = 1

    def offset(self, other: View) -> float | None:
        """Time from the lead time 0 of `other` to that of this view, in units of lead time; `None` when unknown."""
        if self.begin is not None and other.begin is not None:
            return self.begin - other.begin
        step = other.step or self.step
        if self.start is None or other.start is None or step is None:
            return None
        return (self.start - other.start) * step

    @property
    def title(self) -> str:
        return " · ".join(part for part in (self.system, self.label, self.plane, self.case) if part)

    def at(self, positions: np.ndarray) -> View:
        """The same view with the leads at these indices only."""
        picked = np.asarray(positions, dtype=int)
        return replace(
            self,
            mean=self.mean[picked],
            spread=None if self.spread is None else self.spread[picked],
            examples=self.examples[:, picked],
            leads=self.leads[picked],
            valid=tuple(self.valid[i] for i in picked) if self.valid else (),
        )


def open_result(source: xr.Dataset | str | Path) -> xr.Dataset:
    """A forecast or analysis, lazily from NetCDF or Zarr, or the given data set; lead times stay numbers.

    Raises: InputError when the file is missing, cannot be read, or has no lead-time dimension.
    """
    if isinstance(source, xr.Dataset):
        if "lead_time" not in source.dims:
            found = ", ".join(map(str, source.dims)) or "none"
            raise InputError(
                f"The data set: expected the dimensions (init, member, lead_time, *space), found {found}; "
                "give one laid out as a forecast or an analysis."
            )
        return source
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source}: no such file; give a forecast or an analysis (.nc or .zarr).")
    return check_ensemble(open_labelled(path, decode_times=True), str(source))


def field_names(result: xr.Dataset) -> list[str]:
    """Variables that can be drawn: those with a lead time and with 1 to 3 dimensions of space."""
    return [
        str(name)
        for name, array in result.data_vars.items()
        if "lead_time" in array.dims and 1 <= len(_space(array)) <= 3
    ]


def _space(array: xr.DataArray) -> tuple[str, ...]:
    return tuple(str(dim) for dim in array.dims if dim not in _OUTER)


def view(
    source: xr.Dataset | str | Path,
    name: str | None = None,
    init: int = 0,
    *,
    examples: int = 2,
    leads: np.ndarray | None = None,
    points: int = _POINTS,
) -> View:
    """Read one field of one initial time.

    Args:
        source: Forecast, analysis, truth (no `member`) or observations (missing where unobserved).
        name: Field; the file's first one when absent.
        init: Index along `init`.
        examples: Members kept one by one.
        leads: Lead times to read, matched to the nearest in the file; all of them when absent.
        points: Most points along an axis of space; longer axes are thinned, and so is a lead axis of over twice as
            many.

    A field in 3-D is cut at the middle of its height, or of its first axis where none is a height.

    Raises: InputError for a field or an `init` that does not exist.
    """
    result = open_result(source)
    known = field_names(result)
    if not known:
        raise InputError("The file has no variable with a lead time and 1 to 3 dimensions of space: nothing to draw.")
    if name is not None and name not in known:
        raise InputError(f"No field {name!r} to draw; the file has {', '.join(known)}.")
    name = known[0] if name is None else name
    array = result[name]
    inits = result.sizes.get("init", 1)
    if not 0 <= init < inits:
        raise InputError(f"init {init} is outside the file, which has {inits} initial times (0 to {inits - 1}).")
    if "init" in array.dims:
        array = array.isel(init=init)
    lead_values, lead_units = lead_times(result)
    picked = np.arange(lead_values.size)
    thinned = 1
    if leads is not None:
        picked = np.unique(np.abs(lead_values[None, :] - np.asarray(leads)[:, None]).argmin(axis=1))
    else:
        thinned = max(1, -(-lead_values.size // (2 * points)))
        picked = picked[::thinned]
    array = array.isel(lead_time=slice(None, None, thinned) if leads is None else picked)
    array, plane = _middle_plane(array)
    dims = _space(array)
    array = array.isel({dim: slice(None, None, max(1, -(-array.sizes[dim] // points))) for dim in dims})
    mean, spread, kept = _moments(array.transpose(..., "lead_time", *dims), examples)
    units = str(array.attrs.get("units", "1"))
    label = str(array.attrs.get("long_name") or name)
    return View(
        name=name,
        label=label,
        units=units,
        hint=" ".join((name, label, str(array.attrs.get("standard_name", "")), units)),
        mean=mean,
        spread=spread,
        examples=kept,
        members=array.sizes.get("member", 1),
        leads=lead_values[picked],
        lead_units=lead_units,
        step=_number(result["lead_time"].attrs.get("step")),
        space=tuple(_axis(array, dim) for dim in dims),
        kind=str(result.attrs.get("eddycast_kind", "forecast")),
        system=str(result.attrs.get("eddycast_system", "")),
        case=_case(result, init),
        trajectory=_integer(result, "trajectory", init),
        start=_integer(result, "frame", init),
        begin=_begin(result, init),
        valid=_valid(result, init, picked),
        lyapunov_time=_number(result.attrs.get("lyapunov_time")),
        plane=plane,
        thinned=thinned,
    )


def observed(observations: xr.Dataset | str | Path | None, shown: View) -> View | None:
    """Observations of the same case and field, with times counted from the same moment as the view's."""
    if observations is None:
        return None
    result = open_result(observations)
    if shown.name not in result.data_vars:
        return None
    place = place_of(result, shown)
    if place is None:
        return None
    seen = view(result, shown.name, place)
    return replace(seen, leads=seen.leads + (seen.offset(shown) or 0.0))


def place_of(result: xr.Dataset, shown: View) -> int | None:
    """Place along `init` of the view's trajectory: the last one that starts no later, else the first."""
    if "trajectory" not in result.coords or shown.trajectory is None:
        return None
    same = np.flatnonzero(np.atleast_1d(result["trajectory"].values) == shown.trajectory)
    if "frame" in result.coords and shown.start is not None:
        earlier = same[np.atleast_1d(result["frame"].values)[same] <= shown.start]
        same = earlier[-1:] if earlier.size else same
    return int(same[0]) if same.size else None


def aligned(truth: xr.Dataset | str | Path, onto: View, init: int = 0, points: int = _POINTS) -> View | None:
    """The truth of a view: the same field and trajectory at the same times, missing where the truth does not reach.

    Times are counted on the trajectory, so a truth that starts at another frame serves as well; where a file does not
    name trajectories and frames, the case is the one at the same place along `init`. `None` when nothing of the truth
    is there.
    """
    result = open_result(truth)
    if onto.name not in field_names(result):
        return None
    leads, _ = lead_times(result)
    step = onto.step or float(np.diff(leads).min() if leads.size > 1 else 1.0)
    best: tuple[int, int, np.ndarray, np.ndarray] | None = None
    for place, shift in _candidates(result, onto, init, step):
        nearest = np.abs(leads[None, :] + shift - onto.leads[:, None]).argmin(axis=1)
        covered = np.abs(leads[nearest] + shift - onto.leads) < 1e-3 * abs(step)
        if best is None or covered.sum() > best[0]:
            best = int(covered.sum()), place, nearest, covered
    if best is None or best[0] == 0:
        return None
    _, place, nearest, covered = best
    found = view(result, onto.name, place, leads=leads[np.unique(nearest)], points=points)
    if found.mean.shape[1:] != onto.mean.shape[1:]:
        return None
    mean = found.mean[np.searchsorted(np.unique(nearest), nearest)].copy()
    mean[~covered] = np.nan
    return replace(
        found,
        mean=mean,
        spread=None,
        examples=mean[None],
        leads=onto.leads,
        valid=onto.valid,
        start=onto.start,
        begin=onto.begin,
    )


def _candidates(result: xr.Dataset, onto: View, init: int, step: float) -> list[tuple[int, float]]:
    """Places along `init` that may hold the view's case, each with the time from the view's start to its own."""
    size = result.sizes.get("init", 1)
    if (
        onto.start is None
        or onto.trajectory is None
        or "frame" not in result.coords
        or "trajectory" not in result.coords
    ):
        return [(init, 0.0)] if init < size else []
    trajectories, frames = (np.broadcast_to(result[name].values, size) for name in ("trajectory", "frame"))
    places = np.flatnonzero(trajectories == onto.trajectory)
    found = []
    for place in places:
        begin = _begin(result, int(place))
        if begin is not None and onto.begin is not None:
            found.append((int(place), begin - onto.begin))
        else:
            found.append((int(place), float(frames[place] - onto.start) * step))
    return found


def _middle_plane(array: xr.DataArray) -> tuple[xr.DataArray, str]:
    dims = _space(array)
    if len(dims) < 3:
        return array, ""
    heights = [dim for dim in dims if dim.lower() in ("z", "height", "depth", "level", "altitude", "pressure", "lev")]
    dim = heights[0] if heights else dims[0]
    middle = array.sizes[dim] // 2
    axis = _axis(array, dim)
    return array.isel({dim: middle}), f"middle plane {dim} = {axis.values[middle]:g}"


def _moments(array: xr.DataArray, examples: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Mean and standard deviation over members, one member in memory at a time (Welford), and the first few members."""
    name = f"The field {str(array.name)!r}"
    if "member" not in array.dims:
        values = _single(array, name)
        return values, None, values[None]
    kept, mean, squares = [], np.zeros(()), np.zeros(())
    for index in range(array.sizes["member"]):
        values = _single(array.isel(member=index), name)
        if index < examples:
            kept.append(values)
        change = values - mean
        mean = mean + change / (index + 1)
        squares = squares + change * (values - mean)
    members = array.sizes["member"]
    spread = np.sqrt(squares / (members - 1)).astype(np.float32) if members > 1 else None
    return np.asarray(mean, dtype=np.float32), spread, np.stack(kept)


def _single(array: xr.DataArray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values_of(array, name).astype(np.float32)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def lead_times(result: xr.Dataset) -> tuple[np.ndarray, str]:
    """Lead times as numbers with their unit; a duration that xarray has decoded is counted in hours or days."""
    lead = result["lead_time"]
    values, units = lead.values, str(lead.attrs.get("units", "1"))
    if np.issubdtype(values.dtype, np.timedelta64):
        hours = values / np.timedelta64(1, "h")
        whole_days = bool(np.all(np.mod(hours, 24) == 0))
        return (hours / 24, "days") if whole_days else (hours, "hours")
    return np.asarray(values, dtype=float), units


def _axis(array: xr.DataArray, dim: str) -> SpaceAxis:
    if dim not in array.coords:
        return SpaceAxis(dim, "grid points", np.arange(array.sizes[dim], dtype=float))
    coordinate = array.coords[dim]
    if not np.issubdtype(coordinate.dtype, np.number):
        return SpaceAxis(dim, "grid points", np.arange(array.sizes[dim], dtype=float))
    return SpaceAxis(
        dim,
        str(coordinate.attrs.get("units", "1")),
        np.asarray(coordinate.values, dtype=float),
        str(coordinate.attrs.get("positive", "")) == "down",
    )


def _date(value: Any, lead_units: str = "") -> str:
    """A calendar date, to the minute where steps are short and it is not midnight; of any calendar."""
    text = value.isoformat(" ") if hasattr(value, "isoformat") else str(np.datetime_as_string(value, unit="m"))
    day, _, clock = text.replace("T", " ").partition(" ")
    coarse = lead_units.startswith(("month", "year"))
    return day if coarse or clock[:5] in ("", "00:00") else f"{day} {clock[:5]}"


def _is_date(values: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.datetime64) or (values.size > 0 and hasattr(values.flat[0], "isoformat"))


def _valid(result: xr.Dataset, init: int, picked: np.ndarray) -> tuple[str, ...]:
    if "valid_time" not in result.coords and "valid_time" not in result.data_vars:
        return ()
    times = result["valid_time"]
    times = times.isel(init=init) if "init" in times.dims else times
    values = times.values[picked]
    units = str(result["lead_time"].attrs.get("units", ""))
    return tuple(_date(value, units) for value in values) if _is_date(values) else ()


def _case(result: xr.Dataset, init: int) -> str:
    """`trajectory 3, from t = 120` or `from 1990-05-16`."""
    parts = []
    for name, words in (("trajectory", "trajectory {}"), ("time", "from {}")):
        if name not in result.coords:
            continue
        values = np.atleast_1d(result[name].values)
        value = values[min(init, values.size - 1)]
        if name == "trajectory":
            parts.append(words.format(int(value)))
        elif _is_date(values):
            parts.append(words.format(_date(value, str(result["lead_time"].attrs.get("units", "")))))
        elif _number(value) is not None:
            parts.append(words.format(f"t = {float(value):g}"))
    return ", ".join(parts)


def _integer(result: xr.Dataset, name: str, init: int) -> int | None:
    if name not in result.coords:
        return None
    values = np.atleast_1d(result[name].values)
    return int(values[min(init, values.size - 1)])


def _begin(result: xr.Dataset, init: int) -> float | None:
    """Time of lead 0 as a number, `None` on a calendar."""
    if "time" not in result.coords:
        return None
    values = np.atleast_1d(result["time"].values)
    return None if _is_date(values) else _number(values[min(init, values.size - 1)])
