"""Entries of a table as an operator: sparse linear maps of states, then functions of several of their values.

What the rows have in common is kept together: stencils of about the same width share one array, so that wide ones do not fill up narrow
ones; values that need a whole frame (trigonometric interpolation, spectral coefficients) are picked from a transform of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

INNOCENT = 0.5
"""What functions see where a list is filled up: a number at which logarithms, roots and the like have a derivative."""


class Transform(Protocol):
    """States (*batch, time, channel, *space) to cells (*batch, time, channel, cell); linear."""

    def __call__(self, states: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Points:
    """The states as they are, in one list of cells.

    Args:
        axes: Space axes of the states.
    """

    axes: int

    def __call__(self, states: Tensor) -> Tensor:
        return states.flatten(states.ndim - self.axes)


@dataclass(frozen=True, eq=False)
class Projection:
    """Weighted sums over the whole frame.

    Args:
        weight: (cell, point), float64.
        axes: Space axes of the states.
        valid: True where states are defined, (*space), or None for everywhere; what stands elsewhere does not get in.
    """

    weight: Tensor
    axes: int
    valid: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        if self.valid is not None:
            zero = torch.zeros((), dtype=states.dtype, device=states.device)
            states = torch.where(self.valid.to(states.device), states, zero)
        return states.flatten(states.ndim - self.axes) @ self.weight.to(states).mT


@dataclass(frozen=True)
class Spectrum:
    """Real and imaginary parts of the Fourier coefficients, one list after the other.

        c_m = mean over points j of u_j exp(-2 pi i sum_d m_d j_d / n_d)

    Args:
        axes: Space axes of the states, all of them periodic.
    """

    axes: int

    def __call__(self, states: Tensor) -> Tensor:
        dims = tuple(range(-self.axes, 0))
        modes = torch.fft.fftn(states, dim=dims, norm="forward")
        return torch.cat([part.flatten(states.ndim - self.axes) for part in (modes.real, modes.imag)], dim=-1)


@dataclass(frozen=True, eq=False)
class Stencils:
    """Weighted sums of k cells each: (*batch, case, time, channel, *space) -> (*batch, case, part).

    Args:
        transform: States to cells.
        index: Numbers of the cells among (time, channel, cell), flattened, (case, part, k).
        weight: (case, part, k), float64; 0 where a list is filled up. Cells without weight must not be those on land, which may hold NaN:
            repeat a cell that has weight.
    """

    transform: Transform
    index: Tensor
    weight: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        cells = self.transform(states).flatten(-3)
        shape = self.index.shape[1:]
        index = self.index.to(cells.device).flatten(1)
        picked = cells.gather(-1, index.expand(*cells.shape[:-1], index.shape[-1])).unflatten(-1, shape)
        return (self.weight.to(picked) * picked).sum(dim=-1)

    def select(self, index: Tensor) -> Stencils:
        return Stencils(self.transform, self.index[index], self.weight[index])


@dataclass(frozen=True, eq=False)
class Composed:
    """A pointwise function of several parts, f(L_1 x, L_2 x, ...).

    Args:
        function: Differentiable and pointwise, of tensors of one shape.
        arguments: Number of each argument among the parts, (case, value, argument).
        mask: False where a list is filled up, (case, value).
    """

    function: Callable[..., Tensor]
    arguments: Tensor
    mask: Tensor

    def __call__(self, parts: Tensor) -> Tensor:
        mask = self.mask.to(parts.device)
        innocent = torch.full((), INNOCENT, dtype=parts.dtype, device=parts.device)
        given = []
        for index in self.arguments.to(parts.device).unbind(-1):
            picked = parts.gather(-1, index.expand(*parts.shape[:-1], index.shape[-1]))
            given.append(torch.where(mask, picked, innocent))
        return self.function(*given)

    def select(self, index: Tensor) -> Composed:
        return Composed(self.function, self.arguments[index], self.mask[index])


@dataclass(frozen=True, eq=False)
class TableEntries:
    """Entries in the order of a measurement; an `EntryOperator`.

    Args:
        stencils: Linear maps; their parts stand one after the other.
        composed: Functions of parts; their values follow the parts.
        place: Number of each entry among all these, (case, entry).
        mask: False where a list is filled up, (case, entry).
    """

    stencils: tuple[Stencils, ...]
    composed: tuple[Composed, ...]
    place: Tensor
    mask: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        parts = torch.cat([stencil(states) for stencil in self.stencils], dim=-1)
        known = torch.cat([parts, *(function(parts) for function in self.composed)], dim=-1)
        place, mask = self.place.to(known.device), self.mask.to(known.device)
        picked = known.gather(-1, place.expand(*known.shape[:-1], place.shape[-1]))
        return torch.where(mask, picked, torch.zeros((), dtype=picked.dtype, device=picked.device))

    def select(self, index: Tensor) -> TableEntries:
        return TableEntries(
            tuple(stencil.select(index) for stencil in self.stencils),
            tuple(function.select(index) for function in self.composed),
            self.place[index],
            self.mask[index],
        )


def numbered(case: np.ndarray) -> np.ndarray:
    """Number of each row within its case, for rows sorted by case, (row,)."""
    _, first, inverse = np.unique(case, return_index=True, return_inverse=True)
    return np.arange(len(case)) - first[inverse]


def laid_out(case: np.ndarray, values: np.ndarray, num_cases: int, fill: float) -> np.ndarray:
    """Rows sorted by case as an array (case, entry, ...), filled up at the end of each case."""
    if num_cases == 1:
        return values[None]
    number = numbered(case)
    width = int(number.max()) + 1 if len(number) else 0
    table = np.full((num_cases, width, *values.shape[1:]), fill, dtype=values.dtype)
    table[case, number] = values
    return table
