"""What pictures read out of files: moments over members, calendars, planes, the right case of the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from eddycast.errors import InputError
from eddycast.report.view import aligned, open_result, view


def test_moments_are_those_of_the_members(forecast):
    """Welford's sums, one member at a time, give numpy's mean and unbiased deviation."""
    seen = view(forecast, "u", 1)
    states = forecast["u"].values[1].astype(float)
    np.testing.assert_allclose(seen.mean, states.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(seen.spread, states.std(axis=0, ddof=1), atol=1e-6)
    np.testing.assert_array_equal(seen.examples, forecast["u"].values[1, :2])
    assert (seen.members, seen.units, seen.lead_units, seen.lyapunov_time) == (5, "m s-1", "s", 4.0)
    assert seen.title == "waves · velocity · trajectory 4, from t = 5"


def test_one_member_has_no_spread(make_waves):
    assert view(make_waves(members=1)).spread is None
    assert view(make_waves(members=None)).spread is None


def test_file_and_data_set_are_read_alike(tmp_path, forecast):
    forecast.to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    ours, theirs = view(forecast), view(tmp_path / "forecast.nc")
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    assert ours.leads.tolist() == theirs.leads.tolist()


@pytest.mark.parametrize("units", ["days", "hours"])
def test_durations_stay_lead_times(tmp_path, forecast, units):
    """xarray would turn `days` into nanoseconds: neither a file nor a decoded data set may lose its unit."""
    forecast["lead_time"] = ("lead_time", np.arange(forecast.sizes["lead_time"], dtype=float), {"units": units})
    forecast.to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    for source in (tmp_path / "forecast.nc", xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True)):
        seen = view(source)
        assert seen.lead_units == units
        np.testing.assert_allclose(seen.leads, np.arange(forecast.sizes["lead_time"]))


def test_calendar_of_360_days_gives_dates(tmp_path, ocean):
    ocean.to_netcdf(tmp_path / "sst.nc", engine="h5netcdf")
    seen = view(tmp_path / "sst.nc")
    assert seen.valid[1] == "1999-02-30"  # a date that exists in this calendar alone
    assert seen.case == "from 1999-01-30"


def test_truth_is_matched_by_trajectory_and_frame(forecast, wave_truth):
    """The truth's cases in another order and fewer leads: right states at right leads, the rest missing."""
    shuffled = wave_truth.isel(init=[1, 0], lead_time=slice(0, 20))
    onto = view(forecast, "u", 0)
    found = aligned(shuffled, onto, 0)
    assert found is not None
    np.testing.assert_array_equal(found.mean[:20], wave_truth["u"].values[0, :20])
    assert np.isnan(found.mean[20:]).all()


def test_truth_of_another_case_is_none(forecast, wave_truth):
    onto = view(forecast)
    assert aligned(wave_truth.assign_coords(trajectory=("init", [8, 9])), onto) is None
    assert aligned(wave_truth.assign_coords(frame=("init", [99, 99]), time=("init", [49.5, 49.5])), onto) is None
    assert aligned(wave_truth.rename(u="w"), onto) is None
    assert aligned(wave_truth.isel(x=slice(0, 7)), replace(onto)) is None


@pytest.mark.parametrize("dated", [False, True])
def test_truth_from_another_frame_is_shifted(make_waves, dated):
    """A forecast from frame 16 and a truth from frame 10 share all times from 3 s on, by clock or by frames."""
    forecast, truth = make_waves(inits=1, frame=16), make_waves(inits=1, frame=10, members=None)
    if dated:
        forecast, truth = forecast.drop_vars("time"), truth.drop_vars("time")
    found = aligned(truth, view(forecast))
    assert found is not None
    np.testing.assert_array_equal(found.mean[:18], truth["u"].values[0, 6:])
    assert np.isnan(found.mean[18:]).all()


def test_long_files_are_thinned_by_whole_steps(make_waves):
    """What is drawn is data: every n-th lead and point, none invented."""
    long = make_waves(inits=1, members=2, leads=3000)
    seen = view(long, points=20)
    assert seen.mean.shape == (40, 20) and seen.thinned == 75
    np.testing.assert_array_equal(seen.examples[1], long["u"].values[0, 1, ::75, ::2])


def test_middle_plane_of_three_dimensions():
    states = np.random.default_rng(0).normal(size=(4, 5, 6, 7))
    cube = xr.Dataset(
        {"b": (("lead_time", "x", "y", "z"), states)}, {"lead_time": np.arange(4.0), "z": np.arange(7) * 0.5}
    )
    seen = view(cube)
    np.testing.assert_allclose(seen.mean, states[..., 3], rtol=1e-6)
    assert seen.plane == "middle plane z = 1.5"


def test_wrong_files_are_named(tmp_path, forecast):
    broken = tmp_path / "broken.nc"
    broken.write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    for source, words in [
        (tmp_path / "none.nc", "no such file"),
        (broken, "not a readable"),
        (xr.Dataset({"a": ("x", [1.0])}), "lead_time, *space"),
    ]:
        with pytest.raises(InputError, match=words.replace("*", r"\*")) as caught:
            open_result(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="the file has u"):
        view(forecast, "pressure")
    with pytest.raises(InputError, match="0 to 1"):
        view(forecast, "u", 2)
