"""Transport distances that every evaluation computes, frame by frame: of values, and of mass on the grid."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.metrics.ensemble import check_members
from eddycast.metrics.field import weighted_mean
from eddycast.metrics.score import Score
from eddycast.metrics.wasserstein import earth_movers_distance, pooled_wasserstein


def pooled_earth_movers_distance(ensemble: Tensor, truth: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    """Sliced earth mover's distance of the members' pooled mass from the truth's, in units of length.

    Each member's mass is normalised to one, and the mean over members is carried to the truth: the members together are one
    law of where mass is. What a member has below zero counts as no mass.

    Args:
        ensemble: Densities (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        grid: Positions of the points.

    Returns: (*batch); NaN where the truth is negative somewhere (it is no density) or a field has no mass at all.
    Raises: ValueError for shapes that disagree.
    Source: arXiv:2507.02608, table 11; slices, normalisation and pooling are ours, the paper states none.
    """
    check_members(ensemble, truth, 1, "A distance", "pass at least one")
    expand = (...,) + (None,) * weights.ndim
    pooled = torch.zeros_like(truth)
    for member in ensemble:
        mass = member.clamp(min=0)
        pooled = pooled + mass / weighted_mean(mass, weights)[expand]
    negative = ((truth < 0) & (weights > 0).to(truth.device)).any(dim=tuple(range(-weights.ndim, 0)))
    distance = earth_movers_distance(pooled, truth.clamp(min=0), grid, weights=weights)
    return distance.masked_fill(negative, torch.nan)


TRANSPORT: tuple[Score, ...] = (
    Score(
        "wasserstein_values",
        pooled_wasserstein,
        "Wasserstein distance of the values, pooled over members and space, of each frame",
        physical=True,
        min_points=2,
    ),
    Score(
        "semd",
        pooled_earth_movers_distance,
        "sliced earth mover's distance of the members' mean mass, of each frame, in units of length",
        min_points=2,
        on_grid=True,
        nonnegative=True,
    ),
)
