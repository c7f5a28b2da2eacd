"""Deterministic samplers of the probability flow: DDIM, Heun, Adams-Bashforth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import NoiseSource, evaluate, interval_weights, plan_steps, velocity


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
            mean = evaluate(denoiser, x_t, now.time)
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
            slope = velocity(denoiser, x_t, now)
            slope_ahead = velocity(denoiser, look.total * (y + (look.u - now.u) * slope), look)
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
            slopes = [velocity(denoiser, x_t, now), *slopes][: self.order]
            if step == 0 and self.heun_start and self.order > 1:
                ahead = velocity(denoiser, look.total * (y + (look.u - now.u) * slopes[0]), look)
                weights, used = interval_weights((now.u, look.u), now.u, then.u), [slopes[0], ahead]
            else:
                weights, used = interval_weights(nodes, now.u, then.u), slopes
            for weight, slope in zip(weights, used, strict=True):
                y = y + weight * slope
            x_t = then.total * y
        return x_t
