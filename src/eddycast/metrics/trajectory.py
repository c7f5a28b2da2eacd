"""Errors of whole trajectories: one number per case over all lead times, in both conventions in use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eddycast.metrics.field import mse


def point_rmsd(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Root mean square deviation over lead times and points, in units of the field.

        RMSD = sqrt(mean_t mean_x (f - y)^2)

    Args:
        forecast: (*batch, lead, *space).
        truth: The same shape.
        weights: (*space).

    Returns: (*batch), one number per trajectory; average over trajectories last, with `standard_error`.
    Raises: ValueError for shapes that disagree.
    """
    return root_mean_over_leads(mse(forecast, truth, weights))


def state_rmsd(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Root mean square *norm* of the deviation of a state, as published: summed over space, averaged over lead times.

        RMSD = sqrt(mean_t sum_x (f - y)^2) = sqrt(N) * point_rmsd,  N points of positive weight

    It grows with the resolution (16 times the other on 256 points, 64 times on 64 x 64), so it compares forecasts on one
    grid only. One field at a time: nothing is summed over channels, as the published numbers are of u (Burgers, KS) and
    of the vorticity (Kolmogorov flow).

    Args and raises: as `point_rmsd`. Source: arXiv:2410.16415, in the convention of its code.
    """
    return point_rmsd(forecast, truth, weights) * math.sqrt(int((weights > 0).sum()))


def root_mean_over_leads(mean_square: Tensor, shown: Tensor | None = None, *, given: int = 0) -> Tensor:
    """sqrt of the mean over leads, (*batch, lead) -> (*batch).

    Args:
        mean_square: Squared errors, averaged over space.
        shown: (*batch, lead), False where there is nothing to average; None means everywhere.
        given: Number of given states that are counted too, with no error.

    Returns: NaN where no lead is shown, or one that is shown is NaN.
    """
    if shown is None:
        return (mean_square.sum(dim=-1) / (mean_square.shape[-1] + given)).sqrt()
    count = shown.sum(dim=-1)
    total = torch.where(shown, mean_square, 0.0).sum(dim=-1)
    return torch.where(count > 0, total / (count + given), torch.nan).sqrt()


def standard_error(values: Tensor, shown: Tensor | None = None) -> Tensor:
    """Standard error of a mean over cases, std / sqrt(n) with the unbiased variance: (case, *rest) -> (*rest).

    Too small for cases that are not independent (starts close together in one trajectory): see `block_bootstrap`.

    Args:
        values: One number per case.
        shown: (case, *rest), False where a case has none.

    Returns: NaN with fewer than two cases, or where one of them is NaN.
    """
    kept = torch.ones_like(values, dtype=torch.bool) if shown is None else shown
    count = kept.sum(dim=0)
    mean = torch.where(kept, values, 0.0).sum(dim=0) / count
    square = torch.where(kept, values - mean, 0.0).square().sum(dim=0)
    return torch.where(count > 1, square / ((count - 1) * count), torch.nan).sqrt()
