"""Scores exactly as published for DYffusion (arXiv:2306.01984): biased CRPS, MSE of the mean, spread-skill without correction.

All channels are pooled as they are, in one unit or several, and all points count alike: those that the boundary conditions
prescribe too, which are exact and make every score smaller. `convention` and what follows it are the averages in use.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.metrics.chunks import pieces
from eddycast.metrics.ensemble import PIECE, check_members, crps


class PooledParts(NamedTuple):
    """Means over channels and points, each (*batch); every score of the convention is a function of their averages.

    Args:
        absolute: mean_i |x_i - y|.
        crps: The biased CRPS, sum_ij |x_i - x_j| divided by 2 M^2.
        square: (mean_i x_i - y)^2.
        variance: Of the members, divided by M (ddof 0).
    """

    absolute: Tensor
    crps: Tensor
    square: Tensor
    variance: Tensor


def pooled_parts(ensemble: Tensor, truth: Tensor, counted: Tensor) -> PooledParts:
    """What the convention averages, in float64.

    Args:
        ensemble: (member, *batch, channel, *space).
        truth: (*batch, channel, *space).
        counted: Points that count, bool (*space); others may hold anything.

    Returns: four tensors (*batch); NaN where a member or the truth is not finite at a point that counts.
    Raises: ValueError for shapes that disagree, or no point that counts.
    Source: arXiv:2306.01984, section 5 and its evaluation (`xskillscore.crps_ensemble`). Piece by piece over the batch.
    """
    check_members(ensemble, truth, 1, "A score", "pass at least one")
    space = counted.ndim
    if truth.shape[truth.ndim - space :] != counted.shape or not bool(counted.any()):
        raise ValueError(
            f"counted {tuple(counted.shape)} must be of the space of truth {tuple(truth.shape)}, not all false."
        )
    batch = truth.shape[: truth.ndim - space - 1]
    parts = torch.empty(4, *batch, dtype=torch.float64, device=truth.device)
    entries = truth[(0,) * len(batch)].numel() if truth.numel() else 1
    for place in pieces(batch, max(1, PIECE // (8 * (len(ensemble) + 1) * entries))):
        members, known = (one[..., counted].to(torch.float64) for one in (ensemble[:, *place], truth[place]))
        mean = members.mean(dim=0)
        variance = torch.stack([(member - mean).square() for member in members]).mean(dim=0)
        fields = (
            (members - known).abs().mean(dim=0),
            crps(members, known, fair=False),
            (mean - known).square(),
            variance,
        )
        parts[:, *place] = torch.stack([field.mean(dim=(-2, -1)) for field in fields])
    return PooledParts(*parts)


def fair_crps(absolute: Tensor, crps: Tensor, members: int) -> Tensor:
    """The fair CRPS from the biased one: both are the absolute error less pairs, over 2 M (M - 1) and 2 M^2.

        fair = biased - sum_ij |x_i - x_j| / (2 M^2 (M - 1)) = biased - (absolute - biased) / (M - 1)

    NaN for one member.
    """
    return crps - (absolute - crps) / (members - 1) if members > 1 else torch.full_like(crps, torch.nan)


def fair_square(square: Tensor, variance: Tensor, members: int) -> Tensor:
    """Squared error that the mean of infinitely many members would have, unbiased: square - s^2 / M, s^2 with M - 1.

    NaN for one member; of few cases it may be negative, where the error of the mean is hardly more than the noise of M draws.
    """
    return square - variance / (members - 1) if members > 1 else torch.full_like(square, torch.nan)


def published_ratio(variance: Tensor, square: Tensor) -> Tensor:
    """sqrt(variance) / sqrt(square) with the variance divided by M and no further factor.

    A reliable ensemble of M members has sqrt((M - 1) / (M + 1)) of means: 0.98 with 50, 0.95 with 20. NaN where both are zero.
    """
    return (variance / square).sqrt()


def fair_ratio(variance: Tensor, square: Tensor, members: int) -> Tensor:
    """The same times sqrt((M + 1) / (M - 1)): 1 for a reliable ensemble of any size, of means. NaN for one member."""
    factor = (members + 1) / (members - 1) if members > 1 else torch.nan
    return (factor * variance / square).sqrt()
