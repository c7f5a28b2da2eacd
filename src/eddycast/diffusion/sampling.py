"""What samplers share: from x_1 at time 1 to data at time 0, with a denoiser.

A sampler is a frozen dataclass whose first fields are the schedule and the number of steps; `sampler(denoiser, x_1)`
returns x_0 with the shape, dtype and device of x_1. Nothing is differentiated and nothing random is consumed: a
stochastic sampler asks `noise(step)` for its numbers, the others ignore the argument.

The probability flow is integrated in velocity form unless a sampler says otherwise. With u = sigma / (alpha + sigma) and
y = x_t / (alpha + sigma),

    dy/du = v = (x_t - (alpha + sigma) D(x_t)) / sigma,

which is regular from pure noise (u = 1) to data (u = 0) for every schedule; on the rectified one u is linear in time.
Steps run between the times of the grid, and the last one goes on to sigma = 0, so that no white noise of size sigma_min
is left in the result (it would fill the empty end of a smooth field's spectrum); `to_clean=False` stops at the
schedule's own end. That last piece does not shrink with more steps and sets a floor of order sigma_min^(order + 1) to
the error, far below that of a network. Scales are computed in float64 on the CPU, once per call, and multiply the tensors
as numbers; neither x_1 nor what the denoiser returns is written to.

To add a sampler: one file with the dataclass, and one line in `registry.SAMPLERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from eddycast.diffusion.grids import GRIDS
from eddycast.diffusion.protocols import Denoiser, Schedule

# noise(step): standard normal numbers of the shape of x_1 for the draw numbered `step`, counted from 0.
NoiseSource = Callable[[int], Tensor]


class Sampler(Protocol):
    """Maps x_1 (*batch, time, channel, *space) at the first time of the grid to data of the same shape."""

    @property
    def num_evaluations(self) -> int:
        """Calls of the denoiser per sample."""
        ...

    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor: ...


class Stepping(Protocol):
    """The fields from which a sampler plans its steps."""

    @property
    def schedule(self) -> Schedule: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def grid(self) -> str: ...
    @property
    def times(self) -> tuple[float, ...] | None: ...
    @property
    def to_clean(self) -> bool: ...


class Point(NamedTuple):
    """A time with its scales."""

    time: float
    alpha: float
    sigma: float

    @property
    def total(self) -> float:
        return self.alpha + self.sigma

    @property
    def u(self) -> float:
        return self.sigma / self.total

    @property
    def rho(self) -> float:
        """Noise-to-signal ratio."""
        return self.sigma / self.alpha


class Step(NamedTuple):
    """One step: evaluate at `now`, perhaps at `look`, arrive at `then`; the last two differ in the last step only."""

    now: Point
    look: Point
    then: Point


def points_at(schedule: Schedule, times: Iterable[float]) -> list[Point]:
    """The scales at these times, in float64."""
    grid = tuple(times)
    alphas, sigmas = schedule(torch.tensor(grid, dtype=torch.float64))
    return [Point(*numbers) for numbers in zip(grid, alphas.tolist(), sigmas.tolist(), strict=True)]


def count_steps(sampler: Stepping) -> int:
    return sampler.num_steps if sampler.times is None else len(sampler.times) - 1


def plan_steps(sampler: Stepping) -> list[Step]:
    """Steps between the sampler's times, or those of its grid; `to_clean` lets the last arrive at sigma = 0.

    Raises: ValueError for a grid that does not exist, for fewer than one step and for times that do not fall within [0, 1].
    """
    times = sampler.times
    if times is None:
        if sampler.num_steps < 1:
            raise ValueError(f"A sampler needs at least one step, got num_steps = {sampler.num_steps}.")
        if sampler.grid not in GRIDS:
            raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {sampler.grid!r}.")
        times = GRIDS[sampler.grid](sampler.schedule, sampler.num_steps)
    if len(times) < 2 or any(later >= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"times must be at least two, falling, within [0, 1]; got {times}.")
    if times[0] > 1 or times[-1] < 0:
        raise ValueError(f"times must lie within [0, 1], got {times[0]} to {times[-1]}.")
    points = points_at(sampler.schedule, times)
    arrivals = [*points[1:-1], Point(times[-1], 1.0, 0.0) if sampler.to_clean else points[-1]]
    return [Step(*step) for step in zip(points[:-1], points[1:], arrivals, strict=True)]


def clocks(points: Iterable[Point], like: Tensor) -> tuple[Tensor, ...]:
    """The times of these points as tensors (), of the dtype and on the device of `like`: one transfer for all."""
    return torch.tensor([point.time for point in points], dtype=like.dtype, device=like.device).unbind()


def starting_noise(schedule: Schedule, noise: Tensor, *, sigma_data: float = 1.0) -> Tensor:
    """x_1 = sqrt(alpha^2 d^2 + sigma^2) noise at time 1, for data of standard deviation d and mean 0."""
    ((_, alpha, sigma),) = points_at(schedule, (1.0,))
    return math.hypot(alpha * sigma_data, sigma) * noise


@lru_cache(maxsize=4096)
def interval_weights(nodes: tuple[float, ...], start: float, stop: float) -> tuple[float, ...]:
    """Weights w_j for which sum_j w_j f(u_j) is the integral of f from start to stop for polynomials of degree < n.

    The n nodes u_j must differ. Solved in float64 from the Vandermonde system in (u - start) / (stop - start).
    Adams-Bashforth extrapolates from nodes behind `start`: 23/12, -16/12, 5/12 on an equidistant grid, newest first.
    """
    scaled = (np.asarray(nodes, dtype=np.float64) - start) / (stop - start)
    moments = 1 / np.arange(1, len(nodes) + 1)
    return tuple(((stop - start) * np.linalg.solve(np.vander(scaled, increasing=True).T, moments)).tolist())


def combine(x: Tensor, factor: float, *terms: tuple[float, Tensor]) -> Tensor:
    """factor x + sum_j w_j a_j, in one new tensor and one pass for each term."""
    result = x * factor
    for weight, term in terms:
        result.add_(term, alpha=weight)
    return result


def slope(x: Tensor, mean: Tensor, scale: float, sigma: float) -> Tensor:
    """(x - scale D) / sigma: the velocity for scale = alpha + sigma, the noise for scale = alpha."""
    return torch.sub(x, mean, alpha=scale).mul_(1 / sigma)


def need_noise(noise: NoiseSource | None, sampler: object) -> NoiseSource:
    if noise is None:
        raise ValueError(f"{type(sampler).__name__} is stochastic: pass noise, a function of the step number.")
    return noise
