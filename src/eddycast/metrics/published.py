"""Scores exactly as published for latent diffusion (arXiv:2507.02608), where ours differ: conventions of a paper, kept apart.

Every point counts alike (no quadrature weights), all axes are taken for periodic, frequencies are in cycles per point, and
numbers are of one frame and then averaged: means of ratios, where ours are ratios of means. Floors (1e-6, 1e-3) are in the
units of the field, so these scores do depend on units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from eddycast.metrics.ensemble import check_members, corrected_variance
from eddycast.metrics.field import mse, vrmse, weighted_mean
from eddycast.metrics.score import Score

VARIANCE_FLOOR = 1e-6
POWER_FLOOR = 1e-6
SPREAD_FLOOR = 1e-3
BANDS = ("low", "mid", "high")
RESOLVED = 0.5  # cycles per point: beyond lie the corners of the spectrum
ROUNDING = 1e-9  # of a bin: frequencies on an edge belong below it, whatever the last digit says


@dataclass(frozen=True)
class IsotropicBins:
    """Bins of |k| in cycles per point; made by `isotropic_bins`.

    Args:
        frequency: Upper edge of each bin, (bin,). The mean of the field (|k| = 0) is in none.
        count: Modes of the full transform in each bin, (bin,).
        index: Bin of each stored mode counted from 1, 0 for the mean, flattened.
        multiplicity: How often each stored mode counts (2 where its conjugate is not stored), flattened.
    """

    frequency: Tensor
    count: Tensor
    index: Tensor
    multiplicity: Tensor


@lru_cache(maxsize=16)
def isotropic_bins(shape: tuple[int, ...]) -> IsotropicBins:
    """floor(sqrt(d) min(N_i) / 2) even bins up to the largest |k|, each closed on the right; d axes of more than one point.

    Bins may be empty where a side has an odd number of points.

    Args:
        shape: Points per axis.

    Raises: ValueError for a single point.
    """
    sizes = [size for size in shape if size > 1]
    if not sizes:
        raise ValueError(f"A spectrum needs an axis with more than one point, the grid has {shape}.")
    number = math.floor(math.sqrt(len(sizes)) * min(sizes) / 2)
    squared = torch.zeros((), dtype=torch.float64)
    for axis, size in enumerate(shape):
        modes = _stored_frequencies(size, last=axis == len(shape) - 1)
        squared = squared[..., None] + modes.square()
    frequency = squared.sqrt().flatten()
    last = torch.ones(shape[-1] // 2 + 1, dtype=torch.float64)
    last[1 : (shape[-1] + 1) // 2] = 2.0
    multiplicity = last.expand(*shape[:-1], len(last)).flatten().contiguous()
    width = float(frequency.max()) / number
    index = torch.ceil(frequency / width - ROUNDING).long().clamp(min=0, max=number)
    count = torch.zeros(number + 1, dtype=torch.float64).index_add(0, index, multiplicity)[1:]
    return IsotropicBins(width * torch.arange(1, number + 1, dtype=torch.float64), count, index, multiplicity)


def isotropic_spectrum(field: Tensor, bins: IsotropicBins, space: int) -> Tensor:
    """Mean power of the modes of each bin, |FFT|^2 with orthonormal scaling; white noise of variance s^2 has s^2 in each.

        sum over bins of count * power + N <f>^2 = sum of f^2  (Parseval)

    Args:
        field: (*batch, *space).
        bins: `isotropic_bins` of its shape.
        space: Number of space axes.

    Returns: (*batch, bin), squared units of the field; NaN in bins without modes.
    """
    modes = torch.fft.rfftn(field, dim=tuple(range(-space, 0)), norm="ortho")
    power = modes.abs().square().flatten(start_dim=field.ndim - space) * bins.multiplicity.to(modes.real)
    total = power.new_zeros(*power.shape[:-1], len(bins.count) + 1).index_add(-1, bins.index.to(power.device), power)
    return total[..., 1:] / bins.count.to(power)


def frequency_bands(bins: IsotropicBins) -> dict[str, Tensor]:
    """Masks (bin,) of `low`, `mid` and `high`: equal widths in log k from the first bin to 0.5 cycles per point.

    Published bands are closed on both sides; here a bin on an inner edge belongs to the lower band alone. Bins without modes
    are in none.
    """
    k = bins.frequency
    first, last = math.log(float(k[0])), math.log(max(RESOLVED, float(k[0])))
    edges = [0.0, *(math.exp(first + (last - first) * part / 3) * (1 + ROUNDING) for part in (1, 2, 3))]
    filled = bins.count > 0
    return {name: filled & (k > a) & (k <= b) for name, a, b in zip(BANDS, edges[:-1], edges[1:], strict=True)}


def band_power_rmse(
    ensemble: Tensor, truth: Tensor, weights: Tensor, *, floor: float = POWER_FLOOR
) -> tuple[Tensor, Tensor, Tensor]:
    """Power-spectrum RMSE of the bands low, mid and high, of each frame.

        r = (p_v + floor) / (p_u + floor),  p_v averaged over members first;  sqrt(mean over the bins of a band of (1 - r)^2)

    Args:
        ensemble: (member, *batch, *space), physical units.
        truth: (*batch, *space).
        weights: (*space); points of weight zero are filled with the mean of the others.
        floor: In squared units of the field.

    Returns: three tensors (*batch); NaN in bands without a bin. A few bins where the truth has almost no power rule the
        average: compare `spectral_errors`, in decades and of averaged spectra.
    Raises: ValueError for shapes that disagree, or a single point.
    Source: arXiv:2507.02608, section 3.4.
    """
    members = check_members(ensemble, truth, 1, "A spectrum", "pass at least one")
    bins, space = isotropic_bins(tuple(weights.shape)), weights.ndim
    known = isotropic_spectrum(_filled(truth, weights), bins, space)
    power = torch.zeros_like(known)
    for member in ensemble:
        power = power + isotropic_spectrum(_filled(member, weights), bins, space) / members
    square = (1 - (power + floor) / (known + floor)).square()
    low, mid, high = (
        square[..., mask.to(square.device)].mean(dim=-1).sqrt() for mask in frequency_bands(bins).values()
    )
    return low, mid, high


def published_spread_skill(ensemble: Tensor, truth: Tensor, weights: Tensor, *, floor: float = SPREAD_FLOOR) -> Tensor:
    """(spread + floor) / (skill + floor) of each frame, to be averaged: a mean of ratios, so not quite 1 for a reliable ensemble.

    The spread carries the correction sqrt((M + 1) / M) once. Where few points are independent the mean of ratios is above
    the ratio of means (`spread_skill`), by Jensen's inequality.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space); every point of positive weight counts alike.
        floor: In units of the field.

    Returns: (*batch).
    Raises: ValueError for one member or shapes that disagree.
    Source: arXiv:2507.02608, eq. 10 to 13; the floor is that of its evaluation.
    """
    check_members(ensemble, truth, 2, "Spread", "draw more, or score it as deterministic")
    points = _alike(weights)
    spread = weighted_mean(corrected_variance(ensemble), points).sqrt()
    return (spread + floor) / (mse(ensemble.mean(dim=0), truth, points).sqrt() + floor)


def published_vrmse(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """`vrmse` with a floor of 1e-6 and every point of positive weight alike; (*batch, *space) -> (*batch).

    On an even grid it differs from `vrmse` by a factor sqrt(1 + 1e-6 / Var(y)) alone: nothing for fields of order one, much for
    a fluid at rest. Source: arXiv:2507.02608, eq. 9, with the unbiased variance of its evaluation.
    """
    return vrmse(forecast, truth, _alike(weights), epsilon=VARIANCE_FLOOR)


def _alike(weights: Tensor) -> Tensor:
    return (weights > 0).to(weights)


def _filled(field: Tensor, weights: Tensor) -> Tensor:
    """Points of weight zero get the mean of the others."""
    if bool((weights > 0).all()):
        return field
    mean = weighted_mean(field, _alike(weights))[(...,) + (None,) * weights.ndim]
    return torch.where(weights.to(field.device) > 0, field, mean)


def _stored_frequencies(size: int, *, last: bool) -> Tensor:
    """Cycles per point of the modes that a real transform stores along one axis."""
    made = torch.fft.rfftfreq if last else torch.fft.fftfreq
    return made(size, dtype=torch.float64)


def _band(place: int) -> Callable[..., Tensor]:
    """One of the means of several contributions."""
    return lambda *bands: bands[place]


PUBLISHED: tuple[Score, ...] = (
    Score(
        "vrmse_published",
        lambda e, y, w: published_vrmse(e.mean(dim=0), y, w),
        "VRMSE of the ensemble mean as published (floor 1e-6, points alike)",
        min_points=2,
    ),
    Score(
        "spread_skill_published",
        published_spread_skill,
        "mean over frames of (spread + 1e-3) / (skill + 1e-3), as published",
        better="target",
        target=1.0,
        min_members=2,
    ),
    *(
        Score(
            f"{band}_band_power_rmse",
            band_power_rmse,
            f"RMSE of the members' over the truth's power, {band} frequencies, as published",
            _band(place),
            min_points=2,
        )
        for place, band in enumerate(BANDS)
    ),
)
