"""Fourier truncation: transforms of the modes that the 2/3 rule keeps, and a change of resolution.

The kept modes of a real field on (n_1, ..., n_D) are stored as (*batch, K + 1, n_1, ..., n_{D-1}): the modes 0 to
K = `cutoff(n_D)` of the last axis come first, the others in the order of the FFT. So every transform but the one of the
last axis runs over memory in order, and steppers work on a third of the modes less. Spectra are mean Fourier
coefficients: mode 0 is the mean of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eddycast.numerics.spectral import cutoff, mode_numbers


def kept_modes(shape: Sequence[int], device: torch.device | str | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Mode numbers m_1, ..., m_D of the stored modes, and where they are kept.

    Args:
        shape: Points of each axis, (n_1, ..., n_D).

    Returns: D float64 tensors that broadcast over (K + 1, n_1, ..., n_{D-1}), and a bool mask of that shape. Where it is
        False a mode is stored but beyond the cut: it must be zero.
    """
    last = cutoff(shape[-1]) + 1
    modes = tuple(mode.movedim(-1, 0)[:last] for mode in mode_numbers(shape, device))
    mask = torch.ones((last, *shape[:-1]), dtype=torch.bool, device=device)
    for mode, points in zip(modes, shape, strict=True):
        mask = mask & (mode.abs() <= cutoff(points))
    return modes, mask


def to_kept(field: Tensor, dims: int) -> Tensor:
    """Kept modes of the last `dims` axes of a real field; modes of the other axes beyond the cut are not removed."""
    shape = field.shape[-dims:]
    spectrum = torch.fft.rfft(field, norm="forward")[..., : cutoff(shape[-1]) + 1].movedim(-1, -dims)
    return _over_other_axes(torch.fft.fft, torch.fft.fft2, spectrum, dims)


def from_kept(modes: Tensor, shape: Sequence[int]) -> Tensor:
    """Real field (*batch, *shape) of kept modes; the inverse of `to_kept` for fields without modes beyond the cut."""
    dims = len(shape)
    lines = _over_other_axes(torch.fft.ifft, torch.fft.ifft2, modes, dims)
    return torch.fft.irfft(lines.movedim(-dims, -1), n=shape[-1], norm="forward")


def widened(modes: Tensor, shape: Sequence[int]) -> Tensor:
    """Kept modes in the layout of the real FFT, (*batch, n_1, ..., n_D // 2 + 1), zero beyond the cut."""
    spectrum = modes.movedim(-len(shape), -1)
    return torch.nn.functional.pad(spectrum, (0, shape[-1] // 2 + 1 - spectrum.shape[-1]))


def narrowed(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    """The stored modes of a spectrum in the layout of the real FFT; the inverse of `widened`."""
    return spectrum[..., : cutoff(shape[-1]) + 1].movedim(-1, -len(shape))


def resample(field: Tensor, shape: Sequence[int]) -> Tensor:
    """The field on another uniform periodic grid of the same extent, by its Fourier series.

    Finer: the trigonometric interpolant. Coarser: the series truncated to the modes |m| < n / 2 that the coarse grid
    holds, which is a projection and not a choice of points (no aliasing). Point 0 stays where it is.

    Args:
        field: (*batch, *space), real; space are the last `len(shape)` axes.
        shape: Points of each axis of the result.

    Returns: (*batch, *shape), in the dtype of `field`. The Nyquist mode of an even axis is dropped where that axis
        changes.
    """
    old = field.shape[-len(shape) :]
    if tuple(old) == tuple(shape):
        return field
    dims = tuple(range(-len(shape), 0))
    spectrum = torch.fft.rfftn(field, dim=dims, norm="forward")
    for dim, before, after, modes in zip(dims, old, shape, mode_numbers(shape, field.device), strict=True):
        if before == after:
            continue
        modes = modes.flatten().long()
        source = modes.clamp(max=before // 2) if dim == -1 else modes.remainder(before)
        held = (2 * modes.abs() < min(before, after)).to(field.dtype)
        spectrum = spectrum.index_select(dim, source) * held.reshape(-1, *[1] * (-1 - dim))
    return torch.fft.irfftn(spectrum, s=tuple(shape), dim=dims, norm="forward")


def _over_other_axes(transform, plane_transform, modes: Tensor, dims: int) -> Tensor:
    """A complex transform over the axes other than the first of the last `dims`, in mean coefficients."""
    if dims == 2:
        return transform(modes, norm="forward")
    return plane_transform(modes, norm="forward") if dims == 3 else modes
