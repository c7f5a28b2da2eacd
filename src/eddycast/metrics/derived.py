"""Vorticity of a velocity in the plane: in physical units, and in the convention that published scores use."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.numerics import incompressible


def vorticity(velocity: Tensor, grid: Grid) -> Tensor:
    """dv/dx - du/dy, per time, by spectral derivatives: exact for resolved fields. Positive turns anticlockwise.

    Args:
        velocity: (*batch, 2, *space), components along the axes of the grid in their order.
        grid: Two periodic axes; named `x` and `y` they may come in either order.

    Returns: (*batch, *space).
    Raises: ValueError for another shape, or a grid that is not periodic in the plane.
    """
    _check(velocity, grid)
    lengths = [float(axis.period) for axis in grid.axes if axis.period is not None]
    return _handedness(grid) * incompressible.vorticity(velocity, lengths).squeeze(-3)


def published_vorticity(velocity: Tensor, grid: Grid) -> Tensor:
    """du/dy - dv/dx by centred differences *per grid step*: what published scores of Kolmogorov flow are taken of.

        (u[j + 1] - u[j - 1]) / 2 - (v[i + 1] - v[i - 1]) / 2,  periodic

    So minus the vorticity times the grid spacing, for well resolved flows: on 64 points over 2 pi multiply by
    -64 / (2 pi) for physical units. Mode k is damped by sin(k h) / (k h) besides. Correlations hardly notice; errors are
    in other units, and compare only with errors in this convention. Source: arXiv:2306.10574 and 2410.16415, their code.

    Args and raises: as `vorticity`; spacings should be equal, since none is divided by.
    """
    _check(velocity, grid)
    first, second = velocity.unbind(dim=-3)
    return _handedness(grid) * (_difference(first, -1) - _difference(second, -2))


def _difference(field: Tensor, dim: int) -> Tensor:
    return (field.roll(-1, dims=dim) - field.roll(1, dims=dim)) / 2


def _handedness(grid: Grid) -> float:
    """-1 where the axes are stored as y, x: a curl along the axes in their order then has the other sign."""
    return -1.0 if grid.names == ("y", "x") else 1.0


def _check(velocity: Tensor, grid: Grid) -> None:
    if len(grid.axes) != 2 or not all(grid.periodic):
        raise ValueError(f"A vorticity needs two periodic axes, the grid has {grid.names} with {grid.periodic}.")
    if velocity.ndim < 3 or velocity.shape[-3:] != torch.Size((2, *grid.shape)):
        raise ValueError(f"A velocity on {grid.shape} points is (*batch, 2, *space); got {tuple(velocity.shape)}.")
