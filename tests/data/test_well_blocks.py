"""Decoded blocks: the same frames as without them, never more bytes than allowed, and nobody can write into them."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from eddycast.data import open_dataset
from eddycast.data.well_source import BLOCK_CACHE_BYTES

FRAMES, SHAPE = 37, (6, 5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three trajectories of a scalar in chunks of 8 frames and a vector in chunks of 4, compressed."""
    file = tmp_path_factory.mktemp("well") / "set.hdf5"
    generator = np.random.default_rng(0)
    with h5py.File(file, "w") as handle:
        handle.attrs.update(
            dataset_name="made", n_spatial_dims=2, n_trajectories=3, simulation_parameters=[], grid_type="cartesian"
        )
        dimensions = handle.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, values in (("time", np.arange(FRAMES)), ("x", np.arange(6)), ("y", np.arange(5))):
            dimensions[name] = np.asarray(values, dtype=np.float32)
            dimensions[name].attrs.update(sample_varying=False, time_varying=name == "time")
        for name in ("boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"):
            handle.create_group(name)
        handle["scalars"].attrs["field_names"] = []
        for group, name, tail, length in (("t0_fields", "pressure", (), 8), ("t1_fields", "velocity", (2,), 4)):
            values = generator.normal(size=(3, FRAMES, *SHAPE, *tail)).astype(np.float32)
            chunks = (1, length, *SHAPE, *tail)
            data = handle[group].create_dataset(name, data=values, chunks=chunks, compression="gzip")
            data.attrs.update(sample_varying=True, time_varying=True, dim_varying=[True, True])
            handle[group].attrs["field_names"] = [name]
        handle["t2_fields"].attrs["field_names"] = []
    return file


def opened(path, cache_bytes):
    dataset = open_dataset(path)
    return replace(
        dataset, source=replace(dataset.source, cache_bytes=cache_bytes, blocks=type(dataset.source.blocks)())
    )


@pytest.mark.parametrize("cache_bytes", [BLOCK_CACHE_BYTES, 4 * 8 * 3 * 30 * 4])
def test_blocks_change_no_frame(path, cache_bytes):
    """Every start, stop and stride, across the ends of blocks and at the end of the file; a cache of four blocks too."""
    plain, kept = opened(path, 0), opened(path, cache_bytes)
    for trajectory in (0, 2):
        for stride in (1, 2, 3, 5, 9):
            for start in range(0, FRAMES, 2):
                for stop in (start + 1, start + 4, start + 9, FRAMES):
                    if stop <= FRAMES:
                        expected = plain.source.read(trajectory, start, stop, stride)
                        assert torch.equal(kept.source.read(trajectory, start, stop, stride), expected)
    assert not plain.source.blocks and kept.source.blocks
    assert sum(block.nbytes for block in kept.source.blocks.values()) <= cache_bytes
    assert max(len(block) for block in kept.source.blocks.values()) == 8


def test_what_is_read_is_the_readers_own(path):
    dataset = opened(path, BLOCK_CACHE_BYTES)
    first = dataset.source.read(1, 3, 6, 1)
    expected = first.clone()
    first.zero_()
    assert torch.equal(dataset.source.read(1, 3, 6, 1), expected)


def test_a_block_that_is_large_for_the_cache_is_not_kept(path):
    """Then single windows are read, as without: memory stays flat for frames of any size."""
    dataset = opened(path, 4 * 8 * 3 * 30 * 4 - 1)
    assert dataset.source.read(0, 0, 4, 1).shape == (4, 3, *SHAPE)
    assert not dataset.source.blocks
