"""The viscous Burgers equation: waves that steepen into fronts, merge and fade.

    u_t + (u^2 / 2)_x = nu u_xx   on [0, 1), periodic

Crests overtake troughs until viscosity stops the front at a width of about 4 nu / jump; fronts then merge and the whole
decays. There is no chaos: the mean of u is conserved, everything else ends. The Cole-Hopf transform
u = -2 nu (log w)_x, w_t = nu w_xx, gives the exact solution.

Good values to start from: nu = 0.01 with 128 points for one time unit (steps=101), the set-up of physics-informed
operator learning. No spin-up: the random initial state is the interesting one.
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
from eddycast.numerics.etdrk import etdrk4
from eddycast.numerics.spectral import cutoff, mode_numbers
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo, inner_steps

INITIAL_MODES = 16  # at the usual length scale
AMPLITUDE, LENGTH_SCALE = 25.0**2, 0.2
DEVIATION = 0.214336  # of the usual law
# Least number of points times viscosity: what the steepest fronts of the initial law need.
RESOLUTION = 0.64


@dataclass(frozen=True)
class Burgers:
    """Fourier-Galerkin solver in conservative form: 2/3 dealiasing in space, ETDRK4 in time.

    Accuracy, as worst relative error of 32 runs of the initial law within 1 time unit. In space by points times viscosity:
    1.6e-4 at 0.64 (the least that `grid` takes), 4e-6 at 0.96, 6e-8 at 1.28 (the default). In time, at the default grid:
    5e-8 with the inner step 0.01, 4e-9 with 0.005; float32 has its floor at 2e-6.

    Args:
        length_scale: Of the initial law, where the power of its modes begins to fall (2 pi m = 1 / length_scale).
        deviation: Standard deviation of the initial law. A larger one makes steeper fronts, and needs more points in proportion.
    """

    length_scale: float = LENGTH_SCALE
    deviation: float = DEVIATION

    info: ClassVar[SystemInfo] = SystemInfo(
        name="burgers",
        description="Viscous Burgers equation in 1-D: waves steepen into fronts, merge and fade.",
        equation="u_t + (u^2/2)_x = nu u_xx",
        fields=(FieldInfo("u", "1", "velocity"),),
        parameters=(ParameterInfo("viscosity", 0.01, 1e-4, 10.0, "1", "kinematic viscosity nu"),),
        shape=(128,),
        dt=0.01,
        inner_dt=0.01,
        spin_up=0.0,
        scheme="Fourier-Galerkin, conservative form, 2/3 dealiasing, ETDRK4",
        advective=True,
        initial=(
            InitialInfo("length_scale", LENGTH_SCALE, 0.02, 2.0, "length scale of the initial field"),
            InitialInfo("deviation", DEVIATION, 0.01, 2.0, "standard deviation of the initial field"),
        ),
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points k / N, even N. Raises: InputError for another dimension than 1, an odd N, or too few points for the fronts."""
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        if len(shape) != 1:
            raise InputError(
                f"{self.info.name} is one-dimensional, got a {len(shape)}-D grid {shape}: give one number."
            )
        (points,) = shape
        if points < 8 or points % 2:
            raise InputError(f"{self.info.name} needs an even number of points, at least 8; got {points}.")
        viscosity = parameters[..., 0].min().item()
        needed = 2 * math.ceil(RESOLUTION * max(1.0, self.deviation / DEVIATION) / viscosity / 2)
        if points < needed:
            raise InputError(
                f"{points} points do not resolve the fronts at viscosity {viscosity:g}: take at least {needed}."
            )
        return Grid((periodic_axis("x", points, 1.0),))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Gaussian random field of mean zero, standard deviation 0.21, covariance 25^4 (-d^2/dx^2 + 5^2)^-4; (*batch, 1, points).

        Mode m has cosine and sine coefficients of deviation sqrt(2) 25^2 ((2 pi m)^2 + 5^2)^-2, m = 1 to 16 (mode 17
        would have 3e-5 of the amplitude of mode 1). The coefficients do not depend on the grid. Another `length_scale` l puts 1 / l
        in place of 5 (and takes more modes where it is shorter), and the field is scaled to `deviation`.
        Source: Wang, Wang and Perdikaris (2021), doi:10.1126/sciadv.abi8605: the law of its published generator; its
            text prints 25^2 for 25^4, with which the field is 25 times smaller and hardly steepens.
        """
        (points,) = grid.shape
        drawn = max(INITIAL_MODES, math.ceil(INITIAL_MODES * LENGTH_SCALE / self.length_scale))
        modes = min(drawn, cutoff(points))
        deviation = self._deviations(drawn)[:modes]
        coefficients = noise.draw((2, drawn), key=(0, 0, "initial"), dtype=torch.float64)[..., :modes]
        number = torch.arange(1, modes + 1, dtype=torch.float64)
        angle = 2 * math.pi * number[:, None] * torch.arange(points, dtype=torch.float64) / points
        waves = torch.stack([torch.cos(angle), torch.sin(angle)])
        state = torch.einsum("...sm,smx->...x", coefficients * deviation, waves)
        return state[..., None, :].to(device=device, dtype=dtype)

    def _deviations(self, modes: int) -> Tensor:
        """Standard deviation of the coefficients of modes 1 to `modes` of the initial law, (modes,), float64."""
        number = torch.arange(1, modes + 1, dtype=torch.float64)
        shape = math.sqrt(2) * AMPLITUDE * ((2 * math.pi * number) ** 2 + self.length_scale**-2) ** -2
        if (self.length_scale, self.deviation) == (LENGTH_SCALE, DEVIATION):
            return shape
        return self.deviation / shape.square().sum().sqrt() * shape

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
        """The map of (*batch, 1, points) over `duration`; modes above the 2/3 cut see viscosity alone, exactly."""
        (points,) = grid.shape
        num_steps = inner_steps(duration, self.info.default_inner_dt(grid.shape) if inner_dt is None else inner_dt)
        viscosity = parameters[..., 0].to(device=device, dtype=torch.float64)
        if not viscosity.requires_grad and viscosity.numel() > 1 and bool((viscosity == viscosity.flatten()[0]).all()):
            viscosity = viscosity.flatten()[0]
        (modes,) = mode_numbers((points,), device)
        k = 2 * math.pi * modes
        linear = -viscosity[..., None, None] * k**2  # (*batch, 1, mode), or (1, mode)
        kept = cutoff(points) + 1
        transport = (-0.5j * k[:kept]).to(dtype.to_complex())

        def nonlinear(v: Tensor) -> Tensor:
            u = torch.fft.irfft(v, n=points)
            return transport * torch.fft.rfft(u * u)[..., :kept]

        step = etdrk4(linear[..., :kept], nonlinear, duration / num_steps, dtype=dtype)
        decay = torch.exp(linear[..., kept:] * duration).to(dtype)

        def flow(state: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(state)
            v = spectrum[..., :kept]
            for _ in range(num_steps):
                v = step(v)
            return torch.fft.irfft(torch.cat([v, decay * spectrum[..., kept:]], dim=-1), n=points)

        return flow

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """-nu (2 pi)^2: every run ends at its mean, about which the longest wave decays slowest; (*batch) float64.

        Errors of the mean are left out, since they neither grow nor decay.
        """
        return -((2 * math.pi) ** 2) * parameters[..., 0].to(torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: all solutions decay."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)
