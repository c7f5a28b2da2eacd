"""Calibration tables: exact decompositions, laws of reliable ensembles, an outside Brier score."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import (
    brier_score,
    coverage,
    coverage_curve,
    crps,
    event_table,
    mask_weights,
    quantile_reliability,
    spread_error_table,
    weighted_mean,
)

CASES = 40_000


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("members", [2, 3, 8, 9])
def test_reliable_ensembles_lie_on_the_diagonal(members):
    """Of any size, exactly in expectation; narrow ones lie below it, and too high ones above it."""
    draws = normal(members + 1, CASES, seed=members)
    ensemble, truth, weights = draws[1:], draws[0], torch.ones(CASES)
    for curve in (coverage_curve(ensemble, truth, weights), quantile_reliability(ensemble, truth, weights)):
        error = (curve.nominal * (1 - curve.nominal) / CASES).sqrt()
        assert bool(((curve.observed - curve.nominal).abs() < 4.5 * error).all())
        assert int(curve.count) == CASES
        assert bool((torch.diff(curve.nominal) > 0).all())
    narrow = coverage_curve(0.5 * ensemble, truth, weights)
    assert bool((narrow.observed < 0.8 * narrow.nominal).all())
    high = quantile_reliability(ensemble + 0.5, truth, weights)
    assert bool((high.observed > high.nominal).all())


def test_the_curve_is_the_coverage_at_its_levels():
    draws = normal(10, 2, 500, seed=1)
    curve = coverage_curve(draws[1:], draws[0], torch.ones(500))
    assert curve.observed.shape == (2, 4)
    for place, level in enumerate(curve.nominal.tolist()):
        inside = coverage(draws[1:], draws[0], level).mean(dim=-1)
        torch.testing.assert_close(curve.observed[:, place], inside)


@pytest.mark.parametrize("threshold", [-0.4, 0.9])
def test_the_brier_score_falls_apart_exactly(threshold):
    """Score = reliability - resolution + uncertainty, weighted, pooled or not; and it is the mean of the pointwise one."""
    signal = normal(6, 300)
    ensemble, truth = 0.8 * signal + normal(7, 6, 300, seed=1), signal + normal(6, 300, seed=2)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    table = event_table(ensemble, truth, weights, threshold)
    for parts in (table.brier(), table.sum().brier()):
        torch.testing.assert_close(parts.score, parts.reliability - parts.resolution + parts.uncertainty)
        assert bool((parts.resolution > 0).all())
    points = brier_score(ensemble, truth, threshold, fair=False)
    torch.testing.assert_close(table.brier().score, weighted_mean(points, weights))
    halves = (
        event_table(ensemble[:, :2], truth[:2], weights, threshold).sum()
        + event_table(ensemble[:, 2:], truth[2:], weights, threshold).sum()
    )
    torch.testing.assert_close(halves.brier().score, table.sum().brier().score)
    assert float(table.count.sum()) == 6 * 300


def test_scoringrules_agrees_on_the_brier_score():
    scoringrules = pytest.importorskip("scoringrules")
    ensemble, truth = normal(9, 400), normal(400, seed=1)
    expected = scoringrules.brier_score((truth > 0.3).double().numpy(), (ensemble > 0.3).double().mean(dim=0).numpy())
    torch.testing.assert_close(brier_score(ensemble, truth, 0.3, fair=False), torch.as_tensor(expected))


@pytest.mark.parametrize("members", [2, 5])
def test_the_fair_brier_score_does_not_depend_on_the_size(members):
    """Event probability q, members alike: fair q (1 - q), biased q (1 - q) (1 + 1 / M)."""
    draws = normal(members + 1, CASES, seed=members)
    probability = 0.5 * math.erfc(0.7 / math.sqrt(2))
    ideal = probability * (1 - probability)
    for fair, expected in ((True, ideal), (False, ideal * (1 + 1 / members))):
        scores = brier_score(draws[1:], draws[0], 0.7, fair=fair)
        assert abs(float(scores.mean()) - expected) < 4 * float(scores.std()) / math.sqrt(CASES)


def test_the_crps_is_the_brier_score_over_all_thresholds():
    ensemble, truth = normal(5, 30), normal(30, seed=1)
    step = 0.004
    thresholds = torch.arange(-6, 6, step, dtype=torch.float64)
    for fair in (True, False):
        total = sum(brier_score(ensemble, truth, float(one), fair=fair) for one in thresholds) * step
        torch.testing.assert_close(total, crps(ensemble, truth, fair=fair), rtol=0, atol=2 * step)


def test_a_reliable_probability_has_no_reliability_term():
    """Probabilities k / M drawn first and the event with that frequency: what is left is sampling noise."""
    members = 4
    votes = torch.randint(members + 1, (CASES,), generator=torch.Generator().manual_seed(1))
    ensemble = (torch.arange(members)[:, None] < votes).double()
    truth = (torch.rand(CASES, generator=torch.Generator().manual_seed(2)) < votes / members).double()
    table = event_table(ensemble, truth, torch.ones(CASES), 0.5)
    assert float(table.brier().reliability) < 3 * (members + 1) * 0.25 / CASES
    torch.testing.assert_close(table.frequency, table.probability, atol=4 * 0.5 / math.sqrt(CASES / 5), rtol=0)


def test_errors_follow_the_spread_bin_by_bin():
    """Spread 0.5, 1 or 2 from place to place, many members: on the diagonal. One spread everywhere is a vertical line."""
    spread = 2.0 ** torch.randint(-1, 2, (CASES,), generator=torch.Generator().manual_seed(1))
    draws = spread * normal(51, CASES)
    edges = torch.tensor([0.75, 1.5], dtype=torch.float64)
    table = spread_error_table(draws[1:], draws[0], torch.ones(CASES), edges)
    torch.testing.assert_close(table.spread, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), rtol=0.03, atol=0)
    error = 4 / torch.sqrt(2 * table.count)
    assert bool(((table.skill / table.spread - 1).abs() < error + 0.01).all())
    wrong = spread_error_table(draws[1:], draws[0, torch.randperm(CASES, generator=torch.Generator().manual_seed(2))],
                               torch.ones(CASES), edges)  # fmt: skip
    assert float(wrong.skill[0] / wrong.spread[0]) > 2  # right on average, but not where
    pooled = table + wrong
    torch.testing.assert_close(pooled.mass, 2 * table.mass)
    with pytest.raises(ValueError, match="different edges"):
        table + spread_error_table(draws[1:], draws[0], torch.ones(CASES), edges + 1)


def test_edges_may_differ_from_channel_to_channel():
    draws = normal(6, 3, 2, 50)
    edges = torch.tensor([[0.5, 1.0], [0.7, 2.0]], dtype=torch.float64)
    both = spread_error_table(draws[1:], draws[0], torch.ones(50), edges)
    for channel in range(2):
        one = spread_error_table(draws[1:, :, channel], draws[0, :, channel], torch.ones(50), edges[channel])
        torch.testing.assert_close(both.error[:, channel], one.error)


def test_land_and_bad_members_are_left_out():
    draws = normal(6, 2, 30)
    valid = torch.arange(30) % 3 > 0
    weights = mask_weights(torch.ones(30), valid)
    masked = torch.where(valid, draws, math.nan)
    for score in (
        lambda d, w: event_table(d[1:], d[0], w, 0.2).hits,
        lambda d, w: event_table(d[1:], d[0], w, 0.2).mass,
        lambda d, w: spread_error_table(d[1:], d[0], w, torch.tensor([0.5, 1.0])).error,
        lambda d, w: coverage_curve(d[1:], d[0], w).observed,
    ):
        cut = score(draws[..., valid], weights[valid])
        torch.testing.assert_close(score(masked, weights), cut)
    masked[3, 1, 4] = math.inf
    table = event_table(masked[1:], masked[0], weights, 0.2)
    assert table.count.sum(dim=-1).tolist() == [20, 19]
    assert math.isnan(brier_score(masked[1:], masked[0], 0.2)[1, 4])
