"""Distance between Gaussian laws where it is known, and the fit against what its source promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from eddycast.metrics.bures import GaussianLaw, bures_wasserstein, fit_gaussian, matrix_sqrt


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def law(size: int, seed: int, rank: int | None = None) -> GaussianLaw:
    root = normal(size, rank or size, seed=seed)
    return GaussianLaw(normal(size, seed=seed + 100), root @ root.T)


def test_in_one_dimension_it_is_the_distance_in_the_plane_of_mean_and_deviation():
    a = GaussianLaw(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    b = GaussianLaw(torch.tensor([4.0]).double(), torch.tensor([[36.0]]).double())
    assert bures_wasserstein(a, b).item() == pytest.approx(5.0)  # means 3 apart, deviations 4


def test_of_covariances_that_commute_it_is_the_distance_of_their_roots():
    basis = torch.linalg.qr(normal(5, 5)).Q
    first, second = normal(5, seed=1).abs(), normal(5, seed=2).abs()
    a, b = (GaussianLaw(torch.zeros(5).double(), basis @ torch.diag(std**2) @ basis.T) for std in (first, second))
    assert bures_wasserstein(a, b).item() == pytest.approx((first - second).norm().item(), rel=1e-10)


@pytest.mark.parametrize("rank", [6, 3])
def test_the_formula_with_roots_from_scipy(rank):
    a, b = law(6, 1, rank), law(6, 2, rank)
    root = np.real(sqrtm(a.covariance.numpy()))
    cross = np.trace(np.real(sqrtm(root @ b.covariance.numpy() @ root)))
    square = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()) - 2 * cross
    assert bures_wasserstein(a, b).item() == pytest.approx(np.sqrt(square), rel=1e-6)
    root = matrix_sqrt(a.covariance)
    torch.testing.assert_close(root @ root, a.covariance, atol=1e-12, rtol=1e-12)


def test_it_is_a_distance_that_rotations_and_shifts_do_not_change():
    a, b, c = law(4, 1), law(4, 2), law(4, 3)
    assert bures_wasserstein(a, a).item() == pytest.approx(0, abs=1e-6)
    assert bures_wasserstein(a, b).item() == pytest.approx(bures_wasserstein(b, a).item(), rel=1e-12)
    assert bures_wasserstein(a, c) <= bures_wasserstein(a, b) + bures_wasserstein(b, c)
    turn, shift = torch.linalg.qr(normal(4, 4, seed=9)).Q, normal(4, seed=8)

    def moved(one: GaussianLaw) -> GaussianLaw:
        return GaussianLaw(turn @ one.mean + shift, turn @ one.covariance @ turn.T)

    assert bures_wasserstein(moved(a), moved(b)).item() == pytest.approx(bures_wasserstein(a, b).item(), rel=1e-9)


def test_without_shrinkage_the_fit_is_the_empirical_covariance_and_with_all_of_it_a_sphere():
    x = normal(50, 4) @ normal(4, 4, seed=1)
    plain = fit_gaussian(x, shrinkage=0.0)
    torch.testing.assert_close(plain.covariance, torch.cov(x.T, correction=0))
    torch.testing.assert_close(plain.mean, x.mean(dim=0))
    sphere = fit_gaussian(x, shrinkage=1.0).covariance
    torch.testing.assert_close(sphere, plain.covariance.trace() / 4 * torch.eye(4, dtype=torch.float64))


def test_the_shrinkage_is_near_the_best_one_for_few_samples_and_vanishes_for_many():
    """Mean squared error over 40 draws of 20 samples in 16 dimensions, against the best constant on a grid, and against none."""
    root = torch.diag(torch.linspace(0.5, 2.0, 16, dtype=torch.float64))
    truth = root @ root

    def error(shrinkage: float | None) -> float:
        fits = [fit_gaussian(normal(20, 16, seed=seed) @ root, shrinkage=shrinkage).covariance for seed in range(40)]
        return sum((fit - truth).square().sum().item() for fit in fits) / 40

    best = min(error(k / 10) for k in range(11))
    assert error(None) < 1.15 * best and error(None) < 0.6 * error(0.0)
    many = fit_gaussian(normal(20000, 16) @ root)
    assert (many.covariance - torch.cov((normal(20000, 16) @ root).T, correction=0)).norm() < 0.005 * truth.norm()


def test_identical_samples_are_a_point():
    fit = fit_gaussian(torch.ones(5, 3))
    assert torch.equal(fit.mean, torch.ones(3).double()) and not fit.covariance.any()


@pytest.mark.parametrize(
    ("samples", "shrinkage"), [(torch.zeros(1, 3), None), (torch.zeros(4), None), (torch.zeros(4, 2), 1.5)]
)
def test_fits_that_cannot_be_are_refused(samples, shrinkage):
    with pytest.raises(ValueError, match=r"at least two|shrinkage"):
        fit_gaussian(samples, shrinkage=shrinkage)
