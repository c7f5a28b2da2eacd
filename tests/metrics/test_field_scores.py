"""Errors and correlations of fields: formulas, laws, masks."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import correlation, mae, mask_weights, mse, rmse, variance, vrmse, weighted_mean

WEIGHTS = torch.ones(5, 7, dtype=torch.float64)


def random_fields(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def test_the_spatial_mean_scores_the_vrmse_of_the_formula():
    """Error variance is the biased one, the denominator the unbiased: sqrt((n - 1) / n)."""
    truth = random_fields(3, 5, 7)[0]
    flat = truth.mean(dim=(-2, -1), keepdim=True).expand_as(truth)
    expected = torch.full((3,), math.sqrt(34 / 35), dtype=torch.float64)
    torch.testing.assert_close(vrmse(flat, truth, WEIGHTS), expected)


def test_vrmse_floor_is_the_published_one():
    forecast, truth = random_fields(5, 7)
    expected = torch.sqrt((forecast - truth).square().mean() / (truth.var(correction=1) + 0.3))
    torch.testing.assert_close(vrmse(forecast, truth, WEIGHTS, epsilon=0.3), expected)


def test_quadrature_weights_integrate_exactly():
    """Gauss-Legendre weights on five points integrate polynomials up to degree nine: <(x^4)^2> on [-1, 1] is 1 / 9."""
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(5)
    weights = torch.as_tensor(w / w.mean())
    field = torch.as_tensor(x) ** 4
    assert float(mse(field, torch.zeros_like(field), weights)) == pytest.approx(1 / 9, rel=1e-12)
    assert float(rmse(field, torch.zeros_like(field), weights)) == pytest.approx(1 / 3, rel=1e-12)
    assert float(mae(field, torch.zeros_like(field), weights)) == pytest.approx(1 / 5, rel=1e-12)


def test_correlation_of_two_waves_is_the_cosine_of_their_phase():
    x = torch.arange(32, dtype=torch.float64) * (2 * math.pi / 32)
    phase = torch.linspace(0, math.pi, 7, dtype=torch.float64)[:, None]
    forecast = 3.0 + 0.2 * torch.sin(x + phase)
    truth = (-5.0 + 4.0 * torch.sin(x)).expand_as(forecast)
    torch.testing.assert_close(correlation(forecast, truth, torch.ones(32)), torch.cos(phase[:, 0]))


def test_constant_fields_have_defined_scores():
    truth = torch.full((2, 5, 7), 0.1, dtype=torch.float64)
    forecast = torch.stack([truth[0], truth[0] + 1])
    assert variance(truth, WEIGHTS).tolist() == [0.0, 0.0]
    assert vrmse(forecast, truth, WEIGHTS).tolist() == [0.0, math.inf]
    assert correlation(random_fields(2, 5, 7)[0], truth, WEIGHTS).tolist() == [0.0, 0.0]
    assert correlation(truth, random_fields(2, 5, 7)[0], WEIGHTS).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("score", [mse, rmse, mae, vrmse, correlation])
def test_a_mask_equals_cropping(score):
    """Whatever lies outside the mask, NaN included, leaves the score as if those points did not exist."""
    forecast, truth = random_fields(2, 5, 7)
    valid = torch.zeros(5, 7, dtype=torch.bool)
    valid[1:4, 2:6] = True
    grid = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)[:, None].expand(5, 7)
    expected = score(forecast[:, 1:4, 2:6], truth[:, 1:4, 2:6], grid[1:4, 2:6])
    for filler in (math.nan, math.inf, 1e30):
        masked = [torch.where(valid, field, filler) for field in (forecast, truth)]
        torch.testing.assert_close(score(*masked, mask_weights(grid, valid)), expected)


def test_a_bad_value_inside_the_mask_shows():
    forecast, truth = random_fields(2, 5, 7)
    forecast[1, 2, 3] = math.nan
    for score in (mse, mae, vrmse, correlation):
        result = score(forecast, truth, WEIGHTS)
        assert torch.isfinite(result[0])
        assert torch.isnan(result[1])


def test_float32_overflow_and_dtype():
    """Sums are float64: a million values near 1e4 keep their float32 mean to rounding."""
    values = torch.full((1000, 1000), 1e4) + torch.tensor([0.0, 1.0]).repeat(500)
    mean = weighted_mean(values, torch.ones(1000, 1000))
    assert mean.dtype == torch.float32
    assert float(mean) == 10000.5


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match="same shape"):
        mse(torch.zeros(2, 5, 7), torch.zeros(5, 7), WEIGHTS)
    with pytest.raises(ValueError, match="must end in"):
        weighted_mean(torch.zeros(2, 5), WEIGHTS)
    with pytest.raises(ValueError, match="No valid point"):
        mask_weights(WEIGHTS, torch.zeros(5, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 2 points"):
        variance(torch.zeros(1), torch.ones(1))
