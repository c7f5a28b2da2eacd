"""Static fields that differ between trajectories: in memory, on disk, in windows, in splits by time, in latents."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from eddycast.data import StaticFields, WindowBatches, describe, from_arrays, open_dataset, write_well
from eddycast.data.arrays import ArraySource
from eddycast.data.dataset import Segment
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis

WALL = Axis("y", tuple(0.5 * node for node in range(5)), ("wall", "wall"))
GRID = Grid((periodic_axis("x", 4, 1.0), WALL))


def obstacles(trajectories: int = 6, frames: int = 7, **options):
    """A field beside two static ones: a mask and a depth, of each trajectory."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(trajectories, 1, *GRID.shape, generator=generator) < 0.3).float()
    depth = torch.randn(trajectories, 1, *GRID.shape, generator=generator)
    static = torch.cat([mask, depth], dim=1)
    states = torch.randn(trajectories, frames, 1, *GRID.shape, generator=generator)
    names = {"static": static, "static_names": ("mask", "depth")}
    return from_arrays(
        states, fields=["u"], grid=GRID, dt=0.5, fractions=(0.5, 0.2, 0.3), **{**names, **options}
    ), static


def test_conditions_have_the_fields_of_their_trajectories():
    data, static = obstacles()
    here = data.conditions([[4, 4], [1, 4]], [[0, 1], [2, 3]])
    assert data.static_varies and torch.equal(here.static_fields(), static[[4, 4, 1, 4]].unflatten(0, (2, 2)))
    assert len(here.static) == 2, "each trajectory once, however many windows"
    assert torch.equal(data.conditions(3, 0).static_fields(), static[3])
    initial = data.initial("test").resolved(1)
    assert torch.equal(initial.conditions().static_fields(), static[initial.trajectories])


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_each_window_has_the_fields_of_its_trajectory(tmp_path, memory_limit):
    """From memory and streamed from files, as the batches shuffle them."""
    data, static = obstacles()
    write_well(data, tmp_path / "set")
    batches = WindowBatches(open_dataset(tmp_path / "set"), "train", 2, batch_size=4, memory_limit=memory_limit)
    for step in range(4):
        _, here = batches.batch(step)
        rows = batches.windows[batches.indices(step)][:, 0]
        assert torch.equal(here.static_fields(), static[rows])


def test_files_bring_back_the_fields_of_each_trajectory(tmp_path):
    data, static = obstacles()
    write_well(data, tmp_path / "set")
    again = open_dataset(tmp_path / "set")
    assert again.static_names == ("mask", "depth") and again.static_varies and again.field_names == ("u",)
    assert torch.equal(again.conditions(range(6), 0).static_fields(), static)
    with h5py.File(tmp_path / "set/data/train/data.hdf5") as file:
        attributes = dict(file["t0_fields/mask"].attrs)
        assert attributes["sample_varying"] and not attributes["time_varying"] and attributes["dim_varying"].all()
        assert file["t0_fields/mask"].shape == (3, *GRID.shape)
    assert "Static fields (of each trajectory)" in describe(again)


def test_a_split_by_time_keeps_the_fields_of_its_trajectory(tmp_path):
    splits = {
        "train": tuple(Segment(number, 0, 4) for number in range(6)),
        "valid": (Segment(5, 4, 7),),
        "test": (Segment(2, 4, 7), Segment(0, 4, 7)),
    }
    data, static = obstacles(splits=splits)
    write_well(data, tmp_path / "set")
    again = open_dataset(tmp_path / "set")
    initial = again.initial("test").resolved(1)
    here = initial.conditions()
    assert torch.equal(here.static_fields(), static[[2, 0]])
    assert here.time.tolist() == pytest.approx([4, 4]), "steps from the start of the trajectory, not of the segment"


def test_the_well_reads_the_fields_of_each_trajectory(tmp_path):
    well = pytest.importorskip("the_well.data")
    data, static = obstacles()
    write_well(data, tmp_path / "set")
    loader = well.WellDataset(path=str(tmp_path / "set"), well_split_name="train", n_steps_input=2, n_steps_output=1)
    assert loader.metadata.constant_field_names[0] == ["mask", "depth"]
    for index, (trajectory, _) in enumerate(data.windows("train", 3).tolist()):
        assert torch.equal(loader[index]["constant_fields"].movedim(-1, 0), static[trajectory])


def test_fields_are_read_when_asked_for_and_few_are_kept():
    """Three of a hundred fit: memory is flat, and a trajectory that is used again is not read again."""
    reads = []

    class Counted(ArraySource):
        def read(self, trajectory, start, stop, stride):
            reads.append(trajectory)
            return super().read(trajectory, start, stop, stride)

    fields = StaticFields(Counted(torch.arange(100.0)[:, None, None, None].expand(100, 1, 1, 8)), cache_bytes=3 * 32)
    for trajectory in (7, 8, 7, 9, 7):
        assert fields[trajectory].flatten().tolist() == [trajectory] * 8
    assert reads == [7, 8, 9]
    for trajectory in range(20, 40):
        assert fields[trajectory][0, 0] == trajectory
    assert len(fields.kept) == 3
    assert len(fields) == 100 and [fields.taken((5, 5, 2))[number][0, 0].item() for number in range(3)] == [5, 5, 2]


def test_numpy_files_take_masks_of_all_or_of_each(tmp_path):
    data, static = obstacles()
    states = torch.stack([data.read(number, 0, 7) for number in range(6)]).numpy()
    mask = static[:, :1].numpy() > 0.5
    np.savez(tmp_path / "own.npz", states=states, static=mask, static_names=["mask"])
    own = open_dataset(tmp_path / "own.npz", space_dims=2)
    assert own.static_names == ("mask",) and torch.equal(own.conditions([2, 5], 0).static_fields(), static[[2, 5], :1])
    np.savez(tmp_path / "shared.npz", states=states, static=mask[0])
    shared = open_dataset(tmp_path / "shared.npz", space_dims=2)
    assert shared.static_names == ("static_0",) and torch.equal(shared.static, static[0, :1])
    np.savez(tmp_path / "wrong.npz", states=states, static=mask[:5])
    with pytest.raises(InputError, match=r"'static' must be finite numbers .* 6 trajectories"):
        open_dataset(tmp_path / "wrong.npz", space_dims=2)


def test_static_fields_of_another_number_of_trajectories_are_refused():
    _, static = obstacles()
    with pytest.raises(ValueError, match=r"static must be .*\(6 trajectories, S"):
        obstacles(static=static[:5])
