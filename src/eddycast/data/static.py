"""Static fields that differ between trajectories: obstacles, soils, sources. Read when they are asked for, like the states."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eddycast.data.source import Source

CACHE_BYTES = 2**26
"""Of the static fields that were read last, in each process."""


@dataclass(frozen=True, eq=False)
class StaticFields:
    """Static fields of each trajectory.

    Args:
        source: One frame (S, *space) of each trajectory, as a `Source` of trajectories of length 1.
        rows: Trajectory of the source for each of the data; None where they are the same.
        cache_bytes: What was read last is kept up to this size.
    """

    source: Source
    rows: tuple[int, ...] | None = None
    cache_bytes: int = CACHE_BYTES
    kept: OrderedDict[int, Tensor] = field(default_factory=OrderedDict, repr=False)

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.source.lengths if self.rows is None else self.rows)

    def __getitem__(self, trajectory: int) -> Tensor:
        """Fields of one trajectory, (S, *space); not to be written to."""
        row = trajectory if self.rows is None else self.rows[trajectory]
        if row not in self.kept:
            self.kept[row] = self.source.read(row, 0, 1, 1)[0]
            size = sum(fields.nbytes for fields in self.kept.values())
            while size > self.cache_bytes and len(self.kept) > 1:
                size -= self.kept.popitem(last=False)[1].nbytes
        self.kept.move_to_end(row)
        return self.kept[row]

    def table(self, trajectories: Tensor) -> tuple[Tensor, Tensor]:
        """Fields of the trajectories that occur, (N, S, *space), and the row of each of `trajectories` (*batch) in them."""
        used, rows = trajectories.unique(return_inverse=True)
        return torch.stack([self[number] for number in used.tolist()]), rows

    def taken(self, trajectories: tuple[int, ...]) -> StaticFields:
        """Those of other trajectories, made of these: number k has the fields of `trajectories[k]`."""
        rows = trajectories if self.rows is None else tuple(self.rows[number] for number in trajectories)
        return replace(self, rows=rows, kept=OrderedDict())
