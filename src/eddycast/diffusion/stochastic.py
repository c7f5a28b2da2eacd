"""Stochastic samplers: ancestral, and a predictor with Langevin corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import NoiseSource, evaluate, need_noise, plan_steps


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
        draw = need_noise(noise, self)
        x_t = x_1
        for step, (now, _, then) in enumerate(plan_steps(self.schedule, self.num_steps, self.times, self.to_clean)):
            mean = evaluate(denoiser, x_t, now.time)
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
        draw = need_noise(noise, self)
        steps = plan_steps(self.schedule, self.num_steps, self.times, self.to_clean)
        x_t = x_1
        for step, (now, _, then) in enumerate(steps):
            mean = evaluate(denoiser, x_t, now.time)
            x_t = then.alpha * mean + then.sigma / now.sigma * (x_t - now.alpha * mean)
            if step == len(steps) - 1:
                break
            for correction in range(self.num_corrections):
                drift = then.alpha * evaluate(denoiser, x_t, then.time) - x_t  # sigma^2 score
                kick = math.sqrt(2 * self.amplitude) * then.sigma * draw(step * self.num_corrections + correction)
                x_t = x_t + self.amplitude * drift + kick
        return x_t
