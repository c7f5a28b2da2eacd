"""The variogram score against its definition, an outside program, and the laws that make it worth having."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import all_pairs, crps, mask_weights, neighbours, variogram_score, weighted_mean


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(shape, periodic):
    """Steps between all points, (N, N)."""
    axes = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    total = torch.zeros(math.prod(shape), math.prod(shape), dtype=torch.float64)
    for place, size, around in zip(axes, shape, periodic, strict=True):
        gap = (place.flatten()[:, None] - place.flatten()).abs()
        gap = torch.minimum(gap, size - gap) if around else gap
        total += gap.double().square()
    return total.sqrt()


GRIDS = [((9,), (True,)), ((8,), (True,)), ((7,), (False,)), ((4, 5), (True, False)), ((3, 2, 4), (False, True, True))]


@pytest.mark.parametrize("shape, periodic", GRIDS)
@pytest.mark.parametrize("lag", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("order, fair", [(0.5, False), (0.5, True), (1.0, True), (1.7, False)])
def test_scoringrules_agrees(shape, periodic, lag, order, fair):
    """Its weights are a matrix over all pairs, in both orders; ours are lags, and divided by their sum."""
    scoringrules = pytest.importorskip("scoringrules")
    gap = distances(shape, periodic)
    near = torch.where((gap > 0) & (gap <= lag), 1 / gap, 0.0)
    quadrature = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = near * quadrature.flatten()[:, None] * quadrature.flatten()
    ensemble, truth = normal(5, 3, *shape), normal(3, *shape, seed=1)
    flat = truth.reshape(3, -1).numpy(), ensemble.reshape(5, 3, -1).movedim(0, 1).numpy()
    expected = scoringrules.vs_ensemble(
        *flat, matrix.expand(3, -1, -1).numpy(), p=order, estimator="fair" if fair else "nrg"
    )
    lags = all_pairs(shape, periodic) if lag == math.inf else neighbours(shape, periodic, lag)
    ours = variogram_score(ensemble, truth, quadrature, lags, order=order, fair=fair)
    torch.testing.assert_close(ours, torch.as_tensor(expected) / matrix.sum())


@pytest.mark.parametrize("shape, periodic", GRIDS)
def test_each_pair_is_met_once(shape, periodic):
    """Weights of all pairs add up to the sum of one over their distances, half periods and corners included."""
    lags = all_pairs(shape, periodic)
    gap = distances(shape, periodic)
    total = 0.0
    for offset, weight in zip(lags.offsets, lags.weights, strict=True):
        lengths = (
            size if around else size - abs(step) for size, around, step in zip(shape, periodic, offset, strict=True)
        )
        total += weight * math.prod(lengths)
    assert total == pytest.approx(float((1 / gap[gap > 0]).sum()) / 2)
    assert len(neighbours(shape, periodic, 1).offsets) == len(shape)


def test_scale_and_shift():
    """Order 1/2 has the unit of the field; a shift common to all points is invisible, as documented."""
    ensemble, truth, lags = normal(6, 2, 12), normal(2, 12, seed=1), neighbours((12,), (True,))
    score = variogram_score(ensemble, truth, torch.ones(12), lags)
    torch.testing.assert_close(variogram_score(-3 * ensemble, -3 * truth, torch.ones(12), lags), 3 * score)
    torch.testing.assert_close(variogram_score(ensemble + 5, truth, torch.ones(12), lags), score)
    square = variogram_score(3 * ensemble, 3 * truth, torch.ones(12), lags, order=1)
    torch.testing.assert_close(square, 9 * variogram_score(ensemble, truth, torch.ones(12), lags, order=1))


def test_the_expected_score_is_the_closed_form():
    """Standard normal increments d: E|d| = sqrt(2 / pi) s, Var|d| = s^2 (1 - 2 / pi). Perfect law, order 1.

    Fair: Var|d|. Biased: Var|d| (1 + 1 / M). White noise: s^2 = 2.
    """
    cases, points, members = 2000, 12, 4
    draws = normal(members + 1, cases, points, seed=5)
    variance = 2 * (1 - 2 / math.pi)
    lags = neighbours((points,), (True,), 1)
    for fair, expected in ((True, variance), (False, variance * (1 + 1 / members))):
        scores = variogram_score(draws[1:], draws[0], torch.ones(points), lags, order=1, fair=fair)
        assert abs(float(scores.mean()) - expected) < 4 * float(scores.std()) / math.sqrt(cases)


def test_it_sees_roughness_that_the_crps_cannot():
    """Members with the right law at each point and no correlation in space: same CRPS, a worse variogram."""
    cases, points = 1500, 16
    waves = torch.linspace(0, 2 * math.pi, points + 1, dtype=torch.float64)[:-1]

    def smooth(*shape, seed):
        return normal(*shape, 1, seed=seed) * waves.sin() + normal(*shape, 1, seed=seed + 50) * waves.cos()

    truth, good, rough = smooth(cases, seed=1), smooth(8, cases, seed=2), normal(8, cases, points, seed=3)
    weights, lags = torch.ones(points), neighbours((points,), (True,))

    def difference(score):
        gap = score(rough) - score(good)
        return float(gap.mean()), float(gap.std()) / math.sqrt(cases)

    mean, error = difference(lambda e: weighted_mean(crps(e, truth), weights))
    assert abs(mean) < 4 * error
    mean, error = difference(lambda e: variogram_score(e, truth, weights, lags))
    assert mean > 20 * error


def test_masks_equal_absence_and_bad_members_show():
    """A strip of land cuts the line: pairs across it are gone, as on two lines apart."""
    ensemble, truth = normal(5, 2, 12), normal(2, 12, seed=1)
    valid = torch.ones(12, dtype=torch.bool)
    valid[5:7] = False
    weights = mask_weights(torch.ones(12), valid)
    masked = [torch.where(valid, field, math.nan) for field in (ensemble, truth)]
    lags = neighbours((12,), (False,), 2)
    found = variogram_score(*masked, weights, lags)
    sea = lags.offsets, lags.weights
    parts = [variogram_score(ensemble[..., s], truth[..., s], torch.ones(5), neighbours((5,), (False,), 2))
             for s in (slice(0, 5), slice(7, 12))]  # fmt: skip
    torch.testing.assert_close(found, sum(parts) / 2)
    assert len(sea[0]) == 2
    ensemble[1, 1, 2] = math.nan
    broken = variogram_score(ensemble, truth, torch.ones(12), lags)
    assert math.isfinite(broken[0])
    assert math.isnan(broken[1])


def test_wrong_calls_are_told():
    ensemble, truth, weights = normal(3, 8), normal(8), torch.ones(8)
    lags = neighbours((8,), (True,))
    with pytest.raises(ValueError, match="at least one step"):
        neighbours((8,), (True,), 0.5)
    with pytest.raises(ValueError, match="order of a variogram"):
        variogram_score(ensemble, truth, weights, lags, order=0)
    with pytest.raises(ValueError, match="at least 2 members"):
        variogram_score(ensemble[:1], truth, weights, lags)
    with pytest.raises(ValueError, match="one entry of lags"):
        variogram_score(ensemble, truth, weights, neighbours((2, 4), (True, True)))
    alone = torch.zeros(8)
    alone[3] = 1
    with pytest.raises(ValueError, match="No pair"):
        variogram_score(ensemble, truth, alone, lags)
