"""Diagnostics of an analysis, each against its law where all is Gaussian and known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from test_etkf import LinearModel, background, observations

from eddycast.assimilation import (
    Diagnostics,
    agreement,
    assimilate,
    desroziers,
    divergence_reason,
    innovation_chi_square,
    observed_ranks,
    observed_spread_skill,
    seen_by,
    with_errors,
)
from eddycast.assimilation.diagnostics import Seen
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.observations import Observations

CASES, POINTS = 400, 6
GRID = Grid((periodic_axis("x", POINTS, 1.0),))


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(members, *, spread=1.0, error=0.5, stated=0.5, correlation=0.6, cases=CASES, gaps=True):
    """An ensemble from N(0, B), a truth and what is observed of it; points of B are correlated. Members times `spread`."""
    b = correlation * torch.ones(POINTS, POINTS, dtype=torch.float64) + (1 - correlation) * torch.eye(
        POINTS, dtype=torch.float64
    )
    root = torch.linalg.cholesky(b)
    ensemble = spread * draws(members, cases, 1, 1, POINTS, seed=1) @ root.T
    values = draws(cases, 1, 1, POINTS, seed=2) @ root.T + error * draws(cases, 1, 1, POINTS, seed=3)
    if gaps:
        values[draws(cases, 1, 1, POINTS, seed=4) > 0.7] = torch.nan
    obs = Observations(
        values, torch.tensor([stated], dtype=torch.float64), GRID, (("u", "1"),), 1.0, torch.arange(cases),
        torch.zeros(cases, dtype=torch.long),
    )  # fmt: skip
    seen = obs.seen(0, 1)
    assert seen is not None
    return seen, ensemble, b


def test_chi_square_is_one_where_spread_and_errors_are_right_and_is_the_dense_formula():
    measurement, ensemble, _ = twin(200)
    chi = innovation_chi_square(seen_by(measurement, ensemble))
    counts = measurement.mask.sum(dim=1)
    mean = (chi * counts).nansum() / counts.sum()
    # a chi-square of m degrees over m has the variance 2 / m; the inverse of a covariance of 200 members adds m / M
    assert mean.item() == pytest.approx(1.0 + 0.5 * 4.5 / 200, abs=4 * (2 / counts.sum().item()) ** 0.5)
    seen = seen_by(measurement, ensemble)
    for case in range(5):
        mask = measurement.mask[case]
        p = torch.cov(seen.members[:, case, mask].T) * 201 / 200
        d = (seen.observed - seen.members.mean(dim=0))[case, mask]
        s = p.reshape(len(d), len(d)) + torch.eye(len(d), dtype=torch.float64)
        assert chi[case].item() == pytest.approx((d @ torch.linalg.solve(s, d) / len(d)).item())
    narrow = innovation_chi_square(seen_by(*twin(200, spread=0.5)[:2])).nanmean()
    assert narrow > 1.5
    wide = innovation_chi_square(seen_by(*twin(200, stated=2.0)[:2])).nanmean()
    assert wide < 0.6


def test_correlated_errors_are_taken_apart():
    """All entries of a case share a part of their errors: with the correlation stated chi-square is 1, without it is not."""
    measurement, ensemble, b = twin(200, gaps=False, error=0.0)
    together = 0.5 * (0.8**0.5 * draws(CASES, 1, seed=7) + 0.2**0.5 * draws(CASES, POINTS, seed=8))
    noisy = replace(measurement, values=measurement.values + together)
    shared = replace(
        noisy,
        groups=torch.zeros(CASES, POINTS, dtype=torch.long),
        correlation=torch.full((CASES, POINTS), 0.8, dtype=torch.float64),
    )
    chi = innovation_chi_square(seen_by(shared, ensemble)).mean().item()
    error = 4 * (2 / (CASES * POINTS)) ** 0.5
    assert chi == pytest.approx(1.0, abs=error + POINTS / 200)
    eye, ones = torch.eye(POINTS, dtype=torch.float64), torch.ones(POINTS, POINTS, dtype=torch.float64)
    law = torch.trace(torch.linalg.solve(b + 0.25 * eye, b + 0.25 * (0.8 * ones + 0.2 * eye))).item() / POINTS
    assert law < 0.85
    ignored = innovation_chi_square(seen_by(noisy, ensemble)).mean().item()
    assert ignored == pytest.approx(law, abs=error + POINTS / 200) and ignored < chi - error


@pytest.mark.parametrize("members", [5, 40])
def test_ranks_are_uniform_and_spread_fits_the_error_at_any_size(members):
    measurement, ensemble, _ = twin(members, correlation=0.0, error=1.0, stated=1.0)  # independent entries
    noisy = with_errors(seen_by(measurement, ensemble), MemberNoise.grid(3, CASES, members))
    ranks = observed_ranks(noisy)
    count = measurement.count
    expected = 1 / (members + 1)
    chi = (count * (ranks - expected).square() / expected).sum().item()
    assert abs(chi - members) < 4 * (2 * members) ** 0.5  # chi-square of `members` degrees of freedom
    bare = observed_ranks(seen_by(measurement, ensemble))  # without errors added: too many at the ends
    assert bare[0] + bare[-1] > 1.2 * (ranks[0] + ranks[-1])
    assert observed_spread_skill(seen_by(measurement, ensemble)) == pytest.approx(1.0, abs=4 * (0.5 / count) ** 0.5)
    assert observed_spread_skill(seen_by(*twin(members, spread=0.3, error=1.0, stated=1.0)[:2])) < 0.8


@pytest.mark.parametrize("members", [9, 39])
def test_agreement_of_what_is_right(members):
    measurement, ensemble, _ = twin(members, correlation=0.0)
    found = agreement(measurement, ensemble, seed=1, cases=torch.arange(CASES))
    assert found.count == measurement.count and len(found.departures) == 1
    assert found.level == min(0.9, (members - 1) / (members + 1))
    share = (found.level * (1 - found.level) / found.count) ** 0.5
    assert found.coverage == pytest.approx(found.level, abs=4 * share)
    sigma = (1 + (1 + 1 / members) * 4) ** 0.5  # variance 1 of states, 0.25 of errors
    assert found.departure_rms == pytest.approx(sigma, rel=4 * (0.5 / found.count) ** 0.5)
    assert found.departures[0] == pytest.approx(found.departure_rms)
    assert abs(found.bias) < 4 * sigma / found.count**0.5
    assert sum(found.ranks) == pytest.approx(1.0) and found.flatness < 0.3
    alone = agreement(measurement, ensemble[:1], seed=1, cases=torch.arange(CASES))
    assert math.isnan(alone.spread_skill) and alone.ranks == () and alone.departure_rms > found.departure_rms
    again = agreement(measurement, ensemble, seed=1, cases=torch.arange(CASES))
    assert again == found


def test_desroziers_recovers_the_errors_of_observations():
    """With the right gain the ratios are 1; with a wrong R the estimate is R_a S_a^-1 S, and repeating it leads to R."""
    cases, true = 3000, 0.5
    eye = torch.eye(POINTS, dtype=torch.float64)
    b = 0.3 * torch.ones_like(eye) + 0.7 * eye
    values = draws(cases, POINTS, seed=5) @ torch.linalg.cholesky(b).T + true * draws(cases, POINTS, seed=6)

    def estimated(stated):
        # two members about the forecast, 0, have the variance of B at each entry
        pair = torch.tensor([0.5**0.5, -(0.5**0.5)], dtype=torch.float64)[:, None, None].expand(2, cases, POINTS)
        gain = b @ torch.linalg.inv(b + stated**2 * eye)
        seen = Seen(pair / stated, values / stated, torch.ones(cases, POINTS, dtype=torch.bool))
        return desroziers(seen, (values @ gain.T / stated)[None])

    error = 4 * (3 / (cases * POINTS)) ** 0.5
    right = estimated(true)
    assert right.observation == pytest.approx(1.0, abs=error) and right.background == pytest.approx(1.0, abs=error)
    wrong = estimated(1.0)
    law = (torch.linalg.inv(b + eye) @ (b + true**2 * eye)).diagonal().mean().item()
    assert wrong.observation == pytest.approx(law, abs=error)
    stated = 1.0
    for _ in range(40):
        stated *= estimated(stated).observation ** 0.5
    assert stated == pytest.approx(true, rel=2 * error)


def test_a_filter_that_is_right_is_found_to_be_right():
    """The forecast ensembles of an exact Kalman filter, by the states that a one-step analysis starts from."""
    model, members = LinearModel(), 60
    obs = observations(cases=300, num_times=1, fraction=0.8)
    start = background(members, cases=300)
    root = torch.linalg.cholesky(torch.cov(start.flatten(0, 2)[:, 0].T))
    truth = start.flatten(0, 2)[:, 0].mean(dim=0) + draws(300, 5, seed=9) @ root.T
    values = truth[:, None, None] + 0.3 * draws(300, 1, 1, 5, seed=10)
    obs = replace(obs, values=torch.where(obs.mask, values, torch.nan))
    analysis = assimilate(
        "etkf", model, obs, obs.conditions(), members=members, seed=0, mode="filter", background=start
    )
    seen = obs.seen(0, 1)
    assert seen is not None
    forecast = seen_by(seen, start)
    found = desroziers(forecast, seen_by(seen, analysis).members)
    assert found.observation == pytest.approx(1.0, abs=0.15)  # 60 members: a gain with sampling errors
    assert found.background == pytest.approx(1.0, abs=0.15)
    assert innovation_chi_square(forecast).mean().item() == pytest.approx(1.0, abs=0.15)


def test_divergence_is_told_in_words_and_all_of_it_is_plain():
    measurement, ensemble, _ = twin(20)
    cases = torch.arange(CASES)
    good = agreement(measurement, ensemble, seed=0, cases=cases)
    assert divergence_reason(ensemble, good, good, None) is None
    lost = agreement(measurement, 0.01 * ensemble + 5, seed=0, cases=cases)
    assert "misses withheld observations by" in str(divergence_reason(ensemble, lost, good, None))
    assert "misses assimilated" in str(divergence_reason(ensemble, None, lost, None))
    assert divergence_reason(ensemble, None, good, "said so") == "said so"
    same = ensemble.clone()
    same[:, 3] = 1.0
    assert "collapsed" in str(divergence_reason(same, None, good, None))
    broken = ensemble.clone()
    broken[2, 7] = torch.nan
    assert "case 7 is not finite from frame 0" in str(divergence_reason(broken, None, None, None))
    alone = agreement(measurement, ensemble[:1], seed=0, cases=cases)
    told = Diagnostics(alone, good, None, 1.5, None, (2.0, 0.0), {"parameters": {"nu": torch.ones(3, 2, 4)}})
    plain = told.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["used"]["chi_square"] is None and plain["found"]["parameters"]["nu"] == [[1.0] * 4] * 2
    attributes = told.attributes()
    assert attributes["withheld_coverage"] == good.coverage and "eddycast_divergence" not in attributes
    assert all(isinstance(value, float) for value in attributes.values())
