"""From a network to a denoiser, and the loss that trains it.

A parametrisation says what the network F is fed, what it is told and what its output means. With data of standard deviation d
(`sigma_data`), s^2 = alpha^2 d^2 + sigma^2 and x_t = alpha x + sigma noise,

    D(x_t) = c_skip x_t + c_out F(c_in x_t, told),

    name               target of F                            c_in   c_skip            c_out            told
    "preconditioned"   (sigma x / d - alpha d noise) / s      1/s    alpha d^2 / s^2   sigma d / s      log(sigma / alpha) / 4
    "velocity"         (alpha d noise - sigma x / d) / s      1      alpha d^2 / s^2   -sigma d / s     time
    "noise"            noise                                  1      1 / alpha         -sigma / alpha   time
    "data"             x                                      1      0                 1                time

The first keeps what F sees and what it has to say at unit variance whatever the noise. On a variance-preserving schedule the second
is the usual v = alpha noise - sigma x. The last three are told the time itself, so they hold for one schedule only.
Sources: arXiv:2206.00364, table 1, for alpha = 1 (the general form follows by x_t -> x_t / alpha); arXiv:2202.00512 (velocity);
arXiv:2006.11239 (noise), as published for PDEs in arXiv:2410.16415.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.schedules import scales

# F(x_in, told): x_in (*batch, time, channel, *space), told () or (*batch); shape of x_in.
Network = Callable[[Tensor, Tensor], Tensor]


class Preconditioning(NamedTuple):
    """Coefficients c_in, c_skip, c_out, and what the network is told; shapes of alpha."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    told: Tensor


def marginal_std(alpha: Tensor, sigma: Tensor, *, sigma_data: float = 1.0) -> Tensor:
    """Standard deviation s = sqrt(alpha^2 d^2 + sigma^2) of x_t."""
    return torch.sqrt((alpha * sigma_data) ** 2 + sigma**2)


def precondition(alpha: Tensor, sigma: Tensor, *, sigma_data: float = 1.0) -> Preconditioning:
    """The coefficients of `preconditioned` for scales of any shape."""
    s = marginal_std(alpha, sigma, sigma_data=sigma_data)
    return Preconditioning(1 / s, alpha * (sigma_data / s) ** 2, sigma * sigma_data / s, torch.log(sigma / alpha) / 4)


@dataclass(frozen=True)
class Parametrisation:
    """One line of the table above.

    Args:
        coefficients: (alpha, sigma, time, d) -> `Preconditioning`.
        target: (x, noise, alpha, sigma, d) -> what F should say.
        weight: (alpha, sigma) -> weight of the squared error of F in the loss; its root for absolute errors.
    """

    coefficients: Callable[[Tensor, Tensor, Tensor, float], Preconditioning]
    target: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
    weight: Callable[[Tensor, Tensor], Tensor] = lambda alpha, sigma: torch.ones_like(alpha)


def _preconditioned_target(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, d: float) -> Tensor:
    return (sigma / d * x - alpha * d * noise) / marginal_std(alpha, sigma, sigma_data=d)


def _velocity_coefficients(alpha: Tensor, sigma: Tensor, time: Tensor, d: float) -> Preconditioning:
    c = precondition(alpha, sigma, sigma_data=d)
    return Preconditioning(torch.ones_like(alpha), c.c_skip, -c.c_out, time)


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "preconditioned": Parametrisation(
        lambda alpha, sigma, time, d: precondition(alpha, sigma, sigma_data=d), _preconditioned_target
    ),
    "velocity": Parametrisation(
        _velocity_coefficients,
        lambda x, noise, alpha, sigma, d: -_preconditioned_target(x, noise, alpha, sigma, d),
    ),
    "noise": Parametrisation(
        lambda alpha, sigma, time, d: Preconditioning(torch.ones_like(alpha), 1 / alpha, -sigma / alpha, time),
        lambda x, noise, alpha, sigma, d: noise,
    ),
    "data": Parametrisation(
        lambda alpha, sigma, time, d: Preconditioning(
            torch.ones_like(alpha), torch.zeros_like(alpha), torch.ones_like(alpha), time
        ),
        lambda x, noise, alpha, sigma, d: x,
        lambda alpha, sigma: (alpha / sigma) ** 2,
    ),
}
"""`data` carries the published weight alpha^2 / sigma^2, with which its loss is that of `noise`."""


@dataclass(frozen=True)
class PreconditionedDenoiser:
    """Posterior mean from a network: D(x_t) = c_skip x_t + c_out F(c_in x_t, told).

    Args:
        network: F(x_in, told); told has the shape of time, () or (*batch).
        schedule: Schedule the network was trained with.
        sigma_data: Standard deviation d of the data in model space; 1 for normalised states, less for increments.
        parametrisation: A key of `PARAMETRISATIONS`.
    """

    network: Network
    schedule: Schedule
    sigma_data: float = 1.0
    parametrisation: str = "preconditioned"

    def __call__(self, x_t: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = scales(self.schedule, time, x_t)
        clock = time.reshape(alpha.shape)
        c = PARAMETRISATIONS[self.parametrisation].coefficients(alpha, sigma, clock, self.sigma_data)
        return c.c_skip * x_t + c.c_out * self.network(c.c_in * x_t, c.told.reshape(time.shape))


def denoising_loss(
    network: Network,
    schedule: Schedule,
    x: Tensor,
    noise: Tensor,
    time: Tensor,
    *,
    counted: Tensor | None = None,
    sigma_data: float = 1.0,
    parametrisation: str = "preconditioned",
    absolute: bool = False,
) -> Tensor:
    """Denoising loss of each sample: the mean square error of F, which is a weighted one of D.

        loss = weight mean (F - target)^2 = weight mean (D(x_t) - x)^2 / c_out^2

    or, absolute, sqrt(weight) mean |F - target|. Its minimiser is the median of what is sought, not the mean: for laws that are not
    symmetric the denoiser is biased, and so is what a sampler makes of it.

    With `preconditioned`, `velocity` and `noise` the weight is 1, hence s^2 / (sigma d)^2 or alpha^2 / sigma^2 for the error of D.

    Args:
        network: F(x_in, told), see `PreconditionedDenoiser`.
        schedule: Scales of x_t = alpha x + sigma noise.
        x: Data, (*batch, time, channel, *space).
        noise: Standard normal numbers, the shape of x.
        time: Diffusion time of each sample, (*batch), in [0, 1]; `time_laws` has the laws from which it is drawn.
        counted: True where the error counts (frames to predict, valid points), broadcastable to x; None counts all.
        sigma_data: Standard deviation of x.
        parametrisation: A key of `PARAMETRISATIONS`.
        absolute: Absolute errors instead of squared ones.

    Returns: loss of each sample, (*batch), about 1 for F = 0 and d = 1; averaging is left to the caller. A sample of which
        nothing counts has loss 0.
    Source: arXiv:2206.00364, eq. 8.
    """
    if noise.shape != x.shape:
        raise ValueError(f"noise must have the shape of x, {tuple(x.shape)}, got {tuple(noise.shape)}.")
    if time.shape != x.shape[: time.ndim]:
        raise ValueError(f"time must have the leading (batch) shape of x, {tuple(x.shape)}, got {tuple(time.shape)}.")
    alpha, sigma = scales(schedule, time, x)
    law = PARAMETRISATIONS[parametrisation]
    c = law.coefficients(alpha, sigma, time.reshape(alpha.shape), sigma_data)
    x_in = c.c_in * (alpha * x + sigma * noise)
    error = network(x_in, c.told.reshape(time.shape)) - law.target(x, noise, alpha, sigma, sigma_data)
    weight = law.weight(alpha, sigma)
    error = torch.sqrt(weight) * error.abs() if absolute else weight * error**2
    if counted is None:
        return error.flatten(time.ndim).mean(dim=-1)
    counts = counted.expand_as(error).flatten(time.ndim)
    total = error.flatten(time.ndim).masked_fill(~counts, 0).sum(dim=-1)
    return total / counts.sum(dim=-1).clamp(min=1)
