"""Grids of times for samplers: how the steps are spread between noise (time 1) and data (time 0).

A grid is a function (schedule, num_steps) -> num_steps + 1 falling times from 1 to 0. `linear` and `quadratic` look at the
time alone; `log-snr` and `karras` place the noise levels and ask the schedule for their times, so they mean the same for
every schedule with the same ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.schedules import log_snr, time_at_log_snr

TimeGrid = Callable[[Schedule, int], tuple[float, ...]]

KARRAS_RHO = 7.0


def linear_times(schedule: Schedule, num_steps: int) -> tuple[float, ...]:
    """Equidistant in time: t_k = 1 - k / N. Whatever noise levels the schedule makes of them."""
    return tuple(1 - step / num_steps for step in range(num_steps + 1))


def quadratic_times(schedule: Schedule, num_steps: int) -> tuple[float, ...]:
    """Equidistant in the root of time, t_k = (1 - k / N)^2: steps shorten towards clean data.

    Source: arXiv:2010.02502, appendix D; in arXiv:2410.16415 it runs from 1 - 1e-3 to 1e-3.
    """
    return tuple((1 - step / num_steps) ** 2 for step in range(num_steps + 1))


def log_snr_times(schedule: Schedule, num_steps: int) -> tuple[float, ...]:
    """Equidistant in the log SNR between the ends of the schedule: each step lowers sigma / alpha by the same factor.

    The natural grid of exponential integrators. With ends at 1e-3 and 1e3 half of the steps lie at sigma > alpha, where a
    Gaussian has little to resolve, and the last ones below the errors of a network. Source: arXiv:2206.00927.
    """
    highest, lowest = log_snr(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return _times_of(schedule, [lowest + (highest - lowest) * k / num_steps for k in range(num_steps + 1)])


def karras_times(schedule: Schedule, num_steps: int) -> tuple[float, ...]:
    """Equidistant in (sigma / alpha)^(1/7) between the ends of the schedule; on the EDM schedule the same as `linear`.

    Source: arXiv:2206.00364, eq. 5, rho = 7.
    """
    cleanest, noisiest = (-log_snr(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2).tolist()
    start, stop = math.exp(cleanest / KARRAS_RHO), math.exp(noisiest / KARRAS_RHO)
    roots = (stop + (start - stop) * k / num_steps for k in range(num_steps + 1))
    return _times_of(schedule, [-2 * KARRAS_RHO * math.log(root) for root in roots])


def _times_of(schedule: Schedule, log_snrs: list[float]) -> tuple[float, ...]:
    """Times of these log SNRs, with ends of exactly 1 and 0."""
    inside = time_at_log_snr(schedule, torch.tensor(log_snrs[1:-1], dtype=torch.float64)).tolist()
    return (1.0, *inside, 0.0)


GRIDS: dict[str, TimeGrid] = {
    "linear": linear_times,
    "quadratic": quadratic_times,
    "log-snr": log_snr_times,
    "karras": karras_times,
}
