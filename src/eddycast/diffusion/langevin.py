"""A predictor with Langevin corrections, and the two published laws of their step length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.deterministic import ddim_step
from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import NoiseSource, clocks, combine, count_steps, need_noise, plan_steps, slope

# (e, amplitude) -> delta / sigma^2, with the noise e = -sigma score: a number, or one for each sample, (sample, 1, ...).
StepLaw = Callable[[Tensor, float], float | Tensor]


def sigma_length(noise: Tensor, amplitude: float) -> float:
    """delta = amplitude sigma^2: the same for all samples, known beforehand. Where score^2 has its mean 1 / sigma^2, the other law."""
    return amplitude


def score_length(noise: Tensor, amplitude: float) -> Tensor:
    """delta = amplitude / mean(score^2), the mean over all of a sample but its first axis, which counts samples.

    Published; longer where the score is small, in a sample that happens to lie near the mean of the data, or where part of it
    is known. It depends on the draw, so a batch of one window and a window composed of several get different lengths.
    Source: arXiv:2306.10574 and arXiv:2410.16415, code of both.
    """
    axes = tuple(range(1, noise.ndim))
    return amplitude / noise.square().mean(dim=axes, keepdim=True)


STEP_LAWS: dict[str, StepLaw] = {"sigma": sigma_length, "score": score_length}


@dataclass(frozen=True)
class PredictorCorrectorSampler:
    """Stochastic; a DDIM step, then Langevin steps at the new time, 1 + num_corrections evaluations per step.

        x <- x + delta score + sqrt(2 delta) noise,  score = (alpha D - x) / sigma^2,  delta by `step_law`

    Corrections spread what an observation says over a long window and repair guidance errors. They leave a bias: the
    variance of the noise in x_t grows by up to 1 / (1 - amplitude / 2), which fades with sigma. None follow the last
    step (the published ones end with corrections at sigma_min).
    Source: arXiv:2011.13456, appendix G; step lengths of arXiv:2306.10574 ("score") and their mean ("sigma").

    Args: as for `DDIMSampler`, and
        num_corrections: Langevin steps per time.
        amplitude: tau of the sources; published 0.25 to 1.
        step_law: A key of `STEP_LAWS`: `sigma` for delta = amplitude sigma^2, `score` for amplitude / mean(score^2) of each sample.
    """

    schedule: Schedule
    num_steps: int = 64
    num_corrections: int = 1
    amplitude: float = 0.25
    step_law: str = "sigma"
    grid: str = "linear"
    times: tuple[float, ...] | None = None
    to_clean: bool = True

    def __post_init__(self) -> None:
        if self.num_corrections < 0 or not 0 < self.amplitude < 2:
            raise ValueError(
                "num_corrections must not be negative and amplitude must lie in (0, 2), beyond which Langevin steps "
                f"diverge; got {self.num_corrections} and {self.amplitude}."
            )
        if self.step_law not in STEP_LAWS:
            raise ValueError(f"step_law must be one of {', '.join(STEP_LAWS)}, got {self.step_law!r}.")

    @property
    def num_evaluations(self) -> int:
        num_steps = count_steps(self)
        return num_steps + (num_steps - 1) * self.num_corrections

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x_1: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        draw, law = need_noise(noise, self), STEP_LAWS[self.step_law]
        steps = plan_steps(self)
        times = clocks((step.now for step in steps), x_1)
        x_t = x_1
        for count, (now, _, then) in enumerate(steps):
            ratio = then.sigma / now.sigma
            x_t = ddim_step(x_t, denoiser(x_t, times[count]), then.alpha - ratio * now.alpha, ratio)
            if count == len(steps) - 1:
                break
            for correction in range(self.num_corrections):
                mean = denoiser(x_t, times[count + 1])
                fresh = draw(count * self.num_corrections + correction)
                toward = slope(x_t, mean, then.alpha, then.sigma)
                length = law(toward, self.amplitude)
                if isinstance(length, Tensor):
                    x_t = torch.addcmul(x_t, length, toward, value=-then.sigma)
                    x_t.addcmul_(torch.sqrt(2 * length), fresh, value=then.sigma)
                else:
                    kick = math.sqrt(2 * length) * then.sigma
                    x_t = combine(x_t, 1.0, (-length * then.sigma, toward), (kick, fresh))
        return x_t
