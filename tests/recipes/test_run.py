"""A run directory: all that a forecast needs, nothing pickled, and told apart from data that it does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast import api
from eddycast.data import Dataset, from_arrays
from eddycast.data.clock import calendar_clock
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.recipes import all_recipes
from eddycast.training import SilentObserver

SMOKE = sorted(name for name in all_recipes() if name.endswith("-smoke"))
OWN = [name for name in SMOKE if name.startswith("any/")]


def bounded_axis(name: str, points: int) -> Axis:
    return replace(periodic_axis(name, points, 1.0), boundary=("wall", "open"), period=None)


def waves(axes: tuple[Axis, ...], *, trajectories: int = 8, frames: int = 12, fields: int = 1, **options) -> Dataset:
    """Damped travelling waves, one speed per trajectory."""
    grid = Grid(axes)
    phases = torch.meshgrid(*(torch.linspace(0, 6.28, axis.size) for axis in axes), indexing="ij")
    speeds = torch.linspace(0.2, 0.9, trajectories)
    time = torch.arange(frames)
    shape = (trajectories, frames, fields, *grid.shape)
    angle = sum(phases) - (speeds[:, None] * time).reshape(trajectories, frames, *[1] * (1 + len(axes)))
    waves = torch.sin(angle.expand(shape) + torch.arange(fields).reshape(-1, *[1] * len(axes)))
    return from_arrays(waves, fields=[f"field{number}" for number in range(fields)], grid=grid, **{"dt": 0.5} | options)


def sea() -> Dataset:
    """A monthly field on a bounded plane with land, one trajectory of eight years."""
    grid = Grid((bounded_axis("latitude", 7), bounded_axis("longitude", 10)))
    months = np.arange("2000-01", "2008-01", dtype="datetime64[M]").astype("datetime64[ns]")
    season = torch.cos(2 * torch.pi * torch.arange(96) / 12)
    noise = torch.randn(96, 7, 10, generator=torch.Generator().manual_seed(0))
    values = 280 + 5 * season[:, None, None] + 0.3 * noise
    values[:, 2:4, 5:] = float("nan")
    return from_arrays(values[None, :, None], fields=["sst"], grid=grid, clock=calendar_clock(months, "standard"))


KINDS: dict[str, Callable[[], Dataset]] = {
    "1-D, parameter": lambda: waves(
        (periodic_axis("x", 24, 1.0),), parameters=torch.linspace(0.2, 0.9, 8)[:, None], parameter_names=["speed"]
    ),
    "2-D, odd, mixed boundaries, two fields": lambda: waves(
        (periodic_axis("x", 13, 1.0), bounded_axis("y", 9)), fields=2
    ),
    "sea": sea,
}
KINDS["3-D, static field"] = lambda: replace(
    waves((bounded_axis("x", 5), periodic_axis("y", 6, 1.0), bounded_axis("z", 4)), frames=8),
    static=torch.ones(1, 5, 6, 4),
    static_names=("orography",),
)


def train(recipe: str, data: Dataset, out: Path, **settings) -> api.Forecaster:
    return api.train(recipe, data=data, out=out, overrides=settings, observer=SilentObserver())


def values(forecast: xr.Dataset) -> np.ndarray:
    return forecast.to_array().values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", OWN)
def test_smoke_recipes_train_on_any_data_and_load_to_the_same_forecast(recipe, kind, tmp_path):
    data = KINDS[kind]()
    steps = {"training.steps": 3}
    trained = train(recipe, data, tmp_path / "run", **steps)
    options = {"steps": 3, "members": 2, "seed": 1}
    forecast = trained.forecast(data.initial("test"), **options)
    loaded = api.load(tmp_path / "run").forecast(data.initial("test"), **options)
    assert np.array_equal(values(forecast), values(loaded), equal_nan=True)
    assert dict(forecast.sizes)["lead_time"] == 3
    assert dict(forecast.sizes)["member"] == 2
    assert tuple(forecast.sizes[name] for name in data.grid.names) == data.grid.shape
    assert list(forecast.data_vars) == list(data.field_names)
    known = np.isfinite(values(forecast))
    valid = np.ones(data.grid.shape, bool) if data.valid is None else data.valid.numpy()
    assert np.array_equal(known, np.broadcast_to(valid, known.shape))


@pytest.fixture(scope="module")
def ks() -> Dataset:
    return api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0)


@pytest.fixture(scope="module")
def runs(ks, tmp_path_factory) -> dict[str, api.Forecaster]:
    """Each family, trained for a moment on KS."""
    place = tmp_path_factory.mktemp("runs")
    return {name: train(name, ks, place / name.replace("/", "-")) for name in SMOKE if name.startswith("ks/")}


@pytest.mark.parametrize("name", [name for name in SMOKE if name.startswith("ks/")])
def test_a_run_forecasts_the_same_wherever_it_lies(name, runs, ks, tmp_path):
    """A copy needs nothing beside it: not the data, not the checkpoint."""
    shutil.copytree(runs[name].path, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "training")
    options = {"steps": 9, "members": 3, "seed": 5}
    ours = runs[name].forecast(ks.initial("test"), **options)
    theirs = api.load(tmp_path / "moved").forecast(ks.initial("test"), **options)
    assert np.array_equal(values(ours), values(theirs))
    assert ours.attrs["eddycast_run_hash"] == theirs.attrs["eddycast_run_hash"]


def test_nothing_is_pickled_and_nothing_half_written(runs):
    for forecaster in runs.values():
        files = [path for path in forecaster.path.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".html"}
        assert not [path for path in files if path.name.startswith(".")]
        for path in files:
            assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK")
            if path.suffix == ".json":
                json.loads(path.read_text(), parse_constant=pytest.fail)
        config = json.loads((forecaster.path / "config.json").read_text())
        assert config["provenance"]["trained"] is True
        assert config["provenance"]["steps"] == forecaster.run.provenance["steps"]
        assert all(count > 0 for count in config["provenance"]["steps"].values())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: waves((periodic_axis("x", 64, 36.0),), fields=2), ["u", "field0, field1"]),
        (lambda: waves((periodic_axis("x", 32, 36.0),), dt=1.0), ["64", "32"]),
        (lambda: waves((bounded_axis("x", 64),), dt=1.0), ["x periodic", "x bounded"]),
        (lambda: waves((periodic_axis("x", 8, 1.0), periodic_axis("y", 8, 1.0)), dt=1.0), ["dimension 1", "2 (x, y)"]),
        (lambda: waves((periodic_axis("x", 64, 36.0),), dt=0.5), ["step of 1", "0.5"]),
        (lambda: waves((periodic_axis("x", 64, 36.0),), dt=1.0), ["parameters", "none"]),
    ],
    ids=["fields", "points", "boundaries", "dimension", "time step", "parameters"],
)
def test_data_that_do_not_fit_a_run_are_refused_in_one_line(make, words, runs):
    data = make()
    if len(data.fields) == 1:
        data = replace(data, fields=(replace(data.fields[0], name="u"),))
    with pytest.raises(InputError) as caught:
        runs["ks/regression-smoke"].forecast(data.initial("test"), steps=2)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in ["ks-regression-smoke", *words]), text


def edited(run: Path, place: Path, change: Callable[[dict], object]) -> Path:
    shutil.copytree(run, place)
    config = json.loads((place / "config.json").read_text())
    change(config)
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_runs_of_later_versions_and_unfinished_ones_are_refused_with_what_to_do(runs, tmp_path):
    run = runs["ks/regression-smoke"].path
    later = edited(run, tmp_path / "later", lambda c: c.update(schema_version=99, eddycast_version="7.0"))
    with pytest.raises(InputError, match=r"later has schema version 99.* use eddycast 7\.0"):
        api.load(later)
    unfinished = edited(run, tmp_path / "unfinished", lambda c: c["provenance"].update(trained=False))
    with pytest.raises(InputError, match=r"unfinished has not finished training: go on with .*--resume"):
        api.load(unfinished)
    strange = edited(run, tmp_path / "strange", lambda c: c.pop("data"))
    with pytest.raises(InputError, match=r"strange.*'data'"):
        api.load(strange)
    other = edited(run, tmp_path / "other", lambda c: c["recipe"]["emulator"]["network"].update(channels=[8, 24]))
    with pytest.raises(InputError, match="other are of another model"):
        api.load(other)
    with pytest.raises(InputError, match=r"expected config\.json"):
        api.load(tmp_path)


def test_a_run_keeps_what_it_was_made_with(runs, ks):
    for name, forecaster in runs.items():
        assert forecaster.recipe.name == name
        assert Grid.from_dict(forecaster.run.data["grid"]) == ks.grid
        assert forecaster.run.data["parameter_names"] == list(ks.parameter_names)
        climatology = forecaster.run.climatology()
        train_frames = torch.cat([ks.read(part.trajectory, part.start, part.stop) for part in ks.segments("train")])
        assert all(bool((train_frames == state).all(dim=(1, 2)).any()) for state in climatology[::8])


def test_static_fields_travel_with_the_run(tmp_path):
    data = KINDS["3-D, static field"]()
    trained = train("any/regression-smoke", data, tmp_path / "run", **{"training.steps": 1})
    assert torch.equal(trained.run.static_fields(), data.static)


def test_a_run_that_knows_land_refuses_data_without(tmp_path):
    data = sea()
    trained = train("any/regression-smoke", data, tmp_path / "run", **{"training.steps": 1})
    filled = replace(data, source=replace(data.source, states=data.source.states.nan_to_num(280.0)), valid=None)
    with pytest.raises(InputError, match="trained on fields with missing points; these data have none"):
        trained.forecast(filled.initial("test"), steps=1, members=1)
