"""Three-dimensional incompressible flow in a periodic box, stirred by a steady helical force.

    u_t + u . grad u = -grad p + nu lap u + F (sin z + cos y, sin x + cos z, sin y + cos x),   div u = 0
    on [0, 2 pi)^3, periodic

The force is an ABC flow (Arnold, Beltrami, Childress) with A = B = C: its curl is itself, so u = F / nu times it is an
exact steady solution, which runs reach where F / nu^2 is about 10 or less. Beyond, the helical eddies of the size
of the box swell, are torn to pieces and swell again: the energy swings by a factor of two over tens of time units.
With F = 0 the flow decays.

Good values to start from: nu = 0.02 and F = 0.1 with 32 points per axis (24 will do for a first look); output every
0.2, inner step 0.04. One trajectory of 100 time units costs about 12 CPU-seconds at 32 points, half of it at 24;
larger boxes want a GPU.

Scaling: with time in units of F^{-1/2} the amplitude is 1 and the viscosity is divided by F^{1/2}.
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
from eddycast.numerics.incompressible import random_velocity
from eddycast.numerics.spectral import cutoff, dealias_mask, mode_numbers
from eddycast.numerics.truncated import from_kept, kept_modes, narrowed, to_kept, widened
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.protocols import FieldInfo, Flow, ParameterInfo, SystemInfo, inner_steps

INITIAL_MODES = 3
MIN_POINTS = 12
POINTS_PER_CHUNK = 2**16
CHAOTIC_FROM = 27.0  # F / nu^2; one run each at 10, 16, 28, 40, 63, 111 and 160, of 120 time units with 16 points

# Leading exponent by (viscosity, F): 6 runs of 80 time units with 24 points per axis after a spin-up of 60; standard
# error 0.006.
LYAPUNOV_EXPONENTS: dict[tuple[float, float], float] = {(0.02, 0.1): 0.286}


@dataclass(frozen=True)
class NavierStokes3D:
    """Fourier-Galerkin solver for the velocity: 2/3 dealiasing in space, ETDRK4 in time.

    With the 2/3 rule quadratic terms are exact, so all forms of the nonlinear term agree; the divergence of the
    trace-free stress is the one of fewest transforms (eight). Energy and helicity are kept by it to the error of the
    time step.
    """

    info: ClassVar[SystemInfo] = SystemInfo(
        name="navier-stokes-3d",
        description="Incompressible Navier-Stokes in a periodic 3-D box, stirred by a steady ABC force.",
        equation="u_t + u.grad u = -grad p + viscosity lap u + F (sin z + cos y, sin x + cos z, sin y + cos x), div u = 0",
        fields=tuple(FieldInfo(f"velocity_{axis}", "1", f"velocity along {axis}", vector="velocity") for axis in "xyz"),
        parameters=(
            ParameterInfo("viscosity", 0.02, 1e-4, 10.0, "1", "kinematic viscosity nu"),
            ParameterInfo("forcing_amplitude", 0.1, 0.0, 100.0, "1", "amplitude F of the force"),
        ),
        shape=(32, 32, 32),
        dt=0.2,
        inner_dt=0.04,
        spin_up=60.0,
        scheme="Fourier-Galerkin, trace-free stress form, 2/3 dealiasing, ETDRK4",
        advective=True,
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points 2 pi k / N along x, y and z, any N >= 12.

        Raises: InputError for another dimension than 3, too few points, and points so few that most of the cascade is
            missing: a dissipation wavenumber above three times the 2/3 cut.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        name = self.info.name
        if len(shape) != 3:
            raise InputError(f"{name} is three-dimensional, got a {len(shape)}-D grid {shape}: give three numbers.")
        if min(shape) < MIN_POINTS:
            raise InputError(f"{name} needs at least {MIN_POINTS} points along each axis, got {shape}.")
        finest = dissipation_wavenumber(parameters).max().item()
        kept = min(cutoff(points) for points in shape)
        if finest > 3 * kept:
            raise InputError(
                f"{name}: {min(shape)} points per axis are too few for eddies of wavenumber {finest:.0f}: take at least "
                f"{3 * math.ceil(finest / 3) + 1} (resolved: {3 * math.ceil(finest) + 1}), or a larger viscosity."
            )
        return Grid(tuple(periodic_axis(axis, points, 2 * math.pi) for axis, points in zip("xyz", shape, strict=True)))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Smooth random velocity, modes up to 3, mean square speed 1, mean zero; the same at every resolution."""
        return random_velocity(noise, grid.shape, max_mode=INITIAL_MODES).to(device=device, dtype=dtype)

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
        """The map of (*batch, 3, n_x, n_y, n_z) over `duration`.

        States with divergence are projected first. Modes above the 2/3 cut see no nonlinear term: they decay exactly,
        by viscosity; those at the Nyquist frequency are dropped. The mean velocity is conserved and carries the rest.
        """
        num_steps = inner_steps(duration, self.info.default_inner_dt(grid.shape) if inner_dt is None else inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)

        def build(rows: Tensor) -> Flow:
            return _flow(rows, grid.shape, duration, num_steps, dtype)

        return chunked_flow(build, parameters, 4, size)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Measured exponent where F / nu^2 is that of `LYAPUNOV_EXPONENTS`, in proportion to F^{1/2}, else NaN; (*batch) float64."""
        viscosity, amplitude = parameters.detach().double().unbind(-1)
        exponent = torch.full_like(viscosity, math.nan)
        for (known_viscosity, known_amplitude), value in LYAPUNOV_EXPONENTS.items():
            reynolds = known_amplitude / known_viscosity**2
            same = (amplitude / viscosity**2 - reynolds).abs() <= 1e-5 * reynolds
            exponent = torch.where(same, value * (amplitude / known_amplitude).sqrt(), exponent)
        return exponent

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True from F / nu^2 = 27 on, where all runs of a survey had exponents above 0.1 (F = 0.1), (*batch) bool.

        At 16 the exponent was about zero, at 10 and below runs end in the steady flow.
        """
        viscosity, amplitude = parameters.detach().double().unbind(-1)
        return amplitude >= CHAOTIC_FROM * viscosity**2


def abc_flow(grid: Grid) -> Tensor:
    """(sin z + cos y, sin x + cos z, sin y + cos x), (3, n_x, n_y, n_z), float64; its curl is itself."""
    x, y, z = torch.meshgrid(
        *(torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes), indexing="ij"
    )
    return torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()])


def dissipation_wavenumber(parameters: Tensor) -> Tensor:
    """(P / nu^3)^{1/4}, the inverse of Kolmogorov's length, with the power input P = 5.4 F^{3/2} of turbulent runs; (*batch)."""
    viscosity, amplitude = parameters.detach().double().unbind(-1)
    return (5.4 * amplitude**1.5 / viscosity**3) ** 0.25


def _flow(parameters: Tensor, shape: tuple[int, ...], duration: float, num_steps: int, dtype: torch.dtype) -> Flow:
    """Flow of (group, rows, 3, *shape) for parameters (rows, 2)."""
    device = parameters.device
    modes, kept = kept_modes(shape, device)
    viscosity, amplitude = (value[:, None, None, None, None] for value in parameters.unbind(-1))  # (rows, 1, *modes)
    squared = _squared(modes)
    inverse = kept / squared.where(squared != 0, 1.0)
    force = _abc_modes(modes) * amplitude
    waves = [(mode * kept).to(dtype)[..., None] for mode in modes]
    along = [(mode * inverse).to(dtype)[..., None] for mode in modes]
    minus_i = torch.tensor(-1j, dtype=dtype.to_complex(), device=device)
    force = force.to(dtype.to_complex())

    def nonlinear(v: Tensor) -> Tensor:
        velocity = from_kept(torch.view_as_complex(v), shape)
        w = velocity.select(-4, 2)
        first = velocity[..., :1, :, :, :] * velocity  # xx, xy, xz
        second = velocity[..., 1:2, :, :, :] * velocity[..., 1:, :, :, :]  # yy, yz
        # The pressure takes any isotropic stress: without zz five components are left.
        first.select(-4, 0).addcmul_(w, w, value=-1)
        second.select(-4, 0).addcmul_(w, w, value=-1)
        xx, xy, xz = torch.view_as_real(to_kept(first, 3)).unbind(-5)
        yy, yz = torch.view_as_real(to_kept(second, 3)).unbind(-5)
        kx, ky, kz = waves
        flux = [
            torch.addcmul(kx * xx, ky, xy).addcmul_(kz, xz),
            torch.addcmul(kx * xy, ky, yy).addcmul_(kz, yz),
            torch.addcmul(kx * xz, ky, yz),
        ]
        push = torch.addcmul(along[0] * flux[0], along[1], flux[1]).addcmul_(along[2], flux[2])
        stress = torch.stack([torch.addcmul(part, k, push, value=-1) for part, k in zip(flux, waves, strict=True)], -5)
        return torch.view_as_real(torch.addcmul(force, torch.view_as_complex(stress), minus_i))

    linear = (-viscosity * squared)[..., None].expand(*viscosity.shape[:2], *squared.shape, 2)
    step: Step = etdrk4(linear.contiguous(), nonlinear, duration / num_steps, dtype=dtype)

    all_modes = mode_numbers(shape, device)
    everything = _squared(all_modes)
    beyond = ~dealias_mask(shape, device=device)
    decay = torch.exp(-duration * viscosity * everything).to(dtype) * beyond
    inside = torch.ones_like(beyond)
    for mode, points in zip(all_modes, shape, strict=True):
        inside = inside & (2 * mode.abs() < points)
    gradient = torch.stack([(mode * inside).expand(everything.shape) for mode in all_modes]).to(dtype)
    pressure = (gradient / everything.where(everything != 0, 1.0)).to(dtype)

    def flow(state: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(state, dim=(-3, -2, -1), norm="forward") * inside
        spectrum = spectrum - gradient * (pressure * spectrum).sum(dim=-4, keepdim=True)
        v = torch.view_as_real((narrowed(spectrum, shape) * kept).contiguous())
        for _ in range(num_steps):
            v = step(v)
        spectrum = decay * spectrum + widened(torch.view_as_complex(v), shape)
        return torch.fft.irfftn(spectrum, s=shape, dim=(-3, -2, -1), norm="forward")

    return flow


def _squared(modes: tuple[Tensor, ...]) -> Tensor:
    """|k|^2, over the modes that the axes span."""
    x, y, z = modes
    return x**2 + y**2 + z**2


def _abc_modes(modes: tuple[Tensor, ...]) -> Tensor:
    """Kept modes of `abc_flow`, (3, *modes), complex128: sin has -i/2 at mode 1 and its conjugate at -1, cos 1/2."""
    x, y, z = modes

    def wave(axis: Tensor, others: tuple[Tensor, Tensor], sine: bool) -> Tensor:
        single = (axis.abs() == 1) & (others[0] == 0) & (others[1] == 0)
        return single * (-0.5j * axis if sine else 0.5)

    sine = {"x": wave(x, (y, z), True), "y": wave(y, (x, z), True), "z": wave(z, (x, y), True)}
    cosine = {"x": wave(x, (y, z), False), "y": wave(y, (x, z), False), "z": wave(z, (x, y), False)}
    return torch.stack([sine["z"] + cosine["y"], sine["x"] + cosine["z"], sine["y"] + cosine["x"]])
