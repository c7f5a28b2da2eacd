"""Mixtures of Gaussian fields with linear observations: exact denoiser, exact posterior and exact weights of its modes, in float64."""

from __future__ import annotations

import math

import torch
from exact_gaussian import normal
from torch import Tensor

from eddycast.diffusion import Schedule
from eddycast.diffusion.schedules import scales
from eddycast.guidance import GaussianLikelihood


class MixtureProblem:
    """x ~ sum_k w_k N(m_k, C_k) of shape (1, 1, points), some points observed with errors of their own.

    Three regimes of a periodic field: two waves of other phase and a low plateau, each with stationary deviations of its own size. The
    truth is drawn from the mixture, so that the modes are told apart by the observations sometimes well and sometimes badly.

    Args:
        sensors: Observed points.
        std: Error, one or one for each sensor.
        seed: Of truth and errors.
        separation: Amplitude of the waves, of which the deviations have 0.5, 0.4 and 0.6.
    """

    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def __init__(
        self,
        schedule: Schedule,
        sensors: tuple[int, ...],
        std: float | Tensor,
        seed: int,
        *,
        points: int = 32,
        separation: float = 1.0,
    ) -> None:
        self.schedule, self.shape, self.sensors = schedule, (1, 1, points), sensors
        k = torch.minimum(torch.arange(points), points - torch.arange(points)).double()
        spectrum = torch.exp(-(((k - 3) / 1.5) ** 2) / 2) + 1e-2
        row = torch.fft.ifft(spectrum / spectrum.mean()).real
        stationary = torch.stack([torch.roll(row, shift) for shift in range(points)])
        eigenvalues, self.basis = torch.linalg.eigh(stationary)  # of all components
        self.eigenvalues = torch.tensor([[0.25], [0.16], [0.36]], dtype=torch.float64) * eigenvalues.clamp(min=0)
        angle = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
        self.means = separation * torch.stack([torch.cos(angle), torch.cos(angle + 2), torch.full_like(angle, -0.6)])
        self.matrix = torch.eye(points, dtype=torch.float64)[list(sensors)]
        self.std = torch.as_tensor(std, dtype=torch.float64).expand(len(sensors))
        generator = torch.Generator().manual_seed(seed)
        component = int(torch.multinomial(self.weights, 1, generator=generator))
        deviation = self.basis @ (self.eigenvalues[component].sqrt() * (self.basis.T @ normal(points, seed=seed + 1)))
        truth = self.means[component] + deviation
        self.value = self.matrix @ truth + self.std * normal(len(sensors), seed=seed + 2)
        self.likelihood = GaussianLikelihood(lambda state: state.flatten(1) @ self.matrix.T, self.value, self.std)
        self._condition()

    def _condition(self) -> None:
        """Weights, means and covariances of the components given the observations, and the moments of the whole."""
        evidence, means, covariances = [], [], []
        for weight, mean, values in zip(self.weights, self.means, self.eigenvalues, strict=True):
            covariance = (self.basis * values) @ self.basis.T
            innovation = self.matrix @ covariance @ self.matrix.T + torch.diag(self.std**2)
            surprise = self.value - self.matrix @ mean
            scaled = torch.linalg.solve(innovation, surprise)
            evidence.append(weight.log() - 0.5 * torch.logdet(innovation) - 0.5 * surprise @ scaled)
            gain = covariance @ self.matrix.T @ torch.linalg.inv(innovation)
            means.append(mean + gain @ surprise)
            covariances.append(covariance - gain @ self.matrix @ covariance)
        self.posterior_weights = torch.softmax(torch.stack(evidence), dim=0)
        self.posterior_means = torch.stack(means)
        self.posterior_covariances = torch.stack(covariances)
        w = self.posterior_weights[:, None]
        self.mean = (w * self.posterior_means).sum(dim=0)
        away = self.posterior_means - self.mean
        variances = torch.stack([covariance.diag() for covariance in covariances])
        self.deviation = (w * (variances + away**2)).sum(dim=0).sqrt()

    def denoiser(self, x_t: Tensor, time: Tensor) -> Tensor:
        """E[x | x_t]: the means given x_t of the components, weighted by how likely x_t makes each."""
        alpha, sigma = (scale[..., None] for scale in scales(self.schedule, time, x_t.flatten(1)))
        modes, centres = x_t.flatten(1) @ self.basis, self.means @ self.basis
        marginal = alpha**2 * self.eigenvalues + sigma**2
        innovation = modes[:, None] - alpha * centres
        log_density = self.weights.log() - 0.5 * (innovation**2 / marginal + marginal.log()).sum(dim=-1)
        means = centres + alpha * self.eigenvalues / marginal * innovation
        mean = (torch.softmax(log_density, dim=-1)[..., None] * means).sum(dim=1)
        return (mean @ self.basis.T).reshape(x_t.shape)

    def memberships(self, x: Tensor) -> Tensor:
        """Probability that a state (sample, points) of the posterior belongs to each mode; its mean over exact draws is the weight."""
        logs = []
        for weight, mean, covariance in zip(
            self.posterior_weights, self.posterior_means, self.posterior_covariances, strict=True
        ):
            # Samples miss the last digits of a nearly singular covariance, which say nothing about the mode.
            root = torch.linalg.cholesky(covariance + 1e-4 * torch.eye(len(mean), dtype=torch.float64))
            scaled = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
            logs.append(weight.log() - 0.5 * scaled.square().sum(dim=0) - root.diag().log().sum())
        return torch.softmax(torch.stack(logs, dim=1), dim=1)

    def draw(self, samples: int, seed: int = 0) -> Tensor:
        """Exact draws of the posterior, (sample, points)."""
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.posterior_weights, samples, replacement=True, generator=generator)
        roots = torch.linalg.cholesky(
            self.posterior_covariances + 1e-12 * torch.eye(self.shape[-1], dtype=torch.float64)
        )
        noise = normal(samples, self.shape[-1], seed=seed + 1)
        return self.posterior_means[component] + torch.einsum("sij,sj->si", roots[component], noise)
