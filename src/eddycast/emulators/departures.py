"""Departures of the states of a window from those of it that are known."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.emulators.increments import increment_scale

LARGEST_SCALE = 1.5
"""Independent states of variance one differ by sqrt(2): what is measured beyond that is chance."""


def departure_scales(x: Tensor, frames: int) -> Tensor:
    """Scales for `departure` in windows of so many frames, (frames - 1, channel), from training data (batch, time, channel, *space)."""
    return increment_scale(x, frames - 1).clamp_max(LARGEST_SCALE)


def departure(x: Tensor, known: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Base (batch, time, channel, *space) and scale (batch, time, channel, 1, ...) of x = base + scale w.

    The base is the nearest known state, 0 where none is; the scale the rms change over that many steps, 1 where none is known.

    Args:
        x: Window whose known frames are valid.
        known: Which frames are known, (batch, time).
        scales: From `departure_scales`, for lags 1, 2, ..., (lag, channel).
    """
    frames = torch.arange(known.shape[1], device=x.device)
    distance = (frames[:, None] - frames).abs().expand(len(known), -1, -1)
    distance = torch.where(known[:, None, :], distance, known.shape[1])
    nearest = distance.argmin(dim=-1)
    lag = distance.gather(2, nearest[..., None])[..., 0]
    base = x.gather(1, nearest[(...,) + (None,) * (x.ndim - 2)].expand_as(x))
    anything = known.any(dim=1)[(...,) + (None,) * (x.ndim - 1)]
    table = torch.cat([torch.ones_like(scales[:1]), scales])
    scale = table[lag.clamp_max(len(table) - 1)][(...,) + (None,) * (x.ndim - 3)]
    return torch.where(anything, base, 0.0), torch.where(anything, scale, 1.0)


def states_alone(x: Tensor) -> tuple[Tensor, Tensor]:
    """Base 0 and scale 1: of the states themselves."""
    return torch.zeros_like(x), x.new_ones(*x.shape[:3], *(1,) * (x.ndim - 3))
