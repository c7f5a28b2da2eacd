"""Histograms that are filled piece by piece, and the distances between them: numpy, closed forms, laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eddycast.metrics import (
    empty_histogram,
    even_edges,
    hellinger,
    jensen_shannon,
    log_ratio,
    mask_weights,
    total_variation,
)

EDGES = torch.linspace(-2, 2, 9, dtype=torch.float64)
DISTANCES = (hellinger, total_variation, jensen_shannon)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_numpy_agrees_and_the_tails_are_kept():
    x, y = normal(2, 3, 40), normal(2, 3, 40, seed=1)
    x[0, 0, 0], y[1, 2, 3] = 2.0, -2.0  # on the outer edges: inside, as in numpy
    weights = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    coarse = torch.tensor([-2.0, -0.5, 1.0, 2.0], dtype=torch.float64)
    joint = empty_histogram(EDGES, coarse).add(x, y, weights=weights)
    mass = weights.expand(2, 3, 40).flatten().numpy()
    expected, _, _ = np.histogram2d(x.flatten(), y.flatten(), bins=[EDGES.numpy(), coarse.numpy()], weights=mass)
    np.testing.assert_allclose(joint.mass[1:-1, 1:-1].numpy(), expected)
    assert float(joint.mass.sum()) == pytest.approx(6 * float(weights.sum()))
    assert joint.outside == pytest.approx(1 - expected.sum() / mass.sum())
    area = torch.diff(EDGES)[:, None] * torch.diff(coarse)
    assert float((joint.density * area).sum()) == pytest.approx(1 - joint.outside)
    one = empty_histogram(coarse).add(y, weights=weights)
    torch.testing.assert_close(joint.marginal(1).mass, one.mass)
    torch.testing.assert_close(joint.marginal(-2).mass, empty_histogram(EDGES).add(x, weights=weights).mass)


def test_streams_add_up():
    values = normal(7, 5, 30)
    whole = empty_histogram(EDGES, EDGES).add(values, values.roll(1, -1))
    start = empty_histogram(EDGES, EDGES)
    parts = start
    for case in values:
        parts = parts.add(case, case.roll(1, -1))
    torch.testing.assert_close(parts.mass, whole.mass)
    first, second = (start.add(v, v.roll(1, -1)) for v in values.split(4))
    torch.testing.assert_close((first + second).mass, whole.mass)
    assert float(start.mass.sum()) == 0  # `add` returns a new one


def test_land_is_ignored_and_lost_points_are_counted():
    values = normal(3, 20)
    valid = torch.arange(20) > 4
    weights = mask_weights(torch.ones(20), valid)
    masked = torch.where(valid, values, math.nan)
    histogram = empty_histogram(EDGES).add(masked, weights=weights)
    torch.testing.assert_close(histogram.mass, empty_histogram(EDGES).add(values[:, valid]).mass * float(weights[-1]))
    assert histogram.lost == 0
    masked[1, 7] = math.inf
    assert empty_histogram(EDGES).add(masked, weights=weights).lost == pytest.approx(float(weights[7]))


def test_gaussian_distances_have_the_closed_form():
    """Fine bins, many points. H^2 = 1 - sqrt(2 s t / (s^2 + t^2)) exp(-d^2 / (4 (s^2 + t^2))); TV = erf(d / (2 sqrt 2 s))."""
    place = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    quantiles = math.sqrt(2) * torch.erfinv(2 * place - 1)
    edges = torch.linspace(-6, 7, 400, dtype=torch.float64)
    one, moved, wide = (empty_histogram(edges).add(v) for v in (quantiles, quantiles + 1, 1.5 * quantiles + 1))
    assert total_variation(one, moved) == pytest.approx(math.erf(1 / (2 * math.sqrt(2))), abs=2e-3)
    overlap = math.sqrt(2 * 1.5 / 3.25) * math.exp(-1 / (4 * 3.25))
    assert hellinger(one, wide) == pytest.approx(math.sqrt(1 - overlap), abs=2e-3)
    inside = log_ratio(moved, one)[1:-1].numpy()
    centres = ((edges[1:] + edges[:-1]) / 2).numpy()
    near = np.abs(centres) < 2
    np.testing.assert_allclose(inside[near], (centres[near] - 0.5) / math.log(10), atol=0.02)


def test_distances_are_distances():
    """Zero for the same law, one for laws apart (the tails count), symmetric, and between each other's bounds."""
    a, b = (empty_histogram(EDGES).add(normal(500, seed=s) * s) for s in (1, 2))
    far = empty_histogram(EDGES).add(torch.full((10,), 50.0))
    near = empty_histogram(EDGES).add(torch.full((10,), 0.1))
    for distance in DISTANCES:
        assert distance(a, a) == pytest.approx(0, abs=1e-12)
        assert distance(far, near) == pytest.approx(1)
        assert distance(a, b) == pytest.approx(distance(b, a))
        assert 0 < distance(a, b) < 1
    assert hellinger(a, b) ** 2 <= total_variation(a, b) <= math.sqrt(2) * hellinger(a, b)
    assert jensen_shannon(a, b) <= total_variation(a, b)


def test_joint_laws_with_equal_marginals_differ():
    """(u, v) correlated or not: the marginals cannot tell, the joint PDF can."""
    u, v = normal(20_000), normal(20_000, seed=1)
    empty = empty_histogram(EDGES, EDGES)
    apart, tied = empty.add(u, v), empty.add(u, 0.9 * u + math.sqrt(1 - 0.81) * v)
    assert hellinger(apart, tied) > 0.3
    for axis in (0, 1):
        assert hellinger(apart.marginal(axis), tied.marginal(axis)) < 0.03


def test_edges_come_from_the_valid_values():
    values = torch.tensor([math.nan, -1.0, 3.0, 99.0])
    edges = even_edges(values, 4, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert edges.tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]
    constant = even_edges(torch.full((5,), 7.0), 3)
    assert float(constant[0]) < 7 < float(constant[-1])
    assert empty_histogram(edges).add(values[1:3]).outside == pytest.approx(0)


def test_wrong_calls_are_told():
    with pytest.raises(ValueError, match="increasing edges"):
        empty_histogram([1.0, 1.0])
    with pytest.raises(ValueError, match="too fine"):
        empty_histogram(*[torch.linspace(0, 1, 400)] * 3)
    with pytest.raises(ValueError, match="Expected 2 quantities"):
        empty_histogram(EDGES, EDGES).add(torch.zeros(3))
    with pytest.raises(ValueError, match="must end in the shape of weights"):
        empty_histogram(EDGES).add(torch.zeros(3), weights=torch.ones(4))
    with pytest.raises(ValueError, match="different edges"):
        hellinger(empty_histogram(EDGES), empty_histogram(EDGES + 1))
    with pytest.raises(ValueError, match="No finite value"):
        even_edges(torch.full((3,), math.nan), 2)
