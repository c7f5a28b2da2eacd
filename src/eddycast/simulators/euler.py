"""Compressible Euler equations in two dimensions from quadrants of constant states: shocks, contacts, vortex sheets.

    rho_t + div(rho v) = 0,   (rho v)_t + div(rho v v) + grad p = 0,   e_t + div((e + p) v) = 0
    e = p / (gamma - 1) + rho |v|^2 / 2   on [0, 1]^2, periodic or open

Every edge of the initial rectangles breaks up into a shock, a contact and a rarefaction; they meet, reflect and interact, and the contacts
roll up. In the periodic box mass, momentum and energy stay for ever while shocks turn kinetic energy into heat; through open sides
the waves leave, and the flow calms. There is no viscosity, so contacts are as thin, and vortices as small, as the grid allows: a finer
grid is another solution in its details, and the details of a coarse one are those of a more viscous gas.

Good values to start from: 64 x 64 points, output every 0.015 until 1.5 (steps=101), gamma 1.13 to 1.76; no spin-up. Solved on 128 x 128 and
stored on 64 x 64 (block averages) the fronts are one stored cell wide.

Source: the Euler multi-quadrants of The Well (Ohana et al. 2024, arXiv:2412.00568), computed there with Clawpack on 512 x 512 cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.noise import MemberNoise
from eddycast.numerics.finite_volume import advance, block_mean, cells_of, to_conserved
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

MIN_POINTS = 8
POINTS_PER_CHUNK = 2**15  # what a step works on then stays in a cache of some megabytes
MOST_CUTS = 6
EDGE = 0.1  # cuts keep this distance from the sides


def block_average(state: Tensor, shape: tuple[int, ...]) -> Tensor:
    """States (*batch, 5, *space) on fewer cells, or more: averages of energy, density and momentum over blocks, or copies.

    The pressure of a block is that of its averages, (gamma - 1) (e - |m|^2 / (2 rho)), which is above the average pressure: motion within
    the block counts as heat. gamma comes from the state itself.

    Raises: InputError where one number of cells is no multiple of the other.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"Blocks of cells in two dimensions need two positive numbers of them, got {list(shape)}.")
    averaged, heat = block_mean(state, shape), block_mean(state[..., 0, :, :] - _kinetic(state), shape)
    pressure = averaged[..., 2, :, :] / heat * (averaged[..., 0, :, :] - _kinetic(averaged))
    return torch.cat([averaged[..., :2, :, :], pressure[..., None, :, :], averaged[..., 3:, :, :]], dim=-3)


def _system_info(boundary: Literal["periodic", "open"]) -> SystemInfo:
    sides = {"periodic": "periodic sides", "open": "open sides (zero-order extrapolation)"}[boundary]
    return SystemInfo(
        name=f"euler-multi-quadrants-{boundary}",
        description=f"Compressible Euler equations in 2-D from quadrants of constant states, {sides}.",
        equation="rho_t + div(m) = 0, m_t + div(m m / rho) + grad p = 0, e_t + div((e + p) m / rho) = 0, "
        "e = p / (gamma - 1) + |m|^2 / (2 rho)",
        fields=(
            FieldInfo("energy", "1", "total energy per volume"),
            FieldInfo("density", "1", "mass per volume"),
            FieldInfo("pressure", "1", "pressure, from the other fields"),
            FieldInfo("momentum_x", "1", "momentum along x per volume", vector="momentum"),
            FieldInfo("momentum_y", "1", "momentum along y per volume", vector="momentum"),
        ),
        parameters=(ParameterInfo("gamma", 1.4, 1.05, 3.0, "1", "ratio of specific heats"),),
        shape=(64, 64),
        dt=0.015,
        inner_dt=0.015,
        spin_up=0.0,
        scheme="finite volumes, van Leer limiter on primitives, HLLC, SSPRK2, unsplit, Courant number 0.8 per trajectory",
        initial=(
            InitialInfo("cuts", 3, 1, MOST_CUTS, "most cuts per axis; their number is uniform from 1", whole=True),
            InitialInfo("speed", 0.9, 0.0, 3.0, "largest speed along each axis"),
            InitialInfo("least", 0.1, 0.02, 1.0, "least density and pressure"),
            InitialInfo("largest", 1.7, 0.02, 10.0, "largest density and pressure"),
        ),
        regrid=block_average,
    )


@dataclass(frozen=True)
class EulerMultiQuadrants:
    """Finite volumes on N x M cells with centres (i + 1/2) / N; see `numerics.finite_volume` for the scheme.

    The pressure of a given state is not read: it follows from the other fields and gamma, and so each output holds.

    Use `EulerPeriodic` or `EulerOpen`, which add nothing but the kind of all four sides.

    Args:
        cuts: Most cuts per axis of the initial state; their number is uniform from 1.
        speed: Largest initial speed along each axis.
        least, largest: Range of the initial density and pressure.

    Raises: InputError for `least` above `largest`.
    """

    info: ClassVar[SystemInfo]
    boundary: ClassVar[Literal["periodic", "open"]]

    cuts: int = 3
    speed: float = 0.9
    least: float = 0.1
    largest: float = 1.7

    def __post_init__(self) -> None:
        if self.least > self.largest:
            raise InputError(f"The initial least must not be above largest; got {self.least:g} and {self.largest:g}.")

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Cell centres (i + 1/2) / N along x and y. Raises: InputError for another dimension than 2, or too few cells."""
        shape = self.info.shape if shape is None else shape
        if len(shape) != 2:
            raise InputError(
                f"{self.info.name} is two-dimensional, got a {len(shape)}-D grid {shape}: give two numbers."
            )
        if min(shape) < MIN_POINTS:
            raise InputError(f"{self.info.name} needs at least {MIN_POINTS} cells along each axis, got {shape}.")
        period = 1.0 if self.boundary == "periodic" else None
        centres = (tuple((cell + 0.5) / cells for cell in range(cells)) for cells in shape)
        return Grid(
            tuple(
                Axis(name, places, (self.boundary, self.boundary), period=period)
                for name, places in zip("xy", centres, strict=True)
            )
        )

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Rectangles of constant states, (*batch, 5, *space); cells cut by a jump hold the average of the conserved variables.

        Per axis 1 to `cuts` cuts, uniform in (0.1, 0.9); in each rectangle density and pressure are uniform in (least, largest), both
        velocities in (-speed, speed). In the periodic box the edge is one more jump. The draws do not depend on the grid.
        """
        counts = 1 + (self.cuts * noise.uniform((2,), key=(0, 0, "cuts"), dtype=torch.float64)).floor()
        places = EDGE + (1 - 2 * EDGE) * noise.uniform((2, MOST_CUTS), key=(0, 0, "places"), dtype=torch.float64)
        used = torch.arange(MOST_CUTS) < counts[..., None]
        places = torch.where(used, places, 1.0).sort(dim=-1).values  # (*batch, 2, MOST_CUTS), unused ones at the end
        ends = torch.cat([torch.zeros_like(places[..., :1]), places, torch.ones_like(places[..., :1])], dim=-1)
        pieces = MOST_CUTS + 1
        numbers = noise.uniform((4, pieces, pieces), key=(0, 0, "states"), dtype=torch.float64)
        low, high = self.least, self.largest
        scale = torch.tensor([high - low, 2 * self.speed, 2 * self.speed, high - low], dtype=torch.float64)
        start = torch.tensor([low, -self.speed, -self.speed, low], dtype=torch.float64)
        gamma = parameters[..., 0].detach().cpu().double()
        constant = to_conserved(start[:, None, None] + scale[:, None, None] * numbers, gamma, 2)
        along_x, along_y = (_shares(ends[..., axis, :], cells) for axis, cells in enumerate(grid.shape))
        # Sums are written out: those of a matrix product may depend on the batch in their last bit.
        rows = torch.zeros((), dtype=torch.float64)
        for piece in range(pieces):
            rows = rows + along_x[..., None, piece, :, None] * constant[..., piece, None, :]
        state = torch.zeros((), dtype=torch.float64)
        for piece in range(pieces):
            state = state + along_y[..., None, piece, None, :] * rows[..., piece, None]
        return _with_pressure(state, gamma).to(device=device, dtype=dtype)

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
        """The map of (*batch, 5, *space) over `duration`, in equal parts of at most `inner_dt`.

        Within a part each trajectory takes steps of its own, of Courant number 0.8 or less. On a CPU the batch is worked on in pieces.
        """
        parts = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        cells = cells_of(grid)
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)

        def build(values: Tensor) -> Flow:
            gamma = values[..., 0].to(device=device, dtype=torch.float64)

            def flow(state: Tensor) -> Tensor:
                conserved = _conserved(state)
                own = gamma.expand(state.shape[:-3])
                for _ in range(parts):
                    conserved = advance(conserved, duration / parts, own, cells)
                return _with_pressure(conserved, own)

            return flow

        return chunked_flow(build, parameters, 3, size)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN: not known, (*batch) float64."""
        return torch.full(parameters.shape[:-1], torch.nan, dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: the flow decays, and with it what it does to errors."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)


class EulerPeriodic(EulerMultiQuadrants):
    """All sides periodic: the edge of the box is one more jump."""

    info: ClassVar[SystemInfo] = _system_info("periodic")
    boundary: ClassVar[Literal["periodic", "open"]] = "periodic"


class EulerOpen(EulerMultiQuadrants):
    """All sides open: beyond them lies the state of the outermost cells."""

    info: ClassVar[SystemInfo] = _system_info("open")
    boundary: ClassVar[Literal["periodic", "open"]] = "open"


def _conserved(state: Tensor) -> Tensor:
    """(density, momentum, energy) of (energy, density, pressure, momentum)."""
    return torch.cat([state[..., 1:2, :, :], state[..., 3:, :, :], state[..., :1, :, :]], dim=-3)


def _with_pressure(conserved: Tensor, gamma: Tensor) -> Tensor:
    """(energy, density, pressure, momentum) of (density, momentum, energy), gamma (*batch) float64."""
    density, energy = conserved[..., :1, :, :], conserved[..., -1:, :, :]
    excess = (gamma - 1.0).to(conserved.dtype)[..., None, None, None]
    state = torch.cat([energy, density, density, conserved[..., 1:-1, :, :]], dim=-3)
    pressure = excess * (energy - _kinetic(state)[..., None, :, :])
    return torch.cat([energy, density, pressure, conserved[..., 1:-1, :, :]], dim=-3)


def _kinetic(state: Tensor) -> Tensor:
    """|m|^2 / (2 rho) of (energy, density, pressure, momentum), (*batch, *space)."""
    along_x, along_y = state[..., 3, :, :], state[..., 4, :, :]
    return 0.5 * (along_x * along_x + along_y * along_y) / state[..., 1, :, :]


def _shares(ends: Tensor, cells: int) -> Tensor:
    """Share of each of `cells` equal cells that lies in each piece, (*batch, piece, cell), for their ends (*batch, piece + 1)."""
    sides = torch.arange(cells + 1, dtype=torch.float64) / cells
    upper = torch.minimum(ends[..., 1:, None], sides[1:])
    lower = torch.maximum(ends[..., :-1, None], sides[:-1])
    return (upper - lower).clamp(min=0) * cells
