"""The interfaces on which samplers and guidance meet."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Schedule(Protocol):
    """Scales of x_t = alpha x + sigma noise; alpha / sigma falls as time goes from 0 to 1."""

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class InvertibleSchedule(Protocol):
    """A schedule that knows the time of a log SNR, log(alpha^2 / sigma^2); others are inverted by bisection."""

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]: ...

    def time_at(self, log_snr: Tensor) -> Tensor:
        """Time at which the log SNR has this value, same shape; may leave [0, 1] beyond the ends of the schedule."""
        ...


class Denoiser(Protocol):
    """Posterior mean E[x | x_t], with the shape of x_t; time has shape () or (*batch)."""

    def __call__(self, x_t: Tensor, time: Tensor) -> Tensor: ...
