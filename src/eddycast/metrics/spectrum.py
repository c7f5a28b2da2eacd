"""Power spectra over shells of physical wavenumber, and how far two of them are apart.

Periodic axes use the Fourier transform. Bounded axes use the orthonormal DCT-II, the transform of the even reflection:
no window is needed, no power is lost, and a trend does not leak as it would under a periodic transform. Its modes are
half waves, k = pi m / L. Non-uniform axes (Chebyshev, latitude) are transformed by index, with k from the mean spacing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.grid import Axis, Grid
from eddycast.metrics.field import weighted_mean

NEARLY_EMPTY = 1e-6  # of the peak power: modes below hold nothing that a data set resolves


@dataclass(frozen=True)
class Shells:
    """Which shell of |k| each mode of a grid belongs to; made by `shells`.

    Args:
        wavenumber: Mean |k| of the modes in each shell, radians per unit length, (shell,); the first is 0, the mean.
        index: Shell of each mode, flattened.
        multiplicity: How often each mode counts (2 where the conjugate half is not stored), flattened.
        nyquist: Smallest over the axes of the largest |k| along one axis; shells beyond are corners.
        periodic: Per axis, as in the grid.
    """

    wavenumber: Tensor
    index: Tensor
    multiplicity: Tensor
    nyquist: float
    periodic: tuple[bool, ...]


def shells(grid: Grid) -> Shells:
    """Shells of width dk = the smallest non-zero wavenumber of any axis: |k| / dk rounded; the mean stands alone.

    In 1-D a shell is a mode. Grids need not be square: wavenumbers are physical, and shells without a mode are left
    out. Raises: ValueError for a grid of a single point.
    """
    long_axes = [axis for axis in grid.axes if axis.size > 1]
    if not long_axes:
        raise ValueError(f"A spectrum needs an axis with more than one point, the grid has {grid.shape}.")
    half = max((i for i, axis in enumerate(grid.axes) if axis.periodic), default=-1)
    squared = torch.zeros((), dtype=torch.float64)
    count = torch.ones((), dtype=torch.float64)
    for i, axis in enumerate(grid.axes):
        modes, times = _modes(axis, half=i == half)
        squared = squared[..., None] + (modes * _fundamental(axis)).square()
        count = count[..., None] * times
    wavenumber = squared.sqrt().flatten()
    width = min(_fundamental(axis) for axis in long_axes)
    _, index = torch.unique((wavenumber / width).round().long(), return_inverse=True)
    number = int(index.max()) + 1
    multiplicity = count.flatten()
    total = torch.zeros(number, dtype=torch.float64).index_add(0, index, multiplicity)
    mean = torch.zeros(number, dtype=torch.float64).index_add(0, index, multiplicity * wavenumber) / total
    nyquist = min(_fundamental(axis) * (axis.size // 2 if axis.periodic else axis.size - 1) for axis in long_axes)
    return Shells(mean, index, multiplicity, nyquist, grid.periodic)


def power_spectrum(field: Tensor, shells: Shells, weights: Tensor | None = None) -> Tensor:
    """Power in each shell; sums to the mean square of the field (Parseval).

    Args:
        field: (*batch, *space) on the grid of `shells`.
        shells: From `shells(grid)`.
        weights: (*space); points of weight zero (land) are filled with the mean of the others, in forecast and truth
            alike, so that spectra stay comparable (they then describe the filled field). Positive weights are not used
            by the transform.

    Returns: (*batch, shell), squared units of the field. A sine of amplitude a has a^2 / 2 in its shell.
    """
    space = len(shells.periodic)
    if weights is not None and bool((weights == 0).any()):
        mean = weighted_mean(field, weights)[(...,) + (None,) * space]
        field = torch.where(weights.to(field.device) > 0, field, mean)
    modes = field
    for i, periodic in enumerate(shells.periodic):
        if not periodic:
            modes = _cosine_transform(modes, i - space)
    waves = tuple(i - space for i, periodic in enumerate(shells.periodic) if periodic)
    if waves:
        modes = torch.fft.rfftn(modes, dim=waves, norm="ortho")
    points = math.prod(field.shape[field.ndim - space :])
    power = modes.abs().square().flatten(start_dim=field.ndim - space) / points
    power = power * shells.multiplicity.to(power)
    out = power.new_zeros(*power.shape[:-1], len(shells.wavenumber))
    return out.index_add(-1, shells.index.to(power.device), power)


def bands(shells: Shells) -> dict[str, Tensor]:
    """Masks (shell,) of `low`, `mid` and `high`: equal widths in log |k| from the first shell to the Nyquist sphere.

    They share no shell and leave out only the mean and the corners.
    Source: arXiv:2507.02608, there in cycles per point.
    """
    k = shells.wavenumber
    first, last = math.log(float(k[1])), math.log(shells.nyquist)
    edges = [math.exp(first + (last - first) * i / 3) for i in range(4)]
    edges[0], edges[-1] = edges[0] * (1 - 1e-9), edges[-1] * (1 + 1e-9)
    names = ("low", "mid", "high")
    return {name: (k > a) & (k <= b) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}


@dataclass(frozen=True)
class SpectralError:
    """log10 of forecast over truth power across some modes: signed mean, mean size, largest size, number of modes."""

    bias: float
    mean: float
    largest: float
    modes: int


def spectral_errors(
    forecast: Tensor, truth: Tensor, bands: Mapping[str, Tensor], *, floor: float = NEARLY_EMPTY
) -> dict[str, SpectralError]:
    """log10 error of a spectrum, by band and, under `all`, over every mode above `floor` of the peak.

    Args:
        forecast: Power (shell,), averaged over members and cases first: a mean of ratios is ruled by near-zero powers.
        truth: Power (shell,), averaged likewise.
        bands: Masks (shell,) by name.
        floor: Modes where truth has less than this part of its peak power are left out, in each band too; the mean
            (first shell) is neither peak nor mode.

    Returns: one error per band; NaN with `modes=0` where no mode is left. An empty forecast mode counts as 1e-12 of
        the peak, so the error stays finite.
    """
    forecast, truth = forecast.to(torch.float64), truth.to(torch.float64)
    waves = torch.ones_like(truth, dtype=torch.bool)
    waves[0] = False
    peak = truth[waves].max()
    kept = waves & (truth > floor * peak)
    difference = forecast.clamp(min=1e-12 * float(peak)).log10() - truth.log10()
    errors = {}
    for name, band in {**bands, "all": waves}.items():
        chosen = difference[kept & band.to(kept.device)]
        if len(chosen) == 0:
            errors[name] = SpectralError(math.nan, math.nan, math.nan, 0)
        else:
            size = chosen.abs()
            errors[name] = SpectralError(float(chosen.mean()), float(size.mean()), float(size.max()), len(chosen))
    return errors


def excess_in_empty_modes(forecast: Tensor, truth: Tensor, *, floor: float = NEARLY_EMPTY) -> float:
    """Largest forecast power, as a part of the truth's peak, among modes that hold less than `floor` of it in truth.

    Such modes feed the blow-up of long rollouts long before any error shows. Zero where truth fills every mode.
    """
    peak = truth[1:].max()
    empty = truth[1:] <= floor * peak
    return float((forecast[1:][empty] / peak).max()) if bool(empty.any()) else 0.0


def _fundamental(axis: Axis) -> float:
    """Wavenumber of mode one: 2 pi / period, or pi / L with L the number of points times their mean spacing."""
    if axis.size == 1:
        return 0.0
    if axis.periodic:
        assert axis.period is not None
        return 2 * math.pi / abs(axis.period)
    spacing = abs(axis.coordinates[-1] - axis.coordinates[0]) / (axis.size - 1)
    return math.pi / (spacing * axis.size)


def _modes(axis: Axis, *, half: bool) -> tuple[Tensor, Tensor]:
    """Mode numbers of one axis as the transform orders them, and how often each counts."""
    size = axis.size
    if not axis.periodic:
        modes = torch.arange(size, dtype=torch.float64)
        return modes, torch.ones_like(modes)
    if not half:
        modes = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
        return modes, torch.ones_like(modes)
    modes = torch.arange(size // 2 + 1, dtype=torch.float64)
    alone = (modes == 0) | (2 * modes == size)
    return modes, torch.where(alone, 1.0, 2.0).to(torch.float64)


def _cosine_transform(values: Tensor, dim: int) -> Tensor:
    """Orthonormal DCT-II along `dim`, by one FFT of the points in the order 0, 2, 4, ..., 5, 3, 1 (Makhoul, 1980)."""
    values = values.movedim(dim, -1)
    size = values.shape[-1]
    folded = torch.cat([values[..., ::2], values[..., 1::2].flip(-1)], dim=-1)
    angle = torch.arange(size, dtype=values.dtype, device=values.device) * (-math.pi / (2 * size))
    modes = torch.fft.fft(folded, norm="ortho")
    cosine = modes.real * torch.cos(angle) - modes.imag * torch.sin(angle)
    scale = torch.full_like(angle, math.sqrt(2.0))
    scale[0] = 1.0
    return (cosine * scale).movedim(-1, dim)
