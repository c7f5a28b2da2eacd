"""Batches whose windows come from several data sets in given shares.

Data sets on one grid share every batch. Where grids differ a batch is from one of them: no padding, and the shares hold over batches.

To add another source of batches: a class that fulfils `Batches`, chosen in `training_batches`, with the laws of `test_family.py` (the same
batch for the same number, in any process). Which windows a stage of training sees is a view, by name: `recipes.adaptation.adapted_views`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eddycast.conditions import Conditions, joined
from eddycast.data.balance import Rarity
from eddycast.data.dataset import Dataset
from eddycast.data.windows import WindowBatches

PERIOD = 840
"""Places in a row over which shares hold exactly, to 1 / 840."""


class Batches(Protocol):
    """What the training loop asks of a source of batches; each depends on the seed and its number, and on nothing else."""

    def batch(self, step: int) -> tuple[Tensor, Conditions]:
        """Windows of (this part of) batch `step`, physical, and their conditions."""
        ...

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Conditions]]: ...

    def size(self, step: int) -> int:
        """Windows of the whole batch."""
        ...

    def first(self, step: int) -> int:
        """Place of this part within the whole batch."""
        ...


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data sets, and the share of windows (or batches, where grids differ) that comes from each.

    Raises: ValueError for shares that are not positive or not one for each.
    """

    datasets: tuple[Dataset, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.datasets) != len(self.shares) or not self.shares or min(self.shares) <= 0:
            raise ValueError(f"{len(self.datasets)} data sets need as many positive shares, got {self.shares}.")

    @property
    def one_grid(self) -> bool:
        return len({dataset.grid.shape for dataset in self.datasets}) == 1 and all(
            dataset.grid == self.datasets[0].grid for dataset in self.datasets
        )

    def sizes(self, batch_size: int) -> list[int]:
        """Windows in a batch of each data set, where it has about as many points as `batch_size` windows on the smallest grid."""
        smallest = min(dataset.grid.num_points for dataset in self.datasets)
        return [max(1, round(batch_size * smallest / dataset.grid.num_points)) for dataset in self.datasets]


def interleaved(shares: tuple[float, ...], period: int = PERIOD) -> np.ndarray:
    """Whose turn it is at each place of a period, (period,), as evenly as whole numbers allow; each has one turn at least.

    Raises: ValueError for more shares than places.
    """
    if len(shares) > period:
        raise ValueError(f"{len(shares)} shares do not fit into a period of {period}.")
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * period
    counts = np.maximum(1, np.floor(exact)).astype(int)
    while counts.sum() < period:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > period:  # the one turn that each has at least was more than some shares ask for
        counts[np.argmin(np.where(counts > 1, exact - counts, np.inf))] -= 1
    owners = np.repeat(np.arange(len(shares)), counts)
    at = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return owners[np.lexsort((owners, at))]


class MixedBatches:
    """Batches of a `Mixture`, as `WindowBatches` gives them of one data set.

    Each data set has a stream of its own, shuffled as in `WindowBatches`, and a turn of the mixture takes the next window (or batch) of
    it. Where grids differ, the batch of a data set has so many windows that it holds about as many points as one on the smallest grid.
    """

    def __init__(
        self,
        mixture: Mixture,
        split: str,
        frames: int,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rarity: Rarity | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.mixed = mixture.one_grid
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks
        sizes = mixture.sizes(batch_size)
        if min(sizes) < ranks:
            raise ValueError(f"A batch of {min(sizes)} windows cannot be shared by {ranks} processes.")
        self.parts = [
            WindowBatches(
                dataset, split, frames, batch_size=size, seed=seed + 104_729 * number, workers=workers,
                rarity=rarity, rank=0 if self.mixed else rank, ranks=1 if self.mixed else ranks,
            )
            for number, (dataset, size) in enumerate(zip(mixture.datasets, sizes, strict=True))
        ]  # fmt: skip
        self.turns = interleaved(mixture.shares)

    @cached_property
    def _earlier(self) -> np.ndarray:
        """Turns of each data set before each place of a period, those of the whole period in the last row, (period + 1, part)."""
        mine = self.turns[:, None] == np.arange(len(self.parts))
        return np.concatenate([np.zeros((1, len(self.parts)), dtype=np.int64), np.cumsum(mine, axis=0)])

    def _turn(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose turn it is at places of the endless stream, and how many turns it had before, each (place,)."""
        periods, inside = np.divmod(places, len(self.turns))
        owner = self.turns[inside]
        return owner, periods * self._earlier[-1, owner] + self._earlier[inside, owner]

    def _owner(self, step: int) -> tuple[WindowBatches, int]:
        """Where grids differ: the data set of a batch, and the number of the batch in its stream."""
        owner, number = self._turn(np.array([step]))
        return self.parts[int(owner[0])], int(number[0])

    def size(self, step: int) -> int:
        return self.batch_size if self.mixed else self._owner(step)[0].batch_size

    def first(self, step: int) -> int:
        if not self.mixed:
            return self._owner(step)[0].part.start
        return self.batch_size * self.rank // self.ranks

    def batch(self, step: int) -> tuple[Tensor, Conditions]:
        if not self.mixed:
            part, number = self._owner(step)
            return part.batch(number)
        stop = self.batch_size * (self.rank + 1) // self.ranks
        owners, numbers = self._turn(step * self.batch_size + np.arange(self.first(step), stop))
        states, conditions, order = [], [], []
        for index, part in enumerate(self.parts):
            here = np.flatnonzero(owners == index)
            if len(here):
                state, condition = part.take(numbers[here])
                states.append(state)
                conditions.append(condition)
                order.append(here)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(states)[back], joined(conditions).select(back)

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Conditions]]:
        for step in range(start, stop):
            yield self.batch(step)


def training_batches(
    data: Dataset | Mixture,
    frames: int,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rarity: Rarity | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> Batches:
    """Batches of the training split of one data set, or of several; rare is what is rare within its own data set."""
    shared = {"batch_size": batch_size, "seed": seed, "workers": workers, "rank": rank, "ranks": ranks}
    if isinstance(data, Mixture):
        return MixedBatches(data, "train", frames, rarity=rarity, **shared)
    return WindowBatches(data, "train", frames, rarity=rarity, **shared)
