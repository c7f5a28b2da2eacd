"""Lorenz-63 and Lorenz-96: right-hand sides, laws, order, chaos where there is chaos."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.simulators import get_system, integrate, simulate

L63, L96 = get_system("lorenz-63"), get_system("lorenz-96")
BOTH = pytest.mark.parametrize("system", [L63, L96], ids=["lorenz-63", "lorenz-96"])


def attractor(system, trajectories=6, **options):
    run = simulate(system, trajectories=trajectories, steps=1, dtype=torch.float64, **options)
    return run.states[:, 0], run.parameters, run.grid


def equations(system):
    """The textbook equations, written out with numpy and loops."""
    if system is L63:
        return lambda t, u: np.array([10 * (u[1] - u[0]), u[0] * (28 - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]])

    def ring(t, u):
        n = len(u)
        return np.array([(u[(i + 1) % n] - u[i - 2]) * u[i - 1] - u[i] + 8.0 for i in range(n)])

    return ring


@BOTH
def test_agrees_with_an_adaptive_solver_of_the_textbook_equations(system):
    state, parameters, grid = attractor(system, trajectories=2)
    ours = integrate(system, state, parameters, grid, [0.5], inner_dt=0.001)[:, 0]
    for one, start in zip(ours, state, strict=True):
        exact = solve_ivp(equations(system), (0, 0.5), start.flatten().numpy(), rtol=1e-11, atol=1e-11, method="DOP853")
        assert np.abs(one.flatten().numpy() - exact.y[:, -1]).max() < 1e-7


@BOTH
def test_order_four_and_the_error_of_the_default_step(system):
    state, parameters, grid = attractor(system)
    reference = integrate(system, state, parameters, grid, [0.4], inner_dt=0.0005)
    steps = [0.01, 0.005, 0.0025]
    errors = [
        (integrate(system, state, parameters, grid, [0.4], inner_dt=step) - reference).norm().item() for step in steps
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(4.0, abs=0.25), (errors, orders)
    default = (integrate(system, state, parameters, grid, [0.4]) - reference).norm() / reference.norm()
    assert default < 2e-4


def test_lorenz_63_keeps_its_symmetry_and_its_fixed_points():
    """(x, y, z) -> (-x, -y, z) commutes with the flow; C+- = (+-r, +-r, rho - 1), r = sqrt(beta (rho - 1)), stay."""
    state, parameters, grid = attractor(L63)
    mirror = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)[:, None]
    one, other = (integrate(L63, start, parameters, grid, [1.0]) for start in (state, mirror * state))
    assert torch.equal(mirror * one, other)
    root = math.sqrt(8 / 3 * 27)
    fixed = torch.tensor([[root, root, 27.0], [-root, -root, 27.0], [0, 0, 0]], dtype=torch.float64)[..., None]
    assert (integrate(L63, fixed, parameters[:3], grid, [1.0])[:, 0] - fixed).abs().max() < 1e-11


def test_lorenz_63_volumes_shrink_at_the_constant_rate():
    """The divergence is -(sigma + 1 + beta) everywhere: det of the derivative of the flow is its exponential."""
    state, parameters, grid = attractor(L63, trajectories=3)
    flow = L63.flow(parameters[0], grid, 0.1, dtype=torch.float64, inner_dt=0.002)
    for start in state:
        jacobian = torch.func.jacrev(lambda u: flow(u[:, None])[:, 0])(start[:, 0])
        assert torch.linalg.det(jacobian).log().item() == pytest.approx(-(11 + 8 / 3) * 0.1, rel=1e-6)


def test_lorenz_63_below_the_onset_all_runs_end_in_a_fixed_point():
    run = simulate(L63, trajectories=20, steps=2, spin_up=150.0, parameters={"rho": 20.0}, inner_dt=0.02)
    root = math.sqrt(8 / 3 * 19)
    assert (run.states[..., 0, 0].abs() - root).abs().max() < 1e-3
    assert not run.attributes["chaotic"] and "lyapunov_time" not in run.attributes


def test_lorenz_63_knows_where_it_is_chaotic():
    cases = {
        (10.0, 28.0, 8 / 3): True,
        (10.0, 28.0, 2.6667): True,
        (10.0, 24.0, 8 / 3): False,  # some runs settle
        (10.0, 24.6, 8 / 3): False,
        (10.0, 24.8, 8 / 3): True,
        (10.0, 100.2, 8 / 3): False,  # a window of periodic orbits
        (10.0, 160.0, 8 / 3): False,
        (10.0, 190.0, 8 / 3): True,
        (12.0, 35.0, 2.5): True,
        (12.0, 20.0, 2.5): False,
        (2.0, 40.0, 8 / 3): False,  # the fixed points never lose their stability
    }
    parameters = torch.tensor(list(cases), dtype=torch.float64)
    assert L63.chaotic(parameters).tolist() == list(cases.values())
    assert L63.lyapunov_exponent(parameters).isnan().tolist() == [False, False] + [True] * 9


def test_lorenz_96_quadratic_term_keeps_the_energy():
    """d/dt sum u^2 / 2 = -sum u^2 + F sum u: the advection drops out; by a central difference in time."""
    state, parameters, grid = attractor(L96)
    h = 1e-3
    flow = [L96.flow(parameters, grid, step, dtype=torch.float64)(state) for step in (-2 * h, -h, h, 2 * h)]
    energy = [u.square().sum(dim=(-2, -1)) / 2 for u in flow]
    tendency = (energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / (12 * h)
    budget = -state.square().sum(dim=(-2, -1)) + 8 * state.sum(dim=(-2, -1))
    assert budget.abs().max() > 1
    assert (tendency - budget).abs().max() < 1e-6 * state.square().sum(dim=(-2, -1)).max()


def test_lorenz_96_turns_with_the_ring_and_small_forcing_is_still():
    state, parameters, grid = attractor(L96)
    moved = integrate(L96, state.roll(7, dims=-1), parameters, grid, [1.0])
    assert torch.equal(moved, integrate(L96, state, parameters, grid, [1.0]).roll(7, dims=-1))
    still = simulate(L96, trajectories=8, steps=1, spin_up=100.0, parameters={"forcing": 0.8})
    assert (still.states - 0.8).abs().max() < 1e-3
    forcing = torch.tensor([[0.8], [4.0], [4.5], [8.0], [9.0]], dtype=torch.float64)
    assert L96.chaotic(forcing).tolist() == [False, False, True, True, True]
    assert L96.lyapunov_exponent(forcing).isnan().tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    "system, published, step, intervals", [(L63, 0.9056, 0.02, 80), (L96, 1.68, 0.05, 40)], ids=["63", "96"]
)
def test_leading_exponent_is_the_published_one_and_the_table_holds_it(system, published, step, intervals):
    """Within 4 standard errors of this short run; the table, from a long one, within 0.02 of the literature."""
    table = system.lyapunov_exponent(system.info.default_parameters()).item()
    assert table == pytest.approx(published, abs=0.02)
    state, parameters, grid = attractor(system, trajectories=64, seed=1)
    numbers = torch.arange(64)
    tangent = MemberNoise(2, numbers, 0 * numbers).draw(tuple(state.shape[1:]), key=(0, 0, "t"), dtype=torch.float64)
    flow = system.flow(parameters, grid, 0.25, dtype=torch.float64, inner_dt=step)
    estimate = leading_exponent(flow, state, tangent, interval=0.25, num_intervals=intervals, num_discarded=20)
    assert estimate.standard_error < 0.03
    assert estimate.exponent == pytest.approx(table, abs=4 * estimate.standard_error)


def test_grids_that_cannot_work_are_refused():
    for shape in ((2,), (1, 1)):
        with pytest.raises(InputError, match="one point"):
            L63.grid(shape)
    assert L63.grid((1,)) == L63.grid() and L63.grid().num_points == 1 and not L63.grid().axes[0].periodic
    with pytest.raises(InputError, match="one-dimensional"):
        L96.grid((40, 40))
    with pytest.raises(InputError, match="at least 4"):
        L96.grid((3,))
