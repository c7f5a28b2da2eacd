"""Ensemble scores against closed forms, an outside program, and the laws of reliable ensembles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eddycast.metrics import (
    corrected_variance,
    coverage,
    crps,
    energy_score,
    mask_weights,
    rank_histogram,
    spread_skill,
    weighted_mean,
)
from eddycast.metrics.ordering import sort_members

CASES = 40_000


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_crps(mean, std, value):
    """Closed form, Gneiting & Raftery (2007), eq. 21."""
    z = (value - mean) / std
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("members", [2, 3, 16])
def test_crps_of_gaussian_ensembles_is_the_closed_form(members):
    """Fair: unbiased at any M. Biased: too large by E|x - x'| / (2 M) = std / (M sqrt(pi))."""
    mean, std, value = 0.3, 1.7, -0.9
    ensemble = mean + std * normal(members, CASES, seed=members)
    truth = torch.full((CASES,), value, dtype=torch.float64)
    exact = float(gaussian_crps(torch.tensor(mean), torch.tensor(std), torch.tensor(value)))
    for fair, excess in [(True, 0.0), (False, std / (members * math.sqrt(math.pi)))]:
        scores = crps(ensemble, truth, fair=fair)
        error = float(scores.std() / math.sqrt(CASES))
        assert abs(float(scores.mean()) - exact - excess) < 4 * error
        assert 4 * error < 0.05 * exact


def test_crps_of_one_member_is_the_absolute_error():
    ensemble, truth = normal(1, 50), normal(50, seed=1)
    torch.testing.assert_close(crps(ensemble, truth, fair=False), (ensemble[0] - truth).abs())
    with pytest.raises(ValueError, match="at least 2 members, got 1"):
        crps(ensemble, truth)


@pytest.mark.parametrize("estimator, fair", [("fair", True), ("pwm", True), ("nrg", False), ("qd", False)])
@pytest.mark.parametrize("members", [2, 5, 16])
def test_scoringrules_agrees(members, estimator, fair):
    scoringrules = pytest.importorskip("scoringrules")
    ensemble, truth = normal(members, 300), 0.5 + normal(300, seed=1)
    expected = scoringrules.crps_ensemble(truth.numpy(), ensemble.numpy(), m_axis=0, estimator=estimator)
    torch.testing.assert_close(crps(ensemble, truth, fair=fair), torch.as_tensor(expected))


@pytest.mark.parametrize("fair, estimator", [(False, "nrg"), (True, "fair")])
def test_scoringrules_agrees_on_the_energy_score(fair, estimator):
    scoringrules = pytest.importorskip("scoringrules")
    ensemble, truth = normal(6, 40, 3, 4), normal(40, 3, 4, seed=1)
    expected = scoringrules.es_ensemble(
        truth.reshape(40, 12).numpy(), ensemble.reshape(6, 40, 12).numpy(), m_axis=0, v_axis=-1, estimator=estimator
    )
    ours = energy_score(ensemble, truth, torch.ones(3, 4), fair=fair) * math.sqrt(12)
    torch.testing.assert_close(ours, torch.as_tensor(expected))


def test_energy_score_of_one_point_is_the_crps():
    ensemble, truth = normal(7, 20, 1), normal(20, 1, seed=1)
    for fair in (True, False):
        expected = crps(ensemble, truth, fair=fair)[:, 0]
        torch.testing.assert_close(energy_score(ensemble, truth, torch.ones(1), fair=fair), expected)


@pytest.mark.parametrize("members", [2, 4, 16])
def test_exchangeable_ensembles_have_a_ratio_of_one(members):
    """Truth and members drawn alike around a centre that varies: spread = skill in expectation, at any M."""
    centre = 3 * normal(CASES, seed=9)
    draws = centre + 0.7 * normal(members + 1, CASES, seed=members)
    ratio = float(spread_skill(draws[1:, :, None], draws[0, :, None], torch.ones(1), over=(0,)).ratio)
    error = math.sqrt((1 / 2 + 1 / (2 * (members - 1))) / CASES)  # of the ratio, from both chi-square laws
    assert abs(ratio - 1) < 4 * error
    wrong = ratio * math.sqrt(members / (members + 1))  # without the correction this must show
    assert abs(wrong - 1) > 4 * error


def test_squares_are_averaged_before_the_root():
    """Two cases with variances 1 and 9: the pooled spread is sqrt(5), the mean of spreads 2 would be wrong."""
    ensemble = torch.tensor([[-1.0, -3.0], [1.0, 3.0]], dtype=torch.float64)[..., None] / math.sqrt(3)
    scores = spread_skill(ensemble, torch.tensor([[1.0], [3.0]], dtype=torch.float64), torch.ones(1), over=(0,))
    assert float(scores.spread) == pytest.approx(math.sqrt(5))
    assert float(scores.skill) == pytest.approx(math.sqrt(5))


def test_degenerate_spreads_are_defined():
    ensemble = torch.zeros(4, 3, 1)
    ensemble[:, 2] = torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None]
    truth = torch.tensor([[0.0], [1.0], [0.0]])
    ratio = spread_skill(ensemble, truth, torch.ones(1)).ratio
    assert math.isnan(ratio[0])
    assert ratio[1] == 0
    assert ratio[2] == math.inf
    with pytest.raises(ValueError, match="at least 2 members"):
        corrected_variance(ensemble[:1])


@pytest.mark.parametrize("members", [3, 9])
def test_the_rank_histogram_of_a_reliable_ensemble_is_flat(members):
    draws = normal(members + 1, CASES // 10, 10, seed=3)
    histogram = rank_histogram(draws[1:], draws[0], torch.ones(10)).mean(dim=0)
    expected = 1 / (members + 1)
    chi_square = float(((histogram - expected).square() / expected).sum() * CASES)
    assert chi_square < members + 4 * math.sqrt(2 * members)
    narrow = rank_histogram(0.3 * draws[1:], draws[0], torch.ones(10)).mean(dim=0)
    assert narrow[0] > 1.5 * expected
    assert narrow[-1] > 1.5 * expected
    assert narrow[members // 2] < expected


def test_ranks_count_and_ties_are_shared_or_drawn():
    ensemble = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    truth = torch.tensor([1.5, 1.0], dtype=torch.float64)
    shared = rank_histogram(ensemble, truth, torch.ones(2))
    torch.testing.assert_close(shared, torch.tensor([0.125, 0.125, 0.625, 0.125], dtype=torch.float64))
    many = (ensemble[:, 1:].expand(3, 20_000), truth[1:].expand(20_000), torch.ones(20_000))
    first, again = (rank_histogram(*many, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert float((first - 0.25).abs().max()) < 4 * math.sqrt(0.25 * 0.75 / 20_000)


@pytest.mark.parametrize("members, level", [(3, 0.5), (9, 0.8), (9, 0.5), (16, 0.5), (39, 0.9)])
def test_central_intervals_cover_their_level(members, level):
    """Exact in expectation where (1 - level) / 2 * (M + 1) is whole; within a per cent where it is not."""
    draws = normal(members + 1, CASES, seed=members)
    covered = float(coverage(draws[1:], draws[0], level).mean())
    whole = (1 - level) / 2 * (members + 1) % 1 in (0, pytest.approx(1), pytest.approx(0))
    assert abs(covered - level) < 4 * math.sqrt(level * (1 - level) / CASES) + (0 if whole else 0.01)


def test_coverage_beyond_the_members_is_refused():
    with pytest.raises(ValueError, match=r"up to 0\.600"):
        coverage(normal(4, 3), normal(3), 0.7)


def test_masks_equal_cropping_and_nan_outside_does_no_harm():
    ensemble, truth = normal(5, 2, 4, 6), normal(2, 4, 6, seed=1)
    valid = torch.zeros(4, 6, dtype=torch.bool)
    valid[1:3, 2:5] = True
    cut = (..., slice(1, 3), slice(2, 5))
    full, small = torch.ones(4, 6, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    masked = [torch.where(valid, field, math.nan) for field in (ensemble, truth)]
    weights = mask_weights(full, valid)
    for score in (
        rank_histogram,
        energy_score,
        lambda e, y, w: spread_skill(e, y, w).ratio,
        lambda e, y, w: weighted_mean(crps(e, y), w),
        lambda e, y, w: weighted_mean(coverage(e, y, 0.5), w),
    ):
        torch.testing.assert_close(score(*masked, weights), score(ensemble[cut], truth[cut], small))


def test_a_member_that_blew_up_shows():
    ensemble, truth = normal(5, 2, 6), normal(2, 6, seed=1)
    ensemble[3, 1, 2] = math.nan
    scores = weighted_mean(crps(ensemble, truth), torch.ones(6))
    assert torch.isfinite(scores[0])
    assert torch.isnan(scores[1])
    assert torch.isnan(coverage(ensemble, truth, 0.5)[1, 2])


values = st.floats(-100, 100, allow_nan=False, width=32)
ensembles = st.lists(values, min_size=3, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ensembles, st.floats(-50, 50), st.floats(0.01, 20), st.randoms(use_true_random=False))
def test_crps_does_not_care_about_order_and_moves_with_units(numbers, shift, scale, random):
    """The last number is the truth."""
    ensemble = torch.tensor(numbers[:-1], dtype=torch.float64)
    truth = torch.tensor(numbers[-1], dtype=torch.float64)
    shuffled = list(numbers[:-1])
    random.shuffle(shuffled)
    for fair in (True, False):
        score = crps(ensemble, truth, fair=fair)
        permuted = crps(torch.tensor(shuffled, dtype=torch.float64), truth, fair=fair)
        moved = crps(scale * ensemble + shift, scale * truth + shift, fair=fair)
        torch.testing.assert_close(permuted, score, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moved, scale * score, rtol=1e-7, atol=1e-7)
        pairs = (ensemble[:, None] - ensemble).abs().sum()
        members = len(ensemble)
        direct = (ensemble - truth).abs().mean() - pairs / (2 * members * (members - 1 if fair else members))
        torch.testing.assert_close(score, direct, rtol=1e-9, atol=1e-9)


def test_the_fair_crps_forgives_one_runaway_as_documented():
    """Moving one member far outwards leaves the fair score alone and raises the other by distance / M^2."""
    ensemble, truth = normal(8, 20), normal(20, seed=1)
    near, far = ensemble.clone(), ensemble.clone()
    near[3], far[3] = 1e3, 2e3
    torch.testing.assert_close(crps(far, truth), crps(near, truth))
    raised = crps(far, truth, fair=False) - crps(near, truth, fair=False)
    torch.testing.assert_close(raised, torch.full((20,), 1e3 / 64, dtype=torch.float64))


@pytest.mark.parametrize("members", [1, 2, 3, 5, 6, 7, 8, 13, 16, 17, 31, 33, 64, 100, 127, 128, 150])
def test_members_come_out_sorted(members):
    """Zeros and ones suffice: a network that sorts all of those sorts everything (Knuth, 5.3.4, theorem Z)."""
    for ensemble in (normal(members, 40, seed=members), (normal(members, 400) > 0).double()):
        assert torch.equal(sort_members(ensemble), ensemble.sort(dim=0).values)


def test_sorting_networks_are_right_for_every_input():
    """All 2^M inputs of zeros and ones, up to 12 members."""
    for members in range(2, 13):
        codes = torch.arange(2**members)
        inputs = ((codes >> torch.arange(members)[:, None]) & 1).double()
        assert torch.equal(sort_members(inputs), inputs.sort(dim=0).values)
