"""The loop: the clock, what is written while it runs, and how it ends when numbers do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eddycast import api
from eddycast.data import Dataset, statistics
from eddycast.emulators import ModelShape, build_model
from eddycast.errors import InputError
from eddycast.recipes import get_recipe, train_recipe
from eddycast.training import (
    RunDirectory,
    SilentObserver,
    Training,
    TrainingSettings,
    loop,
    read_tensors,
    write_tensors,
)

RECIPE = "ks/regression-smoke"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0)


def train(data: Dataset, out: Path, recipe: str = RECIPE, **settings) -> api.Forecaster:
    return api.train(recipe, data=data, out=out, overrides=settings, observer=SilentObserver())


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, Tensor]:
    return read_tensors(RunDirectory(out).component("model"))[0]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Clock:
    """A second passes whenever somebody looks."""

    def __init__(self, pace: float) -> None:
        self.now, self.pace = 0.0, pace

    def monotonic(self) -> float:
        self.now += self.pace
        return self.now

    def process_time(self) -> float:
        return self.now


def test_minutes_fix_the_number_of_steps_and_timing_leaves_no_trace(data, tmp_path, monkeypatch):
    """Eight timed steps seem to take 2 s between two looks at the clock: 0.05 minutes are 12 of them."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", Clock(2.0))
        train(data, tmp_path / "minutes", **{"training.minutes": 0.05, "training.average": 0.9})
    train(data, tmp_path / "steps", **{"training.steps": 12, "training.average": 0.9})
    assert [len(log(tmp_path / name)) for name in ("minutes", "steps")] == [12, 12]
    assert equal(weights(tmp_path / "minutes"), weights(tmp_path / "steps"))


def test_minutes_are_shared_among_the_stages(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", Clock(2.0))
    settings = {"training.minutes": 0.1, "emulator.pretrain": 0.25, "emulator.unroll": 1}
    train(data, tmp_path / "run", "ks/scoring-smoke", **settings)
    stages = [record["stage"] for record in log(tmp_path / "run")]
    assert stages == ["pretrain"] * 6 + ["ensemble"] * 18


def test_a_run_resumed_keeps_the_steps_that_the_clock_gave(data, tmp_path, monkeypatch):
    class Stops(SilentObserver):
        def step(self, done: int, loss: float) -> None:
            if done == 5:
                raise KeyboardInterrupt

    settings = {"training.minutes": 0.05}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", Clock(2.0))
        with pytest.raises(KeyboardInterrupt):
            api.train(RECIPE, data=data, out=tmp_path / "run", overrides=settings, observer=Stops())
    options = {
        "overrides": settings,
        "observer": SilentObserver(),
        "resume": True,
    }  # the clock now runs at another pace
    api.train(RECIPE, data=data, out=tmp_path / "run", **options)
    train(data, tmp_path / "steps", **{"training.steps": 12})
    assert [record["step"] for record in log(tmp_path / "run")] == list(range(1, 13))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "steps"))


def test_log_has_each_step_with_its_learning_rate_and_a_validation_at_the_end(data, tmp_path):
    train(data, tmp_path / "run", **{"training.steps": 20, "training.validations": 3})
    records = log(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(1, 21))
    peak = get_recipe(RECIPE).training.learning_rate
    rates = [peak * loop.learning_rate_factor(step, 20, 100) for step in range(20)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates)
    assert [record["step"] for record in records if "validation_crps" in record] == [7, 14, 20]
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_training_learns_and_its_validation_score_falls(data, tmp_path):
    train(data, tmp_path / "run", **{"training.steps": 150, "training.batch_size": 16, "training.validations": 15})
    scores = [record["validation_crps"] for record in log(tmp_path / "run") if "validation_crps" in record]
    assert scores[-1] < 0.5 * scores[0]


def test_same_seed_same_weights_and_another_seed_others(data, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(data, tmp_path / name, "ks/universal-smoke", **{"training.seed": seed})
        torch.rand(5)  # whatever others draw from the global generator changes nothing
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_training_leaves_the_global_generator_alone(data, tmp_path):
    before = torch.random.get_rng_state()
    train(data, tmp_path / "run", "ks/scoring-smoke")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_average_is_what_is_kept(data, tmp_path):
    train(data, tmp_path / "average", **{"training.average": 0.5})
    train(data, tmp_path / "last", **{"training.average": None})
    train(data, tmp_path / "zero", **{"training.average": 0.0})
    assert not equal(weights(tmp_path / "average"), weights(tmp_path / "last"))
    assert equal(weights(tmp_path / "zero"), weights(tmp_path / "last"))


def test_one_stage_alone_starts_from_the_weights_that_are_there(data, tmp_path):
    rate = {"training.learning_rate": 1e-12, "training.weight_decay": 0.0, "emulator.pretrain": 0.5}
    options = {"data": data, "overrides": rate, "observer": SilentObserver(), "stage": "ensemble"}
    api.train("ks/scoring-smoke", out=tmp_path / "run", **options | {"stage": "pretrain"})
    first = weights(tmp_path / "run")
    api.train("ks/scoring-smoke", out=tmp_path / "run", **options)
    second = weights(tmp_path / "run")
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    assert {record["stage"] for record in log(tmp_path / "run")} == {"ensemble"}
    api.train("ks/scoring-smoke", out=tmp_path / "other", init=tmp_path / "run", **options)
    third = weights(tmp_path / "other")
    assert all(torch.allclose(first[key], third[key], atol=1e-6) for key in first)
    with pytest.raises(InputError, match="holds a run whose stage ensemble is trained"):
        api.train("ks/scoring-smoke", out=tmp_path / "run", **options)
    with pytest.raises(InputError, match="pretrain, ensemble"):
        api.train("ks/scoring-smoke", out=tmp_path / "never", **options | {"stage": "polish"})


def test_weights_of_another_model_are_refused_as_a_start(data, tmp_path):
    train(data, tmp_path / "run")
    with pytest.raises(InputError, match="of another model"):
        train_recipe(get_recipe("ks/scoring-smoke"), data, tmp_path / "never", init=tmp_path / "run")
    with pytest.raises(InputError, match="no weights"):
        api.train(RECIPE, data=data, out=tmp_path / "never", init="baseline:persistence")


# Loss that is no longer finite


class Poisoned:
    """A source where one point of the first trajectory goes wrong once the statistics have been measured."""

    def __init__(self, source, poison: float) -> None:
        self.source, self.lengths, self.poison, self.armed = source, source.lengths, poison, False

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        frames = self.source.read(trajectory, start, stop, stride)
        if self.armed and trajectory == 0:
            frames[::2, :, 3] = self.poison  # every other frame, so that increments see it too
        return frames


class Arms(SilentObserver):
    def __init__(self, source: Poisoned) -> None:
        self.source = source

    def stage(self, name: str, done: int, steps: int) -> None:
        self.source.armed = True


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (float("nan"), r"missing or infinite values in u, first in trajectory 0, frame 0; fill the gaps"),
        (1e30, r"stage 'regression' at step \d+: loss .* largest input \S+e\+\d+ standard deviations.*outliers"),
    ],
)
def test_data_that_go_wrong_are_named(poison, words, data, tmp_path):
    source = Poisoned(data.source, poison)
    with pytest.raises(InputError, match=words):
        api.train(RECIPE, data=replace(data, source=source), out=tmp_path / "run", observer=Arms(source))


def test_model_space_that_is_not_finite_is_named_with_stage_and_step(data, tmp_path):
    """A space that turns finite states into NaN stands for whatever the reader of the data cannot see."""
    recipe = get_recipe(RECIPE)
    model = build_model(
        recipe.emulator, ModelShape(channels=1, periodic=(True,), parameter_mean=(0.0,), parameter_std=(1.0,))
    )

    class Spoils:
        def encode(self, state, conditions, lead_times):
            return state * float("nan")

    (stage,) = model.stages()
    training = Training(model, Spoils(), data, (stage,), recipe.training, RunDirectory(tmp_path / "run"))
    with pytest.raises(
        FloatingPointError, match=r"stage 'regression' at step 1: loss nan; the data .* not finite.*inspect"
    ):
        training.run()


def test_a_learning_rate_that_is_too_high_is_diagnosed_and_the_last_checkpoint_is_intact(data, tmp_path):
    settings = {
        "training.learning_rate": 1e25,
        "training.optimiser": "adamw",
        "training.average": None,
        "training.checkpoint_seconds": 0.0,
        "training.steps": 50,
    }
    with pytest.raises(InputError, match=r"stage 'regression' at step \d+: loss .*learning_rate") as caught:
        train(data, tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    step = int(re.search(r"step (\d+)", str(caught.value))[1])
    files = RunDirectory(tmp_path / "run")
    tensors, header = read_tensors(files.checkpoint)
    assert json.loads(header["state"])["position"]["done"] == step - 1 == len(log(tmp_path / "run"))
    assert all(bool(torch.isfinite(tensor).all()) for name, tensor in tensors.items() if name.startswith("model."))
    with pytest.raises(InputError, match="not finished"):
        api.load(files.path)


def test_weights_that_are_not_finite_are_named(data, tmp_path):
    forecaster = train(data, tmp_path / "run")
    spoiled = weights(tmp_path / "run")
    name = next(key for key in spoiled if key.endswith("stem.conv.weight"))
    spoiled[name].fill_(float("inf"))
    write_tensors(RunDirectory(forecaster.path).component("model"), spoiled)
    with pytest.raises(InputError, match=r"not finite, first .*stem\.conv\.weight"):
        api.train(RECIPE, data=data, out=tmp_path / "never", init=tmp_path / "run", observer=SilentObserver())


def test_weights_that_became_infinite_are_named_with_stage_and_step(data, tmp_path):
    recipe = get_recipe(RECIPE)
    shape = ModelShape(channels=1, periodic=(True,), parameter_mean=(0.0,), parameter_std=(1.0,))
    model = build_model(recipe.emulator, shape)
    weight = next(weight for key, weight in model.named_parameters() if key.endswith("stem.conv.weight"))
    torch.nn.init.constant_(weight, float("inf"))
    training = Training(
        model, statistics(data, "train"), data, model.stages(), recipe.training, RunDirectory(tmp_path / "run")
    )
    with pytest.raises(
        FloatingPointError, match=r"at step 1: .*weights are no longer finite, first .*stem\.conv\.weight"
    ):
        training.run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"batch_size": 0}, "batch_size"),
        ({"validations": 0}, "validations"),
        ({"average": 1.0}, "average"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"clip": 0.0}, "clip"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**change)
