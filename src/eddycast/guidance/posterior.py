"""What all rules share: the way from a denoiser of p(x) to one of p(x | value).

With D the denoiser, H the whitened observations, r their residual at D and rho = sigma / alpha, every rule adds

    delta = V H'^T u,    V = (sigma^2 / alpha) J^T, J = dD/dx_t  (Tweedie's covariance of x given x_t),

which is the denoiser of the score  s + (alpha / sigma^2) delta,  so that every sampler takes it. Rules differ in u, which
stands for (R + H' V H'^T)^-1 r, and may put another V in the place of the network's (`covariance.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.schedules import scales
from eddycast.guidance.covariance import Covariance
from eddycast.guidance.likelihood import GaussianLikelihood, Linearisation, ToState, as_tuple, linearise


class Guidance(Protocol):
    """Turns a denoiser of states into one of states given what was observed; `to_state` is x to physical states."""

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser: ...


# (model, V H'^T, rho of shape () or (batch, 1, ...)) -> u, (batch, observed) in whitened units.
Weigh = Callable[[Linearisation, Callable[[Tensor], Tensor], Tensor], Tensor]


def guided_denoiser(
    denoiser: Denoiser,
    schedule: Schedule,
    to_state: ToState,
    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...],
    weigh: Weigh,
    *,
    covariance: Covariance | None,
) -> Denoiser:
    """x_t, time -> D + V H'^T u with u = weigh(model, V H'^T, rho); V of the network itself where `covariance` is None.

    Entries that `to_state` holds fixed stay as they are: H' is 0 there. An empty tuple of likelihoods leaves the denoiser as it is.
    """
    likelihoods = as_tuple(likelihood)
    if not likelihoods:
        return denoiser

    def guided(x_t: Tensor, time: Tensor) -> Tensor:
        model = linearise(denoiser, x_t, time, to_state, likelihoods, jacobian=covariance is None)
        if not isinstance(model, Linearisation):
            return model
        alpha, sigma = scales(schedule, time, x_t)
        rho = sigma / alpha

        def spread(cotangent: Tensor) -> Tensor:
            pulled = model.pull_back(cotangent)
            if covariance is not None:
                return covariance(pulled, rho)
            return sigma * rho * model.pull_back_to_noisy(pulled)

        return model.mean + spread(weigh(model, spread, rho))

    return guided


# A number, or function of rho, for all observations; or one of them for each likelihood.
Width = float | Callable[[Tensor], Tensor]


def widths(gamma: Width | tuple[Width, ...], model: Linearisation, rho: Tensor) -> Tensor:
    """gamma of each observed entry, (1 or batch, observed or 1).

    Raises: ValueError when there are several gammas, but not one for each likelihood.
    """
    rho = rho.reshape(-1, 1)

    def at(one: Width) -> Tensor:
        return one(rho) if callable(one) else torch.full_like(rho, one)

    if not isinstance(gamma, tuple):
        return at(gamma)
    if len(gamma) != len(model.sizes):
        raise ValueError(f"{len(gamma)} gammas for {len(model.sizes)} likelihoods: give one, or one for each.")
    return torch.cat([at(one).expand(-1, size) for one, size in zip(gamma, model.sizes, strict=True)], dim=1)


def check_positive(name: str, gamma: Width | tuple[Width, ...], *, zero: bool = False) -> None:
    """Raises: ValueError for a number that is negative, NaN, or 0 unless `zero` is allowed."""
    for one in gamma if isinstance(gamma, tuple) else (gamma,):
        if not callable(one) and not (one > 0 or (zero and one == 0)):
            raise ValueError(f"{name} must {'not be negative' if zero else 'be positive'}, got {one}.")


def response(model: Linearisation, scale: float | Tensor | None) -> Tensor:
    """s, what a unit of model space is worth in standard deviations of each observation, (batch, observed).

    Args:
        scale: The same in units of the observation, broadcastable; None computes |H' 1|, the response to a shift of all of
            model space by 1: right for points and block means of normalised fields, 0 for operators that are blind to a
            shift, such as gradients, and for entries that are held fixed.
    """
    if scale is None:
        return model.push_forward(torch.ones_like(model.mean)).abs()
    return model.weight * torch.as_tensor(scale, dtype=model.weight.dtype, device=model.weight.device)
