"""Stochastic one-step samplers: ancestral sampling, and Heun's method with churned noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.deterministic import ddim_step
from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import (
    NoiseSource,
    Point,
    Step,
    clocks,
    combine,
    count_steps,
    need_noise,
    plan_steps,
    points_at,
    slope,
)
from eddycast.diffusion.schedules import time_at_log_snr


@dataclass(frozen=True)
class AncestralSampler:
    """Stochastic, first order, 1 evaluation per step; DDPM at eta = 1, DDIM at eta = 0.

        x_s = alpha_s D + sigma_s (sqrt(1 - eta tau) (x_t - alpha_t D) / sigma_t + sqrt(eta tau) noise),
        tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2

    Fresh noise forgets the errors of early steps, which helps where a guided denoiser is only roughly right; it needs
    more steps than a deterministic sampler. Source: arXiv:2010.02502, eq. 16, with eta^2 of the paper written eta here.

    Args: as for `DDIMSampler`, and
        eta: Share of the noise that is fresh, 0 to 1.
        again: Denoise the result once more as if it were at the last time before 0, x <- alpha D(x): one more evaluation, as in the
            code of arXiv:2205.09853. With 1000 steps it changes next to nothing; with few it smooths what is clean already.
    """

    schedule: Schedule
    num_steps: int = 64
    eta: float = 1.0
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True
    again: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}.")

    @property
    def num_evaluations(self) -> int:
        return count_steps(self) + self.again

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw = need_noise(noise, self)
        steps = plan_steps(self)
        times = clocks((step.now for step in steps), x_1)
        x_t = x_1
        for count, ((now, _, then), time) in enumerate(zip(steps, times, strict=True)):
            fresh = self.eta * (1 - (then.rho / now.rho) ** 2)
            kept = then.sigma * math.sqrt(1 - fresh) / now.sigma
            x_t = ddim_step(x_t, denoiser(x_t, time), then.alpha - kept * now.alpha, kept)
            if fresh > 0 and then.sigma > 0:
                x_t.add_(draw(count), alpha=then.sigma * math.sqrt(fresh))
        return steps[-1].now.alpha * denoiser(x_t, times[-1]) if self.again else x_t


@dataclass(frozen=True)
class StochasticHeunSampler:
    """Second order without churn, 2 evaluations per step, 1 in a last step to sigma = 0; Heun in rho with churned noise ("EDM").

        rho_up = rho (1 + gamma),  x_up = x + alpha s_noise sqrt(rho_up^2 - rho^2) noise,  then Heun's step from rho_up to rho_s

    with rho = sigma / alpha, everything in x / alpha, so that it serves every schedule; gamma = min(churn / N, sqrt(2) - 1) where
    churn_min <= rho <= churn_max and 0 elsewhere. Adding noise and removing it forgets errors of earlier steps. rho_up never
    leaves the schedule (the published network takes any sigma), so the very first step adds none.
    Source: arXiv:2206.00364, algorithm 2, and with churn = 0 algorithm 1. Published for images: churn 30 to 80, churn_min 0.01 to
    0.05, churn_max 1 to 50, s_noise 1.003 to 1.007, at data of standard deviation 0.5. The published grid has one more time, at
    sigma_min, before it goes to 0. Breaks: Heun in rho is a poor rule where rho falls by large factors; on times linear with ends
    at 1e3 the first step spoils all (error 2.6 at 8 steps on a Gaussian of size 1, 0.6 on `karras`), hence the grid.

    Args: as for `DDIMSampler`, with `karras` for a grid, and
        churn: Noise added over all steps, in units of log rho; 0 needs no noise.
        churn_min, churn_max: Levels rho between which noise is added.
        s_noise: Factor of the added noise; above 1 it makes up for a network that removes too much.
    """

    schedule: Schedule
    num_steps: int = 32
    churn: float = 8.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    s_noise: float = 1.0
    grid: str = "karras"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        if self.churn < 0 or not 0 <= self.churn_min <= self.churn_max or self.s_noise <= 0:
            raise ValueError(
                "churn >= 0, 0 <= churn_min <= churn_max and s_noise > 0 are needed, got "
                f"{self.churn}, {self.churn_min}, {self.churn_max} and {self.s_noise}."
            )

    @property
    def num_evaluations(self) -> int:
        return 2 * count_steps(self) - self.to_clean

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw = need_noise(noise, self) if self.churn > 0 else None
        steps = plan_steps(self)
        raised = self._raised(steps)
        times, looks = clocks(raised, x_1), clocks((step.look for step in steps), x_1)
        x_t = x_1
        for count, ((now, look, then), up) in enumerate(zip(steps, raised, strict=True)):
            if draw is not None and up.rho > now.rho:
                added = up.alpha * self.s_noise * math.sqrt(up.rho**2 - now.rho**2)
                x_t = combine(x_t, up.alpha / now.alpha, (added, draw(count)))
            mean = denoiser(x_t, times[count])
            if then.sigma == 0:
                return mean.to(x_t.dtype)
            here = slope(x_t, mean, up.alpha, up.sigma)
            ratio, change = then.alpha / up.alpha, then.alpha * (then.rho - up.rho)
            reach = combine(x_t, ratio, (change, here))
            ahead = slope(reach, denoiser(reach, looks[count]), look.alpha, look.sigma)
            x_t = combine(x_t, ratio, (change / 2, here), (change / 2, ahead))
        return x_t

    def _raised(self, steps: list[Step]) -> list[Point]:
        """Where each step starts after its noise was added."""
        gamma = min(self.churn / len(steps), math.sqrt(2) - 1)
        (end,) = points_at(self.schedule, (1.0,))
        starts = [step.now for step in steps]
        levels = [
            min(now.rho * (1 + gamma), end.rho) if self.churn_min <= now.rho <= self.churn_max else now.rho
            for now in starts
        ]
        moved = [count for count, now in enumerate(starts) if levels[count] > now.rho]
        if moved:
            log_snrs = torch.tensor([-2 * math.log(levels[count]) for count in moved], dtype=torch.float64)
            points = points_at(self.schedule, time_at_log_snr(self.schedule, log_snrs).tolist())
            for count, point in zip(moved, points, strict=True):
                starts[count] = point
        return starts
