"""Deterministic one-step samplers of the probability flow: DDIM, under its other name too, and Heun."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import (
    NoiseSource,
    clocks,
    combine,
    count_steps,
    interval_weights,
    plan_steps,
    slope,
)


@dataclass(frozen=True)
class DDIMSampler:
    """First order, 1 evaluation per step; DDIM without noise, which is Euler's method on the probability flow.

        x_s = alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t

    The same map in velocity, noise or data form, and on the rectified schedule Euler's method in time; DPM-Solver++ of order 1,
    the exponential integrator and Adams-Bashforth of order 1 are this map too. The last step returns D.
    Source: arXiv:2010.02502, eq. 12, eta = 0.

    Args:
        schedule: Scales of x_t.
        num_steps: Steps, spread by `grid`.
        grid: A key of `GRIDS`: how the times are spread.
        times: Falling times that replace the grid; `num_steps` and `grid` are then not read.
        to_clean: Let the last step go to sigma = 0.
    """

    schedule: Schedule
    num_steps: int = 64
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    @property
    def num_evaluations(self) -> int:
        return count_steps(self)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        steps = plan_steps(self)
        x_t = x_1
        for (now, _, then), time in zip(steps, clocks((step.now for step in steps), x_1), strict=True):
            ratio = then.sigma / now.sigma
            x_t = ddim_step(x_t, denoiser(x_t, time), then.alpha - ratio * now.alpha, ratio)
        return x_t


def ddim_step(x_t: Tensor, mean: Tensor, of_mean: float, of_x: float) -> Tensor:
    """of_mean D + of_x x_t; D itself, bit by bit, where the step goes to sigma = 0."""
    return mean.to(x_t.dtype) if of_x == 0 and of_mean == 1 else combine(x_t, of_x, (of_mean, mean))


def exponential_integrator(
    schedule: Schedule,
    num_steps: int = 64,
    grid: str = "linear",
    times: tuple[float, ...] | None = None,
    to_clean: bool = False,
) -> DDIMSampler:
    """First order, 1 evaluation per step; DDIM by its other name, which stops at the schedule's own end.

        x_s = r x_t + (sigma_s - r sigma_t) e,  r = alpha_s / alpha_t,  e = (x_t - alpha_t D) / sigma_t

    Since x_t - sigma_t e = alpha_t D, this is alpha_s D + sigma_s e, the step of `DDIMSampler`, on every schedule and grid. What
    is published under this name ends at time 0, where sigma_min is left in the result, hence the default of `to_clean`; with
    True it is DDIM to the last bit.
    Source: arXiv:2306.10574 and 2410.16415, predictor of both codes; arXiv:2204.13902, eq. 11.
    """
    return DDIMSampler(schedule, num_steps, grid, times, to_clean)


@dataclass(frozen=True)
class HeunSampler:
    """Second order, 2 evaluations per step; Heun's method on the velocity form.

    In the last step the second evaluation is at the schedule's own end, sigma_min, and the two-point rule reaches on to
    sigma = 0, so the order holds there too. Source: arXiv:2206.00364, algorithm 1, which steps in sigma and ends with
    an Euler step; that one is `StochasticHeunSampler` with churn = 0.

    Args: as for `DDIMSampler`.
    """

    schedule: Schedule
    num_steps: int = 16
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    @property
    def num_evaluations(self) -> int:
        return 2 * count_steps(self)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        steps = plan_steps(self)
        times = clocks((step.now for step in steps), x_1)
        looks = clocks((step.look for step in steps), x_1)
        x_t = x_1
        for (now, look, then), time, time_ahead in zip(steps, times, looks, strict=True):
            here = slope(x_t, denoiser(x_t, time), now.total, now.sigma)
            reach = combine(x_t, look.total / now.total, (look.total * (look.u - now.u), here))
            ahead = slope(reach, denoiser(reach, time_ahead), look.total, look.sigma)
            w_here, w_ahead = interval_weights((now.u, look.u), now.u, then.u)
            x_t = combine(x_t, then.total / now.total, (then.total * w_here, here), (then.total * w_ahead, ahead))
        return x_t
