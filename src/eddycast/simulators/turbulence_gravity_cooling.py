"""Supersonic turbulence of interstellar gas in a periodic box, with self-gravity, heating and cooling.

    rho_t + div(rho v) = 0
    (rho v)_t + div(rho v v) + grad p = -rho grad phi,   Laplace phi = 4 pi G (rho - mean(rho))
    E_t + div((E + p) v) = -rho v . grad phi + n (Z Gamma - n Lambda(T, Z)),   E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3

A uniform medium of density rho0 and temperature T0 is set in solenoidal motion at a Mach number of about 5. Within half a crossing time
shocks sweep the gas into sheets and filaments, while it relaxes from T0 towards the equilibrium of heating and cooling: dense gas cools
to some 60 K, thin gas stays at thousands. The motion decays; where a clump holds more than its Jeans mass, gravity takes over
and it collapses, on the scale of the free-fall time, until it is as small as a grid cell.

Units. density: particles per cm^3, of 1.27 hydrogen masses each; temperature: K; velocity: km/s; length: pc. The pressure is in the units
that these make, p = n T / 153.94 K, so that sqrt(gamma pressure / density) is the speed of sound in km/s (times 153.94 it is n T, in K /
cm^3). Time is in free-fall times of each run, t_ff = sqrt(3 pi / (32 G rho0)) = 45.7 / sqrt(rho0) million years: 21.6 at the default
density. Velocities stay in km/s: in one t_ff gas of 1 km/s moves 46.7 / sqrt(rho0) pc. The box holds 300 000 solar masses whatever rho0,
so its side is 60 pc (44.5 / rho0)^{1/3}: 60, 129 and 278 pc at 44.5, 4.45 and 0.445 particles per cm^3.

The Well's `turbulence_gravity_cooling` has these fields, scalars (rho0, T0, Z), sides, time step (0.02 t_ff) and free-fall times (to
2 %), and a start with the same spectrum E(k) ~ k^-2, but its data are of another make: a sphere of gas with a virial amount of motion
in a box with open sides, smoothed particles (ASURA-FDPS) interpolated to 64^3 points, and another cooling. Ours are finite volumes on a
periodic box that is full of gas, with an analytic cooling law. Units and statistics differ; never mix the two. Source: Ohana et al.
(2024), arXiv:2412.00568, and the description that comes with that set.

Redundant channels: a flow reads density, temperature and velocity, and computes the pressure anew; in every state it returns the
two agree. Densities below 1e-6 and temperatures below 10 K in a given state, which no run has, are raised to these.

Good values to start from: the defaults, 50 states; no spin-up, for the start is part of the story. Try Z = 0 (no heating, hardly any
cooling) against Z = 1, and rho0 = 44.5, where clumps collapse within the 50 states.

Known bias: at 16 to 32 points shocks and clumps are 2 or 3 cells wide, so peak densities are those of the grid; a collapse ends as one
cell, with no sink to swallow it. Gravity does work on the motion of a cell alone (the temperature does not feel a kick), so the sum of
kinetic, internal and potential energy is kept to the error of the step only, not to rounding; momentum is. Where cooling is faster than
a step, its splitting from the flow is of first order. T0 is a parameter of the start alone.
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
from eddycast.numerics.finite_volume import Cells, advance, block_mean, to_conserved, to_primitive
from eddycast.numerics.gravity import acceleration, free_fall_time, gravity_kernel
from eddycast.numerics.incompressible import random_velocity
from eddycast.numerics.spectral import mode_numbers
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.interstellar_cooling import BOLTZMANN, TIME_UNIT, cooled
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

GAMMA = 5 / 3
PARTICLE_MASS = 1.27 * 1.6735e-24  # g
# 4 pi G for n in cm^-3, length in pc, velocity in km/s
GRAVITY = 4 * math.pi * 6.6743e-8 * PARTICLE_MASS * TIME_UNIT**2
KELVIN = PARTICLE_MASS * 1e10 / BOLTZMANN  # 153.94 K is (1 km/s)^2
TEMPERATURE_FLOOR = 10.0
DENSITY_FLOOR = 1e-6
SIDE, DENSE = 60.0, 44.5  # pc, at this rho0
POSITIVE = 1e-3  # K, all that is asked of a given state where nothing cools
INITIAL_MODES = 3
MIN_POINTS = 8
POINTS_PER_CHUNK = 2**15


def block_average(state: Tensor, shape: tuple[int, ...]) -> Tensor:
    """States (*batch, 6, *space) on fewer cells, or more: averages over blocks, or copies.

    Density, momentum and pressure are averaged; velocity and temperature are those of the averages, so means over mass. The energy of the
    motion within a block is left out: as heat it would be radiated at once.

    Raises: InputError where one number of cells is no multiple of the other.
    """
    density = state[..., :1, :, :, :]
    summed = torch.cat([density, state[..., 1:2, :, :, :], density * state[..., 3:, :, :, :]], dim=-4)
    summed = block_mean(summed, shape)
    density, pressure, momentum = summed[..., :1, :, :, :], summed[..., 1:2, :, :, :], summed[..., 2:, :, :, :]
    return torch.cat([density, pressure, KELVIN * pressure / density, momentum / density], dim=-4)


@dataclass(frozen=True)
class TurbulenceGravityCooling:
    """Finite volumes (van Leer's limiter, HLLC, two stages), gravity and cooling split off by Strang's rule.

    Args:
        mach: Root mean square of the initial speed (before averaging over cells) over the speed of sound at T0.
        slope: Initial power of a mode falls as |k|^-slope, so a shell's as |k|^(2 - slope).
        length: Side of the box in pc; None: 60 pc (44.5 / rho0)^{1/3}, which always holds the same mass.
        gravity: Whether gas attracts gas.
        cooling: Whether it is heated and cooled. Without it nothing holds the temperature above 10 K (states with less than 0.001 K
            are raised to that), and without gravity as well mass, momentum and energy are kept to rounding.
    """

    mach: float = 5.0
    slope: float = 4.0
    length: float | None = None
    gravity: bool = True
    cooling: bool = True

    info: ClassVar[SystemInfo] = SystemInfo(
        name="turbulence-gravity-cooling",
        description="Compressible turbulence in a periodic 3-D box with self-gravity, heating and cooling.",
        equation=(
            "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = -rho grad phi, lap phi = 4 pi G (rho - mean rho), "
            "E_t + div((E + p) v) = -rho v.grad phi + n (Z Gamma - n Lambda(T, Z)), gamma = 5/3, time in free-fall times"
        ),
        fields=(
            FieldInfo("density", "cm-3", "density, in particles of 1.27 hydrogen masses"),
            FieldInfo("pressure", "cm-3 km2 s-2", "pressure per particle mass: density * temperature / 153.94 K"),
            FieldInfo("temperature", "K", "temperature"),
            *(FieldInfo(f"velocity_{axis}", "km s-1", f"velocity along {axis}", vector="velocity") for axis in "xyz"),
        ),
        parameters=(
            ParameterInfo("rho0", 4.45, 0.445, 44.5, "cm-3", "mean density, in particles of 1.27 hydrogen masses"),
            ParameterInfo("T0", 100.0, 10.0, 1000.0, "K", "initial temperature"),
            ParameterInfo("Z", 1.0, 0.0, 1.0, "1", "metallicity, in solar units"),
        ),
        shape=(16, 16, 16),
        dt=0.02,
        inner_dt=0.02,
        spin_up=0.0,
        scheme="finite volumes, van Leer slopes, HLLC, SSPRK2 with adaptive steps; FFT gravity and exponential cooling by Strang splitting",
        initial=(
            InitialInfo("mach", 5.0, 0.0, 20.0, "rms speed over the speed of sound at T0"),
            InitialInfo("slope", 4.0, 0.0, 10.0, "fall of the power of a mode with its wavenumber, k^-slope"),
        ),
        regrid=block_average,
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Cell centres (i + 1/2) L / N along x, y and z, any N >= 8; those over L where the side L differs within the batch.

        Raises: InputError for another dimension than 3, or too few cells.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        if len(shape) != 3:
            raise InputError(
                f"{self.info.name} is three-dimensional, got a {len(shape)}-D grid {shape}: give three numbers."
            )
        if min(shape) < MIN_POINTS:
            raise InputError(f"{self.info.name} needs at least {MIN_POINTS} cells along each axis, got {shape}.")
        sides = self.side(parameters[..., 0].detach().double())
        same = bool((sides.max() == sides.min()).all())
        side, units = (sides.max().item(), "pc") if same else (1.0, "1")
        centres = (tuple(side * (cell + 0.5) / cells for cell in range(cells)) for cells in shape)
        return Grid(
            tuple(Axis(name, places, period=side, units=units) for name, places in zip("xyz", centres, strict=True))
        )

    def side(self, density: Tensor) -> Tensor:
        """Side of the box in pc for mean densities rho0, of their shape."""
        return SIDE * (DENSE / density) ** (1 / 3) if self.length is None else torch.full_like(density, self.length)

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Uniform density rho0 and temperature T0, and a random divergence-free velocity of mean zero with modes up to 3.

        Cell averages of one field at every resolution, so coarse starts are the block averages of fine ones.
        """
        parameters = parameters.to(device=device, dtype=torch.float64)
        density, temperature, _ = (value[..., None, None, None, None] for value in parameters.unbind(-1))
        stirring = _cell_averages(
            random_velocity(noise, grid.shape, max_mode=INITIAL_MODES, slope=self.slope).to(device)
        )
        velocity = self.mach * (GAMMA * temperature / KELVIN).sqrt() * stirring
        uniform = torch.ones_like(velocity[..., :1, :, :, :])
        scalars = [density * uniform, density * temperature / KELVIN * uniform, temperature * uniform]
        return torch.cat([*scalars, velocity], dim=-4).to(dtype)

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
        """The map of (*batch, 6, n_x, n_y, n_z) over `duration`, in free-fall times of the rho0 of each trajectory.

        The duration is cut into equal pieces of at most `inner_dt`, and each piece into as many steps as the waves and the
        free-fall time of the densest cell ask for, by every trajectory on its own.
        """
        pieces = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        floor = TEMPERATURE_FLOOR if self.cooling else POSITIVE
        cells = Cells(tuple(1 / points for points in grid.shape), tuple(axis.boundary for axis in grid.axes))
        kernel = gravity_kernel(grid.shape, (1.0, 1.0, 1.0), dtype=dtype, device=device)
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)

        def build(rows: Tensor) -> Flow:
            density, _, metallicity = (value.to(dtype)[:, None, None, None] for value in rows.unbind(-1))
            clock = free_fall_time(density, GRAVITY)  # in pc / (km/s)
            speed = self.side(density) / clock  # in km/s
            source = None
            if self.gravity or self.cooling:
                source = InterstellarPhysics(
                    clock, speed, kernel if self.gravity else None, metallicity if self.cooling else None
                )

            def flow(state: Tensor) -> Tensor:
                inside = to_conserved(_scaled(state, speed, floor), GAMMA, 3)
                for _ in range(pieces):
                    inside = advance(inside, duration / pieces, GAMMA, cells, source=source)
                return _restored(to_primitive(inside, GAMMA, 3), speed)

            return flow

        return chunked_flow(build, parameters, 4, size)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN, (*batch) float64: the flow is transient, errors have no lasting rate of growth."""
        return torch.full(parameters.shape[:-1], math.nan, dtype=torch.float64, device=parameters.device)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False, (*batch) bool: errors grow while the turbulence lives, but it decays or collapses."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool, device=parameters.device)


@dataclass(frozen=True)
class InterstellarPhysics:
    """Gravity, heating and cooling as a `Source` of `numerics.finite_volume`, with free-fall time and side of the box as units.

    Neither changes the density; gravity leaves the temperature alone and cooling the velocity. So the two commute, each solved exactly (but
    for the error of `cooled`) at the density of the moment: a kick of the velocity by dt g, and the cooling of each cell.

    Args:
        clock: t_ff in pc / (km/s), (row, 1, 1, 1).
        speed: Side over t_ff in km/s, (row, 1, 1, 1).
        kernel: From `gravity_kernel` for sides of 1; None for no gravity.
        metallicity: Z, (row, 1, 1, 1); None for neither heating nor cooling.
    """

    clock: Tensor
    speed: Tensor
    kernel: Tensor | None
    metallicity: Tensor | None

    def rate(self, state: Tensor) -> Tensor:
        return torch.zeros_like(state)

    def exchange(self, state: Tensor, dt: Tensor) -> Tensor:
        """The conserved state (*batch, 5, *space) after dt (*batch) of gravity and cooling; where dt = 0, the state itself."""
        dt = dt[..., None, None, None]
        density, momentum, energy = state[..., 0, :, :, :], state[..., 1:4, :, :, :], state[..., 4, :, :, :]
        if self.kernel is not None:
            pull = _each(density, self.kernel) * (GRAVITY * self.clock**2)[..., None, :, :, :]
            kick = (dt * density)[..., None, :, :, :] * pull
            energy = energy + _dot(kick, momentum + 0.5 * kick) / density
            momentum = momentum + kick
        if self.metallicity is not None:
            kinetic = 0.5 * _dot(momentum, momentum) / density
            to_kelvin = (GAMMA - 1) * KELVIN * self.speed**2 / density
            before = to_kelvin * (energy - kinetic)
            after = cooled(before, density, self.metallicity, dt * self.clock, floor=TEMPERATURE_FLOOR)
            energy = kinetic + after / to_kelvin
        changed = torch.cat([density[..., None, :, :, :], momentum, energy[..., None, :, :, :]], dim=-4)
        return torch.where(dt[..., None, :, :, :] > 0, changed, state)

    def frequency(self, state: Tensor) -> Tensor:
        """sqrt(4 pi G rho) of the densest cell, (*batch), per t_ff; cooling takes its own substeps."""
        if self.kernel is None:
            return state.new_zeros(state.shape[:-4])
        densest = state[..., 0, :, :, :].detach().amax(dim=(-3, -2, -1))
        return (GRAVITY * self.clock[..., 0, 0, 0] ** 2 * densest).clamp(min=0).sqrt()


def _cell_averages(values: Tensor) -> Tensor:
    """Averages over the cells of a periodic field (*batch, *space) of three axes, given at their lower corners: exact for its modes."""
    shape = values.shape[-3:]
    spectrum = torch.fft.rfftn(values, dim=(-3, -2, -1))
    for mode, cells in zip(mode_numbers(shape, values.device), shape, strict=True):
        spectrum = spectrum * torch.sinc(mode / cells) * torch.exp(1j * math.pi * mode / cells)
    return torch.fft.irfftn(spectrum, s=shape, dim=(-3, -2, -1))


def _each(density: Tensor, kernel: Tensor) -> Tensor:
    """Acceleration of (*batch, *space) for 4 pi G = 1.

    On a CPU one trajectory after the other: the last digits of an FFT may depend on its batch.
    """
    if density.device.type != "cpu":
        return acceleration(density, kernel, 1.0)
    pulls = [acceleration(one, kernel, 1.0) for one in density.reshape(-1, *density.shape[-3:])]
    return torch.stack(pulls).reshape(*density.shape[:-3], 3, *density.shape[-3:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of vectors (*batch, 3, *space), written out: the last bit of torch's sums may depend on the batch."""
    x, y, z = (one * other for one, other in zip(a.unbind(-4), b.unbind(-4), strict=True))
    return x + y + z


def _scaled(state: Tensor, speed: Tensor, floor: float) -> Tensor:
    """(density, velocity, pressure) with velocities in units of `speed`, of a state (*batch, 6, *space) whose batch ends in rows."""
    density = state[..., :1, :, :, :].clamp(min=DENSITY_FLOOR)
    temperature = state[..., 2:3, :, :, :].clamp(min=floor)
    unit = speed[:, None]
    return torch.cat([density, state[..., 3:, :, :, :] / unit, density * temperature / (KELVIN * unit**2)], dim=-4)


def _restored(primitive: Tensor, speed: Tensor) -> Tensor:
    """The state of (density, velocity, pressure): the inverse of `_scaled`."""
    unit = speed[:, None]
    density, velocity = primitive[..., :1, :, :, :], primitive[..., 1:4, :, :, :] * unit
    pressure = primitive[..., 4:, :, :, :] * unit**2
    return torch.cat([density, pressure, KELVIN * pressure / density, velocity], dim=-4)
