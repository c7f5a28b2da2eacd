"""The tangent-linear exponent where it is known in closed form."""

import math

import pytest
import torch

from eddycast.numerics.lyapunov import leading_exponent


def test_linear_flow_gives_the_leading_eigenvalue():
    """For u' = A u the exponent is the largest real part, here 0.3 (a non-normal matrix)."""
    matrix = torch.tensor([[0.3, 5.0], [0.0, -1.0]], dtype=torch.float64)
    propagator = torch.linalg.matrix_exp(0.5 * matrix)
    start = torch.ones(3, 2, dtype=torch.float64)
    tangent = torch.tensor([[1.0, 1.0], [0.0, 1.0], [-2.0, 1.0]], dtype=torch.float64)
    estimate = leading_exponent(
        lambda u: u @ propagator.T, start, tangent, interval=0.5, num_intervals=20, num_discarded=60
    )
    assert estimate.exponent == pytest.approx(0.3, abs=1e-12)
    assert estimate.per_trajectory.shape == (3,)
    assert estimate.standard_error < 1e-12
    assert estimate.time == pytest.approx(1 / 0.3)


def test_logistic_map_has_exponent_log_two():
    """x -> 4 x (1 - x): log 2 for almost every start. The mean over 64 starts is within 4 standard errors."""
    start = torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    estimate = leading_exponent(
        lambda x: 4 * x * (1 - x), start, torch.ones_like(start), interval=1.0, num_intervals=500
    )
    assert estimate.standard_error < 0.005
    assert estimate.exponent == pytest.approx(math.log(2), abs=4 * estimate.standard_error)


def test_bad_tangents_are_refused():
    state = torch.ones(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        leading_exponent(lambda u: u, state, torch.ones(2, 2), interval=1.0, num_intervals=1)
    with pytest.raises(ValueError, match="not zero"):
        leading_exponent(lambda u: u, state, torch.zeros(2, 3), interval=1.0, num_intervals=1)


def test_decay_has_an_infinite_lyapunov_time():
    estimate = leading_exponent(lambda u: 0.5 * u, torch.ones(1, 2), torch.ones(1, 2), interval=2.0, num_intervals=3)
    assert estimate.exponent == pytest.approx(math.log(0.5) / 2, rel=1e-6)
    assert estimate.time == math.inf and math.isnan(estimate.standard_error)
