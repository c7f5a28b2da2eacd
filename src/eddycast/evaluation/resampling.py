"""How intervals over cases are drawn: the same resampled blocks for every quantity, so that none depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.metrics import Interval, block_bootstrap


@dataclass(frozen=True, eq=False)
class Resampling:
    """A block bootstrap over cases.

    Args:
        blocks: Block of each case, (case,), from `metrics.case_blocks`.
        resamples: How often.
        level: Probability of the central interval.
        seed: Of the draws, which begin anew for each quantity.
    """

    blocks: Tensor
    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    @property
    def num_blocks(self) -> int:
        return int(self.blocks.max()) + 1

    def interval(
        self,
        values: Tensor | Sequence[Tensor],
        statistic: Callable[..., Tensor] | None = None,
        *,
        available: Tensor | None = None,
    ) -> Interval:
        """Interval of a function of means over cases, as `metrics.block_bootstrap`.

        Args:
            values: One or more (case, *rest); or (case * k, *rest), cases outermost, to average over k entries of each too.
            statistic: Of the means; None for the mean itself.
            available: Where there are values, of the shape of each.
        """
        first = values if isinstance(values, Tensor) else values[0]
        return block_bootstrap(
            values,
            self.blocks.repeat_interleave(len(first) // len(self.blocks)),
            statistic,
            available=available,
            resamples=self.resamples,
            level=self.level,
            generator=torch.Generator().manual_seed(self.seed),
        )
