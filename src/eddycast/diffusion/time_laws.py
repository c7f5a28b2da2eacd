"""At which diffusion times a network is trained: laws of time, drawn from uniform numbers by their quantiles.

A law is a function (schedule, uniform) -> time of the same shape, dtype and device, in [0, 1]; it consumes no randomness of its
own. The loss of a sample is not reweighted: the law says where the network spends its effort. All but `uniform` and `stratified`
are laws of the noise level rho = sigma / alpha, cut at the ends of the schedule, so they mean the same on every schedule.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.schedules import log_snr, time_at_log_snr

TimeLaw = Callable[[Schedule, Tensor], Tensor]

EDM_MEAN, EDM_STD = -1.2, 1.2


def uniform_time(schedule: Schedule, uniform: Tensor) -> Tensor:
    """Uniform in time: on the rectified schedule, log rho has a logistic law. Source: arXiv:2209.03003, 2410.16415."""
    return uniform


def stratified_time(schedule: Schedule, uniform: Tensor) -> Tensor:
    """Uniform in time for each entry, and evenly spread over the batch: (u_0 + i / B) mod 1 for entry i of B.

    Only the first number is used. The loss of a batch fluctuates less. Source: arXiv:2107.00630, low-discrepancy sampler.
    """
    count = uniform.numel()
    offsets = torch.arange(count, dtype=uniform.dtype, device=uniform.device) / count
    return torch.remainder(uniform.flatten()[:1] + offsets, 1.0).reshape(uniform.shape)


def edm_time(schedule: Schedule, uniform: Tensor) -> Tensor:
    """log rho ~ N(-1.2, 1.2^2), made for data of standard deviation 0.5. Source: arXiv:2206.00364, table 1."""
    return _log_normal(schedule, uniform, EDM_MEAN, EDM_STD)


def logit_normal_time(schedule: Schedule, uniform: Tensor) -> Tensor:
    """log rho ~ N(0, 1): on the rectified schedule, logit(time) is standard normal. Source: arXiv:2403.03206, logit-normal."""
    return _log_normal(schedule, uniform, 0.0, 1.0)


def log_snr_time(schedule: Schedule, uniform: Tensor) -> Tensor:
    """log rho uniform between the ends of the schedule: much effort goes to the extremes."""
    highest, lowest = log_snr(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return time_at_log_snr(schedule, highest + (lowest - highest) * uniform)


def _log_normal(schedule: Schedule, uniform: Tensor, mean: float, std: float) -> Tensor:
    """Quantiles of log rho ~ N(mean, std^2), cut at the ends of the schedule without piling up there."""
    ends = -log_snr(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2
    lowest, highest = torch.special.ndtr((ends - mean) / std).tolist()
    log_rho = mean + std * torch.special.ndtri(lowest + (highest - lowest) * uniform)
    return time_at_log_snr(schedule, -2 * log_rho)


TIME_LAWS: dict[str, TimeLaw] = {
    "uniform": uniform_time,
    "stratified": stratified_time,
    "edm": edm_time,
    "logit-normal": logit_normal_time,
    "log-snr": log_snr_time,
}
