"""Incompressible velocity fields on periodic boxes, in two and three dimensions.

Velocities are (*batch, D, *space) with D = 2 or 3 components along the D axes of space, in the order of the axes; all
derivatives are spectral, hence exact for resolved fields. `lengths` are the periods of the axes. Modes at the Nyquist
frequency of an even axis have no odd derivative on the grid: they do not enter a divergence or a vorticity, and the
functions that build velocities leave them out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.numerics.spectral import derivative, wavenumbers


def divergence(velocity: Tensor, lengths: Sequence[float]) -> Tensor:
    """div u = sum_d du_d / dx_d, (*batch, *space)."""
    dims = _dimensions(velocity, lengths)
    parts = [_slope(velocity.select(-dims - 1, axis), lengths, axis) for axis in range(dims)]
    return torch.stack(parts).sum(dim=0)


def vorticity(velocity: Tensor, lengths: Sequence[float]) -> Tensor:
    """Curl of the velocity: (*batch, 1, *space) with dv/dx - du/dy in 2-D, (*batch, 3, *space) in 3-D.

    Positive is anticlockwise when x points right and y up.
    """
    dims = _dimensions(velocity, lengths)
    parts = [velocity.select(-dims - 1, axis) for axis in range(dims)]
    pairs = [(0, 1)] if dims == 2 else [(1, 2), (2, 0), (0, 1)]
    curl = [_slope(parts[b], lengths, a) - _slope(parts[a], lengths, b) for a, b in pairs]
    return torch.stack(curl, dim=-dims - 1)


def velocity_from_vorticity(curl: Tensor, lengths: Sequence[float]) -> Tensor:
    """The divergence-free velocity of mean zero with this vorticity (Biot and Savart), (*batch, D, *space).

        u = -curl(Laplace^-1 w),   in 2-D  u = (-dpsi/dy, dpsi/dx),  Laplace psi = w

    Args:
        curl: (*batch, 1, *space) in 2-D, (*batch, 3, *space) in 3-D; its mean does not count, and in 3-D neither does
            a part with divergence.
    """
    dims = len(lengths)
    if curl.shape[-dims - 1] != (1 if dims == 2 else 3):
        raise ValueError(f"A vorticity in {dims}-D has {1 if dims == 2 else 3} components, got {tuple(curl.shape)}.")
    spectrum, waves, inverse = _spectrum(curl, lengths)
    potential = [inverse * spectrum.select(-dims - 1, index) for index in range(curl.shape[-dims - 1])]
    if dims == 2:
        parts = [1j * waves[1] * potential[0], -1j * waves[0] * potential[0]]
    else:
        pairs = ((1, 2), (2, 0), (0, 1))
        parts = [1j * (waves[a] * potential[b] - waves[b] * potential[a]) for a, b in pairs]
    return _field(torch.stack(parts, dim=-dims - 1), curl, dims)


def leray_projection(velocity: Tensor, lengths: Sequence[float]) -> Tensor:
    """The divergence-free part of the velocity, mean included, shape of `velocity`.

        (P u)_k = u_k - k (k . u_k) / |k|^2

    An orthogonal projection: what is removed is a gradient (and modes at the Nyquist frequency).
    """
    dims = _dimensions(velocity, lengths)
    spectrum, waves, inverse = _spectrum(velocity, lengths)
    parts = spectrum.unbind(-dims - 1)
    along = inverse * sum(wave * part for wave, part in zip(waves, parts, strict=True))
    solenoidal = [part - wave * along for wave, part in zip(waves, parts, strict=True)]
    return _field(torch.stack(solenoidal, dim=-dims - 1), velocity, dims)


def energy(velocity: Tensor, dims: int) -> Tensor:
    """Kinetic energy per mass, the mean of |u|^2 / 2 over the box, (*batch), for `dims` axes of space."""
    return (velocity**2).mean(dim=tuple(range(-dims, 0))).sum(dim=-1) / 2


def enstrophy(velocity: Tensor, lengths: Sequence[float]) -> Tensor:
    """Mean of |curl u|^2 / 2 over the box, (*batch); viscosity takes 2 nu times it from the energy per time."""
    return energy(vorticity(velocity, lengths), len(lengths))


def helicity(velocity: Tensor, lengths: Sequence[float]) -> Tensor:
    """Mean of u . curl u over the box, (*batch), in 3-D: the second invariant without viscosity."""
    if len(lengths) != 3:
        raise ValueError(f"Helicity is a quantity of 3-D flows, got {len(lengths)} lengths.")
    return (velocity * vorticity(velocity, lengths)).mean(dim=(-3, -2, -1)).sum(dim=-1)


def random_velocity(
    noise: MemberNoise,
    shape: Sequence[int],
    *,
    max_mode: int,
    slope: float = 0.0,
    key: tuple[int, int, str] = (0, 0, "initial"),
) -> Tensor:
    """Smooth random divergence-free velocities on a box of side 2 pi, (*batch, D, *shape), float64.

    All modes 0 < |m| <= max_mode of every component have independent normal coefficients of one variance, are
    projected, and each field is scaled to a mean square speed of 1 (energy 1/2), so that speeds reach about 3. The
    coefficients do not depend on the grid: the same field at every resolution.

    Args:
        noise: Addresses, (*batch,).
        shape: Points of each axis, more than 2 max_mode each.
        max_mode: Largest mode number.
        slope: Power of a mode falls as |m|^-slope; 0 gives all of them the same.
        key: Address of the draw.
    """
    dims = len(shape)
    if min(shape) <= 2 * max_mode:
        raise ValueError(f"Modes up to {max_mode} need more than {2 * max_mode} points, got {tuple(shape)}.")
    # One of each pair of opposite modes: the first that is not zero, counted from the last axis, is positive.
    box = itertools.product(range(-max_mode, max_mode + 1), repeat=dims)
    modes = [m for m in box if 0 < math.hypot(*m) <= max_mode and next(x for x in reversed(m) if x) > 0]
    numbers = noise.draw((2, dims, len(modes)), key=key, dtype=torch.float64)
    wave = torch.tensor(modes, dtype=torch.float64)  # (mode, D)
    coefficients = torch.complex(numbers[..., 0, :, :], numbers[..., 1, :, :])  # (*batch, D, mode)
    radial = torch.einsum("...dm,md->...m", coefficients, wave.to(coefficients)) / (wave**2).sum(dim=-1)
    coefficients = coefficients - wave.T * radial[..., None, :]
    if slope != 0:
        coefficients = coefficients * wave.norm(dim=-1) ** (-slope / 2)
    # A field sum (c e^{imx} + conj) has mean square 2 |c|^2.
    coefficients = coefficients / (2 * (coefficients.abs() ** 2).sum(dim=(-2, -1), keepdim=True)).sqrt()
    spectrum = torch.zeros((*noise.batch, dims, *shape[:-1], shape[-1] // 2 + 1), dtype=torch.complex128)
    for index, mode in enumerate(modes):
        spectrum[(..., *mode)] = coefficients[..., index]
        if mode[-1] == 0:  # its partner is in the half spectrum as well
            spectrum[(..., *(-m for m in mode))] = coefficients[..., index].conj()
    return torch.fft.irfftn(spectrum, s=tuple(shape), dim=tuple(range(-dims, 0)), norm="forward")


def _slope(field: Tensor, lengths: Sequence[float], axis: int) -> Tensor:
    return derivative(field, lengths, [int(other == axis) for other in range(len(lengths))])


def _dimensions(velocity: Tensor, lengths: Sequence[float]) -> int:
    dims = len(lengths)
    if dims not in (2, 3) or velocity.ndim <= dims or velocity.shape[-dims - 1] != dims:
        raise ValueError(f"A velocity in {dims}-D is (*batch, {dims}, *space) with 2 or 3 axes; got {velocity.shape}.")
    return dims


def _spectrum(field: Tensor, lengths: Sequence[float]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Spectrum without Nyquist modes, wavenumbers, and 1 / |k|^2 (0 for the mean), in the precision of the field."""
    dims = len(lengths)
    shape = field.shape[-dims:]
    spectrum = torch.fft.rfftn(field, dim=tuple(range(-dims, 0)))
    waves, squared = list(wavenumbers(shape, lengths, field.device)), torch.zeros((), device=field.device)
    for wave, points, length in zip(waves, shape, lengths, strict=True):
        spectrum = spectrum * (wave.abs() * (length / math.pi) < points - 0.5)
        squared = squared + wave**2
    inverse = torch.where(squared == 0, 0.0, 1 / squared.where(squared != 0, 1.0))
    return spectrum, [wave.to(field.dtype) for wave in waves], inverse.to(field.dtype)


def _field(spectrum: Tensor, like: Tensor, dims: int) -> Tensor:
    return torch.fft.irfftn(spectrum, s=like.shape[-dims:], dim=tuple(range(-dims, 0)))
