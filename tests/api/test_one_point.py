"""A system without space (one grid point, three fields) through every verb of the house."""

import json

import h5py
import numpy as np
import pytest

import eddycast as ec
from eddycast import api
from eddycast.errors import InputError
from eddycast.metrics import SCORES, scores_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lorenz")
    ec.simulate("lorenz-63", trajectories=10, steps=40, seed=1, out=path / "data")
    return path


@pytest.fixture(scope="module")
def data(folder):
    return ec.open_dataset(folder / "data")


@pytest.fixture(scope="module")
def forecast(data):
    solver = ec.load("system:lorenz-63")
    return solver.forecast(data.initial("test"), steps=12, members=8, seed=3, overrides={"perturbation": 0.02})


def test_files_hold_one_point_and_read_back(folder, data):
    again = ec.simulate("lorenz-63", trajectories=10, steps=40, seed=1)
    assert data.grid.shape == (1,) and data.field_names == ("x", "y", "z")
    assert data.grid.axes[0].name == "point" and not data.grid.axes[0].periodic
    assert data.parameter_names == ("sigma", "rho", "beta")
    for number in range(3):
        assert (data.read(number, 0, 40) - again.read(number, 0, 40)).abs().max() == 0
    assert float(data.attributes["lyapunov_time"]) == pytest.approx(1 / 0.9056, rel=0.02)
    text = api.inspect(folder / "data")
    assert "single point" in text and "No problems found." in text
    (train,) = (folder / "data/data/train").glob("*.hdf5")
    with h5py.File(train) as file:
        assert file["t0_fields/x"].shape[-2:] == (40, 1)


def test_forecast_is_labelled_and_perturbed_members_differ(data, forecast):
    assert dict(forecast.sizes) == {"init": 1, "member": 8, "lead_time": 12, "point": 1}
    assert set(forecast.data_vars) >= {"x", "y", "z"}
    spread = forecast["x"].std("member").values
    assert np.isfinite(spread).all() and (spread > 0).all()
    exact = ec.load("system:lorenz-63").forecast(data.initial("test"), steps=12, members=1)
    (segment,) = data.segments("test")
    truth = data.read(segment.trajectory, int(exact["frame"][0]) + 1, int(exact["frame"][0]) + 13)
    assert np.abs(exact["z"].values[0, 0] - truth[:, 2].numpy()).max() < 1e-3


def test_scores_over_space_are_left_out_and_the_others_are_there(folder, data, forecast):
    scores = ec.evaluate(forecast, truth=data)
    names = set(scores.attributes["scores"])
    assert {"crps", "rmse_mean", "spread_skill"} <= names
    assert not names & {"vrmse_mean", "vrmse_member", "correlation_mean", "correlation_member"}
    assert "power_truth" not in scores.data and "high_correlation_time" not in scores.data
    assert all(np.isfinite(scores.series("crps", field)).all() for field in "xyz")
    text = scores.table()
    assert "CRPS" in text and "VRMSE" not in text and "corr" not in text and scores.diagnosis()
    scores.to_json(folder / "scores.json")
    assert set(json.loads((folder / "scores.json").read_text())["summary"]["fields"]) == {"x", "y", "z"}


def test_the_registry_knows_which_scores_need_space():
    left_out = {score.name for score in SCORES} - {score.name for score in scores_for(50, 1)}
    assert {"vrmse_mean", "vrmse_member", "correlation_mean", "correlation_member"} <= left_out
    assert scores_for(50, 2) == scores_for(50)


def test_asking_for_a_pattern_score_on_one_point_is_refused(data, forecast):
    vrmse = [score for score in SCORES if score.name == "vrmse_mean"]
    with pytest.raises(InputError, match="patterns in space"):
        ec.evaluate(forecast, truth=data, scores=vrmse)


@pytest.mark.parametrize("recipe", ["any/regression-smoke", "any/scoring-smoke", "any/universal-smoke"])
def test_smoke_recipes_train_and_forecast(folder, data, recipe):
    run = ec.train(recipe, data=data, out=folder / recipe.split("/")[1])
    made = run.forecast(data.initial("test"), steps=4, members=3, seed=0)
    assert made["y"].dims == ("init", "member", "lead_time", "point")
    assert np.isfinite(made["y"].values).all()
    assert np.isfinite(ec.evaluate(made, truth=data).series("crps", "x")).all()


@pytest.mark.parametrize("options", [{"fraction": 0.5}, {"sensors": 1}])
@pytest.mark.parametrize("suffix", ["nc", "csv"])
def test_observations_are_assimilated_and_beat_climatology(folder, data, options, suffix):
    path = folder / f"observations-{'-'.join(options)}.{suffix}"
    ec.observe(data, **options, noise=0.05, steps=20, seed=2, out=path)
    analysis = ec.load("system:lorenz-63").assimilate(ec.Observations.open(path), method="etkf", members=16, seed=0)
    scores = ec.evaluate(analysis, truth=data)
    late = {field: scores.normalised("rmse_mean", field)[-5:].mean() for field in "xyz"}
    assert max(late.values()) < 0.2, late


def test_pictures_movies_and_the_report_are_made(folder, data, forecast, recwarn):
    ec.plot(forecast, out=folder / "forecast.png", truth=data)
    ec.plot(forecast, out=folder / "forecast.gif", truth=data)
    ec.plot(data, out=folder / "data.svg")
    forecast.to_netcdf(folder / "forecast.nc", engine="h5netcdf")
    ec.report([folder / "forecast.nc"], out=folder / "report.html")
    for name in ("forecast.png", "forecast.gif", "data.svg", "report.html"):
        assert (folder / name).stat().st_size > 2000
    assert not [one for one in recwarn if "singular" in str(one.message)]


def test_lines_over_time_show_truth_members_mean_spread_and_error(data, forecast):
    from eddycast.report.fields import field_picture
    from eddycast.report.plots import truth_of_view
    from eddycast.report.view import aligned, view

    seen = view(forecast, "x", 0)
    figure = field_picture(seen, aligned(truth_of_view(data, seen), seen, 0))
    states, sizes = figure.axes[:2]
    labels = [line.get_label() for line in states.lines]
    assert labels[0] == "truth" and any("mean of 8" in label for label in labels)
    mean = next(line for line in states.lines if "mean of 8" in line.get_label())
    assert np.allclose(mean.get_ydata(), forecast["x"].isel(init=0).mean("member").values[:, 0], rtol=1e-5)
    assert [line.get_label() for line in sizes.lines] == ["spread of the members", "error of the mean, absolute"]
    assert sizes.get_ylim()[0] == 0
