"""Sorting the members of an ensemble at every point."""

from __future__ import annotations

from functools import cache

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


def sort_in_place(rows: list[Tensor], spare: Tensor) -> tuple[list[Tensor], Tensor]:
    """`sort_members` without any new memory: the rows are overwritten, and so is `spare`, a row more.

    Args:
        rows: One tensor (*shape) for each member, at most `NETWORK_MEMBERS`; not differentiable.
        spare: (*shape), of any content.

    Returns: the same tensors in another order: the members in increasing order, and the row that is now spare.
    """
    rows = list(rows)
    for low, high in _comparators(len(rows)):
        torch.minimum(rows[low], rows[high], out=spare)
        torch.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows, spare


@cache
def _comparators(members: int) -> tuple[tuple[int, int], ...]:
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
    return tuple(pairs)
