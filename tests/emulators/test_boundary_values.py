"""Boundary values: every member, every case with its own mask, every lead and every window, exactly; the systems' own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exact_models import AffineSpace, RandomWalk, StraightLine, conditions, normal, ring

from eddycast.conditions import Conditions
from eddycast.data import from_arrays
from eddycast.emulators import Emulator, HeldPoints, Persistence, PrescribedValues
from eddycast.grid import Axis, Grid
from eddycast.simulators import ChannelObstacles, SpringMesh, simulate

CASES, MEMBERS, POINTS = 5, 7, 8


def masked(cases: int = CASES) -> tuple[torch.Tensor, Conditions]:
    """Contexts (case, 1, 2, point), and a static field beside a mask that differs between cases."""
    mask = (normal(cases, POINTS, seed=3) > 0).double()
    assert len(mask.unique(dim=0)) == cases
    static = torch.stack([torch.full_like(mask, 0.7), mask], dim=1)
    here = conditions(cases, ring(POINTS), static=static, static_of=torch.arange(cases))
    return normal(cases, 1, 2, POINTS, seed=4), here


@pytest.mark.parametrize("chunk", [1, 3, 4, 256])
@pytest.mark.parametrize("channels", [None, (1,)])
def test_held_points_keep_their_first_values_bit_by_bit(chunk, channels):
    """More cases than the first, fewer than members, chunks across both: the published code held the first cases alone."""
    context, here = masked()
    emulator = Emulator(RandomWalk(), AffineSpace(), hook=HeldPoints(1, channels), chunk=chunk)
    states = emulator.forecast(context, here, torch.arange(1.0, 10.0), members=MEMBERS, seed=0)
    held = here.static[:, 1, None, None].expand(CASES, 9, 2, POINTS) > 0.5
    if channels is not None:
        held = held & torch.tensor([False, True])[:, None]
    for member in states:
        assert torch.equal(member[held], context.expand(CASES, 9, 2, POINTS)[held])
    free = states[:, ~held]
    assert len(free.unique(dim=0)) == MEMBERS, "members differ elsewhere"
    whole = replace(emulator, chunk=256).forecast(context, here, torch.arange(1.0, 10.0), members=MEMBERS, seed=0)
    assert torch.equal(states, whole)


def test_held_points_feed_back():
    """The walk shifts to the right: what is held at one point reaches the next one in the window after."""
    context, here = masked()
    emulator = Emulator(RandomWalk(0.0), AffineSpace(), hook=HeldPoints(1))
    states = emulator.forecast(context, here, torch.arange(1.0, 7.0), members=1, seed=0)[0]
    held = here.static[:, 1] > 0.5
    next_to = held.roll(1, dims=-1) & ~held
    for lead in (2, 4):  # first lead of a window, which goes on from states with their boundary values
        shifted = context[:, 0].roll(1, dims=-1)
        where = next_to[:, None].expand(CASES, 2, POINTS)
        assert torch.allclose(states[:, lead][where], shifted[where], atol=1e-12)


def ramp(states, *, start, parameters, static, time, grid):
    """Of the time since the start of the data, at the masked points of each case."""
    value = parameters[:, :1] * (1 - torch.exp(-0.3 * time))
    return torch.where(static["mask"][:, None, None] > 0.5, value[:, :, None, None].to(states), states)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_prescribed_values_are_those_of_absolute_time(chunk):
    """Windows that start anywhere, leads between steps, a clock that begins at 0.37 time units with a step of 0.25."""
    dt, origin = 0.25, 0.37
    context, here = masked()
    first_frames = torch.tensor([0.0, 3.0, 3.0, 8.0, 1.0], dtype=torch.float64)
    here = replace(here, dt=dt, parameters=normal(CASES, 1, seed=6), time=first_frames + origin / dt)
    leads = torch.tensor([0.4, 1.0, 2.5, 3.0, 6.75, 9.0], dtype=torch.float64)
    hook = PrescribedValues(ramp, ("other", "mask"))
    emulator = Emulator(StraightLine(window=3), AffineSpace(), hook=hook, chunk=chunk)
    emulator.model.advance = lambda known, mask, *rest, **more: Persistence().advance(known, mask, *rest, **more)
    states = emulator.forecast(context, here, leads, members=MEMBERS, seed=0)
    held = here.static[:, 1] > 0.5
    for case in range(CASES):
        for place, lead in enumerate(leads.tolist()):
            time = origin + dt * (float(first_frames[case]) + lead)
            exact = float(here.parameters[case, 0]) * (1 - math.exp(-0.3 * time))
            for member in range(MEMBERS):
                values = states[member, case, place][:, held[case]]
                assert torch.allclose(values, torch.full_like(values, exact), rtol=0, atol=1e-14)
                free = states[member, case, place][:, ~held[case]]
                assert torch.allclose(free, context[case, 0][:, ~held[case]], atol=1e-12)


def test_a_clock_counts_from_the_start_of_the_trajectory():
    """Windows from a later part of a trajectory (validation) get its own time, though the split begins in the middle."""
    grid = Grid((Axis("x", (0.0, 1.0, 2.0), ("wall", "open")),))
    data = from_arrays(torch.zeros(2, 20, 1, 3), fields=["u"], grid=grid, dt=0.08, fractions=(0.5, 0.25, 0.25))
    row = torch.from_numpy(data.windows("valid", 3))
    assert torch.equal(data.conditions(row[:, 0], row[:, 1]).time, row[:, 1].float())


def test_the_boundary_values_of_the_mesh_are_those_of_its_solver():
    """On the truth they change nothing; on wrong states they give fixed particles their place and no momentum."""
    run = simulate(SpringMesh(), trajectories=3, steps=6, parameters={"spring_constant": (0.5, 2.0)}, seed=1)
    fixed = run.static["fixed"]
    here = Conditions(run.grid, run.dt, run.parameters, torch.zeros(3), static=fixed[None].float())
    hook = PrescribedValues(SpringMesh.info.boundary_values, ("fixed",))
    start, leads = run.states[:, 0], torch.arange(1.0, 6.0)
    assert torch.equal(hook(run.states[:, 1:], here, leads, start), run.states[:, 1:])
    wrong = hook(torch.randn(3, 5, 4, 10, 10, generator=torch.Generator().manual_seed(0)), here, leads, start)
    assert (
        torch.equal(wrong[..., -1], start[:, None, :, :, -1].expand(3, 5, 4, 10)) and not wrong[:, :, :2, :, -1].any()
    )
    assert wrong[..., :-1].abs().min() > 0


@pytest.fixture(scope="module")
def channel():
    parameters = {"layout": (0, 1000), "peak_inflow": (0.5, 1.5), "obstacles": 2}
    return simulate(
        ChannelObstacles(),
        trajectories=3,
        steps=4,
        parameters=parameters,
        grid_shape=(89, 18),
        seed=2,
        dtype=torch.float64,
    )


def test_the_boundary_values_of_the_channel_are_those_of_its_solver(channel):
    """On the truth they change nothing beyond rounding, at the times that the clock of its data says."""
    run = channel
    static = torch.stack([run.static["dirichlet_mask"], run.static["obstacle_mask"]], dim=1)
    assert len(static.unique(dim=0)) == 3
    here = Conditions(run.grid, run.dt, run.parameters, torch.ones(3), static=static, static_of=torch.arange(3))
    hook = PrescribedValues(ChannelObstacles.info.boundary_values, ("dirichlet_mask", "obstacle_mask"))
    leads = torch.arange(4.0)
    same = hook(run.states, here, leads, run.states[:, 0])
    assert torch.allclose(same, run.states, rtol=0, atol=1e-12)
    noise = torch.randn(run.states.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    imposed = hook(noise, here, leads, noise[:, 0])
    fixed, obstacles = (static[:, number, None] > 0.5 for number in (0, 1))
    assert torch.allclose(
        imposed[:, :, :2][fixed[:, :, None].expand_as(noise[:, :, :2])],
        run.states[:, :, :2][fixed[:, :, None].expand_as(noise[:, :, :2])],
        rtol=0,
        atol=1e-12,
    )
    assert not imposed[:, :, 2][obstacles.expand_as(noise[:, :, 2])].any()
    y = torch.tensor(run.grid.axes[1].coordinates, dtype=torch.float64)
    for case, peak in enumerate(run.parameters[:, 1].tolist()):
        for lead in range(4):
            exact = peak * 4 * y * (0.41 - y) / 0.41**2 * (1 - math.exp(-5 * 0.08 * (1 + lead)))
            assert torch.allclose(imposed[case, lead, 0, 0], exact, atol=1e-12)
    assert torch.equal(hook(imposed, here, leads, noise[:, 0]), imposed), "again: the same"
