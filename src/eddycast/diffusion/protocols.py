"""The two interfaces on which samplers and guidance meet."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Schedule(Protocol):
    """Scales of x_t = alpha x + sigma noise; alpha / sigma falls as time goes from 0 to 1."""

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]: ...


class Denoiser(Protocol):
    """Posterior mean E[x | x_t], with the shape of x_t; time has shape () or (*batch)."""

    def __call__(self, x_t: Tensor, time: Tensor) -> Tensor: ...
