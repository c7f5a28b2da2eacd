"""Springs between the neighbours of a rectangular mesh in the plane: forces and energy from shifted differences.

Positions are (*batch, 2, n_x, n_y), absolute. Each particle is tied to its eight neighbours by springs whose length at rest is that
on the unit lattice, 1 along the axes and sqrt 2 along the diagonals. Numbers here are for the spring constant 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LINKS = ((1, 0), (0, 1), (1, 1), (1, -1))
"""From a particle to the half of its neighbours whose springs are its own: each spring is met once."""

Window = tuple[slice, slice]


def lattice(shape: tuple[int, int], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Positions at rest, (2, n_x, n_y): the particle of index (i, j) is at (i, j)."""
    return torch.stack(torch.meshgrid(*(torch.arange(points, dtype=dtype) for points in shape), indexing="ij"))


def spring_force(position: Tensor) -> Tensor:
    """Force of all springs on each particle.

        f_a = -sum_b (|q_a - q_b| - L_ab) (q_a - q_b) / |q_a - q_b|

    Args:
        position: q, (*batch, 2, n_x, n_y).

    Returns: (*batch, 2, n_x, n_y), exactly zero on the unit lattice; the forces on all particles add up to zero. Differentiable where
        no two neighbours coincide (there the force has no direction, and the result is not finite).
    """
    force = torch.zeros_like(position)
    for rest, first, second in _pairs(position):
        apart, length = _spanned(position, first, second)
        pull = apart * ((length - rest) / length).unsqueeze(-3)
        force[(..., *first)].add_(pull)
        force[(..., *second)].sub_(pull)
    return force


def spring_energy(position: Tensor) -> Tensor:
    """sum over springs of (|q_a - q_b| - L_ab)^2 / 2 for positions (*batch, 2, n_x, n_y): (*batch)."""
    total = position.new_zeros(())
    for rest, first, second in _pairs(position):
        _, length = _spanned(position, first, second)
        total = total + (length - rest).square().sum(dim=(-2, -1)) / 2
    return total


def _pairs(position: Tensor) -> Iterator[tuple[float, Window, Window]]:
    """For each kind of spring its length at rest, the particles at one end, and those at the other in the same order."""
    if position.ndim < 3 or position.shape[-3] != 2:
        raise ValueError(f"position {tuple(position.shape)} must be (*batch, 2, n_x, n_y).")
    rows, columns = position.shape[-2:]
    for down, along in LINKS:  # down is never negative
        first = slice(0, rows - down), slice(max(0, -along), columns - max(0, along))
        second = slice(down, rows), slice(max(0, along), columns + min(0, along))
        yield math.hypot(down, along), first, second


def _spanned(position: Tensor, first: Window, second: Window) -> tuple[Tensor, Tensor]:
    """Vectors from the first ends to the second, (*batch, 2, *springs), and their lengths, (*batch, *springs)."""
    apart = position[(..., *second)] - position[(..., *first)]
    return apart, apart.square().sum(dim=-3).sqrt()  # exactly sqrt 2 where it should be, which hypot does not promise
