"""Fourier operators on uniform periodic grids of one to three dimensions, in the layout of the real FFT.

`torch.fft.rfftn` over the last D axes keeps the non-negative modes of the last axis only. All functions here speak of
that layout: for `shape` (n_1, ..., n_D) the spectrum is (n_1, ..., n_D // 2 + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mode_numbers(shape: Sequence[int], device: torch.device | str | None = None) -> tuple[Tensor, ...]:
    """Integer mode numbers of each axis, float64, shaped to broadcast over the spectrum.

    Args:
        shape: Points of each axis, (n_1, ..., n_D).

    Returns: D tensors; entry d has n_d (last axis: n_D // 2 + 1) values along axis d and 1 elsewhere.
    """
    numbers = []
    for axis, points in enumerate(shape):
        last = axis == len(shape) - 1
        frequencies = torch.fft.rfftfreq if last else torch.fft.fftfreq
        modes = frequencies(points, d=1.0 / points, dtype=torch.float64, device=device)
        numbers.append(modes.reshape([-1 if other == axis else 1 for other in range(len(shape))]))
    return tuple(numbers)


def wavenumbers(
    shape: Sequence[int], lengths: Sequence[float], device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """Angular wavenumbers k_d = 2 pi m_d / length_d of each axis, float64, shaped to broadcast over the spectrum.

    Args:
        shape: Points of each axis.
        lengths: Period of each axis; the wavenumbers have its inverse unit.
    """
    if len(shape) != len(lengths):
        raise ValueError(f"{len(shape)} axes need as many lengths, got {len(lengths)}.")
    modes = mode_numbers(shape, device)
    return tuple(2 * math.pi / length * mode for mode, length in zip(modes, lengths, strict=True))


def derivative(field: Tensor, lengths: Sequence[float], orders: Sequence[int]) -> Tensor:
    """Partial derivative of a periodic field, exact for resolved trigonometric polynomials.

        d^p f / dx^p = sum_k (i k)^p f_k exp(i k x)

    Args:
        field: Values on the grid, (*batch, *space), real; space are the last `len(lengths)` axes.
        lengths: Period of each axis.
        orders: Order p of the derivative along each axis.

    Returns: the derivative, shape and dtype of `field`. For odd p the Nyquist mode of an even axis is dropped: its
        derivative vanishes at the grid points.
    """
    dims = len(lengths)
    shape = field.shape[-dims:]
    spectrum = torch.fft.rfftn(field, dim=tuple(range(-dims, 0)))
    for mode, points, length, order in zip(mode_numbers(shape, field.device), shape, lengths, orders, strict=True):
        if order:
            factor = (2j * math.pi / length * mode) ** order
            if order % 2 and points % 2 == 0:
                factor = torch.where(mode.abs() * 2 == points, 0.0, factor)
            spectrum = spectrum * factor.to(spectrum.dtype)
    return torch.fft.irfftn(spectrum, s=shape, dim=tuple(range(-dims, 0)))


def cutoff(points: int, fraction: float = 2 / 3) -> int:
    """Highest mode number that is kept: the largest m with m < fraction * points / 2.

    With fraction 2/3 a product of two fields with modes up to m aliases onto modes above m only, since 2 m - points <
    -m.
    """
    return math.ceil(fraction * points / 2 - 1e-9) - 1


def dealias_mask(shape: Sequence[int], fraction: float = 2 / 3, device: torch.device | str | None = None) -> Tensor:
    """True where every axis' mode number is at most its `cutoff`, bool, shape of the spectrum (Orszag's 2/3 rule).

    Source: Orszag (1971), doi:10.1175/1520-0469(1971)028<1074:OTEOAI>2.0.CO;2.
    """
    keep = torch.ones((), dtype=torch.bool, device=device)
    for modes, points in zip(mode_numbers(shape, device), shape, strict=True):
        keep = keep & (modes.abs() <= cutoff(points, fraction))
    return keep
