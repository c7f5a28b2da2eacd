"""Tables of observations of one's own, read for a run: its grid and fields, and its clock.

A text may carry options behind a question mark, as data sets do: `obs.csv?start=2020-01-01&interpolation=cubic&accept=1,2`. Numbers under
other names are parameters of the run, `viscosity=0.01`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from eddycast.api.data import open_dataset
from eddycast.data import Dataset
from eddycast.data.clock import SECONDS
from eddycast.errors import InputError, reading, reason
from eddycast.files import atomic_output, read_text
from eddycast.grid import Grid
from eddycast.labelled import open_labelled
from eddycast.observations import (
    Observations,
    ObservationTable,
    is_gridded,
    observations_from_grid,
    rows_of,
    table_from_frame,
)
from eddycast.observations.table import MARK

if TYPE_CHECKING:
    import pandas as pd

    from eddycast.api.forecaster import Forecaster

UNITS = {
    "s": "second", "sec": "second", "second": "second", "min": "minute", "minute": "minute", "h": "hour", "hr": "hour",
    "hour": "hour", "d": "day", "day": "day", "month": "month", "year": "year",
}  # fmt: skip
"""Units of time in which dates can be counted; an s at the end does not matter."""


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _by_name(text: str) -> float | dict[str, float]:
    """A number, or NAME:NUMBER several times (NAME=NUMBER on the command line)."""
    if ":" not in text and "=" not in text:
        return float(text)
    pairs = [part.replace("=", ":").rpartition(":") for part in text.split(",")]
    return {name.strip(): float(number) for name, _, number in pairs}


def _rules(text: str) -> Any:
    return dict(part.split(":", 1) for part in text.split(",")) if ":" in text else text


OPTIONS: dict[str, Callable[[str], Any]] = {
    "error": _by_name,
    "start": str,
    "num_times": int,
    "like": str,
    "accept": _listed,
    "interpolation": _rules,
    "in_time": str,
    "tolerance": float,
    "tendency": _by_name,
    "correlation": _by_name,
}


def read_observations(
    source: Observations | ObservationTable | pd.DataFrame | xr.Dataset | str | Path,
    forecaster: Forecaster | None = None,
    *,
    like: Dataset | str | Path | None = None,
    error: float | Mapping[str, float] | None = None,
    start: Any = None,
    num_times: int | None = None,
    accept: Sequence[Any] | None = None,
    functions: Mapping[str, Any] | None = None,
    parameters: Mapping[str, float] | None = None,
    **settings: Any,
) -> Observations | ObservationTable:
    """Observations for a run, from whatever holds them.

    Args:
        source: What `observe` gave or wrote, which is taken as it is; or a table (pandas, CSV, xarray, NetCDF) or fields with NaN where
            nothing is observed (xarray, NetCDF) of one's own.
        forecaster: Run whose grid, fields and clock count for observations of one's own.
        like: Data that say these instead: for a solver, or where some points are land.
        error: Standard deviation of errors that are not stated, for all variables or by name.
        start: Time of frame 0, a date or a number in the unit of the run's time. None for that of `like`; else 0 where times are numbers,
            and for dates the first one with an observation, back to a whole step of its day.
        num_times: Frames of the analysis; None for all that the observations need.
        accept: Quality flags of rows that are used.
        functions: Variables of one's own by name, each (differentiable function, names of the fields that it takes).
        parameters: Values of the run's parameters.
        settings: Of `observation_table`: interpolation, in_time, tolerance, tendency, correlation.

    Raises: InputError, one line, for a file that cannot be read, or what does not fit the run.
    """
    if isinstance(source, (Observations, ObservationTable)):
        return source
    where = "The table"
    if isinstance(source, (str, Path)):
        path, given = table_options(source, () if forecaster is None else _parameter_names(forecaster))
        if _is_ours(path):
            if given:
                raise InputError(
                    f"{source}: observations written by `observe` take no options; leave {next(iter(given))} out."
                )
            return Observations.open(path)
        where, values = str(path), {**(parameters or {}), **given.pop("parameters", {})}
        error = given.pop("error", None) if error is None else error
        start = given.pop("start", None) if start is None else start
        num_times = given.pop("num_times", None) if num_times is None else num_times
        like = given.pop("like", None) if like is None else like
        accept = given.pop("accept", None) if accept is None else accept
        content, parameters, settings = _opened(path), values, {**given, **settings}
    else:
        content = source
    told = _told_by(forecaster, like, where)
    grid, fields = told.grid, told.fields
    clock = _Clock(told.dt, told.units, told.start if start is None else start, where)
    many = _parameters(told, parameters or {}, where)
    shared: dict[str, Any] = {
        "grid": grid, "fields": fields, "dt": told.dt, "steps": clock, "error": error, "num_times": num_times, "where": where,
        "valid": told.valid, "time_units": told.units, "cycle": told.cycle, "parameters": many,
        "parameter_names": told.parameter_names, "static": told.static, "static_names": told.static_names,
        "attributes": {"system": told.system} if told.system else {},
    }  # fmt: skip
    if isinstance(content, xr.Dataset) and is_gridded(content, grid):
        for name, option in {"accept": accept, "functions": functions, **settings}.items():
            if option is not None:
                raise InputError(f"{where} holds fields on the grid of the run: {name} is for tables.")
        made = observations_from_grid(content, **shared)
    else:
        frame = _framed(content, fields, where) if isinstance(content, xr.Dataset) else content
        made = table_from_frame(frame, accept=accept, functions=functions, **shared, **settings)
    if clock.origin is None:
        return made
    return _begun(made, clock.before())


def table_options(source: str | Path, parameter_names: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """A path and the options that follow a question mark, parameters together. Raises: InputError for one that does not exist."""
    text = str(source)
    place, mark, query = text.partition("?")
    if not mark or Path(text).exists():
        return Path(text), {}
    found: dict[str, Any] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals or (name not in OPTIONS and name not in parameter_names):
            known = ", ".join([*OPTIONS, *parameter_names])
            raise InputError(f"{text}: {part!r} is no option of a table; known are {known}, as name=value.")
        try:
            if name in OPTIONS:
                found[name] = OPTIONS[name](value)
            else:
                found.setdefault("parameters", {})[name] = float(value)
        except ValueError as error:
            raise InputError(f"{text}: {name} cannot be {value!r}.") from error
    return Path(place), found


def write_rows(table: ObservationTable, analysis: xr.Dataset, path: str | Path, *, seed: int) -> None:
    """What an analysis has at each row of a table, as CSV; see `observations.rows_of`. Raises: InputError when it cannot be written."""
    from eddycast.api.analysis import ensemble_states

    states = ensemble_states(analysis, [name for name, _ in table.fields], table.grid)
    with atomic_output(Path(path), overwrite=True, is_ours=Path.is_file) as partial:
        rows_of(table, states, seed=seed).to_csv(partial, index=False)


@dataclass(frozen=True, eq=False)
class _Told:
    """What a run, or data like those of a run, tell of it."""

    grid: Grid
    fields: tuple[tuple[str, str], ...]
    dt: float
    units: str
    cycle: float | None
    parameter_names: tuple[str, ...]
    parameters: dict[str, float]
    valid: torch.Tensor | None
    static: torch.Tensor | None
    static_names: tuple[str, ...]
    system: str
    start: Any


def _told_by(forecaster: Forecaster | None, like: Dataset | str | Path | None, where: str) -> _Told:
    if like is not None:
        data = like if isinstance(like, Dataset) else open_dataset(like)
        static = data.static if isinstance(data.static, torch.Tensor) else None
        return _Told(
            data.grid, tuple((field.name, field.units) for field in data.fields), data.dt, data.time_units, data.cycle,
            tuple(data.parameter_names), dict(zip(data.parameter_names, data.parameters(0).tolist(), strict=True)), data.valid,
            static, tuple(data.static_names) if static is not None else (),
            str(data.attributes.get("system", "")), data.times(0, [0.0])[0],
        )  # fmt: skip
    if forecaster is None or forecaster.run is None:
        raise InputError(
            f"{where} does not tell the grid and the time step, and no run does: give a run, or data like those of the solver "
            "(like=DATA behind a question mark)."
        )
    told = forecaster.run.data
    ranges = told.get("parameter_ranges") or {}
    fixed = {name: ends[0] for name, ends in ranges.items() if ends[0] == ends[1]}  # it was trained with one value
    return _Told(
        Grid.from_dict(told["grid"]), tuple((field["name"], field["units"]) for field in told["fields"]), told["dt"],
        told["time_units"], told["cycle"], tuple(told["parameter_names"]), fixed, None, None, (),
        str(told["attributes"].get("system", "")), None,
    )  # fmt: skip


def _parameter_names(forecaster: Forecaster) -> tuple[str, ...]:
    return () if forecaster.run is None else tuple(forecaster.run.data["parameter_names"])


def _parameters(told: _Told, values: Mapping[str, float], where: str) -> torch.Tensor | None:
    """Parameters of one case (1, P): those given, else those of the data alike. Raises: InputError for one that lacks."""
    if strange := [name for name in values if name not in told.parameter_names]:
        raise InputError(
            f"{where}: the run has no parameter {strange[0]!r}: it has {', '.join(told.parameter_names) or 'none'}."
        )
    if not told.parameter_names:
        return None
    known = told.parameters | dict(values)
    if lost := [name for name in told.parameter_names if name not in known]:
        raise InputError(
            f"{where}: the run needs its parameter {lost[0]!r}: say it behind a question mark, "
            f"?{lost[0]}=NUMBER (in Python parameters=)."
        )
    return torch.tensor([[known[name] for name in told.parameter_names]], dtype=torch.float32)


def _is_ours(path: Path) -> bool:
    """Whether a file was written by `observe`, or is a bare table of cells, which `Observations` explains what it lacks."""
    if not path.exists() or path.is_dir() or path.suffix not in (".csv", ".nc"):
        return path.suffix in (".csv", ".nc") and not path.exists()  # its reader says that there is none
    if path.suffix == ".csv":
        with reading(path, "check the path and its permissions"), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(MARK):
                    return True
                if not line.startswith("#"):
                    return False
        return False
    with reading(path), open_labelled(path, decode_times=False) as opened:
        return opened.attrs.get("eddycast_kind") == "observations"


def _opened(path: Path) -> pd.DataFrame | xr.Dataset:
    """A table, or fields. Raises: InputError for another suffix, or a file that cannot be read."""
    import pandas as pd

    if path.suffix == ".csv":
        text = read_text(path)
        with reading(path, "expected a table with a line of names, then one line per observation"):
            return pd.read_csv(io.StringIO(text), comment="#", skipinitialspace=True)
    if path.suffix != ".nc":
        raise InputError(
            f"{path}: observations are read from .nc or .csv, not {path.suffix or 'a file without suffix'!r}."
        )
    with reading(path), open_labelled(path, decode_times=True) as opened:
        return opened.load()


def _framed(content: xr.Dataset, fields: tuple[tuple[str, str], ...], where: str) -> pd.DataFrame:
    """A table that xarray holds, whatever its dimensions (rows, or stations by time)."""
    from eddycast.observations.columns import require_unit

    for name, _ in fields:
        if name in content.data_vars:
            require_unit(name, str(content[name].attrs.get("units", "")), fields, where)
    with reading(where, "expected variables over one dimension of rows, or over stations and times", kind="table"):
        return content.to_dataframe().reset_index()


class _Clock:
    """Times of a table to steps of a run; knows after the first use where frame 0 lies.

    Args:
        dt, units: Of the run.
        start: Time of frame 0, or None.
    """

    def __init__(self, dt: float, units: str, start: Any, where: str) -> None:
        self.dt, self.units, self.start, self.where = dt, units, start, where
        self.origin: Any = None

    def __call__(self, times: np.ndarray, counted: np.ndarray) -> np.ndarray:
        import pandas as pd

        times = np.asarray(times)
        if times.dtype.kind in "fiu":
            if self.start is not None and not _is_number(self.start):
                raise InputError(
                    f"{self.where}: times are numbers and start is {self.start!r}: give both as numbers or as dates."
                )
            self.origin = float(self.start or 0.0)
            return (times.astype(np.float64) - self.origin) / self.dt
        unit = UNITS.get(self.units.lower(), UNITS.get(self.units.lower().removesuffix("s")))
        if unit is None:
            raise InputError(
                f"{self.where}: times are dates ({times[0]}), the run counts time in {self.units!r}: give numbers in that unit."
            )
        if times.dtype.kind == "O" and len(times) and hasattr(times[0], "calendar"):
            times = np.array([np.datetime64(time.isoformat()) for time in times])
        try:
            stamps = pd.to_datetime(pd.Series(times), format=None if times.dtype.kind == "M" else "ISO8601", utc=True)
            named = self.start.isoformat() if hasattr(self.start, "calendar") else self.start
            first: Any = None if named is None else pd.Timestamp(named)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"{self.where}: a time is no date in ISO form, such as 2020-01-31T06:00 ({reason(error)})."
            ) from error
        dates = stamps.dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
        known = dates[counted & ~np.isnat(dates)]
        if first is None:
            if not len(known):
                return np.zeros(len(dates))
            first = pd.Timestamp(str(_back_to_step(known.min(), self.dt, unit)))
        if first.tzinfo is not None:
            first = first.tz_convert(None)
        self.origin = np.datetime64(first.to_datetime64(), "ns")
        return _steps(dates, self.dt, unit) - _steps(np.array([self.origin]), self.dt, unit)

    def before(self) -> float:
        """Steps from the anchor of the run's calendar, 1 January, or from time 0, to frame 0."""
        if isinstance(self.origin, float):
            return self.origin / self.dt
        unit = UNITS.get(self.units.lower(), UNITS.get(self.units.lower().removesuffix("s"))) or "second"
        year = self.origin.astype("datetime64[Y]").astype("datetime64[ns]")
        return float((_steps(np.array([self.origin]), self.dt, unit) - _steps(np.array([year]), self.dt, unit))[0])


def _steps(dates: np.ndarray, dt: float, unit: str) -> np.ndarray:
    """Steps since 1970; months and years as long as they are."""
    if unit in SECONDS:
        day = dates.astype("datetime64[D]")
        seconds = (dates - day.astype(dates.dtype)) / np.timedelta64(1, "s")
        steps = (day.astype(np.float64) * SECONDS["day"] + seconds) / (dt * SECONDS[unit])
    else:
        whole = dates.astype(f"datetime64[{'M' if unit == 'month' else 'Y'}]")
        begin, end = whole.astype(dates.dtype), (whole + 1).astype(dates.dtype)
        steps = (whole.astype(np.float64) + (dates - begin) / (end - begin)) / dt
    return np.where(np.isnat(dates), np.nan, steps)


def _back_to_step(date: np.datetime64, dt: float, unit: str) -> np.datetime64:
    """The last step at or before a date, counted from the beginning of its day, month or year; of long steps, this beginning."""
    if unit not in SECONDS:
        return date.astype(f"datetime64[{'M' if unit == 'month' else 'Y'}]").astype("datetime64[ns]")
    day = date.astype("datetime64[D]").astype("datetime64[ns]")
    length = dt * SECONDS[unit]
    if length >= SECONDS["day"]:
        return day
    whole = np.floor((date - day) / np.timedelta64(1, "s") / length)
    return day + np.timedelta64(round(whole * length * 1e9), "ns")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, np.datetime64)


def _begun(made: Observations | ObservationTable, before: float) -> Observations | ObservationTable:
    """The same with the times of its cases."""
    return replace(made, time=before + made.frames.double())
