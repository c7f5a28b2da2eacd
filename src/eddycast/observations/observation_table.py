"""Observations as users have them: a list of rows, each with its own time, place, variable and error.

A row looks at the two frames around its time, or at the nearest one, and within a frame at the few points that its interpolation needs,
at the cells of a box or a line, or at one spectral coefficient. What is missing has no row: a row that is left out, one whose value is NaN
and one whose quality flag is refused give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.observations.derived import Derived
from eddycast.observations.measurement import Measurement
from eddycast.observations.observations import require_run, start_conditions
from eddycast.observations.row_operator import row_operator, usable
from eddycast.observations.rows import REASON, USED, Rows
from eddycast.observations.stencils import Rule, check_rule, inside, is_uniform_ring, whole

InTime = Literal["linear", "nearest"]
IN_TIME: tuple[InTime, ...] = get_args(InTime)
WHOLE = 1e-6
"""Of a step: times this close to a frame are those of the frame."""


@dataclass(frozen=True, eq=False)
class ObservationTable:
    """Rows of observations of several cases; an `ObservationSet`. Made by `observation_table` and the readers.

    Args:
        rows: Judged, and in their canonical order.
        grid: Grid of the states.
        fields: (name, unit) of each channel of the states.
        dt: Time between two frames, in `time_units`.
        trajectories, frames: Number of the trajectory of each case and the frame at which it starts, (case,).
        num_times: Frames of a case.
        variables: What the rows observe: names of fields first, in their order, then derived ones.
        derived: Functions of several fields, by name.
        platforms: Names, sorted.
        interpolation: Rule along each axis.
        in_time: `linear` between the two frames around a row, or the `nearest` one.
        correlation: Correlation of the errors of the rows of each platform at one frame, (platform,), as tuple.
        valid, time_units, parameters, parameter_names, time, cycle, static, static_names, attributes: As in `Observations`.
        dtype: Of values and errors in measurements.
    """

    rows: Rows
    grid: Grid
    fields: tuple[tuple[str, str], ...]
    dt: float
    trajectories: Tensor
    frames: Tensor
    num_times: int
    variables: tuple[str, ...]
    derived: tuple[Derived, ...] = ()
    platforms: tuple[str, ...] = ()
    interpolation: tuple[Rule, ...] = ()
    in_time: InTime = "linear"
    correlation: tuple[float, ...] = ()
    valid: Tensor | None = None
    time_units: str = "1"
    parameters: Tensor | None = None
    parameter_names: tuple[str, ...] = ()
    time: Tensor | None = None
    cycle: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    static: Tensor | None = None
    static_names: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    _used: np.ndarray = field(init=False, repr=False)
    _key: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        used = np.flatnonzero(self.rows.reason == USED)
        _, last, _ = frames_of(self.rows.time, self.in_time)
        object.__setattr__(self, "_used", used)
        object.__setattr__(self, "_key", self.rows.case[used] * self._stride + last[used])  # increases

    @property
    def _stride(self) -> int:
        return self.num_times + 1

    @property
    def num_cases(self) -> int:
        return len(self.trajectories)

    @property
    def count(self) -> int:
        """Number of rows that are used."""
        return len(self._used)

    @property
    def values(self) -> Tensor:
        """Values of the rows that are used, (row,)."""
        return torch.from_numpy(self.rows.value[self._used]).to(self.dtype)

    @property
    def static_varies(self) -> bool:
        """Whether static fields differ between cases."""
        return self.static is not None and self.static.ndim == 2 + len(self.grid.axes)

    def reasons(self) -> dict[str, int]:
        """How many rows are not used, by the reason."""
        return {
            reason: int(count)
            for reason, number in REASON.items()
            if number != USED and (count := (self.rows.reason == number).sum())
        }

    def observed_frames(self) -> Tensor:
        """True at frames that are the last one of an entry of some case, (time,)."""
        seen = np.zeros(self.num_times, dtype=bool)
        seen[self._key % self._stride] = True
        return torch.from_numpy(seen)

    def seen(self, start: int, stop: int, *, since: int | None = None) -> Measurement | None:
        """Entries that look at no other frames than [start, stop), the last of these at `since` or later; None if there are none.

        A row between two frames belongs to the later one and needs both. A window (`window`) keeps the rows that look at the frame before
        its first one, for who knows that frame: they are seen with start -1.
        """
        first = start if since is None else max(start, since)
        lowest, highest = max(first, 0), max(min(stop, self.num_times), 0)
        if lowest >= highest:
            return None
        begin = np.searchsorted(self._key, np.arange(self.num_cases) * self._stride + lowest)
        end = np.searchsorted(self._key, np.arange(self.num_cases) * self._stride + highest)
        chosen = self._used[ranges(begin, end)]
        chosen = chosen[frames_of(self.rows.time[chosen], self.in_time)[0] >= start]
        if len(chosen) == 0:
            return None
        rows = self.rows if len(chosen) == len(self.rows) else self.rows.take(chosen)
        return self.measurement(rows, start, stop)

    def seen_variables(self) -> Tensor:
        """Number of the variable of each entry of `seen` for all frames, (case, entry); -1 where a list is filled up."""
        rows = self.rows.take(self._used)
        number = np.arange(len(rows)) - np.searchsorted(rows.case, rows.case)
        table = np.full((self.num_cases, int(number.max()) + 1), -1)
        table[rows.case, number] = rows.variable
        return torch.from_numpy(table)

    def measurement(self, rows: Rows, start: int, stop: int) -> Measurement:
        """The measurement of some placed rows, in their canonical order, of the frames [start, stop)."""
        first, last, theta = frames_of(rows.time, self.in_time)
        operator = row_operator(
            rows, first, theta, start=start, stop=stop, grid=self.grid, rules=self.interpolation, valid=self.valid,
            names=tuple(name for name, _ in self.fields), variables=self.variables, derived=self.derived,
            num_cases=self.num_cases,
        )  # fmt: skip
        number = np.arange(len(rows)) - np.searchsorted(rows.case, rows.case)
        shape = (self.num_cases, int(number.max()) + 1)

        def filled(values: np.ndarray, fill: float) -> Tensor:
            table = np.full((*shape, *values.shape[1:]), fill, dtype=values.dtype)
            table[rows.case, number] = values
            return torch.from_numpy(table)

        positions = (rows.lower + rows.upper) / 2
        for i, axis in enumerate(self.grid.axes):
            positions[whole(axis, rows.lower[:, i], rows.upper[:, i]) | (rows.part > 0), i] = np.nan
        groups, correlation = self._groups(rows, last)
        return Measurement(
            operator=operator,
            values=filled(rows.value, np.nan).to(self.dtype),
            std=filled(rows.std, 1.0).to(self.dtype),
            positions=filled(positions, np.nan),
            frames=filled(last, -1),
            groups=None if groups is None else filled(groups, -1),
            correlation=None if correlation is None else filled(correlation, 0.0).to(self.dtype),
        )

    def _groups(self, rows: Rows, last: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Group of each row, numbered within its case, and the correlation in it; None where there is none."""
        rho = np.array([*self.correlation, 0.0])[rows.platform] if self.correlation else np.zeros(len(rows))
        if not rho.any():
            return None, None
        key = (rows.case * self._stride + last) * (len(self.platforms) + 1) + rows.platform + 1
        known, group = np.unique(key, return_inverse=True)
        before = np.searchsorted(known, rows.case * self._stride * (len(self.platforms) + 1))
        return np.where(rho > 0, group.reshape(-1) - before, -1), rho

    def conditions(self, static: Tensor | None = None) -> Conditions:
        """Conditions of the cases with the origin at the first frame; `static` is for tables that come without static fields."""
        return start_conditions(self, static)

    def window(self, start: int, stop: int) -> ObservationTable:
        """Frames [start, stop); the cases start at frame `start` then. Rows of other frames are left out, rejected ones as well.

        Raises: InputError when the window is empty or outside.
        """
        if not 0 <= start < stop <= self.num_times:
            raise InputError(f"Window [{start}, {stop}) is not within the {self.num_times} observed frames.")
        _, last, _ = frames_of(self.rows.time, self.in_time)
        kept = self.rows.take(np.flatnonzero((last >= start) & (last < stop)))
        return replace(
            self,
            rows=replace(kept, time=kept.time - start),
            frames=self.frames + start,
            num_times=stop - start,
            time=None if self.time is None else self.time + start,
        )

    def select(self, index: Tensor) -> ObservationTable:
        """The cases with the given numbers, (case,); a case may come several times."""
        cases = index.numpy()
        begin, end = np.searchsorted(self.rows.case, cases), np.searchsorted(self.rows.case, cases, side="right")
        kept = self.rows.take(ranges(begin, end))
        return replace(
            self,
            rows=replace(kept, case=np.repeat(np.arange(len(cases)), end - begin)),
            trajectories=self.trajectories[index],
            frames=self.frames[index],
            parameters=None if self.parameters is None else self.parameters[index],
            time=None if self.time is None else self.time[index],
            static=self.static[index] if self.static_varies and self.static is not None else self.static,
        )

    def withhold(
        self, fraction: float | None = None, *, platforms: Sequence[str] = (), seed: int = 0
    ) -> tuple[ObservationTable, ObservationTable]:
        """(used, withheld): some rows are kept out; both tables hold all rows, with the reason why one does not use them.

        Args:
            fraction: Share of the places of each case, all rows of a place together: a fixed sensor is withheld for good. The number is
                rounded, but at least 1 and at most all but 1. Addressed by (seed, trajectory, frame).
            platforms: Names of the platforms that are withheld.
            seed: Of the choice of places.

        Raises: InputError for neither or both, a fraction outside (0, 1), a case with fewer than two places, an unknown platform, or
            nothing that would be left.
        """
        if (fraction is None) == (not platforms):
            raise InputError("Say what to withhold: a fraction of the places, or platforms by name.")
        if fraction is None:
            if unknown := [name for name in platforms if name not in self.platforms]:
                told = ", ".join(self.platforms[:10]) + (", ..." if len(self.platforms) > 10 else "")
                raise InputError(f"There is no platform {unknown[0]!r} to withhold: there are {told or 'none'}.")
            out = np.isin(self.rows.platform, [self.platforms.index(name) for name in platforms])
        else:
            out = self._places_out(fraction, seed)
        used = self.rows.reason == USED
        if not (used & out).any() or not (used & ~out).any():
            raise InputError(f"Withholding {', '.join(platforms)} leaves no row on one side: name other platforms.")
        return (
            replace(self, rows=self.rows.rejected(out, "withheld")),
            replace(self, rows=self.rows.rejected(~out, "not withheld")),
        )

    def _places_out(self, fraction: float, seed: int) -> np.ndarray:
        """True at rows of the places that are drawn, (row,)."""
        if not 0 < fraction < 1:
            raise InputError(f"The withheld fraction must lie between 0 and 1, got {fraction:g}.")
        rows = self.rows.take(self._used)
        what = np.column_stack([rows.case, rows.lower, rows.upper, rows.wave])
        places, place = np.unique(what, axis=0, return_inverse=True)
        counts = np.bincount(places[:, 0].astype(np.int64), minlength=self.num_cases)
        if counts.min() < 2:
            raise InputError("Each case needs at least two observed places to withhold some of them.")
        noise = MemberNoise(seed, self.trajectories, self.frames)
        score = noise.uniform((int(counts.max()),), key=(0, 0, "withhold")).numpy()
        chosen = np.zeros(len(places), dtype=bool)
        starts = np.concatenate([[0], np.cumsum(counts)])
        for case, count in enumerate(counts):
            number = min(max(round(fraction * count), 1), count - 1)
            chosen[starts[case] + np.argsort(score[case, :count], kind="stable")[:number]] = True
        out = np.zeros(len(self.rows), dtype=bool)
        out[self._used] = chosen[place.reshape(-1)]
        return out

    def enlarged(self, std: Tensor) -> ObservationTable:
        """The same with the error sqrt(stated^2 + std^2), std (variable,) in the unit of each variable."""
        more = std.double().numpy()[self.rows.variable]
        return replace(self, rows=replace(self.rows, std=np.sqrt(np.square(self.rows.std) + np.square(more))))

    def require(self, grid: Grid, names: tuple[str, ...]) -> None:
        """Check that the table fits a run with this grid and these fields. Raises: InputError, one line, where it does not."""
        require_run(self, grid, names)


def observation_table(
    rows: Rows,
    *,
    grid: Grid,
    fields: tuple[tuple[str, str], ...],
    dt: float,
    trajectories: Tensor,
    frames: Tensor,
    num_times: int,
    variables: tuple[str, ...],
    derived: tuple[Derived, ...] = (),
    platforms: tuple[str, ...] = (),
    interpolation: Rule | Mapping[str, Rule] = "linear",
    in_time: InTime = "linear",
    tolerance: float | None = None,
    tendency: Mapping[str, float] | None = None,
    correlation: float | Mapping[str, float] = 0.0,
    valid: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    time_units: str = "1",
    parameters: Tensor | None = None,
    parameter_names: tuple[str, ...] = (),
    time: Tensor | None = None,
    cycle: float | None = None,
    attributes: dict[str, str] | None = None,
    static: Tensor | None = None,
    static_names: tuple[str, ...] = (),
) -> ObservationTable:
    """Judge the rows of a table and put them in order.

    Args:
        rows: As they came, `reason` set for those whose quality flag is refused.
        interpolation: One rule (`nearest`, `linear`, `cubic`, `fourier`), or one for each axis by name, `linear` where none is given.
        in_time: `linear` between the frames around a row, or the `nearest` frame.
        tolerance: With `nearest`: steps that a row may lie from a frame, up to 0.5; rows may have their own.
        tendency: With `nearest`: root-mean-square change of a variable in one step, by name. It becomes part of the error,
            std^2 + (tendency offset)^2, with the offset from the frame in steps.
        correlation: Of the errors of rows of one platform at one frame, for all platforms or by name, in [0, 1).
        dtype: Of values and errors in measurements.
        The others: as in `ObservationTable`.

    Raises: InputError, one line, for settings that cannot be, an error that is not positive, or no row that is left.
    """
    rules = _rules(grid, interpolation)
    if in_time not in IN_TIME:
        raise InputError(f"Interpolation in time is one of {', '.join(IN_TIME)}, got {in_time!r}.")
    if in_time == "linear" and (tolerance is not None or tendency or np.isfinite(rows.tolerance).any()):
        raise InputError("A tolerance in time belongs to the nearest frame: say in_time=nearest, or leave it out.")
    if tolerance is not None and not 0 <= tolerance <= 0.5:
        raise InputError(f"The tolerance is at most half a step and not negative, got {tolerance:g}.")
    bad = np.flatnonzero(~np.isnan(rows.std) & ~((rows.std > 0) & np.isfinite(rows.std)))
    if len(bad):
        at = bad[np.argmin(rows.number[bad])]
        raise InputError(f"Row {rows.number[at] + 1}: the error is {rows.std[at]:g}; it must be positive and finite.")
    if np.isinf(rows.value).any():
        at = rows.number[np.isinf(rows.value)].min()
        raise InputError(f"Row {at + 1}: the value is infinite; leave it empty if it is missing.")
    near = np.rint(rows.time)
    rows = replace(
        rows,
        time=np.where(np.abs(rows.time - near) < WHOLE, near, rows.time)
        + 0.0,  # no negative zeros: they would sort by arrival
        value=rows.value + 0.0,
        lower=rows.lower + 0.0,
        upper=rows.upper + 0.0,
    )
    if tendency:
        rate = np.array([_rate(tendency, name, variables) for name in variables])[rows.variable]
        rows = replace(
            rows, std=np.sqrt(np.square(rows.std) + np.square(rate * (rows.time - nearest_frame(rows.time))))
        )
    rows = _judged(rows, grid, rules, in_time, tolerance, num_times, valid)
    table = ObservationTable(
        rows.in_order(), grid, fields, dt, trajectories, frames, num_times, variables, derived, platforms, rules, in_time,
        _correlations(correlation, platforms), valid, time_units, parameters, parameter_names, time, cycle,
        dict(attributes or {}), static, static_names, dtype,
    )  # fmt: skip
    if table.count == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in table.reasons().items())
        raise InputError(f"No observations are left of {len(rows)} rows{': ' + why if why else ''}.")
    return table


def frames_of(time: np.ndarray, in_time: InTime) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last frame that each row looks at, integers, and the weight of the last one; -2**31 for rows without a time."""
    time = np.where(np.isfinite(time), np.clip(time, -(2.0**31), 2.0**31), -(2.0**31))
    first = nearest_frame(time) if in_time == "nearest" else np.floor(time)
    theta = np.zeros(len(time)) if in_time == "nearest" else time - first
    return first.astype(np.int64), (first + (theta > 0)).astype(np.int64), theta


def nearest_frame(time: np.ndarray) -> np.ndarray:
    """Whole number next to a time, the later one of two: a window that starts at another frame decides alike."""
    return np.floor(time + 0.5)


def ranges(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The numbers of several ranges, one range after the other."""
    length = end - begin
    return np.arange(length.sum()) + np.repeat(begin - np.concatenate([[0], np.cumsum(length)[:-1]]), length)


def _judged(
    rows: Rows,
    grid: Grid,
    rules: tuple[Rule, ...],
    in_time: InTime,
    tolerance: float | None,
    num_times: int,
    valid: Tensor | None,
) -> Rows:
    """The rows with the reasons why some are not used."""
    rows = rows.rejected(np.isnan(rows.value), "no value")
    rows = rows.rejected(np.isnan(rows.std), "no error")
    rows = rows.rejected(~np.isfinite(rows.time), "no time", placed=False)
    spectral = rows.part > 0
    nowhere = ~spectral & (np.isnan(rows.lower) | np.isnan(rows.upper)).any(axis=1)
    rows = rows.rejected(nowhere, "no position", placed=False)
    out = np.zeros(len(rows), dtype=bool)
    for i, (axis, rule) in enumerate(zip(grid.axes, rules, strict=True)):
        if spectral.any() and not is_uniform_ring(axis):
            raise InputError(
                f"Spectral coefficients need uniform periodic axes, {axis.name!r} is none: observe points."
            )
        high = spectral & (np.abs(rows.wave[:, i]) > axis.size // 2)
        out |= np.where(spectral, high, ~inside(axis, rule, rows.lower[:, i], rows.upper[:, i]))
    rows = rows.rejected(out, "outside the grid", placed=False)
    first, last, _ = frames_of(rows.time, in_time)
    rows = rows.rejected((first < 0) | (last >= num_times), "outside the frames", placed=False)
    if in_time == "nearest":
        allowed = np.where(np.isnan(rows.tolerance), 0.5 if tolerance is None else tolerance, rows.tolerance)
        far = np.abs(rows.time - first) > allowed * (1 + 1e-9) + WHOLE
        rows = rows.rejected(far, "no frame within the tolerance", placed=False)
    if valid is not None:
        fine = np.ones(len(rows), dtype=bool)
        fine[rows.placed] = usable(rows.take(np.flatnonzero(rows.placed)), grid, rules, valid)
        rows = rows.rejected(~fine, "touches points where nothing is defined", placed=False)
    return rows


def _rules(grid: Grid, interpolation: Rule | Mapping[str, Rule]) -> tuple[Rule, ...]:
    """One rule for each axis. Raises: InputError for one that an axis does not allow, or an axis that there is not."""
    by_axis: Mapping[str, Rule] = (
        dict.fromkeys(grid.names, interpolation) if isinstance(interpolation, str) else interpolation
    )
    if strange := [name for name in by_axis if name not in grid.names]:
        raise InputError(f"There is no axis {strange[0]!r} to interpolate along: the grid has {', '.join(grid.names)}.")
    rules: tuple[Rule, ...] = tuple(by_axis.get(name, "linear") for name in grid.names)
    for axis, rule in zip(grid.axes, rules, strict=True):
        check_rule(axis, rule)
    return rules


def _rate(tendency: Mapping[str, float], name: str, variables: Sequence[str]) -> float:
    if strange := [key for key in tendency if key not in variables]:
        raise InputError(f"A tendency is given for {strange[0]!r}, which is not observed: {', '.join(variables)} are.")
    rate = tendency.get(name, 0.0)
    if not 0 <= rate < math.inf:
        raise InputError(f"The tendency of {name!r} is {rate:g}: it must be finite and not negative.")
    return rate


def _correlations(correlation: float | Mapping[str, float], platforms: tuple[str, ...]) -> tuple[float, ...]:
    """One for each platform. Raises: InputError for one outside [0, 1), an unknown platform, or a table without platforms."""
    if not isinstance(correlation, Mapping):
        if correlation and not platforms:
            raise InputError("Errors can go together within a platform: the table needs a column platform.")
        correlation = dict.fromkeys(platforms, float(correlation))
    if strange := [name for name in correlation if name not in platforms]:
        raise InputError(f"There is no platform {strange[0]!r} whose errors could go together.")
    if wrong := [rho for rho in correlation.values() if not 0 <= rho < 1]:
        raise InputError(f"A correlation of errors lies in [0, 1), got {wrong[0]:g}.")
    return tuple(float(correlation.get(name, 0.0)) for name in platforms)
