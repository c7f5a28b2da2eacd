"""PDE-Refiner: with ideal networks its samples have the law worked out here; its cost, its noise, and a problem that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import addresses, conditions, normal
from torch import Tensor, nn

from eddycast.emulators import (
    Emulator,
    IdentitySpace,
    ModelShape,
    Refiner,
    RefinerConfig,
    TrainingBatch,
    count_passes,
)
from eddycast.networks import UNetConfig
from eddycast.noise import MemberNoise

POINTS, PHI, SCALE = 8, 0.6, 0.5
STD = torch.tensor([2.0, 1.0, 0.5, 0.2, 0.05], dtype=torch.float64)
"""Of each wave number 0 ... 4 of the future given the present, in units of `SCALE`."""


def through_waves(x: Tensor, gain: Tensor) -> Tensor:
    """x (..., points) with each wave number times its gain."""
    return torch.fft.irfft(torch.fft.rfft(x) * gain, n=x.shape[-1])


def gains(std: Tensor | float) -> Tensor:
    """s^2 / (s^2 + sigma^2) of each wave number: posterior mean of the change given the change with noise, about the prior mean."""
    return STD**2 / (STD**2 + std**2)


class IdealNetwork(nn.Module):
    """Exact conditional means of a change that is N(mean, STD^2) wave by wave, with mean = (PHI - 1) x(t) / SCALE.

    k = 0: E[d] = mean,   k > 0: E[eps | y] = sigma / (STD^2 + sigma^2) (y - mean) = (1 - g) (y - mean) / sigma
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config, self.anchor = config, nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        assert x.shape[1:] == (1, 2, POINTS) and scalars.shape == (len(x), 1)
        mean, y = (PHI - 1) * x[:, 0, 0] / SCALE, x[:, 0, 1]
        said = []
        for number, step in enumerate((scalars[:, 0] * self.config.refinements).round().long().tolist()):
            if step == 0:
                assert (y[number] == 0).all(), "the first prediction knows the context alone"
                said.append(mean[number])
            else:
                std = self.config.min_noise_std ** (step / self.config.refinements)
                said.append(through_waves(y[number] - mean[number], 1 - gains(std)) / std)
        return torch.stack(said)[:, None, None] + self.anchor


def ideal(refinements: int = 3, min_noise_std: float = 0.05) -> Refiner:
    config = RefinerConfig(
        refinements=refinements, min_noise_std=min_noise_std, network=UNetConfig(channels=(4,), blocks=1, kernel=1)
    )
    model = Refiner(config, ModelShape(1, (True,))).double()
    model.network.backbone = IdealNetwork(config)
    model.scales.fill_(SCALE)
    return model


def pairs(batch: int, seed: int = 0) -> Tensor:
    """States (batch, 2, 1, points): x(t), and x(t + 1) = PHI x(t) + SCALE N(0, STD^2)."""
    start, noise = normal(batch, POINTS, seed=seed), normal(batch, POINTS, seed=seed + 1)
    return torch.stack([start, PHI * start + SCALE * through_waves(noise, STD)], dim=1)[:, :, None]


def one_step(model: Refiner, x: Tensor, noise: MemberNoise, **told) -> Tensor:
    mask, leads = torch.tensor([True, False]), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        return model.advance(x, mask, conditions(len(x)), leads, noise=noise, **told)


def ladder(refinements: int, smallest: float) -> list[float]:
    return [smallest ** (k / refinements) for k in range(1, refinements + 1)]


@pytest.mark.parametrize("refinements, smallest", [(1, 0.3), (3, 0.05), (8, 1e-3)])
def test_refined_state_is_the_sum_of_its_noises(refinements, smallest):
    """d_K = mean + sum_k (g_k ... g_K) sigma_k eps_k wave by wave, with the noise at its addresses: exact."""
    model, x, noise = ideal(refinements, smallest), pairs(5), addresses(5, seed=3)
    found = one_step(model, x, noise, window=4)
    change = torch.zeros(5, POINTS, dtype=torch.float64)
    for k, std in enumerate(ladder(refinements, smallest), start=1):
        drawn = noise.draw((1, POINTS), key=(4, k, "refiner"), dtype=torch.float64)[:, 0]
        change = through_waves(change + std * drawn, gains(std))
    assert torch.equal(found[:, 0], x[:, 0]), "known states stay"
    assert torch.allclose(found[:, 1, 0], PHI * x[:, 0, 0] + SCALE * change, atol=1e-12)


@pytest.mark.parametrize("refinements, smallest", [(1, 0.7), (3, 0.05), (6, 0.05)])
def test_ensemble_has_the_law_of_the_docstring_and_is_narrow(refinements, smallest):
    members = 4000
    x = pairs(1).expand(members, -1, -1, -1)
    noise = MemberNoise(0, torch.zeros(members, dtype=torch.long), torch.arange(members))
    found = (one_step(ideal(refinements, smallest), x, noise)[:, 1, 0] - PHI * x[:, 0, 0]) / SCALE
    variance = torch.zeros_like(STD)
    for std in ladder(refinements, smallest):
        variance = gains(std) ** 2 * (variance + std**2)
    power = torch.fft.rfft(found, norm="ortho").abs().square().mean(0)
    standard_error = variance * math.sqrt(2 / members)  # of real waves; complex ones have half its square
    assert ((power - variance).abs() < 5 * standard_error).all(), (power, variance)
    deviation = found.mean(0).abs().max()
    assert deviation < 5 * (variance.mean() / members).sqrt() * 2, "the mean is right"
    assert (variance < STD**2).all(), "narrower than the truth in every wave"
    assert variance[0] < sum(std**2 for std in ladder(refinements, smallest)) < STD[0] ** 2


@pytest.mark.parametrize("refinements", [1, 3])
def test_ideal_networks_have_the_least_loss(refinements):
    """Mean over k of what is left, var(d) = STD^2 at k = 0 and var(eps | y) = g_k else; a shift of the answer costs its square."""
    model, x, here = ideal(refinements, 0.05), pairs(6000), conditions(6000)
    counted = (
        torch.tensor([1.0, 2, 2, 2, 1], dtype=torch.float64) / POINTS
    )  # points of which each wave number takes its share
    left = [(counted * STD**2).sum()] + [(counted * gains(std)).sum() for std in ladder(refinements, 0.05)]
    least = torch.stack(left).mean().item()

    def loss() -> float:
        return model.stages()[0].objective(TrainingBatch(x, here, torch.Generator().manual_seed(0))).item()

    found = loss()
    assert found == pytest.approx(least, rel=0.05)  # 6000 windows of 8 points; one standard error is near 1 %
    model.network.backbone.get_parameter("anchor").data.fill_(0.3)
    assert loss() - found == pytest.approx(0.09, abs=0.02)


def test_a_step_costs_one_pass_more_than_refinements():
    for refinements in (1, 3, 8):
        model = ideal(refinements)
        emulator = Emulator(model, IdentitySpace())
        with count_passes() as passes:
            emulator.forecast(pairs(2)[:, :1], conditions(2), torch.arange(1, 6), members=3, seed=0)
        assert (passes.forward, passes.backward) == (2 * 3 * 5 * (refinements + 1), 0)


def test_member_is_the_same_in_any_batch_and_differs_from_the_others():
    model, x, noise = ideal(), pairs(1).expand(6, -1, -1, -1), MemberNoise(7, torch.zeros(6).long(), torch.arange(6))
    whole = one_step(model, x, noise)
    alone = torch.cat([one_step(model, x[:1], noise.select(slice(i, i + 1))) for i in range(6)])
    assert torch.equal(whole, alone)
    assert all((whole[i, 1] - whole[j, 1]).abs().max() > 1e-3 for i in range(6) for j in range(i))
    assert not torch.equal(whole, one_step(model, x, noise, window=1)), "another window, another draw"


def test_parts_of_a_batch_see_what_the_whole_sees():
    model, x, here = ideal(), pairs(6), conditions(6)
    objective = model.stages()[0].objective

    def batch(part: slice, **whole) -> TrainingBatch:
        return TrainingBatch(x[part], here.select(part), torch.Generator().manual_seed(1), **whole)

    whole = objective(batch(slice(0, 6)))
    parts = [objective(batch(slice(s, s + 2), first=s, whole=6)) for s in (0, 2, 4)]
    assert torch.allclose(torch.stack(parts).mean(), whole, atol=1e-12)


def test_nothing_moves_where_fields_are_not_defined():
    """Neither in a long rollout nor in the loss."""
    valid = torch.tensor([True] * 5 + [False] * 3)
    config = RefinerConfig(min_noise_std=0.1, network=UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8))
    model = Refiner(config, ModelShape(1, (True,), static=1)).double()
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.2 * normal(*weight.shape, seed=number))
    here = conditions(4, valid=valid)
    start = normal(4, 1, 1, POINTS)
    noise = MemberNoise.grid(0, 4, 1)
    found = Emulator(model, IdentitySpace()).advance(start[None], here.expand(1), torch.arange(1, 9), noise=noise)
    assert torch.equal(found[0, ..., 5:], start.expand(-1, 8, -1, -1)[..., 5:])
    assert (found[0, :, -1, :, :5] - start[:, 0, :, :5]).abs().min() > 1e-6
    other = pairs(4) + 100 * (~valid).double() * torch.tensor([0.0, 1.0]).double()[:, None, None]
    with torch.no_grad():
        losses = [model.stages()[0].objective(TrainingBatch(x, here, torch.Generator())) for x in (pairs(4), other)]
    assert losses[0].isfinite() and torch.equal(losses[0], losses[1])


def test_refiner_learns_to_carry_waves():
    """x(t + 1) is x(t) moved by one of 16 points: after refinement the forecast is still far better than persistence."""
    config = RefinerConfig(
        refinements=2, min_noise_std=0.03, network=UNetConfig(channels=(16, 16), blocks=1, kernel=3, embedding=16)
    )
    model = Refiner(config, ModelShape(1, (True,)))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.ndim > 1 and weight.abs().max() > 0:
                weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(weight[0].numel()))
            elif weight.ndim == 1:
                weight.zero_()

    def windows(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        wave, at = torch.arange(1, 4)[:, None], 2 * math.pi * torch.arange(16) / 16
        start = 2 * math.pi * torch.rand(64, 3, 1, generator=generator)
        x = ((wave * at + start).cos() / wave).sum(1)
        return torch.stack([x, x.roll(1, -1)], dim=1)[:, :, None]

    model.prepare(windows(10**6))
    stage, generator, here = model.stages()[0], torch.Generator().manual_seed(0), conditions(64)
    optimiser = torch.optim.Adam(stage.module.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    losses = []
    for step in range(300):
        loss = stage.objective(TrainingBatch(windows(step), here, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.1), "an untrained network says zero, and all targets have variance 1"
    assert sum(losses[-20:]) < 0.3 * 20
    x = windows(10**6 + 1)
    forecast = one_step(model, x, addresses(64))[:, 1]
    error, persistence = [(part - x[:, 1]).square().mean().sqrt() for part in (forecast, x[:, 0])]
    assert error < 0.15 * persistence, (error / persistence).item()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"refinements": 0}, "family 'regression'"),
        ({"context": 0}, "must be positive"),
        ({"min_noise_std": 0.0}, "between 0 and 1"),
        ({"min_noise_std": 1.0}, "between 0 and 1"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        RefinerConfig(**settings)
