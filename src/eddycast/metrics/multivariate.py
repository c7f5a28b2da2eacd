"""The scores of whole fields that every evaluation computes: they see how points belong together, which the CRPS cannot."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.metrics.energy import energy_score, sketched_energy_score
from eddycast.metrics.score import Score
from eddycast.metrics.variogram import neighbours, pair_mass, variogram_score

SKETCHED_POINTS = 2**18
"""Points of a field beyond which an evaluation scores sketches: below, the product of matrices is cheap as it is."""


def _energy(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    fair = len(ensemble) > 1
    if weights.numel() <= SKETCHED_POINTS:
        return energy_score(ensemble, truth, weights, fair=fair)
    generator = torch.Generator().manual_seed(0)  # one sketch for all forecasts, so that they compare
    return sketched_energy_score(ensemble, truth, weights, generator=generator, fair=fair)


def _variogram(ensemble: Tensor, truth: Tensor, weights: Tensor, grid: Grid) -> Tensor:
    lags = neighbours(grid.shape, grid.periodic)
    if not pair_mass(weights, lags) > 0:  # every counted point stands alone
        return truth.new_full(truth.shape[: truth.ndim - weights.ndim], torch.nan)
    return variogram_score(ensemble, truth, weights, lags, fair=len(ensemble) > 1)


MULTIVARIATE: tuple[Score, ...] = (
    Score(
        "energy_score",
        _energy,
        f"fair energy score of the whole field, through a sketch beyond {SKETCHED_POINTS} points",
        physical=True,
    ),
    Score(
        "variogram_score",
        _variogram,
        "fair variogram score of order 1/2, pairs of points up to 2 steps apart",
        physical=True,
        min_points=2,
        on_grid=True,
    ),
)
