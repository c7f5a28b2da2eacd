"""The Kuramoto-Sivashinsky equation: the simplest PDE with spatio-temporal chaos.

    u_t + (u^2 / 2)_x + u_xx + u_xxxx = 0   on [0, L), periodic

Long waves (k < 1) grow, short waves are damped, and the nonlinear term carries energy from the ones to the others.
What one sees are cells of width about 9 that drift, merge and split for ever. The mean of u is conserved (and, by
Galilean invariance, only adds a drift). The only parameter is L. At L = 36 there are about four cells, and errors
grow at the rate 0.076: a Lyapunov time of 13.2. Larger L means more of the same, but chaos is not everywhere: in
windows of L (25, 27 to 29, 31 to 33 among them) every run settles into steady, periodic or drifting cells, in others
(40, 41, 48, 49, 57) some runs do. `chaotic` knows them.

Good values to start from: L = 36 with 64 points, or L = 64 with 128; output every 1, inner step 0.1.
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

INITIAL_MODES = 8

# Leading exponent by domain length: up to 44 and at 64 from 40 runs of 1600 time units each at 96 points, standard errors 0.0009 and
# 0.0014; the others from 8 runs of 900 time units with points 1/2 apart, standard errors 0.0014 to 0.0030.
LYAPUNOV_EXPONENTS: dict[float, float] = {
    22.0: 0.0484, 36.0: 0.0759, 44.0: 0.0807, 56.0: 0.0856, 64.0: 0.0836, 80.0: 0.0865, 100.0: 0.0907, 128.0: 0.0916, 160.0: 0.0958,
    200.0: 0.0936, 300.0: 0.0948,
}  # fmt: skip

# Integer lengths from 10 to 64 at which each of 4 runs (spin-up 400, then 600 time units) had an exponent above 0.015.
SURVEYED = range(10, 65)
CHAOTIC_LENGTHS = frozenset({22, 26, 30, *range(34, 40), *range(42, 48), *range(50, 57), *range(58, 65)})


@dataclass(frozen=True)
class KuramotoSivashinsky:
    """Fourier-Galerkin solver in conservative form: 2/3 dealiasing in space, ETDRK4 in time.

    Accuracy, as relative error after 2 time units on the attractor. In time, L = 64: 5.6e-6 at the inner step 0.1,
    6e-7 at 0.05; the order rises from 3.0 between 0.4 and 0.2 to 3.6 between 0.025 and 0.0125, 4 is not reached
    before rounding. Float32 has its floor at 2e-6, so steps below 0.05 gain nothing there. In space, L = 36: 7e-5
    with 64 points, 2e-7 with 96, 2e-10 with 128: at 64 points the truncation rules, at 96 the step. The leading
    exponent is the same at both, within its error of 5 %.

    Args:
        modes: Highest mode of the initial law.
        sines: None: all modes have normal coefficients; otherwise so many sines of random mode, see `initial`.
    """

    modes: int = INITIAL_MODES
    sines: int | None = None

    info: ClassVar[SystemInfo] = SystemInfo(
        name="kuramoto-sivashinsky",
        description="Kuramoto-Sivashinsky equation in 1-D: drifting, merging cells, spatio-temporal chaos.",
        equation="u_t + (u^2/2)_x + u_xx + u_xxxx = 0",
        fields=(FieldInfo("u", "1", "slope of the front"),),
        parameters=(ParameterInfo("domain_length", 36.0, 1.0, 1000.0, "1", "length of the periodic domain"),),
        shape=(64,),
        dt=1.0,
        inner_dt=0.1,
        spin_up=200.0,
        scheme="Fourier-Galerkin, conservative form, 2/3 dealiasing, ETDRK4",
        initial=(
            InitialInfo("modes", INITIAL_MODES, 1, 1000, "highest mode", whole=True),
            InitialInfo("sines", None, 1, 10000, "sines of random mode; if absent, normal coefficients", whole=True),
        ),
        extent=lambda parameters: parameters[..., :1],
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points L k / N, even N; x / L in [0, 1) where L differs within the batch.

        Raises: InputError for another dimension than 1, an odd N, and an N that leaves growing waves unresolved.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        if len(shape) != 1:
            raise InputError(
                f"{self.info.name} is one-dimensional, got a {len(shape)}-D grid {shape}: give one number."
            )
        (points,) = shape
        if points < 8 or points % 2:
            raise InputError(f"{self.info.name} needs an even number of points, at least 8; got {points}.")
        length = parameters[..., 0].detach().double()
        longest, shortest = length.max().item(), length.min().item()
        if not shortest > 0:
            raise InputError(f"domain_length must be positive, got {shortest:g}.")
        if 2 * math.pi * cutoff(points) <= longest:
            needed = 2 * (math.floor(3 * longest / (4 * math.pi)) + 2)
            raise InputError(
                f"{points} points do not resolve the growing waves of a domain of length {longest:g}: "
                f"take at least {needed} (good: {2 * math.ceil(0.9 * longest)})."
            )
        return Grid((periodic_axis("x", points, longest if longest == shortest else 1.0),))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Sum of the modes 1 to `modes` with independent normal coefficients, variance 1, mean zero, (*batch, 1, points).

        With `sines` = N the sum of N sines A sin(2 pi l x / L + phase): A uniform in (-1/2, 1/2), the phase on the circle, l among 1 to
        `modes`; variance N / 24. The published law has N = 10 and l of 1 or 2: Brandstetter, Welling and Worrall (2022), arXiv:2202.07643.
        Nothing drawn depends on the grid: the same state at every resolution that holds the modes.
        """
        (points,) = grid.shape
        position = torch.arange(points, dtype=torch.float64) / points
        if self.sines is not None:
            draws = noise.uniform((3, self.sines), key=(0, 0, "sines"), dtype=torch.float64)
            amplitude, phase, which = draws[..., 0, :] - 0.5, 2 * math.pi * draws[..., 1, :], draws[..., 2, :]
            number = 1 + (self.modes * which).floor()
            amplitude = amplitude * (number <= cutoff(points))
            sines = torch.sin(2 * math.pi * number[..., None] * position + phase[..., None])
            return (amplitude[..., None] * sines).sum(dim=-2)[..., None, :].to(device=device, dtype=dtype)
        modes = min(self.modes, cutoff(points))
        coefficients = noise.draw((2, self.modes), key=(0, 0, "initial"), dtype=torch.float64)[..., :modes]
        angle = 2 * math.pi * torch.arange(1, modes + 1, dtype=torch.float64)[:, None] * position
        waves = torch.stack([torch.cos(angle), torch.sin(angle)])
        state = torch.einsum("...sm,smx->...x", coefficients, waves) / math.sqrt(modes)
        return state[..., None, :].to(device=device, dtype=dtype)

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
        """The map of (*batch, 1, points) over `duration`. Coefficients in float64, shared by the batch when L is.

        Modes above the 2/3 cut see no nonlinear term, so they are not stepped: they decay exactly, exp((k^2 - k^4)
        duration).
        """
        (points,) = grid.shape
        num_steps = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        length = parameters[..., 0].to(device=device, dtype=torch.float64)
        if not length.requires_grad and length.numel() > 1 and bool((length == length.flatten()[0]).all()):
            length = length.flatten()[0]
        (modes,) = mode_numbers((points,), device)
        k = 2 * math.pi * modes / length[..., None, None]  # (*batch, 1, mode), or (1, mode)
        return galerkin_flow(k, k**2 - k**4, points, duration, num_steps, dtype)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Measured exponent for the lengths of the table `LYAPUNOV_EXPONENTS`, to 0.005, NaN for others, (*batch) float64."""
        exponent = [
            LYAPUNOV_EXPONENTS.get(round(length, 2), math.nan) for length in parameters[..., 0].flatten().tolist()
        ]
        return torch.tensor(exponent, dtype=torch.float64).reshape(parameters.shape[:-1])

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True where every run of the survey was chaotic at the nearest integer length, (*batch) bool.

        Below the survey (L < 10) runs are taken for regular, above it for chaotic. Windows narrower than 1 escape it.
        """
        nearest = [round(length) for length in parameters[..., 0].flatten().tolist()]
        chaotic = [length in CHAOTIC_LENGTHS or length >= SURVEYED.stop for length in nearest]
        return torch.tensor(chaotic, dtype=torch.bool).reshape(parameters.shape[:-1])


def galerkin_flow(k: Tensor, linear: Tensor, points: int, duration: float, num_steps: int, dtype: torch.dtype) -> Flow:
    """Flow of u_t + (u^2 / 2)_x = L u with wavenumbers k and multipliers L_k, each (*batch, 1, mode) or (1, mode), float64.

    2/3 dealiasing; modes above the cut see no nonlinear term and are multiplied by exp(L_k duration).
    """
    kept = cutoff(points) + 1
    transport = (-0.5j * k[..., :kept]).to(dtype.to_complex())

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
