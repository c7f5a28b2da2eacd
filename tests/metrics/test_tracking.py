"""Valid times of errors that are known, and quantiles where some cases end before they cross."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics.tracking import normalised_error, survival, survival_quantiles, valid_time

LEADS = torch.arange(1, 51, dtype=torch.float64) * 0.4


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_straight_error_crosses_where_it_does(threshold):
    slopes = torch.tensor([0.05, 0.2, 3.0], dtype=torch.float64)
    found = valid_time(slopes[:, None] * LEADS, LEADS, threshold=threshold)
    assert torch.allclose(
        found.time, threshold / slopes
    )  # the last one before the first lead, from the error 0 at the start
    assert not found.censored.any()


def test_growth_at_a_rate_crosses_at_its_logarithm():
    """e0 exp(lambda t): linear interpolation is late by less than lambda^2 dt^2 / 8 / lambda."""
    rate, start = 0.7, 1e-3
    found = valid_time(start * torch.exp(rate * LEADS), LEADS, threshold=0.5)
    assert float(found.time) == pytest.approx(math.log(0.5 / start) / rate, abs=rate * 0.4**2 / 8)


def test_what_never_crosses_what_is_lost_and_what_has_no_truth():
    error = torch.full((4, 50), 0.1, dtype=torch.float64)
    error[1, 10:] = math.nan  # blown up after the tenth lead
    error[3, 30] = 2.0
    shown = torch.ones(4, 50, dtype=torch.bool)
    shown[2:, 20:] = False
    found = valid_time(error, LEADS, threshold=0.5, shown=shown)
    assert found.time.tolist() == pytest.approx([20.0, 4.0, 8.0, 8.0])
    assert found.censored.tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="positive"):
        valid_time(error, LEADS, threshold=0.0)


def test_the_error_is_in_root_mean_squares_of_the_truth():
    """Independent states of variance v and mean zero: sqrt(2); quadrature weights count."""
    generator = torch.Generator().manual_seed(0)
    x, y = (3 * torch.randn(200, 5, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    found = normalised_error(x, y, torch.ones(64, dtype=torch.float64), 9.0)
    assert found.shape == (200, 5)
    assert float(found.square().mean()) == pytest.approx(2.0, abs=5 * 2 * math.sqrt(2 / 64000))
    weights = torch.tensor([2.0, 0.0], dtype=torch.float64)
    assert float(normalised_error(torch.tensor([[1.0, 9.0]]), torch.zeros(1, 2), weights, 4.0)) == pytest.approx(0.5)


def test_quantiles_without_censoring_are_those_of_the_sample_and_with_it_those_of_the_law():
    generator = torch.Generator().manual_seed(1)
    times = torch.randn(101, generator=generator, dtype=torch.float64).abs()
    whole = torch.zeros(101, dtype=torch.bool)
    ordered = times.sort().values
    assert survival_quantiles(times, whole) == [float(ordered[25]), float(ordered[50]), float(ordered[75])]
    # Exponential times, cut at uniform times of their own: the naive median is ln 2 no longer, this one is.
    times = -torch.rand(4000, generator=generator, dtype=torch.float64).log()
    cut = 2 * torch.rand(4000, generator=generator, dtype=torch.float64)
    (middle,) = survival_quantiles(torch.minimum(times, cut), times > cut, levels=(0.5,))
    assert middle == pytest.approx(math.log(2), abs=5 / math.sqrt(4000))
    assert float(torch.minimum(times, cut).median()) < 0.6
    assert survival_quantiles(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([False, True, True])) == [
        1.0,
        math.inf,
        math.inf,
    ]


def test_a_worked_example_of_survival():
    """Ends at 1, 3, 3; lost from sight at 2: S = 3/4, then 3/4 * (1 - 2/2) = 0."""
    ends, left = survival(torch.tensor([3.0, 1.0, 2.0, 3.0]), torch.tensor([False, False, True, False]))
    assert ends.tolist() == [1.0, 3.0] and left.tolist() == pytest.approx([0.75, 0.0])
    with pytest.raises(ValueError, match="at least one"):
        survival_quantiles(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
