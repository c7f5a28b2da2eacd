"""Files of others, as they are: each goes through the commands at smoke size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import eddycast as ec
from eddycast.cli.app import run


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> str:
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        assert code == 0, f"{words}\n{captured.err}"
        return captured.out

    return call


def story(command, data: Path, recipe: str, steps: int = 2) -> xr.Dataset:
    """Every command on one file; returns the forecast from the last frame."""
    assert str(data.name) in command("inspect", data)
    small = ["--set", "training.steps=2", "--set", "training.batch_size=2", "--set", "evaluation.validation_cases=1"]
    command("train", recipe, "--data", data, "--out", "run", *small)
    common = ["--data", data, "--members", 2, "--steps", steps]
    command("forecast", "run", *common, "--start", "last", "--out", "last.nc")
    command("forecast", "run", *common, "--out", "early.nc")
    assert "crps" in command("evaluate", "early.nc", "--truth", data, "--out", "scores.json").lower()
    command("plot", "last.nc", "--out", "last.png")
    command("report", "run", "early.nc", "scores.json", "--out", "report.html")
    assert Path("last.png").stat().st_size > 2000
    assert "<html" in Path("report.html").read_text()
    with xr.open_dataset("last.nc") as opened:
        return opened.load()


def sample(referee, name: str) -> Path:
    return Path(referee("iris_sample_data").__file__).parent / "sample_data" / name


def test_e1_north_america_in_its_360_day_calendar(command, referee):
    path = sample(referee, "E1_north_america.nc")
    last = story(command, path, "any/universal-smoke")
    runs = ("run", "baseline:persistence", "baseline:climatology")
    command("compare", *runs, "--data", path, "--members", 2, "--steps", 2, "--out", "compared")
    data = ec.open_dataset(path)
    assert last["air_temperature"].attrs["units"] == "K"
    assert last.frame.values.tolist() == [data.lengths[0] - 1]
    first = last.time.values[0]
    assert first.calendar == "360_day"
    assert [(when.year - first.year, when.month, when.day) for when in last.valid_time.values[0]] == [
        (1, first.month, first.day),
        (2, first.month, first.day),
    ]
    assert last.lead_time.attrs["units"] == "year"
    assert np.isfinite(last["air_temperature"]).all()


def test_ostia_monthly_with_its_land(command, referee):
    path = sample(referee, "ostia_monthly.nc")
    last = story(command, path, "any/scoring-smoke")
    name = next(iter(last.data_vars))
    with xr.open_dataset(path) as theirs:
        land = np.isnan(theirs[name].isel(time=0)).values
    assert 0 < land.mean() < 1
    assert np.array_equal(np.isnan(last[name].isel(init=0, member=0, lead_time=0)).values, land)
    assert last[name].attrs["units"] == "K"
    months = last.valid_time.values[0].astype("datetime64[M]")
    assert list(np.diff(months).astype(int)) == [1]
    ocean = last[name].values[..., ~land]
    assert 260 < ocean.min() < ocean.max() < 320


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("kuramoto_sivashinsky", "any/universal-smoke"),
        ("kolmogorov_flow", "any/regression-smoke"),
        ("rayleigh_benard", "any/regression-smoke"),
        ("euler_multi_quadrants_periodicBC", "any/regression-smoke"),
        ("euler_multi_quadrants_openBC", "any/regression-smoke"),
    ],
)
def test_samples_in_the_format_of_the_well(name, recipe, command, shared_data):
    last = story(command, shared_data / name, recipe)
    data = ec.open_dataset(shared_data / name)
    assert list(last.data_vars) == list(data.field_names)
    assert tuple(last.sizes[axis] for axis in data.grid.names) == data.grid.shape
    assert last.frame.values.tolist() == [part.stop - 1 for part in data.segments("test")]
    assert all(np.isfinite(last[field]).all() for field in last.data_vars)
