"""Gaussian priors with linear observations: the exact denoiser, the exact posterior and the denoiser of the posterior.

`guidance.py` and `tests/guidance` measure guidance rules on them. All numbers are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.diffusion import Denoiser, Sampler, Schedule, starting_noise
from eddycast.diffusion.schedules import scales
from eddycast.guidance import GaussianLikelihood, Guidance
from eddycast.simulators import get_system

Rule = Callable[[GaussianLikelihood], Guidance]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class GeometricSchedule:
    """alpha = 1, sigma from 1e-3 to 80 in equal ratios: the schedule of the reference figures."""

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(time), 1e-3 * 8e4**time


class Bias(NamedTuple):
    """Samples against the exact posterior: error of the mean (rms, prior sd 1), mean ratio of deviations, mean of misfit^2 / std^2."""

    error: float
    spread: float
    misfit: float


class GaussianProblem:
    """x ~ N(0, C) of `shape` (time, channel, *space), y = H x + N(0, std^2), std one or one for each entry: everything is known."""

    def __init__(
        self,
        schedule: Schedule,
        covariance: Tensor,
        matrix: Tensor,
        std: float | Tensor,
        seed: int = 3,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        size = covariance.shape[0]
        self.schedule, self.covariance, self.matrix, self.std = schedule, covariance, matrix, std
        self.shape = (1, 1, size) if shape is None else shape
        self.variances = torch.as_tensor(std, dtype=torch.float64).expand(len(matrix)) ** 2
        self.eigenvalues, self.basis = torch.linalg.eigh(covariance)
        self.eigenvalues = self.eigenvalues.clamp(min=0)
        root = (
            self.basis * self.eigenvalues.sqrt() @ self.basis.T
        )  # symmetric: the same whatever basis of equal eigenvalues came
        truth = root @ normal(size, seed=seed)
        self.value = matrix @ truth + std * normal(matrix.shape[0], seed=seed + 1)
        self.likelihood = GaussianLikelihood(self.operator, self.value, std)
        innovation = matrix @ covariance @ matrix.T + torch.diag(self.variances)
        gain = covariance @ matrix.T @ torch.linalg.inv(innovation)
        self.mean, self.posterior = gain @ self.value, covariance - gain @ matrix @ covariance

    def operator(self, state: Tensor) -> Tensor:
        return state.flatten(1) @ self.matrix.T.to(state.dtype)

    def denoiser(self, x_t: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = scales(self.schedule, time, x_t.flatten(1))
        gain = (alpha * self.eigenvalues / (alpha**2 * self.eigenvalues + sigma**2)).to(x_t.dtype)
        basis = self.basis.to(x_t.dtype)
        return (((x_t.flatten(1) @ basis) * gain) @ basis.T).reshape(x_t.shape)

    def guided_mean(self, x_t: Tensor, time: Tensor) -> Tensor:
        """E[x | x_t, y], by conditioning on both at once."""
        alpha, sigma = (value.item() for value in self.schedule(time))
        size = len(self.eigenvalues)
        joint = torch.cat([alpha * torch.eye(size, dtype=torch.float64), self.matrix])
        noise = torch.cat([torch.full((size,), sigma**2, dtype=torch.float64), self.variances])
        gain = self.covariance @ joint.T @ torch.linalg.inv(joint @ self.covariance @ joint.T + torch.diag(noise))
        data = torch.cat([x_t.flatten(1), self.value.expand(len(x_t), -1)], dim=1)
        return (data @ gain.T).reshape(x_t.shape)

    def guided(self, make: Rule) -> Denoiser:
        return make(self.likelihood)(self.denoiser, self.schedule, identity)

    def draw(self, make: Rule, sampler: Sampler, samples: int, seed: int = 0) -> Tensor:
        """Samples of a rule, (sample, size)."""
        x_1 = starting_noise(self.schedule, normal(samples, *self.shape, seed=seed))

        def noise(step: int) -> Tensor:
            return normal(samples, *self.shape, seed=1000 * (seed + 1) + step)

        return sampler(self.guided(make), x_1, noise=noise).flatten(1)

    def bias(self, make: Rule, sampler: Sampler, samples: int, seed: int = 0) -> Bias:
        x = self.draw(make, sampler, samples, seed)
        return Bias(
            (x.mean(dim=0) - self.mean).square().mean().sqrt().item(),
            (x.std(dim=0) / self.posterior.diag().sqrt()).mean().item(),
            ((self.value - x @ self.matrix.T) / self.std).square().mean().item(),
        )

    def floor(self, samples: int) -> float:
        """Expected error of the mean of that many draws of the exact posterior."""
        return (self.posterior.diag().mean() / samples).sqrt().item()


def eight_dimensions(schedule: Schedule, observations: int = 3, std: float = 0.1) -> GaussianProblem:
    basis = torch.linalg.qr(normal(8, 8, seed=8)).Q
    covariance = basis @ torch.diag(torch.linspace(0.1, 2, 8).double()) @ basis.T
    return GaussianProblem(schedule, covariance, normal(observations, 8, seed=9) / 8**0.5, std)


def periodic_field(
    std: float | Tensor,
    sensors: int | tuple[int, ...] = 10,
    seed: int = 3,
    schedule: Schedule | None = None,
) -> tuple[GaussianProblem, Tensor]:
    """128 points, stationary with unit variance, every tenth point observed: the problem of the reference figures; its spectrum.

    `sensors` is their distance, or the points where they stand.
    """
    k = torch.minimum(torch.arange(128), 128 - torch.arange(128)).double()
    spectrum = torch.exp(-(((k - 9) / 4) ** 2) / 2) + 1e-3 * torch.exp(-k / 12)
    spectrum = spectrum / spectrum.mean()
    row = torch.fft.ifft(spectrum).real
    covariance = torch.stack([torch.roll(row, shift) for shift in range(128)])
    places = range(0, 128, sensors) if isinstance(sensors, int) else sensors
    matrix = torch.eye(128, dtype=torch.float64)[list(places)]
    return GaussianProblem(schedule or GeometricSchedule(), covariance, matrix, std, seed), spectrum


# AR(p) with unit variance in the stationary state: x_n = sum_j a_j x_(n-j) + noise.
CHAINS = {1: (0.9,), 2: (1.6, -0.8)}
OBSERVED = (0, 3, 4, 5, 9, 14, 15, 20, 23)  # of 24 frames: alone, in clusters, with gaps


def autocovariance(coefficients: tuple[float, ...], count: int) -> Tensor:
    """c_0 = 1, c_1, ... of the stationary chain, by the Yule-Walker equations."""
    if len(coefficients) == 1:
        start = [1.0]
    else:
        start = [1.0, coefficients[0] / (1 - coefficients[1])]
    while len(start) < count:
        start.append(sum(a * start[-1 - j] for j, a in enumerate(coefficients)))
    return torch.tensor(start[:count], dtype=torch.float64)


def chain(
    schedule: Schedule,
    order: int,
    std: float = 0.3,
    frames: int = 24,
    observed: tuple[int, ...] = OBSERVED,
    seed: int = 3,
) -> GaussianProblem:
    """A series of one number, frames on the time axis, some of them observed."""
    lags = autocovariance(CHAINS[order], frames)
    apart = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
    matrix = torch.eye(frames, dtype=torch.float64)[list(observed)]
    return GaussianProblem(schedule, lags[apart], matrix, std, seed, shape=(frames, 1, 1))


class Tracer(NamedTuple):
    """A window of the tracer: its problem, and the linear model x_(n+1) = step x_n + N(0, model_noise), x_0 ~ N(0, initial)."""

    problem: GaussianProblem
    step: Tensor
    initial: Tensor
    model_noise: Tensor


def drifting_tracer(
    schedule: Schedule,
    frames: int = 6,
    points: int = 16,
    every: tuple[int, int] = (2, 4),
    std: float = 0.1,
    error: float = 0.1,
    seed: int = 3,
) -> Tracer:
    """Advection and diffusion of a random Gaussian state with a little model noise at each step, observed sparsely.

    The step is that of the exact solver over 0.25 time units, in which the tracer moves over an eighth of the domain; model noise
    has `error`^2 times the covariance of the initial state. Every second frame is seen at every fourth point.
    """
    system = get_system("advection-diffusion")
    parameters = torch.tensor([0.5, 0.002], dtype=torch.float64)
    flow = system.flow(parameters, system.grid((points,)), 0.25, dtype=torch.float64)
    step = flow(torch.eye(points, dtype=torch.float64)[:, None])[:, 0].T  # column j: what becomes of a unit at point j
    modes = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64)
    spectrum = torch.exp(-(modes**2) / 4) + 1e-3
    row = torch.fft.ifft(spectrum / spectrum.mean()).real
    initial = torch.stack([torch.roll(row, shift) for shift in range(points)])
    noise = error**2 * initial
    marginals = [initial]
    for _ in range(1, frames):
        marginals.append(step @ marginals[-1] @ step.T + noise)
    blocks = [
        [
            torch.linalg.matrix_power(step, n - m) @ marginals[m]
            if m <= n
            else marginals[n] @ torch.linalg.matrix_power(step, m - n).T
            for m in range(frames)
        ]
        for n in range(frames)
    ]
    covariance = torch.cat([torch.cat(line, dim=1) for line in blocks])
    seen = torch.zeros(frames, points, dtype=torch.bool)
    seen[:: every[0], :: every[1]] = True
    matrix = torch.eye(frames * points, dtype=torch.float64)[seen.flatten()]
    problem = GaussianProblem(schedule, covariance, matrix, std, seed, shape=(frames, 1, points))
    return Tracer(problem, step, initial, noise)
