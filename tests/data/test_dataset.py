"""What a data set says of itself."""

from __future__ import annotations

import torch

from eddycast.data import Dataset, Field, PlainClock, Segment, from_arrays
from eddycast.grid import Grid, periodic_axis

GRID = Grid((periodic_axis("x", 64, 1.0), periodic_axis("y", 32, 1.0)))


def test_printing_a_data_set_prints_what_it_is_and_no_states():
    splits = {"train": (Segment(0, 0, 9), Segment(1, 0, 5)), "valid": (), "test": (Segment(1, 5, 7),)}
    arrays = [torch.randn(frames, 2, 64, 32) for frames in (9, 7)]
    data = from_arrays(arrays, fields=["u", "v"], grid=GRID, dt=0.5, splits=splits)
    assert f"{data}" == repr(data) == "Dataset(u, v; x 64 x y 32; 2 x 7 to 9 states, dt 0.5; train 14, valid 0, test 2)"


def test_printing_reads_nothing_and_names_the_unit_of_time():
    class Closed:
        lengths = (4, 4, 4)

        def read(self, trajectory: int, start: int, stop: int, stride: int) -> torch.Tensor:
            raise AssertionError("printing must not read")

    data = Dataset(Closed(), (Field("sst"),), GRID, PlainClock(2.0, "day"), {"train": (Segment(0, 0, 4),)})
    assert repr(data) == "Dataset(sst; x 64 x y 32; 3 x 4 states, dt 2 day; train 4)"
