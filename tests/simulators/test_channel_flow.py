"""Flow past discs in a channel: Poiseuille's law, the inflow's law, conservation, measured orders, a published cylinder."""

import math
from itertools import pairwise

import pytest
import torch

from eddycast.errors import InputError
from eddycast.numerics.node_projection import cell_divergence
from eddycast.simulators import get_system, simulate
from eddycast.simulators.channel_flow import (
    channel_map,
    dirichlet_mask,
    every_other_node,
    inflow_profile,
    obstacle_mask,
)
from eddycast.simulators.obstacles import inside_discs

SYSTEM = get_system("channel-obstacles")
DOUBLE = torch.float64
SMALL = (89, 18)


@pytest.fixture(scope="module")
def run():
    return simulate(SYSTEM, trajectories=2, steps=8, grid_shape=SMALL, dtype=DOUBLE, seed=1)


def sizes(shape):
    return 2.2 / (shape[0] - 1), 0.41 / (shape[1] - 1)


def test_poiseuille_flow_stays_and_has_its_pressure():
    """The parabola is a solution of the scheme too: with the full inflow nothing moves and p = 8 nu U (2.2 - x) / 0.41^2, to rounding."""
    grid = SYSTEM.grid(SMALL)
    parameters = torch.tensor([2e-3, 0.7, 0, 0], dtype=DOUBLE)
    state = torch.zeros(3, *SMALL, dtype=DOUBLE)
    state[0] = 0.7 * inflow_profile(SMALL[1])
    later = SYSTEM.flow(parameters, grid, 0.4, dtype=DOUBLE)(state)
    drop = 8 * 2e-3 * 0.7 / 0.41**2 * (2.2 - torch.tensor(grid.axes[0].coordinates, dtype=DOUBLE))
    assert (later[:2] - state[:2]).abs().max() < 1e-11
    assert (later[2] - drop[:, None]).abs().max() < 1e-10


def test_disturbed_flow_returns_to_the_parabola():
    """From rest without discs, viscous enough to settle: the state that the flow finds by itself is Poiseuille's."""
    grid = SYSTEM.grid(SMALL)
    parameters = torch.tensor([5e-3, 0.05, 0, 0], dtype=DOUBLE)
    later = SYSTEM.flow(parameters, grid, 4.0, dtype=DOUBLE, inner_dt=0.02)(torch.zeros(3, *SMALL, dtype=DOUBLE))
    assert (later[0] - 0.05 * inflow_profile(SMALL[1])).abs().max() < 0.05 * 1e-3
    assert later[1].abs().max() < 0.05 * 1e-3


def test_constraints_hold_in_every_stored_state(run):
    """No divergence in any cell, as much out as in, rest at walls and in discs, and the exact ramp of the inflow, in double precision."""
    states = run.states
    _, step_y = sizes(SMALL)
    assert (
        cell_divergence(states[:, :, :2], sizes(SMALL)).abs().max() < 1e-9
    )  # of velocities over a spacing of up to 100
    flux = states[:, :, 0].sum(dim=-1) * step_y
    assert (flux / flux[..., :1] - 1).abs().max() < 1e-11
    bodies = torch.stack([obstacle_mask(one, run.grid) for one in run.parameters])[:, None]
    rest = torch.stack([dirichlet_mask(one, run.grid) for one in run.parameters])[:, None].clone()
    rest[..., 0, 1:-1] = 0
    assert not (states[:, :, :2] * rest[:, :, None]).any() and rest.any()
    assert (states[:, :, 2] * bodies).abs().max() == 0
    time = 0.08 * torch.arange(1, 9, dtype=DOUBLE)
    ramp = (1 - torch.exp(-5 * time))[:, None] * inflow_profile(SMALL[1])
    assert (states[:, :, 0, 0] - ramp).abs().max() < 1e-13
    assert states[:, :, 1, 0].abs().max() == 0
    moving = states[:, :, 0][(1 - bodies).bool().expand_as(states[:, :, 0])]
    assert moving.abs().max() > 1.2 * states[:, :, 0, 0].max()  # jets between the discs


def test_the_pressure_level_is_that_of_the_outflow(run):
    assert run.states[:, :, 2, -1].mean(dim=-1).abs().max() < 0.02 * run.states[:, :, 2].abs().max()


def test_states_know_their_time(run):
    """A run goes on from any stored state: velocities, inflow and pressure, two halves as one, also after single precision."""
    step = SYSTEM.flow(run.parameters, run.grid, 0.08, dtype=DOUBLE)
    state = run.states[:, 1]
    for _ in range(2, 8):
        state = step(state)
    assert (state - run.states[:, 7]).abs().max() < 1e-10
    blind = run.states[:, 1].clone()
    blind[:, 2] = 17.0  # what the solver does not read
    assert torch.allclose(step(blind), step(run.states[:, 1]), atol=1e-12)
    rounded = SYSTEM.flow(run.parameters, run.grid, 0.08)(run.states[:, 1].float())
    assert (rounded - run.states[:, 2]).abs().max() < 1e-4


def test_states_of_others_are_made_to_fit(run):
    """A state that breaks every constraint comes out with all of them, and with the time of its inflow."""
    noise = 0.1 * torch.randn(run.states[:, 3].shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    noise[:, 0, 0] = 0
    later = SYSTEM.flow(run.parameters, run.grid, 0.08, dtype=DOUBLE)(run.states[:, 3] + noise)
    assert cell_divergence(later[:, :2], sizes(SMALL)).abs().max() < 1e-9
    assert (later[:, :, 0] - run.states[:, 4, :, 0])[:, :2].abs().max() < 1e-12
    rest = torch.stack([obstacle_mask(one, run.grid) for one in run.parameters])
    assert not (later[:, :2] * rest[:, None]).any() and rest.any()


@pytest.mark.parametrize("moving", [True, False])
def test_third_order_in_the_step(run, moving):
    """Velocity and pressure, in the midst of the flow and from rest, where the inflow begins to change."""
    start = run.states[:1, -1] if moving else torch.zeros_like(run.states[:1, 0])
    exact, *results = (
        SYSTEM.flow(run.parameters[:1], run.grid, 0.16, dtype=DOUBLE, inner_dt=0.16 / steps)(start)
        for steps in (128, 8, 16, 32)
    )
    for channels in (slice(0, 2), slice(2, 3)):
        errors = [(result - exact)[:, channels].abs().max().item() for result in results]
        orders = [math.log2(before / after) for before, after in pairwise(errors)]
        assert orders == pytest.approx([3, 3], abs=0.4)


def test_second_order_in_the_spacing():
    """Boundary layers that grow from rest in an empty channel, on grids that share nodes: velocities and pressure."""
    results = []
    for factor in (2, 4, 8):
        shape = (22 * factor + 1, 6 * factor + 1)
        fixed = torch.zeros(1, *shape, dtype=DOUBLE)
        fixed[:, 0] = fixed[:, :, 0] = fixed[:, :, -1] = 1
        one = torch.ones(1, dtype=DOUBLE)
        flow = channel_map(fixed, 0 * fixed, 2e-3 * one, one, sizes(shape), 0.4, 10 * factor)
        results.append(flow(torch.zeros(1, 3, *shape, dtype=DOUBLE))[0, :, ::factor, ::factor])
    first, second = (torch.linalg.vector_norm(a - b, dim=(1, 2)) for a, b in pairwise(results))
    assert (first / second).log2().tolist() == pytest.approx([2, 2, 2], abs=0.35)


def test_cylinder_at_reynolds_number_20():
    """Length of the wake 0.0846 and pressure difference 0.1175 (Schaefer and Turek 1996, case 2D-1), with a staircase for a cylinder.

    111 x 21 points find 0.072 and 0.108, 221 x 42 points 0.080 and 0.110: short by what a disc of nodes is too small, some 40 % of a cell.
    """
    shape = (111, 21)
    grid = SYSTEM.grid(shape)
    step_x, step_y = sizes(shape)
    bodies = inside_discs(torch.tensor([[0.2, 0.2, 0.05]], dtype=DOUBLE), grid).to(DOUBLE)[None]
    fixed = bodies.clone()
    fixed[:, 0] = fixed[:, :, 0] = fixed[:, :, -1] = 1
    state = torch.zeros(1, 3, *shape, dtype=DOUBLE)
    state[:, 0] = 0.3 * inflow_profile(shape[1]) * (1 - bodies)
    viscosity, peak = torch.tensor([1e-3], dtype=DOUBLE), torch.tensor([0.3], dtype=DOUBLE)
    state = channel_map(fixed, bodies, viscosity, peak, (step_x, step_y), 4.0, 200)(state)
    place = 0.2 / step_y
    row, share = int(place), place - int(place)
    u, _, p = ((1 - share) * state[0, :, :, row] + share * state[0, :, :, row + 1]).unbind(0)
    behind = round(0.25 / step_x) + 1  # the first node outside
    ends = behind + int((u[behind:] > 0).nonzero()[0])
    wake = (ends - 1 + (u[ends - 1] / (u[ends - 1] - u[ends])).item()) * step_x - 0.25
    before = round(0.15 / step_x) - 1
    front, back = 2 * p[before] - p[before - 1], 2 * p[behind] - p[behind + 1]
    assert wake == pytest.approx(0.0846, rel=0.2)
    assert (front - back).item() == pytest.approx(0.1175, rel=0.12)


def test_stored_nodes_are_those_of_the_finer_run():
    common = {"trajectories": 1, "steps": 1, "seed": 5, "spin_up": 0.02, "dtype": DOUBLE}
    fine = simulate(SYSTEM, grid_shape=(177, 35), **common)
    stored = simulate(SYSTEM, grid_shape=(177, 35), store_shape=SMALL, **common)
    assert torch.equal(stored.states, fine.states[..., ::2, ::2]) and stored.grid == SYSTEM.grid(SMALL)
    assert stored.attributes["solver_shape"] == [177, 35]
    with pytest.raises(InputError, match="would lie between"):
        simulate(SYSTEM, grid_shape=(177, 35), store_shape=(100, 20), **common)
    with pytest.raises(InputError, match="would lie between"):
        every_other_node(torch.zeros(3, 10, 10), (12, 10))


def test_each_trajectory_has_discs_of_its_own():
    """Without a word about it; the same number is the same geometry, and the same run."""
    options = {"trajectories": 3, "steps": 1, "grid_shape": SMALL}
    run = simulate(SYSTEM, **options)
    layouts = run.parameters[:, 3]
    assert len(layouts.unique()) == 3 and torch.equal(layouts, layouts.round()) and layouts.max() < 2**20
    masks = run.static["obstacle_mask"]
    assert masks.shape == (3, *SMALL) and not torch.equal(masks[0], masks[1])
    assert torch.equal(run.parameters[:, :3], SYSTEM.info.default_parameters()[:3].expand(3, 3))
    chosen = simulate(SYSTEM, parameters={"layout": layouts[1].item()}, **options)
    assert chosen.static["obstacle_mask"].shape == SMALL
    assert torch.allclose(chosen.states[0], run.states[1], atol=1e-5)


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(InputError, match="at least 89 x 18"):
        SYSTEM.grid((60, 18))
    with pytest.raises(InputError, match="two-dimensional"):
        SYSTEM.grid((221,))
    parameters = torch.tensor([5e-3, 1.0, 4, 0], dtype=DOUBLE)
    with pytest.raises(InputError, match=r"inner_dt of at most 0\.004"):
        SYSTEM.flow(parameters, SYSTEM.grid(), 0.08, inner_dt=0.02)
    with pytest.raises(InputError, match="uniform nodes"):
        SYSTEM.flow(parameters, get_system("euler-multi-quadrants-open").grid((89, 18)), 0.08)
