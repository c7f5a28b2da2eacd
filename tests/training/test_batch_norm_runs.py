"""Runs whose network has batch norm: what is kept, undone, resumed, averaged and refused, and forecasts that know no batch."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import joined
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast import api
from eddycast.cli.app import run
from eddycast.data import Dataset, statistics
from eddycast.emulators import Stage, TrainingBatch
from eddycast.networks import BatchNorm, running_statistics
from eddycast.recipes.run import load_run
from eddycast.training import RunDirectory, SilentObserver, Training, TrainingSettings, loop, read_tensors
from eddycast.training.average import WeightAverage

SETTINGS = {
    "emulator.network.kind": "cnn-dyffusion",
    "emulator.network.width": 6,
    "emulator.network.kernels": [5, 3],
    "emulator.network.embedding": 8,
    "emulator.network.dropout": 0.1,
    "training.steps": 12,
    "training.batch_size": 8,
}
RECIPE = "ks/scoring-smoke"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return joined.small_data()


def train(data: Dataset, out: Path, recipe: str = RECIPE, observer=None, resume: bool = False, **more) -> None:
    api.train(
        recipe,
        data=data,
        out=out,
        overrides=SETTINGS | {f"training.{key}": value for key, value in more.items()},
        observer=observer or SilentObserver(),
        resume=resume,
    )


def weights(out: Path) -> dict[str, Tensor]:
    return read_tensors(RunDirectory(out).component("model"))[0]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("batch-norm") / "run"
    train(data, out)
    return out


def test_a_run_from_disk_is_in_use_and_has_its_statistics(trained):
    found = load_run(trained, "run")
    assert not any(part.training for part in found.model.modules())
    statistics = running_statistics(found.model)
    assert len(statistics) == 4
    written = weights(trained)
    for name, tensor in statistics.items():
        assert torch.equal(tensor, written[name])
        assert (tensor - (1.0 if name.endswith("var") else 0.0)).abs().max() > 1e-3, "they have moved"


def test_a_member_alone_is_the_member_of_an_ensemble(data, trained):
    """In training mode, where statistics are those of the batch, it would know the others."""
    forecaster = api.load(trained)
    assert forecaster.run is not None
    states = data.initial("test")

    def members(count: int) -> Tensor:
        found = forecaster.forecast(states, steps=5, members=count, seed=0)["u"]
        return torch.as_tensor(found.transpose("member", ...).values)

    alone, eight = members(1), members(8)
    tolerance = 1e-5 * eight.abs().max()
    assert (alone[0] - eight[0]).abs().max() < tolerance
    assert (eight[0] - eight[1]).abs().max() > 10 * tolerance, "members differ"
    forecaster.run.model.train()
    assert (members(1)[0] - members(8)[0]).abs().max() > 10 * tolerance


class Clock:
    """Two seconds pass whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 2.0
        return self.now

    def process_time(self) -> float:
        return self.now


def test_timing_leaves_no_trace_in_the_statistics(data, trained, tmp_path, monkeypatch):
    """Eight timed steps seem to take 2 s: 0.05 minutes are 12 of them, as many as the other run has done."""
    monkeypatch.setattr(loop, "time", Clock())
    train(data, tmp_path / "minutes", minutes=0.05)
    assert equal(weights(tmp_path / "minutes"), weights(trained))


def test_resumed_it_ends_with_the_same_bits(data, trained, tmp_path):
    class Stops(SilentObserver):
        seen = 0

        def step(self, done: int, loss: float) -> None:
            self.seen += 1
            if self.seen == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", observer=Stops())
    train(data, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run"), weights(trained))


def test_recomputed_blocks_end_with_the_same_statistics(data, trained, tmp_path):
    settings = SETTINGS | {"emulator.network.checkpoint": True}
    api.train(RECIPE, data=data, out=tmp_path / "again", overrides=settings, observer=SilentObserver())
    ours, theirs = weights(trained), weights(tmp_path / "again")
    for name in running_statistics(load_run(trained, "run").model):
        assert torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_statistics_are_averaged_with_the_weights_and_lent_with_them():
    layer = BatchNorm(2).double()
    average, expected = WeightAverage(layer, 0.6), torch.zeros(2).double()
    for update in range(30):
        layer(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(update)).double() + update)
        average.update()
        decay = min(0.6, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * layer.running_mean
    last = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert torch.allclose(average.weights["running_mean"], expected, atol=1e-12)
    with average.applied():
        assert torch.allclose(layer.running_mean, expected, atol=1e-12)
    assert equal(dict(layer.state_dict()), last)
    average.copy_to_module()
    assert torch.allclose(layer.running_mean, expected, atol=1e-12)


class Normed(nn.Module):
    """x, normalised and moved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = BatchNorm(1), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class TwoStages(nn.Module):
    """The second stage learns from what the first has become, in a window of two states."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = Normed(), Normed()
        self.modes: set[tuple[str, bool, bool]] = set()

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("early", 2, self.early, lambda batch: self._error(batch, "early", self.early(batch.x))),
            Stage("late", 2, self.late, lambda batch: self._error(batch, "late", self.late(self.early(batch.x)))),
        )

    def _error(self, batch: TrainingBatch, name: str, said: Tensor) -> Tensor:
        self.modes.add((name, self.early.training, self.late.training))
        return F.mse_loss(said, 2 * batch.x)


@pytest.mark.parametrize("whole", [True, False])
def test_only_the_stage_that_learns_is_in_training_mode(whole, data, tmp_path):
    """From its first step, and after each validation: the statistics of an earlier stage stay bit by bit."""
    torch_model = TwoStages()
    stages = torch_model.stages()
    settings = TrainingSettings(steps=12, batch_size=4, validations=3, average=None, learning_rate=1e-2)
    seen: list[dict[str, Tensor]] = []

    class Watches(SilentObserver):
        def stage(self, name: str, done: int, steps: int) -> None:
            if name == "late":
                seen.append({key: tensor.clone() for key, tensor in torch_model.early.state_dict().items()})

    def validate() -> float:
        assert not any(part.training for part in torch_model.modules())
        return 0.0

    Training(
        torch_model,
        statistics(data, "train"),
        data,
        stages if whole else stages[1:],
        settings,
        RunDirectory(tmp_path / "run"),
        validate=validate,
        observer=Watches(),
    ).run()
    assert torch_model.modes == {("late", False, True)} | ({("early", True, False)} if whole else set())
    assert equal(dict(torch_model.early.state_dict()), seen[0])
    assert torch_model.late.norm.running_mean.abs().max() > 0


def test_processes_that_would_share_the_batch_are_refused_in_one_line(data, tmp_path):
    place = tmp_path / "data"
    api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0, out=place)
    words = ["train", RECIPE, "--data", str(place), "--out", str(tmp_path / "run"), "--threads", "1"]
    words += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    work = joined.Together(tmp_path, command, words)
    assert work.codes() == [2, 2], work.text()
    assert all("Batch norm needs the whole batch, which 2" in place.read_text() for place in work.said)
    assert not list((tmp_path / "run").rglob("checkpoint*"))


def command(words: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(words)
