"""Grids: quadrature, the way to a file and back, and what they refuse."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eddycast.grid import Axis, Grid, periodic_axis

finite = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def axes(draw) -> Axis:
    coordinates = tuple(sorted(draw(st.sets(finite, min_size=1, max_size=6))))
    size = len(coordinates)
    weights = draw(st.none() | st.lists(st.floats(0.01, 100), min_size=size, max_size=size).map(tuple))
    name, units = draw(st.text(max_size=5)), draw(st.sampled_from(["1", "m", "degrees_north"]))
    if draw(st.booleans()):
        return Axis(name, coordinates, units=units, period=draw(st.floats(0.1, 1e3)), weights=weights)
    sides = draw(st.tuples(st.sampled_from(["wall", "open"]), st.sampled_from(["wall", "open"])))
    return Axis(name, coordinates, boundary=sides, units=units, weights=weights)


grids = st.lists(axes(), min_size=1, max_size=3).map(lambda found: Grid(tuple(found)))


@given(grids)
def test_grid_survives_json_exactly(grid):
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid and hash(again) == hash(grid)


@given(grids)
def test_weights_have_mean_one_and_the_ratio_of_the_axes(grid):
    weights = grid.weights()
    assert weights.shape == grid.shape and weights.dtype == torch.float64
    assert weights.mean().item() == pytest.approx(1, rel=1e-12)
    first = weights.reshape(-1)[0]
    for number, axis in enumerate(grid.axes):
        profile = weights.movedim(number, 0).reshape(axis.size, -1)[:, 0] / first
        exact = torch.tensor(axis.weights or (1.0,) * axis.size, dtype=torch.float64)
        assert torch.allclose(profile, exact / exact[0], rtol=1e-12)


def test_weighted_mean_is_the_integral_over_the_sphere():
    """Weighted by the cosine of latitude the mean of sin^2(latitude) is 1/3, of cos^2(longitude) 1/2."""
    latitude = [-90 + 2 * (j + 0.5) for j in range(90)]
    cosine = tuple(math.cos(math.radians(value)) for value in latitude)
    grid = Grid((Axis("lat", tuple(latitude), ("wall", "wall"), weights=cosine), periodic_axis("lon", 12, 360.0)))
    sine = torch.tensor(latitude, dtype=torch.float64).deg2rad().sin()[:, None].expand(90, 12)
    wave = (torch.arange(12, dtype=torch.float64) * torch.pi / 6).cos().expand(90, 12)
    assert (grid.weights() * sine.square()).mean().item() == pytest.approx(1 / 3, abs=1e-4)
    assert (grid.weights() * wave.square()).mean().item() == pytest.approx(1 / 2, abs=1e-12)
    assert (grid.weights() * sine.square() * wave.square()).mean().item() == pytest.approx(1 / 6, abs=1e-4)


def test_weights_take_the_dtype_asked_for():
    assert Grid((periodic_axis("x", 4, 1.0),)).weights(torch.float32).dtype == torch.float32


def test_periodic_axis_leaves_out_the_last_point():
    axis = periodic_axis("x", 5, 10.0, units="m")
    assert axis.coordinates == (0.0, 2.0, 4.0, 6.0, 8.0)
    assert axis.period == 10.0 and axis.periodic and axis.size == 5 and axis.units == "m"


def test_grid_describes_its_tensor_dimensions():
    grid = Grid((periodic_axis("y", 3, 1.0), Axis("z", (0.0, 1.0, 4.0, 9.0), ("wall", "open"))))
    assert grid.shape == (3, 4) and grid.names == ("y", "z") and grid.dims == (-2, -1)
    assert grid.periodic == (True, False) and grid.num_points == 12
    field = torch.zeros(7, 2, *grid.shape)
    assert field.sum(dim=grid.dims).shape == (7, 2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"boundary": ("periodic", "wall"), "period": 1.0}, "'x' is periodic on one side only"),
        ({"boundary": ("open", "periodic"), "period": 1.0}, "'x' is periodic on one side only"),
        ({}, "'x' needs its period"),
        ({"period": 1.0, "weights": (1.0,)}, "'x' has 2 points but 1 weights"),
    ],
)
def test_contradictory_axis_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Axis("x", (0.0, 0.5), **arguments)
