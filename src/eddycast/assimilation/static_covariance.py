"""Errors of a background that are the same at all times: B, a share of the climatological covariance, and states to start from.

Sampled from a few dozen states a covariance matrix has a low rank and spurious far correlations. Here it is taken as homogeneous in units
of the standard deviation s at each point, so that wavenumbers k do not know each other, and each has one small matrix of the channels:

    B = s' F^-1 S(k) F s',    S(k) = mean over states of z(k) z(k)^H,    z = F (x - mean) / s,

F the Fourier transform along periodic axes and the cosine transform (even about the ends) along bounded ones. It has full rank by a floor
on the eigenvalues of S, and the variance s^2 of the states at every point: s' is s over the deviation that F^-1 S F has there, 1 but near
walls and for the floor. On a grid of one point it is the sample covariance of the fields.
Source: Gaspari and Cohn (1999), doi:10.1002/qj.49712555417, section 3;
Derber and Bouttier (1999), doi:10.1034/j.1600-0870.1999.t01-2-00003.x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from eddycast.assimilation.interpolation import GaussianPrior, climate, correlation, square_root
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise

FLOOR = 1e-6
"""Least eigenvalue of S, relative to the largest one of all wavenumbers."""


class StaticCovariance(Protocol):
    """A covariance B of states (*batch, time, channel, *space) with its symmetric or other square root."""

    def covariance(self, v: Tensor) -> Tensor:
        """B v."""
        ...

    def draw(self, noise: Tensor) -> Tensor:
        """B^1/2 applied to normal numbers of the shape of the states: deviations of the covariance B."""
        ...


@dataclass(frozen=True, eq=False)
class SpectralCovariance:
    """B of the module docstring.

    Args:
        std: s', (channel, *space); 0 where nothing is defined.
        roots: S(k)^1/2, Hermitian, (channel, channel, *wavenumbers).
        time: Symmetric root of the correlations between the frames of a state, (time, time).
        periodic: Which axes of space are periodic.
    """

    std: Tensor
    roots: Tensor
    time: Tensor
    periodic: tuple[bool, ...]

    def covariance(self, v: Tensor) -> Tensor:
        return self.std * self._root(self._root(self.std * v))

    def draw(self, noise: Tensor) -> Tensor:
        return self.std * self._root(noise)

    def _root(self, v: Tensor) -> Tensor:
        space = "xyz"[: len(self.periodic)]
        mixed = torch.einsum(
            f"cd{space},...d{space}->...c{space}", self.roots, spectrum(v, self.periodic).to(self.roots)
        )
        axis = -len(self.periodic) - 2
        v = from_spectrum(mixed, self.periodic)
        return v if len(self.time) == 1 else (v.movedim(axis, -1) @ self.time).movedim(-1, axis)


def spectrum(v: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Orthonormal transform along the last len(periodic) axes: Fourier where periodic (complex then), cosine where not."""
    waves = [axis - len(periodic) for axis, wraps in enumerate(periodic) if wraps]
    for axis, wraps in enumerate(periodic, -len(periodic)):
        if not wraps and v.shape[axis] > 1:
            v = (v.movedim(axis, -1) @ cosines(v.shape[axis]).to(v).mT).movedim(-1, axis)
    return torch.fft.fftn(v, dim=waves, norm="ortho") if waves else v


def from_spectrum(z: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Inverse of `spectrum`, real."""
    waves = [axis - len(periodic) for axis, wraps in enumerate(periodic) if wraps]
    v = torch.fft.ifftn(z, dim=waves, norm="ortho").real if waves else z
    for axis, wraps in enumerate(periodic, -len(periodic)):
        if not wraps and v.shape[axis] > 1:
            v = (v.movedim(axis, -1) @ cosines(v.shape[axis]).to(v)).movedim(-1, axis)
    return v


def cosines(points: int) -> Tensor:
    """Orthonormal cosine transform of the second kind, (wavenumber, point), float64."""
    place = torch.arange(points, dtype=torch.float64)
    rows = torch.cos(math.pi / points * (place + 0.5) * place[:, None]) * math.sqrt(2 / points)
    rows[0] /= math.sqrt(2)
    return rows


def spectral_covariance(states: Tensor, grid: Grid, valid: Tensor | None = None) -> SpectralCovariance:
    """B from a climatological sample, float64.

    Args:
        states: (member, case, time, channel, *space); members and cases are the sample, and the frames of a state go together.
        grid: Of the states.
        valid: True where the fields are defined, (*space). Coasts spoil the spectra: with land, prefer lengths (`static_prior`).

    Raises: InputError for fewer than 2 states.
    """
    sample = states.double().flatten(0, 1)
    if len(sample) < 2:
        raise InputError(
            f"A climatological covariance needs 2 states at least, 30 to 100 are usual; got {len(sample)}."
        )
    mean, std = climate(states, valid)
    z = torch.where(std > 0, (sample - mean) / std.clamp(min=1e-300), torch.zeros_like(mean))
    frames = z.transpose(0, 1).flatten(1)
    time = frames @ frames.mT
    scale = time.diagonal().clamp(min=1e-300).rsqrt()
    waves = spectrum(z, grid.periodic).flatten(0, 1)  # (sample, channel, *wavenumbers)
    space = "xyz"[: len(grid.axes)]
    count = len(waves) - 1  # as in the standard deviation
    products = torch.einsum(f"nc{space},nd{space}->{space}cd", waves, waves.conj()) / count
    values, vectors = torch.linalg.eigh(products)
    values = values.clamp(min=FLOOR * values.max().item())
    roots = ((vectors * values.sqrt()[..., None, :]) @ vectors.mH).movedim((-2, -1), (0, 1)).contiguous()
    variance = diagonal(roots.abs().square().sum(dim=1), grid.periodic)
    return SpectralCovariance(std / variance.sqrt(), roots, square_root(scale[:, None] * time * scale), grid.periodic)


def diagonal(power: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Variance at each point (channel, *space) of the power at each wavenumber (channel, *wavenumbers): more near walls than between."""
    for axis, wraps in enumerate(periodic, -len(periodic)):
        if wraps:
            power = power.mean(dim=axis, keepdim=True).expand(power.shape)
        elif power.shape[axis] > 1:
            power = (power.movedim(axis, -1) @ cosines(power.shape[axis]).to(power).square()).movedim(-1, axis)
    return power


def static_prior(
    states: Tensor, grid: Grid, valid: Tensor | None, lengths: Sequence[float] | None
) -> SpectralCovariance | GaussianPrior:
    """The climatological covariance of a sample: spectral, or with Gaussian correlations over `lengths` as `interpolation` has them.

    With lengths (one per axis of space, in the unit of its coordinates) channels and the frames of a state do not know each other.
    Raises: InputError for lengths that do not fit the grid.
    """
    if lengths is None:
        return spectral_covariance(states, grid, valid)
    if len(lengths) != len(grid.axes) or min(lengths) <= 0:
        raise InputError(f"lengths must be positive, one per space axis ({len(grid.axes)}), got {tuple(lengths)}.")
    mean, std = climate(states, valid)
    time = torch.eye(states.shape[2], dtype=torch.float64)
    return GaussianPrior(mean, std, (time, *map(correlation, grid.axes, lengths)))


def scaled(prior: SpectralCovariance | GaussianPrior, variance: float) -> SpectralCovariance | GaussianPrior:
    """`variance` times a covariance."""
    return replace(prior, std=math.sqrt(variance) * prior.std)


@dataclass(frozen=True, eq=False)
class Background:
    """What is known before observations: states x_b whose errors have the covariance B.

    Args:
        states: x_b of each member, (member, case, context, channel, *space), float64, 0 where nothing is defined.
        draws: The standard normal numbers e of which each x_b is mean + B^1/2 e; 0 where members come from an earlier analysis.
    """

    states: Tensor
    draws: Tensor


def background_of(
    given: Tensor | None,
    covariance: StaticCovariance,
    valid: Tensor | None,
    *,
    noise: MemberNoise,
    context: int,
    continued: bool,
) -> Background:
    """Background of a first analysis, or of one that goes on.

    A first one starts from the mean of the states that are given, and its members differ by draws from B, shifted to mean 0 and
    stretched to keep their variance; a single member is the mean. A continued one starts from the members of the analysis before.

    Args:
        given: (member, case, time, channel, *space): states before the observations, such as climatological ones.
        covariance: B.
        noise: Addresses (member, case).

    Raises: InputError when states are missing, or too few.
    """
    if given is None:
        raise InputError("This method starts from states: pass a background (climatology, or a forecast).")
    members, cases = noise.batch
    least = members if continued else 1
    if given.shape[0] < least or given.shape[1] != cases or given.shape[2] < context:
        raise InputError(
            f"The background has {given.shape[0]} members, {given.shape[1]} cases and {given.shape[2]} states; "
            f"{least}, {cases} and {context} are needed."
        )
    known = given[:, :, given.shape[2] - context :].double()
    if valid is not None:
        known = torch.where(valid.to(known.device), known, torch.zeros((), dtype=known.dtype, device=known.device))
    if continued:
        return Background(known[:members], torch.zeros_like(known[:members]))
    mean = known.mean(dim=0).expand(members, *known.shape[1:])
    draws = torch.zeros_like(mean)
    if members > 1:
        draws = noise.draw(tuple(mean.shape[2:]), key=(0, 0, "background"), dtype=torch.float64, device=mean.device)
        draws = (draws - draws.mean(dim=0)) * math.sqrt(members / (members - 1))
    return Background(mean + covariance.draw(draws), draws)


def climatological_prior(
    climatology: Tensor | None,
    background: Tensor | None,
    grid: Grid,
    valid: Tensor | None,
    *,
    context: int,
    continued: bool,
    lengths: Sequence[float] | None,
) -> SpectralCovariance | GaussianPrior:
    """The climatological covariance of a method: of `climatology`, or else of the states from which a first analysis starts.

    Raises: InputError when there are no such states, or they are too short for the context.
    """
    sample = climatology
    if sample is None:
        if background is None:
            raise InputError("This method starts from states: pass a background (climatology, or a forecast).")
        if continued:
            raise InputError("An analysis that goes on needs climatological states: set climatology in the options.")
        sample = background
    if sample.shape[2] < context:
        raise InputError(f"Climatological states of {context} frames are needed, these have {sample.shape[2]}.")
    return static_prior(sample[:, :, sample.shape[2] - context :], grid, valid, lengths)
