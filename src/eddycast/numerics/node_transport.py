"""Advection and diffusion of velocities on the nodes of a channel, and the pressure from cells to nodes.

The first column of nodes holds the inflow, the first and last row are walls; through the last column the fluid leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def node_tendency(velocity: Tensor, viscosity: Tensor, spacing: tuple[float, float]) -> Tensor:
    """-(u . grad) u + nu lap u on the nodes; zero on the first column and on both walls, whose nodes nothing moves.

    Advection by upwind-biased differences of third order, of fourth plus |u| h^3 / 12 times a fourth derivative, which damps what a
    grid cannot carry; at sides they take in quadratic extrapolations, second order. Fluid that enters through the last column has no
    gradient there. Diffusion by second differences; at the last column du/dx = 0.

    Args:
        velocity: (..., 2, X, Y), zero in bodies.
        viscosity: nu, which broadcasts to (..., 1, 1, 1).
        spacing: Distance of the nodes along x and y.

    Source: Leonard (1979), doi:10.1016/0045-7825(79)90034-3.
    """
    by_x, by_y = spacing
    inner = velocity[..., 1:, 1:-1]
    along = torch.cat([velocity[..., 0:1, 1:-1, 1:-1], velocity[..., 0:1, -1:, 1:-1].clamp(min=0)], dim=-2)
    across = velocity[..., 1:2, 1:, 1:-1]
    rows, columns = velocity[..., :, 1:-1], velocity[..., 1:, :]
    beyond = 3 * (rows[..., -1:, :] - rows[..., -2:-1, :]) + rows[..., -3:-2, :]
    further = 3 * (beyond - rows[..., -1:, :]) + rows[..., -2:-1, :]
    rows = torch.cat([_before(rows, -2), rows, beyond, further], dim=-2)
    columns = torch.cat([_before(columns, -1), columns, _before(columns.flip(-1), -1)], dim=-1)

    advection = _upwind(along, rows, inner, -2) / (12 * by_x) + _upwind(across, columns, inner, -1) / (12 * by_y)
    east = torch.cat([velocity[..., 2:, 1:-1], velocity[..., -2:-1, 1:-1]], dim=-2)
    west, north, south = velocity[..., :-1, 1:-1], velocity[..., 1:, 2:], velocity[..., 1:, :-2]
    diffusion = (east + west - 2 * inner) / by_x**2 + (north + south - 2 * inner) / by_y**2
    return torch.nn.functional.pad(viscosity * diffusion - advection, (1, 1, 1, 0))


def node_pressure(pressure: Tensor) -> Tensor:
    """Pressure on the nodes (..., X, Y): the mean of the four cells around each, of (..., X - 1, Y - 1), which are continued linearly."""
    for dim in (-2, -1):
        first, last = pressure.narrow(dim, 0, 2), pressure.narrow(dim, -2, 2)
        before = 2 * first.narrow(dim, 0, 1) - first.narrow(dim, 1, 1)
        after = 2 * last.narrow(dim, 1, 1) - last.narrow(dim, 0, 1)
        padded = torch.cat([before, pressure, after], dim=dim)
        pressure = (padded.narrow(dim, 0, padded.shape[dim] - 1) + padded.narrow(dim, 1, padded.shape[dim] - 1)) / 2
    return pressure


def _before(values: Tensor, dim: int) -> Tensor:
    """Quadratic extrapolation by one point before the first."""
    first, second, third = (values.narrow(dim, place, 1) for place in range(3))
    return 3 * (first - second) + third


def _upwind(speed: Tensor, padded: Tensor, centre: Tensor, dim: int) -> Tensor:
    """12 h times speed d/dx: `padded` has two points more than `centre` on either side along `dim`."""
    count = centre.shape[dim]
    far_below, below, _, above, far_above = (padded.narrow(dim, place, count) for place in range(5))
    central = 8 * (above - below) - (far_above - far_below)
    fourth = (far_above + far_below) - 4 * (above + below) + 6 * centre
    return speed * central + speed.abs() * fourth
