"""Problems whose posterior mean and probability flow are known: correlated Gaussians, and a mixture of two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from eddycast.diffusion import starting_noise


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_from(shape, seed=100):
    return lambda step: normal(*shape, seed=seed + step)


def observed_order(errors, steps):
    """Slope between the two finest."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


@dataclass(frozen=True)
class GaussianDenoiser:
    """Exact posterior mean for x ~ N(mean, C) over the flattened sample axes, C = basis diag(variance) basis^T."""

    schedule: object
    mean: torch.Tensor
    variance: torch.Tensor
    basis: torch.Tensor

    def __call__(self, x_t, time):
        alpha, sigma = self.schedule(time)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        deviation = x_t.flatten(1) - alpha * self.mean
        return (self.mean + ((deviation @ self.basis) * gain) @ self.basis.T).reshape(x_t.shape)

    def ends(self):
        """alpha and sigma at times 1 and 0."""
        alpha, sigma = self.schedule(torch.tensor([1.0, 0.0], dtype=torch.float64))
        return (alpha[0], sigma[0]), (alpha[1], sigma[1])

    def flow(self, x_1, *, to_clean=True):
        """The probability flow from time 1: each principal deviation keeps its rank in its marginal."""
        (alpha_1, sigma_1), (alpha_0, sigma_0) = self.ends()
        if to_clean:
            alpha_0, sigma_0 = torch.ones(()), torch.zeros(())
        ratio = torch.sqrt((alpha_0**2 * self.variance + sigma_0**2) / (alpha_1**2 * self.variance + sigma_1**2))
        deviation = (x_1.flatten(1) - alpha_1 * self.mean) @ self.basis
        return (alpha_0 * self.mean + (deviation * ratio) @ self.basis.T).reshape(x_1.shape)

    def single(self):
        return GaussianDenoiser(self.schedule, self.mean.float(), self.variance.float(), self.basis.float())


def gaussian_problem(schedule, samples=64):
    """Four dimensions with standard deviations 0.2 to 1.5, correlated, with a mean."""
    basis = torch.linalg.qr(normal(4, 4, seed=5)).Q
    std = torch.tensor([0.2, 0.6, 1.0, 1.5], dtype=torch.float64)
    denoiser = GaussianDenoiser(schedule, normal(4, seed=6), std**2, basis)
    return denoiser, starting_noise(schedule, normal(samples, 1, 1, 4, seed=7))


@dataclass(frozen=True)
class MixtureDenoiser:
    """Exact posterior mean of each entry for x ~ 0.3 N(-1, 0.5^2) + 0.7 N(1, 0.4^2): not linear in x_t."""

    schedule: object

    def __call__(self, x_t, time):
        alpha, sigma = self.schedule(time)
        means, std, weights = torch.tensor([[-1.0, 1.0], [0.5, 0.4], [0.3, 0.7]], dtype=x_t.dtype)
        variance = alpha**2 * std**2 + sigma**2
        deviation = x_t[..., None] - alpha * means
        share = torch.softmax(torch.log(weights) - torch.log(variance) / 2 - deviation**2 / (2 * variance), dim=-1)
        return (share * (means + alpha * std**2 / variance * deviation)).sum(dim=-1)


MIXTURE_MEAN = 0.4
MIXTURE_VARIANCE = 0.3 * (0.25 + 1) + 0.7 * (0.16 + 1) - 0.4**2


def response(sampler, denoiser: GaussianDenoiser):
    """Exact mean and covariance, along the principal axes, of what a sampler makes of x_1 with its true law at time 1.

    The map is affine in x_1 and in each draw, so the response to each of them by itself gives the law without sampling.
    """
    (alpha, sigma), _ = denoiser.ends()
    start = torch.sqrt(alpha**2 * denoiser.variance + sigma**2)
    draws = sampler.num_evaluations
    deviations = torch.zeros(1 + 4 + 4 * draws, 4, dtype=torch.float64)
    deviations[1:5] = torch.diag(start)
    x_1 = alpha * denoiser.mean + deviations @ denoiser.basis.T
    asked: list[int] = []

    def noise(step):
        asked.append(step)
        impulse = torch.zeros_like(x_1)
        impulse[5 + 4 * step : 9 + 4 * step] = torch.eye(4, dtype=torch.float64)
        return impulse.reshape(-1, 1, 1, 4)

    x = sampler(denoiser, x_1.reshape(-1, 1, 1, 4), noise=noise).flatten(1)
    assert len(set(asked)) == len(asked), "each draw has an address of its own"
    effect = (x[1:] - x[0]) @ denoiser.basis
    return (x[0] - denoiser.mean) @ denoiser.basis, effect.T @ effect
