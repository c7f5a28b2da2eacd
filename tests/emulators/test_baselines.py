"""Persistence and climatology: trivial forecasts that are exactly what they claim."""

from __future__ import annotations

import math

import torch
from exact_models import channel_grid, conditions, normal, ring

from eddycast.conditions import Conditions
from eddycast.emulators import Climatology, Emulator, IdentitySpace, Persistence
from eddycast.noise import MemberNoise


def archive(states: int = 120, points: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """States that carry their own number, and the months in which they were taken."""
    numbers = torch.arange(states, dtype=torch.float64)
    return numbers[:, None, None].expand(states, 1, points).clone(), numbers.remainder(12) / 12


def test_persistence_repeats_the_last_state_at_any_lead():
    context, leads = normal(3, 4, 2, 8, 6), torch.tensor([0.25, 1.0, 64.0, 65.0, 200.5])
    forecast = Emulator(Persistence(), IdentitySpace()).forecast(
        context, conditions(3, channel_grid()), leads, members=2, seed=0
    )
    assert torch.equal(forecast, context[:, -1:].expand(2, 3, 5, 2, 8, 6))


def test_climatology_draws_training_states_of_the_right_month():
    """Origin in month 3 + case: the member at each lead is an archived state of that month, whole."""
    states, phase = archive()
    model, leads = Climatology(states, phase), torch.tensor([1.0, 2.0, 9.0, 70.0, 131.0])
    here = Conditions(ring(4), 1.0, torch.zeros(2, 0), torch.tensor([3.0, 4.0 + 1200]), cycle=12.0)
    forecast = Emulator(model, IdentitySpace()).forecast(torch.zeros(2, 1, 1, 4), here, leads, members=50, seed=0)
    assert (forecast == forecast[..., :1]).all() and forecast.max() < 120
    month = forecast[:, :, :, 0, 0].remainder(12)
    exact = (torch.tensor([[3.0], [4.0]]) + leads).remainder(12)
    assert torch.equal(month, exact.expand_as(month).to(month))
    drawn = forecast[:, 0, 0, 0, 0].unique()
    assert len(drawn) > 5, "ten Aprils, fifty members"


def test_climatology_draws_every_state_equally_often():
    """Counts over 120 states: chi-square with 119 degrees of freedom, within 5 standard deviations sqrt(2 * 119)."""
    states, _ = archive()
    forecast = Emulator(Climatology(states, None), IdentitySpace()).forecast(
        torch.zeros(1, 1, 1, 4), conditions(1, ring(4)), torch.arange(1, 61), members=200, seed=1
    )
    counts = torch.bincount(forecast[..., 0].reshape(-1).long(), minlength=120).double()
    expected = 200 * 60 / 120
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert len(counts) == 120 and abs(statistic - 119) < 5 * math.sqrt(2 * 119)


def test_climatology_is_addressed_by_member_and_new_at_each_lead_and_window():
    states, _ = archive()
    model, here = Climatology(states, None), conditions(4, ring(4))
    known, mask = torch.zeros(4, 65, 1, 4), torch.arange(65) < 1
    leads, noise = torch.arange(65.0), MemberNoise(5, torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 2, 0]))
    drawn = model.advance(known, mask, here, leads, noise=noise)
    assert torch.equal(drawn[0], drawn[3]) and not torch.equal(drawn[0], drawn[1])
    assert len(drawn[0, 1:, 0, 0].unique()) > 30
    alone = model.advance(known[:1], mask, here.select(slice(0, 1)), leads, noise=noise.select(slice(1, 2)))
    assert torch.equal(alone[0], drawn[1])
    later = model.advance(known, mask, here, leads, noise=noise, window=1)
    assert not torch.equal(later, drawn)
    assert (drawn[:, 0] == 0).all(), "the known frame as it came"


def test_month_without_archive_is_drawn_from_all_others():
    states, phase = archive()
    spring = (phase < 3 / 12) | (phase > 4.5 / 12)  # no April
    model = Climatology(states[spring], phase[spring])
    here = Conditions(ring(4), 1.0, torch.zeros(1, 0), torch.tensor([2.0]), cycle=12.0)
    forecast = Emulator(model, IdentitySpace()).forecast(
        torch.zeros(1, 1, 1, 4), here, torch.tensor([1.0, 2.0]), members=300, seed=0
    )
    months = forecast[:, 0, :, 0, 0].remainder(12)
    assert 3.0 not in months[:, 0].tolist() and len(months[:, 0].unique()) >= 8
    assert 5.0 in months[:, 0].tolist() or 0.0 in months[:, 0].tolist()


def test_order_of_the_archive_and_its_phase_go_together():
    """A shuffled archive holds the same months."""
    states, phase = archive()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    model = Climatology(states[order], phase[order])
    here = Conditions(ring(4), 1.0, torch.zeros(1, 0), torch.tensor([0.0]), cycle=12.0)
    forecast = Emulator(model, IdentitySpace()).forecast(
        torch.zeros(1, 1, 1, 4), here, torch.arange(1, 13), members=20, seed=0
    )
    months = forecast[:, 0, :, 0, 0].remainder(12)
    assert torch.equal(months, torch.arange(1, 13).remainder(12).expand_as(months).to(months))


def test_identity_space_keeps_the_ocean_and_fills_the_land():
    valid = torch.tensor([True, True, False, True])
    state = normal(2, 1, 1, 4).masked_fill(~valid, float("nan"))
    x = IdentitySpace().encode(state, conditions(2, ring(4), valid=valid), torch.zeros(1))
    assert torch.equal(x[..., valid], state[..., valid]) and (x[..., ~valid] == 0).all()
    open_sea = IdentitySpace().encode(state, conditions(2, ring(4)), torch.zeros(1))
    assert open_sea.isnan().any(), "NaN where the data promise values is not hidden"
