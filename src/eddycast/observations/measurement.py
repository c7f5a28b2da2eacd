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
        groups: Number of the group of entries, such as a platform at one time, whose errors go together, (case, entry), from 0 on and
            -1 for an entry by itself; None where all errors are independent.
        correlation: Correlation rho of the errors of any two entries of a group, in [0, 1), the same throughout a group, (case, entry).

    Raises: ValueError for groups without their correlation, or the reverse.
    """

    operator: EntryOperator
    values: Tensor
    std: Tensor
    positions: Tensor
    frames: Tensor
    groups: Tensor | None = None
    correlation: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.groups is None) != (self.correlation is None):
            raise ValueError("Groups of entries and the correlation of their errors come together, or neither does.")

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
            self.operator.select(index), self.values[index], self.std[index], self.positions[index], self.frames[index],
            None if self.groups is None else self.groups[index],
            None if self.correlation is None else self.correlation[index],
        )  # fmt: skip

    def whitened(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """R^-1/2 H(states), (*batch, case, entry), and R^-1/2 y, (case, entry); both 0 where a list is filled up.

            R = D C D,  D = diag(std),  C = (1 - rho) I + rho 1 1^T within each group and I elsewhere
            R^-1/2 = C^-1/2 D^-1,  with the symmetric root of C

        The difference of the two has independent errors of variance 1; without groups this is a division by std.
        """
        std = self.std.to(states)
        predicted, observed = self.operator(states) / std, torch.nan_to_num(self.values.to(states), nan=0.0) / std
        if self.groups is None or self.correlation is None:
            return predicted, observed
        groups, correlation = self.groups.to(std.device), self.correlation.to(std)
        return decorrelated(predicted, groups, correlation), decorrelated(observed, groups, correlation)

    def independent(self) -> Measurement:
        """The same information in entries with independent errors, for methods that divide by `std` themselves.

        Itself where errors are independent; otherwise R^-1/2 y, with R^-1/2 H and a standard deviation of 1.
        """
        if self.groups is None or self.correlation is None:
            return self
        shown = torch.nan_to_num(self.values, nan=0.0) / self.std
        white = decorrelated(shown, self.groups, self.correlation)
        values = torch.where(self.mask, white, torch.full_like(white, torch.nan))
        return Measurement(WhiteEntries(self), values, torch.ones_like(self.std), self.positions, self.frames)


@dataclass(frozen=True, eq=False)
class WhiteEntries:
    """R^-1/2 H of a measurement, an `EntryOperator`."""

    measurement: Measurement

    def __call__(self, states: Tensor) -> Tensor:
        return self.measurement.whitened(states)[0]

    def select(self, index: Tensor) -> WhiteEntries:
        return WhiteEntries(self.measurement.select(index))


def decorrelated(x: Tensor, groups: Tensor, correlation: Tensor) -> Tensor:
    """C^-1/2 x for C = (1 - rho) I + rho 1 1^T within each group, the symmetric root in closed form.

        C^-1/2 = a I + b 1 1^T,  a = (1 - rho)^-1/2,  b = ((1 - rho + m rho)^-1/2 - a) / m,  m entries in the group

    since C is 1 - rho + m rho along the vector of ones and 1 - rho across it.

    Args:
        x: (*batch, case, entry).
        groups, correlation: As in `Measurement`, (case, entry).

    Returns: shape of `x`; entries of group -1 as they are.
    """
    together = groups >= 0
    place = groups.clamp(min=0)
    num_groups = int(place.max()) + 1 if place.numel() else 1
    zeros = torch.zeros(*x.shape[:-1], num_groups, dtype=x.dtype, device=x.device)
    kept = torch.where(together, x, torch.zeros((), dtype=x.dtype, device=x.device))
    sums = zeros.scatter_add(-1, place.expand(x.shape), kept).gather(-1, place.expand(x.shape))
    counts = torch.zeros(len(groups), num_groups, dtype=torch.float64, device=x.device)
    m = counts.scatter_add(-1, place, together.to(counts)).gather(-1, place).clamp(min=1)
    rho = torch.where(together, correlation.to(torch.float64), 0)
    a = (1 - rho).rsqrt()
    b = ((1 - rho + m * rho).rsqrt() - a) / m
    return a.to(x) * x + torch.where(together, b, 0).to(x) * sums


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
