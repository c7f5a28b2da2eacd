"""Conditions: phase of the cycle, moved origins, and batches that stay aligned, without parameters too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eddycast.conditions import Conditions
from eddycast.grid import Grid, periodic_axis

GRID = Grid((periodic_axis("x", 4, 1.0),))


def conditions(*batch: int, parameters: int = 2, **more) -> Conditions:
    count = torch.Size(batch).numel()
    time = 10.0 * torch.arange(count, dtype=torch.float64).reshape(batch)
    return Conditions(GRID, 0.5, time[..., None] + torch.arange(parameters), time, **more)


def test_phase_of_months():
    """Origin in March (2): leads -2, 0, 1, 9.5, 10 and 22 are January, March, April, mid-December, January, January."""
    march = Conditions(GRID, 1.0, torch.zeros(1, 0), torch.tensor([2.0 + 12 * 30]), cycle=12.0)
    phase = march.phase(torch.tensor([-2.0, 0.0, 1.0, 9.5, 10.0, 22.0], dtype=torch.float64))
    assert phase is not None
    exact = torch.tensor([[0, 2, 3, 11.5, 0, 0]], dtype=torch.float64) / 12
    assert torch.allclose(phase, exact, atol=1e-12)
    assert conditions(3).phase(torch.zeros(2)) is None


@given(
    st.integers(-10_000, 10_000),
    st.integers(-500, 500),
    st.integers(-64, 64),
    st.sampled_from([12.0, 24.0, 7.5, 365.25]),
)
def test_phase_depends_on_valid_time_only(time, steps, quarters, cycle):
    """Moving origin and lead in opposite directions changes nothing, a whole cycle neither; it lies in [0, 1)."""
    lead = torch.tensor([quarters / 4], dtype=torch.float64)
    here = Conditions(GRID, 1.0, torch.zeros(1, 0), torch.tensor([time], dtype=torch.float64), cycle=cycle)
    phase = here.phase(lead)
    assert phase is not None and 0 <= phase.item() < 1
    for other in (here.shifted(steps).phase(lead - steps), here.shifted(cycle).phase(lead)):
        assert other is not None
        turn = (other - phase).remainder(1.0)
        assert torch.minimum(turn, 1 - turn).item() < 1e-9


def test_phase_has_a_time_axis_behind_the_batch():
    phase = conditions(2, 3, cycle=4.0).phase(torch.arange(5))
    assert phase is not None and phase.shape == (2, 3, 5)


def test_shifted_moves_the_origin_and_nothing_else():
    here = conditions(3, cycle=12.0)
    there = here.shifted(7)
    assert torch.equal(there.time, here.time + 7) and torch.equal(here.time, torch.tensor([0.0, 10.0, 20.0]).double())
    assert torch.equal(there.parameters, here.parameters) and there.cycle == 12.0 and there.dt == 0.5
    each = here.shifted(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(each.time, torch.tensor([1.0, 12.0, 23.0], dtype=torch.float64))


@pytest.mark.parametrize("parameters", [0, 1, 3])
def test_members_in_front_and_flattened_keep_every_entry_beside_its_time(parameters):
    here = conditions(5, parameters=parameters)
    ensemble = here.expand(4)
    assert ensemble.batch == (4, 5) and ensemble.parameters.shape == (4, 5, parameters)
    flat = ensemble.flatten()
    assert flat.batch == (20,) and flat.parameters.shape == (20, parameters)
    for row in range(20):
        assert flat.time[row] == here.time[row % 5]
        assert torch.equal(flat.parameters[row], here.parameters[row % 5])
    again = flat.flatten()
    assert torch.equal(again.time, flat.time) and torch.equal(again.parameters, flat.parameters)


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0]), 1])
def test_select_takes_the_same_entries_of_all(index):
    here = conditions(3, valid=torch.ones(4, dtype=torch.bool))
    part = here.select(index)
    assert torch.equal(part.time, here.time[index]) and torch.equal(part.parameters, here.parameters[index])
    assert part.valid is here.valid, "fields without a batch axis are shared"


def test_to_moves_every_tensor():
    there = conditions(2, static=torch.zeros(1, 4), valid=torch.ones(4, dtype=torch.bool)).to("meta")
    for value in (there.parameters, there.time, there.static, there.valid):
        assert value is not None and value.device.type == "meta"
    assert conditions(2).to("meta").static is None


def test_static_fields_follow_their_entries():
    """Cases 0, 1, 2 have the rows 5, 5, 2 of a table: through members, one batch axis, a choice, a shift and a device."""
    table = torch.arange(6.0)[:, None, None].expand(6, 1, 4)
    here = conditions(3, static=table, static_of=torch.tensor([5, 5, 2]))
    fields = here.static_fields()
    assert fields is not None and fields.shape == (3, 1, 4) and fields[:, 0, 0].tolist() == [5, 5, 2]
    members = here.expand(2)
    fields = members.static_fields()
    assert fields is not None and fields.shape == (2, 3, 1, 4) and fields[1, :, 0, 0].tolist() == [5, 5, 2]
    chosen = members.flatten().select(torch.tensor([5, 0])).shifted(2.0).to("cpu")
    fields = chosen.static_fields()
    assert fields is not None and fields[:, 0, 0].tolist() == [2, 5]
    assert chosen.static is not None and len(chosen.static) == 2, "what nobody uses is not moved"
    assert members.flatten().static is table, "members share the table"


def test_static_fields_of_all_entries_are_no_table():
    shared = torch.ones(2, 4)
    assert conditions(3, static=shared).expand(2).flatten().static_fields() is shared
    assert conditions(3).static_fields() is None
    for wrong in (
        {"static": torch.ones(3, 2, 4)},
        {"static": shared, "static_of": torch.arange(3)},
        {"static_of": torch.arange(3)},
    ):
        with pytest.raises(ValueError, match="static must be"):
            conditions(3, **wrong)
