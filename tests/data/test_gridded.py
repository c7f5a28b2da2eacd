"""NetCDF, Zarr and NumPy files as people have them."""

from __future__ import annotations

import pickle
from pathlib import Path

import cftime
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.io import netcdf_file

from eddycast.data import WindowBatches, inspect, open_dataset, statistics
from eddycast.errors import InputError


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def plain(**coords) -> xr.Dataset:
    """u(time, y, x) and v with numbers for time."""
    coords = {"time": np.arange(20) * 0.5, "y": np.arange(4.0), "x": np.arange(6.0), **coords}
    dims = ("time", "y", "x")
    return xr.Dataset({"u": (dims, random(20, 4, 6)), "v": (dims, random(20, 4, 6) + 1)}, coords)


@pytest.fixture(scope="module")
def iris() -> Path:
    return Path(pytest.importorskip("iris_sample_data").path)


def test_ostia_monthly(iris):
    data = open_dataset(iris / "ostia_monthly.nc")
    assert data.field_names == ("surface_temperature",), "the grid mapping and the bounds are no fields"
    assert data.fields[0].units == "K" and data.grid.shape == (18, 432)
    latitude, longitude = data.grid.axes
    assert latitude.boundary == ("open", "open") and longitude.periodic and longitude.period == 360
    assert (data.dt, data.time_units, data.cycle) == (1.0, "month", 12.0)
    assert data.conditions(0, 0).time.item() == 3, "April, counted from January"
    assert data.valid.double().mean().item() == pytest.approx(1 - 0.264, abs=5e-4)
    assert str(data.times(0, 53))[:7] == "2010-09" and str(data.times(0, 54))[:10] == "2010-10-16"
    cosine = np.cos(np.deg2rad(latitude.coordinates))
    assert np.allclose(latitude.weights / np.mean(latitude.weights), cosine / cosine.mean(), rtol=1e-6)
    space = statistics(data)
    assert space.harmonics == 3 and 0.3 < space.std.item() < 1.0, "the annual cycle is not part of the spread"
    states, conditions = WindowBatches(data, "train", 3, batch_size=4).batch(0)
    x = space.encode(states, conditions, torch.arange(3.0))
    assert x.isfinite().all() and (x[..., ~data.valid] == 0).all()
    assert data.initial(start="last").frames.tolist() == [53]


def test_e1_north_america(iris):
    data = open_dataset(iris / "E1_north_america.nc")
    assert data.field_names == ("air_temperature",) and data.valid is None
    assert (data.dt, data.time_units, data.cycle, data.clock.calendar) == (1.0, "year", None, "360_day")
    assert [axis.boundary for axis in data.grid.axes] == [("open", "open")] * 2
    assert [len(part[0]) for part in data.splits.values()] == [192, 24, 24]
    assert data.times(0, 240) == cftime.Datetime360Day(2100, 6, 1, has_year_zero=True)
    with xr.open_dataset(iris / "E1_north_america.nc", engine="h5netcdf") as content:
        expected = content.air_temperature.values[5:9]
    assert np.array_equal(data.read(0, 5, 9)[:, 0].numpy(), expected)


@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT", "zarr2", "zarr3"])
def test_every_container_gives_the_same_frames(tmp_path, format):
    content = plain()
    if format.startswith("zarr"):
        pytest.importorskip("zarr")
        path = tmp_path / "data.zarr"
        content.to_zarr(path, zarr_format=int(format[-1]), consolidated=False)
    else:
        path = tmp_path / "data.nc"
        content.to_netcdf(path, format=format, engine="h5netcdf" if format == "NETCDF4" else "scipy")
    data = open_dataset(path)
    assert data.field_names == ("u", "v") and data.grid.names == ("y", "x") and data.dt == 0.5
    expected = torch.from_numpy(np.stack([content.u.values, content.v.values], 1))
    assert torch.equal(data.read(0, 3, 17, 2), expected[3:17:2])
    assert torch.equal(pickle.loads(pickle.dumps(data)).read(0, 0, 20), expected)
    lazy = WindowBatches(data, "train", 3, batch_size=4, memory_limit=0, workers=2)
    for one, two in zip(lazy.iterate(0, 3), WindowBatches(data, "train", 3, batch_size=4).iterate(0, 3), strict=True):
        assert torch.equal(one[0], two[0])
    assert "No problems found" in inspect(path)


def test_order_of_dimensions_and_members(tmp_path):
    content = plain().expand_dims(realization=3).copy(deep=True)
    content["u"] = content.u + 10 * content.realization
    path = tmp_path / "members.nc"
    content.transpose("x", "realization", "y", "time").to_netcdf(path, engine="h5netcdf")
    data = open_dataset(path)
    assert data.num_trajectories == 3 and [len(part) for part in data.splits.values()] == [1, 1, 1]
    assert data.grid.names == ("x", "y")
    expected = content.u.isel(realization=2).transpose("time", "x", "y").values.astype(np.float32)
    assert np.array_equal(data.read(2, 0, 20)[:, 0].numpy(), expected)


def ferret_like(path: Path, mask_changes: bool) -> None:
    """A 12-month climatology in NetCDF-3 with a year 0, odd names, -1e34 for missing, longitudes past 360."""
    with netcdf_file(path, "w") as file:
        for name, size in (("TIME", 12), ("COADSY", 9), ("COADSX", 18)):
            file.createDimension(name, size)
        for name, values, units in (
            ("TIME", 366.0 + 730.485 * np.arange(12), "hour since 0000-01-01 00:00:00"),
            ("COADSY", -80.0 + 20 * np.arange(9), "degrees_north"),
            ("COADSX", 21.0 + 20 * np.arange(18), "degrees_east"),
        ):
            variable = file.createVariable(name, "d", (name,))
            variable[:], variable.units = values, units
        variable = file.createVariable("SST", "f", ("TIME", "COADSY", "COADSX"))
        values = random(12, 9, 18)
        values[:, 2:4, 5] = -1e34
        if mask_changes:
            values[3, 7, 7] = -1e34
        variable[:] = values
        variable.missing_value, variable._FillValue, variable.units = np.float32(-1e34), np.float32(-1e34), b"Deg C"


def test_netcdf3_with_undecodable_time(tmp_path):
    ferret_like(tmp_path / "coads.cdf", mask_changes=False)
    data = open_dataset(tmp_path / "coads.cdf")
    assert data.time_units == "hour" and data.dt == pytest.approx(730.485) and data.cycle is None
    assert any("could not be decoded" in note for note in data.notes)
    assert data.grid.axes[1].period == 360 and data.grid.axes[0].boundary == ("wall", "wall"), "pole to pole"
    assert int((~data.valid).sum()) == 2 and data.fields[0].units == "Deg C"


def test_a_mask_that_changes_is_an_error_with_a_way_out(tmp_path):
    ferret_like(tmp_path / "coads.cdf", mask_changes=True)
    with pytest.raises(InputError, match=r"'SST'.*1 points, 25 missing values in all.*missing=union") as error:
        open_dataset(tmp_path / "coads.cdf")
    assert "\n" not in str(error.value)
    data = open_dataset(tmp_path / "coads.cdf", missing="union")
    assert int((~data.valid).sum()) == 3 and data.read(0, 0, 12)[:, :, data.valid].isfinite().all()
    text = inspect(tmp_path / "coads.cdf")
    assert "Problems" in text and "10 of 10 frames have missing" in text


def test_large_files_find_gaps_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("eddycast.data.gridded.SCAN_BYTES", 0)
    content = plain()
    content.u[7, 1, 2] = np.nan
    content.to_netcdf(tmp_path / "gap.nc", engine="h5netcdf")
    data = open_dataset(tmp_path / "gap.nc")
    assert data.read(0, 0, 7).isfinite().all()
    with pytest.raises(InputError, match="1 missing or infinite values in u, first in trajectory 0, frame 7"):
        data.read(0, 4, 12, 3)


def test_fields_are_chosen_or_grouped_by_dimensions():
    content = plain()
    content["depth"] = (("y", "x"), random(4, 6))
    content["deep"] = (("time", "z", "y", "x"), random(20, 3, 4, 6))
    data = open_dataset(content)
    assert data.field_names == ("u", "v") and any("deep" in note for note in data.notes)
    assert open_dataset(content, fields="deep").grid.shape == (3, 4, 6)
    assert open_dataset(content, fields=["v", "u"]).field_names == ("v", "u")
    with pytest.raises(InputError, match="no field 'w'; valid ones: u, v, deep"):
        open_dataset(content, fields="w")
    with pytest.raises(InputError, match="must share their dimensions"):
        open_dataset(content, fields="u,deep")


def test_space_axes():
    content = plain(x=np.array([0.0, 1, 2, 4, 8, 9]))
    data = open_dataset(content)
    assert data.grid.periodic == (False, False)
    assert data.grid.axes[1].weights == (1.0, 1.0, 1.5, 3.0, 2.5, 1.0)
    ring = open_dataset(plain(), periodic="x")
    assert ring.grid.periodic == (False, True) and ring.grid.axes[1].period == 6
    with pytest.raises(InputError, match="no axis 'q' to be periodic; valid ones: y, x"):
        open_dataset(content, periodic="q")
    with pytest.raises(InputError, match="'x' must increase or decrease"):
        open_dataset(plain(x=np.array([0.0, 1, 2, 2, 4, 5])))
    wrapped = plain().rename(x="lon").assign_coords(lon=[350.0, 355, 0, 5, 10, 15])
    assert open_dataset(wrapped).grid.axes[1].coordinates == (350, 355, 360, 365, 370, 375)


def test_time_is_found_by_what_it_is():
    dims = ("step", "y", "x")
    content = xr.Dataset({"u": (dims, random(20, 4, 6))}, {"step": ("step", np.arange(20.0), {"axis": "T"})})
    assert open_dataset(content).lengths == (20,)
    bare = xr.Dataset({"u": (("when", "y", "x"), random(20, 4, 6))})
    with pytest.raises(InputError, match=r"no field with a time dimension .* it holds u\('when', 'y', 'x'\)"):
        open_dataset(bare)
    data = open_dataset(bare, time="when", dt=0.1)
    assert data.dt == 0.1 and data.lengths == (20,)
    flat = xr.Dataset({"u": (("time",), random(20))})
    with pytest.raises(InputError, match="1 to 3 space dimensions"):
        open_dataset(flat)


def test_missing_days_in_a_file_are_named():
    days = np.delete(np.arange("2000-01-01", "2000-01-22", dtype="datetime64[D]"), 4).astype("datetime64[ns]")
    with pytest.raises(InputError, match=r"frames 3 and 4 .2000-01-04, 2000-01-06. are 2 days apart"):
        open_dataset(plain(time=days))


@pytest.mark.parametrize(
    ("name", "arrays", "expected"),
    [
        ("a.npy", random(5, 7, 16), (("u",), (16,), 5)),
        ("a.npy", random(5, 7, 3, 16), (("u_0", "u_1", "u_2"), (16,), 5)),
        ("a.npy", random(5, 7, 12, 16), (("u",), (12, 16), 5)),
        ("a.npy", random(5, 7, 2, 12, 16), (("u_0", "u_1"), (12, 16), 5)),
        ("a.npz", {"h": random(5, 7, 12, 16), "q": random(5, 7, 12, 16)}, (("h", "q"), (12, 16), 5)),
        ("a.npz", {"states": random(5, 7, 2, 16), "fields": np.array(["b", "c"])}, (("b", "c"), (16,), 5)),
    ],
)
def test_numpy_files(tmp_path, name, arrays, expected):
    path = tmp_path / name
    extra = {"dt": np.float64(0.3), "parameters": np.arange(5.0), "x": np.linspace(0, 1, 12)}
    if isinstance(arrays, dict):
        sizes = next(value for value in arrays.values() if value.ndim > 1).shape
        extra["x"] = np.linspace(0, 1, sizes[3] if "states" in arrays else sizes[2])
        np.savez(path, **arrays, **extra)
    else:
        np.save(path, arrays)
    data = open_dataset(path, periodic="x")
    names, space, trajectories = expected
    assert (data.field_names, data.grid.shape, data.num_trajectories) == (names, space, trajectories)
    assert data.grid.periodic[0]
    if isinstance(arrays, dict):
        assert data.dt == 0.3 and data.parameters(3).tolist() == [3]
        first = arrays.get("states", next(iter(arrays.values())))
        assert np.array_equal(data.read(4, 0, 7)[:, 0].numpy(), first[4, :, 0] if "states" in arrays else first[4])
    else:
        whole = arrays[2].reshape(7, len(names), *space)
        assert np.array_equal(data.read(2, 1, 7, 2).numpy(), whole[1:7:2])


def test_ambiguous_numpy_shapes_can_be_told(tmp_path):
    np.save(tmp_path / "a.npy", random(5, 7, 3, 16))
    assert open_dataset(tmp_path / "a.npy", space_dims=2).grid.shape == (3, 16)
    with pytest.raises(InputError, match="has no 3 space axes"):
        open_dataset(tmp_path / "a.npy", space_dims=3)


def text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "winds.cn", "no such file or folder; did you mean winds.nc"),
        (lambda p: p / "elsewhere" / "data.nc", "no such file or folder"),
        (lambda p: text(p / "notes.txt", b"hello"), "not a known format"),
        (lambda p: text(p / "empty.nc", b""), "it is empty"),
        (lambda p: p, r"expected data/train/\*.hdf5 .* or a Zarr store, found winds.nc"),
        (lambda p: text(p / "cut.nc", (p / "winds.nc").read_bytes()[:3000]), "cut short"),
        (lambda p: text(p / "cut3.nc", b"CDF\x01" + b"\x00\x00\x00\x05\x00\x00"), "not a readable file"),
        (lambda p: text(p / "bad.npz", b"PK\x03\x04 nonsense"), "not a readable .npz"),
        (lambda p: text(p / "bad.npy", b"\x93NUMPY nonsense"), "not a readable .npy"),
    ],
)  # fmt: skip
def test_typical_mistakes_are_one_line(tmp_path, make, words):
    plain().to_netcdf(tmp_path / "winds.nc", engine="h5netcdf")
    for use in (open_dataset, inspect):
        with pytest.raises(InputError, match=words) as error:
            use(make(tmp_path))
        assert "\n" not in str(error.value)


def test_options_that_do_not_apply_are_refused(tmp_path):
    plain().to_netcdf(tmp_path / "winds.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="'space_dims' does not apply"):
        open_dataset(tmp_path / "winds.nc", space_dims=2)
    with pytest.raises(InputError, match="three shares"):
        open_dataset(tmp_path / "winds.nc", fractions=(1, 2))


def test_inspect_tells_the_numbers(tmp_path):
    content = plain()
    content["u"] = 3 + 0 * content.u + content.time
    content.to_netcdf(tmp_path / "ramp.nc", engine="h5netcdf")
    rows = [line.split() for line in inspect(tmp_path / "ramp.nc").splitlines()]
    ramp = next(row for row in rows if row[:1] == ["u"])
    train = 3 + 0.5 * np.arange(16)
    assert [float(value) for value in ramp[2:]] == pytest.approx([train.mean(), train.std(), 3, 10.5, 0.5], rel=1e-4)
    assert ["test", "2", "trajectory", "0", "frames", "18", "to", "19"] in rows
