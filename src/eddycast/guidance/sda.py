"""Reconstruction guidance with a variance that grows with the noise, as in score-based data assimilation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.schedules import scales
from eddycast.guidance.likelihood import GaussianLikelihood, Linearisation, ToState, as_tuple, linearise


@dataclass(frozen=True)
class StationaryGamma:
    """gamma for observed points of a field with a known power spectrum, instead of a tuned number.

    A stationary Gaussian field with spectrum c_k has posterior variance mean_k c_k rho^2 / (c_k + rho^2) at each point
    given x_t, rho = sigma / alpha, so the variance that `SDAGuidance` writes gamma rho^2 is matched by

        gamma = mean_k c_k / (c_k + rho^2).

    Correlations between sensors stay neglected.

    Args:
        spectrum: c_k >= 0 over all wavenumbers of the window in model space, so that mean_k c_k is the variance.
    """

    spectrum: Tensor

    @classmethod
    def fit(cls, x: Tensor, axes: tuple[int, ...]) -> StationaryGamma:
        """From samples in model space, (sample, ...): power over `axes` (space, and time too), mean over samples.

        Other axes (channels) keep spectra of their own. Exact for periodic axes; elsewhere the ends blur the spectrum.
        """
        points = math.prod(x.shape[axis] for axis in axes)
        power = torch.fft.fftn(x.double(), dim=axes).abs() ** 2 / points
        return cls(power.mean(dim=0).flatten())

    def __call__(self, rho: Tensor) -> Tensor:
        """gamma for noise-to-signal ratios rho of any shape."""
        spectrum = self.spectrum.to(rho)
        return (spectrum / (spectrum + rho[..., None] ** 2)).mean(dim=-1)


@dataclass(frozen=True)
class SDAGuidance:
    """Guide with the variance std^2 + gamma rho^2 c^2 in place of R + H' V H'^T, rho = sigma / alpha.

        delta = (sigma^2 / alpha) J^T H'^T (R + gamma rho^2 c^2)^-1 (value - operator(D))

    Cost of one evaluation: 1 forward and 1 backward pass of the denoiser. Smaller gamma follows observations more
    closely and becomes unstable below some value; right values depend on the prior and on the spacing of the
    observations, and the spread of the samples depends on gamma as well.

    Args:
        likelihood: One likelihood, or a tuple of independent ones.
        gamma: Number, or function of rho such as `StationaryGamma`.
        jacobian: False replaces J by its value for a white prior of unit variance, alpha / (alpha^2 + sigma^2): no pass
            back through the network, but only what is observed is updated.
        scale: c, what a unit of model space is worth in units of the observation (the standard deviation of the field
            when the operator picks points); broadcastable to (batch, observed entries flattened). None computes
            |H' 1|, the response to a shift of all of model space by 1: right for points and block means of normalised
            fields; give the scale for operators that are blind to a shift, such as gradients.

    Source: arXiv:2306.10574 (in model space, c = 1); gamma 0.1 for Kuramoto-Sivashinsky from arXiv:2410.16415.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    gamma: float | Callable[[Tensor], Tensor] = 0.1
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def guided(x_t: Tensor, time: Tensor) -> Tensor:
            model = linearise(denoiser, x_t, time, to_state, as_tuple(self.likelihood))
            if not isinstance(model, Linearisation):
                return model
            alpha, sigma = scales(schedule, time, x_t)
            rho = (sigma / alpha).reshape(-1, 1)  # (1, 1) or (batch, 1)
            gamma = self.gamma(rho) if callable(self.gamma) else self.gamma
            if self.scale is None:
                scale = model.push_forward(torch.ones_like(model.mean))  # whitened already
            else:
                weight = model.weight
                scale = weight * torch.as_tensor(self.scale, dtype=weight.dtype, device=weight.device)
            cotangent = model.pull_back(model.residual / (1 + gamma * (rho * scale) ** 2))
            if self.jacobian:
                return model.mean + sigma**2 / alpha * model.pull_back_to_noisy(cotangent)
            return model.mean + sigma**2 / (alpha**2 + sigma**2) * cotangent

        return guided
