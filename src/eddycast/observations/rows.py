"""Rows of a table of observations, and what keeps a row from being used."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

USED = 0
REASONS = (
    "",
    "no value",
    "no error",
    "quality flag",
    "no time",
    "no position",
    "outside the grid",
    "touches points where nothing is defined",
    "outside the frames",
    "no frame within the tolerance",
    "withheld",
    "not withheld",
)
"""Why a row is not used, by its number; the first stands for rows that are."""

REASON = {text: number for number, text in enumerate(REASONS)}
PARTS = ("", "real", "imag")
"""Of a spectral coefficient; the first is for rows that are none."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of a table, arrays of one length.

    Args:
        case: Number of the case.
        time: Steps since its first frame, float64.
        lower, upper: Where the row begins and ends along each axis, (row, axis), float64; the same for a point.
        wave: Mode numbers along each axis of a spectral coefficient, (row, axis), integers; 0 for all other rows.
        part: Which part of a coefficient, a number of `PARTS`.
        variable: Number of the variable.
        value, std: float64; NaN where there is none.
        platform: Number of the platform, -1 for none.
        tolerance: Steps that a row may lie from a frame, NaN where that is not said.
        reason: A number of `REASONS`.
        placed: Whether the operator of the row is known, whatever else keeps it from being used.
        number: Place of the row in the table of the user.
    """

    case: np.ndarray
    time: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    wave: np.ndarray
    part: np.ndarray
    variable: np.ndarray
    value: np.ndarray
    std: np.ndarray
    platform: np.ndarray
    tolerance: np.ndarray
    reason: np.ndarray
    placed: np.ndarray
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.case)

    def take(self, index: np.ndarray) -> Rows:
        """The rows with the given numbers."""
        return Rows(**{column.name: getattr(self, column.name)[index] for column in fields(self)})

    def rejected(self, where: np.ndarray, reason: str, *, placed: bool = True) -> Rows:
        """The same with a reason for rows that have none yet; with `placed` False their operator is not known either."""
        return replace(
            self,
            reason=np.where(where & (self.reason == USED), REASON[reason], self.reason).astype(np.uint8),
            placed=self.placed if placed else self.placed & ~where,
        )

    def in_order(self) -> Rows:
        """Sorted by case and time, then by all else that a row says: the order in which rows came leaves no trace."""
        keys = [self.case, self.time, self.variable, *self.lower.T, *self.upper.T, *self.wave.T, self.part]
        order = refined([*keys, self.value, self.std, self.platform], len(self))
        return self.take(order)


def refined(keys: list[np.ndarray], size: int) -> np.ndarray:
    """The order of `numpy.lexsort` with the first key as the most important one; each further key sorts only what is still alike.

    A table has many columns, and few of them decide. What is alike in all keys stays in the order in which it came; NaN comes last.
    """
    order, begins = np.arange(size), np.zeros(size, dtype=bool)
    begins[:1] = True
    for key in keys:
        if size == 0 or begins.all():
            break
        alike = np.flatnonzero(~(begins & np.append(begins[1:], True)))
        chosen, run = order[alike], np.cumsum(begins[alike])
        numbers = key[chosen]
        if numbers.dtype.kind == "f":
            numbers = np.where(np.isnan(numbers), np.inf, numbers)
        if (numbers == numbers[0]).all():
            continue
        by = np.lexsort((numbers, run)) if run[-1] > 1 else np.argsort(numbers, kind="stable")
        order[alike], numbers = chosen[by], numbers[by]
        begins[alike[1:]] |= numbers[1:] != numbers[:-1]
    return order
