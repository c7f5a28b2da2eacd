"""Wasserstein distances of values, of laws of fields, and of mass on a grid: closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import (
    earth_movers_distance,
    mask_weights,
    pooled_wasserstein,
    sliced_wasserstein,
    wasserstein,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def line(points, length=1.0):
    return Axis("x", tuple(length * (k + 0.5) / points for k in range(points)), ("wall", "wall"))


sizes = st.integers(1, 12)


@given(sizes, sizes, st.integers(0, 10**6), st.booleans())
def test_scipy_agrees(first, second, seed, weighted):
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(3, first, seed=seed).round(decimals=1), normal(3, second, seed=seed + 1).round(decimals=1)
    u = torch.rand(3, first, generator=seeded(seed), dtype=torch.float64) + 0.01 if weighted else None
    v = torch.rand(3, second, generator=seeded(seed + 1), dtype=torch.float64) + 0.01 if weighted else None
    found = wasserstein(x, y, first_weights=u, second_weights=v)
    for row in range(3):
        masses = (None, None) if u is None or v is None else (u[row].numpy(), v[row].numpy())
        assert float(found[row]) == pytest.approx(stats.wasserstein_distance(x[row], y[row], *masses), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3.5])
def test_translations_are_exact(order):
    """In any order the distance of a translate is the shift, weights or none, sizes equal or not."""
    values = normal(4, 30)
    found = wasserstein(values, values + 0.7, order=order)
    torch.testing.assert_close(found, torch.full((4,), 0.7, dtype=torch.float64))
    twice = (values + 0.7).repeat(1, 2)
    torch.testing.assert_close(wasserstein(values, twice, order=order), found)
    mass = torch.rand(30, generator=seeded(1), dtype=torch.float64)
    same = wasserstein(values, values + 0.7, order=order, first_weights=mass, second_weights=mass)
    torch.testing.assert_close(same, found)


@pytest.mark.parametrize("order", [1, 2])
def test_gaussians_have_the_closed_form(order):
    """W_2^2 = (m - n)^2 + (s - t)^2; with n = m, W_1 = |s - t| sqrt(2 / pi). Quantiles, so no sampling error."""
    place = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    quantiles = math.sqrt(2) * torch.erfinv(2 * place - 1)
    shift = 0.0 if order == 1 else 0.5
    found = float(wasserstein(1.3 * quantiles, shift + 0.6 * quantiles, order=order))
    expected = 0.7 * math.sqrt(2 / math.pi) if order == 1 else math.hypot(0.5, 0.7)
    assert found == pytest.approx(expected, rel=1e-3)


def test_repeating_a_value_is_weighing_it():
    x, y = normal(5), normal(7, seed=1)
    times = torch.tensor([3, 1, 0, 2, 4])
    x_with_hole = x.clone()
    x_with_hole[2] = math.nan
    for order in (1, 2):
        found = wasserstein(x_with_hole, y, first_weights=times, order=order)
        torch.testing.assert_close(found, wasserstein(x.repeat_interleave(times), y, order=order))
    assert math.isnan(wasserstein(x_with_hole, y, first_weights=times + 1))


def test_pooled_values_do_not_care_where():
    """A field and its mirror image: no distance. Land does not count. Quadrature does."""
    truth = normal(2, 6, 9)
    ensemble = torch.stack([truth.flip(-1), truth.roll(3, -2)])
    assert float(pooled_wasserstein(ensemble, truth, torch.ones(6, 9)).abs().max()) < 1e-12
    shifted = pooled_wasserstein(ensemble + 0.25, truth, torch.ones(6, 9), order=2)
    torch.testing.assert_close(shifted, torch.full((2,), 0.25, dtype=torch.float64))
    valid = torch.rand(6, 9, generator=seeded(2)) < 0.6
    masked = [torch.where(valid, field, math.nan) for field in (normal(3, 2, 6, 9, seed=4), truth)]
    found = pooled_wasserstein(*masked, mask_weights(torch.ones(6, 9), valid))
    cut = [field[..., valid] for field in (normal(3, 2, 6, 9, seed=4), truth)]
    expected = wasserstein(cut[0].movedim(0, 1).flatten(1), cut[1])
    torch.testing.assert_close(found, expected)


def test_translated_laws_of_fields_are_rms_apart():
    """SW_2^2 of a translation by t is mean (theta . t)^2, chi-square around <t^2>: within 4 standard errors."""
    points, directions = 40, 2000
    weights = torch.rand(points, generator=seeded(1), dtype=torch.float64) + 0.2
    sample, shift = normal(7, 3, points), normal(points, seed=5)
    found = sliced_wasserstein(sample, sample + shift, weights, generator=seeded(2), directions=directions)
    expected = float((weights * shift.square()).sum() / weights.sum())
    assert float(found.max() - found.min()) < 1e-12  # the same directions for every case
    assert abs(float(found[0] ** 2) / expected - 1) < 4 * math.sqrt(2 / directions)
    again = sliced_wasserstein(sample, sample + shift, weights, generator=seeded(2), directions=directions)
    assert torch.equal(found, again)
    land = torch.cat([weights, torch.zeros(3 * points, dtype=torch.float64)])  # does not count, however much of it
    wide = [torch.cat([fields, normal(7, 3, 3 * points, seed=8)], dim=-1) for fields in (sample, sample + shift)]
    found = sliced_wasserstein(*wide, land, generator=seeded(2), directions=directions)
    assert abs(float(found[0] ** 2) / expected - 1) < 4 * math.sqrt(2 / directions)


def test_laws_of_fields_with_the_same_marginals_differ():
    """Smooth against white fields, both standard normal at every point: pooled values agree, slices do not."""
    points, samples = 24, 800
    waves = torch.linspace(0, 2 * math.pi, points + 1, dtype=torch.float64)[:-1]

    def smooth(seed):
        return normal(samples, 1, seed=seed) * waves.sin() + normal(samples, 1, seed=seed + 50) * waves.cos()

    one, other, white = smooth(1), smooth(2), normal(samples, points, seed=3)
    weights = torch.ones(points)
    pooled = wasserstein(one.flatten(), white.flatten())
    assert float(pooled) < 4 / math.sqrt(samples)
    alike, apart = (sliced_wasserstein(one, x, weights, generator=seeded(0)) for x in (other, white))
    assert float(apart) > 3 * float(alike)


def test_slices_of_one_point_are_the_wasserstein_distance():
    x, y = normal(9, 2, 1), normal(5, 2, 1, seed=1)
    found = sliced_wasserstein(x, y, torch.ones(1), generator=seeded(0), directions=3, order=1)
    torch.testing.assert_close(found, wasserstein(x[..., 0].T, y[..., 0].T))


def test_mass_on_a_line_is_carried_exactly():
    """In 1-D the earth mover's distance is that of the positions weighted with mass: scipy is the referee."""
    stats = pytest.importorskip("scipy.stats")
    grid = Grid((line(30, 2.5),))
    first, second = (torch.rand(2, 30, generator=seeded(s), dtype=torch.float64) for s in (1, 2))
    found = earth_movers_distance(first, second, grid)
    place = np.asarray(grid.axes[0].coordinates)
    for row in range(2):
        assert float(found[row]) == pytest.approx(stats.wasserstein_distance(place, place, first[row], second[row]))
    torch.testing.assert_close(earth_movers_distance(3 * first, second, grid), found)  # masses are normalised


@pytest.mark.parametrize("shape, expected", [((30, 24), 2 / math.pi), ((12, 10, 14), 0.5)])
def test_moved_mass_costs_its_distance(shape, expected):
    """A blob carried by t costs |t| times the mean of |cos|: 2 / pi on the circle, 1 / 2 on the sphere."""
    grid = Grid(
        tuple(
            Axis(name, line(size, 0.1 * size).coordinates, ("wall", "wall"))
            for name, size in zip("xyz"[: len(shape)], shape, strict=True)
        )
    )
    blob = torch.zeros(shape, dtype=torch.float64)
    blob[(slice(2, 5),) * len(shape)] = torch.rand((3,) * len(shape), generator=seeded(1), dtype=torch.float64)
    steps = (4, 3, 5)[: len(shape)]
    moved = blob.roll(steps, dims=tuple(range(len(shape))))
    found = float(earth_movers_distance(blob[None], moved[None], grid, directions=400))
    assert found == pytest.approx(0.1 * math.hypot(*steps) * expected, rel=5e-3)
    assert float(earth_movers_distance(blob, blob, grid)) == 0


def test_land_holds_no_mass():
    grid = Grid((line(12),))
    field, other = (torch.rand(12, generator=seeded(s), dtype=torch.float64) for s in (1, 2))
    valid = torch.arange(12) < 8
    weights = mask_weights(grid.weights(), valid)
    masked = [torch.where(valid, one, math.nan) for one in (field, other)]
    short = Grid((Axis("x", grid.axes[0].coordinates[:8], ("wall", "wall")),))
    expected = earth_movers_distance(field[:8], other[:8], short)
    torch.testing.assert_close(earth_movers_distance(*masked, grid, weights=weights), expected)


def test_wrong_calls_are_told():
    grid = Grid((periodic_axis("x", 6, 1.0),))
    with pytest.raises(ValueError, match="negative somewhere"):
        earth_movers_distance(-torch.ones(6), torch.ones(6), grid)
    with pytest.raises(ValueError, match="one shape that ends"):
        earth_movers_distance(torch.ones(5), torch.ones(5), grid)
    with pytest.raises(ValueError, match="order of at least 1"):
        wasserstein(torch.ones(3), torch.ones(3), order=0.5)
    with pytest.raises(ValueError, match="must agree"):
        wasserstein(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="nor all be zero"):
        wasserstein(torch.ones(3), torch.ones(3), first_weights=torch.zeros(3))
    with pytest.raises(ValueError, match="at least one direction"):
        sliced_wasserstein(torch.ones(2, 6), torch.ones(2, 6), torch.ones(6), generator=seeded(0), directions=0)
