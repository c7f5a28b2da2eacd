"""Moment-matching posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.schedules import scales
from eddycast.guidance.likelihood import GaussianLikelihood, Linearisation, ToState, as_tuple, linearise
from eddycast.numerics.krylov import conjugate_gradients, gmres


@dataclass(frozen=True)
class MMPSGuidance:
    """Guide with the covariance that the denoiser itself implies.

    p(x | x_t) is taken as N(D, V), V = (sigma^2 / alpha) J, J = dD/dx_t (Tweedie's second moment), and the operator as
    linear around D. The guided mean is then D + delta,

        delta = V H'^T u,  (R + H' V H'^T) u = value - operator(D),

    with u from a Krylov solver. Exact for a Gaussian prior and a linear operator once converged; few iterations correct
    too little where observations are dense or accurate. Cost of one evaluation: 1 forward pass and at most
    iterations + 1 passes back through the denoiser, whose graph is kept meanwhile. A network's J is not symmetric, nor
    always positive: hence "gmres".

    Args:
        likelihood: One likelihood, or a tuple of independent ones.
        iterations: Greatest number of Krylov iterations per sample; arXiv:2507.02608 uses 1.
        solver: "gmres", or "cg", which is cheaper in memory and stops a sample at negative curvature.
        tolerance: A sample stops early when its residual has fallen by this factor.

    Source: arXiv:2405.13712. As there, products with V use J^T, the same for an exact denoiser.
    """

    likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]
    iterations: int = 5
    solver: Literal["gmres", "cg"] = "gmres"
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}.")
        if self.solver not in ("gmres", "cg"):
            raise ValueError(f"solver must be 'gmres' or 'cg', got '{self.solver}'.")

    def __call__(self, denoiser: Denoiser, schedule: Schedule, to_state: ToState) -> Denoiser:
        solve = gmres if self.solver == "gmres" else conjugate_gradients

        def guided(x_t: Tensor, time: Tensor) -> Tensor:
            model = linearise(denoiser, x_t, time, to_state, as_tuple(self.likelihood))
            if not isinstance(model, Linearisation):
                return model
            alpha, sigma = scales(schedule, time, x_t)
            ratio = sigma**2 / alpha

            def spread(cotangent: Tensor) -> Tensor:
                return ratio * model.pull_back_to_noisy(model.pull_back(cotangent))

            def product(vector: Tensor) -> Tensor:
                return vector + model.push_forward(spread(vector)).to(vector)

            residual = model.residual if x_t.device.type == "mps" else model.residual.double()  # no float64 on mps
            u = solve(product, residual, iterations=self.iterations, tolerance=self.tolerance)
            return model.mean + spread(u)

        return guided
