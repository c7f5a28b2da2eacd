"""Forecast files: what is in them, and that they exist whole or not at all."""

from __future__ import annotations

import os
import shutil

import cftime
import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import Field, check_output, from_arrays, grid_of, open_dataset, read, to_xarray, write, write_well
from eddycast.data.clock import calendar_clock
from eddycast.data.quadrature import plain_axis
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis

GRID = Grid((periodic_axis("x", 6, 3.0, "m"), plain_axis("y", np.array([0.0, 1, 3, 4]), boundary=("wall", "open"))))


def forecast(kind: str = "plain", land: bool = False, leads=(1, 2, 5), **attributes) -> xr.Dataset:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 12, 2, *GRID.shape, generator=generator)
    if land:
        states[..., 2, :] = torch.nan
    months = np.arange("2000-11", np.datetime64("2000-11") + 12).astype("datetime64[ns]")
    lunar = np.asarray(cftime.num2date(30 * np.arange(12), "days since 2000-11-30", "360_day"))
    clock = {"months": (months, "standard"), "lunar": (lunar, "360_day")}.get(kind)
    time = {"dt": 0.5, "time_units": "s"} if clock is None else {"clock": calendar_clock(*clock)}
    data = from_arrays(
        states,
        fields=[Field("p", "Pa", "pressure", "air_pressure"), Field("q")],
        grid=GRID,
        attributes={"system": "toy", "lyapunov_time": 2.5},
        **time,
    )
    initial = data.initial("train", start=[2, 7])
    ensemble = torch.randn(4, len(initial), 3, 2, *GRID.shape, generator=generator)
    return to_xarray(ensemble, initial=initial, lead_times=leads, attributes=attributes)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("kind", ["plain", "months", "lunar"])
def test_files_give_back_what_was_written(tmp_path, suffix, kind):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    content = forecast(kind, land=True, eddycast_seed=3, eddycast_run=None)
    path = write(content, tmp_path / f"f{suffix}")
    found = read(path)
    assert found.p.dims == ("init", "member", "lead_time", "x", "y")
    xr.testing.assert_equal(found.load(), content)
    assert found.attrs == content.attrs and found.p.attrs == content.p.attrs
    assert found.p.isnull().sum() == found.p.size / 6, "land is missing again"
    grid = grid_of(found)
    assert grid == GRID
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    found.close()


def test_labels_follow_cf():
    content = forecast("months", eddycast_seed=3, title="Mine")
    assert content.attrs["Conventions"].startswith("CF-1.") and content.attrs["title"] == "Mine"
    assert content.attrs["source"].startswith("eddycast ") and content.attrs["lyapunov_time"] == 2.5
    assert content.attrs["eddycast_kind"] == "forecast" and content.attrs["eddycast_seed"] == 3
    assert content.member.attrs["standard_name"] == "realization"
    assert content.lead_time.values.tolist() == [1, 2, 5] and content.lead_time.attrs["units"] == "month"
    assert content.p.attrs["units"] == "Pa" and content.p.attrs["standard_name"] == "air_pressure"
    assert content.trajectory.values.tolist() == [0, 0, 1, 1, 2, 2] and content.frame.values.tolist() == [2, 7] * 3
    assert content.time.values[0] == np.datetime64("2001-01-01")
    dates = content.valid_time.values[1].astype("datetime64[D]").astype(str).tolist()
    assert dates == ["2001-07-01", "2001-08-01", "2001-11-01"]


def test_lead_times_of_plain_and_lunar_time():
    assert forecast().lead_time.values.tolist() == [0.5, 1, 2.5] and forecast().lead_time.attrs["step"] == 0.5
    assert forecast().time.values[:2].tolist() == [1.0, 3.5] and "valid_time" not in forecast().coords
    last = forecast("lunar").valid_time.values[1, 2]
    assert (last.year, last.month, last.day, last.calendar) == (2001, 11, 30, "360_day")


def test_a_forecast_opens_as_a_data_set(tmp_path):
    content = forecast(leads=(1, 2, 3))
    data = open_dataset(write(content, tmp_path / "f.nc"))
    assert data.num_trajectories == 24
    assert np.array_equal(data.read(5, 0, 2)[:, 0].numpy()[0], content.p.values[1, 1, 0])


def test_shapes_must_agree():
    data = from_arrays(torch.zeros(5, 12, 1, *GRID.shape), fields=["p"], grid=GRID, dt=1.0)
    with pytest.raises(ValueError, match="states must be"):
        to_xarray(torch.zeros(4, 1, 3, 2, *GRID.shape), initial=data.initial(start=3), lead_times=[1, 2, 3])
    with pytest.raises(ValueError, match=r"resolved\(context\)"):
        to_xarray(torch.zeros(4, 1, 1, 1, *GRID.shape), initial=data.initial(), lead_times=[1])


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch, suffix, existing):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"f{suffix}"
    if existing:
        write(forecast(title="old"), path)
    rename = os.replace

    def refuse(source, target):
        if ".part-" in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(InputError, match="the disk is full") as error:
            write(forecast(title="new"), path)
    assert "\n" not in str(error.value)
    assert [item.name for item in tmp_path.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert read(path).attrs["title"] == "old"
        write(forecast(title="new"), path)
        assert read(path).attrs["title"] == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".nc", ".well"])
def test_a_full_disk_is_found_before_hdf5_meets_it(tmp_path, monkeypatch, suffix):
    """HDF5 itself ends the whole process with a segmentation fault there."""
    content, data = forecast(), from_arrays(torch.zeros(5, 12, 1, *GRID.shape), fields=["p"], grid=GRID, dt=1.0)
    usage = shutil.disk_usage(tmp_path)._replace(free=content.nbytes)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="the disk is full") as error:
        write(content, tmp_path / "f.nc") if suffix == ".nc" else write_well(data, tmp_path / "set")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_wrong_places(tmp_path):
    content = forecast()
    for path, words in (
        (tmp_path / "f.hdf", "must end in .nc"),
        (tmp_path / "f", "must end in .nc"),
        (tmp_path / "no" / "f.nc", "does not exist"),
    ):
        for use in (check_output, lambda target: write(content, target)):
            with pytest.raises(InputError, match=words) as error:
                use(path)
            assert "\n" not in str(error.value)
    (tmp_path / "mine.nc").write_text("a letter")
    with pytest.raises(InputError, match="was not written by eddycast"):
        write(content, tmp_path / "mine.nc")
    assert (tmp_path / "mine.nc").read_text() == "a letter"
    write(content, tmp_path / "f.nc")
    with pytest.raises(InputError, match="exists already"):
        write(content, tmp_path / "f.nc", overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="no permission"):
            write(forecast(), tmp_path / "f.nc")
    finally:
        tmp_path.chmod(0o700)


def test_other_files_are_no_forecasts(tmp_path):
    xr.Dataset({"u": (("time", "x"), np.zeros((5, 3)))}).to_netcdf(tmp_path / "u.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="not a forecast or analysis"):
        read(tmp_path / "u.nc")
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "w.nc")
