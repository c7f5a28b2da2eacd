"""How far velocities on nodes are from the constraints of an incompressible flow past bodies: for data, forecasts and scores."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.numerics.node_projection import cell_divergence

EVEN = 1e-4  # of the spacing: coordinates may have been through single precision


def divergence(states: Tensor, grid: Grid) -> Tensor:
    """Divergence du/dx + dv/dy in the cells between the nodes of a uniform bounded grid, (..., X - 1, Y - 1), in 1 / time.

    The mean flux through each side of a cell, by its two nodes: second order, and zero to rounding for `channel-obstacles`, cells beside
    bodies included, where states are stored on the solver's own nodes.

    Args:
        states: (..., channel, X, Y), the velocities along x and y in the first two channels.
        grid: Of two axes.

    Raises: ValueError for another grid.
    """
    if len(grid.axes) != 2 or any(grid.periodic) or states.shape[-2:] != grid.shape or states.shape[-3] < 2:
        raise ValueError(
            f"states {tuple(states.shape)} must be (..., u and v, X, Y) on a bounded grid, not {grid.shape}."
        )
    widths = []
    for axis in grid.axes:
        steps = torch.tensor(axis.coordinates, dtype=torch.float64).diff()
        if (steps - steps.mean()).abs().max() > EVEN * steps.mean().abs():
            raise ValueError(f"The nodes along {axis.name} must be equally far apart.")
        widths.append(steps.mean().item())
    return cell_divergence(states[..., :2, :, :], (widths[0], widths[1]))


def no_slip_residual(states: Tensor, mask: Tensor) -> Tensor:
    """Root mean square speed at the nodes that should be at rest, (...), in the unit of the velocity; 0 where there are none.

    Args:
        states: (..., channel, X, Y), the velocities along x and y in the first two channels.
        mask: Nonzero at nodes at rest (bodies and walls, not the inflow), (X, Y) or with leading axes that broadcast to those of states.
    """
    held = (mask != 0).to(states.dtype)
    squared = (states[..., :2, :, :] ** 2).sum(dim=-3)
    return ((squared * held).sum(dim=(-2, -1)) / held.sum(dim=(-2, -1)).clamp(min=1)).sqrt()
