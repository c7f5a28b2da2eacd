"""The Hellinger distance of known Gaussians, and what chance makes of it."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics.density import empty_histogram, even_edges, hellinger
from eddycast.metrics.halves import random_splits, split_hellinger, split_sums


def draw(count, mean, std, seed):
    return mean + std * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(edges, values):
    return empty_histogram(edges).add(values)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (0.0, 2.0), (1.5, 0.7)])
def test_two_gaussians_are_as_far_apart_as_their_closed_form(mean, std):
    """H^2 = 1 - sqrt(2 s1 s2 / (s1^2 + s2^2)) exp(-(m1 - m2)^2 / (4 (s1^2 + s2^2))); bins and sampling move it by less than 2 %."""
    truth, other = draw(400_000, 0, 1, 0), draw(400_000, mean, std, 1)
    edges = even_edges(truth, 100)
    found = hellinger(filled(edges, other), filled(edges, truth))
    square = 1 - math.sqrt(2 * std / (1 + std**2)) * math.exp(-(mean**2) / (4 * (1 + std**2)))
    assert found == pytest.approx(math.sqrt(square), rel=0.02)


def test_the_mass_outside_the_truth_is_told():
    truth, other = draw(10_000, 0, 1, 2), draw(100_000, 0, 2, 3)
    edges = even_edges(truth, 50)
    low, high = float(edges[0]), float(edges[-1])
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(2.0).double())
    expected = float(normal.cdf(torch.tensor(low).double()) + 1 - normal.cdf(torch.tensor(high).double()))
    assert filled(edges, other).outside == pytest.approx(expected, abs=5 * math.sqrt(expected / 100_000))


def test_chance_bounds_a_forecast_of_the_same_law_and_not_another():
    """40 parts of 500 independent draws: a fresh sample as large as a half lies below the bound in about 95 % of the trials."""
    edges = torch.linspace(-4, 4, 41, dtype=torch.float64)
    within, beyond = 0, 0
    for trial in range(60):
        parts = draw(40 * 500, 0, 1, 100 + trial).reshape(40, 500)
        masses = torch.stack([filled(edges, part).mass for part in parts])
        truth = filled(edges, parts)
        splits = random_splits(40, 0.5, 100, torch.Generator().manual_seed(trial))
        bound = float(split_hellinger(masses, splits).quantile(0.95))
        within += hellinger(filled(edges, draw(10_000, 0, 1, 1000 + trial)), truth) <= bound
        beyond += hellinger(filled(edges, draw(10_000, 0.15, 1, 2000 + trial)), truth) > bound
    assert within >= 54  # more than 95 %, since a half against a half is farther than a half against the whole
    assert beyond >= 54


def test_splits_deal_the_parts_as_the_sizes_say():
    generator = torch.Generator().manual_seed(0)
    for parts, share, side in ((10, 5.0, 5), (10, 0.2, 2), (3, 0.01, 1), (2, 1.0, 1)):
        chosen = random_splits(parts, share, 20, generator)
        assert chosen.shape == (20, parts) and bool((chosen.sum(dim=1) == side).all())
    assert len(random_splits(10, 1.0, 50, generator).unique(dim=0)) > 30
    values = torch.arange(12.0).reshape(3, 2, 2)
    one, two = split_sums(values, torch.tensor([[True, False, True]]))
    assert one.tolist() == [[8, 10, 12, 14]] and two.tolist() == [[4, 5, 6, 7]]
    with pytest.raises(ValueError, match="two parts"):
        random_splits(1, 1.0, 5, generator)
