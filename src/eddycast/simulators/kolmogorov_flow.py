"""Kolmogorov flow: two-dimensional turbulence stirred by a steady shear.

    u_t + u . grad u = -grad p + nu lap u - drag u + A sin(k_f y) e_x,   div u = 0   on [0, 2 pi)^2, periodic

The force drives k_f pairs of opposite jets; they are unstable, roll up, and their vortices merge into one pair as large
as the box, which drag keeps from growing. Vorticity is drawn out into ever finer threads until viscosity ends them: the
finest have the width 2 pi / k_d with k_d = (k_f^2 A^{3/2})^{1/6} / nu^{1/2} or so. The laminar flow, sin(k_f y) A / (nu k_f^2
+ drag) along x, is an exact solution at any viscosity.

Good values to start from: nu = 0.01 with 64 x 64 points, or nu = 0.0025 with 128 x 128; drag 0.1, A = 1, k_f = 4;
output every 0.2, inner step 0.02 (half of it at 128 x 128, which is the default there).

Scaling: with time in units of A^{-1/2} the amplitude is 1 and viscosity and drag are divided by A^{1/2}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.etdrk import Step, etdrk4
from eddycast.numerics.incompressible import energy, random_velocity
from eddycast.numerics.spectral import cutoff, dealias_mask, mode_numbers
from eddycast.numerics.truncated import from_kept, kept_modes, narrowed, resample, to_kept, widened
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.initial import filtered_velocity
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

INITIAL_MODES = 4
SPEED_POINTS = 32  # per axis, among which the largest speed of these modes is looked for
MIN_POINTS = 16
POINTS_PER_CHUNK = 2**16  # one stage of the step then stays within a few megabytes of cache
SLACK = 1e-6  # for parameters that have been through single precision

# Leading exponent by (viscosity, drag, forcing wavenumber) for A = 1: 16 runs of 150 time units on 64 x 64 points after
# a spin-up of 60; standard error 0.004.
LYAPUNOV_EXPONENTS: dict[tuple[float, float, float], float] = {(0.01, 0.1, 4.0): 0.387}


@dataclass(frozen=True)
class KolmogorovFlow:
    """Fourier-Galerkin solver for the vorticity: 2/3 dealiasing in space, ETDRK4 in time.

    Args:
        refine: Solve on a grid so many times finer than that of the states: each application of the flow pads the
            state with zeros and truncates the result. The scales in between thus start empty at each output, which is
            what a forecast from stored coarse states has to do, but is no simulation of those scales. Data that are
            solved finely throughout and stored coarsely come from `simulate(..., grid_shape=fine, store_shape=coarse)`.
        resolve: Refuse grids that miss most of the enstrophy range; False takes them, for a cheap and crude forecast.
        peak_wavenumber: None: the initial law is `random_velocity` with modes up to 4; otherwise `filtered_velocity` with this peak.
        max_velocity: Largest speed of each initial state; None: mean square speed 1.
    """

    refine: int = 1
    resolve: bool = True
    peak_wavenumber: float | None = None
    max_velocity: float | None = None

    info: ClassVar[SystemInfo] = SystemInfo(
        name="kolmogorov-flow",
        description="Kolmogorov flow in 2-D: turbulence stirred by a steady shear, with drag.",
        equation="u_t + u.grad u = -grad p + viscosity lap u - drag u + A sin(k_f y) e_x, div u = 0",
        fields=(
            FieldInfo("velocity_x", "1", "velocity along x", vector="velocity"),
            FieldInfo("velocity_y", "1", "velocity along y", vector="velocity"),
        ),
        parameters=(
            ParameterInfo("viscosity", 0.01, 1e-5, 10.0, "1", "kinematic viscosity nu"),
            ParameterInfo("drag", 0.1, 0.0, 10.0, "1", "rate of linear drag"),
            ParameterInfo("forcing_amplitude", 1.0, 0.0, 100.0, "1", "amplitude A of the force"),
            ParameterInfo("forcing_wavenumber", 4.0, 1.0, 64.0, "1", "number k_f of jet pairs", whole=True),
        ),
        shape=(64, 64),
        dt=0.2,
        inner_dt=0.02,
        spin_up=40.0,
        scheme="Fourier-Galerkin, vorticity, 2/3 dealiasing, ETDRK4",
        advective=True,
        initial=(
            InitialInfo(
                "peak_wavenumber", None, 1.0, 16.0, "peak of the initial spectrum; if absent, modes up to 4 alike"
            ),
            InitialInfo("max_velocity", None, 0.01, 30.0, "largest initial speed; if absent, mean square speed 1"),
        ),
        static={"forcing": lambda parameters, grid: forcing(parameters, grid)},
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points 2 pi k / N along x and y, any N >= 16, odd ones too.

        Raises: InputError for another dimension than 2, too few points, a forcing wavenumber that is not whole or not
            resolved, and points so few that most of the enstrophy range is missing (k_d above twice the 2/3 cut).
            Down to there a coarse grid is a large-eddy model without a closure: finite, but its smallest vortices are
            not those of the equation.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        name = self.info.name
        if len(shape) != 2:
            raise InputError(f"{name} is two-dimensional, got a {len(shape)}-D grid {shape}: give two numbers.")
        if min(shape) < MIN_POINTS:
            raise InputError(f"{name} needs at least {MIN_POINTS} points along each axis, got {_times(shape)}.")
        _check_forcing(parameters)
        kept = min(cutoff(self.refine * points) for points in shape)
        wavenumber = parameters[..., 3].max().item()
        if wavenumber > kept:
            raise InputError(
                f"{_times(shape)} points do not resolve a force of wavenumber {wavenumber:g}: "
                f"take at least {_points_for(wavenumber, self.refine)}."
            )
        finest = dissipation_wavenumber(parameters).max().item()
        if self.resolve and finest > 2 * kept:
            least, enough = (_points_for(part * finest, self.refine) for part in (0.5, 1.5))
            raise InputError(
                f"{_times(shape)} points are too few for vortex threads of wavenumber {finest:.0f}: take at least "
                f"{least} (resolved: {enough}) points, or a larger viscosity."
            )
        return Grid(tuple(periodic_axis(axis, points, 2 * math.pi) for axis, points in zip("xy", shape, strict=True)))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Smooth random velocity, mean zero, without divergence; the same at every resolution that holds its modes.

        Without settings modes up to 4 of equal power and a mean square speed of 1. The published law (that of the jax-cfd library) is
        `peak_wavenumber` 4, `max_velocity` 3; the spin-up forgets either.
        """
        if self.peak_wavenumber is None and self.max_velocity is None:
            return random_velocity(noise, grid.shape, max_mode=INITIAL_MODES).to(device=device, dtype=dtype)
        if self.peak_wavenumber is None:
            velocity = random_velocity(noise, (SPEED_POINTS, SPEED_POINTS), max_mode=INITIAL_MODES)
        else:
            velocity = filtered_velocity(noise, peak_wavenumber=self.peak_wavenumber)
        if self.max_velocity is None:
            scale = (2 * energy(velocity, 2)).rsqrt()
        else:  # found to 1 % among the points of one grid, whatever the grid of the states
            fine = resample(velocity, [2 * points for points in velocity.shape[-2:]])
            scale = self.max_velocity / fine.norm(dim=-3).amax(dim=(-2, -1))
        return resample(scale[..., None, None, None] * velocity, grid.shape).to(device=device, dtype=dtype)

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
        """The map of (*batch, 2, n_x, n_y) over `duration`.

        States with divergence are projected first. Modes above the 2/3 cut see no nonlinear term: they decay exactly,
        by viscosity and drag; those at the Nyquist frequency are dropped. A mean velocity carries the vortices along
        and decays by drag.
        """
        _check_forcing(parameters)
        shape = tuple(self.refine * points for points in grid.shape)
        num_steps = inner_steps(duration, self.info.default_inner_dt(shape) if inner_dt is None else inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        size = chunk_size(math.prod(shape), device, points_per_chunk=POINTS_PER_CHUNK)

        def build(rows: Tensor) -> Flow:
            return _flow(rows, shape, duration, num_steps, dtype)

        fine = chunked_flow(build, parameters, 3, size)
        if self.refine == 1:
            return fine
        return lambda state: resample(fine(resample(state, shape)), grid.shape)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Measured exponent at the parameters of `LYAPUNOV_EXPONENTS` and those that scale to them, else NaN; (*batch) float64."""
        viscosity, drag, rate, wavenumber = _scaled(parameters)
        exponent = torch.full_like(rate, math.nan)
        for known, value in LYAPUNOV_EXPONENTS.items():
            same = torch.ones_like(rate, dtype=torch.bool)
            for own, other in zip((viscosity, drag, wavenumber), known, strict=True):
                same = same & ((own - other).abs() <= 1e-5 * other)
            exponent = torch.where(same, rate * value, exponent)
        return exponent

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True where runs are known, or can be expected, to be chaotic, (*batch) bool.

        With A = 1 (others scale to it): viscosity <= 0.01 with k_f from 2 to 8 and drag from 0.05 to 0.1, or viscosity
        <= 0.02 with k_f = 4 and drag <= 0.2. In a survey of 75 points (one or two runs of 100 time units, 40 or 48
        points per axis; k_f of 1, 2, 3, 4, 6 and 8) those among them had exponents above 0.1. Elsewhere exponents were
        often small, mixed or negative, or nobody looked. With k_f = 1 the laminar jets attract every flow: Marchioro
        (1986), "An example of absence of turbulence for any Reynolds number".
        """
        viscosity, drag, _, wavenumber = _scaled(parameters)
        usual = (
            (wavenumber >= 2) & (wavenumber <= 8) & (viscosity <= 0.01 + SLACK) & (drag >= 0.05) & (drag <= 0.1 + SLACK)
        )
        wide = (wavenumber == 4) & (viscosity <= 0.02 + SLACK) & (drag <= 0.2 + SLACK)
        return usual | wide


def _scaled(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Viscosity and drag in units of time A^{-1/2}, the unit of rates A^{1/2}, and k_f; each (*batch), float64."""
    viscosity, drag, amplitude, wavenumber = parameters.detach().double().unbind(-1)
    rate = amplitude.sqrt()
    return viscosity / rate, drag / rate, rate, wavenumber


def forcing(parameters: Tensor, grid: Grid) -> Tensor:
    """The force along x, A sin(k_f y), for parameters (*batch, 4): (*batch, n_x, n_y), float64. It has no component along y."""
    amplitude, wavenumber = (parameters.double()[..., column, None, None] for column in (2, 3))
    y = torch.tensor(grid.axes[1].coordinates, dtype=torch.float64)
    return (amplitude * torch.sin(wavenumber * y)).expand(*parameters.shape[:-1], *grid.shape)


def laminar_velocity(parameters: Tensor, grid: Grid) -> Tensor:
    """The steady jets u_x = A sin(k_f y) / (nu k_f^2 + drag), an exact solution; (*batch, 2, n_x, n_y), float64."""
    viscosity, drag, amplitude, wavenumber = (value[..., None, None] for value in parameters.double().unbind(-1))
    y = torch.tensor(grid.axes[1].coordinates, dtype=torch.float64)
    jets = amplitude * torch.sin(wavenumber * y) / (viscosity * wavenumber**2 + drag)
    jets = jets.expand(*parameters.shape[:-1], *grid.shape)
    return torch.stack([jets, torch.zeros_like(jets)], dim=-3)


def dissipation_wavenumber(parameters: Tensor) -> Tensor:
    """k_d = (k_f^2 P)^{1/6} / nu^{1/2} with power input P = 0.25 A^{3/2}, where viscosity ends the cascade; (*batch).

    Source: Kraichnan (1967), doi:10.1063/1.1762301, for the scaling; the power is that of the default parameters.
    """
    viscosity, _, amplitude, wavenumber = parameters.detach().double().unbind(-1)
    return (wavenumber**2 * 0.25 * amplitude**1.5) ** (1 / 6) / viscosity.sqrt()


def _check_forcing(parameters: Tensor) -> None:
    wavenumber = parameters[..., 3]
    if not bool((wavenumber == wavenumber.round()).all()):
        odd = wavenumber[wavenumber != wavenumber.round()].flatten()[0].item()
        raise InputError(f"forcing_wavenumber must be a whole number, got {odd:g}.")


def _flow(parameters: Tensor, shape: tuple[int, ...], duration: float, num_steps: int, dtype: torch.dtype) -> Flow:
    """Flow of (group, rows, 2, *shape) for parameters (rows, 4).

    The vorticity's mode 0, always zero, holds the mean velocity instead, as U + i V. With the factors 1 and -i for this
    mode the velocity comes out right, because the real FFT takes the real part of mode 0; and the nonlinear term has
    no mode 0.
    """
    device = parameters.device
    (kx, ky), kept = kept_modes(shape, device)
    viscosity, drag, amplitude, wavenumber = (value[:, None, None] for value in parameters.unbind(-1))
    linear = -viscosity * (kx**2 + ky**2) - drag  # (rows, k_y, k_x)
    force = torch.where((kx == 0) & (ky == wavenumber), -0.5 * amplitude * wavenumber, 0.0)
    to_velocity = (_biot_savart(kx, ky) * kept).to(dtype.to_complex())
    # Tendency of the vorticity: (d_yy - d_xx)(u v) + d_xy (u^2 - v^2), from div(u u) and div u = 0.
    of_difference, of_product = (_pairs(part * kept).to(dtype) for part in (-kx * ky, kx**2 - ky**2))
    forcing = _pairs(force, imaginary=False).to(dtype)

    def nonlinear(v: Tensor) -> Tensor:
        velocity = from_kept(torch.view_as_complex(v)[..., None, :, :] * to_velocity, shape)
        products = velocity[..., :1, :, :] * velocity  # u^2, u v
        products.select(-3, 0).addcmul_(velocity.select(-3, 1), velocity.select(-3, 1), value=-1)
        difference, product = torch.view_as_real(to_kept(products, 2)).unbind(-4)
        return torch.addcmul(forcing, difference, of_difference).addcmul_(product, of_product)

    step: Step = etdrk4(_pairs(linear), nonlinear, duration / num_steps, dtype=dtype)

    mx, my = mode_numbers(shape, device)
    beyond = ~dealias_mask(shape, device=device)
    decay = torch.exp(duration * (-viscosity * (mx**2 + my**2) - drag)).to(dtype) * beyond
    inside = (2 * mx.abs() < shape[0]) & (2 * my < shape[1])
    all_to_velocity = (_biot_savart(mx, my) * inside).to(dtype.to_complex())
    origin = (mx == 0) & (my == 0)
    curl = torch.stack([torch.where(origin, 1.0, -1j * my), torch.where(origin, 1j, 1j * mx)])
    curl = (curl * inside).to(dtype.to_complex())

    def flow(state: Tensor) -> Tensor:
        spectrum = (torch.fft.rfft2(state, norm="forward") * curl).sum(dim=-3)
        v = torch.view_as_real((narrowed(spectrum, shape) * kept).contiguous())
        for _ in range(num_steps):
            v = step(v)
        spectrum = decay * spectrum + widened(torch.view_as_complex(v), shape)
        return torch.fft.irfft2(spectrum[..., None, :, :] * all_to_velocity, s=shape, norm="forward")

    return flow


def _biot_savart(kx: Tensor, ky: Tensor) -> Tensor:
    """Factors (2, *modes) from vorticity to velocity, (i k_y, -i k_x) / k^2; for mode 0 see `_flow`."""
    squared = kx**2 + ky**2
    origin = squared == 0
    inverse = 1 / squared.where(~origin, 1.0)
    return torch.stack([torch.where(origin, 1.0, 1j * ky * inverse), torch.where(origin, -1j, -1j * kx * inverse)])


def _pairs(factor: Tensor, imaginary: bool = True) -> Tensor:
    """Real factors laid out for the real and imaginary parts of complex numbers, (..., 2): no complex arithmetic."""
    return torch.stack([factor, factor if imaginary else torch.zeros_like(factor)], dim=-1)


def _points_for(wavenumber: float, refine: int) -> int:
    """Least even number of points that, refined, have a 2/3 cut that holds the wavenumber."""
    return 2 * math.ceil((3 * math.ceil(wavenumber) + 1) / (2 * refine))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(points) for points in shape)
