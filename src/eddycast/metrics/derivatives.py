"""Derivatives of a field along one axis, in the units of its coordinates: one stencil for truth and forecast alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eddycast.grid import Axis
from eddycast.numerics.spectral import derivative

UNEVEN = 1e-3
"""Spacings that differ by more than this share of their mean are no longer those of a uniform axis."""


def axis_derivative(field: Tensor, axis: Axis, dim: int, order: int, *, central: bool = False) -> Tensor:
    """First or second derivative along one axis.

    On a uniform periodic axis it is spectral, exact for what the grid resolves; otherwise (a wall, uneven points, a field with
    gaps) it is that of the parabola through three neighbours, of second order on uniform points and of first order for the second
    derivative on uneven ones.

    Args:
        field: (*batch, *space), space with this axis at `dim`.
        axis: Its coordinates and period.
        dim: Negative dimension of the axis.
        order: 1 or 2.
        central: Three neighbours on a periodic axis too: a gap then spoils its neighbours only, not the whole line.

    Returns: the shape of `field`, per unit of the coordinate to that power; NaN at the two ends of a bounded axis, where there is no
        stencil on both sides.
    Raises: ValueError for another order or length, or fewer than 3 points.
    """
    if order not in (1, 2):
        raise ValueError(f"Derivatives are of order 1 or 2, got {order}.")
    if dim >= 0 or field.shape[dim] != axis.size or axis.size < 3:
        raise ValueError(
            f"The axis {axis.name!r} has {axis.size} points; dimension {dim} of {tuple(field.shape)} must, 3 or more."
        )
    values = field.movedim(dim, -1)
    if axis.period is not None and not central and is_uniform(axis):
        turn = math.copysign(1.0, axis.coordinates[-1] - axis.coordinates[0])
        return (turn**order * derivative(values, [abs(axis.period)], [order])).movedim(-1, dim)
    places = torch.as_tensor(axis.coordinates, dtype=torch.float64, device=field.device)
    if axis.period is None:
        before, here, after = values[..., :-2], values[..., 1:-1], values[..., 2:]
        left, right = places[1:-1] - places[:-2], places[2:] - places[1:-1]
    else:
        before, here, after = values.roll(1, -1), values, values.roll(-1, -1)
        turn = torch.copysign(places.new_tensor(axis.period), places[-1] - places[0])
        gaps = torch.cat([places, places[:1] + turn]).diff()
        left, right = gaps.roll(1), gaps
    left, right = left.to(values.dtype), right.to(values.dtype)
    up, down = (after - here) / right, (here - before) / left
    if order == 1:
        slope = (left * up + right * down) / (left + right)
    else:
        slope = 2 * (up - down) / (left + right)
    if axis.period is None:
        slope = torch.nn.functional.pad(slope, (1, 1), value=math.nan)
    return slope.movedim(-1, dim)


def is_uniform(axis: Axis) -> bool:
    """Whether the points are evenly spaced, round the end of a periodic axis too."""
    if axis.size < 2:
        return True
    gaps = torch.as_tensor(axis.coordinates, dtype=torch.float64).diff().abs()
    if axis.period is not None:
        gaps = torch.cat([gaps, (abs(axis.period) - gaps.sum())[None]])
    return bool((gaps - gaps.mean()).abs().max() <= UNEVEN * gaps.mean())
