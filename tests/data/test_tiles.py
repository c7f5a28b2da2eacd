"""Boxes from daily sea surface temperature as NOAA distributes it, in both forms, and from other records."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import eddycast as ec
from eddycast.cli.app import run
from eddycast.data import in_units, inspect, validate_well
from eddycast.data.clock import steps_with_gaps
from eddycast.data.records import open_record
from eddycast.data.tiling import PUBLISHED_BOXES, PUBLISHED_REGION, boxes, frames_of_splits, select
from eddycast.errors import InputError

STEP = 3.0  # degrees between points of the small maps: 60 x 120 of them
LATITUDE = np.arange(-90 + STEP / 2, 90, STEP)
LONGITUDE = np.arange(STEP / 2, 360, STEP)
LAND = (-15.0, 15.0, 270.0, 300.0)  # a continent: south, north, west, east


def field(days: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Temperature of each day, in whole hundredths of a degree, NaN on land; days are datetime64[D]."""
    number = (days - np.datetime64("1980-01-01")).astype(int)[:, None, None]
    y, x = np.deg2rad(latitude)[:, None], np.deg2rad(longitude)
    values = 25 * np.cos(y) + 2 * np.sin(x + 0.1 * number) + np.cos(3 * y) * np.cos(2 * np.pi * number / 365.25)
    south, north, west, east = LAND
    y, x = latitude[:, None], longitude
    land = (y > south) & (y < north) & (x > west) & (x < east)
    return np.where(land, np.nan, np.round(values, 2))


def days(first: str, last: str) -> np.ndarray:
    return np.arange(np.datetime64(first), np.datetime64(last) + 1)


def ncei(folder: Path, which: np.ndarray, latitude=LATITUDE, longitude=LONGITUDE) -> list[Path]:
    """One file per day as NCEI writes it: 16-bit numbers, a level, four variables, noon."""
    made = []
    for day in which:
        path = folder / f"oisst-avhrr-v02r01.{str(day).replace('-', '')}.nc"
        values = field(np.array([day]), latitude, longitude)
        packed = np.where(np.isnan(values), -999, np.round(np.nan_to_num(values) * 100)).astype(np.int16)
        with h5py.File(path, "w") as file:
            noon = (day - np.datetime64("1978-01-01")).astype(int)
            axes = {"time": [noon], "zlev": [0.0], "lat": latitude, "lon": longitude}
            units = ("days since 1978-01-01 12:00:00", "meters", "degrees_north", "degrees_east")
            for (name, numbers), unit in zip(axes.items(), units, strict=True):
                file[name] = np.asarray(numbers, dtype=np.float32)
                file[name].make_scale(name)
                file[name].attrs["units"] = unit
            for name, factor in (("anom", 0.1), ("err", 0.2), ("ice", 0.0), ("sst", 1.0)):
                content = np.where(packed == -999, -999, packed * factor).astype(np.int16)[:, None]
                data = file.create_dataset(name, data=content, compression="gzip", compression_opts=1, shuffle=True)
                for axis, scale in enumerate(axes):
                    data.dims[axis].attach_scale(file[scale])
                data.attrs["_FillValue"], data.attrs["units"] = np.int16(-999), "Celsius"
                data.attrs["add_offset"], data.attrs["scale_factor"] = np.float32(0.0), np.float32(0.01)
                data.attrs["long_name"] = {"sst": "Daily sea surface temperature"}.get(name, name)
            file.attrs["title"] = "NOAA/NCEI 1/4 Degree Daily OISST Analysis, Version 2.1 - Final"
        made.append(path)
    return made


def psl(folder: Path, year: int, last: str | None = None, drop: tuple[str, ...] = ()) -> Path:
    """One file per year as PSL writes it: float32, missing value -9.96921e36, midnight."""
    which = days(f"{year}-01-01", last or f"{year}-12-31")
    which = which[~np.isin(which, np.array(drop, dtype="datetime64[D]"))]
    values = field(which, LATITUDE, LONGITUDE)
    missing = np.float32(-9.96921e36)
    content = xr.Dataset(
        {"sst": (("time", "lat", "lon"), np.where(np.isnan(values), missing, values).astype(np.float32))},
        {
            "time": ("time", (which - np.datetime64("1800-01-01")).astype(np.float64)),
            "lat": ("lat", LATITUDE.astype(np.float32), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", LONGITUDE.astype(np.float32), {"units": "degrees_east", "standard_name": "longitude"}),
        },
        {
            "title": "NOAA/NCEI 1/4 Degree Daily Optimum Interpolation Sea Surface Temperature (OISST) Analysis, Version 2.1"
        },
    )
    content["time"].attrs["units"] = "days since 1800-01-01 00:00:00"
    content["sst"].attrs |= {"units": "degC", "long_name": "Daily Sea Surface Temperature", "missing_value": missing}
    path = folder / f"sst.day.mean.{year}.nc"
    content.to_netcdf(path, engine="h5netcdf", encoding={"sst": {"_FillValue": None}})
    return path


@pytest.fixture(scope="module")
def years(tmp_path_factory) -> Path:
    """1982 and 1983 for training, 1984 (a leap year), and 1985 without two stretches of days."""
    folder = tmp_path_factory.mktemp("psl")
    for year in (1982, 1983, 1984):
        psl(folder, year)
    psl(folder, 1985, drop=("1985-03-01", "1985-03-02", "1985-10-10"))
    return folder


def truth(manifest: dict, piece: int, step: float = STEP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, latitudes and longitudes of a piece, as the manifest states them."""
    described = manifest["pieces"][piece]
    box = next(one for one in manifest["boxes"] if one["number"] == described["box"])
    count = manifest["size"]
    latitude = box["latitude"][0] + step * np.arange(count[0])
    longitude = (box["longitude"][0] + step * np.arange(count[1])) % 360
    return days(described["first"], described["last"]), latitude, longitude


def manifest_of(place: Path) -> dict:
    return json.loads((place / "manifest.json").read_text())


SMALL = {"size": (10, 10), "split": "1982-1983,1984,1985"}


def test_yearly_files_become_boxes_split_by_years_without_windows_across_gaps(years, tmp_path):
    """Values of every piece against the formula, at the places and dates that the manifest states."""
    out = tmp_path / "set"
    region = ((-30.0, 30.0), (180.0, 360.0))
    data = ec.tile(sorted(years.glob("*.nc"))[::-1], out, **SMALL, region=region)
    assert validate_well(out) == [] and data.field_names == ("sst",) and data.fields[0].units == "degC"
    assert data.grid.shape == (10, 10) and [axis.units for axis in data.grid.axes] == ["degree", "degree"]
    assert data.grid.axes[0].coordinates[:3] == (0.0, 3.0, 6.0) and data.valid is None
    manifest = manifest_of(out)
    # 2 rows of 6; the continent spans a column of boxes and half of both rows
    assert manifest["dropped_for_missing_points"] == [3, 9] and len(manifest["boxes"]) == 10
    assert manifest["gaps"] == [["1985-02-28", "1985-03-03"], ["1985-10-09", "1985-10-11"]]
    assert manifest["split"]["valid"] == ["1984-01-01", "1984-12-31"]
    lengths = {split: sorted({len(one) for one in data.splits[split]}) for split in ("train", "valid", "test")}
    assert lengths == {"train": [730], "valid": [366], "test": [59, 82, 221]}
    assert data.num_trajectories == len(manifest["pieces"]) == 10 * 5
    for at in range(0, data.num_trajectories, 3):
        when, latitude, longitude = truth(manifest, at)
        assert len(when) == data.lengths[at]
        expected = field(when, latitude, longitude)
        assert np.abs(data.read(at, 0, len(when))[:, 0].numpy() - expected).max() < 1e-5
        begin = float(data.times(at, 0))
        assert begin == (when[0] - np.datetime64("1982-01-01")).astype(int) and data.time_units == "day"
    assert data.cycle == pytest.approx(365.2425)
    assert len(data.windows("test", 8)) == 10 * sum(length - 7 for length in (59, 82, 221))
    assert "No problems found" in inspect(out)


def test_daily_files_give_the_same_boxes_as_yearly_ones(years, tmp_path):
    """Packed numbers, a level axis, noon and three more variables make no difference; a folder names its files."""
    folder = tmp_path / "daily" / "198401"
    folder.mkdir(parents=True)
    ncei(folder, days("1984-02-25", "1984-03-10"))
    options = {"size": (10, 10), "region": ((-30.0, 30.0), (120.0, 240.0)), "split": "0.6,0.2,0.2"}
    daily = ec.tile(tmp_path / "daily", tmp_path / "one", **options)
    yearly = ec.tile(years / "sst.day.mean.1984.nc", tmp_path / "two", **options)
    assert [len(daily.splits[split][0]) for split in ("train", "valid", "test")] == [9, 3, 3]
    assert daily.fields[0].units == "Celsius" and "OISST" in daily.attributes["source"]
    first = 31 + 24  # of 25 February, a leap year
    for box in range(8):
        assert torch.allclose(daily.read(box, 0, 9), yearly.read(box, first, first + 9), atol=1e-5)
    assert daily.conditions(0, 0).time.item() == first + 0.5, "days since 1 January, at noon"
    assert yearly.conditions(0, first).time.item() == first


def test_the_published_boxes_on_the_quarter_degree_grid(tmp_path):
    """Ids, stride and places: row 3 is 15S to 0 and row 4 0 to 15N, column 12 begins at 180E; days of the paper's years."""
    latitude, longitude = np.arange(-89.875, 90, 0.25), np.arange(0.125, 360, 0.25)
    which = np.concatenate([days(f"{year}-12-29", f"{year}-12-31") for year in (2019, 2020, 2021)])
    files = ncei(tmp_path, which, latitude, longitude)
    data = ec.tile(files, tmp_path / "set", boxes="published", split="paper", standardise="pixel")
    manifest = manifest_of(tmp_path / "set")
    places = {box["number"]: box for box in manifest["boxes"]}
    assert tuple(places) == PUBLISHED_BOXES
    assert places[84]["latitude"] == [-14.875, -0.125] and places[84]["longitude"] == [180.125, 194.875]
    assert places[89]["longitude"] == [255.125, 269.875] and places[108]["latitude"] == [0.125, 14.875]
    assert places[112]["longitude"] == [240.125, 254.875] and data.state_shape == (1, 60, 60)
    assert data.num_trajectories == 33 and manifest["split"]["test"] == ["2021-12-29", "2021-12-31"]
    with pytest.raises(InputError, match=r"no frames for train \(1982 to 2018\): the files cover 2019-12-29 to"):
        ec.tile(files[:3], tmp_path / "other", boxes="published", split="code")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".other*"))
    with pytest.raises(InputError, match="1/4 degree"):
        ec.tile(files, tmp_path / "other", boxes="published", split="paper", size=(30, 30))
    with pytest.raises(InputError, match="Box 114 has 3600 missing points of 3600"):
        ec.tile(files, tmp_path / "other", region=PUBLISHED_REGION, boxes=[112, 114], split="paper")


def test_statistics_are_those_of_each_pixel_of_each_box_in_training_alone(years, tmp_path):
    plain = ec.tile(years, tmp_path / "plain", **SMALL, boxes=[20, 40])
    scaled = ec.tile(years, tmp_path / "scaled", **SMALL, boxes=[20, 40], standardise="pixel")
    with xr.open_dataset(tmp_path / "scaled" / "boxes.nc", engine="h5netcdf") as content:
        known = content.load()
    assert known.box.values.tolist() == [20, 40] and known.sst_std.attrs["units"] == "degC"
    for at, number in enumerate((20, 40)):
        values = plain.read(at, 0, 730)[:, 0].double()
        mean, std = (torch.from_numpy(known[f"sst_{kind}"].sel(box=number).values) for kind in ("mean", "std"))
        assert np.allclose(values.mean(0), mean, atol=1e-5) and np.allclose(
            values.std(0, unbiased=False), std, rtol=1e-5
        )
        normal = scaled.read(at, 0, 730).double()
        assert normal.mean(0).abs().max() < 1e-5 and (normal.std(0, unbiased=False) - 1).abs().max() < 1e-5
        assert torch.allclose(
            scaled.read(2 + at, 5, 6)[0, 0].double() * std + mean, plain.read(2 + at, 5, 6)[0, 0].double(), atol=1e-4
        )
    assert scaled.fields[0].units == "1" and scaled.attributes["standardised"] == "pixel"
    assert abs(scaled.read(6, 0, 59).mean().item()) > 0.01, "test years have means of their own"


def test_forecasts_of_standardised_boxes_come_back_in_degrees(years, tmp_path, monkeypatch):
    """Persistence of the last state of each test piece, whose files the writer has sorted by length."""
    monkeypatch.chdir(tmp_path)
    ec.tile(years, "plain", **SMALL, boxes=[20, 40])
    ec.tile(years, "scaled", **SMALL, boxes=[20, 40], standardise="pixel")
    for name in ("plain", "scaled"):
        assert run(["forecast", "baseline:persistence", "--data", name, "--steps", "2", "--out", f"{name}.nc"]) == 0
    with xr.open_dataset("plain.nc") as one, xr.open_dataset("scaled.nc") as other:
        plain, scaled = one.load(), other.load()
    back = in_units(scaled, "scaled")
    assert back.sst.dims == scaled.sst.dims and back.sst.attrs["units"] == "degC" and plain.sizes["init"] == 6
    assert np.abs(back.sst - plain.sst).max() < 1e-4
    assert sorted(back.box.values.tolist()) == [20, 20, 20, 40, 40, 40]
    with pytest.raises(InputError, match="not standardised"):
        in_units(plain, "plain")


def test_a_region_may_cross_the_seam_and_rows_may_run_southwards(years, tmp_path):
    """Longitudes from 330 to 30, asked for in either way, from a file of 0 to 360 and one of -180 to 180 with its north first."""
    turned = tmp_path / "turned.nc"
    with xr.open_dataset(years / "sst.day.mean.1984.nc", engine="h5netcdf") as content:
        part = content.isel(time=slice(0, 30))
        part = part.assign_coords(lon=(part.lon + 180) % 360 - 180).sortby("lon").sortby("lat", ascending=False)
        part.to_netcdf(turned, engine="h5netcdf")
    found = []
    for number, (file, west) in enumerate([(years / "sst.day.mean.1984.nc", -30.0), (turned, 330.0), (turned, -30.0)]):
        data = ec.tile(
            file, tmp_path / f"{number}", size=(10, 20), region=((0.0, 30.0), (west, west + 60)), split="0.6,0.2,0.2"
        )
        place = manifest_of(tmp_path / f"{number}")["boxes"]
        assert len(place) == 1 and place[0]["latitude"] == [1.5, 28.5]
        assert [value % 360 for value in place[0]["longitude"]] == [331.5, 28.5]
        assert data.grid.axes[1].coordinates[1] == 3.0 and data.grid.axes[1].coordinates[-1] == 57.0
        found.append(data.read(0, 0, 18))
    assert torch.allclose(found[0], found[1]) and torch.equal(found[1], found[2])
    expected = field(days("1984-01-01", "1984-01-18"), np.arange(1.5, 30, 3), np.arange(331.5, 391, 3) % 360)
    assert np.abs(found[0][:, 0].numpy() - expected).max() < 1e-5


def test_some_land_may_be_allowed_and_is_masked(years, tmp_path):
    data = ec.tile(years, tmp_path / "set", **SMALL, boxes=[32, 33, 34], max_missing=0.5)
    assert data.valid is not None and int((~data.valid).sum()) == 50, "five rows of ten"
    assert data.read(0, 0, 3).isnan().sum() == 150
    scaled = ec.tile(years, tmp_path / "one", **SMALL, boxes=[33], max_missing=0.5, standardise="pixel")
    kept = scaled.read(0, 0, 730)[:, 0][:, scaled.valid].double()
    assert (kept.std(0, unbiased=False) - 1).abs().max() < 1e-5


def test_both_published_splits_by_name():
    """Days of each part: 13,514 for training in the released code, as its comments imply, one year more in the paper."""
    which = days("1981-09-01", "2023-12-31")
    numbers = which.astype("datetime64[Y]").astype(int) + 1970
    for name, expected in (("paper", (13879, 366, 365)), ("code", (13514, 365, 366))):
        found = frames_of_splits(name, numbers, len(which), "")
        assert tuple(len(part) for part in found.values()) == expected
        assert str(which[found["train"][0]]) == "1982-01-01" and found["train"].stop == found["valid"].start


@pytest.mark.parametrize("split", ["nonsense", "1,2", "2000,1999,2001", "2000-2005,2004,2006", "a,b,c", "-1,1,1"])
def test_other_splits_are_refused_in_one_line(split):
    with pytest.raises(InputError) as error:
        frames_of_splits(split, np.arange(1990, 2010), 20, "1990 to 2009")
    assert "\n" not in str(error.value) and "--split" in str(error.value)


def test_boxes_are_numbered_from_the_south_west():
    rows, columns = select(LATITUDE[::-1], "latitude", (-60, 60)), select(LONGITUDE, "longitude", (180, 300))
    found = boxes(rows, columns, (10, 10), None)
    assert len(found) == 16 and LATITUDE[::-1][found[0].rows[0]] == -58.5 and LONGITUDE[found[5].columns[0]] == 211.5
    assert LATITUDE[::-1][found[5].rows].tolist() == np.arange(-28.5, 0, 3).tolist()
    for wrong in ([16], [0, 0]):
        with pytest.raises(InputError):
            boxes(rows, columns, (10, 10), wrong)
    with pytest.raises(InputError, match="not equally spaced"):
        select(np.array([0.0, 1, 2, 4, 8]), "plain", None)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_gaps_split_runs_in_any_calendar_and_months_count_as_one_step(calendar):
    index = xr.date_range("2000-01-16", periods=40, freq="MS", calendar=calendar, use_cftime=calendar != "standard")
    stamps = np.delete(np.asarray(index.values), [3, 20, 21])
    found = steps_with_gaps(stamps, calendar)
    assert (found.dt, found.units, found.cycle) == (1.0, "month", 12.0)
    assert [len(piece) for piece in found.runs()] == [3, 16, 18] and found.numbers[0] == 1
    assert np.diff(found.numbers).tolist().count(1.0) == 34 and found.numbers[-1] == 40


def test_a_frame_between_the_steps_is_refused():
    stamps = np.sort(
        np.append(days("2000-01-01", "2000-02-01").astype("datetime64[ns]"), np.datetime64("2000-03-01T07"))
    )
    with pytest.raises(InputError, match="lies between the steps of 1 day"):
        steps_with_gaps(stamps, "standard")
    plain = steps_with_gaps(np.array([0.5, 1.0, 1.5, 3.0, 3.5]), "s")
    assert plain.numbers.tolist() == [1, 2, 3, 6, 7] and (plain.dt, plain.units) == (0.5, "s")


def test_bad_input_ends_in_one_line_and_leaves_nothing_behind(years, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    files = ncei(folder, days("1984-01-01", "1984-01-06"))
    with h5py.File(files[3], "a") as file:
        file["sst"][0, 0, 40, 30] = -999  # one point, one day
    twice = [*files, psl(tmp_path, 1984, last="1984-01-06")]
    options = {"size": (10, 10), "split": "0.6,0.2,0.2"}
    cases = [
        ({"files": files}, "1984-01-04; leave this frame out, which makes a gap"),
        ({"files": files[:1]}, "at least two times"),
        ({"files": twice}, "unit 'degC' differs"),
        ({"files": [*files, files[2]]}, "give each time once"),
        ({"files": files, "fields": "salt"}, "no field 'salt'; valid ones: anom, err, ice, sst"),
        ({"files": folder / "none.nc"}, "no such file"),
        ({"files": files, "size": (100, 10)}, "No box of 100x10 fits"),
        ({"files": files, "region": ((-15.0, 15.0), (270.0, 300.0))}, "None of the 1 boxes"),
        ({"files": files, "region": ((20.0, 10.0), (0.0, 90.0))}, "lower bound first"),
        ({"files": files, "split": "paper"}, r"no frames for train \(1982 to 2019\)|no frames for valid \(2020\)"),
        ({"files": files, "max_missing": 1.5}, "max_missing"),
        ({"files": files, "standardise": "box"}, "standardise"),
        ({"files": files, "boxes": "published", "region": PUBLISHED_REGION}, "leave --region out"),
    ]
    for given, match in cases:
        with pytest.raises(InputError, match=match) as error:
            ec.tile(**{"out": tmp_path / "set", **options, **given})
        assert "\n" not in str(error.value)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set*"))


def test_leaving_a_damaged_day_out_makes_a_gap(tmp_path):
    files = ncei(tmp_path, days("1984-01-01", "1984-01-13"))
    data = ec.tile([*files[:4], *files[5:]], tmp_path / "set", size=(30, 30), split="0.6,0.2,0.2", max_missing=0.2)
    assert sorted({len(one) for one in data.splits["train"]}) == [3, 4]
    assert manifest_of(tmp_path / "set")["gaps"] == [["1984-01-04", "1984-01-06"]]


def test_memory_does_not_grow_with_the_record(years, tmp_path):
    """Four years of 60 x 120 points are 42 MB in single precision; a block of frames is cut to 0.5 MB here."""
    import eddycast.data.spool as spool

    before, spool.BLOCK_BYTES = spool.BLOCK_BYTES, 2**19
    try:
        tracemalloc.start()
        ec.tile(years, tmp_path / "set", size=(10, 10), split="1982-1983,1984,1985", boxes=[20, 21])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        spool.BLOCK_BYTES = before
    assert peak < 12e6


def test_the_command_cuts_real_monthly_temperatures(tmp_path, monkeypatch, capsys, referee):
    """OSTIA along the equator: three boxes without land; then every other command takes them."""
    monkeypatch.chdir(tmp_path)
    sample = Path(referee("iris_sample_data").path) / "ostia_monthly.nc"
    assert run(["tile", str(sample), "--size", "18x36", "--standardise", "pixel", "--out", "boxes"]) == 0
    assert "Wrote 3 boxes of 18x36 to boxes: 2, 6, 7" in capsys.readouterr().out
    assert run(["inspect", "boxes"]) == 0
    shown = capsys.readouterr().out
    assert "annual cycle of 12 steps" in shown and "No problems found" in shown
    data = ec.open_dataset("boxes")
    assert data.state_shape == (1, 18, 36) and data.valid is None
    assert [len(data.splits[split][0]) for split in ("train", "valid", "test")] == [43, 6, 5]
    small = ["--set", "training.steps=2", "--set", "training.batch_size=2", "--set", "evaluation.validation_cases=1"]
    assert run(["train", "any/scoring-smoke", "--data", "boxes", "--out", "run", *small]) == 0
    assert run(["forecast", "run", "--data", "boxes", "--steps", "2", "--members", "2", "--out", "f.nc"]) == 0
    with xr.open_dataset("f.nc") as content:
        assert in_units(content, "boxes").surface_temperature.mean().item() == pytest.approx(300.8, abs=3)
    assert run(["tile", str(sample), "--region", "-5:5", "--out", "other"]) == 2
    assert run(["tile", str(sample), "--size", "18", "--out", "other"]) == 2
    assert run(["tile", str(sample), "--boxes", "3-x", "--out", "other"]) == 2
    assert all("eddycast: " in line for line in capsys.readouterr().err.strip().splitlines()[-3:])


def test_fields_side_by_side_are_channels(tmp_path):
    files = ncei(tmp_path, days("1984-01-01", "1984-01-08"))
    data = ec.tile(files, tmp_path / "set", size=(10, 10), boxes=[20], split="0.5,0.25,0.25", fields="sst,anom")
    assert data.field_names == ("sst", "anom") and data.state_shape == (2, 10, 10)
    assert torch.allclose(data.read(0, 0, 1)[0, 1], 0.1 * data.read(0, 0, 1)[0, 0], atol=0.011)
    record = open_record(files)
    assert record.fields[0].name == "sst" and record.kinds == ("latitude", "longitude")
