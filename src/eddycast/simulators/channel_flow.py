"""Incompressible flow past random discs in a channel, driven by an inflow that starts from rest.

    u_t + (u . grad) u = -grad p + nu lap u,   div u = 0   on [0, 2.2] x [0, 0.41]
    u(0, y, t) = U 4 y (0.41 - y) / 0.41^2 (1 - exp(-5 t)),  v(0, y, t) = 0;   nu du/dx = p n at x = 2.2;   u = 0 at walls and discs

Jets form between the discs while the inflow grows; behind them the fluid recirculates, wakes begin to sway after some two time units and
are carried out. Everything happens at Reynolds numbers of 67 to 133 (mean inflow, diameter of a disc), and before the flow settles:
5.2 time units are less than four passages of the channel at the mean inflow.

This is a benchmark of our own after a published set-up, not its data: those come from finite elements of second order on triangles, which
follow the discs, and from implicit steps of 0.08. Ours knows discs as nodes at rest, so that pressures beside them, above all, differ.

Good values to start from: the defaults, 65 states of 0.08 from t = 0.08 on, with other discs in each trajectory; on a CPU 111 x 21 points.
Solved on 441 x 83 and stored on 221 x 42 points, every second node, the layers along the discs have twice the points.

Source: set-up of Otness et al. (2021), arXiv:2108.07799, as used by Cachay et al. (2023), arXiv:2306.01984.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.noise import MemberNoise
from eddycast.numerics.node_projection import node_projection
from eddycast.numerics.node_transport import node_pressure, node_tendency
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.obstacles import HEIGHT, LENGTH, MOST, discs, inside_discs
from eddycast.simulators.protocols import FieldInfo, Flow, ParameterInfo, SystemInfo, inner_steps

RAMP = 5.0
WIDEST = 0.025  # spacing: a gap of 0.05 then has a node in it
DIFFUSIVE = 0.4  # largest nu dt (1 / dx^2 + 1 / dy^2); the scheme is stable up to 0.62
POINTS_PER_CHUNK = 2**17
LAYOUTS = 2**20


def every_other_node(state: Tensor, shape: tuple[int, ...]) -> Tensor:
    """States (*batch, channel, X, Y) on fewer nodes: those that both grids have.

    Raises: InputError where the nodes of one grid are not among those of the other.
    """
    steps = [(many - 1) / max(1, few - 1) for many, few in zip(state.shape[-2:], shape, strict=True)]
    if len(shape) != 2 or not all(step >= 1 and step.is_integer() for step in steps):
        raise InputError(
            f"Nodes are stored as they are: {list(shape)} of {list(state.shape[-2:])} would lie between them; take (N - 1) / k + 1 of N."
        )
    return state[..., :: int(steps[0]), :: int(steps[1])]


def obstacle_mask(parameters: Tensor, grid: Grid) -> Tensor:
    """1 at nodes within the discs of a run with `parameters` (P,), 0 elsewhere; (*space), float64."""
    count, layout = (int(value) for value in parameters.detach()[2:4].round().tolist())
    return inside_discs(discs(layout, count), grid).to(torch.float64)


def dirichlet_mask(parameters: Tensor, grid: Grid) -> Tensor:
    """1 at nodes whose velocity is prescribed (discs, both walls, inflow), 0 elsewhere; (*space), float64."""
    mask = obstacle_mask(parameters, grid)
    mask[0] = mask[:, 0] = mask[:, -1] = 1.0
    return mask


@dataclass(frozen=True)
class ChannelObstacles:
    """Velocities on nodes, exact projection, upwind differences of third order, three stages of Runge-Kutta (SSPRK3)."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="channel-obstacles",
        description="Flow past random discs in a 2-D channel from rest (a benchmark of our own, not the published data).",
        equation="u_t + u.grad u = -grad p + viscosity lap u, div u = 0, "
        "u(0, y, t) = peak_inflow 4 y (0.41 - y) / 0.41^2 (1 - exp(-5 t)), u = 0 at walls and discs",
        fields=(
            FieldInfo("velocity_x", "1", "velocity along the channel", vector="velocity"),
            FieldInfo("velocity_y", "1", "velocity across the channel", vector="velocity"),
            FieldInfo("pressure", "1", "pressure over density, zero at the outflow on average"),
        ),
        parameters=(
            ParameterInfo("viscosity", 1e-3, 2e-4, 5e-3, "1", "kinematic viscosity"),
            ParameterInfo("peak_inflow", 1.0, 0.05, 1.5, "1", "largest inflow speed in the end"),
            ParameterInfo("obstacles", 4, 0, MOST, "1", "number of discs", whole=True),
            ParameterInfo(
                "layout", 0, 0, LAYOUTS - 1, "1", "number that the discs are drawn from", whole=True, label=True
            ),
        ),
        shape=(221, 42),
        dt=0.08,
        inner_dt=0.004,
        spin_up=0.08,
        scheme="eddycast's own benchmark, not the published data: velocities on nodes, pressures in cells (Q1-P0, lumped masses), exact "
        "projection, discs as nodes at rest, third-order upwind differences, SSPRK3",
        advective=True,
        static={"dirichlet_mask": dirichlet_mask, "obstacle_mask": obstacle_mask},
        regrid=every_other_node,
        boundary_values=lambda states, **known: with_inflow(
            states, known["parameters"][:, 1], known["time"], known["static"]
        ),
        autonomous=False,
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Nodes on the sides and in between, along x and y.

        Raises: InputError for another dimension than 2, and for nodes more than 0.025 apart, half of the narrowest gap.
        """
        shape = self.info.shape if shape is None else shape
        if len(shape) != 2:
            raise InputError(
                f"{self.info.name} is two-dimensional, got a {len(shape)}-D grid {shape}: give two numbers."
            )
        least = [math.ceil(extent / WIDEST - 1e-9) + 1 for extent in (LENGTH, HEIGHT)]
        if shape[0] < least[0] or shape[1] < least[1]:
            raise InputError(
                f"{self.info.name}: {shape[0]} x {shape[1]} points leave no node in gaps between discs: take at least "
                f"{least[0]} x {least[1]}."
            )
        x, y = (
            tuple(extent * node / (nodes - 1) for node in range(nodes))
            for extent, nodes in zip((LENGTH, HEIGHT), shape, strict=True)
        )
        return Grid((Axis("x", x, ("open", "open")), Axis("y", y, ("wall", "wall"))))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """At rest, (*batch, 3, *space): zero. What is random is the layout, a parameter."""
        return torch.zeros((*noise.batch, 3, *grid.shape), dtype=dtype, device=device)

    def flow(
        self,
        parameters: Tensor,
        grid: Grid,
        duration: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inner_dt: float | None = None,
    ) -> Flow:
        """The map of (*batch, 3, X, Y) over `duration`.

        Time is read from the inflow of a state: the factor f = 1 - exp(-5 t), the part of the first column that is a parabola, obeys
        f' = 5 (1 - f). States are first made to satisfy the equations: walls, discs and inflow by their values, then the
        nearest velocity without divergence; a state of this solver stays as it is, to rounding. The pressure of a state is not read;
        that of the result belongs to its velocity.

        Raises: InputError for a grid that is not one of `grid`'s, and for inner steps that diffusion makes unstable.
        """
        self._check(grid)
        limit = self.info.default_inner_dt(grid.shape) if inner_dt is None else inner_dt
        num_steps = inner_steps(duration, limit)
        spacing = (LENGTH / (grid.shape[0] - 1), HEIGHT / (grid.shape[1] - 1))
        stable = DIFFUSIVE / (parameters.detach()[..., 0].max().item() * sum(1 / step**2 for step in spacing))
        if duration / num_steps > stable * (1 + 1e-9):
            raise InputError(
                f"{self.info.name}: diffusion needs inner_dt of at most {stable:.3g} on {grid.shape[0]} x {grid.shape[1]} points, got "
                f"{duration / num_steps:.3g}: set it, or take fewer points."
            )
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)

        def build(rows: Tensor) -> Flow:
            runs = rows.detach().cpu()
            fixed, bodies = (torch.stack([mask(run, grid) for run in runs]) for mask in (dirichlet_mask, obstacle_mask))
            columns = rows.to(device=device, dtype=dtype)
            return channel_map(fixed, bodies, columns[:, 0], columns[:, 1], spacing, duration, num_steps)

        return chunked_flow(build, parameters, 3, size)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN: not known, (*batch) float64."""
        return torch.full(parameters.shape[:-1], math.nan, dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: a run is over before its wakes repeat; (*batch) bool."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)

    def _check(self, grid: Grid) -> None:
        if len(grid.axes) == 2 and min(grid.shape) > 2:
            own = self.grid(grid.shape)
            ends = zip(grid.axes, own.axes, strict=True)
            apart = (
                abs(a - b) for given, made in ends for a, b in zip(given.coordinates, made.coordinates, strict=True)
            )
            if max(apart) < 1e-5:
                return
        raise InputError(
            f"{self.info.name} needs the uniform nodes of [0, 2.2] x [0, 0.41], sides included, in ascending order."
        )


def channel_map(
    fixed: Tensor,
    bodies: Tensor,
    viscosity: Tensor,
    peak: Tensor,
    spacing: tuple[float, float],
    duration: float,
    num_steps: int,
) -> Flow:
    """The map of (*group, rows, 3, X, Y) over `duration` for any bodies; see `ChannelObstacles.flow`.

    Args:
        fixed: 1 at nodes of prescribed velocity, (rows, X, Y); the first column and both walls must be among them.
        bodies: 1 at those of them that are within bodies, (rows, X, Y).
        viscosity, peak: nu and U, (rows,); dtype and device of the arithmetic follow them.
        spacing: Distance of the nodes along x and y.
        duration: Of which `num_steps` equal steps are made.
    """
    dtype, device = viscosity.dtype, viscosity.device
    project = node_projection(1 - fixed, spacing, dtype=dtype, device=device)
    free = (1 - fixed).to(device=device, dtype=dtype)[:, None]
    shown = (1 - bodies).to(device=device, dtype=dtype)
    profile = inflow_profile(fixed.shape[-1]).to(device=device, dtype=dtype)
    along = peak[:, None, None] * profile  # (rows, 1, Y)
    inflow = torch.stack([along, torch.zeros_like(along)], dim=-3)
    nu, step = viscosity[:, None, None, None], duration / num_steps
    decay, half_decay = math.exp(-RAMP * step), math.exp(-RAMP * step / 2)

    def projected(velocity: Tensor, factor: Tensor) -> Tensor:
        return project(torch.cat([factor * inflow, (free * velocity)[..., 1:, :]], dim=-2))[0]

    def moved(velocity: Tensor) -> Tensor:
        return velocity + step * node_tendency(velocity, nu, spacing)

    def flow(state: Tensor) -> Tensor:
        first = state[..., 0:1, 0:1, :]
        missing = 1 - (first * along[:, None]).sum(dim=-1, keepdim=True) / (along[:, None] ** 2).sum(
            dim=-1, keepdim=True
        )
        u = projected(state[..., :2, :, :], 1 - missing)
        for _ in range(num_steps):
            half, missing = missing * half_decay, missing * decay
            stage = projected(moved(u), 1 - missing)
            stage = projected((3 * u + moved(stage)) / 4, 1 - half)
            u = projected((u + 2 * moved(stage)) / 3, 1 - missing)
        rate = (free * node_tendency(u, nu, spacing))[..., 1:, :]
        _, pressure = project(torch.cat([RAMP * missing * inflow, rate], dim=-2))
        return torch.cat([u, (shown * node_pressure(pressure))[..., None, :, :]], dim=-3)

    return flow


def inflow_profile(nodes: int) -> Tensor:
    """The parabola 4 y (0.41 - y) / 0.41^2 at the nodes of the first column, (nodes,), float64; exactly zero at both walls."""
    share = torch.linspace(0, 1, nodes, dtype=torch.float64)
    return 4 * share * (1 - share)


def with_inflow(states: Tensor, peak: Tensor, time: Tensor, static: Mapping[str, Tensor]) -> Tensor:
    """States (batch, time, 3, X, Y) with the inflow of `time` (batch, time), rest at walls and discs, and zero pressure in discs.

    Args:
        peak: Largest inflow speed in the end, (batch,).
        static: `dirichlet_mask` and `obstacle_mask`, (batch, X, Y).
    """
    fixed, obstacles = (static[name][:, None] > 0.5 for name in ("dirichlet_mask", "obstacle_mask"))
    speed = peak.to(time)[:, None] * -torch.expm1(-RAMP * time)
    inflow = torch.zeros_like(states[:, :, 0])
    inflow[:, :, 0] = (speed[..., None] * inflow_profile(states.shape[-1]).to(time)).to(states)
    along, across, pressure = states.unbind(dim=2)
    along, across = torch.where(fixed, inflow, along), torch.where(fixed, 0.0, across)
    return torch.stack([along, across, torch.where(obstacles, 0.0, pressure)], dim=2)
