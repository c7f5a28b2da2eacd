"""Proper scores: in expectation no forecast beats the true law, and a wrong one shows. Paired over cases.

There are many cases because the energy score feels wrong correlations only weakly, by one per cent here.
"""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import (
    brier_score,
    crps,
    energy_score,
    neighbours,
    sketched_energy_score,
    variogram_score,
    weighted_mean,
)

CASES, MEMBERS, POINTS = 20_000, 6, 12
WEIGHTS = torch.ones(POINTS)
LAGS = neighbours((POINTS,), (True,))


def fields(*shape, seed, mean=0.0, std=1.0, length=2.0):
    """Periodic Gaussian fields with correlation exp(-distance / length); length 0 is white."""
    noise = torch.randn(*shape, POINTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if length == 0:
        return mean + std * noise
    step = torch.arange(POINTS)
    gap = (step[:, None] - step).abs()
    covariance = torch.exp(-torch.minimum(gap, POINTS - gap).double() / length)
    return mean + std * noise @ torch.linalg.cholesky(covariance).mT


SCORES = {
    "crps": lambda e, y, fair: weighted_mean(crps(e, y, fair=fair), WEIGHTS),
    "brier": lambda e, y, fair: weighted_mean(brier_score(e, y, 0.5, fair=fair), WEIGHTS),
    "energy": lambda e, y, fair: energy_score(e, y, WEIGHTS, fair=fair),
    "sketch": lambda e, y, fair: sketched_energy_score(
        e, y, WEIGHTS, size=8, generator=torch.Generator().manual_seed(1), fair=fair
    ),
    "variogram": lambda e, y, fair: variogram_score(e, y, WEIGHTS, LAGS, fair=fair),
}
WRONG = {
    "too high": {"mean": 0.6},
    "too narrow": {"std": 0.6},
    "too wide": {"std": 2.0},
    "too rough": {"length": 0.0},
    "too smooth": {"length": 8.0},
}
BLIND = {  # what a score cannot see: it must then be indifferent, not pleased
    ("crps", "too rough"), ("crps", "too smooth"), ("brier", "too rough"), ("brier", "too smooth"),
    ("variogram", "too high"),
}  # fmt: skip


# A sketch is proper for the few functionals it keeps, which may hold little of what is wrong: it must not be pleased.
WEAK = {("sketch", "too rough"), ("sketch", "too smooth")}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", SCORES)
def test_the_true_law_has_the_best_expected_score(name, wrong):
    """The fair scores, of small ensembles: mean difference over cases against its standard error."""
    truth, right = fields(CASES, seed=1), fields(MEMBERS, CASES, seed=2)
    other = fields(MEMBERS, CASES, seed=3, **WRONG[wrong])
    gap = SCORES[name](other, truth, True) - SCORES[name](right, truth, True)
    mean, error = float(gap.mean()), float(gap.std()) / math.sqrt(CASES)
    if (name, wrong) in BLIND:
        assert abs(mean) < 4 * error
    elif (name, wrong) in WEAK:
        assert mean > -3 * error
    else:
        assert mean > 3 * error


@pytest.mark.parametrize("name", SCORES)
def test_fair_scores_do_not_depend_on_the_number_of_members(name):
    """Means for 2 and for 12 members agree, and the biased ones do not."""
    truth = fields(CASES, seed=1)
    few, many = fields(2, CASES, seed=4), fields(12, CASES, seed=5)
    for fair in (True, False):
        gap = SCORES[name](few, truth, fair) - SCORES[name](many, truth, fair)
        mean, error = float(gap.mean()), float(gap.std()) / math.sqrt(CASES)
        assert (abs(mean) < 4 * error) == fair


def test_small_biased_ensembles_reward_too_little_spread():
    """Why fair is the default: two members score best with less than the true spread if M^2 divides the pairs."""
    truth = fields(CASES, seed=1)
    right, narrow = fields(2, CASES, seed=4), fields(2, CASES, seed=4, std=0.7)
    for fair in (True, False):
        gap = energy_score(narrow, truth, WEIGHTS, fair=fair) - energy_score(right, truth, WEIGHTS, fair=fair)
        mean, error = float(gap.mean()), float(gap.std()) / math.sqrt(CASES)
        assert mean > 3 * error if fair else mean < -3 * error
