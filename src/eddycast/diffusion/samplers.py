"""Samplers: from x_1 at time 1 to data at time 0, with a denoiser.

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

To add a sampler: write the dataclass, add one line to `SAMPLERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.errors import InputError

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


def _evaluate(denoiser: Denoiser, x_t: Tensor, time: float) -> Tensor:
    return denoiser(x_t, torch.tensor(time, dtype=x_t.dtype, device=x_t.device))


def _velocity(denoiser: Denoiser, x_t: Tensor, point: Point) -> Tensor:
    return (x_t - point.total * _evaluate(denoiser, x_t, point.time)) / point.sigma


def _need_noise(noise: NoiseSource | None, sampler: object) -> NoiseSource:
    if noise is None:
        raise ValueError(f"{type(sampler).__name__} is stochastic: pass noise, a function of the step number.")
    return noise


@dataclass(frozen=True)
class DDIMSampler:
    """First order, 1 evaluation per step; DDIM without noise, which is Euler's method on the probability flow.

        x_s = alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t

    The same map in velocity, noise or data form, and on the rectified schedule Euler's method in time. The last step
    returns D.
    Source: arXiv:2010.02502, eq. 12, eta = 0.

    Args:
        schedule: Scales of x_t.
        num_steps: Equidistant steps in time.
        times: Falling times that replace the equidistant grid; `num_steps` is then not read.
        to_clean: Let the last step go to sigma = 0.
    """

    schedule: Schedule
    num_steps: int = 64
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    @property
    def num_evaluations(self) -> int:
        return self.num_steps if self.times is None else len(self.times) - 1

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        x_t = x_1
        for now, _, then in plan_steps(self.schedule, self.num_steps, self.times, self.to_clean):
            mean = _evaluate(denoiser, x_t, now.time)
            x_t = then.alpha * mean + then.sigma / now.sigma * (x_t - now.alpha * mean)
        return x_t


@dataclass(frozen=True)
class HeunSampler:
    """Second order, 2 evaluations per step; Heun's method on the velocity form.

    In the last step the second evaluation is at the schedule's own end, sigma_min, and the two-point rule reaches on to
    sigma = 0, so the order holds there too. Source: arXiv:2206.00364, algorithm 1, which steps in sigma and ends with
    an Euler step.

    Args: as for `DDIMSampler`.
    """

    schedule: Schedule
    num_steps: int = 16
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    @property
    def num_evaluations(self) -> int:
        return 2 * (self.num_steps if self.times is None else len(self.times) - 1)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        x_t = x_1
        for now, look, then in plan_steps(self.schedule, self.num_steps, self.times, self.to_clean):
            y = x_t / now.total
            slope = _velocity(denoiser, x_t, now)
            slope_ahead = _velocity(denoiser, look.total * (y + (look.u - now.u) * slope), look)
            weight, weight_ahead = interval_weights((now.u, look.u), now.u, then.u)
            x_t = then.total * (y + weight * slope + weight_ahead * slope_ahead)
        return x_t


@dataclass(frozen=True)
class AdamsBashforthSampler:
    """Multistep, 1 evaluation per step; Adams-Bashforth of order 1 to 3 on the velocity form ("vAB").

        y_s = y_t + sum_j w_j v_j,  w from `interval_weights` over the last `order` values of u

    For want of history it starts with orders 1, 2, ...; that one first-order step leaves an error of h^2, so order 3
    shows as 2 in the end. `heun_start` spends one more evaluation on the first step and restores order 3: on a Gaussian
    at 16 steps the error falls fivefold. Source: arXiv:2507.02608, section 3.3 (order 3, low-order start, noise form);
    the velocity form is more accurate from the first steps.

    Args: as for `DDIMSampler`, and
        order: 1, 2 or 3.
        heun_start: Make the first step one of Heun's, for one more evaluation; order 1 has no use for it.
    """

    schedule: Schedule
    num_steps: int = 16
    order: int = 3
    heun_start: bool = True
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}.")

    @property
    def num_evaluations(self) -> int:
        num_steps = self.num_steps if self.times is None else len(self.times) - 1
        return num_steps + (self.heun_start and self.order > 1)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        x_t = x_1
        nodes: list[float] = []
        slopes: list[Tensor] = []
        for step, (now, look, then) in enumerate(plan_steps(self.schedule, self.num_steps, self.times, self.to_clean)):
            y = x_t / now.total
            nodes = [now.u, *nodes][: self.order]
            slopes = [_velocity(denoiser, x_t, now), *slopes][: self.order]
            if step == 0 and self.heun_start and self.order > 1:
                ahead = _velocity(denoiser, look.total * (y + (look.u - now.u) * slopes[0]), look)
                weights, used = interval_weights((now.u, look.u), now.u, then.u), [slopes[0], ahead]
            else:
                weights, used = interval_weights(nodes, now.u, then.u), slopes
            for weight, slope in zip(weights, used, strict=True):
                y = y + weight * slope
            x_t = then.total * y
        return x_t


@dataclass(frozen=True)
class AncestralSampler:
    """Stochastic, first order, 1 evaluation per step; DDPM at eta = 1, DDIM at eta = 0.

        x_s = alpha_s D + sigma_s (sqrt(1 - eta tau) (x_t - alpha_t D) / sigma_t + sqrt(eta tau) noise),
        tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2

    Fresh noise forgets the errors of early steps, which helps where a guided denoiser is only roughly right; it needs
    more steps than a deterministic sampler. Source: arXiv:2010.02502, eq. 16, with eta^2 of the paper written eta here.

    Args: as for `DDIMSampler`, and
        eta: Share of the noise that is fresh, 0 to 1.
    """

    schedule: Schedule
    num_steps: int = 64
    eta: float = 1.0
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}.")

    @property
    def num_evaluations(self) -> int:
        return self.num_steps if self.times is None else len(self.times) - 1

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw = _need_noise(noise, self)
        x_t = x_1
        for step, (now, _, then) in enumerate(plan_steps(self.schedule, self.num_steps, self.times, self.to_clean)):
            mean = _evaluate(denoiser, x_t, now.time)
            fresh = self.eta * (1 - (now.alpha * then.sigma / (then.alpha * now.sigma)) ** 2)
            kept = then.sigma * math.sqrt(1 - fresh) / now.sigma
            x_t = then.alpha * mean + kept * (x_t - now.alpha * mean)
            if fresh > 0 and then.sigma > 0:
                x_t = x_t + then.sigma * math.sqrt(fresh) * draw(step)
        return x_t


@dataclass(frozen=True)
class PredictorCorrectorSampler:
    """Stochastic; a DDIM step, then Langevin steps at the new time, 1 + num_corrections evaluations per step.

        x <- x + delta score + sqrt(2 delta) noise,  score = (alpha D - x) / sigma^2,  delta = amplitude sigma^2

    Corrections spread what an observation says over a long window and repair guidance errors. They leave a bias: the
    variance of the noise in x_t grows by up to 1 / (1 - amplitude / 2), which fades with sigma. None follow the last
    step.
    Source: arXiv:2011.13456, appendix G, with the step length of arXiv:2306.10574 taken at its mean.

    Args: as for `DDIMSampler`, and
        num_corrections: Langevin steps per time.
        amplitude: tau of the sources; published 0.25 to 1.
    """

    schedule: Schedule
    num_steps: int = 64
    num_corrections: int = 1
    amplitude: float = 0.25
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        if self.num_corrections < 0 or not 0 < self.amplitude < 2:
            raise ValueError(
                "num_corrections must not be negative and amplitude must lie in (0, 2), beyond which Langevin steps "
                f"diverge; got {self.num_corrections} and {self.amplitude}."
            )

    @property
    def num_evaluations(self) -> int:
        num_steps = self.num_steps if self.times is None else len(self.times) - 1
        return num_steps + (num_steps - 1) * self.num_corrections

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw = _need_noise(noise, self)
        steps = plan_steps(self.schedule, self.num_steps, self.times, self.to_clean)
        x_t = x_1
        for step, (now, _, then) in enumerate(steps):
            mean = _evaluate(denoiser, x_t, now.time)
            x_t = then.alpha * mean + then.sigma / now.sigma * (x_t - now.alpha * mean)
            if step == len(steps) - 1:
                break
            for correction in range(self.num_corrections):
                drift = then.alpha * _evaluate(denoiser, x_t, then.time) - x_t  # sigma^2 score
                kick = math.sqrt(2 * self.amplitude) * then.sigma * draw(step * self.num_corrections + correction)
                x_t = x_t + self.amplitude * drift + kick
        return x_t


# Every sampler by its name in recipes; the first line of its docstring describes it in listings.
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIMSampler,
    "heun": HeunSampler,
    "adams-bashforth": AdamsBashforthSampler,
    "ancestral": AncestralSampler,
    "predictor-corrector": PredictorCorrectorSampler,
}


def make_sampler(name: str, schedule: Schedule, num_steps: int, **options: Any) -> Sampler:
    """The sampler of that name. Raises InputError for a name that does not exist or an option the sampler lacks."""
    if name not in SAMPLERS:
        raise InputError(f"Unknown sampler '{name}': choose one of {', '.join(SAMPLERS)}.")
    try:
        return SAMPLERS[name](schedule, num_steps, **options)
    except TypeError as error:
        raise InputError(f"Sampler '{name}' does not take these options ({error}): see its docstring.") from error
