"""Reconstruction guidance: one backward pass, and for H' V H'^T a variance for each observation by itself.

    delta = V H'^T v^-1 (value - operator(D))

Three published rules differ in the variance v alone (units of the observation; rho = sigma / alpha, c see `scale`):

    SDAGuidance               std^2 + gamma rho^2 c^2
    PiGDMGuidance             std^2 + rho^2 / (1 + rho^2) c^2
    VideoDiffusionGuidance            gamma rho^2 c^2

Exact is std^2 + (H V H^T)_ii for one sensor, and no such v for several of them that are correlated given x_t: all three count
what neighbours say more than once where v is small, and less than once where it is large.

Fields of all three:
    likelihood: One likelihood, or a tuple of independent ones, which says the same as one that observes all of it.
    jacobian: False replaces V by that of a white prior of unit variance, sigma^2 / (alpha^2 + sigma^2): no pass back through
        the network, but only what is observed is updated.
    scale: c, what a unit of model space is worth in units of the observation (the standard deviation of the field when the
        operator picks points); broadcastable to (batch, observed entries flattened). None computes |H' 1|, see
        `posterior.response`; give the scale for operators that are blind to a shift of the field, such as gradients.

Cost of one evaluation: 1 forward and 1 backward pass of the denoiser; 1 forward pass without `jacobian`. The operator is
differentiated besides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.guidance.covariance import WhiteCovariance
from eddycast.guidance.likelihood import GaussianLikelihood, Linearisation, ToState
from eddycast.guidance.posterior import Width, check_positive, guided_denoiser, response, widths


@dataclass(frozen=True)
class SDAGuidance:
    """Guide with the variance std^2 + gamma rho^2 c^2, as in score-based data assimilation.

    Smaller gamma follows observations more closely and becomes unstable below some value; right values depend on the prior and
    on the spacing of the observations, and the spread of the samples depends on gamma as well. gamma belongs to rho, not to a
    time: a schedule with another rho at the same time makes the same gamma another variance there.

    Args: as for the module, and
        gamma: Number, or function of rho such as `StationaryGamma`; a tuple has one for each likelihood.

    Source: arXiv:2306.10574, section 3.2 (in model space, c = 1); gamma 0.1 for Kuramoto-Sivashinsky from arXiv:2410.16415.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    gamma: Width | tuple[Width, ...] = 0.1
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma, zero=True)

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: object, rho: Tensor) -> Tensor:
            width = _width(model, rho, self.scale)
            return model.residual / (1 + widths(self.gamma, model, rho) * width)

        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=_white(self.jacobian))


@dataclass(frozen=True)
class PiGDMGuidance:
    """Guide with the variance std^2 + rho^2 / (1 + rho^2) c^2: that of a point, were the prior white with unit variance.

    No number to tune. Right for one sensor of a white prior; for a smooth field the points are known better than that from
    their neighbours in x_t, so observations are trusted too little.

    Args: as for the module.
    Source: Song et al. (2023), "Pseudoinverse-guided diffusion models for inverse problems", ICLR, with H H^T diagonal
        (points, disjoint block means). `MMPSGuidance(jacobian=False)` solves with H H^T for a white prior.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: object, rho: Tensor) -> Tensor:
            width = _width(model, rho, self.scale)
            return model.residual / (1 + width / (1 + rho.reshape(-1, 1) ** 2))

        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=_white(self.jacobian))


@dataclass(frozen=True)
class VideoDiffusionGuidance:
    """Guide with the variance gamma rho^2 c^2 alone: the observation error is left out, as in video diffusion models.

    With gamma = 1 the samples end on the observations themselves, noise and all: at observed points the spread falls to 0
    whatever std is. Entries to which a shift of model space means nothing (c = 0) are left out.

    Args: as for the module, and
        gamma: 1 / w_r of the source, as for `SDAGuidance`; below about 1 / 2 a step to sigma = 0 overshoots an
            observation by more than the misfit.

    Source: arXiv:2204.03458, eq. 7, with w_r = 1 / gamma.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    gamma: Width | tuple[Width, ...] = 1.0
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: object, rho: Tensor) -> Tensor:
            width = widths(self.gamma, model, rho) * _width(model, rho, self.scale)
            return torch.where(width > 0, model.residual / torch.where(width > 0, width, 1), 0)

        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=_white(self.jacobian))


def _width(model: Linearisation, rho: Tensor, scale: float | Tensor | None) -> Tensor:
    """rho^2 c^2 / std^2, (batch, observed)."""
    return (rho.reshape(-1, 1) * response(model, scale)) ** 2


def _white(jacobian: bool) -> WhiteCovariance | None:
    return None if jacobian else WhiteCovariance()
