"""The denoiser of a series longer than the window of its model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.emulators import Diffusing, OpenWindow, WindowModel
from eddycast.errors import InputError


def require_denoiser(model: WindowModel) -> Diffusing:
    """The model, if it is a denoiser. Raises: InputError when it is not."""
    if not isinstance(model, Diffusing):
        raise InputError(f"This method guides a denoiser, which {type(model).__name__} is not: use 'etkf'.")
    return model


def window_starts(num_times: int, window: int, stride: int) -> list[int]:
    """First frames of windows that cover a series, `stride` apart; the last one ends with the series."""
    starts = list(range(0, num_times - window, stride))
    return [*starts, num_times - window]


def open_series(model: WindowModel, like: Tensor, conditions: Conditions, *, stride: int) -> OpenWindow:
    """A denoiser of p(series) for a series at least as long as the model's window, with nothing known.

    Overlapping windows are denoised at once, and each frame is taken from the window in whose middle it is. That is an
    approximation: at high noise a frame depends on more than its window, so a window should be longer than the memory of the
    system between observations (else the members regress to the climatology); corrections help a little.
    Source: arXiv:2306.10574, algorithm 2, generalised to strides.

    Args:
        model: A denoiser of `model.window` frames.
        like: Tensor of the series' shape, (batch, time, channel, *space), in model space.
        conditions: Batch (batch,), origin at the first frame.
        stride: Distance of windows, at most the window; 1 is most accurate.
    """
    batch, num_times = like.shape[:2]
    size = model.window
    starts = torch.tensor(window_starts(num_times, size, stride))
    frames = torch.arange(num_times)
    chosen = (frames[:, None] - starts - (size - 1) / 2).abs().argmin(dim=1)
    place = frames - starts[chosen]
    gather = (starts[:, None] + torch.arange(size)).flatten().to(like.device)

    def unfold(x: Tensor) -> Tensor:
        return x[:, gather].unflatten(1, (len(starts), size)).flatten(0, 1)

    def fold(x: Tensor) -> Tensor:
        return x.unflatten(0, (batch, len(starts)))[:, chosen.to(x.device), place.to(x.device)]

    several = torch.arange(batch).repeat_interleave(len(starts))
    here = conditions.select(several.to(conditions.time.device))
    here = here.shifted(starts.repeat(batch).to(here.time))
    known = torch.zeros_like(unfold(like))
    mask = torch.zeros(size, dtype=torch.bool)
    leads = torch.arange(size, dtype=torch.float64)
    window = require_denoiser(model).open(known, mask, here, leads)

    def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
        each: Any = time if time.ndim == 0 else time.repeat_interleave(len(starts))
        return fold(window.denoiser(unfold(x_t), each))

    return OpenWindow(denoiser, window.schedule, lambda w: fold(window.to_x(unfold(w))))
