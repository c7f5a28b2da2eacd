"""Families of data sets, their parts by parameter, and batches from several of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eddycast import api
from eddycast.conditions import joined
from eddycast.data import (
    Family,
    MixedBatches,
    Mixture,
    WindowBatches,
    by_parameters,
    is_family,
    open_dataset,
    open_family,
    training_batches,
    with_parameters,
    without_parameters,
)
from eddycast.data.mixture import interleaved
from eddycast.errors import InputError


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Lengths 22 (16 trajectories), 36 and 64 (4 each), points half a unit apart, on disk."""
    place = tmp_path_factory.mktemp("family") / "ks"
    lengths = api.Values((22.0, 36.0, 64.0), (4, 1, 1))
    api.simulate(
        "kuramoto-sivashinsky", trajectories=24, steps=12, spacing=0.5, spin_up=5.0, out=place,
        parameters={"domain_length": lengths}, split=(0.5, 0.25, 0.25),
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def two_values():
    """One grid, viscosity 1 and 1.5 in turn."""
    return api.simulate(
        "kuramoto-sivashinsky-viscous", trajectories=24, steps=10, spin_up=2.0, seed=1,
        parameters={"viscosity": api.Values((1.0, 1.5))},
    )  # fmt: skip


def test_a_family_on_disk_is_the_data_sets_in_its_folders(family):
    assert is_family(family)
    assert not is_family(family / "domain_length-22")
    (family / ".ipynb_checkpoints").mkdir()  # hidden folders are not of it
    assert is_family(family)
    found = open_family(family)
    assert list(found.members) == ["domain_length-22", "domain_length-36", "domain_length-64"]
    for length, count in ((22, 16), (36, 4), (64, 4)):
        one = found[f"domain_length-{length}"]
        assert one.num_trajectories == count
        assert one.grid.shape == (2 * length,)
        assert one.grid.axes[0].period == length
        assert one.parameter_values is not None
        assert one.parameter_values.unique().tolist() == [length]


def test_each_length_is_the_simulation_of_that_length_alone(family):
    alone = api.simulate(
        "kuramoto-sivashinsky", trajectories=4, steps=12, grid=(72,), spin_up=5.0, parameters={"domain_length": 36.0}
    )
    found = open_dataset(family / "domain_length-36")
    assert torch.equal(found.read(3, 0, 12), alone.read(3, 0, 12))


def test_other_commands_name_the_members_of_a_family(family):
    with pytest.raises(InputError, match="a family that only `train` takes whole: name one of domain_length-22"):
        api.open_dataset(family)


def test_members_that_do_not_belong_together_are_refused(two_values, family):
    found = open_family(family)
    with pytest.raises(InputError, match="has the parameters domain_length, other has domain_length, viscosity"):
        Family({"one": found["domain_length-22"], "other": two_values})
    slow = api.simulate("kuramoto-sivashinsky", trajectories=3, steps=4, dt=2.0, spin_up=1.0, grid=(80,))
    with pytest.raises(InputError, match="has a time step of 1, slow of 2"):
        Family({"one": found["domain_length-22"], "slow": slow})


def test_parts_by_parameter_share_out_all_training_trajectories(two_values):
    low, others = with_parameters(two_values, {"viscosity": 1.0}), without_parameters(two_values, {"viscosity": 1.0})
    assert low is not None
    assert others is not None
    assert {segment.trajectory % 2 for segment in low.segments("train")} == {0}
    assert {segment.trajectory % 2 for segment in others.segments("train")} == {1}
    parts = by_parameters(two_values)
    assert [len(part.segments("train")) for part in parts] == [
        len(low.segments("train")),
        len(others.segments("train")),
    ]
    assert with_parameters(two_values, {"viscosity": 3.0}) is None
    assert by_parameters(two_values, most=1) == (two_values,)
    with pytest.raises(InputError, match="no parameter 'beta' in the data: they have domain_length, viscosity"):
        with_parameters(two_values, {"beta": 1.0})


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.17, 0.17, 0.17, 0.17, 0.17, 0.15), (0.999, 0.001)])
def test_turns_come_evenly_and_in_their_shares(shares):
    turns = interleaved(shares)
    counts = np.bincount(turns, minlength=len(shares))
    assert counts.sum() == 840
    assert counts.min() >= 1
    assert np.abs(counts - 840 * np.array(shares)).max() <= 1
    for owner, count in enumerate(counts):
        gaps = np.diff(np.flatnonzero(turns == owner))
        assert len(gaps) == 0 or gaps.max() <= np.ceil(840 / count) + len(shares)


def test_a_mixture_of_one_is_the_data_set(two_values):
    plain = WindowBatches(two_values, "train", 3, batch_size=8, seed=5)
    mixed = MixedBatches(Mixture((two_values,), (1.0,)), "train", 3, batch_size=8, seed=5)
    for step in (0, 3, 150):
        assert torch.equal(plain.batch(step)[0], mixed.batch(step)[0])
        assert torch.equal(plain.batch(step)[1].time, mixed.batch(step)[1].time)


def test_shares_hold_within_batches_on_one_grid(two_values):
    low, high = by_parameters(two_values)
    batches = training_batches(Mixture((low, high), (0.75, 0.25)), 2, batch_size=16, seed=0)
    found = torch.cat([batches.batch(step)[1].parameters[:, 1] for step in range(10)])
    assert (found == 1.5).float().mean().item() == pytest.approx(0.25, abs=0.01)
    for step in range(10):
        state, conditions = batches.batch(step)
        assert int((conditions.parameters[:, 1] == 1.5).sum()) in (3, 4, 5)
        assert len(state) == batches.size(step) == 16


def test_no_window_comes_again_before_all_have_come(two_values):
    low, high = by_parameters(two_values)
    batches = MixedBatches(Mixture((low, high), (0.5, 0.5)), "train", 2, batch_size=10, seed=2)
    number = min(part.num_windows for part in batches.parts)
    seen = [batches.batch(step)[0] for step in range(2 * number // 10)]
    states = torch.cat(seen).flatten(1)
    assert len(states.unique(dim=0)) == len(states)


def test_batches_of_other_grids_alternate_and_hold_as_many_points(family):
    found = open_family(family)
    batches = training_batches(Mixture(found.datasets, (0.5, 0.25, 0.25)), 2, batch_size=12, seed=0)
    points = []
    for step in range(40):
        state, conditions = batches.batch(step)
        assert state.shape[-1:] == conditions.grid.shape
        assert len(state) == batches.size(step)
        points.append(state.shape[-1])
        assert abs(len(state) * state.shape[-1] - 12 * 44) <= state.shape[-1] / 2
    assert Mixture(found.datasets, (0.5, 0.25, 0.25)).sizes(12) == [12, 7, 4]
    assert [points.count(size) for size in (44, 72, 128)] == pytest.approx([20, 10, 10], abs=1)


@pytest.mark.parametrize("grids", ["one", "several"])
def test_parts_of_processes_make_up_the_batch(grids, family, two_values):
    datasets = open_family(family).datasets if grids == "several" else by_parameters(two_values)
    mixture = Mixture(datasets, (1.0,) * len(datasets))
    whole = MixedBatches(mixture, "train", 2, batch_size=12, seed=4)
    halves = [MixedBatches(mixture, "train", 2, batch_size=12, seed=4, rank=rank, ranks=2) for rank in (0, 1)]
    for step in range(6):
        assert torch.equal(torch.cat([half.batch(step)[0] for half in halves]), whole.batch(step)[0])
        assert [half.size(step) for half in halves] == [whole.size(step)] * 2
        assert halves[0].first(step) == 0
        assert halves[1].first(step) == len(halves[0].batch(step)[0])


def test_conditions_are_joined_in_order(two_values):
    one, two = two_values.conditions([0, 1], [0, 3]), two_values.conditions([5], [2])
    found = joined([one, two])
    assert found.time.tolist() == [0, 3, 2]
    assert torch.equal(found.parameters, torch.cat([one.parameters, two.parameters]))
    field = torch.zeros(1, *two_values.grid.shape)
    with pytest.raises(ValueError, match="static fields that differ"):
        joined([replace(one, static=field), replace(two, static=field + 1)])
