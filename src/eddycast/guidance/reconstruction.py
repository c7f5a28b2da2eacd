"""Reconstruction guidance: one backward pass, and for H' V H'^T a variance for each observation by itself.

    delta = V H'^T v^-1 (value - operator(D))

Published rules differ in the variance v alone (units of the observation; rho = sigma / alpha, c see `scale`):

    SDAGuidance               std^2 + gamma rho^2 c^2
    TMPDGuidance              std^2 + (H V H^T 1)_ii
    PiGDMGuidance             std^2 + rho^2 / (1 + rho^2) c^2
    VideoDiffusionGuidance            gamma rho^2 c^2

Exact is std^2 + (H V H^T)_ii for one sensor, and no such v for several of them that are correlated given x_t: all count
what neighbours say more than once where v is small, and less than once where it is large.

Fields of all:
    likelihood: One likelihood, or a tuple of independent ones, which says the same as one that observes all of it.
    jacobian: False replaces V by that of a white prior of unit variance, sigma^2 / (alpha^2 + sigma^2): no pass back through
        the network, but only what is observed is updated.
    scale: c, what a unit of model space is worth in units of the observation (the standard deviation of the field when the
        operator picks points); broadcastable to (batch, observed entries flattened). None computes |H' 1|, see
        `posterior.response`; give the scale for operators that are blind to a shift of the field, such as gradients.

Cost of one evaluation: 1 forward and 1 backward pass of the denoiser (2 backward passes for `TMPDGuidance` and for gamma "auto");
1 forward pass without `jacobian`. The operator is differentiated besides.

Biases are given as (error of the mean in prior deviations, spread over exact spread) after 64 ancestral steps, on a smooth field seen
at 13 of 128 points with error 0.05, and on a series of order 2 (`docs/guidance.md`). Exact guidance has
(0.03, 0.92) and (0.01, 0.94) there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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

    Bias: gamma 0.1 (0.05, 0.89) and (0.06, 0.80), somewhat overconfident; gamma 1 (0.34, 1.26) and (0.39, 1.35), pulled to the prior and
    too wide; gamma 0.01 (0.15, 3.9), unstable, and (0.12, 0.74). `StationaryGamma` leaves none on the field. Without Jacobian, gamma 0.1
    (0.25, 0.92) and (0.21, 0.94). Langevin corrections remove most of it: with 4 the 0.60 of a deterministic sampler become 0.04.
    A misfit is multiplied by 1 - k / gamma in each step where gamma rho^2 > std^2 and J is near 1 / alpha, k = 1 - (rho_s / rho)^2
    (ancestral) or 1 - rho_s / rho (deterministic): gamma < k / 2 is unstable.

    With "auto" the denoiser's own covariance sets the width, sample by sample and time by time, at one more backward pass:

        gamma rho^2 = r^T H V H^T r / |c r|^2,   r = (value - operator(D)) / std^2,

    not below 0. The variance of the misfit is then right along the misfit itself, and so counts neighbours that see the same thing
    once; exact for one sensor, and as good as exact for sensors far apart. Clusters still get too little or too much, entry by entry
    (`docs/guidance.md`). For equal errors and one c it is `MMPSGuidance` with one step of conjugate gradients.

    Args: as for the module, and
        gamma: Number, or function of rho such as `StationaryGamma`, or "auto"; a tuple has one for each likelihood ("auto" stands alone).

    Source: arXiv:2306.10574, section 3.2 (in model space, c = 1); gamma 0.1 for Kuramoto-Sivashinsky from arXiv:2410.16415.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    gamma: Width | Literal["auto"] | tuple[Width, ...] = 0.1
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.gamma, str):
            if self.gamma != "auto":
                raise ValueError(f"gamma must be a number, a function of rho or 'auto', got {self.gamma!r}.")
        else:
            check_positive("gamma", self.gamma, zero=True)

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: Callable[[Tensor], Tensor], rho: Tensor) -> Tensor:
            if isinstance(self.gamma, str):
                return model.residual / (1 + _own_width(model, spread, self.scale))
            width = _width(model, rho, self.scale)
            return model.residual / (1 + widths(self.gamma, model, rho) * width)

        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=_white(self.jacobian))


@dataclass(frozen=True)
class PiGDMGuidance:
    """Guide with the variance std^2 + rho^2 / (1 + rho^2) c^2: that of a point, were the prior white with unit variance.

    No number to tune. Right for one sensor of a white prior; for a smooth field the points are known better than that from
    their neighbours in x_t, so observations are trusted too little.

    Bias: (0.09, 1.12) and (0.10, 1.11), too wide; without Jacobian (0.33, 1.18) and (0.36, 1.31). Breaks: the variance does not grow with
    noise, so a network whose J does not fall like alpha / sigma^2 throws the first steps far out at rho of 100 and more.

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
class TMPDGuidance:
    """Guide with the variance std^2 + (H V H^T 1)_ii, V of the denoiser itself: row sums in the place of the matrix.

    Right where all misfits are equal, as neighbours in a cluster nearly have them. A sum over a row of both signs means nothing, and is
    cut at 0, where the observation is followed too closely. Rows are summed over H / c (see `scale`), in model space, where
    observations of different units may be added.

    Args: as for the module.
    Source: Boys et al. (2023), arXiv:2310.06721.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    jacobian: bool = True
    scale: float | Tensor | None = None

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: Callable[[Tensor], Tensor], rho: Tensor) -> Tensor:
            worth = response(model, self.scale)
            safe = torch.where(worth > 0, worth, 1)
            units = torch.where(worth > 0, 1 / safe, 0)  # H / c has unit response: its rows may be added
            rows = worth**2 * units * model.push_forward(spread(units))
            return model.residual / (1 + rows.clamp(min=0))

        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=_white(self.jacobian))


@dataclass(frozen=True)
class VideoDiffusionGuidance:
    """Guide with the variance gamma rho^2 c^2 alone: the observation error is left out, as in video diffusion models.

    With gamma = 1 the samples end on the observations themselves, noise and all: at observed points the spread falls to 0
    whatever std is. Entries to which a shift of model space means nothing (c = 0) are left out.

    Bias: gamma 1 (0.32, 0.89) and (0.26, 0.69), too sure of the noisy values; without Jacobian (0.42, 0.92) and (0.46, 0.91). Unstable
    below the bound of `SDAGuidance`, down to the last step: gamma 0.1 has a spread of 6.7 on the field and of 300 on the series.

    Args: as for the module, and
        gamma: 1 / w_r of the source, as for `SDAGuidance`; below 1 / 2 a step to sigma = 0 (k = 1) overshoots an observation by
            more than the misfit.

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


def _own_width(model: Linearisation, spread: Callable[[Tensor], Tensor], scale: float | Tensor | None) -> Tensor:
    """gamma rho^2 c^2 / std^2 with gamma "auto", (batch, observed)."""
    residual, worth = model.residual, response(model, scale)
    along = (residual * model.push_forward(spread(residual))).sum(dim=1, keepdim=True)
    norm = (worth * residual).square().sum(dim=1, keepdim=True)
    return worth**2 * (along / torch.where(norm > 0, norm, 1)).clamp(min=0)


def _white(jacobian: bool) -> WhiteCovariance | None:
    return None if jacobian else WhiteCovariance()
