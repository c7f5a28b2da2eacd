"""Distance between Gaussian laws, and the fit of one to samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GaussianLaw(NamedTuple):
    """Mean (d,) and covariance (d, d), float64."""

    mean: Tensor
    covariance: Tensor


def fit_gaussian(samples: Tensor, *, shrinkage: float | None = None) -> GaussianLaw:
    """Mean and covariance of samples, the covariance drawn towards a multiple of the identity.

        C = (1 - s) S + s tr(S) / d I,    S = sum_i (x_i - mean) (x_i - mean)^T / n

    Args:
        samples: (sample, d), at least two.
        shrinkage: s in [0, 1]; None for the one that minimises the expected squared error (Ledoit and Wolf), which goes to 0 as 1 / n.

    Raises: ValueError for fewer than two samples, or s out of range.
    Source: Ledoit & Wolf (2004), doi:10.1016/S0047-259X(03)00096-4. Samples that depend on each other count as independent: s is then
        too small. Computed in float64.
    """
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(f"A fit needs samples (sample, d), at least two; got {tuple(samples.shape)}.")
    number, size = samples.shape
    mean = samples.double().mean(dim=0)
    x = samples.double() - mean
    empirical = x.T @ x / number
    scale = empirical.trace() / size
    identity = torch.eye(size, dtype=torch.float64, device=x.device)
    if shrinkage is None:
        spread = (empirical - scale * identity).square().sum()
        # mean over samples of |x x^T - S|^2 = |x|^4 - 2 x^T S x + |S|^2
        fourth = x.square().sum(dim=1).square() - 2 * ((x @ empirical) * x).sum(dim=1) + empirical.square().sum()
        error = fourth.mean() / number
        shrinkage = float((error / spread).clamp(0, 1)) if spread > 0 else 1.0
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must lie in [0, 1], got {shrinkage}.")
    return GaussianLaw(mean, (1 - shrinkage) * empirical + shrinkage * scale * identity)


def bures_wasserstein(a: GaussianLaw, b: GaussianLaw) -> Tensor:
    """Wasserstein distance of order 2 between two Gaussian laws, (), float64.

        W^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr (A^(1/2) B A^(1/2))^(1/2)

    The last trace is the sum of the singular values of A^(1/2) B^(1/2). For covariances that commute the rest is
    |A^(1/2) - B^(1/2)|^2, in one dimension (std_a - std_b)^2.

    Bias: of two fits to n samples each of the same law it is positive, of order sqrt(tr(C) / n) and more where d is not small against n.
    Source: Dowson & Landau (1982), doi:10.1016/0047-259X(82)90077-X.
    """
    cross = torch.linalg.svdvals(matrix_sqrt(a.covariance) @ matrix_sqrt(b.covariance)).sum()
    square = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return square.clamp_min(0).sqrt()


def matrix_sqrt(covariance: Tensor) -> Tensor:
    """Symmetric root of a symmetric matrix (d, d), in float64; eigenvalues below zero, which are rounding, count as zero."""
    values, basis = torch.linalg.eigh(covariance.double())
    return (basis * values.clamp_min(0).sqrt()) @ basis.T
