"""The solver head: exact on linear maps, the conditional mean where the future is uncertain, calibrated members with the scoring rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from exact_models import addresses, conditions, normal
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, ModelShape, NeuralSolver, NeuralSolverConfig, TrainingBatch
from eddycast.networks import UNetConfig
from eddycast.noise import MemberNoise

TINY = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=4)
POINTS = 8


class Pointwise(nn.Module):
    """A linear map of all frames and channels at each point."""

    def __init__(self, frames: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frames, self.outputs = frames, outputs
        self.weight = nn.Parameter(torch.zeros(frames * outputs, frames * inputs, dtype=torch.float64))

    def forward(self, x: Tensor, conditions: Conditions, scalars: Tensor) -> Tensor:
        assert scalars.shape == (len(x), 0)
        return torch.einsum("oi,bix->box", self.weight, x.flatten(1, 2)).unflatten(1, (self.frames, self.outputs))


def solver(channels: int = 1, **settings) -> NeuralSolver:
    config = NeuralSolverConfig(**({"network": TINY, "frames": 2} | settings))
    model = NeuralSolver(config, ModelShape(channels, (True,))).double()
    model.network = Pointwise(config.frames, 2 * channels + config.noise, channels)  # type: ignore[assignment]
    return model


def batch(x: Tensor, seed: int = 0) -> TrainingBatch:
    return TrainingBatch(x, conditions(len(x)), torch.Generator().manual_seed(seed))


def minimise(model: NeuralSolver, loss: Callable[[], Tensor], steps: int = 60) -> float:
    optimiser = torch.optim.LBFGS(model.network.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimiser.step(closure)
    return loss().item()


ROTATION = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)


def turning(count: int, frames: int, seed: int = 0) -> Tensor:
    """x(t + 1) = R x(t) in two channels: (count, frames, 2, POINTS)."""
    states = [normal(count, 2, POINTS, seed=seed)]
    for _ in range(frames - 1):
        states.append(torch.einsum("cd,bdx->bcx", ROTATION, states[-1]))
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("loss_on", ["unknown", "all"])
@pytest.mark.parametrize("variable", ["state", "departure"])
def test_a_linear_map_is_learned_exactly(variable, loss_on):
    model = solver(2, variable=variable, loss_on=loss_on)
    x = turning(64, 2)
    model.prepare(x)
    before = model.stages()[0].objective(batch(x)).item()
    assert minimise(model, lambda: model.stages()[0].objective(batch(x))) < 1e-12 * before
    fresh = turning(8, 9, seed=5)
    emulator = Emulator(model, IdentitySpace())
    found = emulator.forecast(fresh[:, :1], conditions(8), torch.arange(1.0, 9.0), members=2, seed=0)
    torch.testing.assert_close(found, fresh[None, :, 1:].expand_as(found), rtol=1e-4, atol=1e-4)


def test_the_squared_error_gives_the_conditional_mean():
    """x1 = 0.8 x0 + noise: the least-squares coefficient of the data, whatever is asked of the known frame."""
    x0 = normal(512, 1, 1, POINTS)
    x = torch.cat([x0, 0.8 * x0 + 0.6 * normal(512, 1, 1, POINTS, seed=1)], dim=1)
    model = solver(variable="state")
    minimise(model, lambda: model.stages()[0].objective(batch(x)))
    planes = torch.stack(
        [x[:, 0].flatten(), torch.ones(x0.numel(), dtype=torch.float64)]
    )  # the plane of the mask is a constant
    exact = torch.linalg.lstsq(planes.T, x[:, 1].reshape(-1, 1)).solution[:, 0]
    weight = model.network.weight.detach()[1]
    assert weight[0].item() == pytest.approx(exact[0].item(), abs=1e-6)
    assert weight[1].item() == pytest.approx(exact[1].item(), abs=1e-6)
    assert exact[0].item() == pytest.approx(0.8, abs=4 * 0.6 / (512 * POINTS) ** 0.5)
    ensemble = Emulator(model, IdentitySpace()).forecast(x[:4, :1], conditions(4), torch.ones(1), members=3, seed=0)
    assert torch.equal(ensemble[0], ensemble[1]) and torch.equal(ensemble[0], ensemble[2])  # no spread


class Turns(nn.Module):
    """R^lag of the last known state, for windows whose first states are known."""

    def forward(self, x: Tensor, conditions: Conditions, scalars: Tensor) -> Tensor:
        states, known = x[:, :, :2], x[0, :, 2, 0] > 0.5
        assert (x[:, :, 2:4] == known[:, None, None]).all() and (states[:, ~known] == 0).all()
        last = int(known.nonzero()[-1])
        return torch.stack(
            [torch.einsum("cd,bdx->bcx", torch.linalg.matrix_power(ROTATION, at - last), states[:, last]) for at in range(5)], dim=1
        )  # fmt: skip


@pytest.mark.parametrize("context, overlap", list(product((1, 2, 4), (1, 3, 4))))
def test_any_context_and_overlap_without_training_anew(context, overlap):
    model = solver(2, frames=5, variable="state")
    model.network = Turns()  # type: ignore[assignment]
    model.config = replace(model.config, context=context, overlap=overlap)
    truth = turning(3, context + 11)
    found = Emulator(model, IdentitySpace()).forecast(
        truth[:, :context], conditions(3), torch.arange(1.0, 12.0), members=1, seed=0
    )
    torch.testing.assert_close(found[0], truth[:, context:])


@pytest.mark.parametrize("mask", [(0,), (4,), (1, 3)], ids=str)
def test_known_frames_come_back_and_departures_start_at_the_nearest(mask):
    """A network that says nothing predicts the nearest known state, also between and before known ones."""
    model = solver(2, frames=5, variable="departure")
    known = torch.zeros(5, dtype=torch.bool)
    known[list(mask)] = True
    x = normal(3, 5, 2, POINTS)
    leads = torch.arange(5.0, dtype=torch.float64)
    wild = torch.where(known[:, None, None], x, 1e6)
    found = model.advance(wild, known, conditions(3), leads, noise=addresses(3))
    assert torch.equal(found[:, known], x[:, known])
    nearest = [min(mask, key=lambda at, frame=frame: abs(at - frame)) for frame in range(5)]
    assert torch.equal(found, x[:, nearest])
    with pytest.raises(ValueError, match="has 5 states, got 4"):
        model.advance(wild[:, :4], known[:4], conditions(3), leads[:4], noise=addresses(3))


PHI, STD = 0.8, 0.6


def test_the_scoring_rule_gives_a_calibrated_ensemble():
    """x1 = a x0 + b noise after a short training: a the conditional mean, b the spread that the score asks for.

    With M = 2 members the almost fair score is, up to a factor, sqrt(s^2 + b^2) - w sqrt(2) b with w = f / 2 + (1 - f) / 4 and s the true
    spread; its minimum lies at b / s = 0.952 for f = 0.95, and at 1 for the fair score. 8000 points: 2 % of chance.
    """
    x0 = normal(1000, 1, 1, POINTS)
    x = torch.cat([x0, PHI * x0 + STD * normal(1000, 1, 1, POINTS, seed=1)], dim=1)
    for fairness, ratio in ((1.0, 1.0), (0.95, 0.952)):
        model = solver(score="crps", fairness=fairness, noise_channels=1, variable="state")
        with torch.no_grad():  # away from the kink at no spread
            model.network.weight[1, [2, 5]] = 0.3
        minimise(model, lambda model=model: model.stages()[0].objective(batch(x)), steps=80)
        fresh = normal(64, 1, 1, POINTS, seed=7)
        truth = PHI * fresh + STD * normal(64, 1, 1, POINTS, seed=8)
        ensemble = Emulator(model, IdentitySpace()).forecast(fresh, conditions(64), torch.ones(1), members=24, seed=0)
        spread = ensemble.var(dim=0).mean().sqrt().item()
        error = (ensemble.mean(dim=0) - truth).square().mean().sqrt().item()
        assert spread / STD == pytest.approx(ratio, abs=0.05)
        assert (1 + 1 / 24) ** 0.5 * spread / error == pytest.approx(ratio, abs=0.1)  # spread over skill
        assert (ensemble.mean(dim=0) - PHI * fresh).square().mean().sqrt() < 0.2


def test_members_are_addressed_and_do_not_depend_on_chunks():
    model = solver(score="crps", noise_channels=2, frames=4)
    nn.init.normal_(model.network.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    x = normal(3, 1, 1, POINTS)
    leads = torch.arange(1.0, 8.0)
    whole = Emulator(model, IdentitySpace()).forecast(x, conditions(3), leads, members=4, seed=1)
    pieces = Emulator(model, IdentitySpace(), chunk=1).forecast(x, conditions(3), leads, members=4, seed=1)
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)
    assert (whole[0] != whole[1]).all() and (whole[:, 0] != whole[:, 1]).all()
    second = MemberNoise.grid(1, torch.tensor([2]), torch.tensor([3]))
    alone = Emulator(model, IdentitySpace()).advance(
        x[None, 2:], conditions(3).select(slice(2, 3)).expand(1), leads, noise=second
    )
    torch.testing.assert_close(alone[0, 0], whole[3, 2], rtol=1e-12, atol=1e-12)
    other = Emulator(model, IdentitySpace()).forecast(x, conditions(3), leads, members=4, seed=2)
    assert (other != whole).any(dim=-1).all()


@pytest.mark.parametrize("score", ["squared-error", "crps"])
@pytest.mark.parametrize("loss_on", ["unknown", "all"])
def test_parts_of_a_batch_see_what_the_whole_sees(score, loss_on):
    model = solver(score=score, loss_on=loss_on, frames=5, variable="state", backward=0.5)
    nn.init.normal_(model.network.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    x = normal(6, 5, 1, POINTS)
    objective = model.stages()[0].objective

    def loss(first: int, stop: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return objective(TrainingBatch(x[first:stop], conditions(6).select(slice(first, stop)), generator, first, 6))

    torch.testing.assert_close((2 * loss(0, 2) + 4 * loss(2, 6)) / 6, loss(0, 6))


def test_points_that_are_not_valid_do_not_count():
    valid = torch.arange(POINTS) < 5
    x = normal(4, 5, 1, POINTS)
    model = solver(frames=5, variable="state", loss_on="all")
    objective = model.stages()[0].objective

    def loss(states: Tensor) -> Tensor:
        return objective(TrainingBatch(states, conditions(4, valid=valid), torch.Generator().manual_seed(0)))

    assert torch.equal(loss(x), loss(torch.where(valid, x, 100.0)))
    assert loss(x).item() == pytest.approx(x[..., :5].square().mean().item())  # a network that says 0


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 1},
        {"context": 5},
        {"overlap": 0},
        {"score": "crps", "members": 1},
        {"score": "crps", "noise_channels": 0},
    ],
)
def test_settings_that_cannot_be(changes):
    with pytest.raises(ValueError, match="got"):
        NeuralSolverConfig(**changes)
