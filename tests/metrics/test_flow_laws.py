"""Divergence and slip of flows: exact fields, the discretisation of the channel's solver, convergence, laws of scaling."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import relative_divergence, slip
from eddycast.numerics.node_projection import cell_divergence


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def channel(columns, rows, length=2.2, height=0.41):
    x, y = np.linspace(0, length, columns), np.linspace(0, height, rows)
    return Grid((Axis("x", tuple(x), ("open", "open")), Axis("y", tuple(y), ("wall", "wall"))))


def points(grid):
    return torch.meshgrid(*(torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes), indexing="ij")


def test_linear_fields_are_exact_on_uneven_grids_of_either_direction():
    """u = (a x + b y, c x + d y): |a + d| / sqrt(a^2 + b^2 + c^2 + d^2), cell by cell."""
    grid = Grid((Axis("x", (0.0, 0.1, 0.5, 0.6), ("open", "open")), Axis("y", (3.0, 2.0, 1.5), ("wall", "open"))))
    x, y = points(grid)
    for a, b, c, d in ((1.0, 0.0, 0.0, 1.0), (2.0, 1.0, -3.0, -2.0), (0.5, 4.0, 1.0, 0.25)):
        found = relative_divergence(torch.stack([a * x + b * y, c * x + d * y]), grid)
        assert float(found) == pytest.approx(abs(a + d) / math.sqrt(a * a + b * b + c * c + d * d), abs=1e-12)


def test_a_periodic_flow_without_divergence_has_none_and_a_compression_has_one():
    grid = Grid((periodic_axis("x", 16, 3.0), periodic_axis("y", 12, 2.0)))
    x, y = points(grid)
    p, q = 2 * math.pi / 3, 2 * math.pi / 2
    free = torch.stack([q * torch.sin(p * x) * torch.cos(q * y), -p * torch.cos(p * x) * torch.sin(q * y)])
    assert float(relative_divergence(free, grid)) < 1e-12
    squeezed = torch.stack([torch.sin(p * x), 0 * x])
    assert float(relative_divergence(squeezed, grid)) == pytest.approx(1.0)
    both = torch.stack([free, squeezed, 7 * squeezed])[:, None]
    assert relative_divergence(both, grid).shape == (3, 1)
    torch.testing.assert_close(relative_divergence(both, grid)[1], relative_divergence(both, grid)[2])


def test_differences_converge_with_second_order_and_wrap_round_periodic_axes():
    """psi = sin(x) y^2 (1 - y)^2 between walls, x periodic: what is left of the divergence is of second order."""
    left = []
    for number in (16, 32, 64):
        walls = Axis("y", tuple(np.linspace(0, 1, number + 1)), ("wall", "wall"))
        grid = Grid((periodic_axis("x", number, 2 * math.pi), walls))
        x, y = points(grid)
        u = torch.sin(x) * (2 * y - 6 * y**2 + 4 * y**3)
        v = -torch.cos(x) * y**2 * (1 - y) ** 2
        left.append(float(relative_divergence(torch.stack([u, v]), grid)))
    orders = [math.log2(a / b) for a, b in pairwise(left)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.1)


def test_noise_in_the_plane_has_the_share_of_independent_slopes():
    """Four independent slopes of one variance: E|a + d| / E sqrt(a^2 + b^2 + c^2 + d^2) = (2 / sqrt pi) / (3 sqrt(pi / 2) / 2) = 0.60."""
    grid = Grid((periodic_axis("x", 64, 1.0), periodic_axis("y", 64, 1.0)))
    expected = 2 / math.sqrt(math.pi) / (1.5 * math.sqrt(math.pi / 2))
    assert float(relative_divergence(noise(20, 2, 64, 64), grid).mean()) == pytest.approx(expected, rel=0.03)


def test_it_is_the_divergence_of_the_cells_of_the_channel():
    """The solver's own discretisation: what its projection calls free of divergence is so here."""
    grid = channel(23, 9)
    velocity = noise(2, 23, 9, seed=4)
    spacing = tuple(float(np.diff(axis.coordinates)[0]) for axis in grid.axes)
    cells = cell_divergence(velocity, spacing)
    gradient = sum(_cell_slope(velocity[a], spacing, b) ** 2 for a in (0, 1) for b in (0, 1)) ** 0.5
    torch.testing.assert_close(relative_divergence(velocity, grid), cells.abs().sum() / gradient.sum())


def _cell_slope(field, spacing, axis):
    corners = field[:-1, :-1], field[:-1, 1:], field[1:, :-1], field[1:, 1:]
    signs = ((-1, -1, 1, 1), (-1, 1, -1, 1))[axis]
    return sum(sign * corner for sign, corner in zip(signs, corners, strict=True)) / (2 * spacing[axis])


def test_slip_is_the_speed_on_bodies_over_that_of_the_fluid():
    solid = torch.zeros(6, 5, dtype=torch.bool)
    solid[2:4, 1:3] = True
    velocity = noise(3, 2, 6, 5, seed=1)
    velocity[1][..., solid] = 0
    velocity[2] = torch.tensor([3.0, 4.0])[:, None, None] * torch.where(solid, 0.1, 1.0)
    found = slip(velocity, solid, ~solid)
    expected = (velocity[0][:, solid].square().sum(0).mean() / velocity[0][:, ~solid].square().sum(0).mean()).sqrt()
    torch.testing.assert_close(found, torch.stack([expected, torch.tensor(0.0), torch.tensor(0.1)]).double())


def test_wrong_shapes_and_empty_masks_are_refused():
    grid = channel(5, 4)
    with pytest.raises(ValueError, match="2 points a side"):
        relative_divergence(noise(3, 5, 4), grid)
    nothing = torch.zeros(5, 4, dtype=torch.bool)
    for masks in ((nothing, ~nothing), (~nothing, nothing)):
        with pytest.raises(ValueError, match="one of the masks is empty"):
            slip(noise(2, 5, 4), *masks)
