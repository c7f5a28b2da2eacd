"""Diffusion posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.guidance.covariance import WhiteCovariance
from eddycast.guidance.likelihood import GaussianLikelihood, Linearisation, ToState
from eddycast.guidance.posterior import check_positive, guided_denoiser, response


@dataclass(frozen=True)
class DPSGuidance:
    """Guide with the gradient of the norm of the misfit: score - zeta grad ||e||, e = (value - operator(D)) / c.

        delta = V H'^T (zeta / c^2) (value - operator(D)) / ||e||,    V = (sigma^2 / alpha) J^T

    This is no likelihood: the error of the observations does not enter, and the pull has a constant length. It acts as the variance
    c^2 ||e|| / zeta would, which is right at high noise for zeta near the square root of the number of observed entries m, and near the
    data for sqrt(m) c / std: no zeta is right throughout, and it has to be found for each number of observations.

    Bias, as given in `reconstruction.py`, where exact guidance has (0.03, 0.92) and (0.01, 0.94): zeta 5 (0.09, 1.68) and (0.10, 0.92);
    zeta 20 (0.19, 0.97) and (0.13, 0.44), far too sure; without Jacobian, zeta 20 (0.13, 1.00) and (0.08, 0.50). Breaks at rho of 100 and
    more with a network whose J does not fall like alpha / sigma^2, as `PiGDMGuidance` does.

    The published algorithm subtracts zeta_step grad ||e|| after an unconditional step from time t to s, whatever its length. A
    DDIM step of our guided denoiser subtracts zeta (sigma_t^2 / alpha_t) (alpha_s - alpha_t sigma_s / sigma_t) grad ||e||, so

        zeta = zeta_step alpha_t / (sigma_t^2 (alpha_s - alpha_t sigma_s / sigma_t)):

    the published strength grows with the number of steps and towards the data, ours is a property of the target. Where zeta' / ||e||
    grad ||e||^2 is written for the step, zeta_step = 2 zeta'; the code of arXiv:2410.16415 divides by gamma there, so that
    zeta = 2 / gamma (`from_gamma`).

    Cost of one evaluation: 1 forward and 1 backward pass of the denoiser; 1 forward pass without `jacobian`.

    Args:
        likelihood: One likelihood, or a tuple of independent ones, whose misfits share one norm; their std tells only what is missing.
        zeta: Pull, 1 in model space; larger follows the observations more closely.
        jacobian, scale: As for `SDAGuidance`; scale makes zeta independent of units. Entries with c = 0 are left out.

    Source: arXiv:2209.14687, algorithm 1 and its code (zeta_step from 0.3 to 1 with 1000 steps, for images).
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    zeta: float = 20.0
    jacobian: bool = True
    scale: float | Tensor | None = None

    @classmethod
    def from_gamma(
        cls,
        likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...],
        gamma: float,
        *,
        jacobian: bool = True,
        scale: float | Tensor | None = None,
    ) -> DPSGuidance:
        """With gamma in the place where the code of arXiv:2410.16415 has it: smaller follows the observations more closely."""
        check_positive("gamma", gamma)
        return cls(likelihood, 2 / gamma, jacobian, scale)

    def __post_init__(self) -> None:
        check_positive("zeta", self.zeta)

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        def weigh(model: Linearisation, spread: object, rho: Tensor) -> Tensor:
            worth = response(model, self.scale)
            safe = torch.where(worth > 0, worth, 1)
            misfit = torch.where(worth > 0, model.residual / safe, 0)
            norm = torch.linalg.vector_norm(misfit, dim=1, keepdim=True)
            return self.zeta * misfit / safe / torch.where(norm > 0, norm, 1)

        covariance = None if self.jacobian else WhiteCovariance()
        return guided_denoiser(denoiser, schedule, to_state, self.likelihood, weigh, covariance=covariance)
