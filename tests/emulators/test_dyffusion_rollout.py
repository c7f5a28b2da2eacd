"""Leads between steps, over many windows, with boundary values of every member, and beside land."""

from __future__ import annotations

import pytest
import torch
from dyffusion_models import KINDS, build, one_line
from exact_models import addresses, conditions, normal
from torch import nn

from eddycast.emulators import Emulator, IdentitySpace, rollout
from eddycast.emulators.dyffusion.sampling import STEPS
from eddycast.errors import InputError


class Drift(nn.Module):
    """Exact forecaster of x(t) = x(0) + t: what is left of the window, in units of its scale."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = [model]

    def forward(self, x, conditions, scalars):
        horizon = self.model[0].config.horizon
        time = scalars[:, 0] * horizon
        left = (horizon - time) / self.model[0]._left(x[:, 0], time)[1].flatten()
        return left[(...,) + (None,) * (x.ndim - 1)].expand_as(x[:, :1])


def drifting(sampler: str, **settings):
    """With an interpolator that says the straight line, to the last bit of its weights."""
    model = build("noise", horizon=3, sampler=sampler, conditioning="none", **settings)
    model.forecaster = Drift(model)  # type: ignore[assignment]
    with torch.no_grad():
        for weight in model.interpolator.parameters():
            weight.zero_()
    return model


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("sampler", STEPS)
def test_leads_anywhere_over_many_windows_lie_on_the_line(sampler, refine):
    """In (0, 1), between steps, at the ends of windows, and from the last window on: windows are added as they are needed."""
    model = drifting(sampler, refine=refine)
    start = normal(2, 1, 1, 4)
    leads = torch.tensor([0.01, 0.5, 1, 2.75, 3, 3.1, 4.5, 6, 8.999, 9, 10.5], dtype=torch.float64)
    forecast = Emulator(model, IdentitySpace()).forecast(start, conditions(2), leads, members=2, seed=0)
    assert torch.allclose(forecast, start + leads[:, None, None], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lead_between_steps_does_not_change_the_others(kind):
    model, x, here = one_line(kind), normal(2, 1, 1, 5), conditions(2)
    emulator = Emulator(model, IdentitySpace())
    whole = emulator.forecast(x, here, torch.arange(1, 11), members=2, seed=0)
    leads = torch.tensor([0.5, 1, 3.5, 4, 4.25, 6.5, 8, 9, 9.5, 10], dtype=torch.float64)
    mixed = emulator.forecast(x, here, leads, members=2, seed=0)
    assert torch.equal(mixed[:, :, [1, 3, 6, 7, 9]], whole[:, :, [0, 3, 7, 8, 9]])
    only = emulator.forecast(x, here, torch.tensor([9.5], dtype=torch.float64), members=2, seed=0)
    assert torch.equal(only, mixed[:, :, [8]])


@pytest.mark.parametrize("kind", KINDS)
def test_leads_close_to_a_known_state_come_close_to_it(kind):
    """The interpolator is held by its ends: the start, and what the forecaster says of the end."""
    model, x = build(kind), normal(2, 1, 1, 5)
    leads = torch.tensor([1e-4, 4 - 1e-4, 4], dtype=torch.float64)
    (filled,) = rollout(model, x, conditions(2), leads, noise=addresses(2))
    states = filled[1]
    assert torch.allclose(states[:, 0], x[:, 0], atol=2e-3) and not torch.equal(states[:, 0], x[:, 0])
    assert torch.allclose(states[:, 1], states[:, 2], atol=2e-3) and not torch.equal(states[:, 1], states[:, 2])


def test_no_leads_before_the_start():
    with pytest.raises(InputError, match="positive and ascend"):
        list(rollout(one_line(), normal(1, 1, 1, 3), conditions(1), torch.tensor([-0.5, 1.0]), noise=addresses(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_boundary_values_hold_for_every_member_at_every_lead(kind):
    """Of all members, not only as many as there are cases; the next window starts from what the hook leaves."""
    model = build(kind, horizon=3)
    seen = []

    def hook(states, conditions, lead_times, start):
        states = states.clone()
        states[..., 0] = 5 + conditions.time[:, None, None] + lead_times[:, None]
        return states

    sample = model.sample
    model.sample = lambda start, *given, **named: seen.append(start) or sample(start, *given, **named)  # type: ignore[method-assign]
    emulator = Emulator(model, IdentitySpace(), hook=hook)
    leads = torch.tensor([1, 1.5, 2, 3, 4, 5.25, 7], dtype=torch.float64)
    here = conditions(2)
    forecast = emulator.forecast(normal(2, 1, 1, 6), here, leads, members=5, seed=0)
    exact = 5 + here.time[:, None] + leads
    assert torch.equal(forecast[..., 0, 0], exact.expand(5, 2, len(leads)))
    assert [len(start) for start in seen] == [10, 10, 10]
    for origin, start in zip((3, 6), seen[1:], strict=True):
        assert torch.equal(start[:, 0, 0], (5 + here.time + origin).repeat(5))


@pytest.mark.parametrize("sampler", ["naive", "cold", "heun"])
@pytest.mark.parametrize("kind", KINDS)
def test_points_without_fields_keep_their_value(kind, sampler):
    """Land has no noise, whose sum over the windows the networks would be shown."""
    valid = torch.tensor([True, True, False, True, False, True])
    here = conditions(2, valid=valid)
    for refine in (True, False):
        model = build(kind, static=1, sampler=sampler, refine=refine)
        x = normal(2, 1, 1, 6) * valid
        states = torch.cat([f[1] for f in rollout(model, x, here, torch.arange(1, 13), noise=addresses(2))], dim=1)
        assert (states[..., ~valid].abs() < 1e-12).all()
        assert states[..., valid].abs().min() > 0
