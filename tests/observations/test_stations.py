"""Tables and fields of one's own, read for a run: columns, dates, units, options, mistakes; from a CSV to an analysis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from eddycast import api
from eddycast.api.stations import read_observations, table_options
from eddycast.cli.parse import stated_error, withheld
from eddycast.data import Dataset, Field
from eddycast.data.arrays import ArraySource
from eddycast.data.clock import PlainClock, calendar_clock
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.observations import Observations, ObservationTable, observe, rows_of

GLOBE = Grid(
    (
        Axis("latitude", tuple(np.linspace(67.5, -67.5, 7).tolist()), ("open", "open"), "degrees_north"),
        Axis("longitude", tuple(np.linspace(0, 330, 12).tolist()), units="degrees_east", period=360.0),
    )
)
HOURS = calendar_clock(
    np.arange("2021-03-01T00", "2021-03-04T00", 6, dtype="datetime64[h]").astype("datetime64[ns]"), "standard"
)
MONTHS = calendar_clock(np.arange("2020-01", "2022-01", dtype="datetime64[M]").astype("datetime64[ns]"), "standard")


def data_on(grid=GLOBE, clock=HOURS, **more):
    fields = (Field("u", "m s-1"), Field("v", "m s-1"))
    return Dataset(ArraySource((torch.zeros(12, 2, *grid.shape),)), fields, grid, clock, splits={}, **more)


STATIONS = """# my stations
date,station,lat,lon,variable,value,error,qc
2021-03-01T00:00,alpha,10,-20,u,1.5,0.5,0
2021-03-01T06:00,alpha,10,-20,v,2.5,0.5,0
2021-03-01T09:00,beta,-30,355,u,3.5,0.7,0
2021-03-01T12:00Z,beta,-30,355,u,,0.7,0
2021-03-02T00:00,beta,-30,355,speed,4.5,0.7,4
2021-03-01T03:00,gamma,80,100,u,3.5,0.7,0
"""


def written(tmp_path, text, name="obs.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_csv_of_stations_with_dates(tmp_path):
    table = read_observations(written(tmp_path, STATIONS), like=data_on())
    assert isinstance(table, ObservationTable) and table.platforms == ("alpha", "beta", "gamma")
    assert table.reasons() == {"no value": 1, "quality flag": 1, "outside the grid": 1}
    seen = table.seen(0, table.num_times)
    assert seen.values.tolist() == [[1.5, 2.5, 3.5]] and seen.frames.tolist() == [[0, 1, 2]] and table.num_times == 3
    assert seen.positions[0, :, 1].tolist() == [-20, -20, 355] and table.time.tolist() == [
        59 * 4.0
    ]  # 1 March: 59 days of 4 steps
    other = read_observations(
        f"{tmp_path / 'obs.csv'}?start=2021-02-28&accept=0,4&num_times=20&interpolation=cubic", like=data_on()
    )
    assert (
        other.seen(0, 20).frames.tolist() == [[4, 5, 6, 8]]
        and other.num_times == 20
        and other.time.tolist() == [58 * 4.0]
    )
    assert other.interpolation == ("cubic", "cubic") and other.variables == ("u", "v", "speed")


def test_long_wide_and_netcdf_tables_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        {"time": rng.uniform(0, 5, 9), "lat": rng.uniform(-60, 60, 9), "lon": rng.uniform(0, 360, 9), "u": rng.normal(size=9),
         "v": rng.normal(size=9), "speed(u, v)": rng.uniform(1, 2, 9), "u_error": 0.1, "error": 0.3, "station": [*"aabbccddd"]}
    )  # fmt: skip
    wide.loc[2, "v"] = np.nan
    names = ["u", "v", "speed(u, v)"]
    long = wide.melt(["time", "lat", "lon", "station"], names, "variable", "value")
    long["error"] = np.where(long["variable"] == "u", 0.1, 0.3)
    data = data_on(clock=PlainClock(1.0))
    stations = xr.Dataset.from_dataframe(wide.rename_axis("row"))
    stations["u"].attrs["units"] = "m s**-1"
    stations.to_netcdf(tmp_path / "wide.nc", engine="h5netcdf")
    long.to_csv(tmp_path / "long.csv", index=False)
    known = read_observations(wide, like=data, correlation=0.3).seen(0, 6)
    assert known.count == 26
    states = torch.randn(1, 6, 2, *GLOBE.shape, generator=torch.Generator().manual_seed(0))
    for source in (
        long,
        long.sample(frac=1, random_state=0),
        stations,
        tmp_path / "wide.nc",
        f"{tmp_path}/long.csv?correlation=0.3",
    ):
        settings = {} if "?" in str(source) else {"correlation": 0.3}
        seen = read_observations(source, like=data, **settings).seen(0, 6)
        for name in ("values", "std", "positions", "frames", "groups"):
            assert torch.equal(getattr(seen, name), getattr(known, name)), name
        assert torch.equal(seen.operator(states), known.operator(states))


def test_months_are_steps_and_numbers_count_from_the_start():
    frame = pd.DataFrame(
        {"time": ["2021-02-01", "2021-02-15", "2021-03-01"], "lat": 0.0, "lon": 0.0, "u": 1.0, "error": 1.0}
    )
    table = read_observations(frame, like=data_on(clock=MONTHS), start="2021-01-01")
    assert table.rows.time.tolist() == [1.0, 1.5, 2.0] and table.time.tolist() == [0.0]
    numbers = frame.assign(time=[10.0, 11.0, 14.0])
    table = read_observations(numbers, like=data_on(clock=PlainClock(2.0)), start=6.0)
    assert table.rows.time.tolist() == [2.0, 2.5, 4.0] and table.time.tolist() == [3.0]
    begun = numbers.assign(trajectory=[1, 0, 1], start_frame=[2, 1, 2])
    table = read_observations(begun, like=data_on(clock=PlainClock(2.0)), start=6.0)
    assert (
        table.trajectories.tolist() == [0, 1] and table.frames.tolist() == [1, 2] and table.time.tolist() == [4.0, 5.0]
    )
    assert table.rows.case.tolist() == [0, 1, 1] and table.rows.time.tolist() == [1.5, 0.0, 2.0]


def test_fields_with_gaps_on_the_grid_are_gridded_observations(tmp_path):
    values = np.full((3, 7, 12), np.nan)
    values[0, 2, 3], values[2, 5, 11] = 1.0, 2.0
    stamps = np.array(["2021-03-01T06", "2021-03-01T12", "2021-03-02T00"], dtype="datetime64[ns]")
    content = xr.Dataset(
        {"u": (("time", "lat", "lon"), values, {"units": "m/s", "noise_std": 0.2})},
        {"time": stamps, "lat": list(GLOBE.axes[0].coordinates), "lon": list(GLOBE.axes[1].coordinates)},
    )
    content["u"].attrs["units"] = "m s-1"
    made = read_observations(content, like=data_on())
    assert isinstance(made, Observations) and made.count == 2 and made.values.shape == (1, 5, 2, 7, 12)
    assert (
        made.values[0, 1, 0, 2, 3] == 1
        and made.values[0, 4, 0, 5, 11] == 2
        and made.noise_std.tolist() == pytest.approx([0.2, 1])
    )
    assert made.time.tolist() == [59 * 4.0]
    turned = content.isel(lat=slice(None, None, -1), lon=slice(3, None)).transpose("lon", "time", "lat")
    turned.assign_coords(lon=turned.lon - 360).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    again = read_observations(tmp_path / "part.nc", like=data_on())
    assert torch.equal(again.mask, made.mask) and torch.equal(again.filled, made.filled)
    for changed, word in (
        (content.assign_coords(lat=content.lat + 1), "between points"),
        (content.assign_coords(time=stamps + np.timedelta64(1, "h")), "between frames"),
        (content.rename(u="w"), "no field of the run"),
    ):
        with pytest.raises(InputError, match=word):
            read_observations(changed, like=data_on(), start="2021-03-01")


def test_what_observe_wrote_is_taken_as_it_is(tmp_path):
    made = observe(
        torch.randn(1, 3, 2, 7, 12),
        grid=GLOBE,
        fields=(("u", "1"), ("v", "1")),
        dt=1.0,
        noise_std=torch.ones(2),
        seed=0,
        fraction=0.2,
    )
    for suffix in (".csv", ".nc"):
        made.save(tmp_path / f"obs{suffix}")
        assert torch.equal(read_observations(tmp_path / f"obs{suffix}").mask, made.mask)
    with pytest.raises(InputError, match="take no options"):
        read_observations(f"{tmp_path}/obs.nc?accept=1")
    assert read_observations(made) is made


@pytest.mark.parametrize(
    "change, settings, word",
    [
        (lambda f: f.drop(columns="error"), {}, "has no column error: give --error"),
        (lambda f: f.drop(columns="error"), {"error": {"v": 1.0}}, "none is given for 'u'"),
        (lambda f: f.assign(variable="U"), {}, "no variable 'U' in the run: did you mean 'u'"),
        (lambda f: f.assign(variable="speed(u, w)"), {}, "taken of 'w', which the run does not have"),
        (lambda f: f.assign(variable="speed(u)"), {}, "has 1 fields, speed takes 2 to 3"),
        (lambda f: f.drop(columns="lat"), {}, "no column 'latitude'"),
        (lambda f: f.drop(columns="time"), {}, "no column time"),
        (lambda f: f.assign(value="warm"), {}, "row 1: value is 'warm', expected a number"),
        (lambda f: f.assign(error=[0.1, -0.1, 1.0]), {}, "Row 2: the error is -0.1"),
        (lambda f: f.assign(units="knots"), {}, "'u' is in 'knots', the run has it in 'm s-1'"),
        (lambda f: f.assign(quality=3), {}, "no row has an accepted quality flag; the flags are 3"),
        (lambda f: f.assign(lat=90.0), {}, "No observations are left of 3 rows: 3 outside the grid"),
        (lambda f: f.assign(time="yesterday"), {}, "no date in ISO form"),
        (lambda f: f, {"interpolation": "cubik"}, "known are nearest"),
        (lambda f: f, {"correlation": 0.5}, "needs a column platform"),
        (lambda f: f, {"tolerance": 0.1}, "say in_time=nearest"),
        (lambda f: f, {"start": 0.5, "like": data_on(clock=PlainClock(1.0, "turnover"))}, "counts time in 'turnover'"),
        (lambda f: f.assign(lon_from=3.0, lon_to=1.0), {}, "lies beyond longitude_to"),
        (lambda f: f, {"parameters": {"viscosity": 1.0}}, "no parameter 'viscosity'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(change, settings, word):
    frame = pd.DataFrame({
        "time": ["2021-03-01", "2021-03-02", "2021-03-03"], "lat": 0.0, "lon": [0.0, 10.0, 20.0], "variable": "u", "value": 1.0,
        "error": 0.1,
    })  # fmt: skip
    with pytest.raises(InputError) as raised:
        read_observations(change(frame), **({"like": data_on()} | settings))
    assert word in str(raised.value) and "\n" not in str(raised.value)


def test_options_behind_the_question_mark():
    path, options = table_options(
        "a.csv?error=u:0.1,v:0.2&start=2020-01-01&in_time=nearest&viscosity=0.1", ("viscosity",)
    )
    assert (
        str(path) == "a.csv"
        and options["error"] == {"u": 0.1, "v": 0.2}
        and options["parameters"] == {"viscosity": 0.1}
    )
    assert options["start"] == "2020-01-01" and withheld("0.2") == 0.2 and withheld("ship, buoy") == ("ship", "buoy")
    assert withheld("10384") == ("10384",) and withheld("1,") == ("1",) and withheld("0") == 0.0
    with pytest.raises(InputError, match="share from 0"):
        withheld("1.5")
    assert stated_error("0.1") == 0.1 and stated_error("u=0.1") == {"u": 0.1}
    for text in ("a.csv?speed=1", "a.csv?tolerance=x"):
        with pytest.raises(InputError):
            table_options(text)
    with pytest.raises(InputError, match="--error"):
        stated_error("much")


def test_from_a_csv_to_an_analysis(tmp_path):
    """Moving instruments at any time and place, a filter with the solver: the analysis is nearer the truth than what it began with, and
    its departure from a withheld platform is told; removing rows and leaving them empty give the same bits."""
    data = api.simulate("advection-diffusion", trajectories=3, steps=16, grid=[32], seed=1, out=tmp_path / "data.nc")
    truth, axis = data.read(2, 0, 12)[:, 0].double().numpy(), data.grid.axes[0]
    rng = np.random.default_rng(0)
    times, x = rng.integers(0, 12, 200), rng.integers(0, 32, 200)
    frame = pd.DataFrame(
        {"time": times * data.dt, axis.name: np.asarray(axis.coordinates)[x], "variable": "u",
         "value": truth[times, x] + 0.05 * rng.normal(size=200), "platform": rng.choice(["a", "b", "c"], 200)}
    )  # fmt: skip
    frame.loc[::10, "value"] = np.nan
    frame.to_csv(tmp_path / "obs.csv", index=False)
    frame.dropna().sample(frac=1, random_state=1).to_csv(tmp_path / "fewer.csv", index=False)
    out = {}
    for name in ("obs", "fewer"):
        out[name] = api.assimilate(
            "system:advection-diffusion", observations=f"{tmp_path / name}.csv?like={tmp_path / 'data.nc'}", out=tmp_path / f"{name}.nc",
            method="etkf", mode="filter", members=12, error=0.05, withhold=("c",), rows=tmp_path / f"{name}-rows.csv",
        )  # fmt: skip
    made, fewer = (xr.open_dataset(path, engine="h5netcdf") for path in out.values())
    assert np.array_equal(made["u"].values, fewer["u"].values)
    error = np.sqrt(np.square(made["u"].values[0].mean(axis=0) - truth).mean(axis=1))
    assert error[-1] < 0.05 and error[-1] < 0.2 * truth.std()
    rows = pd.read_csv(tmp_path / "obs-rows.csv")
    assert len(rows) == 200 and set(rows["reason"].dropna()) == {"no value", "withheld"}
    assert (rows["reason"] == "withheld").sum() == made.attrs["withheld_observations"]
    held = rows[(rows["reason"] == "withheld") & (rows["time"] > 6 * data.dt)]
    assert np.sqrt(np.square(held["innovation"] / held["error"]).mean()) < 1.5
    with pytest.raises(InputError, match="no platform 'd'"):
        api.assimilate(
            "system:advection-diffusion", observations=f"{tmp_path / 'obs'}.csv?like={tmp_path / 'data.nc'}&error=1", method="etkf",
            out=tmp_path / "no.nc", withhold=("d",),
        )  # fmt: skip
    assert rows_of is api.rows_of
