"""What samplers share: from x_1 at time 1 to data at time 0, with a denoiser.

A sampler is a frozen dataclass whose first fields are the schedule and the number of steps; `sampler(denoiser, x_1)`
returns x_0 with the shape, dtype and device of x_1. Nothing is differentiated and nothing random is consumed: a
stochastic sampler asks `noise(step)` for its numbers, the others ignore the argument.

The probability flow is integrated in velocity form. With u = sigma / (alpha + sigma) and y = x_t / (alpha + sigma),

    dy/du = v = (x_t - (alpha + sigma) D(x_t)) / sigma,

which is regular from pure noise (u = 1) to data (u = 0) for every schedule; on the rectified one u is linear in time.
Steps run between the times of the grid, and the last one goes on to sigma = 0, so that no white noise of size sigma_min
is left in the result (it would fill the empty end of a smooth field's spectrum); `to_clean=False` stops at the
schedule's own end. That last piece does not shrink with more steps and sets a floor of order sigma_min^(order + 1) to
the error, far below that of a network. Scales are computed in float64 on the CPU and multiply the tensors as numbers.

To add a sampler: one file with the dataclass, and one line in `registry.SAMPLERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

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


class Step(NamedTuple):
    """One step: evaluate at `now`, perhaps at `look`, arrive at `then`; the last two differ in the last step only."""

    now: Point
    look: Point
    then: Point


def linear_times(num_steps: int) -> tuple[float, ...]:
    """num_steps + 1 equidistant times from 1 to 0."""
    if num_steps < 1:
        raise ValueError(f"A sampler needs at least one step, got num_steps = {num_steps}.")
    return tuple(1 - step / num_steps for step in range(num_steps + 1))


def plan_steps(schedule: Schedule, num_steps: int, times: tuple[float, ...] | None, to_clean: bool) -> list[Step]:
    """Steps between the given times, or `num_steps` equidistant ones; `to_clean` lets the last arrive at sigma = 0."""
    grid = linear_times(num_steps) if times is None else times
    if len(grid) < 2 or any(later >= earlier for earlier, later in pairwise(grid)):
        raise ValueError(f"times must be at least two, falling, within [0, 1]; got {grid}.")
    if grid[0] > 1 or grid[-1] < 0:
        raise ValueError(f"times must lie within [0, 1], got {grid[0]} to {grid[-1]}.")
    alphas, sigmas = schedule(torch.tensor(grid, dtype=torch.float64))
    points = [Point(*numbers) for numbers in zip(grid, alphas.tolist(), sigmas.tolist(), strict=True)]
    arrivals = [*points[1:-1], Point(grid[-1], 1.0, 0.0) if to_clean else points[-1]]
    return [Step(*step) for step in zip(points[:-1], points[1:], arrivals, strict=True)]


def starting_noise(schedule: Schedule, noise: Tensor, *, sigma_data: float = 1.0) -> Tensor:
    """x_1 = sqrt(alpha^2 d^2 + sigma^2) noise at time 1, for data of standard deviation d and mean 0."""
    ((_, alpha, sigma), *_), *_ = plan_steps(schedule, 1, None, to_clean=False)
    return math.hypot(alpha * sigma_data, sigma) * noise


def interval_weights(nodes: Sequence[float], start: float, stop: float) -> list[float]:
    """Weights w_j for which sum_j w_j f(u_j) is the integral of f from start to stop for polynomials of degree < n.

    The n nodes u_j must differ. Solved in float64 from the Vandermonde system in (u - start) / (stop - start).
    Adams-Bashforth extrapolates from nodes behind `start`: 23/12, -16/12, 5/12 on an equidistant grid, newest first.
    """
    scaled = (np.asarray(nodes, dtype=np.float64) - start) / (stop - start)
    moments = 1 / np.arange(1, len(nodes) + 1)
    return ((stop - start) * np.linalg.solve(np.vander(scaled, increasing=True).T, moments)).tolist()


def evaluate(denoiser: Denoiser, x_t: Tensor, time: float) -> Tensor:
    return denoiser(x_t, torch.tensor(time, dtype=x_t.dtype, device=x_t.device))


def velocity(denoiser: Denoiser, x_t: Tensor, point: Point) -> Tensor:
    return (x_t - point.total * evaluate(denoiser, x_t, point.time)) / point.sigma


def need_noise(noise: NoiseSource | None, sampler: object) -> NoiseSource:
    if noise is None:
        raise ValueError(f"{type(sampler).__name__} is stochastic: pass noise, a function of the step number.")
    return noise
