"""Two stages in one training: the interpolator stays frozen, its noise on, through validation, averages, resume and processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import joined
import pytest
import torch

from eddycast import distributed
from eddycast.data import Dataset, statistics
from eddycast.emulators import DYffusion, DYffusionConfig, InterpolatorConfig, ModelShape
from eddycast.networks import DyffusionCNNConfig, UNetConfig, batch_norms
from eddycast.recipes.measured import sample_windows
from eddycast.training import RunDirectory, SilentObserver, Training, TrainingSettings

NET = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=6, dropout=0.3)
NORMED = DyffusionCNNConfig(width=4, kernels=(3, 3), embedding=8, dropout=0.3)
SHAPE = ModelShape(1, (True,))
CASES = {
    "dropout": DYffusionConfig(horizon=3, interpolator=InterpolatorConfig("dropout", network=NET), network=NET),
    "noise": DYffusionConfig(
        horizon=3, interpolator=InterpolatorConfig("noise", network=NET), network=NET, conditioning="data+noise"
    ),
    "bridge": DYffusionConfig(
        horizon=3, interpolator=InterpolatorConfig("bridge", network=NET), network=NET, schedule="linear", extra=1,
        loss="crps", start_share=0.2, ahead="any",
    ),
}  # fmt: skip
NORMS = replace(CASES["dropout"], interpolator=InterpolatorConfig("dropout", network=NORMED), network=NORMED)
SETTINGS = TrainingSettings(steps=12, batch_size=8, checkpoint_seconds=1e9, validations=3, warmup=2, average=0.8)


@functools.cache
def data() -> Dataset:
    return joined.small_data()


def fresh(config: DYffusionConfig) -> DYffusion:
    """The same start whenever it is asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = DYffusion(config, SHAPE)
    model.prepare(sample_windows(data(), statistics(data(), "train"), model.window))
    return model


def train(
    model: DYffusion,
    out: Path,
    *,
    observer: SilentObserver | None = None,
    validate: Callable[[], float] | None = None,
    resume: bool = False,
    double: bool = False,
    **changes,
) -> dict[str, torch.Tensor]:
    """Both stages; the weights and buffers at the end."""
    space = statistics(data(), "train")
    if double:
        model, space = model.double(), joined.Doubled(space)  # type: ignore[assignment]
    Training(
        model, space, data(), model.stages(), replace(SETTINGS, **changes), RunDirectory(out),
        validate=validate, observer=observer or SilentObserver(),
    ).run(resume=resume)  # type: ignore[arg-type]  # fmt: skip
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max((ours[key] - tensor).abs().max().item() for key, tensor in theirs.items())


@pytest.mark.parametrize("average", [None, 0.8])
def test_the_frozen_interpolator_is_untouched_and_random(average, tmp_path):
    """Buffers of batch norms included, through validations that put models into evaluation mode and back."""
    model, before, modes, spreads = fresh(NORMS), {}, set(), []
    drawn = model.interpolator.drawn

    def listen(*given):
        if not before:
            before.update({name: tensor.clone() for name, tensor in model.interpolator.state_dict().items()})
        modes.add(any(part.training for part in model.interpolator.modules()))
        assert not any(weight.requires_grad for weight in model.interpolator.parameters())
        with torch.no_grad():
            spreads.append((drawn(*given) - drawn(*given)).abs().max().item())
        return drawn(*given)

    model.interpolator.drawn = listen  # type: ignore[method-assign]

    def validate() -> float:
        assert not model.training and not model.forecaster.training
        model.train()  # whoever comes and leaves the model as it should not be
        model.interpolator.requires_grad_(True)
        return 1.0

    after = train(model, tmp_path, validate=validate, average=average)
    assert len(before) > 0 and len(batch_norms(model.interpolator)) == 2
    for name, tensor in before.items():
        assert torch.equal(after[f"interpolator.{name}"], tensor), name
    start = fresh(NORMS).state_dict()
    assert (
        furthest(
            {key: after[key] for key in start if "running" in key}, {k: v for k, v in start.items() if "running" in k}
        )
        > 1e-3
    )
    assert modes == {False} and min(spreads) > 1e-3
    moved = [key for key, tensor in start.items() if "scales" not in key and not torch.equal(after[key], tensor)]
    assert any(key.startswith("forecaster") for key in moved) and any(key.startswith("interpolator") for key in moved)


class StopsIn(SilentObserver):
    def __init__(self, stage: str, done: int) -> None:
        self.at, self.now = (stage, done), ""

    def stage(self, name, done, steps):
        self.now = name

    def step(self, done, loss):
        if (self.now, done) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stage", "done"), [("interpolator", 2), ("forecaster", 3)])
@pytest.mark.parametrize("case", [*CASES, "norms"])
def test_resume_in_either_stage_is_exact(case, stage, done, tmp_path):
    """Masks are drawn from the number of the step, so that they come again; the frozen interpolator comes from the checkpoint."""
    config = CASES.get(case, NORMS)
    straight = train(fresh(config), tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(fresh(config), tmp_path / "stopped", observer=StopsIn(stage, done))
    resumed = train(fresh(config), tmp_path / "stopped", resume=True)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], tensor) for key, tensor in straight.items())


def all_cases(out: Path) -> None:
    with distributed.process_group():
        for case, config in CASES.items():
            weights = train(fresh(config), out / case, double=True, accumulate=2)
            if distributed.is_first():
                torch.save(weights, out / f"{case}.pt")


def test_two_processes_with_passes_end_with_the_weights_of_one(tmp_path):
    joined.Together(tmp_path, all_cases, tmp_path).succeed()
    for case, config in CASES.items():
        theirs = torch.load(tmp_path / f"{case}.pt", weights_only=True)
        assert furthest(train(fresh(config), tmp_path / f"one-{case}", double=True), theirs) < 1e-10, case


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_trains_both_stages(case, tmp_path):
    """Errors and exponentials of the scores are of float32 states and eight bits of network; the weights stay near."""
    half = train(fresh(CASES[case]), tmp_path / "half", precision="bfloat16")
    full = train(fresh(CASES[case]), tmp_path / "full")
    start = fresh(CASES[case]).state_dict()
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in half.values())
    error, way = (sum((full[key] - tensor).square().sum() for key, tensor in other.items()) for other in (half, start))
    assert 1e-12 < error < 0.25 * way


def test_compiled_networks_have_the_masks_of_the_others(tmp_path, monkeypatch):
    """The compiler leaves the drawing of masks to Python; with none to draw it finds one graph."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    compiled = train(fresh(CASES["dropout"]), tmp_path / "compiled", compile=True, steps=6)
    torch.compiler.reset()
    assert furthest(compiled, train(fresh(CASES["dropout"]), tmp_path / "plain", steps=6)) < 1e-5
