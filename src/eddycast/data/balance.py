"""Show windows that begin in a rare state more often.

A statistic s of the first state of each window is put into bins of equal width between its extremes; a window of bin b, which holds n_b of
them, comes

    r_b = min(most, (max n / n_b)^power)    times, rounded,

in each pass over the data. Windows are chosen by what is known at their start and never by what comes after: the law of the next state
given the known ones, which emulators learn, stays what it is, and a proper score stays proper. Windows chosen by their outcome (those
in which something rare happens) would teach that it happens more often than it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Statistic = Callable[[Tensor], Tensor]
"""States (state, channel, *space), NaN where the fields are not defined -> one number for each, (state,)."""


@dataclass(frozen=True)
class Rarity:
    """How often windows come, by the rarity of their first state.

    Args:
        statistic: What is looked at.
        bins: Number of bins between the extremes of one data set.
        power: 1 shows all bins alike, 0 all windows alike.
        most: Greatest number of times that a window comes in one pass.

    Raises: ValueError for fewer than two bins, a power outside (0, 1], or `most` below 2.
    """

    statistic: Statistic
    bins: int = 8
    power: float = 0.5
    most: int = 10

    def __post_init__(self) -> None:
        if self.bins < 2 or not 0 < self.power <= 1 or self.most < 2:
            raise ValueError(
                f"bins and most must be at least 2 and power in (0, 1], got {self.bins}, {self.most} and {self.power}."
            )

    def repeats(self, values: np.ndarray) -> np.ndarray:
        """How often each window comes, (window,), from the statistic of its first state; at least once.

        Raises: ValueError where a value is not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError("The statistic of some first states is not finite.")
        low, high = float(values.min()), float(values.max())
        if low == high:
            return np.ones(len(values), dtype=np.int64)
        place = np.minimum((self.bins * (values - low) / (high - low)).astype(np.int64), self.bins - 1)
        counts = np.bincount(place, minlength=self.bins)
        wanted = (counts.max() / counts[place]) ** self.power
        return np.clip(np.rint(wanted), 1, self.most).astype(np.int64)
