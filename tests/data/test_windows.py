"""Data in memory, initial states, and batches that depend on their number only."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eddycast.data import WindowBatches, from_arrays, make_splits
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis

GRID = Grid((periodic_axis("x", 4, 1.0),))


def counting(trajectories: int = 5, frames: int = 20, **options):
    """Data whose values tell where they belong: 1000 trajectory + frame, with a minus in the second channel."""
    number = 1000.0 * torch.arange(trajectories)[:, None] + torch.arange(frames)
    states = torch.stack([number, -number], 2)[..., None].expand(-1, -1, -1, 4)
    parameters = torch.arange(float(trajectories))[:, None]
    return from_arrays(
        states, fields=["a", "b"], grid=GRID, dt=0.5, parameters=parameters, parameter_names=["index"], **options
    )


def test_windows_hold_consecutive_frames_and_their_conditions():
    batches = WindowBatches(counting(), "train", frames=4, stride=3, batch_size=6, seed=1)
    states, conditions = batches.batch(7)
    first = states[:, 0, 0, 0]
    expected = first[:, None] + 3 * torch.arange(4)
    assert torch.equal(states[:, :, 0, 0], expected) and torch.equal(states[:, :, 1, 2], -expected)
    assert torch.equal(conditions.parameters[:, 0], first // 1000)
    assert torch.equal(conditions.time, (first % 1000) / 3) and conditions.dt == 1.5


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 40))
def test_no_window_repeats_within_an_epoch(batch_size, seed, start):
    batches = WindowBatches(counting(), "train", frames=5, stride=2, batch_size=batch_size, seed=seed)
    stream = np.concatenate([batches.indices(step) for step in range(start, start + 60)])
    number = batches.num_windows
    offset = -start * batch_size % number
    for epoch in range((len(stream) - offset) // number):
        part = stream[offset + epoch * number : offset + (epoch + 1) * number]
        assert sorted(part.tolist()) == list(range(number))


def test_batches_are_addressed_by_seed_and_step():
    one, two = (WindowBatches(counting(), "train", 3, batch_size=8, seed=seed) for seed in (0, 1))
    late = WindowBatches(counting(), "train", 3, batch_size=8, seed=0)
    assert torch.equal(late.states(1000), one.states(1000))
    assert not torch.equal(one.states(0), two.states(0))
    epochs = [one.indices(step) for step in (0, one.num_windows)]
    assert not np.array_equal(*epochs), "each epoch has its own order"


@pytest.mark.parametrize("start", [0, 5])
def test_workers_memory_and_lazy_reading_agree(start):
    data = counting()
    held = WindowBatches(data, "train", 3, 2, batch_size=4, seed=3)
    lazy = WindowBatches(data, "train", 3, 2, batch_size=4, seed=3, memory_limit=0)
    spread = WindowBatches(data, "train", 3, 2, batch_size=4, seed=3, memory_limit=0, workers=2)
    assert held.in_memory and not lazy.in_memory
    count = 0
    for one, two, three in zip(*(which.iterate(start, start + 6) for which in (held, lazy, spread)), strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[0], three[0])
        assert torch.equal(one[1].time, three[1].time) and torch.equal(one[1].parameters, three[1].parameters)
        count += 1
    assert count == 6


def test_changing_a_window_in_place_does_not_change_the_data():
    data = counting()
    data.read(0, 0, 3).zero_()
    assert data.read(0, 2, 3)[0, 0, 0] == 2


def test_data_survive_pickling_for_worker_processes():
    data = pickle.loads(pickle.dumps(counting()))
    assert torch.equal(data.read(3, 4, 9, 2), counting().read(3, 4, 9, 2))


def test_windows_stay_inside_segments():
    data = counting(trajectories=1, frames=50)
    for split, segments in data.splits.items():
        starts = data.windows(split, frames=3, stride=2)[:, 1]
        assert starts.min() == segments[0].start and starts.max() + 4 == segments[0].stop - 1


def test_too_short_trajectories_are_one_clear_line():
    with pytest.raises(InputError, match=r"needs 31 frames.*has 20") as error:
        WindowBatches(counting(), "train", frames=31)
    assert "\n" not in str(error.value)


def test_initial_states():
    data = counting(trajectories=1, frames=100)
    test = data.splits["test"][0]
    last = data.initial("test", start="last")
    assert last.frames.tolist() == [99] == [test.stop - 1]
    context = last.context(4)
    assert context.shape == (1, 4, 2, 4) and context[0, :, 0, 0].tolist() == [96, 97, 98, 99]
    early = data.initial("test").resolved(3)
    assert early.frames.tolist() == [test.start + 2], "the context stays inside the split"
    assert data.initial("test", start=test.start).context(5)[0, 0, 0, 0] == test.start - 4, "a forecast knows the past"
    every = data.initial("test", start="all", leads=3)
    assert every.frames.tolist() == list(range(test.start, test.stop - 3))
    truth = data.initial("test", start=[97, 98]).truth(2)
    assert truth[0, :, 0, 0].tolist() == [98, 99]
    assert truth[1, 0, 0, 0] == 99 and truth[1, 1].isnan().all(), "beyond the end there is no truth"
    assert every.conditions().time.tolist() == every.frames.tolist()


def test_initial_with_stride_counts_in_longer_steps():
    data = counting(trajectories=10, frames=40)
    initial = data.initial("test", stride=4).resolved(3)
    assert initial.frames.tolist() == [8] and initial.context(3)[0, :, 0, 0].tolist() == [9000, 9004, 9008]
    assert initial.conditions().time.tolist() == [2.0] and initial.conditions().dt == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 3}, "Frame 3 is not in split 'test'.*90 to 99"),
        ({"start": "first"}, "'last' or 'all'"),
        ({"split": "tset"}, "Unknown split 'tset'; valid ones: train, valid, test"),
        ({"trajectories": [4]}, r"Trajectories \[4\] are not in split"),
    ],
)
def test_wrong_initial_states(options, words):
    with pytest.raises(InputError, match=words):
        counting(trajectories=1, frames=100).initial(**options)


def test_context_longer_than_the_past():
    data = counting(trajectories=10, frames=12)
    with pytest.raises(InputError, match="needs 5 frames before"):
        data.initial("test", start=4).context(6)
    assert data.initial("test", start="all").resolved(6).frames.tolist() == list(range(5, 12))
    with pytest.raises(InputError, match="too short: the context needs 13 frames"):
        data.initial("test").resolved(13)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(3, 30), min_size=1, max_size=30), st.tuples(*[st.floats(0.05, 1.0)] * 3))
def test_splits_are_disjoint_complete_and_in_order(lengths, fractions):
    splits = make_splits(lengths, fractions)
    frames = {
        name: {(one.trajectory, frame) for one in segments for frame in range(one.start, one.stop)}
        for name, segments in splits.items()
    }
    assert all(frames.values()), "no split is empty"
    assert sum(map(len, frames.values())) == sum(lengths) == len(set.union(*frames.values()))
    assert max(frames["train"]) < min(frames["valid"]) and max(frames["valid"]) < min(frames["test"])


def test_default_split_is_80_10_10():
    assert [len(part) for part in make_splits([5] * 40).values()] == [32, 4, 4]
    assert [len(part[0]) for part in make_splits([200]).values()] == [160, 20, 20]
    assert [len(part) for part in make_splits([5], (0, 0, 1)).values()] == [0, 0, 1]
    with pytest.raises(InputError, match="cannot be cut into 3"):
        make_splits([2])


def test_missing_values_are_a_mask_or_an_error():
    states = torch.randn(4, 6, 2, 4, generator=torch.Generator().manual_seed(0))
    land = states.clone()
    land[..., 1] = torch.nan
    data = from_arrays(land, fields=["a", "b"], grid=GRID, dt=1.0)
    assert data.valid.tolist() == [True, False, True, True] and data.read(0, 0, 2)[..., 1].isnan().all()
    gap = states.clone()
    gap[1, 2, 1, 3] = torch.inf
    with pytest.raises(InputError, match=r"field 'b'.*1 points, 1 missing values in all"):
        from_arrays(gap, fields=["a", "b"], grid=GRID, dt=1.0)
    union = from_arrays(gap, fields=["a", "b"], grid=GRID, dt=1.0, missing="union")
    assert union.valid.tolist() == [True, True, True, False] and union.read(1, 2, 3)[..., :3].isfinite().all()
    with pytest.raises(InputError, match="'a' has no finite value anywhere"):
        from_arrays(torch.full_like(states, torch.nan), fields=["a", "b"], grid=GRID, dt=1.0)
