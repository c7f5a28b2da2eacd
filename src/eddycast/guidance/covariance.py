"""Covariances of x given x_t for Gaussian priors: what guidance uses in place of the denoiser's Jacobian, or of a tuned number.

For x ~ N(0, C) and rho = sigma / alpha,  V = (C^-1 + rho^-2 I)^-1 = rho^2 C (C + rho^2 I)^-1,  in model space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Covariance(Protocol):
    """V times a tensor (batch, time, channel, *space) of model space; rho has shape () or (batch, 1, ...)."""

    def __call__(self, tangent: Tensor, rho: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class WhiteCovariance:
    """Independent entries of one variance c: V = rho^2 c / (c + rho^2).

    With it only what the operator looks at is updated, the rest of a field learns nothing within one evaluation.
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive, got {self.variance}.")

    def __call__(self, tangent: Tensor, rho: Tensor) -> Tensor:
        return rho**2 * self.variance / (self.variance + rho**2) * tangent


@dataclass(frozen=True)
class StationaryCovariance:
    """A field with the same statistics everywhere along some axes: V is diagonal in their Fourier modes.

    Other axes (channels) have spectra of their own and no correlations between each other. Exact for a stationary Gaussian
    on periodic axes; other axes are treated as if they were periodic, which ties their ends together.

    Args:
        spectrum: c_k >= 0 in the order of `torch.fft.fftn`, broadcastable to one sample (time, channel, *space); the mean
            over modes is the variance.
        axes: The axes of the modes, counted from the right: (-1,) for space in one dimension, (-3, -1) for time as well.
    """

    spectrum: Tensor
    axes: tuple[int, ...]

    @classmethod
    def fit(cls, x: Tensor, axes: tuple[int, ...]) -> StationaryCovariance:
        """From samples (sample, time, channel, *space) in model space: power over `axes`, mean over the samples."""
        return cls(_power(x, axes), axes)

    def __post_init__(self) -> None:
        if any(axis >= 0 for axis in self.axes):
            raise ValueError(f"axes are counted from the right, (-1,) is the last one; got {self.axes}.")

    def __call__(self, tangent: Tensor, rho: Tensor) -> Tensor:
        spectrum = self.spectrum.to(tangent)
        gain = rho**2 * spectrum / (spectrum + rho**2)
        return torch.fft.ifftn(gain * torch.fft.fftn(tangent, dim=self.axes), dim=self.axes).real


@dataclass(frozen=True)
class StationaryGamma:
    """gamma for observed points of a field with a known power spectrum, instead of a tuned number.

    A stationary Gaussian field with spectrum c_k has posterior variance mean_k c_k rho^2 / (c_k + rho^2) at each point
    given x_t, so the variance that `SDAGuidance` writes gamma rho^2 is matched by

        gamma = mean_k c_k / (c_k + rho^2).

    Correlations between sensors stay neglected.

    Args:
        spectrum: c_k >= 0 over all wavenumbers of the window in model space, so that mean_k c_k is the variance.
    """

    spectrum: Tensor

    @classmethod
    def fit(cls, x: Tensor, axes: tuple[int, ...]) -> StationaryGamma:
        """From samples in model space, (sample, ...): power over `axes` (space, and time too), mean over samples.

        Other axes (channels) keep spectra of their own. Exact for periodic axes; elsewhere the ends blur the spectrum.
        """
        return cls(_power(x, axes).flatten())

    def __call__(self, rho: Tensor) -> Tensor:
        """gamma for noise-to-signal ratios rho of any shape."""
        spectrum = self.spectrum.to(rho)
        return (spectrum / (spectrum + rho[..., None] ** 2)).mean(dim=-1)


def _power(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean square modulus of the modes over the samples (first axis), float64; its mean over modes is the variance."""
    points = math.prod(x.shape[axis] for axis in axes)
    return (torch.fft.fftn(x.double(), dim=axes).abs() ** 2 / points).mean(dim=0)
