"""What a score is to the evaluation: a function of one batch of cases, averaged over cases, then finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eddycast.grid import Grid

Better = Literal["lower", "higher", "target"]


def _identity(mean: Tensor) -> Tensor:
    return mean


@dataclass(frozen=True)
class Score:
    """A score with one number per field and lead time.

    Args:
        name: Column in tables and key in files, words joined by `_`.
        compute: Takes ensemble (member, *batch, *space), truth (*batch, *space) and weights (*space), returns (*batch):
            the contribution of each case, or a tuple of several. Points of weight zero may hold NaN. With `on_grid`
            it takes the `Grid` as a fourth. Scores with the same function share its work.
        finish: Takes the means over cases of what `compute` returned, returns the score: `torch.sqrt` for a root mean
            square, a ratio of two means. It runs on bootstrap resamples too, so it must work element by element.
        description: One line for tables of scores.
        better: `lower`, `higher`, or `target` (closest to `target`).
        target: Value of a reliable ensemble, where that is what counts.
        physical: True where the score has the unit of the field, and may be divided by the climatological deviation.
        min_members: Left out for smaller ensembles.
        min_points: Left out on grids with fewer points of positive weight (2 where it compares patterns in space).
        on_grid: True where neighbours and periodic axes matter, and `compute` needs the grid.
        nonnegative: True where fields are masses: an evaluation leaves it out (NaN) for fields with negative values.
        lost: What a case counts whose contribution is NaN because a member is not finite; None leaves it NaN.
    """

    name: str
    compute: Callable[..., Tensor | tuple[Tensor, ...]]
    description: str
    finish: Callable[..., Tensor] = _identity
    better: Better = "lower"
    target: float | None = None
    physical: bool = False
    min_members: int = 1
    min_points: int = 1
    on_grid: bool = False
    nonnegative: bool = False
    lost: float | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.better == "target"):
            raise ValueError(f"Score {self.name!r}: give `target` with better='target', and only then.")

    def contributions(
        self, ensemble: Tensor, truth: Tensor, weights: Tensor, grid: Grid | None = None
    ) -> tuple[Tensor, ...]:
        """What `compute` returns, as a tuple. Raises: ValueError without the grid, where the score needs it."""
        if self.on_grid and grid is None:
            raise ValueError(f"Score {self.name!r} needs the grid: pass grid=.")
        parts = self.compute(ensemble, truth, weights, *([grid] if self.on_grid else []))
        return (parts,) if isinstance(parts, Tensor) else tuple(parts)

    def __call__(self, ensemble: Tensor, truth: Tensor, weights: Tensor, grid: Grid | None = None) -> Tensor:
        """The finished score with the first batch axis as cases: (member, case, *batch, *space) -> (*batch)."""
        return self.finish(*(part.mean(dim=0) for part in self.contributions(ensemble, truth, weights, grid)))


def root_of_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """sqrt(a / b), for ratios of root mean squares."""
    return torch.sqrt(numerator / denominator)
