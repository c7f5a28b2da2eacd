"""The problems with known posteriors are what they say; `assimilate` as it is by default has those of Gaussian fields."""

from __future__ import annotations

import json
from pathlib import Path

import exact_posteriors
import pytest
import torch
from exact_gaussian import normal

from eddycast.assimilation import METHODS
from eddycast.diffusion import SCHEDULES


@pytest.mark.parametrize("schedule", ["rectified", "cosine", "edm"])
def test_denoiser_of_a_mixture_is_the_score_of_its_density(schedule):
    """D = (x_t + sigma^2 grad log p_t) / alpha, with p_t written as a mixture of dense Gaussians."""
    problem = exact_posteriors.MixtureProblem(SCHEDULES[schedule](), (5, 21), 0.3, 3)
    eye = torch.eye(32, dtype=torch.float64)
    for time in (0.2, 0.5, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = problem.schedule(t)
        x_t = (alpha * problem.means.repeat(2, 1) + sigma * normal(6, 32)).requires_grad_()
        logs = [
            weight.log()
            + torch.distributions.MultivariateNormal(
                alpha * mean, alpha**2 * (problem.basis * values) @ problem.basis.T + sigma**2 * eye
            ).log_prob(x_t)
            for weight, mean, values in zip(problem.weights, problem.means, problem.eigenvalues, strict=True)
        ]
        (score,) = torch.autograd.grad(torch.logsumexp(torch.stack(logs), dim=0).sum(), x_t)
        found = problem.denoiser(x_t.detach()[:, None, None], t)[:, 0, 0]
        assert torch.allclose(found, (x_t + sigma**2 * score).detach() / alpha, rtol=1e-8, atol=1e-8)


def test_posterior_of_a_mixture_is_that_of_weighted_draws_of_the_prior():
    """Weights, mean and deviation against 2e5 draws of the prior weighed by the likelihood, within 5 standard errors."""
    problem = exact_posteriors.MixtureProblem(exact_posteriors.SCHEDULE, (5, 21), 0.5, 12)
    count = 200_000
    component = torch.multinomial(problem.weights, count, replacement=True, generator=torch.Generator().manual_seed(0))
    x = problem.means[component] + (problem.eigenvalues[component].sqrt() * normal(count, 32, seed=1)) @ problem.basis.T
    weight = torch.softmax(problem.likelihood.log_density(x[:, None, None]), dim=0)
    effective = 1 / weight.square().sum().item()
    assert effective > 1e4
    for mode in range(3):
        found, exact = weight[component == mode].sum().item(), problem.posterior_weights[mode].item()
        assert abs(found - exact) < 5 * (exact * (1 - exact) / effective) ** 0.5 + 1e-4
    mean = weight @ x
    deviation = (weight @ (x - mean) ** 2).sqrt()
    assert ((mean - problem.mean).abs() < 5 * problem.deviation / effective**0.5).all()
    assert torch.allclose(deviation, problem.deviation, rtol=5 / effective**0.5)
    draws = problem.draw(20_000)
    shares = problem.memberships(draws).mean(dim=0)
    assert torch.allclose(shares, problem.posterior_weights, atol=4 * 0.5 / 20_000**0.5)
    assert torch.allclose(draws.std(dim=0), problem.deviation, rtol=0.04)


@pytest.mark.parametrize("sensors, errors, bound", [("spread", "equal", 0.04), ("clustered", "unequal", 0.045)])
def test_assimilate_has_the_posterior_of_a_gaussian_field_by_default(sensors, errors, bound):
    """512 members of `mmps` as it is: mean, mean ratio of deviations and covariances, in 64 passes forward.

    The error of the mean is 0.03 to 0.04 by chance alone; that of a 10 x 10 covariance sqrt(11 / 512) = 0.15.
    """
    problem, observed, spectrum = exact_posteriors.field(sensors, errors, 0)
    x, cost = exact_posteriors.analysis("`mmps` (default)", problem, observed, 512, 0, spectrum)
    scores = exact_posteriors.field_scores(problem, x)
    assert scores["error"] < bound and 0.96 < scores["spread"] < 1.04, scores
    assert scores["covariance_observed"] < 0.25 and scores["covariance_leading"] < 0.25, scores
    assert 0.8 < scores["misfit"] < 1.2, scores
    assert cost["forward"] <= 64


def test_the_table_has_a_row_for_every_method_and_meets_what_is_asked_by_default():
    """Every method that samples a denoiser, in every case; and the default within the bounds of the tests above."""
    root = Path(__file__).resolve().parents[2]
    record = json.loads((root / "results" / "exact-posteriors.json").read_text())
    field, mixture = record["result"]["field"], record["result"]["mixture"]
    sampled = {name for name, method in METHODS.items() if method.needs == "denoiser"}
    for rows in (field, mixture):
        assert sampled <= {name.split("`")[1] for name in rows if "`" in name}
    assert set(exact_posteriors.ROWS) <= set(field) and set(exact_posteriors.MIXTURE_ROWS) <= set(mixture)
    default = field["`mmps` (default)"]
    assert len(default) == 4
    for case, row in default.items():
        assert row["error"] <= (0.04 if case.startswith("spread") else 0.045), case
        assert 0.96 <= row["spread"] <= 1.04 and row["forward"] <= 64, case
    for case, row in mixture["`twisted`"].items():
        assert row["bias"] < 2.5 * row["bias_by_chance"], case
        assert row["weights"] < 2 * mixture["exact draws"][case]["weights"], case
