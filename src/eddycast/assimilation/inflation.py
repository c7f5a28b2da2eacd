"""What is done to the deviations of an analysis before the next forecast, against sampling and model errors.

An ensemble of N members underestimates its own error: without a remedy it comes to trust itself and ignores what is observed.
Source: multiplicative: Anderson and Anderson (1999), doi:10.1175/1520-0493(1999)127<2741:AMCIOT>2.0.CO;2; relaxation to the prior
perturbations: Zhang et al. (2004), doi:10.1175/1520-0493(2004)132<1238:IOIEAO>2.0.CO;2; to the prior spread: Whitaker and Hamill
(2012), doi:10.1175/MWR-D-11-00276.1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inflated(ensemble: Tensor, factor: float) -> Tensor:
    """mean + factor A; the ensemble (member, ...) itself at factor 1."""
    if factor == 1:
        return ensemble
    mean = ensemble.mean(dim=0, keepdim=True)
    return mean + factor * (ensemble - mean)


def relaxed_to_perturbations(analysis: Tensor, prior: Tensor, fraction: float) -> Tensor:
    """RTPP: mean_a + (1 - fraction) A_a + fraction A_f, for ensembles (member, ...) whose members correspond."""
    if fraction == 0:
        return analysis
    mean = analysis.mean(dim=0, keepdim=True)
    return mean + (1 - fraction) * (analysis - mean) + fraction * (prior - prior.mean(dim=0, keepdim=True))


def relaxed_to_spread(analysis: Tensor, prior: Tensor, fraction: float) -> Tensor:
    """RTPS: A_a (1 + fraction (sd_f - sd_a) / sd_a) at each point, so that the spread is the mixture of both; (member, ...).

    Where the analysis has no spread at all it keeps none.
    """
    if fraction == 0:
        return analysis
    mean = analysis.mean(dim=0, keepdim=True)
    before, after = prior.std(dim=0), analysis.std(dim=0)
    factor = torch.where(after > 0, 1 + fraction * (before - after) / after, torch.ones_like(after))
    return mean + factor * (analysis - mean)
