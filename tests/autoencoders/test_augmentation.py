"""Views of a state: inverses, signs and places of vector components against calculus and a solver, codes of boundaries, draws."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from eddycast.autoencoders import Components, View, draw_view, flip, permute, roll
from eddycast.noise import MemberNoise
from eddycast.simulators import get_system

AXES = ("x", "y", "z")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector_and_scalar(axes: int) -> Components:
    """A scalar, two vectors of which one comes in the reverse order, and a scalar again."""
    names = ["p", *(f"velocity_{name}" for name in AXES[:axes]), *(f"b_{name}" for name in AXES[:axes][::-1]), "q"]
    vectors = ["", *["velocity"] * axes, *["b"] * axes, ""]
    return Components.of(names, vectors, AXES[:axes])


def test_components_are_read_off_names():
    found = Components.of(
        ["density", "momentum_y", "momentum_x", "w"], ["", "momentum", "momentum", "flow"], ["x", "y"]
    )
    assert found == Components((None, 1, 0, None), (None, "momentum", "momentum", None), 2)


def views(axes: int) -> list[View]:
    """All flips and orders, with a roll."""
    shifts = tuple(range(1, axes + 1))
    return [
        View(flips, order, shifts)
        for flips in product((False, True), repeat=axes)
        for order in permutations(range(axes))
    ]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_flips_and_permutations_undo_themselves(axes):
    components = vector_and_scalar(axes)
    x = normal(2, len(components.axis), *range(3, 3 + axes))
    for axis in range(axes):
        assert torch.equal(flip(flip(x, axis, components), axis, components), x)
        assert not torch.equal(flip(x, axis, components), x)
    for order in permutations(range(axes)):
        inverse = [order.index(axis) for axis in range(axes)]
        moved = permute(x, order, components)
        assert moved.shape[2:] == tuple(x.shape[2 + axis] for axis in order)
        assert torch.equal(permute(moved, inverse, components), x)
    shifts = tuple(range(1, 1 + axes))
    assert torch.equal(roll(roll(x, shifts), [-shift for shift in shifts]), x)


def test_any_number_of_axes_may_stand_in_front():
    components = vector_and_scalar(2)
    view = View((True, False), (1, 0), (1, 2))
    x = normal(2, 3, 4, 6, 5, 5)
    assert torch.equal(view(x, components), view(x.flatten(0, 2), components).unflatten(0, (2, 3, 4)))


def derivative(x: Tensor, axis: int, axes: int) -> Tensor:
    """Exact derivative of band-limited periodic fields (..., *space)."""
    dim, size = axis - axes, x.shape[axis - axes]
    wavenumber = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    wavenumber[size // 2] = 0 if size % 2 == 0 else wavenumber[size // 2]
    shape = [size if other == axis else 1 for other in range(axes)]
    return torch.fft.ifft(1j * wavenumber.reshape(shape) * torch.fft.fft(x, dim=dim), dim=dim).real


def divergence(u: Tensor, axes: int) -> Tensor:
    return sum((derivative(u[..., axis, *(slice(None),) * axes], axis, axes) for axis in range(axes)), torch.zeros(()))


def curl(u: Tensor, axes: int) -> Tensor:
    """Of components (..., axes, *space): a scalar in 2-D (channel of one), a vector in 3-D."""

    def part(i: int, j: int) -> Tensor:
        space = (slice(None),) * axes
        return derivative(u[..., j, *space], i, axes) - derivative(u[..., i, *space], j, axes)

    pairs = [(0, 1)] if axes == 2 else [(1, 2), (2, 0), (0, 1)]
    return torch.stack([part(i, j) for i, j in pairs], dim=-1 - axes)


def determinant(view: View) -> float:
    """Of the orthogonal matrix of a view: -1 where right hands become left ones."""
    matrix = torch.eye(len(view.order))[list(view.order)] * torch.tensor([-1.0 if one else 1.0 for one in view.flips])
    return round(torch.linalg.det(matrix).item())


@pytest.mark.parametrize("axes", [2, 3])
def test_divergence_and_curl_transform_as_they_do_in_physics(axes):
    """div(V u) = V div(u) for each of all views; curl(V u) = det V V curl(u), for a curl is a pseudovector (in 2-D a pseudoscalar)."""
    size = 5
    velocity = Components(tuple(range(axes)), ("u",) * axes, axes)
    scalar = Components((None,), (None,), axes)
    u = normal(1, axes, *(size,) * axes)
    exact_divergence, exact_curl = divergence(u, axes)[:, None], curl(u, axes)
    for view in views(axes):
        moved = view(u, velocity)
        torch.testing.assert_close(divergence(moved, axes)[:, None], view(exact_divergence, scalar))
        other = view(exact_curl, velocity if axes == 3 else scalar)
        torch.testing.assert_close(curl(moved, axes), determinant(view) * other)


@pytest.mark.parametrize("boundary", ["periodic", "open"])
def test_the_euler_solver_commutes_with_views(boundary):
    """A step of the state in another view is the other view of the step, up to rounding; rolls where the box is periodic."""
    system = get_system(f"euler-multi-quadrants-{boundary}")
    info = system.info
    grid = system.grid((12, 12))
    parameters = info.default_parameters()[None]
    noise = MemberNoise(3, torch.zeros(1).long(), torch.zeros(1).long())
    state = system.initial(parameters, grid, noise, dtype=torch.float64)
    flow = system.flow(parameters, grid, 0.02, dtype=torch.float64)
    state = flow(state)
    components = Components.of([item.name for item in info.fields], [item.vector for item in info.fields], grid.names)
    assert components.axis == (None, None, None, 0, 1)
    stepped = flow(state)
    for flips, order in product(product((False, True), repeat=2), permutations(range(2))):
        view = View(flips, order, (5, 3) if boundary == "periodic" else (0, 0))
        torch.testing.assert_close(flow(view(state, components)), view(stepped, components), rtol=1e-9, atol=1e-9)
    wrong = Components((None,) * 5, (None,) * 5, 2)  # without signs it does not: the test can fail
    view = View((True, False), (0, 1), (0, 0))
    assert (flow(view(state, wrong)) - view(stepped, wrong)).abs().max() > 1e-3


def test_codes_of_boundaries_follow_flips_and_permutations():
    """Sides are told apart here: 0 ... 5 for lower and upper side of x, y, z."""
    codes = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(
        View((True, False, False), (0, 1, 2), (0, 0, 0)).codes(codes), torch.tensor([[1.0, 0], [2, 3], [4, 5]])
    )
    assert torch.equal(
        View((False, True, False), (1, 2, 0), (0, 0, 0)).codes(codes), torch.tensor([[3.0, 2], [4, 5], [0, 1]])
    )
    batch = codes.expand(4, 3, 2)
    assert View((True, True, True), (2, 1, 0), (0, 0, 0)).codes(batch).shape == (4, 3, 2)
    for view in views(3):  # codes move with the faces: the face values of a field that is its own code
        field = torch.full((1, 3, 3, 3), -1.0)
        for axis, side in product(range(3), range(2)):
            index = [1, 1, 1]
            index[axis] = 2 * side
            field[(0, *index)] = codes[axis, side]
        moved = View(view.flips, view.order, (0, 0, 0))
        seen = moved(field, Components((None,), (None,), 3))
        for axis, side in product(range(3), range(2)):
            index = [1, 1, 1]
            index[axis] = 2 * side
            assert seen[(0, *index)] == moved.codes(codes)[axis, side]


def drawn(kinds, shape, periodic, count=400) -> list[View]:
    generator = torch.Generator().manual_seed(0)
    return [draw_view(kinds, shape, periodic, generator) for _ in range(count)]


def test_draws_follow_from_the_generator_and_cover_all_views():
    first, second = (drawn(("flip", "permute", "roll"), (4, 4), (True, True)) for _ in range(2))
    assert first == second
    assert len({(view.flips, view.order) for view in first}) == 8
    assert {view.shifts[0] for view in first} == {view.shifts[1] for view in first} == {0, 1, 2, 3}
    flips = sum(view.flips[0] for view in first) / len(first)
    assert abs(flips - 0.5) < 4 * 0.5 / 20
    orders = sum(view.order == (0, 1) for view in first) / len(first)
    assert abs(orders - 0.5) < 4 * 0.5 / 20


def test_only_what_is_asked_for_is_drawn():
    assert set(drawn((), (4, 4), (True, True), 20)) == {View((False, False), (0, 1), (0, 0))}
    assert {view.order for view in drawn(("flip",), (4, 4), (True, True), 20)} == {(0, 1)}
    assert {view.flips for view in drawn(("roll",), (4, 4), (True, True), 20)} == {(False, False)}


def test_orders_keep_shape_and_periodicity_and_rolls_leave_walls_alone():
    x = torch.zeros(1, 1, 4, 6, 4, dtype=torch.float64)
    components = Components((None,), (None,), 3)
    for periodic, orders in (((True, True, True), 2), ((True, True, False), 1), ((False, True, False), 2)):
        found = drawn(("permute", "roll"), (4, 6, 4), periodic, 60)
        assert len({view.order for view in found}) == orders
        for view in found:
            assert view(x, components).shape == x.shape
            assert tuple(periodic[axis] for axis in view.order) == periodic
            assert all(shift == 0 for shift, wraps in zip(view.shifts, periodic, strict=True) if not wraps)


def test_a_permutation_without_its_component_is_an_error_and_not_a_silent_mistake():
    lonely = Components.of(["velocity_x"], ["velocity"], ["x", "y"])
    with pytest.raises(ValueError):
        permute(normal(1, 1, 4, 4), (1, 0), lonely)
