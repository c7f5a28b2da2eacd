"""How well a velocity keeps to the laws of an incompressible fluid between solid bodies: divergence, and slip at the bodies."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.grid import Axis, Grid
from eddycast.numerics.spectral import derivative


def relative_divergence(velocity: Tensor, grid: Grid) -> Tensor:
    """Mean |div u| over the mean size of the velocity gradient: 0 for an incompressible fluid, about 0.6 for noise in the plane.

        sum_x |sum_a du_a / dx_a| / sum_x sqrt(sum_ab (du_a / dx_b)^2)

    Derivatives are spectral where all axes are periodic. Otherwise they are those of the cells between the points, bilinear: a
    difference along one axis, averaged over the ends of the others, which is the mean flux through the sides of a cell. A field that
    another discretisation has made free of divergence is not quite so here: lay the value of the truth beside it.

    Args:
        velocity: (*batch, D, *space), components along the axes of the grid in their order; 0 on bodies at rest.
        grid: D axes.

    Returns: (*batch), float64; NaN for a velocity without gradient.
    Raises: ValueError for another shape, or an axis of a single point.
    """
    dims = len(grid.axes)
    if velocity.shape[-dims - 1 :] != torch.Size((dims, *grid.shape)) or min(grid.shape) < 2:
        raise ValueError(
            f"A velocity on {grid.shape} points is (*batch, {dims}, *space), 2 points a side; got {tuple(velocity.shape)}."
        )
    values = velocity.to(torch.float64)
    total, square = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for component in range(dims):
        for axis in range(dims):
            slope = _slope(values.select(-dims - 1, component), grid, axis)
            square = square + slope.square()
            total = total + slope if component == axis else total
    space = tuple(range(-dims, 0))
    return total.abs().sum(dim=space) / square.sqrt().sum(dim=space)


def slip(velocity: Tensor, solid: Tensor, fluid: Tensor) -> Tensor:
    """Root mean square speed on solid points over that in the fluid: 0 where the fluid sticks to the bodies.

    Args:
        velocity: (*batch, D, *space).
        solid, fluid: Points on bodies and walls, and points of the fluid, bool (*space).

    Returns: (*batch), float64; NaN where nothing moves at all.
    Raises: ValueError where there is no solid point, or no fluid.
    """
    if not bool(solid.any()) or not bool(fluid.any()):
        raise ValueError("A slip needs points on bodies and points of the fluid; one of the masks is empty.")
    space = solid.ndim
    square = velocity.to(torch.float64).square().sum(dim=-space - 1)
    return (square[..., solid].mean(dim=-1) / square[..., fluid].mean(dim=-1)).sqrt()


def _slope(field: Tensor, grid: Grid, axis: int) -> Tensor:
    """Derivative along one axis: at the points where all axes are periodic, otherwise in the cells between them."""
    dims = len(grid.axes)
    if all(grid.periodic):
        periods = [float(one.period) for one in grid.axes if one.period is not None]
        return derivative(field, periods, [int(other == axis) for other in range(dims)])
    for other, along in enumerate(grid.axes):
        dim, size = other - dims, along.size
        if along.period is not None:
            field = torch.cat([field, field.narrow(dim, 0, 1)], dim=dim)
            size += 1
        before, after = field.narrow(dim, 0, size - 1), field.narrow(dim, 1, size - 1)
        field = (
            (after - before) / _widths(along, field).reshape(-1, *(1,) * (-dim - 1))
            if other == axis
            else (before + after) / 2
        )
    return field


def _widths(axis: Axis, like: Tensor) -> Tensor:
    """Distances of neighbouring points, with the one round the end of a periodic axis; negative along a falling coordinate."""
    places = torch.as_tensor(axis.coordinates, dtype=like.dtype, device=like.device)
    if axis.period is None:
        return places.diff()
    turn = torch.copysign(like.new_tensor(axis.period), places[-1] - places[0])
    return torch.cat([places, places[:1] + turn]).diff()
