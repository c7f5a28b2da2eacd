"""How far states move in a given time: the natural scale of what a network has to add to the state it knows."""

from __future__ import annotations

import torch
from torch import Tensor


def increment_scale(x: Tensor, max_lag: int) -> Tensor:
    """Root-mean-square of x(t + lag) - x(t) for lag = 1 ... max_lag, per channel.

    Args:
        x: Windows of training data in model space, (batch, time, channel, *space) with time > max_lag.

    Returns: (max_lag, channel); never below 1e-4, so that a channel that stands still can be divided by it.
    """
    scales = []
    for lag in range(1, max_lag + 1):
        square = (x[:, lag:] - x[:, :-lag]).square()
        scales.append(square.mean(dim=[d for d in range(square.ndim) if d != 2]).sqrt())
    return torch.stack(scales).clamp_min(1e-4)


def scale_at(scales: Tensor, lead: Tensor) -> Tensor:
    """Interpolate scales (max_lag, channel) linearly in lead times (time,) > 0, zero lag having scale 0: (time, channel)."""
    table = torch.cat([torch.zeros_like(scales[:1]), scales])
    lead = lead.to(scales.dtype).clamp(0, len(scales))
    below = lead.floor().long().clamp_max(len(scales) - 1)
    weight = (lead - below)[:, None]
    return (table[below] * (1 - weight) + table[below + 1] * weight).clamp_min(1e-4)
