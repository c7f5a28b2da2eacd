"""Frames of boxes on their way from many files to one data set: a plain file on disk, in which they lie box by box.

The files have the frames in the order of time, each with all places; training wants each place with all times. Sorting passes once over the
files and holds some frames at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eddycast.data.records import Record, open_file
from eddycast.data.tiling import Box
from eddycast.errors import InputError

BLOCK_BYTES = 2**26
SMALLEST_RATIO = 1e-3
"""The standard deviation of a pixel is at least this share of that of its box, so that a nearly constant pixel cannot explode."""


@dataclass(frozen=True, eq=False)
class Spool:
    """Frames of all boxes in one plain file, box by box: (box, time, channel, *size), float32."""

    path: Path
    shape: tuple[int, ...]

    def block(self, box: int, start: int, stop: int) -> np.ndarray:
        """Frames of a box, (time, channel, *size)."""
        return np.array(np.memmap(self.path, np.float32, "r", shape=self.shape)[box, start:stop])


@dataclass(frozen=True, eq=False)
class Pieces:
    """Frames of boxes without gaps: the `Source` of the cut data set.

    Args:
        spool: All frames.
        index: (box, first frame, end) of each trajectory.
        mean, std: What is taken off and divided by, (box, channel, *size); None for neither.
    """

    spool: Spool
    index: tuple[tuple[int, int, int], ...]
    mean: np.ndarray | None
    std: np.ndarray | None

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(stop - start for _, start, stop in self.index)

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        box, first, _ = self.index[trajectory]
        values = self.spool.block(box, first + start, first + stop)[::stride]
        if self.mean is not None and self.std is not None:
            values = (values.astype(np.float64) - self.mean[box]) / self.std[box]
        return torch.from_numpy(values.astype(np.float32))


def rows_and_columns(several: list[Box]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of several boxes, each once, increasing."""
    return np.unique(np.concatenate([box.rows for box in several])), np.unique(
        np.concatenate([box.columns for box in several])
    )


def inside(box: Box, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of a box lie in a map of `rows` and `columns` (increasing), in the order of the box."""
    return np.searchsorted(rows, box.rows)[:, None], np.searchsorted(columns, box.columns)[None, :]


def fill(
    spool: Spool, record: Record, chosen: list[Box], used: np.ndarray, progress: Callable[[int, int], None]
) -> None:
    """Write the frames of all boxes into the spool, file after file, some frames at a time."""
    rows, columns = rows_and_columns(chosen)
    within = [inside(box, rows, columns) for box in chosen]
    frame_bytes = 4 * int(np.prod(spool.shape[2:]))
    at_once = max(1, BLOCK_BYTES // (4 * len(rows) * len(columns) * len(record.fields)))
    owners, places = record.owner[used], record.place[used]
    done = 0
    with spool.path.open("wb") as file:
        for number in np.unique(owners):
            path, mine = record.paths[number], np.flatnonzero(owners == number)
            with open_file(path) as content:
                for start in range(0, len(mine), at_once):
                    part = mine[start : start + at_once]
                    values = record.read(content, path, places[part], rows, columns)
                    for box, (row, column) in enumerate(within):
                        cut = np.ascontiguousarray(values[:, :, row, column])
                        for run in np.split(np.arange(len(part)), np.flatnonzero(np.diff(part) != 1) + 1):
                            file.seek((box * spool.shape[1] + int(part[run[0]])) * frame_bytes)
                            file.write(cut[run[0] : run[-1] + 1].tobytes())
                    done += len(part)
                    progress(done, len(used))


def pixel_statistics(
    spool: Spool, count: int, record: Record, chosen: list[Box], used: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each pixel over the first `count` frames, (box, channel, *size), float64.

    All frames are looked at for missing values on the way. Points that are not valid have mean 0 and standard deviation 1.
    Raises: InputError for a value that is missing at a valid point.
    """
    mean, square = (np.zeros((spool.shape[0], *spool.shape[2:])) for _ in range(2))
    at_once = max(1, BLOCK_BYTES // (8 * int(np.prod(spool.shape[2:]))))
    for box in range(spool.shape[0]):
        # squares of 300 K would eat digits of 0.1 K
        shift = np.nan_to_num(spool.block(box, 0, 1)[0].astype(np.float64))
        for start in range(0, spool.shape[1], at_once):
            values = spool.block(box, start, start + at_once)
            lost = ~np.isfinite(values) if valid is None else ~np.isfinite(values) & valid
            if lost.any():
                frame = int(used[start + int(np.argmax(lost.any((1, 2, 3))))])
                raise InputError(
                    f"{record.paths[record.owner[frame]]}: {int(lost.any(1).sum())} points of box {chosen[box].number} that are not "
                    f"land are missing on {record.when(frame)}; leave this frame out, which makes a gap, or fill it."
                )
            own = np.nan_to_num(values[: max(0, count - start)].astype(np.float64)) - shift
            mean[box] += own.sum(0)
            square[box] += (own**2).sum(0)
        mean[box] /= count
        square[box] = np.sqrt(np.maximum(square[box] / count - mean[box] ** 2, 0.0))
        mean[box] += shift
    kept = np.ones(spool.shape[3:], dtype=bool) if valid is None else valid
    whole = np.sqrt((square[..., kept] ** 2).mean(-1))[..., None, None]
    std = np.maximum(square, SMALLEST_RATIO * np.where(whole > 0, whole, 1 / SMALLEST_RATIO))
    return np.where(kept, mean, 0.0), np.where(kept, std, 1.0)
