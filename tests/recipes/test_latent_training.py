"""Autoencoder, cache and emulator in one run directory: whole, loadable, resumed bit by bit, and refused where parts do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_runs import FAMILIES, STEPS, alone, flow, recipe, train

from eddycast import api
from eddycast.api.forecaster import shipped
from eddycast.data import Dataset, Normalisation, Segment, from_arrays
from eddycast.emulators import Autoencoding, LatentSpace, WindowDiffusion
from eddycast.errors import InputError
from eddycast.recipes import SpaceSettings, latents, load_run, open_cache
from eddycast.recipes.calibration import physical_scale
from eddycast.training import RunDirectory, read_tensors


@pytest.fixture(scope="module")
def data() -> Dataset:
    return flow()


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> api.Forecaster:
    return train(recipe(), data, tmp_path_factory.mktemp("latent") / "run")


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory) -> api.Forecaster:
    return train(alone(), data, tmp_path_factory.mktemp("alone") / "encoder")


def files_of(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def values(made) -> np.ndarray:
    return made.to_array().values


def line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


PARTS = {
    "config.json", "normalization.json", "components/model.safetensors", "components/space.safetensors",
    "components/climatology.safetensors", "log.jsonl", "training/checkpoint.safetensors",
}  # fmt: skip


def without_lock(names: set[str]) -> set[str]:
    return {name for name in names if not name.endswith(".lock")}


def test_what_a_run_directory_holds(trained):
    """A run, the run of its autoencoder, and the cache; no guard, whose modes latents do not have."""
    found = without_lock(files_of(trained.path))
    assert found == PARTS | {f"autoencoder/{name}" for name in PARTS} | {
        "latents/manifest.json",
        "latents/latents.hdf5",
    }
    assert trained.run.guard is None and trained.run.emulator.guard is None
    assert isinstance(trained.run.space, LatentSpace) and isinstance(trained.run.model, WindowDiffusion)
    assert isinstance(trained.run.autoencoder, Autoencoding) and trained.run.space.residual is not None
    config = json.loads((trained.path / "config.json").read_text())
    assert config["provenance"]["autoencoder"] == load_run(trained.path / "autoencoder", "a").fingerprint()
    assert config["shape"]["channels"] == 3 and config["shape"]["boundaries"] is True
    stages = [
        json.loads(text)["stage"] for text in (trained.path / "autoencoder" / "log.jsonl").read_text().splitlines()
    ]
    assert set(stages) == {"autoencoder", "residual"}
    cache = json.loads((trained.path / "latents" / "manifest.json").read_text())
    assert cache["provenance"]["copies"] == 2 and {piece["view"] for piece in cache["pieces"]} == {0, 1}
    assert {piece["split"] for piece in cache["pieces"]} == {"train"}


def test_a_run_forecasts_the_same_wherever_it_lies(trained, data, tmp_path):
    """Without its cache and its checkpoints too."""
    shutil.copytree(trained.path, tmp_path / "moved")
    for name in ("latents", "training", "autoencoder/training"):
        shutil.rmtree(tmp_path / "moved" / name)
    moved = api.load(tmp_path / "moved")
    options = {"steps": 7, "members": 3, "seed": 5}
    ours, theirs = (one.forecast(data.initial("test"), **options) for one in (trained, moved))
    assert np.array_equal(values(ours), values(theirs)) and np.isfinite(values(ours)).all()
    assert ours.attrs["eddycast_run_hash"] == theirs.attrs["eddycast_run_hash"]
    assert (values(ours)[:, :, 0] != values(ours)[:, :, 1]).any() and (ours.density.values > -0.1).all()
    assert all(not parameter.requires_grad for parameter in moved.run.autoencoder.parameters())


@pytest.mark.parametrize("family, axes", [("crps", 1), ("universal", 1), ("neural-solver", 3), ("universal", 3)])
def test_one_and_three_dimensions_and_the_other_heads(family, axes, tmp_path):
    """Data are divided by 2 along each axis; a forecast has the grid of the data."""
    data = flow(axes, size=4 if axes == 3 else 16, trajectories=5, frames=5)
    steps = replace(STEPS, steps=1)
    made = train(recipe(family, training=steps), data, tmp_path / "run")
    forecast = made.forecast(data.initial("test"), steps=4, members=2)
    assert tuple(forecast.sizes[name] for name in data.grid.names) == data.grid.shape
    assert list(forecast.data_vars) == list(data.field_names) and np.isfinite(values(forecast)).all()
    again = api.load(tmp_path / "run").forecast(data.initial("test"), steps=4, members=2)
    assert np.array_equal(values(forecast), values(again))
    longer = made.forecast(data.initial("test"), steps=4, members=2, overrides={"context": 2, "overlap": 2})
    assert np.isfinite(values(longer)).all()


def test_static_fields_reach_the_emulator(tmp_path):
    data = replace(flow(trajectories=5, frames=5), static=torch.randn(1, 8, 8), static_names=("orography",))
    with pytest.raises(InputError, match=r"static fields \(orography\): set autoencoder.copies=1"):
        train(recipe(), data, tmp_path / "views")
    assert not (tmp_path / "views" / "autoencoder").exists()
    made = train(recipe(copies=1), data, tmp_path / "run")
    assert np.isfinite(values(made.forecast(data.initial("test"), steps=2, members=1))).all()


def test_each_piece_of_a_cache_has_the_static_fields_of_its_trajectory(tmp_path, monkeypatch):
    """Pieces are numbered by themselves: the training split begins with trajectory 2 here."""
    from eddycast.recipes import train as module

    static, whole = torch.randn(5, 1, 8, 8), flow(trajectories=5, frames=5)
    arrays = [whole.read(number, 0, 5) for number in range(5)]
    splits = {
        name: tuple(Segment(number, 0, 5) for number in numbers)
        for name, numbers in (("train", (2, 4, 3)), ("valid", (0,)), ("test", (1,)))
    }
    data = from_arrays(
        torch.stack(arrays), fields=whole.fields, grid=whole.grid, dt=whole.dt, splits=splits, static=static
    )
    seen, material = [], module.latent_material
    monkeypatch.setattr(module, "latent_material", lambda *given: seen.append(material(*given)) or seen[-1])
    made = train(recipe(copies=1), data, tmp_path / "run")
    windows = seen[0].windows
    for number, trajectory in enumerate((2, 4, 3)):
        assert torch.equal(windows.conditions([number], [0]).static_fields()[0], static[trajectory])
    assert np.isfinite(values(made.forecast(data.initial("test"), steps=2, members=1))).all()


# Resumed.


class Stopped:
    """An observer that interrupts a stage after some of its steps."""

    def __init__(self, stage: str, steps: int) -> None:
        self.name, self.steps, self.now = stage, steps, ""

    def stage(self, name: str, done: int, steps: int) -> None:
        self.now = name

    def step(self, done: int, loss: float) -> None:
        if self.now == self.name and done == self.steps:
            raise KeyboardInterrupt

    def validated(self, score: float) -> None: ...
    def finished(self) -> None: ...


def same_weights(one: Path, other: Path) -> bool:
    pairs = [
        (
            read_tensors(RunDirectory(one / inner).component(name))[0],
            read_tensors(RunDirectory(other / inner).component(name))[0],
        )
        for inner in ("", "autoencoder")
        for name in ("model", "space")
    ]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


@pytest.mark.parametrize("stage, steps", [("autoencoder", 1), ("residual", 1), ("diffusion", 2)])
def test_an_interrupted_training_ends_as_if_it_had_not_been(stage, steps, trained, data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), data, out, observer=Stopped(stage, steps))
    assert (out / "autoencoder").is_dir() and (out / "latents").exists() == (stage == "diffusion")
    with pytest.raises(InputError, match="--resume"):
        train(recipe(), data, out)
    resumed = train(recipe(), data, out, resume=True)
    assert same_weights(out, trained.path)
    options = {"steps": 3, "members": 2}
    assert np.array_equal(*(values(one.forecast(data.initial("test"), **options)) for one in (resumed, trained)))


def test_interrupted_while_encoding(trained, data, tmp_path, monkeypatch):
    calls: list[int] = []
    encoded = latents.encoded

    def torn(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encoded(*arguments, **options)

    monkeypatch.setattr(latents, "encoded", torn)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), data, out)
    assert {path.name for path in out.iterdir() if not path.name.endswith(".lock")} == {"autoencoder"}
    train(recipe(), data, out, resume=True)
    assert same_weights(out, trained.path)


def test_a_finished_run_is_resumed_to_itself_and_a_lost_cache_is_made_again(trained, data, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "latents")
    train(recipe(), data, tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", trained.path)
    ours, theirs = (open_cache(path / "latents", trained.run, data) for path in (tmp_path / "run", trained.path))
    assert all(torch.equal(ours.read(n, 0, 9), theirs.read(n, 0, 9)) for n in range(len(ours.lengths)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"autoencoder.model.latent_channels": 2}, "autoencoder.model.latent_channels"),
        ({"autoencoder.model.augment": ["flip"]}, "autoencoder.model.augment"),
        ({"space.log": {"density": 0.2}}, "space.log.density"),
        ({"emulator.frames": 3}, "emulator.frames"),
        ({"autoencoder.copies": 1}, "another number of copies"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(change, words, trained, data, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    with pytest.raises(InputError, match=words) as caught:
        train(recipe(), data, tmp_path / "run", resume=True, overrides=change)
    line(caught)


# Stage by stage.


def test_one_stage_after_the_other(trained, data, tmp_path):
    out = tmp_path / "run"
    first = train(recipe(), data, out, stage="autoencoder")
    assert not first.forecasts and first.path == out / "autoencoder"
    assert {path.name for path in out.iterdir() if not path.name.endswith(".lock")} == {"autoencoder"}
    second = train(recipe(), data, out, stage="diffusion")
    assert second.forecasts and same_weights(out, trained.path)


def test_a_given_autoencoder_is_taken_and_a_cache_with_it(trained, encoder, data, tmp_path):
    """The same seed trains the same autoencoder, alone or within: so three ways give one emulator."""
    api.encode(encoder.path, data, out=tmp_path / "cache", copies=2)
    one = train(recipe(), data, tmp_path / "one", autoencoder=encoder.path)
    two = train(recipe(), data, tmp_path / "two", autoencoder=trained.path, latents=tmp_path / "cache")
    assert not (tmp_path / "two" / "latents").exists() and (tmp_path / "one" / "latents").exists()
    assert same_weights(one.path, trained.path) and same_weights(two.path, trained.path)
    assert not (tmp_path / "one" / "autoencoder" / "training").exists()
    assert one.run.space.autoencoder is not encoder.run.space.autoencoder
    shutil.rmtree(tmp_path / "cache")  # the run needs neither
    assert np.isfinite(values(api.load(two.path).forecast(data.initial("test"), steps=2, members=1))).all()


def test_settings_follow_the_autoencoder_that_is_given(encoder, data, tmp_path):
    """Other compression and normalisation in the recipe: what was trained counts, and is what the run says."""
    asked = recipe(autoencoder={"latent_channels": 5}, space=SpaceSettings("field", vectors="shared"))
    made = train(asked, data, tmp_path / "run", autoencoder=encoder.path)
    assert made.recipe.autoencoder.model.latent_channels == 3
    assert made.recipe.space.log == {"density": 0.1}


@pytest.mark.parametrize(
    "setting", ["autoencoder.model.latent_channels", "autoencoder.training.steps", "space.vectors"]
)
def test_settings_of_a_trained_autoencoder_are_not_asked_for_in_vain(setting, encoder, data, tmp_path):
    with pytest.raises(InputError, match=f"{setting} was settled when") as caught:
        train(recipe(), data, tmp_path / "run", autoencoder=encoder.path, overrides={setting: 5})
    line(caught)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": "diffuson"}, r"no stage 'diffuson': it has autoencoder, diffusion"),
        ({"latents": "cache"}, "pass its run as --autoencoder"),
        ({"autoencoder": "physical"}, "has no autoencoder"),
        ({"overrides": {"emulator.frames": 40}}, "a window needs 40 frames"),
        ({"overrides": {"emulator.network.channels": [10**9]}}, "network"),
    ],
)
def test_mistakes_are_told_before_an_autoencoder_is_trained(options, words, trained, data, tmp_path):
    given = dict(options)
    if "latents" in given:
        given["latents"] = trained.path / "latents"
    if "autoencoder" in given:
        shutil.copytree(next(iter(shipped().values())), tmp_path / "physical")
        given["autoencoder"] = tmp_path / "physical"
    with pytest.raises(InputError, match=words) as caught:
        train(recipe(), data, tmp_path / "run", **given)
    line(caught)
    assert not (tmp_path / "run" / "autoencoder").exists()


def test_options_of_latents_in_physical_space(data, trained, tmp_path):
    physical = replace(recipe(), autoencoder=None, emulator=FAMILIES["neural-solver"])
    with pytest.raises(InputError, match="works in physical space: leave --autoencoder and --latents out"):
        train(physical, data, tmp_path / "run", autoencoder=trained.path)


# Data that do not fit.


def test_a_grid_that_does_not_divide_leaves_nothing_behind(tmp_path):
    for made in (recipe(), alone()):
        with pytest.raises(
            InputError, match=r"7 x 7 points is not divisible by 2; regrid the data, or take fewer levels\."
        ) as caught:
            train(made, flow(size=7), tmp_path / "run")
        line(caught)
        assert not without_lock(files_of(tmp_path))


def test_land_is_refused(tmp_path):
    whole = flow()
    states = torch.stack([whole.read(number, 0, 9) for number in range(6)])
    states[..., 2:4, 5] = torch.nan
    data = from_arrays(states, fields=whole.fields, grid=whole.grid, dt=0.2)
    for made in (recipe(), alone()):
        with pytest.raises(InputError, match=r"\(land\): train in physical space") as caught:
            train(made, data, tmp_path / "run")
        line(caught)
    assert not without_lock(files_of(tmp_path))


def test_data_that_are_not_finite_are_refused(trained, tmp_path):
    whole = flow()
    states = torch.stack([whole.read(number, 0, 9) for number in range(6)])
    states[0, 3, 1, 2, 2] = torch.nan
    more = {"dt": 0.2, "parameter_names": ["speed"], "parameters": torch.linspace(1, 2, 6)[:, None]}
    with pytest.raises(InputError, match="missing"):
        train(recipe(), from_arrays(states, fields=whole.fields, grid=whole.grid, **more), tmp_path / "run")
    states[0, 3, 1, 2, 2] = 0.0
    states[:, 3, 0, 2, 2] = -0.5  # no logarithm
    bad = from_arrays(states, fields=whole.fields, grid=whole.grid, **more)
    with pytest.raises(InputError, match=r"its logarithm with offset 0\.1 does not exist"):
        train(recipe(), bad, tmp_path / "run")
    with pytest.raises(InputError, match="not finite"):
        api.encode(trained.path, bad, out=tmp_path / "cache")
    assert not without_lock(files_of(tmp_path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: flow(3, size=4), "trained on the fields density, velocity_x, velocity_y; the data have"),
        (lambda: flow(size=16), "8 x 8 points; the data have 16 x 16"),
        (lambda: flow(dt=0.4), "time step of 0.2"),
        (lambda: flow(parameter_names=["height"]), "parameters speed; the data have height"),
    ],
    ids=["fields", "points", "time step", "parameters"],
)
def test_data_that_do_not_fit_the_run_are_refused(make, words, encoder, tmp_path):
    data = make()
    for attempt in (
        lambda: api.encode(encoder.path, data, out=tmp_path / "cache"),
        lambda: api.reconstruct(encoder.path, data=data),
        lambda: train(recipe(), data, tmp_path / "run", autoencoder=encoder.path),
    ):
        with pytest.raises(InputError, match=words) as caught:
            attempt()
        line(caught)
    assert not (tmp_path / "cache").exists()


def test_views_that_states_or_statistics_do_not_allow(tmp_path):
    dataset = flow()
    with pytest.raises(ValueError, match=r"space\.vectors shared"):
        recipe(space=SpaceSettings("field"))
    still = alone(augment=("roll",))
    with pytest.raises(InputError, match=r"augment \(roll\) moves states, but not the maps"):
        train(replace(still, space=SpaceSettings("pixel")), dataset, tmp_path / "run")
    lonely = replace(dataset, fields=(*dataset.fields[:2], replace(dataset.fields[2], vector="")))
    with pytest.raises(InputError, match="'velocity' lacks a component along some of x, y"):
        train(alone(augment=("permute",)), lonely, tmp_path / "run")
    strange = replace(
        dataset, fields=(dataset.fields[0], *(replace(f, name=f"u{i}") for i, f in enumerate(dataset.fields[1:])))
    )
    with pytest.raises(InputError, match="tells no axis of x, y"):
        train(alone(augment=("flip",)), strange, tmp_path / "run")
    assert not without_lock(files_of(tmp_path))


# Parts that were exchanged.


def test_another_autoencoder_in_its_place_is_refused(trained, data, tmp_path):
    """Of the same sizes, so that nothing else would tell."""
    other = train(replace(alone(), training=replace(STEPS, seed=1)), data, tmp_path / "other")
    shutil.copytree(trained.path, tmp_path / "run")
    inner = tmp_path / "run" / "autoencoder" / "components" / "model.safetensors"
    inner.write_bytes((other.path / "components" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not the autoencoder of") as caught:
        api.load(tmp_path / "run")
    line(caught)
    with pytest.raises(InputError, match="holds another autoencoder than"):
        train(recipe(), data, tmp_path / "run", autoencoder=trained.path, resume=True)
    shutil.rmtree(tmp_path / "run" / "autoencoder")
    with pytest.raises(InputError, match="autoencoder") as caught:
        api.load(tmp_path / "run")
    line(caught)


@pytest.mark.parametrize("inner", ["", "autoencoder/"])
@pytest.mark.parametrize(
    "key, value",
    [
        ("channels", 7),
        ("vector_axes", [5, 5, 5]),
        ("vectors", ["a"]),
        ("vector_axes", [0]),
        ("static", 4),
        ("boundaries", "?"),
    ],
)
def test_edited_shapes_end_in_one_line(inner, key, value, trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    place = tmp_path / "run" / inner / "config.json"
    content = json.loads(place.read_text())
    content["shape"][key] = value
    place.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        api.load(tmp_path / "run")
    line(caught)


def test_log_fields_are_scored_in_their_own_unit():
    """Their standard deviation in the space is that of a logarithm."""
    truth = torch.randn(3, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    truth[:, :, 0] = 1000 * truth[:, :, 0].exp()
    truth[0, 1, 0, 3] = torch.nan
    space = Normalisation(
        torch.zeros(1, 2, 1), torch.tensor([[1.0], [0.7]]), torch.ones(2), ("a", "b"), (), (0.1, None)
    )
    density = truth[:, :, 0][truth[:, :, 0].isfinite()]
    assert physical_scale(space, truth).flatten().tolist() == pytest.approx([density.std(correction=0).item(), 0.7])
    assert torch.equal(physical_scale(replace(space, offsets=()), truth), space.std)
