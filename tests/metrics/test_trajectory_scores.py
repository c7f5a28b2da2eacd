"""Scores of whole trajectories against the published formulas written out in numpy, and vorticities of known flows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import (
    counted_time,
    point_rmsd,
    published_vorticity,
    rank_flatness,
    rank_histogram,
    root_mean_over_leads,
    standard_error,
    state_rmsd,
    vorticity,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rmsd_by_hand():
    """Two states of two points: errors (3, 4) and (0, 0). Norms 5 and 0: sqrt(25 / 2); per point sqrt(25 / 4)."""
    forecast = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=torch.float64)
    truth, weights = torch.zeros_like(forecast), torch.ones(2)
    assert state_rmsd(forecast, truth, weights).tolist() == pytest.approx([math.sqrt(12.5)])
    assert point_rmsd(forecast, truth, weights).tolist() == pytest.approx([2.5])


@pytest.mark.parametrize("space", [(256,), (64, 64)])
def test_rmsd_is_the_published_formula(space):
    """mean_b sqrt(mean_t sum_x err^2), and 16 or 64 times the other convention, as the published grids have it."""
    forecast, truth = noise(5, 7, *space), noise(5, 7, *space, seed=1)
    error = (forecast - truth).numpy().reshape(5, 7, -1)
    published = np.sqrt((error**2).sum(axis=-1).mean(axis=-1))
    weights = torch.ones(space)
    np.testing.assert_allclose(state_rmsd(forecast, truth, weights), published, rtol=1e-12)
    ratio = state_rmsd(forecast, truth, weights) / point_rmsd(forecast, truth, weights)
    np.testing.assert_allclose(ratio, math.sqrt(math.prod(space)))
    np.testing.assert_allclose(
        standard_error(torch.as_tensor(published)), published.std(ddof=1) / math.sqrt(5), rtol=1e-12
    )


def test_land_is_neither_summed_nor_counted():
    forecast, truth = noise(3, 4, 6), noise(3, 4, 6, seed=1)
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0]) * 1.5
    forecast[..., 4:] = math.nan
    cropped = state_rmsd(forecast[..., :4], truth[..., :4], torch.ones(4))
    torch.testing.assert_close(state_rmsd(forecast, truth, weights), cropped)


def test_given_and_missing_states_of_a_mean_over_leads():
    """Squares 4, 8, none: mean 6; with two given states, which have no error, 12 / 4 = 3."""
    square = torch.tensor([4.0, 8.0, math.nan])
    shown = torch.tensor([True, True, False])
    assert float(root_mean_over_leads(square, shown)) == pytest.approx(math.sqrt(6))
    assert float(root_mean_over_leads(square, shown, given=2)) == pytest.approx(math.sqrt(3))
    assert math.isnan(float(root_mean_over_leads(square, shown & False)))
    assert math.isnan(float(root_mean_over_leads(square)))  # a blow-up is not averaged away


def test_standard_errors_of_some_cases():
    values = torch.tensor([[1.0, 1.0], [3.0, math.nan], [5.0, 2.0]], dtype=torch.float64)
    shown = torch.tensor([[True, True], [True, False], [True, True]])
    assert standard_error(values, shown).tolist() == pytest.approx([2 / math.sqrt(3), 0.5])
    assert bool(standard_error(values[:1]).isnan().all())
    assert math.isnan(float(standard_error(values)[1]))


def test_the_published_high_correlation_time_counts_every_state_and_the_given_ones():
    """mean_b sum_t 1[corr >= 0.8] * 0.2 over given and forecast states, written out."""
    correlation = noise(6, 40, seed=3).tanh()
    whole = np.concatenate([np.ones((6, 8)), correlation.numpy()], axis=1)  # given states correlate perfectly
    published = ((whole >= 0.8).sum(axis=1) * 0.2).mean()
    leads = 0.2 * torch.arange(1, 41, dtype=torch.float64)
    assert float(counted_time(correlation, leads, given=8 * 0.2).mean()) == pytest.approx(published)


def test_flatness_of_ranks():
    """Flat 0; all in one rank 2 M / (M + 1); a reliable ensemble sqrt(2 M / (pi N)) from N independent ranks."""
    assert float(rank_flatness(torch.full((5,), 0.2))) == pytest.approx(0, abs=1e-6)
    assert float(rank_flatness(torch.tensor([1.0, 0, 0, 0, 0]))) == pytest.approx(1.6)
    number, members = 4000, 4
    ranks = rank_histogram(noise(members, 200, number), noise(200, number, seed=1), torch.ones(number))
    expected = math.sqrt(2 * members / (math.pi * number))
    assert float(rank_flatness(ranks).mean()) == pytest.approx(expected, rel=0.1)  # 200 histograms: some 3 %


def box(names=("x", "y"), points=(64, 64), lengths=(2 * math.pi, 2 * math.pi)):
    return Grid(tuple(periodic_axis(*axis) for axis in zip(names, points, lengths, strict=True)))


def shear(grid):
    """u = sin(2 y), v = cos(3 x) on the grid, stored in the order of its axes: vorticity -3 sin(3 x) - 2 cos(2 y)."""
    x, y = (torch.tensor(grid.axes[grid.names.index(name)].coordinates, dtype=torch.float64) for name in "xy")
    x, y = (x[:, None], y[None, :]) if grid.names == ("x", "y") else (x[None, :], y[:, None])
    parts = {"x": torch.sin(2 * y) + 0 * x, "y": torch.cos(3 * x) + 0 * y}
    return torch.stack([parts[name] for name in grid.names]), -3 * torch.sin(3 * x) - 2 * torch.cos(2 * y)


@pytest.mark.parametrize("names", [("x", "y"), ("y", "x")])
def test_the_physical_vorticity_is_exact_in_either_order_of_the_axes(names):
    grid = box(names, (32, 24))
    velocity, exact = shear(grid)
    torch.testing.assert_close(vorticity(velocity, grid), exact)


def test_the_published_vorticity_is_minus_that_in_grid_units():
    """Mode k is damped by sin(k h) / (k h) as well, here less than 1.5 %."""
    grid = box()
    velocity, exact = shear(grid)
    step = 2 * math.pi / 64
    torch.testing.assert_close(published_vorticity(velocity, grid), -exact * step, rtol=0, atol=0.015 * 5 * step)


def test_the_published_vorticity_is_that_of_the_published_code():
    """Circular padding by one, numpy's centred gradient with unit spacing, and du/d(last) - dv/d(second last)."""
    velocity = noise(3, 2, 16, 12)
    padded = np.pad(velocity.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")
    curl = np.gradient(padded[:, 0], axis=-1) - np.gradient(padded[:, 1], axis=-2)
    grid = box(points=(16, 12))
    np.testing.assert_allclose(published_vorticity(velocity, grid), curl[:, 1:-1, 1:-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("curl", [vorticity, published_vorticity])
def test_no_vorticity_without_a_periodic_plane(curl):
    walls = Grid((periodic_axis("x", 8, 1.0), Axis("y", (0.0, 1.0, 2.0), ("wall", "wall"))))
    with pytest.raises(ValueError, match="two periodic axes"):
        curl(noise(2, 8, 3), walls)
    with pytest.raises(ValueError, match="velocity on"):
        curl(noise(3, 8, 8), box(points=(8, 8)))
