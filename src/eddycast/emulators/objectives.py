"""Averages and scores that families minimise."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.conditions import Conditions


def valid_mean(values: Tensor, conditions: Conditions) -> Tensor:
    """Mean of (..., *space) over all points where the fields are defined."""
    if conditions.valid is None:
        return values.mean()
    valid = conditions.valid.to(values)
    return (values * valid).mean() / valid.mean()


def almost_fair_crps(ensemble: Tensor, truth: Tensor, fairness: float) -> Tensor:
    """fairness * fair CRPS + (1 - fairness) * CRPS of the ensemble's own distribution, at each point.

        mean_i |x_i - y| - (fairness / (M (M - 1)) + (1 - fairness) / M^2) sum_{i < j} |x_i - x_j|

    The fair score alone lets one member go astray at no cost when another is exact; a little of the other term mends that.

    Args:
        ensemble: (member, *shape) with M >= 2 members; a handful, for the pairs are written out.
        truth: (*shape).
        fairness: Between 0 and 1.

    Source: Lang et al. (2024), arXiv:2412.15832, eq. 4; fair score: Ferro (2014), doi:10.1002/qj.2270.
    """
    members = len(ensemble)
    pairs = [(ensemble[i] - ensemble[j]).abs() for i in range(members) for j in range(i)]
    weight = fairness / (members * (members - 1)) + (1 - fairness) / members**2
    return (ensemble - truth).abs().mean(dim=0) - weight * torch.stack(pairs).sum(dim=0)
