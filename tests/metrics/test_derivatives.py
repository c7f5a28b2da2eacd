"""Derivatives along one axis: exact on what a grid resolves, of second order at walls, in the units of the coordinates."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from eddycast.grid import Axis, periodic_axis
from eddycast.metrics.derivatives import axis_derivative, is_uniform


@pytest.mark.parametrize("length", [1.0, 22.0])
@pytest.mark.parametrize(("order", "central"), [(1, False), (2, False), (1, True), (2, True)])
def test_a_sine_on_a_periodic_axis(length, order, central):
    """Spectral: exact. Three points: sin(kh)/h and (2 cos(kh) - 2)/h^2 in the place of k and -k^2, exactly."""
    points, mode = 32, 5
    axis = periodic_axis("x", points, length)
    x = torch.tensor(axis.coordinates, dtype=torch.float64)
    k, h = 2 * math.pi * mode / length, length / points
    first, second = (math.sin(k * h) / h, (2 * math.cos(k * h) - 2) / h**2) if central else (k, -(k**2))
    expected = first * torch.cos(k * x) if order == 1 else second * torch.sin(k * x)
    found = axis_derivative(torch.sin(k * x), axis, -1, order, central=central)
    assert torch.allclose(found, expected, atol=1e-10 * k**order)


def test_the_axis_is_the_one_that_is_named_and_a_falling_coordinate_turns_the_sign():
    axis = periodic_axis("x", 16, 2 * math.pi)
    x = torch.tensor(axis.coordinates, dtype=torch.float64)
    field = torch.sin(x)[:, None] * torch.ones(3, dtype=torch.float64)
    assert torch.allclose(axis_derivative(field, axis, -2, 1), torch.cos(x)[:, None].expand_as(field))
    falling = Axis("x", axis.coordinates[::-1], period=axis.period)
    for central in (False, True):
        turned = axis_derivative(field.flip(0), falling, -2, 1, central=central)
        assert torch.allclose(turned, axis_derivative(field, axis, -2, 1, central=central).flip(0))


def test_walls_and_uneven_points_are_exact_for_parabolas_and_of_second_order():
    """The ends, without a neighbour on one side, have no value."""
    places = torch.tensor([0.0, 0.3, 0.5, 1.1, 1.6, 2.6], dtype=torch.float64)
    axis = Axis("y", tuple(places.tolist()), boundary=("wall", "wall"))
    found = axis_derivative(3 * places**2 - places, axis, -1, 1)
    assert found[[0, -1]].isnan().all() and torch.allclose(found[1:-1], (6 * places - 1)[1:-1])
    assert torch.allclose(axis_derivative(3 * places**2, axis, -1, 2)[1:-1], torch.full((4,), 6.0).double())
    assert not is_uniform(axis)
    errors = []
    for points in (21, 41, 81):
        x = torch.linspace(0, 1, points, dtype=torch.float64)
        even = Axis("y", tuple(x.tolist()), boundary=("wall", "wall"))
        assert is_uniform(even)
        errors.append(
            [float((axis_derivative(x.exp(), even, -1, order) - x.exp())[1:-1].abs().max()) for order in (1, 2)]
        )
    for coarse, fine in pairwise(errors):
        assert [math.log2(one / two) for one, two in zip(coarse, fine, strict=True)] == pytest.approx([2, 2], abs=0.1)


def test_a_gap_spoils_its_neighbours_only():
    axis = periodic_axis("x", 12, 1.0)
    field = torch.zeros(12, dtype=torch.float64)
    field[0] = math.nan
    lost = axis_derivative(field, axis, -1, 1, central=True).isnan()
    assert lost.nonzero()[:, 0].tolist() == [0, 1, 11]


def test_what_cannot_be_is_refused():
    axis = periodic_axis("x", 8, 1.0)
    with pytest.raises(ValueError, match="order 1 or 2"):
        axis_derivative(torch.zeros(8), axis, -1, 3)
    with pytest.raises(ValueError, match="8 points"):
        axis_derivative(torch.zeros(7), axis, -1, 1)
