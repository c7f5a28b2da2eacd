"""The denoiser of a series longer than the window of its model, composed of the denoisers of its windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.emulators.protocols import Diffusing, OpenWindow


def window_starts(num_times: int, window: int, stride: int) -> list[int]:
    """First frames of windows that cover a series, `stride` apart; the last one ends with the series."""
    starts = list(range(0, num_times - window, stride))
    return [*starts, num_times - window]


def compose(model: Diffusing, like: Tensor, conditions: Conditions, *, stride: int = 1) -> OpenWindow:
    """A denoiser of p(series) for a series at least as long as the model's window, with nothing known.

    Overlapping windows are denoised at once, and each frame is taken from the window in whose middle it is: with stride 1 and W = 2k + 1
    frames the first window gives k + 1 frames, each further one its middle, the last one k + 1. What a frame has to do with frames more
    than k away is left out. So the composed score is exact without noise on a Markov chain of order k, and at any noise sigma / alpha far
    below or above the deviation of the states given k neighbours on either side; in between a noisy frame depends on more than its
    window. One step carries what is known k frames further. Corrections of the sampler help with both.
    Source: arXiv:2306.10574, section 3.1 and algorithm 2, generalised to strides; arXiv:2410.16415, section 3.1.

    Args:
        model: A denoiser of `model.frames` frames.
        like: Tensor of the series' shape, (batch, time, channel, *space), in model space.
        conditions: Batch (batch,), origin at the first frame.
        stride: Distance of windows, at most the window; 1 is most accurate.

    Raises: ValueError for a series shorter than the window, or a stride that leaves frames out.
    """
    batch, num_times = like.shape[:2]
    size = model.frames
    if num_times < size:
        raise ValueError(f"A series of {num_times} states is shorter than the window of {size}: fill it up.")
    if not 1 <= stride <= size:
        raise ValueError(f"stride must lie in 1 ... {size}, the window; got {stride}.")
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
    window = model.open(known, mask, here, torch.arange(size, dtype=torch.float64))

    def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
        each: Any = time if time.ndim == 0 else time.repeat_interleave(len(starts))
        return fold(window.denoiser(unfold(x_t), each))

    return OpenWindow(denoiser, window.schedule, lambda w: fold(window.to_x(unfold(w))))
