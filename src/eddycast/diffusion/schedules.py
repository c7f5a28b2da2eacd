"""Noise schedules: time in [0, 1] to the scales of x_t = alpha x + sigma noise.

Both keep alpha and sigma positive at either end, so that neither sigma / alpha at time 1 nor a division by sigma at
time 0 breaks. Samplers step from the last time to sigma = 0 by themselves (see `sampling`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Schedule


def _check_ends(alpha_min: float, sigma_min: float) -> None:
    if not (0 < alpha_min < 0.5 and 0 < sigma_min < 0.5):
        raise ValueError(
            f"alpha_min and sigma_min must lie in (0, 0.5), got {alpha_min} and {sigma_min}: they keep the ends of the "
            "schedule away from a division by zero; 1e-3 is a good value."
        )


@dataclass(frozen=True)
class RectifiedSchedule:
    """Straight paths (flow matching): alpha = 1 - tau, sigma = tau, tau linear in time from sigma_min to 1 - alpha_min.

    alpha + sigma = 1 at every time. With time uniform in [0, 1], log(sigma / alpha) has a logistic law.
    Source: arXiv:2209.03003, 2210.02747; clamped ends as in arXiv:2507.02608, whose sigma / alpha spans 1e-3 to 1e3.
    """

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _check_ends(self.alpha_min, self.sigma_min)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        span = 1 - self.alpha_min - self.sigma_min
        return self.alpha_min + span * (1 - time), self.sigma_min + span * time


@dataclass(frozen=True)
class CosineSchedule:
    """Variance preserving: alpha = cos(a), sigma = sin(a), with an angle a linear in time.

    The angle goes from asin(sigma_min) to acos(alpha_min); alpha^2 + sigma^2 = 1 at every time.
    Source: arXiv:2102.09672, 2202.00512.
    """

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _check_ends(self.alpha_min, self.sigma_min)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = math.asin(self.sigma_min), math.acos(self.alpha_min)
        angle = start + (stop - start) * time
        return torch.cos(angle), torch.sin(angle)


SCHEDULES: dict[str, type[RectifiedSchedule] | type[CosineSchedule]] = {
    "rectified": RectifiedSchedule,
    "cosine": CosineSchedule,
}


def scales(schedule: Schedule, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at `time`, () or (*batch), shaped to multiply `like` (*batch, ...)."""
    shape = (*time.shape, *(1,) * (like.ndim - time.ndim))
    alpha, sigma = schedule(time)
    return alpha.reshape(shape), sigma.reshape(shape)
