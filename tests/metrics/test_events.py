"""Probabilities of events: intervals that cover as they say, times to events, and distances of their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from eddycast.metrics.events import (
    binomial_interval,
    compare_event_times,
    difference_interval,
    event_counts,
    event_time_distance,
    event_times,
    rate_interval,
    time_to_event,
)

LEADS = torch.arange(1, 41, dtype=torch.float64) * 0.25


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("method", ["wilson", "exact"])
def test_intervals_are_those_of_the_outside_program(method, level):
    hits = torch.tensor([0, 1, 7, 20, 999, 1000])
    found = binomial_interval(hits, 1000, level=level, method=method)
    for place, k in enumerate(hits.tolist()):
        known = stats.binomtest(k, 1000).proportion_ci(level, method="exact" if method == "exact" else "wilson")
        assert (float(found.low[place]), float(found.high[place])) == pytest.approx((known.low, known.high), abs=1e-9)


@pytest.mark.parametrize("members", [50, 1000])
def test_intervals_cover_by_the_binomial_law_itself(members):
    """Exact coverage, summed over all outcomes, at 200 probabilities: never below the level for Clopper-Pearson; within 1 % of it on
    average for Wilson, which goes down to 0.83 where less than one hit is expected, and no lower."""
    hits = torch.arange(members + 1)
    chances = torch.logspace(-4, math.log10(0.5), 200, dtype=torch.float64)
    law = torch.as_tensor(stats.binom.pmf(hits.numpy(), members, chances[:, None].numpy()))
    covered = {}
    for method in ("wilson", "exact"):
        ends = binomial_interval(hits, members, method=method)
        inside = (ends.low <= chances[:, None]) & (chances[:, None] <= ends.high)
        covered[method] = (law * inside).sum(dim=1)
    assert float(covered["exact"].min()) >= 0.95
    often = members * chances > 5
    assert float(covered["wilson"][often].mean()) == pytest.approx(0.95, abs=0.01)
    assert float(covered["wilson"][often].min()) > 0.9
    assert 0.83 < float(covered["wilson"].min()) < 0.9


def test_the_interval_of_a_difference_covers_in_simulation():
    """2000 pairs of ensembles: the share of intervals that hold the true difference is 0.95 within 4 standard errors and 1 %."""
    generator = np.random.default_rng(0)
    for p, q, n, m in ((0.02, 0.05, 1000, 200), (0.3, 0.3, 100, 100)):
        one, two = (torch.as_tensor(generator.binomial(size, chance, 2000)) for size, chance in ((n, p), (m, q)))
        ends = difference_interval(one, n, two, m)
        share = float(((ends.low <= p - q) & (p - q <= ends.high)).double().mean())
        assert share == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000) + 0.01)
    worked = difference_interval(torch.tensor(56), 70, torch.tensor(48), 80)  # the published example (a)
    assert (float(worked.low), float(worked.high)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_rate_interval_is_exact():
    low, high = rate_interval(5, 20.0)
    assert low * 20 == pytest.approx(stats.chi2.ppf(0.025, 10) / 2)
    assert high * 20 == pytest.approx(stats.chi2.ppf(0.975, 12) / 2)
    assert rate_interval(0, 2.0)[0] == 0 and rate_interval(0, 2.0)[1] == pytest.approx(-math.log(0.025) / 2)
    with pytest.raises(ValueError, match="exposure"):
        rate_interval(1, 0.0)


def test_first_times_counts_and_quantiles():
    happening = torch.zeros(4, 40, dtype=torch.bool)
    happening[0, 3] = happening[0, 7] = happening[1, 0] = happening[2, 39] = True
    times = time_to_event(happening, LEADS)
    assert times.tolist() == [1.0, 0.25, 10.0, math.inf]
    counts = event_counts(times, LEADS)
    assert counts[[0, 2, 3, 38, 39]].tolist() == [1, 1, 2, 2, 3]
    told = event_times(times)
    assert (
        told.probability == 0.75 and told.median == 1.0 and told.half == (0.25, 10.0) and told.most == (0.25, math.inf)
    )
    with pytest.raises(ValueError, match="at least one"):
        event_times(torch.zeros(0))


def test_central_masses_of_a_known_law():
    """Exponential: quantiles -ln(1 - q), within 5 standard errors sqrt(q (1 - q) / n) / density."""
    n = 20000
    told = event_times(-torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64).log())
    for q, value in (
        (0.5, told.median),
        (0.25, told.half[0]),
        (0.75, told.half[1]),
        (0.05, told.most[0]),
        (0.95, told.most[1]),
    ):
        assert value == pytest.approx(-math.log(1 - q), abs=5 * math.sqrt(q / (1 - q) / n))


def test_the_distance_of_times_is_the_area_between_their_laws():
    generator = torch.Generator().manual_seed(4)
    first = -4 * torch.rand(300, generator=generator, dtype=torch.float64).log()
    second = -7 * torch.rand(450, generator=generator, dtype=torch.float64).log()
    cut = (first.clamp(max=10), second.clamp(max=10))
    known = stats.wasserstein_distance(*(one.numpy() for one in cut))
    assert float(event_time_distance(first, second, 10.0)) == pytest.approx(known, rel=1e-12)
    first[:20] = math.inf
    fine = torch.linspace(0, 10, 200001, dtype=torch.float64)
    laws = [(torch.searchsorted(one.sort().values, fine, right=True) / len(one)).double() for one in (first, second)]
    area = torch.trapezoid((laws[0] - laws[1]).abs(), fine)
    assert float(event_time_distance(first, second, 10.0)) == pytest.approx(float(area), abs=1e-3)


def test_the_test_of_one_law_keeps_its_level_and_has_power():
    """p-values of equal laws are uniform: of 200, those below 0.1 are 20 within 4 standard errors. A different law is seen."""
    generator = torch.Generator().manual_seed(5)

    def draw(scale, members):
        return -scale * torch.rand(members, generator=generator, dtype=torch.float64).log()

    small = sum(
        compare_event_times(draw(3, 40), draw(3, 60), 10.0, permutations=99, generator=generator).p_value <= 0.1
        for _ in range(200)
    )
    assert abs(small - 20) < 4 * math.sqrt(200 * 0.1 * 0.9)
    apart = compare_event_times(draw(3, 200), draw(5, 200), 10.0, permutations=199, generator=generator)
    assert apart.p_value == 1 / 200 and apart.distance > 3 * apart.by_chance


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="hits <= trials"):
        binomial_interval(torch.tensor([3]), 2)
