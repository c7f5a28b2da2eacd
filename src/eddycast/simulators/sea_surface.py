"""Sea surface temperature anomalies as a linear stochastic field, whose forecasts have a known law: a stand-in for daily SST boxes.

    dT = (-u . grad T + kappa lap T - lambda T) dt + dF   on a periodic box of 15 x 15 degrees, time in days

The ocean remembers, the weather forces: F is white in time (weather changes from day to day) and correlated in space, lambda is the heat
that the mixed layer gives back, kappa stirs, and a steady uniform current u carries the pattern. Each Fourier mode is by itself a complex
Ornstein-Uhlenbeck process,

    dT_k = -a_k T_k dt + sqrt(2 r_k S_k) dW_k,    a_k = r_k + i u . k,    r_k = lambda + kappa |k|^2

with the power of the forcing proportional to (1 + |l k|^2)^-2 and S_k, the stationary variance, to that over r_k, scaled to sum to
one: states are in standard deviations, as the published boxes are. The law of a state tau after a known one is Gaussian with

    mean exp(-a_k tau) T_k,    variance S_k (1 - exp(-2 r_k tau))    of mode k

which is what `flow` (the mean), `forced_flow` (draws), `conditional_mean` and `conditional_std` say, whatever tau: no step has an error. A
forecast of `system:sea-surface` is therefore the exact ensemble, and no method can score better than it but by chance: its CRPS is
`exact_crps` at each lead.

What it looks like: patches of one to three degrees drift along the current, fade within weeks and are replaced by new ones. At the
defaults (a current of a quarter of a metre per second) they move by six of 60 points in a week, and what cannot be known has a standard
deviation of 0.21 after one day and 0.51 after seven: the CRPS of the exact ensemble is 0.214 on average over these seven.
`--param velocity_x=0:0.4` gives each trajectory a current of its own. The field is periodic: what leaves on one side comes in at the other,
while a real box loses and gains water that nobody has seen.

Source: of the idea, Frankignoul and Hasselmann (1977), doi:10.3402/tellusa.v29i4.11362; without a current and with independent points
there.
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
from eddycast.numerics.spectral import mode_numbers
from eddycast.simulators.protocols import FieldInfo, Flow, ForcedFlow, ParameterInfo, SystemInfo

EXTENT = 15.0  # degrees: 60 points of 1/4 degree
REACH = 29  # modes -29 to 29 along each axis vary: all that 60 points hold, but for the highest, which has no direction


@dataclass(frozen=True)
class SeaSurface:
    """Exact in law for every step; states at any resolution hold the same modes of the same draws."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="sea-surface",
        description="Synthetic sea surface temperature, daily 60x60 boxes: advected, diffused, forced at random; exact law known.",
        equation="dT = (-u . grad T + kappa lap T - lambda T) dt + dF",
        fields=(FieldInfo("sst", "1", "sea surface temperature anomaly in standard deviations"),),
        parameters=(
            ParameterInfo("velocity_x", 0.2, -5.0, 5.0, "degree/day", "current along x"),
            ParameterInfo("velocity_y", 0.05, -5.0, 5.0, "degree/day", "current along y"),
            ParameterInfo("diffusivity", 0.007, 0.0, 1.0, "degree^2/day", "diffusivity kappa"),
            ParameterInfo("relaxation", 1 / 60, 0.001, 10.0, "1/day", "relaxation rate lambda"),
            ParameterInfo("forcing_length", 1.5, 0.25, 15.0, "degree", "length scale l of the forcing"),
        ),
        shape=(60, 60),
        dt=1.0,
        inner_dt=math.inf,
        spin_up=0.0,
        time_units="day",
        scheme="exact in law, in Fourier space",
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points 15 k / N degrees along each axis. Raises: InputError for other than 2 axes, or fewer than 4 points along one."""
        shape = self.info.shape if shape is None else shape
        if len(shape) != 2 or min(shape) < 4:
            raise InputError(f"{self.info.name} needs 2 axes of at least 4 points each, such as 60x60; got {shape}.")
        return Grid(tuple(periodic_axis(name, n, EXTENT, "degree") for name, n in zip("xy", shape, strict=True)))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """A draw from the stationary law, (*batch, 1, *space): nothing needs to spin up."""
        deviation = stationary_variance(parameters.cpu(), grid).sqrt()
        modes = deviation * _white(noise, grid, (0, 0, "initial"))
        return torch.fft.irfftn(modes, s=grid.shape, dim=grid.dims, norm="forward").to(device=device, dtype=dtype)

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
        """The conditional mean of (*batch, 1, *space) after `duration`, in one step: `inner_dt` changes nothing."""
        shape, dims = grid.shape, grid.dims
        propagator = _propagator(parameters.to(device), grid, duration).to(dtype.to_complex())

        def flow(state: Tensor) -> Tensor:
            return torch.fft.irfftn(propagator * torch.fft.rfftn(state, dim=dims), s=shape, dim=dims)

        return flow

    def forced_flow(
        self,
        parameters: Tensor,
        grid: Grid,
        duration: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inner_dt: float | None = None,
    ) -> ForcedFlow:
        """Draws from the law of the state after `duration`, in one step; the noise has the key (step, 0, "forcing")."""
        mean = self.flow(parameters, grid, duration, dtype=dtype, device=device)
        deviation = _innovation(parameters.cpu(), grid, duration).sqrt()

        def forced(state: Tensor, noise: MemberNoise, step: int) -> Tensor:
            modes = deviation * _white(noise, grid, (step, 0, "forcing"))
            innovation = torch.fft.irfftn(modes, s=grid.shape, dim=grid.dims, norm="forward")
            return mean(state) + innovation.to(device=state.device, dtype=state.dtype)

        return forced

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """-lambda, the rate at which the mean forgets an error of the start, (*batch) float64."""
        return -parameters[..., 3].to(torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: the equation is linear and damped; what makes forecasts uncertain is the forcing."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)


def conditional_mean(state: Tensor, leads: Tensor, parameters: Tensor, grid: Grid) -> Tensor:
    """Mean of the states at `leads` given that at time 0.

    Args:
        state: (*batch, 1, *space).
        leads: Times in days, (time,), zero or positive.
        parameters: (*batch, P) or (P,).
        grid: That of the state.

    Returns: (*batch, time, 1, *space), the dtype of the state.
    """
    propagators = [_propagator(parameters.to(state.device), grid, float(lead)) for lead in leads]
    modes = torch.fft.rfftn(state.to(torch.float64), dim=grid.dims)
    means = [torch.fft.irfftn(each * modes, s=grid.shape, dim=grid.dims) for each in propagators]
    return torch.stack(means, dim=-4).to(state.dtype)


def conditional_std(leads: Tensor, parameters: Tensor, grid: Grid) -> Tensor:
    """Standard deviation of the states at `leads` given that at time 0, the same at every point.

        std(tau)^2 = sum_k S_k (1 - exp(-2 r_k tau))

    Args:
        leads: Times in days, (time,), zero or positive.
        parameters: (*batch, P) or (P,).
        grid: Whose modes count; those that it does not hold do not vary.

    Returns: (*batch, time, 1, 1, 1), float64.
    """
    return torch.stack([_total(_innovation(parameters, grid, float(lead))) for lead in leads], dim=-4).sqrt()


def exact_crps(leads: Tensor, parameters: Tensor, grid: Grid) -> Tensor:
    """Expected CRPS of the exact law, std / sqrt(pi), (*batch, time), float64: the fair CRPS of draws from it has this mean.

    Source: the closed form for a Gaussian (Gneiting and Raftery 2007, doi:10.1198/016214506000001437, eq. 21), averaged over truths
    from it.
    """
    return conditional_std(leads, parameters, grid)[..., 0, 0, 0] / math.sqrt(math.pi)


def stationary_variance(parameters: Tensor, grid: Grid) -> Tensor:
    """S_k, the variance of the coefficient of each mode (field = sum_k T_k exp(i k.x)), (*batch, 1, *half spectrum), float64.

    Over all modes with |m_i| <= 29 it sums to one. A grid of fewer than 59 points along an axis holds a part of them, and its
    states have that much less variance; the modes that it holds have the variance that they have on every grid.
    """
    every = torch.arange(-REACH, REACH + 1, dtype=torch.float64, device=parameters.device)
    squared = (2 * math.pi / EXTENT) ** 2 * (every[:, None] ** 2 + every**2)
    whole = _power(parameters, squared).sum(dim=(-2, -1), keepdim=True)
    _, squared = _waves(grid, parameters.device)
    first, second = mode_numbers(grid.shape, parameters.device)
    held = (first.abs() <= REACH) & (second.abs() <= REACH)
    held = held & (2 * first.abs() < grid.shape[0]) & (2 * second.abs() < grid.shape[1])
    return _power(parameters, squared) * held / whole


def _columns(parameters: Tensor) -> list[Tensor]:
    """Each parameter as (*batch, 1, 1, 1), float64."""
    return [column[..., None, None, None] for column in parameters.to(torch.float64).unbind(-1)]


def _waves(grid: Grid, device: torch.device | str) -> tuple[list[Tensor], Tensor]:
    """Wave numbers along each axis, with 0 for the highest mode of an even number of points (it stands still), and |k|^2 with it."""
    unit = 2 * math.pi / EXTENT
    numbers = mode_numbers(grid.shape, device)
    turning = [
        unit * modes.masked_fill(2 * modes.abs() == points, 0.0)
        for modes, points in zip(numbers, grid.shape, strict=True)
    ]
    squared = unit**2 * (numbers[0] ** 2 + numbers[1] ** 2)
    return turning, squared


def _power(parameters: Tensor, squared: Tensor) -> Tensor:
    """Stationary power of modes with |k|^2 `squared`, up to a factor."""
    _, _, diffusivity, relaxation, length = _columns(parameters)
    return (1 + length**2 * squared) ** -2 / (relaxation + diffusivity * squared)


def _propagator(parameters: Tensor, grid: Grid, duration: float) -> Tensor:
    """exp(-a_k duration), (*batch, 1, *half spectrum), complex128."""
    (kx, ky), squared = _waves(grid, parameters.device)
    velocity_x, velocity_y, diffusivity, relaxation, _ = _columns(parameters)
    phase = -(velocity_x * kx + velocity_y * ky) * duration
    return torch.polar(torch.exp(-(relaxation + diffusivity * squared) * duration), phase)


def _innovation(parameters: Tensor, grid: Grid, duration: float) -> Tensor:
    """S_k (1 - exp(-2 r_k duration)), (*batch, 1, *half spectrum), float64."""
    _, _, diffusivity, relaxation, _ = _columns(parameters)
    _, squared = _waves(grid, parameters.device)
    rate = relaxation + diffusivity * squared
    return stationary_variance(parameters, grid) * -torch.expm1(-2 * rate * duration)


def _total(variance: Tensor) -> Tensor:
    """Sum over all modes of what is given for the half spectrum, (..., 1, 1): its first column stands for itself, the others for two.

    The highest modes of an even number of points do not vary.
    """
    return 2 * variance.sum(dim=(-2, -1), keepdim=True) - variance[..., :1].sum(dim=(-2, -1), keepdim=True)


def _white(noise: MemberNoise, grid: Grid, key: tuple[int, int, str]) -> Tensor:
    """Coefficients of variance one of a real random field, (*batch, 1, *half spectrum), complex128, on the CPU.

    Drawn for the modes |m_i| <= 29, whatever the grid, which takes those that it holds.
    """
    every = torch.arange(-REACH, REACH + 1)
    mx, my = (part.flatten() for part in torch.meshgrid(every, every[REACH:], indexing="ij"))
    wanted = (my > 0) | (mx > 0)  # one of each opposite pair
    mx, my = mx[wanted], my[wanted]
    numbers = noise.draw((1 + 2 * len(mx),), key=key, dtype=torch.float64)
    pairs = numbers[..., 1:].unflatten(-1, (2, -1)) * math.sqrt(0.5)
    coefficients = torch.complex(pairs[..., 0, :], pairs[..., 1, :])
    points, half = grid.shape[0], grid.shape[1] // 2 + 1
    held = (2 * mx.abs() < points) & (2 * my < grid.shape[1])
    mx, my, coefficients = mx[held], my[held], coefficients[..., held]
    white = torch.zeros((*noise.batch, 1, points, half), dtype=torch.complex128)
    white[..., 0, mx % points, my] = coefficients
    flat = my == 0  # the partners of these are in the half spectrum as well
    white[..., 0, -mx[flat] % points, my[flat]] = coefficients[..., flat].conj()
    white[..., 0, 0, 0] = numbers[..., 0] + 0j
    return white
