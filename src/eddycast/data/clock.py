"""Times of frames: plain numbers, or dates of any CF calendar with calendar-regular steps.

Networks see time in *steps* since an anchor, so months of 28 and of 31 days are both one step. The anchor of a calendar
is 1 January of the first year of the data: phase 0 of the annual cycle.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

from eddycast.errors import InputError

SECONDS = {"day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0}
DAYS_PER_YEAR = {
    "360_day": 360.0,
    "noleap": 365.0,
    "365_day": 365.0,
    "all_leap": 366.0,
    "366_day": 366.0,
    "julian": 365.25,
}
LARGEST = 1e100  # beyond, products of times overflow
MONTH_WANDER = 3.0  # days that a date may move within its month: the middle of February and of March
STRAY = 0.05  # of a step: how far a frame may lie from its step in a record of decades
TOLERANCE = 1e-3  # of a step: rounding of times stored as float32 hours stays below, a missing frame does not


class Clock(Protocol):
    """Time of each frame of each trajectory."""

    @property
    def dt(self) -> float: ...
    @property
    def units(self) -> str: ...
    @property
    def cycle(self) -> float | None: ...
    @property
    def calendar(self) -> str | None: ...
    def step(self, trajectory: int, frame: float) -> float:
        """Steps since the anchor."""
        ...

    def times(self, trajectory: int, frames: np.ndarray) -> np.ndarray:
        """Valid times of frames, which may be fractions and may lie beyond the data."""
        ...


@dataclass(frozen=True)
class PlainClock:
    """time = origin + frame dt, numbers.

    Args:
        dt: Time between frames, positive.
        units: Unit of time.
        origins: Time of frame 0 of each trajectory; one value serves all.
        cycle: Steps in a cycle with phase 0 at time 0, or None.
    """

    dt: float
    units: str = "1"
    origins: tuple[float, ...] = (0.0,)
    cycle: float | None = None

    @property
    def calendar(self) -> None:
        return None

    def _origin(self, trajectory: int) -> float:
        return self.origins[trajectory if len(self.origins) > 1 else 0]

    def step(self, trajectory: int, frame: float) -> float:
        return self._origin(trajectory) / self.dt + frame

    def times(self, trajectory: int, frames: np.ndarray) -> np.ndarray:
        return self._origin(trajectory) + np.asarray(frames) * self.dt


@dataclass(frozen=True, eq=False)
class CalendarClock:
    """Dates, shared by all trajectories.

    Args:
        stamps: Dates of the frames, datetime64 or cftime objects, (time,).
        kind: Steps of whole months, or of equal length.
        dt: Length of a step in `units`.
        units: "year", "month", "day", "hour", "minute" or "second".
        cycle: Steps in a year; None where a step is half a year or more.
        calendar: CF name of the calendar.
        first: Steps from 1 January of the first year to frame 0.
    """

    stamps: np.ndarray
    kind: Literal["month", "equal"]
    dt: float
    units: str
    cycle: float | None
    calendar: str
    first: float

    def step(self, trajectory: int, frame: float) -> float:
        return self.first + frame

    def _stamp(self, frame: int) -> Any:
        last = len(self.stamps) - 1
        inside = min(max(frame, 0), last)
        stamp, extra = self.stamps[inside], frame - inside
        if extra == 0:
            return stamp
        if self.kind == "month":
            return _add_months(stamp, round(extra * self.dt * (12 if self.units == "year" else 1)))
        return _add_seconds(stamp, extra * self.dt * SECONDS[self.units])

    def times(self, trajectory: int, frames: np.ndarray) -> np.ndarray:
        found = []
        for frame in np.asarray(frames, dtype=np.float64).reshape(-1):
            whole = int(np.floor(frame))
            stamp = self._stamp(whole)
            if frame != whole:
                after = self._stamp(whole + 1)
                stamp = (
                    stamp + (after - stamp) * float(frame - whole)
                    if _is_cftime(stamp)
                    else stamp
                    + np.timedelta64(round((frame - whole) * float((after - stamp) / np.timedelta64(1, "ns"))), "ns")
                )
            found.append(stamp)
        kind = object if _is_cftime(self.stamps[0]) else "datetime64[ns]"
        result = np.empty(len(found), dtype=kind)
        result[:] = found
        return result.reshape(np.shape(frames))


def _is_cftime(stamp: Any) -> bool:
    return not isinstance(stamp, np.datetime64)


def _add_seconds(stamp: Any, seconds: float) -> Any:
    if _is_cftime(stamp):
        return stamp + datetime.timedelta(seconds=seconds)
    return stamp + np.timedelta64(round(seconds * 1e9), "ns")


def _add_months(stamp: Any, months: int) -> Any:
    """The same day and hour some months later; the last day of the month where there is no such day."""
    if not _is_cftime(stamp):
        month = stamp.astype("datetime64[M]")
        target = month + months
        offset = min(
            stamp - month.astype(stamp.dtype),
            (target + 1).astype(stamp.dtype) - target.astype(stamp.dtype) - np.timedelta64(1, "D"),
        )
        return target.astype(stamp.dtype) + offset
    total = stamp.year * 12 + stamp.month - 1 + months
    first = stamp.replace(year=total // 12, month=total % 12 + 1, day=1)
    return first.replace(day=min(stamp.day, first.daysinmonth))


def _fields(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Months since year 0, seconds since the first stamp, and seconds from 1 January to the first stamp."""
    first = stamps[0]
    if _is_cftime(first):
        months = np.array([stamp.year * 12 + stamp.month - 1 for stamp in stamps])
        seconds = np.array([(stamp - first).total_seconds() for stamp in stamps])
        begin = (first - first.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    else:
        months = stamps.astype("datetime64[M]").astype(np.int64) + 1970 * 12
        seconds = (stamps - first) / np.timedelta64(1, "s")
        begin = (first - first.astype("datetime64[Y]").astype(stamps.dtype)) / np.timedelta64(1, "s")
    return months, seconds.astype(np.float64), np.asarray(begin, dtype=np.float64)


def _short(stamp: Any) -> str:
    """A date without its zeros."""
    return str(stamp).removesuffix(".000000000").removesuffix("T00:00:00").removesuffix(" 00:00:00")


def _check_order(seconds: np.ndarray, stamps: np.ndarray, where: str) -> None:
    steps = np.diff(seconds)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        raise InputError(
            f"{where}: time must increase, but frame {at} ({_short(stamps[at])}) is followed by "
            f"{_short(stamps[at + 1])}; sort the file by time."
        )


def _irregular(steps: np.ndarray, usual: float, stamps: np.ndarray, where: str, scale: float, unit: str) -> InputError:
    at = int(np.argmax(np.abs(steps - usual) > TOLERANCE * usual))
    return InputError(
        f"{where}: time steps must be equal (or whole months or years), but frames {at} and {at + 1} "
        f"({_short(stamps[at])}, "
        f"{_short(stamps[at + 1])}) are {steps[at] / scale:.6g} {unit} apart and the usual step is "
        f"{usual / scale:.6g}; "
        "select a regular part or interpolate in time."
    )


def calendar_clock(stamps: np.ndarray, calendar: str, where: str = "The file") -> CalendarClock:
    """The clock of dates, with the step found from them.

    Whole years and months (any number of them) come first, equal lengths second: in a 360-day calendar 30 days are a
    month, elsewhere only dates that follow the months are. Dates within a month may wander (mid-month stamps).

    Raises: InputError where dates do not increase or the steps are irregular.
    """
    months, seconds, begin = _fields(stamps)
    _check_order(seconds, stamps, where)
    days = DAYS_PER_YEAR.get(calendar, 365.2425)
    if len(stamps) == 1:
        return CalendarClock(stamps, "equal", 1.0, "day", days, calendar, float(begin) / SECONDS["day"])
    steps, jumps = np.diff(seconds), np.diff(months)
    usual = float(np.median(steps))
    equal = bool((np.abs(steps - usual) <= TOLERANCE * usual).all())
    follows = jumps[0] > 0 and bool((jumps == jumps[0]).all())
    same_day = bool((_days_into_month(stamps) == _days_into_month(stamps)[0]).all())
    wander = np.ptp(_days_into_month(stamps))
    if follows and (same_day or (not equal and wander <= MONTH_WANDER)):
        count = int(jumps[0])
        start = int(months[0]) % 12
        if count % 12 == 0:
            return CalendarClock(stamps, "month", count / 12, "year", None, calendar, start / count)
        cycle = 12 / count
        return CalendarClock(
            stamps, "month", float(count), "month", cycle if cycle > 2 else None, calendar, start / count
        )
    unit = next((name for name, size in SECONDS.items() if usual >= size * (1 - TOLERANCE)), "second")
    monthly = jumps - np.median(jumps)
    if not equal and np.median(jumps) > 0 and (monthly == 0).mean() > 0.5 and wander <= MONTH_WANDER:
        at = int(np.argmax(monthly != 0))
        raise InputError(
            f"{where}: frames {at} and {at + 1} ({_short(stamps[at])}, {_short(stamps[at + 1])}) are {jumps[at]} "
            "months "
            f"apart and the usual step is {int(np.median(jumps))}; select a part without gaps or fill them."
        )
    if not equal:
        raise _irregular(steps, usual, stamps, where, SECONDS[unit], unit + "s")
    dt = seconds[-1] / (len(stamps) - 1) / SECONDS[unit]
    dt = round(dt) if abs(dt - round(dt)) < TOLERANCE * TOLERANCE * dt else dt
    cycle = days * SECONDS["day"] / (dt * SECONDS[unit])
    first = float(begin) / (dt * SECONDS[unit])
    return CalendarClock(stamps, "equal", float(dt), unit, cycle if cycle > 2 else None, calendar, first)


def _days_into_month(stamps: np.ndarray) -> np.ndarray:
    if _is_cftime(stamps[0]):
        return np.array([s.day + s.hour / 24 + s.minute / 1440 + s.second / 86400 for s in stamps])
    return (stamps - stamps.astype("datetime64[M]").astype(stamps.dtype)) / np.timedelta64(1, "D")


@dataclass(frozen=True, eq=False)
class Steps:
    """Frames on a regular clock that may miss some.

    Args:
        numbers: Steps of each frame since the anchor, increasing, (time,).
        dt, units, cycle: As those of a `Clock`.
    """

    numbers: np.ndarray
    dt: float
    units: str
    cycle: float | None

    def runs(self) -> list[range]:
        """Frames in a row, without a gap."""
        breaks = np.flatnonzero(np.diff(self.numbers) > 1.5) + 1
        ends = [0, *breaks.tolist(), len(self.numbers)]
        return [range(start, stop) for start, stop in pairwise(ends)]


def steps_with_gaps(stamps: np.ndarray, calendar: str, where: str = "The files") -> Steps:
    """Numbers of the steps of dates, or of plain numbers, of which some are missing: the clock is that of the longest run without a gap.

    Args:
        stamps: datetime64, cftime objects or numbers, increasing, (time,).
        calendar: CF name of the calendar; for numbers, their unit.

    Raises: InputError where times do not increase, or frames lie between the steps.
    """
    dates = stamps.dtype.kind in "OM"
    months, seconds, begin = _fields(stamps) if dates else (None, np.asarray(stamps, dtype=np.float64), np.asarray(0.0))
    _check_order(seconds, stamps, where)
    if len(stamps) < 2:
        raise InputError(f"{where}: expected at least two times, got {len(stamps)}.")
    steps = np.diff(seconds)
    regular = np.abs(steps - np.median(steps)) <= TOLERANCE * np.median(steps)
    if months is not None and np.median(np.diff(months)) > 0:
        regular |= np.diff(months) == np.median(np.diff(months))
    ends = [0, *(np.flatnonzero(~regular) + 1).tolist(), len(stamps)]
    start, stop = max(pairwise(ends), key=lambda run: run[1] - run[0])
    if not dates:
        dt = plain_clock(seconds[start:stop], calendar, where).dt
        numbers, first, clock = (seconds - seconds[0]) / dt, seconds[0] / dt, PlainClock(dt, calendar)
    else:
        assert months is not None
        clock = calendar_clock(stamps[start:stop], calendar, where)
        if clock.kind == "month":
            count = clock.dt * (12 if clock.units == "year" else 1)
            numbers, first = (months - months[0]) / count, int(months[0]) % 12 / count
        else:
            length = clock.dt * SECONDS[clock.units]
            numbers, first = seconds / length, float(begin) / length
    if (off := np.abs(numbers - np.round(numbers)) > STRAY).any():
        at = int(np.argmax(off))
        raise InputError(
            f"{where}: frame {at} ({_short(stamps[at])}) lies between the steps of {clock.dt:g} {clock.units}; select frames of one kind, "
            "such as one per day at the same hour."
        )
    return Steps(np.round(numbers) + first, clock.dt, clock.units, clock.cycle)


def plain_clock(numbers: np.ndarray, units: str, where: str = "The file") -> PlainClock:
    """The clock of equally spaced numbers. Raises: InputError where they do not increase or are irregular."""
    numbers = np.asarray(numbers, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or np.abs(numbers).max() > LARGEST:
        raise InputError(f"{where}: times must be a list of numbers below {LARGEST:g}, one for each frame.")
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: the time coordinate has missing values; give every frame its time.")
    if len(numbers) == 1:
        return PlainClock(1.0, units, (float(numbers[0]),))
    _check_order(numbers, numbers, where)
    steps = np.diff(numbers)
    usual = float(np.median(steps))
    # float32 storage leaves an error of about 1e-7 of the largest time, which may be much of a small step
    slack = TOLERANCE * usual + 4e-7 * np.abs(numbers).max()
    if (np.abs(steps - usual) > slack).any():
        raise _irregular(steps, usual, numbers, where, 1.0, units)
    dt = float(numbers[-1] - numbers[0]) / (len(numbers) - 1)
    return PlainClock(float(f"{dt:.7g}"), units, (float(numbers[0]),))
