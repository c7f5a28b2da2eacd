"""Intervals over cases by resampling blocks of them: forecasts started close together are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    low: Tensor
    high: Tensor


def case_blocks(trajectories: Tensor, frames: Tensor, *, length: int | None = None, enough: int = 8) -> Tensor:
    """Number of the block each case belongs to, (case,): consecutive starts of one trajectory, never of two.

    Args:
        trajectories: Trajectory of each case, (case,) integer.
        frames: First frame of each case, (case,).
        length: Cases per block. None takes whole trajectories where there are at least `enough` of them, and
            otherwise cuts a trajectory with n cases into blocks of about sqrt(n).
        enough: Number of trajectories from which they serve as blocks.

    Raises: ValueError for a length below 1.
    """
    if length is not None and length < 1:
        raise ValueError(f"A block needs at least one case, got length {length}.")
    numbers, blocks = trajectories.unique(), torch.empty_like(trajectories)
    count = 0
    for number in numbers:
        own = (trajectories == number).nonzero().flatten()
        size = length or (len(own) if len(numbers) >= enough else math.ceil(math.sqrt(len(own))))
        order = own[frames[own].argsort(stable=True)]
        blocks[order] = count + torch.arange(len(own)) // size
        count += math.ceil(len(own) / size)
    return blocks


def block_bootstrap(
    values: Tensor | Sequence[Tensor],
    blocks: Tensor,
    statistic: Callable[..., Tensor] | None = None,
    *,
    available: Tensor | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    generator: torch.Generator,
) -> Interval:
    """Percentile interval of a function of means over cases, resampling blocks with replacement.

    Args:
        values: One or more tensors (case, *rest) of the same shape.
        blocks: Block of each case, (case,), from `case_blocks`.
        statistic: Takes the resampled means, each (resample, *rest), returns (resample, *out): a root of mean squares,
            a ratio of two of them, a time read off a mean curve. None takes the mean itself.
        available: (case, *rest), False where a case has no value; None means everywhere.
        resamples: Number of resamples.
        level: Probability of the central interval.
        generator: Source of the resampling, on the CPU.

    Returns: low and high, (*out). NaN with fewer than two blocks: nothing can be said. NaN values stay NaN.
        Percentile intervals of few blocks are too narrow: by a factor of about sqrt((B - 1) / B) for B blocks.
    """
    parts = [values] if isinstance(values, Tensor) else list(values)
    number = int(blocks.max()) + 1
    shown = torch.ones_like(parts[0], dtype=torch.bool) if available is None else available
    sums = [_block_sums(torch.where(shown, part, 0.0), blocks, number) for part in parts]
    sizes = _block_sums(shown, blocks, number)
    statistics = []
    chunk = max(1, 4_000_000 // max(1, sizes[0].numel()))
    drawn = torch.randint(number, (resamples, number), generator=generator)
    for rows in drawn.split(chunk):
        counts = torch.zeros(len(rows), number, dtype=torch.float64)
        counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
        size = torch.tensordot(counts, sizes, dims=1)
        means = [torch.tensordot(counts, total, dims=1) / size for total in sums]
        statistics.append(means[0] if statistic is None else statistic(*means))
    outcome = torch.cat(statistics).to(torch.float64)
    if number < 2:
        return Interval(torch.full_like(outcome[0], torch.nan), torch.full_like(outcome[0], torch.nan))
    ordered = outcome.movedim(0, -1).contiguous().sort(dim=-1).values  # along memory: several times faster
    undefined = outcome.isnan().any(dim=0)
    ends = []
    for probability in ((1 - level) / 2, (1 + level) / 2):
        position = probability * (resamples - 1)
        below, above = ordered[..., math.floor(position)], ordered[..., math.ceil(position)]
        end = torch.where(below == above, below, below + (position % 1) * (above - below))
        ends.append(torch.where(undefined, torch.full_like(end, torch.nan), end))
    return Interval(*ends)


def _block_sums(values: Tensor, blocks: Tensor, number: int) -> Tensor:
    total = torch.zeros(number, *values.shape[1:], dtype=torch.float64)
    return total.index_add(0, blocks, values.to(torch.float64))
