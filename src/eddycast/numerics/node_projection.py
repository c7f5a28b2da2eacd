"""Incompressible flow in a channel with bodies, velocities on the nodes and pressures in the cells of a uniform grid.

    u_t = -(u . grad) u + nu lap u - grad p,   div u = 0

Of a cell, the four nodes around it give the divergence; of a node, the four cells around it give the pressure gradient, the negative
transpose of that divergence. The first column of nodes holds the inflow, the first and last row are walls, nodes in bodies are at rest;
through the last column the fluid leaves with nu du/dx = p n (do nothing), which fixes the level of the pressure. The projection is exact:
it removes the divergence of every cell to rounding and leaves all fixed nodes as they are, so a state on nodes is all there is to know.

Bodies are their nodes: a smooth one becomes a staircase of steps as large as a cell, of first order in the spacing. Cells see a
chequerboard of pressures badly and the velocity does not see it at all; the pressure on nodes, the average of four cells, is free of it.

Source: bilinear velocities and constant pressures, with lumped masses: Gresho and Sani, Incompressible Flow and the Finite Element Method
(1998), section 3.13. Upwind differences of third order: Leonard (1979), doi:10.1016/0045-7825(79)90034-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.numerics.block_tridiagonal import BlockFactors, factorise

RIDGE = 1e-14  # of the largest entry: cells cut off by bodies may repeat a condition, and their matrix is then singular


@dataclass(frozen=True)
class NodeProjection:
    """Projection onto velocities without divergence, for bodies of one's own per trajectory; from `node_projection`.

    Args:
        mobility: 0 at fixed nodes, 1 over the share of a cell's area that belongs to the node at others, (*batch, X, Y).
        spacing: Distance of the nodes along x and y.
        factors: Of the cells' pressure equation.
        split: True where the cells of the two colours of a chequerboard were factorised apart.
    """

    mobility: Tensor
    spacing: tuple[float, float]
    factors: BlockFactors
    split: bool

    def __call__(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest velocity without divergence that has the same fixed nodes, and the pressure that made it.

        Args:
            velocity: (*group, *batch, 2, X, Y); fixed nodes must hold what they are to have.

        Returns: velocity, and pressure of the cells (*group, *batch, X - 1, Y - 1), with velocity_in - velocity_out = grad pressure.
        """
        b = -cell_divergence(velocity, self.spacing)
        group, batch = b.shape[: b.ndim - self.mobility.ndim], self.mobility.shape[:-2]
        # several states of one geometry are solved together
        rows = b.reshape(-1, *b.shape[len(group) :]).movedim(0, -2)
        if self.split:
            solved = _merge_colours(self.factors.solve(_split_colours(rows)), b.shape[-1])
        else:
            solved = self.factors.solve(rows)
        pressure = solved.movedim(-2, 0).reshape(*group, *batch, *b.shape[-2:])
        push = cell_divergence_transpose(pressure, self.spacing)
        return velocity + self.mobility[..., None, :, :] * push, pressure


def node_projection(
    free: Tensor, spacing: tuple[float, float], *, dtype: torch.dtype, device: torch.device | str
) -> NodeProjection:
    """The projection for nodes that are free where `free` (*batch, X, Y) is 1; factorised in float64, then used in `dtype`.

    Where the cells are square the equation falls apart into those of the two colours of a chequerboard, half as large each.
    """
    mobility = free.to(device=device, dtype=torch.float64).clone()
    mobility[..., -1, :] *= 2
    diagonal, below = pressure_blocks(mobility, spacing)
    split = abs(spacing[0] - spacing[1]) <= 1e-9 * spacing[0]
    if split:
        diagonal, below = _split_blocks(diagonal, 0, 0), _split_blocks(below, 1, 0)
    factors = factorise(_regular(diagonal), below).to(dtype, device)
    return NodeProjection(mobility.to(dtype), spacing, factors, split)


def cell_divergence(velocity: Tensor, spacing: tuple[float, float]) -> Tensor:
    """Divergence in the cells, (..., X - 1, Y - 1), of velocities on the nodes, (..., 2, X, Y): the mean flux through each side."""
    u, v = velocity[..., 0, :, :], velocity[..., 1, :, :]
    across, along = u[..., :, 1:] + u[..., :, :-1], v[..., 1:, :] + v[..., :-1, :]
    return (across[..., 1:, :] - across[..., :-1, :]) / (2 * spacing[0]) + (along[..., :, 1:] - along[..., :, :-1]) / (
        2 * spacing[1]
    )


def cell_divergence_transpose(pressure: Tensor, spacing: tuple[float, float]) -> Tensor:
    """Minus the gradient at inner nodes, (..., 2, X, Y), of a pressure in the cells; beyond the box it counts as zero."""
    padded = torch.nn.functional.pad(pressure, (1, 1, 1, 1))
    rows, columns = padded[..., :, 1:] + padded[..., :, :-1], padded[..., 1:, :] + padded[..., :-1, :]
    along_x = (rows[..., :-1, :] - rows[..., 1:, :]) / (2 * spacing[0])
    along_y = (columns[..., :, :-1] - columns[..., :, 1:]) / (2 * spacing[1])
    return torch.stack([along_x, along_y], dim=-3)


def pressure_blocks(mobility: Tensor, spacing: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Blocks A_k (*batch, X - 1, Y - 1, Y - 1) and B_k of the pressure equation, one per column of cells."""
    lower = torch.eye(mobility.shape[-1] - 1, mobility.shape[-1], dtype=mobility.dtype, device=mobility.device)
    upper = lower.roll(1, dims=-1)
    total, difference = (lower + upper) / (2 * spacing[0]), (upper - lower) / (2 * spacing[1])
    along = (total * mobility[..., None, :]) @ total.mT  # (*batch, X, Y - 1, Y - 1)
    across = (difference * mobility[..., None, :]) @ difference.mT
    both = along + across
    return both[..., :-1, :, :] + both[..., 1:, :, :], (across - along)[..., 1:-1, :, :]


def _regular(diagonal: Tensor) -> Tensor:
    """With ones for cells none of whose nodes is free, and a ridge."""
    entries = diagonal.diagonal(dim1=-2, dim2=-1)
    scale = entries.max()
    added = torch.where(entries > 0, RIDGE * scale, scale)
    return diagonal + torch.diag_embed(added)


def _split_colours(cells: Tensor) -> Tensor:
    """(..., X, rows, Y) as (..., colour, X, rows, ceil(Y / 2)): cells with x + y even, and odd; an odd number is filled up."""
    pairs = torch.nn.functional.pad(cells, (0, cells.shape[-1] % 2)).unflatten(-1, (-1, 2))
    return _swapped(pairs).movedim(-1, -4)


def _merge_colours(colours: Tensor, points: int) -> Tensor:
    """Inverse of `_split_colours`, (..., X, rows, points)."""
    return _swapped(colours.movedim(-4, -1)).flatten(-2)[..., :points]


def _swapped(pairs: Tensor) -> Tensor:
    """Pairs (..., X, rows, half, 2), those of odd columns of cells exchanged."""
    odd = (torch.arange(pairs.shape[-4], device=pairs.device) % 2 == 1)[:, None, None, None]
    return torch.where(odd, pairs.flip(-1), pairs)


def _split_blocks(blocks: Tensor, first_row: int, first_column: int) -> Tensor:
    """Blocks (*batch, K, n, n) as (*batch, colour, K, half, half); block k couples columns k + first_column to k + first_row."""
    odd = blocks.shape[-1] % 2
    full = torch.nn.functional.pad(blocks, (0, odd, 0, odd)).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    number = torch.arange(blocks.shape[-3], device=blocks.device)
    parts = []
    for colour in range(2):
        row, column = (colour + number + first_row) % 2, (colour + number + first_column) % 2
        parts.append(full[..., number, :, row, :, column].movedim(0, -3))
    return torch.stack(parts, dim=-4)
