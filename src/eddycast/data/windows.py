"""Batches of windows for training: a batch depends on the seed and its number, and on nothing else.

There is no state to save: an exact resume needs the number of the step only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from eddycast.conditions import Conditions
from eddycast.data.balance import Rarity
from eddycast.data.dataset import Dataset

MEMORY_LIMIT = 2**30
STATES_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Shuffled windows of one split.

    Batch b takes the windows b B ... (b + 1) B - 1 of an endless stream; each pass over the data (epoch) is a permutation
    addressed by (seed, epoch), so no window repeats before all have come, but for rare ones (`rarity`). A batch may
    straddle two epochs.

    Args:
        dataset: Opened data.
        split: Whose windows.
        frames: Frames per window.
        stride: Frames of the data per step of the window.
        batch_size: Windows per batch.
        seed: Non-negative.
        workers: Processes that read ahead in `iterate`, where the split is not held in memory.
        memory_limit: Splits of up to this many bytes are read once and held in memory.
        rarity: How often windows come in a pass; None: each once. The first states of all windows are then read at the start.
        rank, ranks: Of each batch, the `rank`-th of `ranks` parts only, which differ by one window at most; together they are
            the batch.

    Raises: InputError where no trajectory is long enough (at construction).
    """

    dataset: Dataset
    split: str
    frames: int
    stride: int = 1
    batch_size: int = 16
    seed: int = 0
    workers: int = 0
    memory_limit: int = MEMORY_LIMIT
    rarity: Rarity | None = None
    rank: int = 0
    ranks: int = 1
    windows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or self.seed < 0:
            raise ValueError(
                f"batch_size must be positive, workers and seed not negative: {self.batch_size}, {self.workers}, "
                f"{self.seed}."
            )
        if not 0 <= self.rank < self.ranks <= self.batch_size:
            raise ValueError(f"Part {self.rank} of {self.ranks} of a batch of {self.batch_size} windows cannot be.")
        object.__setattr__(self, "windows", self.dataset.windows(self.split, self.frames, self.stride))

    @property
    def num_windows(self) -> int:
        return len(self.windows)

    @property
    def in_memory(self) -> bool:
        """Whether the split is held in memory."""
        frames = sum(map(len, self.dataset.segments(self.split)))
        return 4 * frames * int(np.prod(self.dataset.state_shape)) <= self.memory_limit

    @property
    def part(self) -> slice:
        """Places of this part within the whole batch."""
        return slice(self.batch_size * self.rank // self.ranks, self.batch_size * (self.rank + 1) // self.ranks)

    def size(self, step: int) -> int:
        """Windows of the whole batch `step`."""
        return self.batch_size

    def first(self, step: int) -> int:
        """Place of this part within the whole batch `step`."""
        return self.part.start

    def indices(self, step: int) -> np.ndarray:
        """Numbers of the windows of (this part of) batch `step`, (batch,)."""
        return self._chosen(step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)[self.part])

    def _chosen(self, position: np.ndarray) -> np.ndarray:
        """Numbers of the windows at places of the endless stream, (place,)."""
        epochs, places = np.divmod(position, len(self._pass))
        chosen = np.empty(len(position), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            chosen[here] = self._permutation(epoch)[places[here]]
        return chosen

    def _permutation(self, epoch: int) -> np.ndarray:
        cached = self._last_permutation
        if epoch not in cached:
            for old in sorted(cached)[:-1]:
                del cached[old]
            bits = np.random.Philox(counter=[0, 0, 0, 0], key=[self.seed, epoch])
            cached[epoch] = self._pass[np.random.Generator(bits).permutation(len(self._pass))]
        return cached[epoch]

    @cached_property
    def _pass(self) -> np.ndarray:
        """Numbers of the windows of one pass over the data, in order, (place,)."""
        every = np.arange(self.num_windows)
        if self.rarity is None:
            return every
        values = [
            self.rarity.statistic(torch.cat([self.dataset.read(one, start, start + 1) for one, start in part.tolist()]))
            for part in np.array_split(self.windows, math.ceil(len(self.windows) / STATES_AT_ONCE))
        ]
        return np.repeat(every, self.rarity.repeats(torch.cat(values).double().numpy()))

    @cached_property
    def _last_permutation(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def _held(self) -> tuple[Tensor, dict[tuple[int, int], int]]:
        """All frames of the split in a row, and where each segment begins."""
        states, begins, position = [], {}, 0
        for segment in self.dataset.segments(self.split):
            states.append(self.dataset.read(segment.trajectory, segment.start, segment.stop))
            begins[segment.trajectory, segment.start] = position
            position += len(segment)
        return torch.cat(states), begins

    @cached_property
    def _rows(self) -> Tensor:
        """Row of the first frame of each window within the held frames, (window,)."""
        _, begins = self._held
        rows = [
            begins[segment.trajectory, segment.start] + frame
            for segment in self.dataset.segments(self.split)
            for frame in range(len(segment) - (self.frames - 1) * self.stride)
        ]
        return torch.tensor(rows)

    def states(self, step: int) -> Tensor:
        """States of batch `step`, (batch, frames, channel, *space); invalid points are NaN."""
        return self._states(self.indices(step))

    def _states(self, chosen: np.ndarray) -> Tensor:
        if self.in_memory:
            rows = self._rows[torch.from_numpy(chosen)]
            return self._held[0][rows[:, None] + self.stride * torch.arange(self.frames)]
        span = (self.frames - 1) * self.stride + 1
        return torch.stack(
            [self.dataset.read(one, start, start + span, self.stride) for one, start in self.windows[chosen].tolist()]
        )

    def conditions(self, step: int) -> Conditions:
        """Conditions of batch `step` with the origin at the first frame of each window."""
        return self._conditions(self.indices(step))

    def _conditions(self, chosen: np.ndarray) -> Conditions:
        rows = torch.from_numpy(self.windows[chosen])
        return self.dataset.conditions(rows[:, 0], rows[:, 1], self.stride)

    def take(self, positions: np.ndarray) -> tuple[Tensor, Conditions]:
        """Windows at any places of the stream, (place,), as `batch` gives them: batch b has the places b B ... (b + 1) B - 1."""
        chosen = self._chosen(positions)
        return self._states(chosen), self._conditions(chosen)

    def batch(self, step: int) -> tuple[Tensor, Conditions]:
        """Batch `step`, counted from 0: states (batch, frames, channel, *space) and their conditions."""
        return self.states(step), self.conditions(step)

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Conditions]]:
        """Batches start ... stop - 1, the same as `batch` gives, read ahead by `workers` processes."""
        if self.workers == 0 or self.in_memory:
            for step in range(start, stop):
                yield self.batch(step)
            return
        loader = DataLoader(_Steps(self), batch_size=None, sampler=range(start, stop), num_workers=self.workers)
        for step, states in zip(range(start, stop), loader, strict=True):
            yield states, self.conditions(step)


class _Steps(TorchDataset[Tensor]):
    """Batch number -> states, for the worker processes."""

    def __init__(self, batches: WindowBatches) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> Tensor:
        return self.batches.states(index)
