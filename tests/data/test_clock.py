"""Calendar-regular steps, dates beyond the data, and irregular time."""

from __future__ import annotations

import cftime
import numpy as np
import pytest

from eddycast.data.clock import calendar_clock, plain_clock
from eddycast.errors import InputError


def dates(calendar: str, units: str, numbers) -> np.ndarray:
    return np.asarray(cftime.num2date(np.asarray(numbers), units, calendar))


def months(first: str, count: int, every: int = 1) -> np.ndarray:
    start = np.datetime64(first, "M")
    return np.arange(start, start + count * every, every).astype("datetime64[ns]")


@pytest.mark.parametrize(
    ("stamps", "calendar", "expected"),
    [
        (months("1999-11", 20), "standard", (1.0, "month", 12.0, 10.0)),
        (months("1999-04", 9, every=3), "standard", (3.0, "month", 4.0, 1.0)),
        (months("1999-01", 5, every=12), "standard", (1.0, "year", None, 0.0)),
        (months("1990-01", 4, every=120), "standard", (10.0, "year", None, 0.0)),
        (np.arange("2000-02-01", "2000-04-01", dtype="datetime64[D]").astype("datetime64[ns]"), "standard",
         (1.0, "day", 365.2425, 31.0)),
        (np.arange(0, 40, 6).astype("timedelta64[h]") + np.datetime64("2001-01-02", "ns"), "standard",
         (6.0, "hour", 365.2425 * 4, 4.0)),
        (dates("360_day", "days since 1850-01-01", 30 * np.arange(24) + 15), "360_day", (1.0, "month", 12.0, 0.0)),
        (dates("360_day", "days since 1850-03-01", 360 * np.arange(9)), "360_day", (1.0, "year", None, 2.0)),
        (dates("360_day", "days since 1850-01-11", np.arange(50)), "360_day", (1.0, "day", 360.0, 10.0)),
        (dates("noleap", "days since 1850-01-01", 365 * np.arange(9)), "noleap", (1.0, "year", None, 0.0)),
        (dates("noleap", "days since 1850-01-01", np.arange(900)), "noleap", (1.0, "day", 365.0, 0.0)),
    ],
    ids=["monthly", "seasonal", "yearly", "decades", "daily", "6-hourly", "360-month", "360-year", "360-day",
    "noleap-year", "noleap-day"],
)  # fmt: skip
def test_steps_follow_the_calendar(stamps, calendar, expected):
    clock = calendar_clock(stamps, calendar)
    dt, units, cycle, first = expected
    assert (clock.dt, clock.units) == (dt, units)
    assert clock.cycle == (None if cycle is None else pytest.approx(cycle))
    anchor = first / 12 if units == "year" else first
    assert clock.first == pytest.approx(anchor)
    assert list(clock.times(0, np.arange(len(stamps)))) == list(stamps), "frames keep their own dates"


def test_equal_steps_that_are_no_calendar_months_stay_equal():
    """11 years of steps of 730.5 h: every month gets one frame, but the file means hours."""
    stamps = np.datetime64("1982-01-16T20:30", "ns") + np.round(730.5 * 3.6e12 * np.arange(132)).astype(
        "timedelta64[ns]"
    )
    clock = calendar_clock(stamps, "standard")
    assert (clock.units, clock.dt) == ("day", 730.5 / 24) and clock.cycle == pytest.approx(12, abs=0.01)


def test_mid_month_dates_wander_within_a_month():
    starts = months("2006-04", 40)
    middle = starts + (months("2006-05", 40) - starts) / 2
    clock = calendar_clock(middle, "standard")
    assert (clock.dt, clock.units, clock.cycle, clock.first) == (1.0, "month", 12.0, 3.0)


def test_dates_beyond_the_data_and_between_frames():
    clock = calendar_clock(months("1999-11", 4), "standard")
    assert clock.times(0, np.array([4, -1, 16])).astype("datetime64[D]").astype(str).tolist() == [
        "2000-03-01", "1999-10-01", "2001-03-01",
    ]  # fmt: skip
    assert clock.times(0, np.array(0.5)) == np.datetime64("1999-11-16")
    end = calendar_clock(np.array(["2000-10-31", "2000-11-30", "2000-12-31"], dtype="datetime64[ns]"), "standard")
    assert end.times(0, np.array(4)) == np.datetime64("2001-02-28")
    lunar = calendar_clock(dates("360_day", "days since 2000-01-30", 30 * np.arange(12)), "360_day")
    beyond = lunar.times(0, np.array([13, 24.5]))
    assert (beyond[0].year, beyond[0].month, beyond[0].day) == (2001, 2, 30)
    assert (beyond[1].year, beyond[1].month, beyond[1].day) == (2002, 2, 15)


def test_a_missing_day_is_named():
    days = np.delete(np.arange("2000-01-01", "2000-03-01", dtype="datetime64[D]"), 17).astype("datetime64[ns]")
    with pytest.raises(InputError, match=r"frames 16 and 17 .*are 2 days apart and the usual step is 1") as error:
        calendar_clock(days, "standard", "my.nc")
    assert "\n" not in str(error.value) and str(error.value).startswith("my.nc")


def test_a_missing_month_is_named():
    with pytest.raises(InputError, match="frames 5 and 6"):
        calendar_clock(np.delete(months("2000-01", 24), 6), "standard")


def test_time_must_increase():
    with pytest.raises(InputError, match=r"frame 2 .* is followed by"):
        calendar_clock(months("2000-01", 6)[[0, 1, 3, 2, 4, 5]], "standard")


def test_plain_numbers():
    clock = plain_clock(np.float32(0.2) * np.arange(640, dtype=np.float32) + 200, "s")
    assert clock.dt == pytest.approx(0.2, rel=1e-6) and clock.step(0, 5) == pytest.approx(1005, rel=1e-5)
    with pytest.raises(InputError, match="frames 2 and 3"):
        plain_clock(np.array([0.0, 1, 2, 4, 5]), "s")
    with pytest.raises(InputError, match="missing values"):
        plain_clock(np.array([0.0, np.nan]), "s")
