"""How far two samples of one law are apart: parts of the truth dealt at random to two sides, so that a distance has a measure.

A finite sample is never at distance zero from another. A forecast that is no farther from the truth than two parts of the truth are
from each other cannot be told from it with these data.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_splits(parts: int, share: float, splits: int, generator: torch.Generator) -> Tensor:
    """Which parts go to the first side in each split, bool (split, part).

    Args:
        parts: Number of independent parts of the truth (trajectories, or long stretches of one).
        share: Size of the forecast over that of the truth. The first side gets that share of the parts, at least one and at most half.
        splits: How many.
        generator: On the CPU.

    Raises: ValueError for fewer than two parts. The distance of two halves is sqrt(2) times that of two samples of the whole size, so
    that the bound is generous to a forecast as large as the truth; for a smaller one it is close to right.
    """
    if parts < 2:
        raise ValueError(f"A split needs at least two parts, got {parts}.")
    side = min(max(1, round(share * parts)), parts // 2)
    order = torch.rand(splits, parts, generator=generator).argsort(dim=-1)
    return order < side


def split_hellinger(masses: Tensor, first: Tensor) -> Tensor:
    """Hellinger distances between the two sides of each split, (split,).

    Args:
        masses: Mass of each cell in each part, tails included, (part, *cell).
        first: From `random_splits`.
    """
    sides = split_sums(masses, first)
    one, two = (side / side.sum(dim=-1, keepdim=True) for side in sides)
    return ((one.sqrt() - two.sqrt()).square().sum(dim=-1) / 2).sqrt()


def split_sums(values: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the parts of each side, (split, flattened rest) each, float64."""
    flat = values.flatten(start_dim=1).to(torch.float64)
    chosen = first.to(device=flat.device, dtype=torch.float64)
    return chosen @ flat, (1 - chosen) @ flat
