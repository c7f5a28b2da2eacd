"""Amortised diffusion with the settings of DDPM and video diffusion: exact networks sample the exact law, small ones learn it."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import addresses, autoregressive, conditions, gaussian_conditioning, normal
from torch import Tensor, nn

from eddycast.diffusion import SCHEDULES
from eddycast.diffusion.schedules import scales
from eddycast.emulators import (
    AmortisedConfig,
    Emulator,
    IdentitySpace,
    ModelShape,
    TrainingBatch,
    UniversalConfig,
    WindowDiffusion,
    count_passes,
)
from eddycast.networks import UNetConfig
from eddycast.recipes.dyffusion_baselines import ddpm, video_diffusion

PHI = 0.8
TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)
SHAPE = ModelShape(1, (True,))


class ExactNoise(nn.Module):
    """The noise in windows of the AR(1) process whose first state is known, told by concatenation: F of E[x | x_t, x_0]."""

    def __init__(self, model: WindowDiffusion) -> None:
        super().__init__()
        self.schedule = model.schedule
        self.told: list[float] = []

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        assert inputs.shape[2] == 1 and scalars.shape[1] == 1, "states side by side, and the time"
        self.told += scalars[:, 0].unique().tolist()
        x_t = inputs[:, :, 0]
        alpha, sigma = scales(self.schedule, scalars[:, 0], x_t)
        known = torch.arange(x_t.shape[1]) < 1
        gain, cov = gaussian_conditioning(PHI, known)
        mean = gain @ x_t[:, known]
        inner = alpha**2 * cov + sigma**2 * torch.eye(len(cov), dtype=cov.dtype)
        unknown = x_t[:, ~known]
        posterior = mean + alpha * cov @ torch.linalg.solve(inner, unknown - alpha * mean)
        noise = torch.zeros_like(x_t)
        noise[:, ~known] = (unknown - alpha * posterior) / sigma
        return noise[:, :, None]


def exact(config: AmortisedConfig) -> WindowDiffusion:
    model = WindowDiffusion(config, SHAPE).double()
    model.network = ExactNoise(model)
    return model


@pytest.mark.parametrize(
    "config, bias",
    [
        (video_diffusion(4, TINY, num_steps=1000), 0.01),
        (video_diffusion(4, TINY, num_steps=250), 0.03),
        (ddpm(4, TINY, 250), 0.03),
    ],
)
def test_many_steps_sample_the_conditional_law(config, bias):
    """Mean and covariance of four states after a known one: 5 standard errors of 200 x 8 draws, and the bias of the steps."""
    members, model = 200, exact(config)
    known = autoregressive(1, 5, 8, PHI, seed=5)
    mask, leads = torch.arange(5) < 1, torch.arange(5.0, dtype=torch.float64)
    start = torch.where(mask[:, None, None], known, 55.0).expand(members, -1, -1, -1)
    states = model.advance(start, mask, conditions(members), leads, noise=addresses(members))
    gain, cov = gaussian_conditioning(PHI, mask)
    assert torch.equal(states[:, 0], start[:, 0])
    deviation = states[:, 1:, 0] - gain @ known[0, :1, 0]
    std = cov.diagonal().sqrt()
    assert (deviation.mean(dim=0) / std[:, None]).abs().max() < 5 / math.sqrt(members) + bias
    flat = deviation.movedim(1, 2).flatten(0, 1)
    found = flat.T @ flat / len(flat)
    allowed = 5 * torch.sqrt((std[:, None] ** 2 * std**2 + cov**2) / len(flat)) + bias
    assert ((found - cov).abs() < allowed).all(), (found - cov).tolist()


def test_five_steps_are_too_narrow():
    """What five steps of the exact network make of it: the mean is right and the spread 0.70, which no training mends.

    The published spread-skill ratio of five steps is 0.67.
    """
    model = exact(ddpm(4, TINY))
    members, mask = 400, torch.arange(5) < 1
    known = autoregressive(1, 5, 8, PHI, seed=5)
    states = model.advance(
        known.expand(members, -1, -1, -1), mask, conditions(members), torch.arange(5.0), noise=addresses(members)
    )
    gain, cov = gaussian_conditioning(PHI, mask)
    deviation = states[:, 1:, 0] - gain @ known[0, :1, 0]
    assert (deviation.mean(dim=0) / cov.diagonal().sqrt()[:, None]).abs().max() < 5 / math.sqrt(members)
    ratio = deviation.square().mean(dim=(0, 2)).sqrt() / cov.diagonal().sqrt()
    assert torch.allclose(ratio, torch.full_like(ratio, 0.70), rtol=0, atol=0.04), ratio.tolist()


def test_levels_of_training_are_those_of_sampling():
    """Five levels, equally often, and the same five in a forecast; a forecast at others is refused."""
    model = exact(ddpm(4, TINY))
    x = autoregressive(4000, 5, 8, PHI)
    model.stages()[0].objective(TrainingBatch(x, conditions(4000), torch.Generator().manual_seed(0)))
    levels = [0.2, 0.4, 0.6, 0.8, 1.0]
    assert model.network.told == pytest.approx(levels)
    model.network.told.clear()
    model.advance(x[:2], torch.arange(5) < 1, conditions(2), torch.arange(5.0), noise=addresses(2))
    assert model.network.told == pytest.approx(levels[::-1])
    for wrong in ({"num_steps": 4}, {"grid": "log-snr"}, {"levels": 0}):
        with pytest.raises(ValueError, match="must divide"):
            AmortisedConfig(**{"levels": 10, "num_steps": 5, **wrong})


def test_loss_is_least_at_the_exact_network():
    """Noise, levels and known states of the loss agree with those of the exact network; on Gaussian data the median is the mean."""
    x = autoregressive(2000, 5, 8, PHI, seed=6)
    for config in (ddpm(4, TINY), video_diffusion(4, TINY)):
        model, losses = exact(config), []
        inner = model.network
        for factor in (0.9, 1.0, 1.1):
            model.network = Scaled(inner, factor)
            batch = TrainingBatch(x, conditions(2000), torch.Generator().manual_seed(0))
            losses.append(model.stages()[0].objective(batch).item())
        below, least, above = losses
        assert least < below and least < above
        assert 1 + 0.1 * (below - above) / (2 * (below + above - 2 * least)) == pytest.approx(1, abs=0.01)


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, *inputs) -> Tensor:
        return self.factor * self.network(*inputs)


def test_ten_levels_are_learned():
    """A small network on the process with h = 2: slopes 0.8 and 0.64, and the spread of the exact network at ten steps."""
    config = ddpm(2, UNetConfig(channels=(48,), blocks=2, kernel=1, embedding=32), 10)
    model = WindowDiffusion(config, SHAPE)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.ndim > 1 and weight.abs().max() > 0:
                weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(weight[0].numel()))
    stage, generator = model.stages()[0], torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps = 500
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / steps))
        x = autoregressive(96, 3, 8, PHI, seed=step).float()
        loss = stage.objective(TrainingBatch(x, conditions(96), generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.linspace(-1.5, 1.5, 8).expand(1, 1, 1, 8)
    states = Emulator(model, IdentitySpace()).forecast(x, conditions(1), torch.arange(1, 3), members=300, seed=0)[
        :, 0, :, 0
    ]
    slope = (states.mean(dim=0) * x[0, 0, 0]).sum(dim=1) / x.square().sum()
    assert torch.allclose(slope, torch.tensor([0.8, 0.64]), atol=0.1), slope.tolist()
    ratio = states.std(dim=0).mean(dim=1) / torch.sqrt(1 - PHI ** (2 * torch.arange(1.0, 3)))
    assert ((ratio - 0.82).abs() < 0.1).all(), ratio.tolist()


def test_concatenated_states_are_as_published():
    """Channels of the h + 1 states and nothing else; the layout says nothing of which are known, so no universal model has it."""
    model = WindowDiffusion(ddpm(7, TINY), ModelShape(3, (True,)))
    assert model.network.backbone.stem.conv.in_channels == 8 * 3
    with pytest.raises(ValueError, match="concat"):
        UniversalConfig(layout="concat", variable="state")


def test_passes_are_the_steps_and_the_last_denoising():
    x = normal(2, 1, 1, 8).float()
    for config, passes in (
        (ddpm(4, TINY), 5),
        (video_diffusion(4, TINY, num_steps=20), 21),
        (video_diffusion(4, TINY), 1001),
    ):
        model = WindowDiffusion(config, SHAPE)
        if passes > 100:
            assert config.make_sampler().num_evaluations == passes
            continue
        with count_passes() as counted:
            Emulator(model, IdentitySpace()).forecast(x, conditions(2), torch.arange(1, 9), members=3, seed=0)
        assert counted.forward == passes * 2 * 3 * 2


def test_schedules_are_the_published_ones():
    assert SCHEDULES[ddpm(4, TINY).schedule]().offset == 0.008
    assert SCHEDULES[video_diffusion(4, TINY).schedule]().beta_max == 20.0
