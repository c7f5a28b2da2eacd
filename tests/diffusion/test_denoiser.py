"""Preconditioning, known frames and the loss: identities, exact Gaussian answers, azula as referee."""

from __future__ import annotations

import pytest
import torch

from eddycast.diffusion import (
    SCHEDULES,
    AdamsBashforthSampler,
    CosineSchedule,
    EDMSchedule,
    PreconditionedDenoiser,
    RectifiedSchedule,
    denoising_loss,
    precondition,
    starting_noise,
)
from eddycast.diffusion.schedules import scales

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zero_network(x_in: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x_in)


@pytest.mark.parametrize("sigma_data", [1.0, 0.3])
def test_preconditioning_gives_the_network_unit_variance(sigma_data):
    """Input and target of F have variance 1 at every time when the data have variance sigma_data^2."""
    alpha, sigma = CosineSchedule()(TIMES)
    c = precondition(alpha, sigma, sigma_data=sigma_data)
    assert torch.allclose(c.c_in**2 * (alpha**2 * sigma_data**2 + sigma**2), torch.ones_like(TIMES))
    of_data, of_noise = (1 - c.c_skip * alpha) / c.c_out, -c.c_skip * sigma / c.c_out
    assert torch.allclose(of_data**2 * sigma_data**2 + of_noise**2, torch.ones_like(TIMES))
    assert torch.allclose(c.told, torch.log(sigma / alpha) / 4)


@pytest.mark.parametrize("sigma_data", [1.0, 0.3])
def test_zero_network_is_exact_for_white_data(sigma_data):
    """For x ~ N(0, d^2) the posterior mean is c_skip x_t, so F = 0 is the optimum and its loss is 1."""
    schedule, x, noise = RectifiedSchedule(), sigma_data * normal(256, 2, 1, 64), normal(256, 2, 1, 64, seed=1)
    time = torch.linspace(0.02, 0.98, 256, dtype=torch.float64)
    alpha, sigma = scales(schedule, time, x)
    x_t = alpha * x + sigma * noise
    exact = alpha * sigma_data**2 / (alpha**2 * sigma_data**2 + sigma**2) * x_t
    assert torch.allclose(PreconditionedDenoiser(zero_network, schedule, sigma_data)(x_t, time), exact)
    loss = denoising_loss(zero_network, schedule, x, noise, time, sigma_data=sigma_data)
    assert loss.shape == (256,)
    assert loss.mean().item() == pytest.approx(1, abs=5 * (2 / x.numel()) ** 0.5)


@pytest.mark.parametrize("sigma_data", [1.0, 0.3])
@pytest.mark.parametrize("schedule", [RectifiedSchedule(), CosineSchedule()])
def test_loss_is_the_weighted_error_of_the_denoiser(schedule, sigma_data):
    x, noise, time = sigma_data * normal(5, 3, 2, 8), normal(5, 3, 2, 8, seed=1), torch.linspace(0.05, 1, 5).double()

    def network(x_in: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x_in) + c_noise[:, None, None, None]

    alpha, sigma = scales(schedule, time, x)
    mean = PreconditionedDenoiser(network, schedule, sigma_data)(alpha * x + sigma * noise, time)
    weight = (alpha**2 * sigma_data**2 + sigma**2) / (sigma * sigma_data) ** 2
    expected = (weight * (mean - x) ** 2).flatten(1).mean(dim=1)
    loss = denoising_loss(network, schedule, x, noise, time, sigma_data=sigma_data)
    assert torch.allclose(loss, expected, rtol=1e-8)


@pytest.mark.parametrize("sigma_data", [1.0, 0.3])
def test_perfect_network_has_no_loss(sigma_data):
    """A network that knows x inverts D = c_skip x_t + c_out F from its own input."""
    schedule, x, noise = RectifiedSchedule(), sigma_data * normal(4, 3, 1, 8), normal(4, 3, 1, 8, seed=1)
    time = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    alpha, sigma = scales(schedule, time, x)
    c = precondition(alpha, sigma, sigma_data=sigma_data)
    loss = denoising_loss(
        lambda x_in, _: (x - c.c_skip * x_in / c.c_in) / c.c_out,
        schedule,
        x,
        noise,
        time,
        sigma_data=sigma_data,
    )
    assert loss.max().item() < 1e-15


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_edm_coefficients_are_the_published_ones(sigma_data):
    """Table 1 of arXiv:2206.00364 in its own symbols, the loss weight included; the zero network scores 1 there too."""
    schedule, d = EDMSchedule(), sigma_data
    _, sigma = schedule(TIMES)
    c = precondition(*schedule(TIMES), sigma_data=d)
    assert torch.allclose(c.c_skip, d**2 / (sigma**2 + d**2))
    assert torch.allclose(c.c_out, sigma * d / torch.sqrt(sigma**2 + d**2))
    assert torch.allclose(c.c_in, 1 / torch.sqrt(sigma**2 + d**2))
    assert torch.allclose(c.told, torch.log(sigma) / 4)
    x, noise = d * normal(101, 2, 1, 64), normal(101, 2, 1, 64, seed=1)
    x_t = x + sigma[:, None, None, None] * noise
    mean = PreconditionedDenoiser(zero_network, schedule, d)(x_t, TIMES)
    published = (sigma**2 + d**2) / (sigma * d) ** 2 * (mean - x).square().flatten(1).mean(dim=1)
    loss = denoising_loss(zero_network, schedule, x, noise, TIMES, sigma_data=d)
    assert torch.allclose(loss, published, rtol=1e-6)
    assert loss.mean().item() == pytest.approx(1, abs=5 * (2 / x.numel()) ** 0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_samples_white_data_with_the_zero_network(schedule):
    """F = 0 is exact for data of variance 1, so the flow from `starting_noise` returns that noise; single precision too."""
    schedule = SCHEDULES[schedule]()
    noise = normal(4, 2, 1, 16).float()
    denoiser = PreconditionedDenoiser(zero_network, schedule)
    x = AdamsBashforthSampler(schedule, 64, grid="karras")(denoiser, starting_noise(schedule, noise))
    assert x.dtype == torch.float32 and torch.allclose(x, noise, rtol=2e-3, atol=2e-3)


def test_only_counted_entries_count():
    schedule, x, noise, time = (
        RectifiedSchedule(),
        normal(3, 4, 1, 8),
        normal(3, 4, 1, 8, seed=1),
        torch.tensor([0.1, 0.5, 1.0]).double(),
    )
    counted = torch.tensor([False, True, True, False])[:, None, None]
    loss = denoising_loss(zero_network, schedule, x, noise, time, counted=counted)
    part = denoising_loss(zero_network, schedule, x[:, 1:3], noise[:, 1:3], time)
    assert torch.allclose(loss, part)
    spoilt = torch.where(counted, x, torch.nan)
    assert torch.allclose(denoising_loss(zero_network, schedule, spoilt, noise, time, counted=counted), part)
    none = torch.zeros(4, 1, 1, dtype=torch.bool)
    assert denoising_loss(zero_network, schedule, x, noise, time, counted=none).tolist() == [0, 0, 0]


def test_shapes_that_disagree_are_refused():
    x = normal(3, 4, 1, 8)
    with pytest.raises(ValueError, match="shape of x"):
        denoising_loss(zero_network, RectifiedSchedule(), x, x[:2], torch.zeros(3))
    with pytest.raises(ValueError, match="leading"):
        denoising_loss(zero_network, RectifiedSchedule(), x, x, torch.zeros(2))


def test_azula_agrees_on_the_preconditioned_denoiser():
    """Same coefficients at sigma_data 1; azula tells its network log(sigma / alpha), four times ours."""
    denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
    schedule = noise.VPSchedule()

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x_in: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return torch.sin(self.scale * x_in) + level[:, None]

    backbone = Backbone()
    x_t, time = normal(6, 5), torch.linspace(0, 1, 6, dtype=torch.float64)
    theirs = denoise.KarrasDenoiser(backbone, schedule)(x_t, time).mean
    ours = PreconditionedDenoiser(lambda x_in, level: backbone(x_in, 4 * level), schedule)(x_t, time)
    assert torch.allclose(ours, theirs, rtol=1e-10)
