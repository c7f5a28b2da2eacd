"""Models of discrete steps: published noise levels, the posterior of DDPM step by step, absolute errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from exact_flows import draw_from, gaussian_problem, normal

from eddycast.diffusion import SCHEDULES, AncestralSampler, DDPMCosineSchedule, denoising_loss, log_snr
from eddycast.diffusion.schedules import scales


def linear_levels(num_steps: int = 1000) -> torch.Tensor:
    """alpha^2 after each step, least noise first: products of 1 - beta, beta from 1e-4 to 0.02. arXiv:2006.11239, section 4."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64), 0)


def cosine_levels(num_steps: int) -> torch.Tensor:
    """The same for arXiv:2102.09672, eq. 17, with beta <= 0.999."""
    part = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((part + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0)


@pytest.mark.parametrize("num_steps", [5, 1000])
def test_cosine_has_the_published_levels(num_steps):
    """alpha^2 to 1e-4 at every step; the cut of five steps is where the schedule ends."""
    published = cosine_levels(num_steps)
    times = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    alpha, sigma = SCHEDULES["cosine-ddpm"]()(times)
    assert torch.allclose(alpha**2, published, rtol=0, atol=1.01e-4)
    assert torch.allclose(sigma**2, 1 - published, rtol=0, atol=1.01e-4)
    if num_steps == 5:
        assert alpha[-1].item() == pytest.approx(published[-1].sqrt().item(), rel=0.04)
        assert ((alpha**2 / published)[:-1] - 1).abs().max() < 1e-3


@pytest.mark.parametrize("offset, alpha_min, eta", [(0.008, 0.01, 1e-3), (0.0, 0.1, 0.02)])
def test_cosine_taken_literally(offset, alpha_min, eta):
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = DDPMCosineSchedule(offset, alpha_min, eta)(times)
    f = torch.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    assert torch.allclose(alpha**2, (1 - alpha_min**2) * f / f[0] + alpha_min**2, rtol=0, atol=1e-14)
    assert torch.allclose(alpha**2 + sigma**2, torch.full_like(times, 1 + eta**2), rtol=0, atol=1e-14)
    assert (alpha[-1].item(), sigma[0].item()) == pytest.approx((alpha_min, eta), rel=1e-9)


def test_linear_follows_the_product_over_a_thousand_steps():
    """As the docstring of `LinearSchedule` says."""
    published = linear_levels()
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    schedule = SCHEDULES["linear-ddpm"]()
    alpha, sigma = schedule(times)
    noise = sigma**2 / (1 - published) - 1
    assert 0.10 < noise[0] < 0.11 and noise.abs().max() < 0.11 and noise[99:].abs().max() < 0.008
    signal = alpha / published.sqrt() - 1
    assert 0.034 < signal[-1] < 0.035 and signal.abs().max() < 0.035 and alpha[-1] < 0.007
    assert (log_snr(schedule, times) - torch.log(published / (1 - published))).abs().max() < 0.11


@dataclass(frozen=True)
class Levels:
    """The schedule of discrete levels at times k / N: step k from 1, the noisiest last; at time 0 almost clean."""

    squares: tuple[float, ...]

    def __call__(self, time):
        table = torch.tensor([1 - 1e-12, *self.squares], dtype=torch.float64)
        alpha = table[(time * len(self.squares)).round().long()].sqrt()
        return alpha, torch.sqrt(1 - alpha**2)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name, steps", [("linear", 1000), ("linear", 50), ("linear", 10), ("cosine", 5)])
def test_ancestral_sampling_is_the_published_sampler(name, steps, again):
    """The posterior of DDPM, written out with its betas on every (1000 / steps)-th level, and the denoising after the last step."""
    levels = linear_levels() if name == "linear" else cosine_levels(5)
    schedule = Levels(tuple(levels.tolist()))
    denoiser, _ = gaussian_problem(schedule, samples=8)
    x_1 = normal(8, 1, 1, 4, seed=7)
    # published numbering: label 0 is the noisiest; those that are left are 0, skip, 2 skip, ...
    left = levels.flip(0)[:: len(levels) // steps]
    times = torch.arange(len(levels), 0, -1, dtype=torch.float64)[:: len(levels) // steps] / len(levels)
    before = torch.cat([left[1:], torch.ones(1, dtype=torch.float64)])
    betas = 1 - left / before

    def says(x, label):
        return (x - left[label].sqrt() * denoiser(x, times[label])) / (1 - left[label]).sqrt()

    x = x_1
    for label in range(steps):
        start = (x - (1 - left[label]).sqrt() * says(x, label)) / left[label].sqrt()
        x = (
            before[label].sqrt() * betas[label] / (1 - left[label]) * start
            + (1 - betas[label]).sqrt() * (1 - before[label]) / (1 - left[label]) * x
        )
        if label < steps - 1:
            variance = betas[label] * (1 - before[label]) / (1 - left[label])
            x = x + variance.sqrt() * draw_from(x.shape)(label)
    if again:
        x = x - (1 - left[-1]).sqrt() * says(x, steps - 1)
    sampler = AncestralSampler(schedule, steps, again=again)
    assert sampler.num_evaluations == steps + again
    assert torch.allclose(sampler(denoiser, x_1, noise=draw_from(x_1.shape)), x, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("steps, change", [(1000, 1e-3), (10, 0.2)])
def test_denoising_again_matters_with_few_steps_only(steps, change):
    """alpha D(x) at the last level: sigma is 0.01 there with 1000 steps and 0.33 with 10."""
    schedule = SCHEDULES["linear-ddpm"]()
    denoiser, x_1 = gaussian_problem(schedule, samples=200)
    once, twice = (
        AncestralSampler(schedule, steps, again=again)(denoiser, x_1, noise=draw_from(x_1.shape))
        for again in (False, True)
    )
    last = torch.tensor(1 / steps, dtype=torch.float64)
    assert torch.allclose(twice, schedule(last)[0] * denoiser(once, last), rtol=1e-9, atol=1e-12)
    found = (twice - once).square().mean().sqrt().item()
    assert change / 5 < found < change, found


# Absolute errors


def test_absolute_loss_is_the_mean_size_of_what_is_missing():
    """F = 0 misses standard normal noise: sqrt(2 / pi) instead of 1."""
    x, noise = normal(512, 2, 1, 64), normal(512, 2, 1, 64, seed=1)
    time = torch.linspace(0.05, 1, 512, dtype=torch.float64)
    schedule = SCHEDULES["linear-ddpm"]()
    options = {"parametrisation": "noise", "absolute": True}
    loss = denoising_loss(lambda x_in, _: torch.zeros_like(x_in), schedule, x, noise, time, **options)
    assert loss.shape == (512,)
    assert loss.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=5 * math.sqrt((1 - 2 / math.pi) / x.numel()))
    exact = denoising_loss(lambda x_in, _: noise + 0.5, schedule, x, noise, time, **options)
    assert torch.allclose(exact, torch.full_like(exact, 0.5))
    counted = torch.arange(64) < 16
    some = denoising_loss(lambda x_in, _: noise + counted, schedule, x, noise, time, counted=counted, **options)
    assert torch.allclose(some, torch.ones_like(some))


@pytest.mark.parametrize("schedule", ["cosine-ddpm", "linear-ddpm"])
def test_absolute_loss_of_data_is_that_of_noise(schedule):
    """The same denoiser, D = 0: F = 0 as data and x_t / sigma as noise; the weight of absolute errors is the root of that of squares."""
    law, x, noise = SCHEDULES[schedule](), normal(6, 3, 1, 8), normal(6, 3, 1, 8, seed=1)
    time = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    sigma = scales(law, time, x)[1]
    of_data = denoising_loss(lambda x_in, _: 0 * x_in, law, x, noise, time, parametrisation="data", absolute=True)
    of_noise = denoising_loss(lambda x_in, _: x_in / sigma, law, x, noise, time, parametrisation="noise", absolute=True)
    torch.testing.assert_close(of_data, of_noise)
