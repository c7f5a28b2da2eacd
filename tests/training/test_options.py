"""Precision, accumulation, recomputation and compilation: what each may change, and that resume stays exact with all of them."""

from __future__ import annotations

import functools
from pathlib import Path

import joined
import pytest
import torch

from eddycast import api
from eddycast.errors import InputError
from eddycast.training import RunDirectory, SilentObserver, TrainingSettings, read_tensors
from eddycast.training.runner import step_seed

OPTIONS = {
    "accumulate": {"training.accumulate": 3},
    "bfloat16": {"training.precision": "bfloat16"},
    "checkpoint": {"emulator.network.checkpoint": True},
    "compile": {"training.compile": True},
}
RECIPES = ("ks/regression-smoke", "ks/scoring-smoke", "ks/universal-smoke")


@pytest.fixture(scope="module")
def data():
    return joined.small_data()


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that captures graphs and runs them as they are: what a compiler is given, without the wait for one."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(RunDirectory(out).component("model"))[0]


def train(data, out: Path, changes: dict, recipe: str = "ks/universal-smoke", **options) -> dict[str, torch.Tensor]:
    settings = {"training.steps": 6, "training.batch_size": 6} | changes
    api.train(recipe, data=data, out=out, overrides=settings, **{"observer": SilentObserver()} | options)
    return weights(out)


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[key] - second[key]).abs().max().item() for key in first)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("changes", [{"training.accumulate": 4}, {"emulator.network.checkpoint": True}], ids=str)
def test_passes_and_recomputation_leave_the_weights_as_they_would_be(changes, recipe, data, tmp_path):
    """In float64, with a batch of 6 in passes of 1, 2, 1 and 2 windows; the gradient is the same sum in another order."""
    settings = {"training.steps": 6, "training.batch_size": 6, "emulator.unroll": 2}
    if "universal" in recipe:
        del settings["emulator.unroll"]
    joined.train_doubled(data, tmp_path / "plain", recipe, settings)
    joined.train_doubled(data, tmp_path / "changed", recipe, settings | changes)
    plain, changed = joined.trained(tmp_path / "plain"), joined.trained(tmp_path / "changed")
    distance = sum((changed[key] - weight).square().sum() for key, weight in plain.items())
    assert (distance / sum(weight.square().sum() for weight in plain.values())) ** 0.5 < 1e-10


class StopsAtThree(SilentObserver):
    def step(self, done: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("option", OPTIONS)
def test_resume_is_exact_with_each_option(option, data, tmp_path, traced):
    changes = OPTIONS[option]
    straight = train(data, tmp_path / "straight", changes)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", changes, observer=StopsAtThree())
    resumed = train(data, tmp_path / "stopped", changes, resume=True)
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    if option != "checkpoint":  # memory against time: the same weights
        with pytest.raises(InputError, match=option.replace("bfloat16", "precision")):
            train(data, tmp_path / "stopped", {}, resume=True)


def test_compiled_networks_are_traced_whole_and_give_the_weights_of_the_others(data, tmp_path, traced):
    torch._dynamo.utils.counters.clear()
    compiled = train(data, tmp_path / "compiled", OPTIONS["compile"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]  # nothing falls back to Python
    assert furthest(compiled, train(data, tmp_path / "plain", {})) < 1e-5


def test_a_compiler_that_is_missing_is_told_and_nothing_runs_without_it(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/there/is/no/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/there/is/no/compiler",))
    with pytest.raises(InputError, match=r"training\.compile=true .*compiler") as caught:
        train(data, tmp_path / "run", OPTIONS["compile"])
    assert "\n" not in str(caught.value)
    torch.compiler.reset()


def test_bfloat16_is_used_in_the_networks_only(data, tmp_path):
    """The weights move by as much as eight bits of mantissa let them, and stay float32."""
    half, full = train(data, tmp_path / "half", OPTIONS["bfloat16"]), train(data, tmp_path / "full", {})
    assert all(weight.dtype == torch.float32 for weight in half.values())
    moved = furthest(full, train(data, tmp_path / "start", {"training.learning_rate": 1e-12}))
    assert 1e-6 < furthest(half, full) < 0.5 * moved


def test_the_noise_of_a_step_depends_on_seed_and_step():
    """The generator of the CPU reads 32 bits of its seed; none of the numbers may fall outside of them."""
    draws = [
        torch.randn(4, generator=torch.Generator().manual_seed(step_seed(seed, number)))
        for seed in (0, 1, 7919)
        for number in (0, 1, 2)
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accumulate": 0}, "accumulate"),
        ({"accumulate": 9, "batch_size": 8}, "at most batch_size"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**changes)
