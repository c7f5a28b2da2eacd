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


def average_weights(x: Tensor, context: int) -> Tensor:
    """Weights a_k, with sum 1, of the average of `context` states that predicts the next one best.

        minimise  mean |x(t + 1) - sum_k a_k x(t - k)|^2   over windows and points, per channel

    Weights that sum to one commute with any shift of the states: the average follows a drifting mean. Slowly
    varying states give the last one most of the weight, noise about a slow mean nearly equal weights.

    Args:
        x: Windows of training data in model space, (batch, time, channel, *space) with time > context.

    Returns: (context, channel), oldest state first, in the dtype of x; solved in float64 with a ridge of 1e-6 towards equal weights.
    """
    windows = x.unfold(1, context + 1, 1).movedim(-1, 2).flatten(0, 1).double()
    if context == 1:
        return torch.ones(1, x.shape[2], dtype=x.dtype, device=x.device)
    mean = windows[:, :-1].mean(dim=1, keepdim=True)
    known = (windows[:, :-1] - mean).transpose(0, 2).flatten(2)
    target = (windows[:, -1:] - mean).transpose(0, 2).flatten(2)
    gram = known @ known.mT
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
    ridge = ridge * torch.eye(context, dtype=gram.dtype, device=gram.device)
    departure = torch.linalg.solve(gram + ridge, known @ target.mT)[..., 0]
    return (departure - departure.mean(1, keepdim=True) + 1 / context).T.to(x.dtype)
