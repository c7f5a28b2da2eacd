"""The sketched energy score: the law of its error, unbiased squares, and the score it estimates."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import energy_score, field_sketch, mask_weights, sketched_energy_score

POINTS = 1536


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def smooth(*shape, seed=0):
    """Long waves: neighbours are nearly equal, the worst a fixed bucket of neighbours could meet."""
    waves = torch.arange(1, 6, dtype=torch.float64)[:, None] * torch.linspace(0, 2 * math.pi, POINTS + 1)[:-1].double()
    return normal(*shape, 5, seed=seed) @ waves.sin() + normal(*shape, 5, seed=seed + 1) @ waves.cos()


def spike(*shape, seed=0):
    field = torch.zeros(*shape, POINTS, dtype=torch.float64)
    field[..., 700:720] = normal(*shape, 20, seed=seed)
    return field


@pytest.mark.parametrize("field", [lambda: normal(4, POINTS), lambda: smooth(4)], ids=["white", "smooth"])
def test_squared_lengths_are_unbiased_and_err_as_the_law_says(field):
    """Points of a row never meet, others with probability 1 / s: the variance is (2 / s) (1 - sum of row energies^2)."""
    fields, weights, draws = field(), torch.ones(POINTS), 200
    energy = fields.square()
    exact = energy.mean(dim=-1)
    for size in (32, 128, 384):
        found = torch.stack(
            [field_sketch(fields, weights, size=size, generator=seeded(s)).square().sum(dim=-1) for s in range(draws)]
        )
        error = found / exact - 1
        rows = energy.reshape(4, -1, size).sum(dim=-1) / energy.sum(dim=-1, keepdim=True)
        variance = (2 / size) * (1 - rows.square().sum(dim=-1))
        assert float((error.mean(dim=0) / variance.sqrt()).abs().max()) < 4 / math.sqrt(draws)
        # Square errors of a nearly chi-square variable: kurtosis below 6, so a deviation of sqrt(5 / draws) of the mean.
        assert float((error.square().mean(dim=0) / variance - 1).abs().max()) < 4 * math.sqrt(5 / draws)
        assert float((error.square().mean(dim=0) / variance - 1).mean().abs()) < 0.25


def test_what_lies_in_one_row_of_buckets_is_not_mixed_up():
    """A structure shorter than the sketch falls into buckets of its own: its length is then exact, never worse."""
    fields = spike(3)
    found = field_sketch(fields, torch.ones(POINTS), size=500, generator=seeded(0)).square().sum(dim=-1)
    torch.testing.assert_close(found, fields.square().mean(dim=-1))


def test_a_field_that_repeats_with_the_sketch_errs_no_more_than_others():
    """All its points stand in one column: buckets that did not move from row to row would add all of them up."""
    fields, size, draws = torch.zeros(4, POINTS, dtype=torch.float64), 32, 200
    fields[:, 5::size] = normal(4, POINTS // size)
    exact = fields.square().mean(dim=-1)
    found = torch.stack(
        [
            field_sketch(fields, torch.ones(POINTS), size=size, generator=seeded(s)).square().sum(-1)
            for s in range(draws)
        ]
    )
    assert float((found / exact - 1).square().mean(dim=0).max()) < 1.5 * 2 / size


def test_the_sketch_is_linear_weighted_and_blind_on_land():
    first, second = normal(2, 30, 100), normal(2, 30, 100, seed=1)
    weights = torch.rand(30, 100, generator=seeded(2), dtype=torch.float64)
    weights[5:9] = 0

    def sketch(fields):
        return field_sketch(fields, weights, size=64, generator=seeded(3))

    torch.testing.assert_close(sketch(2 * first - second), 2 * sketch(first) - sketch(second))
    torch.testing.assert_close(sketch(torch.where(weights > 0, first, math.nan)), sketch(first))
    mean = torch.stack(
        [field_sketch(first, weights, size=64, generator=seeded(s)).square().sum(-1) for s in range(200)]
    )
    exact = (weights * first.square()).sum(dim=(-2, -1)) / weights.sum()
    assert float((mean.mean(dim=0) / exact - 1).abs().max()) < 4 * math.sqrt(2 / 64 / 200)


@pytest.mark.parametrize("make", [normal, lambda *s, seed: smooth(*s[:-1], seed=seed)], ids=["white", "smooth"])
@pytest.mark.parametrize("fair", [True, False])
def test_the_score_errs_with_the_root_of_the_size(fair, make):
    """Score of 12 members: relative error below 2 / sqrt(2 s) in rms (two distances enter), falling as s^(-1/2)."""
    ensemble, truth, weights = make(12, POINTS, seed=4), make(POINTS, seed=9), torch.ones(POINTS)
    exact = energy_score(ensemble, truth, weights, fair=fair)
    spreads = []
    for size in (16, 64, 256):
        found = torch.stack(
            [
                sketched_energy_score(ensemble, truth, weights, size=size, generator=seeded(s), fair=fair)
                for s in range(60)
            ]
        )
        error = found / exact - 1
        spreads.append(float(error.square().mean().sqrt()))
        assert spreads[-1] < 2 / math.sqrt(2 * size)
        bias = float(error.mean())
        assert abs(bias) < 1 / size + 4 * spreads[-1] / math.sqrt(60)
    slope = math.log(spreads[2] / spreads[0]) / math.log(16)
    assert slope == pytest.approx(-0.5, abs=0.15)


def test_small_fields_are_exact_and_the_seed_decides():
    ensemble, truth = normal(5, 2, 8, 8), normal(2, 8, 8, seed=1)
    weights = torch.ones(8, 8)
    torch.testing.assert_close(
        sketched_energy_score(ensemble, truth, weights, size=64, generator=seeded(0)),
        energy_score(ensemble, truth, weights),
    )
    one, same, other = (
        sketched_energy_score(ensemble, truth, weights, size=10, generator=seeded(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # The sketch is common to all cases, so a case may be scored alone.
    alone = sketched_energy_score(ensemble[:, 1:], truth[1:], weights, size=10, generator=seeded(0))
    torch.testing.assert_close(alone, one[1:])


def test_masks_equal_absence_and_bad_members_show():
    ensemble, truth = normal(5, 2, 40, 50), normal(2, 40, 50, seed=1)
    valid = torch.rand(40, 50, generator=seeded(5)) < 0.7
    weights = mask_weights(torch.ones(40, 50), valid)
    clean = sketched_energy_score(ensemble, truth, weights, size=100, generator=seeded(0))
    filled = [torch.where(valid, field, math.nan) for field in (ensemble, truth)]
    torch.testing.assert_close(sketched_energy_score(*filled, weights, size=100, generator=seeded(0)), clean)
    for bad in (math.nan, math.inf):
        broken = ensemble.clone()
        broken[2, 1][valid] = bad
        for score in (
            energy_score(broken, truth, weights),
            sketched_energy_score(broken, truth, weights, size=100, generator=seeded(0)),
        ):
            assert math.isfinite(score[0])
            assert math.isnan(score[1])


def test_close_members_keep_their_distance():
    """Members 1e-5 apart, far from the truth: pairs come from products, and must not drown in rounding."""
    base, shifts = normal(1, 400), 1e-5 * torch.arange(4, dtype=torch.float64)[:, None, None]
    ensemble, truth = base + shifts, base + 3.0
    expected = float((3.0 - shifts).mean()) - 1e-5 * 10 / (4 * 3)
    found = energy_score(ensemble, truth, torch.ones(400))
    assert float(found) == pytest.approx(expected, abs=1e-12)
    same = energy_score(base.expand(4, 1, 400), truth, torch.ones(400))
    assert float(same) == pytest.approx(3.0, abs=1e-13)


def test_wrong_calls_are_told():
    with pytest.raises(ValueError, match="at least one entry"):
        sketched_energy_score(normal(2, 9), normal(9), torch.ones(9), size=0, generator=seeded(0))
    with pytest.raises(ValueError, match="must end in the shape of weights"):
        energy_score(normal(2, 9), normal(9), torch.ones(8))
    with pytest.raises(ValueError, match="at least 2 members"):
        sketched_energy_score(normal(1, 9), normal(9), torch.ones(9), size=3, generator=seeded(0))
    with pytest.raises(ValueError, match="all zero"):
        energy_score(normal(2, 9), normal(9), torch.zeros(9))
