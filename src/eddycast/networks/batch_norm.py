"""Normalisation by the statistics of a batch: in published networks, and the one layer that lets entries of a batch meet.

In training a channel is normalised over all entries and points of one pass, in use by running statistics that training has left in
buffers. So in use each entry is on its own, as in every network here; in training it is not, and

    passes        `training.accumulate` normalises each pass by itself: the gradient is not that of the whole batch in one pass;
    processes     would each have statistics of their own: such a stage is refused where several processes train it;
    averages      the weights that are kept are averaged, so the running statistics are averaged with them (`WeightAverage`);
    recomputation of a block in the backward pass must not count its batch twice (`settled`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError

MOMENTUM, EPS = 0.1, 1e-5


class BatchNorm(nn.Module):
    """weight (x - mean) / sqrt(variance + 1e-5) + bias for each channel of x (batch, channel, *space).

    Mean and variance are those of the batch in training mode, where running ones move towards them by a tenth (the variance without
    bias), and the running ones otherwise. Source: arXiv:1502.03167.

    Attributes:
        counts: Whether passes in training mode move the running statistics.

    Raises: InputError in training for a batch of one entry and one point, which has no variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.counts = True

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise InputError(
                "Batch norm needs more than one number per channel, got a batch of one entry and one point: "
                "raise training.batch_size, or set the norm of the network to channel."
            )
        mean, variance = self.running_mean, self.running_var
        if self.training and not self.counts:
            mean, variance = mean.clone(), variance.clone()  # there, as the first time: recomputation must save as much
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, MOMENTUM, EPS)


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """All batch norms of a module, in the order of its parts."""
    return [part for part in module.modules() if isinstance(part, BatchNorm)]


@contextmanager
def settled(norms: list[BatchNorm]) -> Iterator[None]:
    """Running statistics stay as they are inside: for a pass over a batch that has been counted."""
    before = [norm.counts for norm in norms]
    for norm in norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm, counts in zip(norms, before, strict=True):
            norm.counts = counts


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running means and variances by their names in the state of the module."""
    return {
        f"{name}.{kind}" if name else kind: getattr(part, kind)
        for name, part in module.named_modules()
        if isinstance(part, BatchNorm)
        for kind in ("running_mean", "running_var")
    }
