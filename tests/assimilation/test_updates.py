"""Updates of ensembles against the textbook's Kalman formulas, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch

from eddycast.assimilation.inflation import inflated, relaxed_to_perturbations, relaxed_to_spread
from eddycast.assimilation.updates import enkf_weights, etkf_weights, mixed, recentred_perturbations
from eddycast.noise import MemberNoise


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kalman(ensemble, h, y, r):
    """Gain, mean and covariance of the analysis with the sample covariance of an ensemble (member, n)."""
    p = torch.cov(ensemble.T)
    gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + r)
    mean = ensemble.mean(dim=0)
    return gain, mean + gain @ (y - h @ mean), p - gain @ h @ p


@pytest.mark.parametrize("members", [3, 9])
def test_perturbed_observations_move_each_member_by_the_gain(members):
    ensemble, h, y = normal(members, 2, 7), normal(5, 7, seed=1), normal(2, 5, seed=2)
    std = torch.tensor([0.2, 0.5, 1.0, 1.5, 3.0], dtype=torch.float64)
    e = normal(2, members, 5, seed=3)
    e = e - e.mean(dim=1, keepdim=True)
    seen = (ensemble @ h.T).movedim(0, 1)
    mean = seen.mean(dim=1)
    weights = enkf_weights((seen - mean[:, None]) / std, (y - mean) / std, e)
    analysis = mixed(ensemble, weights)
    for case in range(2):
        gain, right, _ = kalman(ensemble[:, case], h, y[case], torch.diag(std**2))
        moved = ensemble[:, case] + (y[case] + e[case] * std - seen[case]) @ gain.T
        torch.testing.assert_close(analysis[:, case], moved, rtol=0, atol=1e-10)
        torch.testing.assert_close(analysis[:, case].mean(dim=0), right, rtol=0, atol=1e-10)


def test_perturbed_observations_have_the_covariance_of_the_kalman_update_on_average():
    """4000 cases with the same ensemble differ by their perturbations alone; each entry of the mean covariance within 4 standard errors."""
    cases, members = 4000, 6
    one, h, y = normal(members, 3), normal(4, 3, seed=1), normal(4, seed=2)
    ensemble = one[:, None].expand(-1, cases, -1)
    noise = MemberNoise.grid(0, cases, members)
    seen = (ensemble @ h.T).movedim(0, 1)
    mean = seen.mean(dim=1)
    e = recentred_perturbations(noise, 4, key=(0, 0, "test"))
    assert e.mean(dim=1).abs().max() < 1e-12
    assert (e.var(dim=1).mean() - members / (members - 1)).abs() < 0.05
    analysis = mixed(ensemble, enkf_weights(seen - mean[:, None], y - mean, e))
    deviations = analysis - analysis.mean(dim=0)
    covariances = torch.einsum("mci,mcj->cij", deviations, deviations) / (members - 1)
    _, _, exact = kalman(one, h, y, torch.eye(4, dtype=torch.float64))
    # Recentred perturbations have the variance members / (members - 1) that makes the noise part unbiased.
    p, gain = torch.cov(one.T), kalman(one, h, y, torch.eye(4, dtype=torch.float64))[0]
    left = torch.eye(3, dtype=torch.float64) - gain @ h
    expected = left @ p @ left.T + gain @ gain.T * members / (members - 1)
    error = covariances.std(dim=0) / cases**0.5
    assert ((covariances.mean(dim=0) - expected).abs() < 4 * error + 1e-12).all()
    assert torch.allclose(left @ p @ left.T + gain @ gain.T, exact, atol=1e-12)


def test_members_see_the_same_perturbations_whatever_follows_in_the_list():
    noise = MemberNoise.grid(3, 2, 5)
    short, long = (recentred_perturbations(noise, entries, key=(4, 0, "test")) for entries in (6, 40))
    assert torch.equal(short, long[..., :6])


def test_two_batches_of_independent_observations_are_one():
    """Assimilated one after the other or together, the transform gives the same mean and covariance."""
    ensemble, y = normal(8, 1, 6), normal(1, 6, seed=1)

    def update(states, part):
        seen = states[..., part].movedim(0, 1)
        mean = seen.mean(dim=1)
        w, t = etkf_weights(seen - mean[:, None], y[:, part] - mean)
        return mixed(states, w[..., None, :] + t)

    together = update(ensemble, slice(0, 6))
    apart = update(update(ensemble, slice(0, 2)), slice(2, 6))
    torch.testing.assert_close(together.mean(dim=0), apart.mean(dim=0), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cov(together[:, 0].T), torch.cov(apart[:, 0].T), rtol=0, atol=1e-10)


def test_one_member_is_refused():
    with pytest.raises(ValueError, match="at least 2 members"):
        enkf_weights(normal(1, 1, 3), normal(1, 3), normal(1, 1, 3))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_relaxation_mixes_spreads_or_deviations_and_keeps_the_mean(fraction):
    prior, analysis = normal(12, 2, 5), 0.4 * normal(12, 2, 5, seed=1) + 1
    to_spread = relaxed_to_spread(analysis, prior, fraction)
    mixture = (1 - fraction) * analysis.std(dim=0) + fraction * prior.std(dim=0)
    torch.testing.assert_close(to_spread.std(dim=0), mixture)
    to_old = relaxed_to_perturbations(analysis, prior, fraction)
    deviations = (1 - fraction) * (analysis - analysis.mean(dim=0)) + fraction * (prior - prior.mean(dim=0))
    torch.testing.assert_close(to_old - to_old.mean(dim=0), deviations)
    for changed in (to_spread, to_old, inflated(analysis, 1 + fraction)):
        torch.testing.assert_close(changed.mean(dim=0), analysis.mean(dim=0))
    torch.testing.assert_close(inflated(analysis, 1.5).std(dim=0), 1.5 * analysis.std(dim=0))


def test_where_nothing_is_spread_nothing_is_made_of_it():
    prior, analysis = normal(4, 3), torch.ones(4, 3, dtype=torch.float64)
    assert torch.equal(relaxed_to_spread(analysis, prior, 0.5), analysis)
