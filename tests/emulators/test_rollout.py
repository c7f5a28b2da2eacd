"""Windows: which state comes from where, exact answers at any lead, hooks, guards, addresses of the noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exact_models import AffineSpace, RandomWalk, StraightLine, addresses, conditions, normal, ring
from hypothesis import given
from hypothesis import strategies as st

from eddycast.emulators import SpectralGuard
from eddycast.emulators.rollout import plan_windows, rollout
from eddycast.errors import InputError


def gather(model, context, here, leads, **options):
    """All states in the order of `leads`, each delivered exactly once, and the positions in the order of delivery."""
    leads = torch.as_tensor(leads, dtype=torch.float64)
    result = torch.full((len(context), len(leads), *context.shape[2:]), float("nan"), dtype=context.dtype)
    order: list[int] = []
    for positions, states, _ in rollout(model, context, here, leads, noise=addresses(len(context)), **options):
        assert len(positions) == states.shape[1]
        result[:, positions] = states
        order += positions.tolist()
    return result, order


@pytest.mark.parametrize(
    "context, overlap, window, leads, origins",
    [
        (1, 1, 2, 3, [(0, [1]), (1, [2]), (2, [3])]),
        (1, 1, 4, 5, [(0, [1, 2, 3]), (3, [4, 5, 6])]),
        (1, 3, 5, 7, [(0, [1, 2, 3, 4]), (4, [5, 6]), (6, [7, 8])]),
        (3, 1, 4, 4, [(0, [1]), (1, [2, 3, 4])]),
    ],
)
def test_plan_of_whole_steps(context, overlap, window, leads, origins):
    """The first window gives window - context states, the others window - overlap, up to the last lead."""
    plan = plan_windows(StraightLine(context, overlap, window, continuous=False), torch.arange(1, leads + 1))
    assert [(part.origin, list(part.leads)) for part in plan] == origins
    assert [part.number for part in plan] == list(range(len(origins)))


def test_continuous_plan_takes_what_is_asked_and_what_the_next_window_needs():
    plan = plan_windows(StraightLine(2, 2, 6), torch.tensor([0.5, 3.0, 5.25, 9.0]))
    assert [(part.origin, part.leads) for part in plan] == [(0, (0.5, 3.0, 4.0)), (4, (5.25, 7.0, 8.0)), (8, (9.0,))]


@st.composite
def problems(draw):
    window = draw(st.integers(2, 7))
    context, overlap = draw(st.integers(1, window - 1)), draw(st.integers(1, window - 1))
    continuous = draw(st.booleans())
    if continuous:
        quarters = sorted(draw(st.sets(st.integers(1, 80), min_size=1, max_size=12)))
        leads = [value / 4 for value in quarters]
    else:
        leads = [float(value) for value in sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=12)))]
    return StraightLine(context, overlap, window, continuous), leads


@given(problems())
def test_every_lead_once_ascending_and_exact_whatever_the_windows(problem):
    """The model itself checks that the frames it is given lie on the line at the times that it is told."""
    model, leads = problem
    here = conditions(3, parameters=1)
    start = normal(3, 2, 8, seed=4)
    past = torch.arange(-9.0, 1.0, dtype=torch.float64)[:, None, None]
    slope = here.parameters[:, 0, None, None, None]
    states, order = gather(model, start[:, None] + slope * past, here, leads)
    assert order == list(range(len(leads)))
    exact = start[:, None] + slope * torch.tensor(leads, dtype=torch.float64)[:, None, None]
    assert torch.allclose(states, exact, atol=1e-9)
    steps = [window for window, _, _ in model.calls]
    assert steps == list(range(len(steps)))
    for number, (_, lead_times, time) in enumerate(model.calls):
        origin = time - here.time
        assert (origin == origin[0]).all() and origin[0] == round(origin[0].item())
        if number + 1 < len(model.calls):
            assert model.calls[number + 1][2][0] - time[0] == lead_times[-1], "the next origin is the last state"


@pytest.mark.parametrize("leads", [[], [0.0], [-1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0 + 1e-9], [1e-8]])
def test_leads_that_do_not_ascend_are_refused(leads):
    for continuous in (True, False):
        with pytest.raises(InputError, match="positive and ascend"):
            plan_windows(StraightLine(continuous=continuous), torch.tensor(leads, dtype=torch.float64))


@pytest.mark.parametrize("lead", [float("nan"), float("inf")])
def test_leads_that_are_no_numbers_are_refused(lead):
    with pytest.raises(InputError, match="positive and ascend"):
        plan_windows(StraightLine(), torch.tensor([1.0, lead]))


def test_lead_between_steps_needs_a_continuous_model():
    with pytest.raises(InputError, match=r"lead 1\.5 steps lies between") as caught:
        plan_windows(StraightLine(continuous=False), torch.tensor([1.0, 1.5]))
    assert "\n" not in str(caught.value)
    rounded = torch.tensor([0.3]) / torch.tensor([0.1])  # 3 steps to the rounding of float32
    assert plan_windows(StraightLine(continuous=False), rounded)[0].leads == (1.0, 2.0, 3.0)


def test_short_context_is_refused_and_a_long_one_is_cut():
    model, here = StraightLine(context=3, overlap=3, window=5), conditions(1, parameters=1)
    line = here.parameters[0, 0] * torch.arange(-7.0, 1.0, dtype=torch.float64)[None, :, None, None].expand(1, 8, 1, 8)
    with pytest.raises(InputError, match="continues 3 states, the context has 2"):
        gather(model, line[:, -2:], here, [1.0])
    long, _ = gather(model, line, here, [1.0, 2.0])
    short, _ = gather(replace_model(model), line[:, -3:], here, [1.0, 2.0])
    assert torch.equal(long, short)


def replace_model(model: StraightLine) -> StraightLine:
    return StraightLine(model.context, model.overlap, model.window, model.continuous)


def test_hook_sees_physical_states_of_every_member_and_what_it_does_persists():
    """The walk shifts to the right: a value set at the left edge must reach the interior in the windows that follow."""
    space, seen = AffineSpace(), []

    def wall(state, here, leads, start):
        assert torch.equal(start, first)
        seen.append((here.time.clone(), leads.clone()))
        value = 10 * here.time[:, None, None] + leads[:, None]
        return torch.cat([value[..., None].expand(*state.shape[:3], 1), state[..., 1:]], dim=-1)

    context, here = space.encode(normal(3, 1, 1, 6), None, None), conditions(3, ring(6))
    first = space.decode(context, None, None)[:, -1]
    x, _ = gather(RandomWalk(0.0), context, here, range(1, 7), space=space, hook=wall, start=first)
    state = space.decode(x, None, None)
    for number, (time, leads) in enumerate(seen):
        assert torch.equal(time, here.time + 2 * number) and leads.tolist() == [1.0, 2.0]
    assert len(seen) == 3
    for member in range(3):
        for step in range(6):
            wall_value = 10 * (member + 2 * (step // 2)) + 1 + step % 2
            assert state[member, step, 0, 0].item() == pytest.approx(wall_value)
        assert state[member, 2, 0, 1].item() == pytest.approx(state[member, 1, 0, 0].item()), "carried on by the model"
        assert state[member, 3, 0, 2].item() == pytest.approx(state[member, 1, 0, 0].item())


def test_guard_acts_on_every_state_and_feeds_back():
    """A model that doubles at each step stays at the ceiling, with the mean of its own initial state."""
    context = normal(4, 1, 1, 8)
    guard = SpectralGuard(torch.tensor([True]), torch.full((1, 5), 0.5, dtype=torch.float64), (True,))
    model, leads = RandomWalk(0.1, growth=2.0), range(1, 31)
    free, _ = gather(model, context, conditions(4), leads)
    held, _ = gather(model, context, conditions(4), leads, guard=guard)
    assert free[:, -1].abs().amax() > 1e6
    modes = torch.fft.rfft(held, norm="forward").abs()
    assert modes[..., 1:].max() <= 0.5 * (1 + 1e-9) and modes[:, -1, :, 1:].max() > 0.49
    assert torch.allclose(held.mean(dim=-1), context.mean(dim=-1).expand_as(held[..., 0]), atol=1e-9)


def test_rollout_goes_on_with_the_same_addresses():
    """Two windows in one go are bitwise one window and another one started as number 1."""
    context, here = normal(3, 1, 1, 8), conditions(3)
    whole, _ = gather(RandomWalk(), context, here, range(1, 5))
    first, _ = gather(RandomWalk(), context, here, range(1, 3))
    second, _ = gather(RandomWalk(), first[:, -1:], here.shifted(2), range(1, 3), first_window=1)
    again, _ = gather(RandomWalk(), first[:, -1:], here.shifted(2), range(1, 3))
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    assert not torch.equal(second, again), "without the number of the window the noise would repeat"


def test_parameters_of_each_entry_stay_its_own():
    here = conditions(3, parameters=1)
    changed = replace(here, parameters=here.parameters + torch.tensor([[0.0], [1.0], [0.0]]))
    context = normal(3, 1, 1, 8)
    base, _ = gather(StraightLine(), context, here, [2.0])
    moved, _ = gather(StraightLine(), context, changed, [2.0])
    assert torch.allclose((moved - base)[:, 0, 0, 0], torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
