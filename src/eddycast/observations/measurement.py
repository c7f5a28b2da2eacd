"""What is observed of a run of frames, entry by entry: the one form in which assimilation methods see observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.grid import Grid


class EntryOperator(Protocol):
    """Noise-free values (*batch, case, entry) of physical states (*batch, case, time, channel, *space); 0 where a list is filled up."""

    def __call__(self, states: Tensor) -> Tensor: ...

    def select(self, index: Tensor) -> EntryOperator:
        """For the cases with the given numbers, (case,); a case may come several times."""
        ...


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = H(states) + e of the frames [start, stop) of all cases.

    Only what is observed has an entry: a missing row, a value that is NaN and a row that was rejected leave the same list. Cases with
    fewer entries than others are filled up with NaN at the end.

    Args:
        operator: H, for the states of just these frames.
        values: y, (case, entry), in the unit of each entry.
        std: Standard deviation of e, (case, entry), positive; 1 where a list is filled up.
        positions: Coordinates of the entries along each axis of the grid, (case, entry, axis), float64; NaN along axes on which an
            entry has no place, such as a mean over them.
        frames: Frame of the last state that an entry looks at, (case, entry), counted as `start` is; -1 where a list is filled up.
    """

    operator: EntryOperator
    values: Tensor
    std: Tensor
    positions: Tensor
    frames: Tensor

    @property
    def mask(self) -> Tensor:
        """True at entries, False where a list is filled up, (case, entry)."""
        return ~torch.isnan(self.values)

    @property
    def count(self) -> int:
        """Number of entries of all cases."""
        return int(self.mask.sum())

    def select(self, index: Tensor) -> Measurement:
        """For the cases with the given numbers, (case,); a case may come several times."""
        return Measurement(
            self.operator.select(index), self.values[index], self.std[index], self.positions[index], self.frames[index]
        )

    def whitened(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """H(states) / std, (*batch, case, entry), and y / std, (case, entry); both 0 where a list is filled up."""
        std = self.std.to(states)
        return self.operator(states) / std, torch.nan_to_num(self.values.to(states), nan=0.0) / std


class ObservationSet(Protocol):
    """What assimilation methods ask of observations, gridded (`Observations`) or not.

    `grid`, `fields`, `dt` and the like are those of the states; cases start at `frames` of their `trajectories`.
    """

    @property
    def grid(self) -> Grid: ...
    @property
    def fields(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def dt(self) -> float: ...
    @property
    def trajectories(self) -> Tensor: ...
    @property
    def frames(self) -> Tensor: ...
    @property
    def valid(self) -> Tensor | None: ...
    @property
    def num_cases(self) -> int: ...
    @property
    def num_times(self) -> int: ...
    @property
    def count(self) -> int: ...

    def seen(self, start: int, stop: int, *, since: int | None = None) -> Measurement | None:
        """Entries that look at no other frames than [start, stop), the last of these at `since` or later (None: at any); None if none."""
        ...

    def observed_frames(self) -> Tensor:
        """True at frames that are the last one of an entry of some case, (time,)."""
        ...

    def conditions(self, static: Tensor | None = None) -> Conditions: ...

    def window(self, start: int, stop: int) -> ObservationSet: ...

    def select(self, index: Tensor) -> ObservationSet: ...


@dataclass(frozen=True, eq=False)
class CellEntries:
    """Entries that are cells of a grid (points, or block means), picked by number.

    Args:
        operator: States (*batch, case, time, channel, *space) -> cells (*batch, case, time, channel, *cells).
        index: Number of each entry among (time, channel, *cells), flattened, (case, entry).
        mask: False where a list is filled up, (case, entry).
    """

    operator: CellOperator
    index: Tensor
    mask: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        cells = self.operator(states)
        lead = cells.ndim - self.operator.cell_axes - 2
        cells = cells.flatten(lead)
        index, mask = self.index.to(cells.device), self.mask.to(cells.device)
        picked = cells.gather(-1, index.expand(*cells.shape[:-1], index.shape[-1]))
        return torch.where(mask, picked, torch.zeros((), dtype=picked.dtype, device=picked.device))

    def select(self, index: Tensor) -> CellEntries:
        return CellEntries(self.operator, self.index[index], self.mask[index])


class CellOperator(Protocol):
    """States (*batch, time, channel, *space) to cells (*batch, time, channel, *cells)."""

    @property
    def cell_axes(self) -> int: ...

    def __call__(self, state: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class EveryPoint:
    """The states as they are."""

    cell_axes: int

    def __call__(self, state: Tensor) -> Tensor:
        return state


def packed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the true places of each case, in order, for a mask (case, place): index and whether it is one, (case, entry)."""
    count = mask.sum(dim=1)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    return index, torch.arange(index.shape[1]) < count[:, None]
