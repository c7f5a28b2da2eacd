"""Sorting the members of an ensemble at every point."""

from __future__ import annotations

import torch
from torch import Tensor

# Beyond this many members the sorting network needs more passes than a general sort is worth.
NETWORK_MEMBERS = 128


def sort_members(ensemble: Tensor) -> Tensor:
    """Members in increasing order at each point, (member, *shape) -> (member, *shape).

    By Batcher's odd-even merging network: O(M log^2 M) minima and maxima of whole fields, several times faster than a
    sort along a short axis. A NaN spreads to other members of its point. Differentiable.
    Source: Batcher (1968), doi:10.1145/1468075.1468121.
    """
    members = ensemble.shape[0]
    if members > NETWORK_MEMBERS:
        return ensemble.sort(dim=0).values
    rows = list(ensemble.unbind(dim=0))
    for low, high in _comparators(members):
        rows[low], rows[high] = torch.minimum(rows[low], rows[high]), torch.maximum(rows[low], rows[high])
    return torch.stack(rows)


def _comparators(members: int) -> list[tuple[int, int]]:
    """Pairs to put in order, one after the other."""
    pairs = []
    merged = 1  # runs of this length are sorted
    while merged < members:
        distance = merged
        while distance >= 1:
            for start in range(distance % merged, members - distance, 2 * distance):
                for low in range(start, min(start + distance, members - distance)):
                    high = low + distance
                    if low // (2 * merged) == high // (2 * merged):
                        pairs.append((low, high))
            distance //= 2
        merged *= 2
    return pairs
