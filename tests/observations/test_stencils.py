"""Weights along one axis: exact on the functions of their degree, measured orders of convergence, ends and seams."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eddycast.errors import InputError
from eddycast.grid import Axis, periodic_axis
from eddycast.observations.stencils import check_rule, covered, inside, interpolate, mean_over, whole

RNG = np.random.default_rng(5)
UNEVEN = Axis("z", tuple(np.sort(np.random.default_rng(1).uniform(0, 2, 9)).tolist()), ("wall", "wall"))
FALLING = Axis("latitude", tuple(np.linspace(80, -80, 33).tolist()), ("open", "open"))


@pytest.mark.parametrize("rule, degree", [("nearest", 0), ("linear", 1), ("cubic", 3)])
@pytest.mark.parametrize("axis", [UNEVEN, FALLING], ids=["uneven", "falling"])
def test_polynomials_of_its_degree_are_exact_up_to_the_ends_of_a_bounded_axis(axis, rule, degree):
    x = np.asarray(axis.coordinates)
    position = np.concatenate([RNG.uniform(x.min(), x.max(), 200), x[[0, -1]]])
    index, weight = interpolate(axis, rule, position)
    scale = np.abs(x).max()
    for power in range(degree + 1):
        value = (weight * (x[index] / scale) ** power).sum(axis=1)
        assert np.abs(value - (position / scale) ** power).max() < 1e-12
    missed = (weight * (x[index] / scale) ** (degree + 1)).sum(axis=1) - (position / scale) ** (degree + 1)
    assert np.abs(missed).max() > 1e-6  # one degree more is not


@pytest.mark.parametrize("points", [12, 13])
def test_trigonometric_polynomials_are_exact_in_fourier_interpolation(points):
    axis = periodic_axis("x", points, 3.0)
    x, position = np.asarray(axis.coordinates), np.concatenate([RNG.uniform(-5, 8, 100), np.asarray(axis.coordinates)])
    index, weight = interpolate(axis, "fourier", position)
    for mode in range((points - 1) // 2 + 1):
        for wave in (np.cos, np.sin):
            value = (weight * wave(2 * np.pi * mode * x / 3.0)[index]).sum(axis=1)
            assert np.abs(value - wave(2 * np.pi * mode * position / 3.0)).max() < 1e-12


@pytest.mark.parametrize("rule, order", [("nearest", 1), ("linear", 2), ("cubic", 4)])
@pytest.mark.parametrize("periodic", [True, False])
def test_the_order_of_convergence(rule, order, periodic):
    """exp(sin x) is analytic; halving the spacing 3 times."""
    errors = []
    for points in (32, 64, 128, 256):
        axis = periodic_axis("x", points, 2 * math.pi)
        if not periodic:
            axis = Axis("x", tuple(np.linspace(0, 2 * math.pi, points + 1).tolist()), ("wall", "wall"))
        position = np.random.default_rng(0).uniform(0, 2 * math.pi, 20000)
        index, weight = interpolate(axis, rule, position)
        value = (weight * np.exp(np.sin(np.asarray(axis.coordinates)))[index]).sum(axis=1)
        errors.append(np.abs(value - np.exp(np.sin(position))).max())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert orders.mean() == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("rule", ["nearest", "linear", "cubic", "fourier"])
def test_grid_points_are_themselves_and_a_period_makes_no_difference(rule):
    axis = periodic_axis("x", 10, 5.0)
    x = np.asarray(axis.coordinates)
    for turns in (-2, 0, 3):
        index, weight = interpolate(axis, rule, x + 5.0 * turns)
        picked = np.zeros((10, 10))
        np.add.at(picked, (np.arange(10)[:, None], index), weight)
        assert np.abs(picked - np.eye(10)).max() < 1e-12
    _, weight = interpolate(axis, rule, RNG.uniform(-9, 9, 50))
    assert np.abs(weight.sum(axis=1) - 1).max() < 1e-12


def test_means_over_whole_cells_and_parts_of_them():
    """The mean of a step function over an interval is the overlap; the mean of everything has the quadrature weights."""
    axis = periodic_axis("x", 8, 8.0)  # cells [k - 1/2, k + 1/2]
    lower, upper = np.array([0.5, -0.5, 6.25, 2.0, 0.3]), np.array([3.5, 7.5, 9.75, 2.25, 8.3])
    first, count = covered(axis, lower, upper)
    index, weight = mean_over(axis, lower, upper, first, 16)
    dense = np.zeros((5, 8))
    np.add.at(dense, (np.arange(5)[:, None], index), weight)
    assert np.allclose(dense[0], [0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0], atol=1e-15)
    assert np.allclose(dense[[1, 4]], 1 / 8, atol=1e-15)
    assert np.allclose(dense[2], np.array([1, 1, 0.25, 0, 0, 0, 0.25, 1]) / 3.5, atol=1e-15)
    assert np.allclose(dense[3], np.eye(8)[2], atol=1e-15)
    assert count.tolist() == [3, 8, 5, 1, 9] and whole(axis, lower, upper).tolist() == [False, True, False, False, True]
    latitude = Axis("y", FALLING.coordinates, ("open", "open"), weights=tuple(np.cos(np.radians(FALLING.coordinates))))
    lower, upper = np.array([-82.5]), np.array([82.5])
    index, weight = mean_over(latitude, lower, upper, covered(latitude, lower, upper)[0], 64)
    area = np.cos(np.radians(np.asarray(latitude.coordinates)))
    assert np.allclose(np.bincount(index[0], weight[0], 33), area / area.sum(), atol=1e-15)


def test_what_lies_inside():
    bounded = Axis("x", (0.0, 1.0, 2.0), ("wall", "wall"))
    at = np.array([-0.4, -1e-4, 1.0, 2.4, 2.6, np.nan])
    assert inside(bounded, "linear", at, at).tolist() == [False, True, True, False, False, False]
    assert inside(bounded, "nearest", at, at).tolist() == [True, True, True, True, False, False]
    assert inside(bounded, "linear", np.array([-0.5, -0.6]), np.array([2.5, 1.0])).tolist() == [True, False]
    ring = periodic_axis("x", 4, 4.0)
    assert inside(ring, "cubic", np.array([-99.0, 0.0, np.inf]), np.array([-99.0, 4.1, np.inf])).tolist() == [
        True,
        False,
        False,
    ]
    for axis, rule, word in (
        (bounded, "fourier", "uniform periodic"),
        (bounded, "cubic", "4 points"),
        (ring, "spline", "known are"),
    ):
        with pytest.raises(InputError, match=word):
            check_rule(axis, rule)
