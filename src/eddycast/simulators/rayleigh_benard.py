"""Rayleigh-Benard convection in two dimensions: a fluid heated from below and cooled from above.

    b_t - kappa lap b = -u . grad b,    u_t - nu lap u + grad p - b e_y = -u . grad u,    div u = 0   on [0, 4) x [0, 1]
    kappa = (Ra Pr)^{-1/2},  nu = (Ra / Pr)^{-1/2};   b = 1 at y = 0, b = 0 at y = 1;   u = 0 at both;   periodic along x;   int p = 0

Heat is conducted through the layer until Ra = 1708; above, rolls as wide as the layer is high carry it, warm fluid up and cold fluid
down. From rest, small noise takes about 10 time units (of free fall through the layer) to grow; plumes then shoot through the layer and
gather into rolls, mostly two pairs, which sway and shed plumes.

Good values to start from: Ra = 1e6, Pr = 1 with 128 x 32 points, or Ra from 1e5 to 3e5 with 64 x 32; output every 0.25 from rest, or after
a spin-up of 20 to leave out the young plumes. The Well has Ra from 1e6 to 1e10 and Pr from 0.1 to 10 on 512 x 128 points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.etdrk import etdrk4
from eddycast.numerics.wall_modes import chebyshev_points, chebyshev_values, chebyshev_weights
from eddycast.simulators.chunked import chunked_flow
from eddycast.simulators.convection_modes import convection_modes
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

MIN_POINTS = 16
NOISE_POINTS = (128, 32)
ROWS = 8  # trajectories per product of matrices: other numbers of columns may round otherwise
COARSEST = 10.0  # points at most so many smallest scales apart
SLACK = 1e-6  # for parameters that have been through single precision
LAYER_POINTS = 3.0  # points at least in the thermal boundary layer


@dataclass(frozen=True)
class RayleighBenard:
    """Fourier-Galerkin in x and Legendre-Galerkin in y, both without aliasing; ETDRK4 in time, diffusion exact.

    Args:
        length: Period along x, in heights of the layer. Shorter ones have their points closer: take `inner_dt` less in proportion.
        buoyancy_scale: The initial profile is (1 - y) times it; the walls have b = 1 and 0 at all times.
        noise: Standard deviation of the initial noise, before the factor y (1 - y).
    """

    length: float = 4.0
    buoyancy_scale: float = 1.0
    noise: float = 1e-3

    info: ClassVar[SystemInfo] = SystemInfo(
        name="rayleigh-benard",
        description="Rayleigh-Benard convection in 2-D: plumes and rolls between a warm and a cold wall.",
        equation="b_t - kappa lap b = -u.grad b, u_t - nu lap u + grad p - b e_y = -u.grad u, div u = 0, "
        "kappa = (Rayleigh Prandtl)^(-1/2), nu = (Rayleigh / Prandtl)^(-1/2)",
        fields=(
            FieldInfo("buoyancy", "1", "buoyancy, 1 at the lower and 0 at the upper wall"),
            FieldInfo("pressure", "1", "pressure over density, mean zero"),
            FieldInfo("velocity_x", "1", "velocity along the walls", vector="velocity"),
            FieldInfo("velocity_y", "1", "velocity upwards", vector="velocity"),
        ),
        parameters=(
            ParameterInfo("Rayleigh", 1e6, 1.0, 1e10, "1", "Rayleigh number"),
            ParameterInfo("Prandtl", 1.0, 0.01, 100.0, "1", "Prandtl number nu / kappa"),
        ),
        shape=(128, 32),
        dt=0.25,
        inner_dt=1 / 48,
        spin_up=0.0,
        scheme="Fourier-Galerkin in x, Legendre-Galerkin Stokes modes in y, 3/2 dealiasing, ETDRK4",
        advective=True,
        initial=(
            InitialInfo("buoyancy_scale", 1.0, 0.0, 2.0, "the initial profile is (1 - y) times it"),
            InitialInfo("noise", 1e-3, 0.0, 0.1, "standard deviation of the initial noise"),
        ),
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points length k / N along x, and the N Chebyshev-Gauss points along y, which leave out the walls; N >= 16, even or odd.

        Raises: InputError for another dimension than 2, too few points, and points so few that plumes or boundary layers are
            lost: along x more than 10 of the smallest scales (Ra Nu)^{-1/4} min(1, Pr)^{1/2} apart, along y fewer than 3 in the
            thermal boundary layer 1 / (2 Nu), with Nu = 0.149 Ra^0.29. At 1.7 scales and 5 points, the default, the last waves of
            buoyancy are 0.4 % of the first or less; in between it is a large-eddy model without a closure, stable because the
            scheme makes no energy.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        name = self.info.name
        if len(shape) != 2:
            raise InputError(f"{name} is two-dimensional, got a {len(shape)}-D grid {shape}: give two numbers.")
        least_x, least_y = least_points(parameters, self.length)
        if shape[0] < least_x or shape[1] < least_y:
            raise InputError(
                f"{name}: {shape[0]} x {shape[1]} points lose the plumes or the boundary layers: take at least {least_x} x {least_y}, "
                "or a smaller Rayleigh number."
            )
        y, weights = chebyshev_points(shape[1]), chebyshev_weights(shape[1])
        across = Axis("y", tuple(y.tolist()), ("wall", "wall"), weights=tuple(weights.tolist()))
        return Grid((periodic_axis("x", shape[0], self.length), across))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """At rest, with b = (1 - y) buoyancy_scale + y (1 - y) eps and p = 0, as The Well has it.

        eps is white noise on 128 x 32 points; other grids hold as many of its modes as they can. It is not a state of the solver
        yet: where buoyancy_scale is not 1, the wall's value jumps at time 0.
        """
        y = chebyshev_points(grid.shape[1])
        eps = self.noise * white_noise(noise, grid.shape)
        buoyancy = (1 - y) * self.buoyancy_scale + y * (1 - y) * eps
        state = torch.zeros((*noise.batch, 4, *grid.shape), dtype=torch.float64)
        state[..., 0, :, :] = buoyancy
        return state.to(device=device, dtype=dtype)

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

        States are first projected: what they lack of vanishing divergence and of the walls' values is removed. The pressure is not
        read; that of the result belongs to its velocity and buoyancy.
        Raises: InputError for a grid whose points along y are not those of `grid`.
        """
        self._check(grid)
        num_steps = inner_steps(duration, self.info.default_inner_dt(grid.shape) if inner_dt is None else inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        exact = convection_modes(*grid.shape, grid.axes[0].period or self.length)
        modes = exact.to(dtype, device)

        def build(rows: Tensor) -> Flow:
            viscosity, diffusivity = diffusivities(rows)
            factors = torch.stack([viscosity, diffusivity])[:, None, None, None, :, None]
            linear = -factors * exact.rates.to(device)[:, :, :, None, None, None]
            step = etdrk4(linear, modes.tendency, duration / num_steps, dtype=dtype)

            def flow(state: Tensor) -> Tensor:
                v = modes.project(state)
                for _ in range(num_steps):
                    v = step(v)
                return modes.state(v, viscosity.to(dtype))

            return flow

        size = ROWS if torch.device(device).type == "cpu" else 2**31
        return chunked_flow(build, parameters, 3, size)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN everywhere, (*batch) float64: single runs were followed, no exponent is known to a useful accuracy; see `chaotic`."""
        return torch.full(parameters.shape[:-1], math.nan, dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True where runs were seen to be clearly chaotic: Ra >= 1e6 with Pr from 2 to 10; (*batch) bool.

        In a survey of 15 points (one run of 100 time units after 80, two at the defaults; 64 x 32 points) exponents were 0.06 and 0.13 at
        Ra = 1e6 with Pr = 2 and 5. Elsewhere, Ra from 1e5 to 2e6 and Pr from 0.5 to 2, they were 0.00 to 0.05, 0.02 at the
        defaults, which such runs hardly tell from zero: rolls that sway in two dimensions are nearly regular. Young plumes are
        sensitive to noise at any of these.
        """
        rayleigh, prandtl = parameters.detach().double().unbind(-1)
        return (rayleigh >= 1e6 * (1 - SLACK)) & (prandtl >= 2 - SLACK) & (prandtl <= 10 + SLACK)

    def _check(self, grid: Grid) -> None:
        if len(grid.axes) == 2 and grid.periodic == (True, False):
            y = torch.tensor(grid.axes[1].coordinates, dtype=torch.float64)
            if (y - chebyshev_points(len(y))).abs().max() < 1e-5:
                return
        raise InputError(
            f"{self.info.name} needs a periodic axis, and the Chebyshev-Gauss points of [0, 1] in ascending order along the other."
        )


def diffusivities(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """nu and kappa, each (*batch), for parameters (*batch, 2)."""
    rayleigh, prandtl = parameters.unbind(-1)
    return (rayleigh / prandtl).rsqrt(), (rayleigh * prandtl).rsqrt()


def expected_nusselt(parameters: Tensor) -> Tensor:
    """Nusselt number 0.149 Ra^0.29, at least 1, (*batch), float64: an estimate, for resolution alone."""
    return (0.149 * parameters.detach().double()[..., 0] ** 0.29).clamp_min(1.0)


def least_points(parameters: Tensor, length: float) -> tuple[int, int]:
    """Fewest points along x and y that `RayleighBenard.grid` takes for all of `parameters` (*batch, 2)."""
    rayleigh, prandtl = parameters.detach().double().unbind(-1)
    nusselt = expected_nusselt(parameters)
    scale = (rayleigh * nusselt) ** -0.25 * prandtl.clamp_max(1.0).sqrt()
    # Of the point where the boundary layer 1 / (2 Nu) ends, as y = (1 - cos angle) / 2.
    angle = torch.acos(1 - 1 / nusselt)
    across = (LAYER_POINTS * math.pi / angle).max().item()
    along = (length / (COARSEST * scale)).max().item()
    return max(MIN_POINTS, math.ceil(along)), max(MIN_POINTS, math.ceil(across))


def white_noise(noise: MemberNoise, shape: tuple[int, ...], *, key: tuple[int, int, str] = (0, 0, "initial")) -> Tensor:
    """Noise of variance 1, white on `NOISE_POINTS` (without the Nyquist frequency), on any grid, (*batch, *shape), float64.

    Coefficients of exp(2 pi i m x / L) T_n(2 y - 1) of equal variance (half for n = 0): a grid shows those of m and n that it resolves, so
    that two grids share all modes that both have. Degrees are kept two below the grid's, for a factor y (1 - y).
    """
    points_x, points_y = NOISE_POINTS
    waves, degrees = points_x // 2, points_y
    numbers = noise.draw((2, waves, degrees), key=key, dtype=torch.float64)
    spectrum = torch.complex(numbers[..., 0, :, :], numbers[..., 1, :, :]) / math.sqrt(points_x * points_y)
    spectrum[..., 0, :] = math.sqrt(2) * spectrum[..., 0, :].real
    spectrum[..., 0] = spectrum[..., 0] / math.sqrt(2)
    held_x, held_y = min(waves, (shape[0] + 1) // 2), min(degrees, shape[1] - 2)
    series = chebyshev_values(chebyshev_points(shape[1]), held_y)
    columns = spectrum[..., :held_x, :held_y] @ series.T.to(spectrum.dtype)
    return torch.fft.irfft(columns, n=shape[0], dim=-2, norm="forward")
