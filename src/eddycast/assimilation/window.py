"""The denoiser of one window, or of a series longer than the model's window, taken out of a diffusion emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.emulators.protocols import WindowModel
from eddycast.errors import InputError
from eddycast.noise import MemberNoise


@dataclass(frozen=True, eq=False)
class OpenWindow:
    """What a sampler needs of one window.

    Args:
        denoiser: Of the variable that is diffused, (batch, time, channel, *space).
        schedule: Its noise schedule.
        to_state: From that variable to model space.
    """

    denoiser: Denoiser
    schedule: Schedule
    to_state: Callable[[Tensor], Tensor]


class _Opened(Exception):  # noqa: N818, it is no error
    """Brings the parts of a window out of `advance`, which hands them to its guide and to nobody else."""

    def __init__(self, window: OpenWindow) -> None:
        self.window = window


def open_window(
    model: WindowModel,
    known: Tensor,
    known_mask: Tensor,
    conditions: Conditions,
    lead_times: Tensor,
    noise: MemberNoise,
) -> OpenWindow:
    """The denoiser of p(window | known frames), with the arguments of `WindowModel.advance`.

    Known frames have departure 0: the denoiser says so, whatever it is asked.

    Raises: InputError when the model is no denoiser.
    """

    def take(denoiser: Denoiser, schedule: Schedule, to_state: Callable[[Tensor], Tensor]) -> NoReturn:
        raise _Opened(OpenWindow(denoiser, schedule, to_state))

    unknown = ~known_mask.to(known.device)[(...,) + (None,) * (known.ndim - 2)]
    try:
        model.advance(known, known_mask, conditions, lead_times, noise=noise, guide=take)
    except _Opened as opened:
        window = opened.window
    except ValueError as error:
        raise InputError(f"This method guides a denoiser, which {type(model).__name__} is not: {error}") from error
    else:
        raise InputError(f"This method guides a denoiser, which {type(model).__name__} is not: use 'etkf'.")
    inner = window.denoiser

    def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
        return torch.where(unknown, inner(x_t, time), torch.zeros((), dtype=x_t.dtype, device=x_t.device))

    return OpenWindow(denoiser, window.schedule, window.to_state)


def window_starts(num_times: int, window: int, stride: int) -> list[int]:
    """First frames of windows that cover a series, `stride` apart; the last one ends with the series."""
    starts = list(range(0, num_times - window, stride))
    return [*starts, num_times - window]


def open_series(
    model: WindowModel, like: Tensor, conditions: Conditions, noise: MemberNoise, *, stride: int
) -> OpenWindow:
    """A denoiser of p(series) for a series at least as long as the model's window, with nothing known.

    Overlapping windows are denoised at once, and each frame is taken from the window in whose middle it is. That is an
    approximation: at high noise a frame depends on more than its window, so a window should be longer than the memory
        of the
    system between observations (else the members regress to the climatology); corrections help a little.
    Source: arXiv:2306.10574, algorithm 2, generalised to strides.

    Args:
        model: A denoiser of `model.window` frames.
        like: Tensor of the series' shape, (batch, time, channel, *space), in model space.
        conditions: Batch (batch,), origin at the first frame.
        noise: Addresses (batch,).
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
    window = open_window(model, known, mask, here, leads, noise.select(several))

    def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
        each: Any = time if time.ndim == 0 else time.repeat_interleave(len(starts))
        return fold(window.denoiser(unfold(x_t), each))

    return OpenWindow(denoiser, window.schedule, lambda w: fold(window.to_state(unfold(w))))
