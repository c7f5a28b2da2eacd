"""Barotropic turbulence on a beta plane, stirred at random: waves, eddies, and the zonal jets that these form.

    zeta_t + J(psi, zeta) + beta psi_x = xi - mu zeta - nu (-lap)^8 zeta,   zeta = lap psi,   (u, v) = (-psi_y, psi_x)

on [0, 2 pi)^2, periodic; x points east, y north. The forcing xi is white in time and stirs a ring of wavenumbers around k_f. Beta turns
the cascade to larger scales into one to zonal ones: alternating jets, about sqrt(beta / 2 U) pairs of them, drift, merge and are born
within some drag times 1 / mu. `zonal_velocity` tells of them: U(y, t), the mean of u over x. It is neither Markov nor deterministic,
because the eddies that drive it are not in it.

**The forcing.** Each mode of the ring gets increments sqrt(S_k dt) (a + i b) / sqrt(2), a and b normal, independent for each mode and
inner step, S_k ~ exp(-(|k| - k_f)^2 / (2 1.5^2)) within three widths. An increment is added before each inner step and never in between, so
that it has no part in the work of the deterministic terms, and on average exactly epsilon is put in per unit of area and time:

    dE/dt = epsilon - 2 mu E - (what the hyperviscosity takes),   from rest  E = epsilon (1 - exp(-2 mu t)) / (2 mu)  without the last

**Gusts.** With `gust_percent` above 0 that share g of epsilon comes another way, and 1 - g by the ring. Every `GUST_TIME` T = 50 a gust
blows along the jets or against them, with probability 1/2 each, independently of all else:

    U -> (1 + s sqrt(2 g epsilon T) / r) U,   s = +-1,   r^2 = mean of U^2 over y   (and U stays 0 where it is 0)

The zonal energy r^2 / 2 becomes (r + s sqrt(2 g epsilon T))^2 / 2, so that a gust gives g epsilon T on average, whatever the state.
What follows a state is then a mixture of two laws of weight 1/2, far apart where jets are strong, alike where U = 0: bimodal, with a
known truth, and the same for shifted states. They blow at the beginning of each interval, which is that of an output: times between
outputs must be whole multiples of T.

The hyperviscosity damps at rate 1 the wavenumber of the 2/3 cut, N / 3, and scales with the grid (nu = (N / 3)^-16).

Good values to start from: the defaults, a size for CPUs: 64 x 64 points, k_f = 10; the published size is 256 x 256, k_f = 16, an output
every 100. Beta from 0.3 to 2.7 in both. Runs start from rest; energy settles in some 1 / 2 mu = 1250, jets in some 1 / mu. Speeds scale as
sqrt(epsilon / mu), and the default step is made for 0.05 of that (0.2 at most anywhere): far above, take a smaller one.

Source: equation, beta, mu, epsilon and the ring: the published generator of Shokar, Kerswell and Haynes (2024), arXiv:2310.16741.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.spectral import cutoff, dealias_mask, mode_numbers
from eddycast.numerics.steppers import ifrk4
from eddycast.numerics.truncated import from_kept, kept_modes, narrowed, to_kept, widened
from eddycast.simulators.chunked import chunk_size, chunked_flow
from eddycast.simulators.protocols import (
    FieldInfo,
    Flow,
    ForcedFlow,
    ParameterInfo,
    Reduction,
    SystemInfo,
    inner_steps,
)

RING_WIDTH = 1.5
REACH = 3 * RING_WIDTH  # of the ring, to both sides
ORDER = 8  # of the hyperviscosity, a power of the Laplacian
GUST_TIME = 50.0
BLOCK = 64  # inner steps whose normal numbers are drawn at once
MIN_POINTS = 16
POINTS_PER_CHUNK = 2**16  # one stage of the step then stays within a few megabytes of cache

Kick = Callable[[Tensor, int], Tensor]
"""From kept modes (rows, *modes) and the number of an inner step to the modes with the increment of its forcing."""


@dataclass(frozen=True)
class BetaPlane:
    """Fourier-Galerkin solver for the vorticity: 2/3 dealiasing, Runge-Kutta 4 with an exact linear part, Ito increments."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="beta-plane",
        description="Beta-plane turbulence: randomly stirred eddies and waves form zonal jets that drift, merge and appear.",
        equation="zeta_t + J(psi, zeta) + beta psi_x = xi - drag zeta - nu (-lap)^8 zeta, zeta = lap psi",
        fields=(FieldInfo("vorticity", "1", "relative vorticity"),),
        parameters=(
            ParameterInfo("beta", 0.9, 0.0, 4.0, "1", "northward gradient beta of planetary vorticity"),
            ParameterInfo("drag", 4e-4, 1e-4, 0.1, "1", "rate mu of linear drag"),
            ParameterInfo("energy_input", 1e-6, 0.0, 4e-6, "1", "mean energy input epsilon per unit of area and time"),
            ParameterInfo("forcing_wavenumber", 10.0, 5.0, 64.0, "1", "centre k_f of the stirred ring", whole=True),
            ParameterInfo(
                "gust_percent", 0.0, 0.0, 90.0, "%", "share of the energy input by gusts on the jets", whole=True
            ),
        ),
        shape=(64, 64),
        dt=50.0,
        inner_dt=0.5,
        spin_up=7500.0,
        scheme="Fourier-Galerkin, vorticity, 2/3 dealiasing, Runge-Kutta 4 with integrating factor, Ito increments",
        advective=True,
        reductions={
            "zonal-mean": Reduction(
                "mean over x of the velocity along x",
                (FieldInfo("zonal_velocity", "1", "zonal mean of the zonal velocity"),),
                lambda grid: Grid(grid.axes[1:]),
                lambda state, grid: zonal_velocity(state),
            )
        },
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points 2 pi k / N along x and y.

        Raises: InputError for another dimension than 2, fewer than 16 points, a wavenumber of the forcing that is not whole, and points so
            few that the 2/3 cut would take a part of the stirred ring.
        """
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        if len(shape) != 2 or min(shape) < MIN_POINTS:
            raise InputError(
                f"{self.info.name} needs 2 axes of at least {MIN_POINTS} points, such as 64x64; got {shape}."
            )
        wavenumber = parameters[..., 3]
        if not bool((wavenumber == wavenumber.round()).all()):
            raise InputError(f"forcing_wavenumber must be a whole number, got {wavenumber.flatten()[0].item():g}.")
        highest = math.floor(wavenumber.max().item() + REACH)
        if highest > min(cutoff(points) for points in shape):
            raise InputError(
                f"{shape[0]}x{shape[1]} points do not resolve a forcing around wavenumber {wavenumber.max().item():g}: take at least "
                f"{2 * math.ceil((3 * highest + 1) / 2)} points, or a smaller forcing_wavenumber."
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
        """Rest, (*batch, 1, n_x, n_y): what is random is what follows."""
        return torch.zeros((*parameters.shape[:-1], 1, *grid.shape), dtype=dtype, device=device)

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
        """The map of (*batch, 1, n_x, n_y) over `duration` without the forcing: turbulence that decays.

        A mean vorticity, which no periodic flow has, and modes at the Nyquist frequency are dropped. Modes above the 2/3 cut see no
        nonlinear term.
        """
        num_steps = self.num_steps(duration, grid.shape, inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)
        return chunked_flow(lambda rows: _evolution(rows, grid.shape, duration, num_steps, dtype), parameters, 3, size)

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
        """Realisations over `duration`.

        Normal numbers of `BLOCK` inner steps have the key (step, first of them, "forcing"), gusts (step, 0, "gusts").

        Raises: InputError where there are gusts and `duration` is no whole multiple of `GUST_TIME`.
        """
        num_steps = self.num_steps(duration, grid.shape, inner_dt)
        parameters = parameters.to(device=device, dtype=torch.float64)
        rows = parameters.reshape(-1, parameters.shape[-1])
        if bool((rows[:, 4] > 0).any()) and _intervals(duration) is None:
            raise InputError(
                f"gust_percent above 0 needs output times and a spin-up that are whole multiples of {GUST_TIME:g}, got {duration:g}: "
                "change dt and spin_up, or leave the gusts out."
            )
        size = chunk_size(grid.num_points, device, points_per_chunk=POINTS_PER_CHUNK)
        equal = not rows.requires_grad and bool((rows == rows[0]).all())
        pieces = [
            (
                _evolution(own, grid.shape, duration, num_steps, dtype),
                _stirring(own, grid.shape, duration, num_steps, dtype),
            )
            for own in ((rows[:1],) if equal else rows.split(size))
        ]

        def forced(state: Tensor, noise: MemberNoise, step: int) -> Tensor:
            flat, addresses = state.reshape(-1, 1, *grid.shape), noise.flatten()
            results = []
            for index, start in enumerate(range(0, len(flat), size)):
                evolve, stir = pieces[0 if equal else index]
                own = slice(start, start + size)
                results.append(evolve(flat[own], stir(addresses.select(own), step)))
            return (results[0] if len(results) == 1 else torch.cat(results)).reshape(state.shape)

        return forced

    def num_steps(self, duration: float, shape: tuple[int, ...], inner_dt: float | None = None) -> int:
        """Inner steps of `duration`; as many in each of its intervals, where it is made of some."""
        largest = self.info.default_inner_dt(shape) if inner_dt is None else inner_dt
        intervals = _intervals(duration)
        return inner_steps(duration, largest) if intervals is None else intervals * inner_steps(GUST_TIME, largest)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """NaN: not measured; (*batch) float64."""
        return torch.full(parameters.shape[:-1], math.nan, dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False, (*batch): nobody measured how fast runs with the same forcing part. What makes forecasts uncertain is the forcing."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)


def zonal_velocity(vorticity: Tensor) -> Tensor:
    """Zonal mean U(y) of the zonal velocity, (*batch, 1, n_y), from vorticities (*batch, 1, n_x, n_y): dU/dy = - mean of zeta over x."""
    points = vorticity.shape[-1]
    (wave,) = mode_numbers((points,), vorticity.device)
    inside = (wave > 0) & (2 * wave < points)
    factor = torch.where(inside, 1j / wave.where(inside, 1.0), 0.0).to(vorticity.dtype.to_complex())
    return torch.fft.irfft(factor * torch.fft.rfft(vorticity.mean(dim=-2)), n=points)


def energy(vorticity: Tensor) -> Tensor:
    """Kinetic energy per unit of area, mean |grad psi|^2 / 2, of vorticities (*batch, 1, n_x, n_y): (*batch), float64."""
    shape = (vorticity.shape[-2], vorticity.shape[-1])
    kx, ky = mode_numbers(shape, vorticity.device)
    squared = kx**2 + ky**2
    twice = torch.where((ky > 0) & (2 * ky < shape[1]), 2.0, 1.0)  # the half spectrum stands for the whole one
    power = torch.fft.rfft2(vorticity[..., 0, :, :].double(), norm="forward").abs().square()
    return 0.5 * (twice * power * _inverse(squared)).sum(dim=(-2, -1))


def zonostrophy(parameters: Tensor, energy: Tensor) -> Tensor:
    """R_beta = U^{1/2} beta^{1/10} / (2^{1/2} epsilon^{1/5}), U^2 = 2 E: above about 2.5 jets are strong and steady; (*batch).

    Epsilon is that of the forcing, of which not all goes to large scales. Source: Galperin et al. (2010).
    """
    beta, _, rate, _, _ = parameters.double().unbind(-1)
    return (2 * energy.double()) ** 0.25 * beta**0.1 / (2**0.5 * rate**0.2)


def ring_modes(wavenumber: int) -> tuple[Tensor, Tensor]:
    """The stirred modes: (2, mode) numbers k_x, k_y, one of each opposite pair, and their power S_k for epsilon = 1, (mode,) float64.

    zeta_k gets increments of variance S_k dt, and the sum over both of each pair of S_k / (2 |k|^2) is 1.
    """
    reach = math.floor(wavenumber + REACH)
    every = torch.arange(-reach, reach + 1)
    kx, ky = (part.flatten() for part in torch.meshgrid(every, every[reach:], indexing="ij"))
    length = (kx**2 + ky**2).double().sqrt()
    wanted = ((length - wavenumber).abs() <= REACH) & (length > 0) & ((ky > 0) | (kx > 0))
    kx, ky, length = kx[wanted], ky[wanted], length[wanted]
    power = torch.exp(-((length - wavenumber) ** 2) / (2 * RING_WIDTH**2))
    return torch.stack([kx, ky]), power / (power / length**2).sum()


def _accelerated(v: Tensor, gust: Tensor) -> Tensor:
    """Kept modes (rows, k_y, k_x) with the zonal velocity U, root mean square r, changed to (1 + gust / r) U; (rows,) gusts."""
    zonal = v[..., 0]
    wave = torch.arange(v.shape[-2], dtype=gust.dtype, device=v.device).clamp(min=1)  # mode 0 is zero
    speed = (2 * (zonal.abs() / wave).square().sum(dim=-1, keepdim=True)).sqrt()
    factor = 1 + torch.where(speed > 0, gust[:, None] / speed.where(speed > 0, 1.0), 0.0)
    return torch.cat([(factor * zonal)[..., None], v[..., 1:]], dim=-1)


def _intervals(duration: float) -> int | None:
    """Number of intervals of `GUST_TIME` in `duration`; None where it is not whole."""
    count = round(duration / GUST_TIME)
    return count if count >= 1 and abs(duration - count * GUST_TIME) <= 1e-5 * GUST_TIME else None


def _inverse(squared: Tensor) -> Tensor:
    """1 / |k|^2, 0 for mode 0."""
    return torch.where(squared > 0, 1 / squared.where(squared > 0, 1.0), 0.0)


def _rates(parameters: Tensor, kx: Tensor, ky: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Diagonal of the linear part, -mu - (3 |k| / N)^16 + i beta k_x / |k|^2, (rows, *modes), complex128."""
    beta, drag = (value[:, None, None] for value in parameters.unbind(-1)[:2])
    squared = kx**2 + ky**2
    damping = drag + (squared / (min(shape) / 3) ** 2) ** ORDER
    return torch.complex(-damping, beta * (kx * _inverse(squared)))


def _evolution(
    parameters: Tensor, shape: tuple[int, ...], duration: float, num_steps: int, dtype: torch.dtype
) -> Callable[..., Tensor]:
    """Map of (..., rows, 1, n_x, n_y), for parameters (rows, P), and an optional `Kick` to the states after `duration`."""
    device, target = parameters.device, dtype.to_complex()
    (kx, ky), kept = kept_modes(shape, device)
    squared = kx**2 + ky**2
    kept = kept & (squared > 0)
    to_velocity = (torch.stack([1j * ky * _inverse(squared), -1j * kx * _inverse(squared)]) * kept).to(target)
    # Tendency of the vorticity: (d_yy - d_xx)(u v) + d_xy (u^2 - v^2), from div(u u) and div u = 0: four transforms, not five.
    of_difference, of_product = ((part * kept).to(target) for part in (-kx * ky, kx**2 - ky**2))

    def nonlinear(v: Tensor) -> Tensor:
        velocity = from_kept(v[..., None, :, :] * to_velocity, shape)
        products = velocity[..., :1, :, :] * velocity  # u^2, u v
        products.select(-3, 0).addcmul_(velocity.select(-3, 1), velocity.select(-3, 1), value=-1)
        difference, product = to_kept(products, 2).unbind(-3)
        return torch.addcmul(difference * of_difference, product, of_product)

    step = ifrk4(_rates(parameters, kx, ky, shape), nonlinear, duration / num_steps, dtype=dtype)

    mx, my = mode_numbers(shape, device)
    beyond = ~dealias_mask(shape, device=device) & (2 * mx.abs() < shape[0]) & (2 * my < shape[1])
    decay = (torch.exp(duration * _rates(parameters, mx, my, shape)) * beyond).to(target)

    def evolve(state: Tensor, kick: Kick | None = None) -> Tensor:
        spectrum = torch.fft.rfft2(state[..., 0, :, :], norm="forward")
        v = (narrowed(spectrum, shape) * kept).contiguous()
        for index in range(num_steps):
            v = step(v if kick is None else kick(v, index))
        spectrum = decay * spectrum + widened(v, shape)
        return torch.fft.irfft2(spectrum, s=shape, norm="forward")[..., None, :, :]

    return evolve


def _stirring(
    parameters: Tensor, shape: tuple[int, ...], duration: float, num_steps: int, dtype: torch.dtype
) -> Callable[[MemberNoise, int], Kick]:
    """From the addresses of rows and the number of a step to its kicks, for parameters (rows, P), or (1, P) for any rows."""
    device = parameters.device
    _, _, rate, wavenumber, percent = parameters.unbind(-1)
    by_gusts = percent / 100
    groups: list[tuple[Tensor | slice, Tensor, Tensor]] = []  # rows of one wavenumber, its axis (k_y = 0), amplitude
    places: list[Tensor] = []
    for value in wavenumber.detach().unique().tolist():
        (kx, ky), power = ring_modes(round(value))
        own = slice(None) if len(parameters) == 1 else (wavenumber == value).nonzero()[:, 0].cpu()
        flat = (ky == 0).nonzero()[:, 0]  # the partners of these are among the stored modes as well
        amplitude = (duration / num_steps * ((1 - by_gusts) * rate)[own, None] * power.to(device) / 2).sqrt().to(dtype)
        groups.append((own, flat, amplitude[:, None]))
        places += [ky * shape[0] + kx % shape[0], -kx[flat] % shape[0]]  # in (k_y, k_x), flattened
    positions = torch.cat(places).to(device)
    gusty = bool((percent > 0).any())
    gust = (2 * by_gusts * rate * GUST_TIME).sqrt()[:, None].to(dtype)
    per_interval = num_steps // (_intervals(duration) or 1)

    def stir(noise: MemberNoise, step: int) -> Kick:
        gusts: Tensor | None = None  # (row, interval)
        if gusty:
            uniform = noise.uniform((num_steps // per_interval,), key=(step, 0, "gusts"), dtype=dtype, device=device)
            gusts = gust * torch.where(uniform < 0.5, -1.0, 1.0)

        def increments(first: int) -> Tensor:
            """Those of a block of inner steps, (inner step, row, place)."""
            count, parts = min(BLOCK, num_steps - first), []
            for own, flat, amplitude in groups:
                numbers = noise.select(own).draw(
                    (count, 2, amplitude.shape[-1]), key=(step, first, "forcing"), dtype=dtype, device=device
                )
                drawn = torch.complex(numbers[..., 0, :] * amplitude, numbers[..., 1, :] * amplitude)
                part = torch.cat([drawn, drawn[..., flat].conj()], dim=-1)
                whole = part.new_zeros((len(noise.cases), *part.shape[1:]))
                whole[own] = part
                parts.append(whole)
            return torch.cat(parts, dim=-1).movedim(1, 0).contiguous()

        block: list[Tensor] = []

        def kick(v: Tensor, index: int) -> Tensor:
            if index % BLOCK == 0:
                block[:] = [increments(index)]
            if gusts is not None and index % per_interval == 0:
                v = _accelerated(v, gusts[:, index // per_interval])
            return v.flatten(-2).index_add(-1, positions, block[0][index % BLOCK]).view(v.shape)

        return kick

    return stir
