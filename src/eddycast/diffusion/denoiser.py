"""From a network to a denoiser, and the loss that trains it.

The network F works between variables of unit variance whatever the noise. With data of standard deviation d
(`sigma_data`) and s^2 = alpha^2 d^2 + sigma^2,

    D(x_t) = c_skip x_t + c_out F(c_in x_t, c_noise),
    c_in = 1 / s,  c_skip = alpha d^2 / s^2,  c_out = sigma d / s,  c_noise = log(sigma / alpha) / 4,

so that the target of F, (x - c_skip x_t) / c_out = (sigma x / d - alpha d noise) / s, has unit variance too.
Source: arXiv:2206.00364, table 1, for alpha = 1; the general form follows by x_t -> x_t / alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.schedules import scales

# F(x_in, c_noise): x_in (*batch, time, channel, *space) at unit variance, c_noise () or (*batch); shape of x_in.
Network = Callable[[Tensor, Tensor], Tensor]


class Preconditioning(NamedTuple):
    """Coefficients c_in, c_skip, c_out and the noise level c_noise that the network is told; shapes of alpha."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


def marginal_std(alpha: Tensor, sigma: Tensor, *, sigma_data: float = 1.0) -> Tensor:
    """Standard deviation s = sqrt(alpha^2 d^2 + sigma^2) of x_t."""
    return torch.sqrt((alpha * sigma_data) ** 2 + sigma**2)


def precondition(alpha: Tensor, sigma: Tensor, *, sigma_data: float = 1.0) -> Preconditioning:
    """The coefficients above for scales of any shape."""
    s = marginal_std(alpha, sigma, sigma_data=sigma_data)
    return Preconditioning(1 / s, alpha * (sigma_data / s) ** 2, sigma * sigma_data / s, torch.log(sigma / alpha) / 4)


@dataclass(frozen=True)
class PreconditionedDenoiser:
    """Posterior mean from a network: D(x_t) = c_skip x_t + c_out F(c_in x_t, c_noise).

    Args:
        network: F(x_in, c_noise); c_noise has the shape of time, () or (*batch).
        schedule: Schedule the network was trained with.
        sigma_data: Standard deviation d of the data in model space; 1 for normalised states, less for increments.
    """

    network: Network
    schedule: Schedule
    sigma_data: float = 1.0

    def __call__(self, x_t: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = scales(self.schedule, time, x_t)
        c = precondition(alpha, sigma, sigma_data=self.sigma_data)
        return c.c_skip * x_t + c.c_out * self.network(c.c_in * x_t, c.c_noise.reshape(time.shape))


def denoising_loss(
    network: Network,
    schedule: Schedule,
    x: Tensor,
    noise: Tensor,
    time: Tensor,
    *,
    counted: Tensor | None = None,
    sigma_data: float = 1.0,
) -> Tensor:
    """Denoising loss of each sample: the weighted error of D, which is the plain mean square error of F.

        loss = mean (D(x_t) - x)^2 / c_out^2 = mean (F - target)^2,  weight 1 / c_out^2 = s^2 / (sigma d)^2

    Args:
        network: F(x_in, c_noise), see `PreconditionedDenoiser`.
        schedule: Scales of x_t = alpha x + sigma noise.
        x: Data, (*batch, time, channel, *space).
        noise: Standard normal numbers, the shape of x.
        time: Diffusion time of each sample, (*batch), in [0, 1]; `time_laws` has the laws from which it is drawn.
        counted: True where the error counts (frames to predict, valid points), broadcastable to x; None counts all.
        sigma_data: Standard deviation of x.

    Returns: loss of each sample, (*batch), about 1 for F = 0; averaging is left to the caller. A sample of which
        nothing counts has loss 0.
    Source: arXiv:2206.00364, eq. 8.
    """
    if noise.shape != x.shape:
        raise ValueError(f"noise must have the shape of x, {tuple(x.shape)}, got {tuple(noise.shape)}.")
    if time.shape != x.shape[: time.ndim]:
        raise ValueError(f"time must have the leading (batch) shape of x, {tuple(x.shape)}, got {tuple(time.shape)}.")
    alpha, sigma = scales(schedule, time, x)
    c = precondition(alpha, sigma, sigma_data=sigma_data)
    s = 1 / c.c_in
    x_in = c.c_in * (alpha * x + sigma * noise)
    target = (sigma / sigma_data * x - alpha * sigma_data * noise) / s
    error = (network(x_in, c.c_noise.reshape(time.shape)) - target) ** 2
    if counted is None:
        return error.flatten(time.ndim).mean(dim=-1)
    counts = counted.expand_as(error).flatten(time.ndim)
    total = error.flatten(time.ndim).masked_fill(~counts, 0).sum(dim=-1)
    return total / counts.sum(dim=-1).clamp(min=1)
