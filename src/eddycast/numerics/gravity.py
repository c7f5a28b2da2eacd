"""Self-gravity of a periodic box, by Fourier series: exact for every mode that the grid holds.

    Laplace phi = 4 pi G (rho - mean(rho)),   g = -grad phi

Only departures from the mean attract (Jeans' swindle): an infinite medium of uniform density has no force that periodicity
would allow, and a comoving frame or an outer support is thought to balance it. The potential has mean zero.

The force on the box vanishes to rounding, sum(rho g) = 0: with real symmetric 1/|k|^2 and antisymmetric i k the sum of each pair of
opposite modes is zero, so kicks by `acceleration` keep the total momentum.
Source: Jeans (1902), doi:10.1098/rsta.1902.0012; Binney and Tremaine, Galactic Dynamics (2008), section 5.2.2 (swindle).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eddycast.numerics.spectral import mode_numbers, wavenumbers


def gravity_kernel(
    shape: Sequence[int],
    lengths: Sequence[float],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """k / |k|^2 of each axis, (D, *spectrum), zero for the mean; what `acceleration` multiplies with, computed once.

    Along an even axis the Nyquist mode has no slope at the grid points: its component of k is zero in the numerator, and stays in
    |k|^2.

    Args:
        shape: Points of each axis, (n_1, ..., n_D).
        lengths: Period of each axis; the kernel has their unit.
    """
    waves, modes = wavenumbers(shape, lengths, device), mode_numbers(shape, device)
    squared = torch.zeros((), dtype=torch.float64, device=device)
    for wave in waves:
        squared = squared + wave**2
    inverse = torch.where(squared == 0, 0.0, 1 / squared.where(squared != 0, 1.0))
    slopes = [
        torch.where(2 * mode.abs() == points, 0.0, wave) * inverse
        for wave, mode, points in zip(waves, modes, shape, strict=True)
    ]
    return torch.stack(slopes).to(dtype)


def acceleration(density: Tensor, kernel: Tensor, strength: Tensor | float) -> Tensor:
    """g = -grad phi of a periodic box, (*batch, D, *space).

        g_k = strength i k rho_k / |k|^2

    Args:
        density: (*batch, *space).
        kernel: From `gravity_kernel`, for this grid and precision.
        strength: 4 pi G in the units of the density, length and time; a number, or one that broadcasts over (*batch, *space).
    """
    dims = kernel.shape[0]
    axes = tuple(range(-dims, 0))
    spectrum = torch.fft.rfftn(strength * density, dim=axes).unsqueeze(-dims - 1)
    turned = torch.complex(-spectrum.imag * kernel, spectrum.real * kernel)
    return torch.fft.irfftn(turned, s=density.shape[-dims:], dim=axes)


def potential(density: Tensor, lengths: Sequence[float], strength: Tensor | float) -> Tensor:
    """phi with Laplace phi = strength (rho - mean), mean zero, (*batch, *space).

    Args:
        density: (*batch, *space); space are the last `len(lengths)` axes.
        lengths: Period of each axis.
        strength: 4 pi G; a number, or one that broadcasts over (*batch, *space).
    """
    dims = len(lengths)
    axes, shape = tuple(range(-dims, 0)), density.shape[-dims:]
    squared = torch.zeros((), dtype=torch.float64, device=density.device)
    for wave in wavenumbers(shape, lengths, density.device):
        squared = squared + wave**2
    inverse = torch.where(squared == 0, 0.0, -1 / squared.where(squared != 0, 1.0)).to(density.dtype)
    return torch.fft.irfftn(torch.fft.rfftn(strength * density, dim=axes) * inverse, s=shape, dim=axes)


def free_fall_time(mean_density: Tensor, strength: Tensor | float) -> Tensor:
    """Time in which a uniform sphere at rest collapses under its own weight, sqrt(3 pi / (32 G rho)), with strength = 4 pi G."""
    return torch.pi * (3 / (8 * strength * mean_density)) ** 0.5
