"""Random discs in a channel: each layout is a number, and the number is the layout."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise

LENGTH, HEIGHT = 2.2, 0.41
RADII = (0.05, 0.1)
ENDS, WALLS, GAP = 0.25, 0.05, 0.05
"""Least distance of a disc from inflow and outflow, from the walls, from another disc."""
TRIES = 100  # for one disc
RESTARTS = 100  # of a layout in which a disc found no room
MOST = 8


def discs(layout: int, count: int) -> Tensor:
    """Centre and radius (x, y, r) of `count` discs, (count, 3), float64.

        r ~ U(0.05, 0.1),   x ~ U(0.25 + r, 2.2 - 0.25 - r),   y ~ U(0.05 + r, 0.41 - 0.05 - r)

    one after the other; a disc whose centre is nearer than r + r' + 0.05 to that of another is drawn again, up to 100 times, then all are.
    The first discs of a layout are the same whatever their count, but for such restarts, which 4 discs do not need.

    Args:
        layout: Number of the layout, 0 to 2^64 - 1, the key of its random numbers.
        count: 0 to 8.

    Raises: InputError where there is no room.
    Source: the law of the flows past obstacles of Otness et al. (2021), arXiv:2108.07799, as used by Cachay et al. (2023),
        arXiv:2306.01984, where a disc is a polygon with 18 sides and a layout without room is given up.
    """
    single = torch.zeros((), dtype=torch.int64)
    noise = MemberNoise(layout, single, single)
    for restart in range(RESTARTS):
        placed: list[tuple[float, float, float]] = []
        for number in range(count):
            draws = noise.uniform((TRIES, 3), key=(restart, number, "discs"), dtype=torch.float64).tolist()
            found = next((disc for disc in map(_disc, draws) if all(_apart(disc, other) for other in placed)), None)
            if found is None:
                break
            placed.append(found)
        else:
            return torch.tensor(placed, dtype=torch.float64).reshape(count, 3)
    raise InputError(f"Layout {layout} has no room for {count} discs: take fewer obstacles, or another layout.")


def inside_discs(places: Tensor, grid: Grid) -> Tensor:
    """True at nodes within a disc or on its edge, (*space), for discs (count, 3)."""
    x, y = (torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes)
    centre_x, centre_y, radius = (column[:, None, None] for column in places.unbind(-1))
    return ((x[:, None] - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2).any(dim=0)


def _disc(draw: list[float]) -> tuple[float, float, float]:
    radius = RADII[0] + (RADII[1] - RADII[0]) * draw[0]
    x = ENDS + radius + (LENGTH - 2 * (ENDS + radius)) * draw[1]
    y = WALLS + radius + (HEIGHT - 2 * (WALLS + radius)) * draw[2]
    return x, y, radius


def _apart(disc: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return (disc[0] - other[0]) ** 2 + (disc[1] - other[1]) ** 2 >= (disc[2] + other[2] + GAP) ** 2
