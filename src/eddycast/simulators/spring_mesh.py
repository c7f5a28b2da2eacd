"""A mesh of particles and springs in the plane, hung up along one side, damped.

    q_a' = p_a / m
    p_a' = -k sum_b (|q_a - q_b| - L_ab) (q_a - q_b) / |q_a - q_b| - gamma p_a / m     for the particles that are free

Ten by ten particles of the unit lattice, each tied to its eight neighbours (342 springs; at rest 1 long along the axes, sqrt 2 along the
diagonals). The last column of the second axis, n_y of them, is fixed: no force and no velocity. Free particles start at rest, each pushed
off its place by an independent random vector; the springs turn that into short waves that run through the mesh and back from its sides,
while damping takes the energy H = sum |p|^2 / (2 m) + k sum (|q_a - q_b| - L_ab)^2 / 2 away:

    H' = -gamma sum |p|^2 / m^2

so this is no Hamiltonian system, and every run ends at rest. No space is sampled here: the axes of the grid count particles, and the state
holds where they are. Neighbours see one another alone, so the map over a short time is local.

Good values to start from: the defaults, 805 states of 0.00781 (2 pi time units); pushes from a ring that training has not seen are
inner_radius 0.35, outer_radius 0.45.

Source: Otness et al. (2021), arXiv:2108.07799; Ruehling Cachay et al. (2023), arXiv:2306.01984. Their integrator takes 128 steps
of symplectic Euler type per output; one Runge-Kutta step is closer to the equation than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.noise import MemberNoise
from eddycast.numerics.springs import lattice, spring_energy, spring_force
from eddycast.numerics.steppers import rk4
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

DT = 0.00781
LARGEST_RADIUS = 0.49  # neighbours pushed towards each other by half a unit would meet


@dataclass(frozen=True)
class SpringMesh:
    """Classical Runge-Kutta, one step per output.

    Args:
        inner_radius: Least initial displacement of a free particle.
        outer_radius: Largest one; displacements are uniform over the ring between the two radii, by area.

    Raises: InputError for radii that make no ring, or at which neighbours could meet.
    """

    inner_radius: float = 0.0
    outer_radius: float = 0.35

    info: ClassVar[SystemInfo] = SystemInfo(
        name="spring-mesh",
        description="Mesh of particles and springs in the plane, fixed along one side, damped.",
        equation="q' = p / m, p' = -k sum_b (|q - q_b| - L_b) (q - q_b) / |q - q_b| - damping p / m; fixed particles: q' = p' = 0",
        fields=(
            FieldInfo("momentum_x", "1", "momentum of the particle along x", vector="momentum"),
            FieldInfo("momentum_y", "1", "momentum of the particle along y", vector="momentum"),
            FieldInfo("position_x", "1", "place of the particle along x", vector="position"),
            FieldInfo("position_y", "1", "place of the particle along y", vector="position"),
        ),
        parameters=(
            ParameterInfo("spring_constant", 1.0, 0.0, 100.0, "1", "spring constant k"),
            ParameterInfo("mass", 1.0, 0.1, 100.0, "1", "mass m of a particle"),
            ParameterInfo("damping", 0.1, 0.0, 10.0, "1", "damping gamma: force per velocity"),
        ),
        shape=(10, 10),
        dt=DT,
        inner_dt=DT,
        spin_up=0.0,
        scheme="classical Runge-Kutta of order 4",
        initial=(
            InitialInfo("inner_radius", 0.0, 0.0, LARGEST_RADIUS, "least initial displacement"),
            InitialInfo("outer_radius", 0.35, 0.0, LARGEST_RADIUS, "largest initial displacement"),
        ),
        static={"fixed": lambda parameters, grid: fixed(grid)},
        boundary_values=lambda states, **known: kept_in_place(states, known["start"], known["static"]["fixed"]),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.inner_radius <= self.outer_radius <= LARGEST_RADIUS:
            raise InputError(
                f"{self.info.name} needs 0 <= inner_radius <= outer_radius <= {LARGEST_RADIUS}; "
                f"got {self.inner_radius:g} and {self.outer_radius:g}."
            )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Numbers of the particles along x and y, which are their places at rest. Open sides but for the fixed one, a wall.

        Raises: InputError for other than two axes, or fewer than 2 particles along one.
        """
        shape = self.info.shape if shape is None else shape
        if len(shape) != 2 or min(shape) < 2:
            raise InputError(
                f"{self.info.name} needs two numbers of particles, along x and y, at least 2 each; got {shape}."
            )
        across, along = (tuple(float(index) for index in range(points)) for points in shape)
        return Grid((Axis("x", across, ("open", "open")), Axis("y", along, ("open", "wall"))))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Momentum zero, each free particle displaced by (r cos a, r sin a), independently of all others; (*batch, 4, n_x, n_y).

        r = sqrt(u (R^2 - r_0^2) + r_0^2), with u and a / (2 pi) uniform in [0, 1).
        """
        part, turn = noise.uniform((2, *grid.shape), key=(0, 0, "initial"), dtype=torch.float64).unbind(-3)
        least, most = self.inner_radius**2, self.outer_radius**2
        radius = (part * (most - least) + least).sqrt() * (1 - fixed(grid))
        angle = 2 * math.pi * turn
        displaced = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-3)
        position = lattice(_two(grid.shape)) + displaced
        return torch.cat([torch.zeros_like(position), position], dim=-3).to(device=device, dtype=dtype)

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
        """The map of (*batch, 4, n_x, n_y) over `duration`.

        Fixed particles stay where the state has them, and momentum that it gives them is dropped.
        """
        num_steps = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        constant, mass, damping = _columns(parameters.to(device=device, dtype=dtype))
        free = (1 - fixed(grid)).to(device=device, dtype=dtype)
        stiffness, rate, mobility = constant * free, damping / mass * free, free / mass

        def tendency(state: Tensor) -> Tensor:
            momentum, position = state.split(2, dim=-3)
            return torch.cat([stiffness * spring_force(position) - rate * momentum, mobility * momentum], dim=-3)

        step = rk4(tendency, duration / num_steps)

        def flow(state: Tensor) -> Tensor:
            momentum, position = state.split(2, dim=-3)
            state = torch.cat([free * momentum, position], dim=-3)
            for _ in range(num_steps):
                state = step(state)
            return state

        return flow

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN, (*batch) float64: in the end everything rests, at a rate that depends on the size of the mesh."""
        return torch.full(parameters.shape[:-1], math.nan, dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: runs lose energy until they rest."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)


def fixed(grid: Grid) -> Tensor:
    """1 at the fixed particles, the last column of the second axis, 0 at the free ones; (n_x, n_y), float64."""
    mask = torch.zeros(grid.shape, dtype=torch.float64)
    mask[:, -1] = 1
    return mask


def kept_in_place(states: Tensor, start: Tensor, fixed: Tensor) -> Tensor:
    """States (batch, time, 4, n_x, n_y) whose fixed particles, 1 in (batch, n_x, n_y), stay where `start` (batch, 4, n_x, n_y) has them."""
    still = torch.cat([torch.zeros_like(start[:, :2]), start[:, 2:]], dim=1)
    return torch.where(fixed[:, None, None] > 0.5, still[:, None], states)


def energy(state: Tensor, parameters: Tensor) -> Tensor:
    """Kinetic and potential energy, H = sum |p|^2 / (2 m) + k sum over springs (|q_a - q_b| - L_ab)^2 / 2.

    Args:
        state: (*batch, 4, n_x, n_y).
        parameters: (*batch, 3), or (3,) for all; for trajectories (trajectory, time, 4, n_x, n_y) give (trajectory, 1, 3).

    Returns: (*batch), in the dtype of `state`. Zero on the lattice at rest.
    """
    constant, mass, _ = parameters.to(state).unbind(-1)
    momentum, position = state.split(2, dim=-3)
    return momentum.square().sum(dim=(-3, -2, -1)) / (2 * mass) + constant * spring_energy(position)


def energy_rate(state: Tensor, parameters: Tensor) -> Tensor:
    """Rate of change of `energy` along the flow, -gamma sum |p|^2 / m^2, with the same arguments: (*batch), never positive."""
    _, mass, damping = parameters.to(state).unbind(-1)
    momentum = state.narrow(-3, 0, 2)
    return -damping * (momentum.square().sum(dim=(-3, -2, -1)) / mass**2)


def _columns(parameters: Tensor) -> tuple[Tensor, ...]:
    """Each parameter of (*batch, P) as (*batch, 1, 1, 1), to go with states."""
    return parameters[..., None, None, None].unbind(-4)


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    across, along = shape
    return across, along
