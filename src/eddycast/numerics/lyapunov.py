"""The leading Lyapunov exponent, from the linearised flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LyapunovEstimate:
    """Leading exponent, per unit time.

    Args:
        exponent: Mean over the trajectories.
        standard_error: Of that mean, from the scatter of the trajectories; NaN for a single one.
        per_trajectory: Estimate of each trajectory, (trajectory,), float64.
    """

    exponent: float
    standard_error: float
    per_trajectory: Tensor

    @property
    def time(self) -> float:
        """Lyapunov time 1 / exponent; infinite where errors do not grow."""
        return 1.0 / self.exponent if self.exponent > 0 else math.inf


def leading_exponent(
    flow: Callable[[Tensor], Tensor],
    state: Tensor,
    tangent: Tensor,
    *,
    interval: float,
    num_intervals: int,
    num_discarded: int = 0,
) -> LyapunovEstimate:
    """Mean growth rate of a small perturbation, by the tangent-linear model.

        w <- D flow(u) w,   lambda = mean log(|w| after / |w| before) / interval,   then |w| <- 1

    The derivative is exact (forward-mode differentiation of the flow), so the size of the perturbation plays no part.

    Args:
        flow: Map of states over `interval`; entries of the first axis must not interact.
        state: Start on the attractor, (trajectory, *shape).
        tangent: First perturbation, shape of `state`, any size but zero. It must not lie in a subspace that the flow
            keeps (a symmetry, or a conserved mean: then the exponent is that of the subspace).
        interval: Time between renormalisations; short enough that w does not overflow.
        num_intervals: How many enter the mean. The error of the mean falls with the root of the total time.
        num_discarded: Intervals before them, in which w turns to the leading direction.

    Returns: the estimate. Bias of order 1 / total time while w is still turning.
    Raises: ValueError for shapes that disagree or a zero tangent.
    Source: Benettin et al. (1980), doi:10.1007/BF02128236.
    """
    if state.shape != tangent.shape:
        raise ValueError(f"state {tuple(state.shape)} and tangent {tuple(tangent.shape)} must have one shape.")
    growth = torch.zeros(state.shape[0], dtype=torch.float64, device=state.device)
    tangent = tangent / _norm(tangent)
    if not tangent.isfinite().all():
        raise ValueError("Each trajectory needs a tangent that is finite and not zero.")
    with torch.no_grad():
        for index in range(num_discarded + num_intervals):
            state, tangent = torch.func.jvp(flow, (state,), (tangent,))[:2]
            size = _norm(tangent)
            tangent = tangent / size
            if index >= num_discarded:
                growth += size.flatten().double().log()
    exponents = growth / (num_intervals * interval)
    error = exponents.std().item() / math.sqrt(len(exponents)) if len(exponents) > 1 else math.nan
    return LyapunovEstimate(exponents.mean().item(), error, exponents)


def _norm(tangent: Tensor) -> Tensor:
    """Euclidean norm of each trajectory, (trajectory, 1, ..., 1)."""
    return tangent.flatten(1).norm(dim=1).reshape(-1, *[1] * (tangent.ndim - 1))
