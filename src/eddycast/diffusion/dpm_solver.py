"""DPM-Solver++: exponential integrators of the data prediction, multistep, for the flow and for the stochastic equation.

With lambda = log(alpha / sigma) and a step h = lambda_s - lambda_t the linear part is solved exactly and the denoiser D is
a constant (order 1) or a line in lambda through its last two values (order 2, "2M"):

    E = D_t                                                       order 1
    E = D_t + (D_t - D_r) h / (2 (lambda_t - lambda_r))           order 2, r the time before

    flow:        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) E
    stochastic:  x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) E + sigma_s sqrt(1 - e^-2h) noise

The first step has no history and is of order 1, which costs no order. A step to sigma = 0 has h infinite, where a line through
the past means nothing: it is of order 1 and returns D. `lower_order_final` makes a last step that stops at the schedule's
own end of order 1 as well; on time grids that step is long in lambda, and a line is a bad guess.
Source: arXiv:2211.01095, algorithm 2 and section 5 (2M), appendix B (stochastic).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import (
    NoiseSource,
    Point,
    Step,
    Stepping,
    clocks,
    combine,
    count_steps,
    need_noise,
    plan_steps,
)


@dataclass(frozen=True)
class DPMSolverSampler:
    """Multistep of order 1 or 2, 1 evaluation per step; DPM-Solver++(2M) on the flow. Order 1 is DDIM.

    Source: see the module. The published code of arXiv:2410.16415 uses order 1 on linear times, and a last call at the end.

    Args: as for `DDIMSampler`, and
        order: 1 or 2.
        lower_order_final: Make the last step one of order 1 where it stops at the schedule's own end.
    """

    schedule: Schedule
    num_steps: int = 16
    order: int = 2
    lower_order_final: bool = True
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        _check_order(self.order)

    @property
    def num_evaluations(self) -> int:
        return count_steps(self)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        steps, bends = plan_bends(self, self.order, self.lower_order_final)
        x_t, last = x_1, x_1
        for (now, _, then), bend, time in zip(steps, bends, clocks((step.now for step in steps), x_1), strict=True):
            mean = denoiser(x_t, time)
            if then.sigma == 0:
                return mean.to(x_t.dtype)
            ratio = then.sigma / now.sigma
            gain = then.alpha - ratio * now.alpha  # alpha_s (1 - e^-h)
            terms = [(gain * (1 + bend), mean)]
            if bend != 0:
                terms.append((-gain * bend, last))
            x_t, last = combine(x_t, ratio, *terms), mean
        return x_t


@dataclass(frozen=True)
class StochasticDPMSolverSampler:
    """Stochastic multistep of order 1 or 2, 1 evaluation per step; SDE-DPM-Solver++(2M). Order 1 is ancestral sampling.

    Fresh noise as in ancestral sampling, with a drift of second order: the variance of the samples is right to second order in
    the step where that of ancestral sampling is to first. Source: see the module.

    Args: as for `DPMSolverSampler`.
    """

    schedule: Schedule
    num_steps: int = 32
    order: int = 2
    lower_order_final: bool = True
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        _check_order(self.order)

    @property
    def num_evaluations(self) -> int:
        return count_steps(self)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw = need_noise(noise, self)
        steps, bends = plan_bends(self, self.order, self.lower_order_final)
        times = clocks((step.now for step in steps), x_1)
        x_t, last = x_1, x_1
        for count, ((now, _, then), bend, time) in enumerate(zip(steps, bends, times, strict=True)):
            mean = denoiser(x_t, time)
            if then.sigma == 0:
                return mean.to(x_t.dtype)
            shrink = then.rho / now.rho  # e^-h
            gain = then.alpha * (1 - shrink**2)
            terms = [(gain * (1 + bend), mean)]
            if bend != 0:
                terms.append((-gain * bend, last))
            terms.append((then.sigma * math.sqrt(1 - shrink**2), draw(count)))
            x_t, last = combine(x_t, shrink * then.sigma / now.sigma, *terms), mean
        return x_t


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}.")


def plan_bends(sampler: Stepping, order: int, lower_order_final: bool) -> tuple[list[Step], list[float]]:
    """Steps, and for each h / (2 (lambda_t - lambda_r)), 0 where it is of order 1."""
    steps = plan_steps(sampler)

    def bend(count: int) -> float:
        final = count == len(steps) - 1 and (lower_order_final or sampler.to_clean)
        if order == 1 or count == 0 or final:
            return 0.0
        before, now, then = steps[count - 1].now, steps[count].now, steps[count].then
        return (_lambda(then) - _lambda(now)) / (2 * (_lambda(now) - _lambda(before)))

    return steps, [bend(count) for count in range(len(steps))]


def _lambda(point: Point) -> float:
    return -math.log(point.rho)
